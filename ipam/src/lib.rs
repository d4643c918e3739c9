//! Which peer may hand out which address, agreed without a coordinator.
//!
//! Owns the custody of addresses and its merge, the foundation of a network, the allocator, claims, grants and the
//! succession of peers that are gone, as one state machine, [`Ipam`]; and the format in which its state outlives a crash.
//! Owns no interface, socket, clock or file: what must be on disk leaves as an output that the shell acknowledges, and
//! nothing is said before. `FORMAT.md` beside this crate gives the bytes.
//!
//! **Invariant:** no address ever has two holders, in any merge of reachable states; the argument stands in [`custody`].
#![forbid(unsafe_code)]

pub mod addr;
pub mod answers;
pub mod book;
pub mod checksum;
mod cooling;
pub mod custody;
pub mod epoch;
pub mod founding;
pub mod interface;
mod ipam;
pub mod limits;
pub mod log;
pub mod map;
pub mod message;
pub mod mutant;
pub mod range;
pub mod state;
mod status;
pub mod view;

pub use book::{Ident, IdentError};
pub use founding::Founding;
pub use interface::{Answer, Config, Event, Input, Output, Reachable, Refusal, Request, Ticket, Waiting};
pub use ipam::Ipam;
pub use log::{Corrupt, recover};
pub use state::{Fence, State, Violation};
pub use status::{ConflictStatus, Owned, PendingStatus, Readiness, Status};

#[cfg(test)]
mod tests;
