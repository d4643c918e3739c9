//! Who bears which name, and what the answer to a question about it is.
//!
//! Owns each peer's set of (name, address, container), the merge of those sets, and the answer to a query as data:
//! addresses, pointers, services, or the right kind of nothing. Owns no socket, no DNS message and no cache of other
//! servers' names: `mesh-dns` has those. Signs nothing either: the node proves who wrote a chunk before it is merged.
//!
//! **Sets.** Each peer writes its own set and no other, so merging is a maximum and needs neither tombstones nor a wall
//! clock. A set travels in *chunks* of at most [`CHUNK_LEN_MAX`] bytes. Which chunk an entry is in follows from its
//! name alone, so a change sends one chunk anew, and the entries of one name are never torn apart. When a set outgrows
//! its chunks, or the origin starts a new life, all chunks are written anew as a new *layout*: others show the old
//! layout until the new one is complete.
//!
//! **Visibility.** Names of peers that cannot be reached are hidden, and return with their peer. Their sets are kept no longer
//! than the records that prove them: a peer that comes back with fewer names has no record of those that are gone.
//!
//! **Snapshots.** [`Names::snapshot`] gives an immutable [`Snapshot`], cheap to make (tables are shared until they
//! change), which answers questions without the [`Names`] it came from.
#![forbid(unsafe_code)]

mod answer;
mod chunk;
mod entry;
mod index;
mod name;
mod names;
mod origin;
mod own;
mod zone;

pub use answer::{ANSWERS_MAX, Answer, Code, Data, Kind, Reply, Snapshot, Soa};
pub use chunk::{CHUNK_LEN_MAX, Chunk, ChunkError, ChunkKey, DEPTH_MAX, DigestRow, Number};
pub use entry::{CONTAINER_LEN_MAX, ContainerId, ContainerIdError, Entry, EntryError};
/// The generator that shuffles answers, so that a server which names only this crate can bring one.
pub use mesh_crypto::Rng;
pub use name::{LABEL_LEN_MAX, NAME_LEN_MAX, Name, NameError};
pub use names::{CHUNKS_MAX, Comparison, ENTRIES_MAX, MergeError, Merged, Names, ORIGINS_MAX, Owned};
pub use own::{AddError, ORIGIN_ENTRIES_MAX, Selection};
pub use zone::{Order, Zone};
