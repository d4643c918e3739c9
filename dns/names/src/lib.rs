//! Who bears which name, and what the answer to a question about it is.
//!
//! Will own each peer's set of (name, address, container), the merge of those sets, and the answer to a query as data:
//! addresses, pointers, services, or the right kind of nothing. Will own no socket and no cache of other servers' names.
//!
//! Empty in this version: containers are reached by address.
#![forbid(unsafe_code)]
