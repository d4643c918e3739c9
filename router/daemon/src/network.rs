//! Which network this router belongs to, across its lives: one line of a file.

use std::io;
use std::path::{Path, PathBuf};

use mesh_wire::{IdError, NetworkId};

use crate::{Error, store};

/// Longest file that is read, in bytes: the digits of an id, with a newline.
const FILE_LEN_MAX: u64 = 64;

/// The network in the file at `path`; `None` when there is no file.
///
/// # Errors
/// [`Error::NetworkDamaged`] for anything but an id; the file is left as it is.
pub(crate) fn load(path: &Path) -> Result<Option<NetworkId>, Error> {
    let damaged = || Error::NetworkDamaged { path: path.to_owned() };
    match store::read_text(path, FILE_LEN_MAX) {
        Ok(text) => text.trim_end().parse().map(Some).map_err(|_no_id: IdError| damaged()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(damaged()),
        Err(source) => Err(Error::File { action: "read", path: path.to_owned(), source }),
    }
}

/// Writes the network to the file at `path`, durably, off the shell's thread. What goes wrong is logged: the router goes
/// on, and its next life learns the network from its peers.
pub(crate) fn remember(path: PathBuf, network: NetworkId) {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = store::replace(&path, format!("{network:x}\n").as_bytes()) {
            tracing::error!(%error, "the network's id is not remembered");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_network_is_remembered() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("network");
        assert!(matches!(load(&path), Ok(None)));
        let network = NetworkId::from_bytes([7; 16]);
        remember(path.clone(), network);
        for _ in 0..1000 {
            if matches!(load(&path), Ok(Some(_))) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(load(&path).expect("readable"), Some(network));
    }

    #[test]
    fn a_damaged_file_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("network");
        for damaged in [&b""[..], b"abc\n", b"\xff", &[b'0'; 100]] {
            std::fs::write(&path, damaged).expect("writable");
            assert!(matches!(load(&path), Err(Error::NetworkDamaged { .. })), "{}", damaged.escape_ascii());
            assert_eq!(std::fs::read(&path).expect("the file"), damaged);
        }
    }
}
