//! What the kernel must be able to do.

use std::fs::OpenOptions;

use crate::doctor::files::Files;
use crate::doctor::{Facts, Finding, Outcome};

/// Since when the kernel cuts and merges UDP datagrams for a router: `UDP_SEGMENT` came with 4.18, `UDP_GRO` with 5.0.
const OFFLOAD_SINCE: (u32, u32) = (5, 0);

/// A kernel module, what becomes of a router without it, and for what it is.
const MODULES: [(&str, Outcome, &str); 6] = [
    ("bridge", Outcome::Fail, "no bridge joins the containers of this host"),
    ("veth", Outcome::Fail, "no container can be attached"),
    ("vxlan", Outcome::Warn, "frames go through user space, which is slower"),
    (
        "wireguard",
        Outcome::Warn,
        "ESP seals in its place, or encrypted frames go through user space, which is slower",
    ),
    (
        "xfrm_interface",
        Outcome::Warn,
        "without WireGuard, encrypted frames go through user space, which is slower",
    ),
    (
        "nf_tables",
        Outcome::Warn,
        "nothing keeps containers from each other's addresses, and none can be exposed",
    ),
];

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![privilege(), version(&facts.files), tun()];
    findings.extend(MODULES.map(|(name, without, lost)| module(&facts.files, name, without, lost)));
    findings
}

fn privilege() -> Finding {
    if rustix::process::geteuid().is_root() {
        Finding::ok("privilege", "this is root")
    } else {
        Finding::fail("privilege", "a router needs root, and some of these checks too", "use sudo")
    }
}

fn version(files: &Files) -> Finding {
    let Some(release) = files.read("proc/sys/kernel/osrelease") else {
        return Finding::warn("kernel", "its version cannot be read", "mount /proc");
    };
    match numbers(&release) {
        Some(version) if version >= OFFLOAD_SINCE => {
            Finding::ok("kernel", format!("Linux {release} cuts and merges UDP datagrams"))
        }
        Some(_) | None => Finding::warn(
            "kernel",
            format!("Linux {release} may not cut and merge UDP datagrams, so that sleeve is slow"),
            format!("use Linux {}.{} or newer", OFFLOAD_SINCE.0, OFFLOAD_SINCE.1),
        ),
    }
}

/// Major and minor version of a release as `6.1.0-13-amd64`.
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Opening it makes no device: an ioctl would.
fn tun() -> Finding {
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Finding::ok("tun", "/dev/net/tun can be opened"),
        Err(error) => Finding::fail(
            "tun",
            format!("/dev/net/tun: {error}"),
            "modprobe tun; in a container give it the device /dev/net/tun",
        ),
    }
}

fn module(files: &Files, name: &'static str, without: Outcome, lost: &str) -> Finding {
    let release = files.read("proc/sys/kernel/osrelease").unwrap_or_default();
    let file = format!("/{name}.ko");
    let lists =
        ["modules.builtin", "modules.dep"].map(|list| files.read(format!("lib/modules/{release}/{list}")));
    let listed = lists.iter().flatten().any(|list| list.contains(&file));
    if listed || files.exists(format!("sys/module/{name}")) {
        return Finding::ok(name, "the kernel has it");
    }
    if lists.iter().all(Option::is_none) {
        // Without a list there is nothing to say; a kernel that has it built in may not show it before it is used.
        return Finding::ok(name, "not in use yet, and no list tells whether the kernel has it");
    }
    let finding = Finding::fail(
        name,
        format!("the kernel lacks it: {lost}"),
        format!("install the module {name} for Linux {release}"),
    );
    Finding { result: without, ..finding }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert_eq!(numbers("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(numbers("5.10"), Some((5, 10)));
        assert_eq!(numbers("unknown"), None);
        assert!(numbers("4.18.0") < Some(OFFLOAD_SINCE) && numbers("5.0.0") >= Some(OFFLOAD_SINCE));
    }

    #[test]
    fn a_module_is_missing_only_when_a_list_has_it_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        let lists = dir.path().join("lib/modules/6.1.0");
        for directory in ["proc/sys/kernel", "sys/module/veth", "lib/modules/6.1.0"] {
            fs::create_dir_all(dir.path().join(directory)).unwrap();
        }
        fs::write(dir.path().join("proc/sys/kernel/osrelease"), "6.1.0\n").unwrap();
        let result = |name| module(&files, name, Outcome::Warn, "lost").result;
        assert_eq!(result("vxlan"), Outcome::Ok);
        fs::write(lists.join("modules.builtin"), "kernel/net/bridge/bridge.ko\n").unwrap();
        assert_eq!(["bridge", "veth", "vxlan"].map(result), [Outcome::Ok, Outcome::Ok, Outcome::Warn]);
        fs::write(
            lists.join("modules.dep"),
            "kernel/drivers/net/vxlan/vxlan.ko.xz: kernel/net/ipv4/udp_tunnel.ko\n",
        )
        .unwrap();
        assert_eq!(result("vxlan"), Outcome::Ok);
    }
}
