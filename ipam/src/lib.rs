//! Which peer may hand out which address, agreed without a coordinator.
//!
//! Will own the ring of ownership records and its merge, the agreement that founds it, the allocator, claims, and the
//! donation and reclamation of space. Will own no interface and no file: addresses are plugged in by the daemon, and
//! what must outlive a crash leaves this crate as an output that the daemon acknowledges once it is on disk.
//!
//! Empty in this version: `mesh attach` takes an explicit `A.B.C.D/LEN`, and nothing checks that it is given once.
#![forbid(unsafe_code)]
