//! The `resolv.conf` of a named network namespace, which `ip netns exec` shows to programs in it (ip-netns(8)). Owns which of
//! these files are this router's, and touches no others.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use mesh_api::{ErrorKind, Failure};

use crate::Error;

/// Where `ip netns exec` looks.
const DIRECTORY: &str = "/etc/netns";

/// Directories that are looked at for files of ours when all are removed. More are left alone.
const DIRECTORIES_MAX: usize = 10_000;

/// The files that this router writes.
#[derive(Debug, Clone)]
pub(crate) struct ResolvConfs {
    /// First line of each, by which it is known again.
    mark: String,
    text: Option<String>,
}

impl ResolvConfs {
    /// Those of the router with this state directory, whose containers reach its name server at `server`.
    pub(crate) fn new(state_dir: &Path, server: Option<SocketAddr>, domain: &str) -> Self {
        let mark = format!("# mesh, of the router in {}", state_dir.display());
        let domain = domain.trim_end_matches('.');
        let text = server.map(|server| format!("{mark}\nnameserver {}\nsearch {domain}\n", server.ip()));
        Self { mark, text }
    }

    /// Refuses what [`Self::write`] would.
    pub(crate) fn check(&self, container: &str) -> Result<(), Failure> {
        let path = path_of(container)?;
        if self.text.is_none() {
            return Err(Failure::new(
                ErrorKind::Refused,
                "there is no name server for containers on this host",
            )
            .with_hint("leave --resolv-conf out, or launch without --no-dns"));
        }
        if fs::symlink_metadata(&path).is_ok() && !self.is_ours(&path) {
            let message = format!("{} is there already, and not this router's", path.display());
            return Err(Failure::new(ErrorKind::InUse, message)
                .with_hint("leave --resolv-conf out, or take the file away"));
        }
        Ok(())
    }

    /// Writes the file of `container`, as it holds its addresses.
    pub(crate) fn write(&self, container: &str) -> Result<(), Failure> {
        self.check(container)?;
        let path = path_of(container)?;
        let Some(text) = &self.text else { return Ok(()) };
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::write(&path, text)).map_err(|source| failed("write", path, source).failure())
    }

    /// Removes the file of `container`, if it is this router's.
    pub(crate) fn remove(&self, container: &str) -> Result<(), Error> {
        let Ok(path) = path_of(container) else { return Ok(()) };
        if !self.is_ours(&path) {
            return Ok(());
        }
        fs::remove_file(&path).map_err(|source| failed("remove", path.clone(), source))?;
        // They stay while anything else is in them.
        for dir in path.ancestors().skip(1).take(2) {
            let _gone_if_empty = fs::remove_dir(dir);
        }
        Ok(())
    }

    /// Removes all files of this router, and returns which.
    pub(crate) fn remove_all(&self) -> Result<Vec<String>, Error> {
        let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten().take(DIRECTORIES_MAX);
        let mut removed = Vec::new();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            let container = format!("netns:{name}");
            let ours = path_of(&container).is_ok_and(|path| self.is_ours(&path));
            if ours {
                self.remove(&container)?;
                removed.push(format!("{DIRECTORY}/{name}/resolv.conf"));
            }
        }
        Ok(removed)
    }

    fn is_ours(&self, path: &Path) -> bool {
        let is_file = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
        is_file && fs::read_to_string(path).is_ok_and(|text| text.lines().next() == Some(&self.mark))
    }
}

/// The file of a container that is a named namespace.
fn path_of(container: &str) -> Result<PathBuf, Failure> {
    match container.strip_prefix("netns:") {
        Some(name) if !name.is_empty() && !name.contains('/') && name != "." && name != ".." => {
            Ok(Path::new(DIRECTORY).join(name).join("resolv.conf"))
        }
        Some(_) | None => {
            let message =
                format!("{container} is no named namespace, and has no resolv.conf of its own here");
            Err(Failure::new(ErrorKind::Invalid, message)
                .with_hint("`ip netns add NAME` makes one; what runs elsewhere is told by its own options, as `mesh dns args` shows"))
        }
    }
}

fn failed(action: &'static str, path: PathBuf, source: io::Error) -> Error {
    Error::File { action, path, source }
}
