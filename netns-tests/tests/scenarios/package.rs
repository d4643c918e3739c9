//! The Debian package, and what a service manager sees of a router: privileges, readiness, signs of life.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, eventually, secs};

use crate::support::{READY, launch, mesh_binary, status};

/// What is kept of root's rights, as /proc shows it: CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_PTRACE, CAP_SYS_ADMIN.
const CAPABILITIES: u64 = 1 << 10 | 1 << 12 | 1 << 13 | 1 << 19 | 1 << 21;

/// A root file system with dpkg's database and as much as maintainer scripts need.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Result<Self> {
        let root = tempfile::tempdir()?;
        for directory in [
            "var/lib/dpkg/info",
            "var/lib/dpkg/updates",
            "bin",
            "lib",
            "lib64",
            "usr/bin",
            "usr/lib",
            "run",
            "etc",
            "tmp",
        ] {
            fs::create_dir_all(root.path().join(directory))?;
        }
        for file in ["var/lib/dpkg/status", "var/lib/dpkg/available"] {
            fs::write(root.path().join(file), "")?;
        }
        fs::copy("/bin/busybox", root.path().join("bin/busybox"))?;
        for name in ["sh", "rm", "sed"] {
            std::os::unix::fs::symlink("busybox", root.path().join("bin").join(name))?;
        }
        Ok(Self(root))
    }

    fn dpkg(&self, arguments: &[&str]) -> Result<Output> {
        let root = self.0.path();
        let mut command = Command::new("dpkg");
        command
            .arg(format!("--root={}", root.display()))
            .arg(format!("--log={}", root.join("tmp/log").display()));
        // What is not in this root, as the C library, is of no matter to the scripts.
        let output = command.args(["--force-depends", "--force-confold"]).args(arguments).output()?;
        ensure!(output.status.success(), "dpkg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// All files but dpkg's own and those that were there before, sorted.
    fn files(&self) -> Result<Vec<String>> {
        let found = Command::new("find")
            .arg(self.0.path())
            .args(["-mindepth", "1", "-not", "-type", "d", "-printf", "%P\n"])
            .output()?;
        let text = String::from_utf8(found.stdout)?;
        let own =
            |path: &&str| !["var/lib/dpkg/", "bin/", "tmp/"].iter().any(|start| path.starts_with(start));
        let mut files: Vec<_> = text.lines().filter(own).map(str::to_owned).collect();
        files.sort_unstable();
        Ok(files)
    }
}

pub(crate) fn repository() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("below the repository's root")?;
    Ok(root.to_owned())
}

pub(crate) fn build(directory: &Path) -> Result<String> {
    let built = Command::new(repository()?.join("packaging/deb"))
        .arg("--binary")
        .arg(mesh_binary()?)
        .arg(directory)
        .output()?;
    ensure!(built.status.success(), "packaging/deb: {}", String::from_utf8_lossy(&built.stderr));
    Ok(String::from_utf8(built.stdout)?.trim().to_owned())
}

#[test]
fn the_package_installs_upgrades_keeps_settings_and_purges_without_a_trace() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let package = build(directory.path())?;
    let root = Root::new()?;
    ensure!(root.files()?.is_empty(), "{:?}", root.files()?);
    root.dpkg(&["--install", &package])?;
    let files = root.files()?;
    for file in [
        "usr/bin/mesh",
        "lib/systemd/system/mesh.service",
        "etc/mesh/mesh.toml",
        "etc/default/mesh",
        "usr/share/man/man1/mesh.1.gz",
        "usr/share/man/man1/mesh-launch.1.gz",
        "usr/share/bash-completion/completions/mesh",
        "usr/share/zsh/vendor-completions/_mesh",
        "usr/share/fish/vendor_completions.d/mesh.fish",
        "usr/share/doc/mesh/copyright",
    ] {
        ensure!(files.iter().any(|found| found == file), "no {file} in {files:?}");
    }
    let settings = root.path("etc/mesh/mesh.toml");
    let example =
        Command::new(root.path("usr/bin/mesh")).args(["config", "check"]).arg(&settings).output()?;
    ensure!(example.status.success(), "the example: {}", String::from_utf8_lossy(&example.stderr));

    // What a user has changed stays over an upgrade and a removal.
    fs::write(&settings, "port = 7000\n")?;
    root.dpkg(&["--install", &package])?;
    ensure!(fs::read_to_string(&settings)? == "port = 7000\n", "an upgrade has replaced the settings");
    root.dpkg(&["--remove", "mesh"])?;
    ensure!(root.files()? == ["etc/default/mesh", "etc/mesh/mesh.toml"], "{:?}", root.files()?);

    // What a router has left goes with a purge, and what is not ours stays.
    for left in ["var/lib/mesh", "run/mesh", "var/lib/other"] {
        fs::create_dir_all(root.path(left))?;
        fs::write(root.path(left).join("file"), "")?;
    }
    root.dpkg(&["--purge", "mesh"])?;
    ensure!(root.files()? == ["var/lib/other/file"], "{:?}", root.files()?);
    ensure!(!root.path("etc/mesh").exists() && !root.path("var/lib/mesh").exists(), "directories are left");
    Ok(())
}

