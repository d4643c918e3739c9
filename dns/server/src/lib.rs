//! The name server of a host: it speaks DNS to containers, and to upstream servers for names that are not ours.
//!
//! Will own listeners on the bridge, the limits against floods and amplification, and the forwarding of other names.
//! Will own no name: those are in `mesh-names`, which answers, and this crate carries questions and answers.
//!
//! Empty in this version: nothing listens on port 53.
#![forbid(unsafe_code)]
