//! The file that names a host's upstream servers: read when it changes. Owns no decision about which of them are used.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::limits::RESOLV_CONF_LEN_MAX;

/// The port of a name server.
const PORT: u16 = 53;

/// Where systemd-resolved has its stubs (systemd-resolved.service(8)).
const STUBS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

/// The two files, and what they looked like when they were read last.
#[derive(Debug)]
pub(crate) struct ResolvConf {
    path: PathBuf,
    behind_stub: PathBuf,
    seen: Option<(Mark, Mark)>,
}

/// What changes when a file is written or replaced: file system, inode, length and time of writing. None: it is not
/// there.
type Mark = Option<(u64, u64, u64, i64, i64)>;

impl ResolvConf {
    pub(crate) const fn new(path: PathBuf, behind_stub: PathBuf) -> Self {
        Self { path, behind_stub, seen: None }
    }

    /// The servers, if the files are others than when they were read last. An error is told once for each state of
    /// the files, and what was read before holds.
    pub(crate) fn changed(&mut self) -> Option<io::Result<Vec<SocketAddr>>> {
        let now = (mark(&self.path), mark(&self.behind_stub));
        if self.seen == Some(now) {
            return None;
        }
        self.seen = Some(now);
        Some(self.read())
    }

    fn read(&self) -> io::Result<Vec<SocketAddr>> {
        let servers = parse(&text(&self.path)?);
        if servers.is_empty() || !servers.iter().all(|server| STUBS.contains(&server.ip())) {
            return Ok(servers);
        }
        Ok(text(&self.behind_stub).map_or(servers, |text| parse(&text)))
    }
}

fn mark(path: &Path) -> Mark {
    let of = |meta: Metadata| (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
    fs::metadata(path).ok().map(of)
}

fn text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(RESOLV_CONF_LEN_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The addresses of `nameserver` lines (resolv.conf(5)). Lines that name none are passed over, as by the C library.
fn parse(text: &str) -> Vec<SocketAddr> {
    let words = text.lines().map(|line| line.split_whitespace());
    let addresses = words.filter_map(|mut words| (words.next()? == "nameserver").then(|| words.next())?);
    addresses.filter_map(server).collect()
}

/// An address, with the number of its interface perhaps; names of interfaces are not resolved.
fn server(text: &str) -> Option<SocketAddr> {
    if let Some((address, scope)) = text.split_once('%') {
        return Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope.parse().ok()?).into());
    }
    Some(SocketAddr::new(text.parse().ok()?, PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(servers: &[SocketAddr]) -> Vec<String> {
        servers.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn nameserver_lines_are_read_and_others_are_not() {
        let text = "# nameserver 192.0.2.9\nsearch example.com\n  nameserver\t192.0.2.1 # first\nnameserver 2001:db8::1\n\
                    nameserver fe80::1%2\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver\nnameservers 192.0.2.8\n";
        assert_eq!(shown(&parse(text)), ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%2]:53"]);
    }

    #[test]
    fn a_file_is_read_again_only_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let mut conf = ResolvConf::new(path.clone(), folder.path().join("none"));
        assert!(conf.changed().unwrap().is_err() && conf.changed().is_none(), "its absence is told once");
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(shown(&conf.changed().unwrap().unwrap()), ["192.0.2.1:53"]);
        assert!(conf.changed().is_none());
        // As tools do that never leave a half-written file: another inode takes the name.
        let next = folder.path().join("next");
        fs::write(&next, "nameserver 192.0.2.2\n").unwrap();
        fs::rename(&next, &path).unwrap();
        assert_eq!(shown(&conf.changed().unwrap().unwrap()), ["192.0.2.2:53"]);
    }

    #[test]
    fn a_stub_is_looked_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (path, behind) = (folder.path().join("resolv.conf"), folder.path().join("real"));
        fs::write(&path, "nameserver 127.0.0.53\n").unwrap();
        let mut conf = ResolvConf::new(path.clone(), behind.clone());
        assert_eq!(shown(&conf.changed().unwrap().unwrap()), ["127.0.0.53:53"]);
        fs::write(&behind, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(shown(&conf.changed().unwrap().unwrap()), ["192.0.2.1:53"]);
        fs::write(&path, "nameserver 127.0.0.53\nnameserver 192.0.2.7\n").unwrap();
        assert_eq!(shown(&conf.changed().unwrap().unwrap()), ["127.0.0.53:53", "192.0.2.7:53"]);
    }
}
