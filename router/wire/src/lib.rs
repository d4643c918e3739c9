//! Bytes ⇄ types, and nothing else: what crosses the network between routers, and the names both ends use for it.
//!
//! Owns identifiers, control messages, the sleeve packet, read-only views of Ethernet, and every size limit of the
//! protocol. Owns no key, no state and no policy. `PROTOCOL.md` beside this crate gives the layouts byte by byte; if
//! it and this crate differ, `PROTOCOL.md` is right.
//!
//! **Guarantees.** No decoder panics. Each checks a length before it allocates by it, rejects trailing bytes, and
//! names an unknown tag in its error. Decoding what was encoded gives the same value.
#![forbid(unsafe_code)]

pub mod control;
pub mod ethernet;
pub mod id;
pub mod mac;
pub mod moment;
pub mod sleeve;
pub mod vxlan;

pub use id::{BootCount, IdError, NetworkId, Nickname, NicknameError, PeerId, ReceiverIndex};
pub use mac::{MacAddr, MacAddrError};
pub use moment::Moment;