#[test]
fn a_removal_leaves_the_hosts_network_as_it_was_before_the_first_launch() -> Result<()> {
    let lab = Lab::new("removal")?;
    let host = lab.host("h1")?;
    host.run(["ip", "link", "add", "other0", "type", "bridge"])?;
    host.run(["nft", "add", "table", "inet", "other"])?;
    // As Docker leaves it: then the router has rules in tables of others, too.
    host.run(["iptables-nft", "-P", "FORWARD", "DROP"])?;
    let before = host.network_state()?;
    launch(&host, &[], None)?;
    let container = host.container("c")?;
    host.mesh(["attach", &container.spec(), "10.32.0.1/24", "--resolv-conf"])?;
    host.mesh(["expose", "10.32.0.100/24"])?;
    host.mesh(["stop"])?;
    let changed = host.network_state()?;
    let left = ["link mesh0.", "mesh_mesh0", "ip_forward = 1"];
    for mark in left {
        ensure!(changed.lines().iter().any(|line| line.contains(mark)), "no trace with {mark}");
    }
    let rules = host.run(["iptables-nft", "-S"])?.stdout;
    ensure!(rules.matches("mesh leaves").count() == 2, "{rules}");
    // The script's part about the network, with this router's state in the place of the machine's.
    let script = fs::read_to_string(repository()?.join("packaging/debian/prerm"))?;
    let (functions, _) = script.split_once("if [ \"$1\" = remove ]").context("the script's own part")?;
    let state_dir = host.state_dir().display().to_string();
    let removal = format!("{functions}\nremove_network").replace("/var/lib/mesh", &state_dir);
    host.cmd("sh").args(["-c", &removal]).run()?;
    ensure!(!Path::new("/etc/netns").join(container.name()).exists(), "resolv.conf is left");
    before.must_equal(&host.network_state()?)
}

#[test]
fn a_router_keeps_only_the_capabilities_that_it_needs_and_works_with_them() -> Result<()> {
    let lab = Lab::new("caps")?;
    let host = lab.host("h1")?;
    launch(&host, &[], None)?;
    let container = host.container("c")?;
    host.mesh(["attach", &container.spec(), "10.32.0.1/24"])?;
    let pid = host.router_pid()?;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a field")?;
            Ok(u64::from_str_radix(line.trim(), 16)?)
        };
        for set in ["CapEff:", "CapPrm:"] {
            ensure!(field(set)? == CAPABILITIES, "{set} {:x} in place of {CAPABILITIES:x}", field(set)?);
        }
        ensure!(field("CapInh:")? == 0 && field("NoNewPrivs:")? == 1, "{status}");
    }
    host.mesh(["detach", &container.spec()])?;
    host.mesh(["reset", "--force"])?;
    Ok(())
}

#[test]
fn a_service_manager_hears_that_the_router_is_ready_lives_and_ends() -> Result<()> {
    let lab = Lab::new("notify")?;
    let host = lab.host("h1")?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(secs(20)))?;
    let router =
        host.mesh_cmd(["launch", "--foreground"])?.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let router = router.spawn()?;
    let mut word = [0; 64];
    let mut next = || -> Result<String> {
        let length = manager.recv(&mut word)?;
        Ok(String::from_utf8(word[..length].to_vec())?)
    };
    ensure!(next()? == "READY=1", "it is ready first");
    status(&host)?;
    for _ in 0..5 {
        ensure!(next()? == "WATCHDOG=1", "it says that it lives");
    }
    host.mesh(["stop"])?;
    eventually(READY, || {
        ensure!(next()? == "STOPPING=1", "not yet");
        Ok(())
    })?;
    drop(router);
    Ok(())
}
