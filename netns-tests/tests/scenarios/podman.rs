//! Containers of a real Podman, with its service in a host of the lab.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_api::AttachDocument;
use mesh_lab::{Cmd, Docker, Host, Lab, Process, eventually, secs};

use crate::support::{READY, attach as attach_netns, launch, refused, words};

/// The image, and the name of what is made of it.
const IMAGE: &str = "localhost/lab-busybox";
const NAME: &str = "web";

/// Locks in files, so that nothing is shared with a Podman of the machine.
const SETTINGS: &str =
    "[engine]\nlock_type = \"file\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";

/// Podman with directories of its own. Its containers end when this is dropped.
struct Podman {
    host: Host,
    directory: tempfile::TempDir,
}

impl Podman {
    fn new(host: &Host) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("settings"), SETTINGS)?;
        let podman = Self { host: host.clone(), directory };
        mesh_lab::busybox_root(&podman.path().join("image"))?;
        let archive = podman.path().join("image.tar");
        let root = podman.path().join("image");
        host.cmd("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").run()?;
        podman.cmd(&["import"]).arg(&archive).arg(IMAGE).run()?;
        Ok(podman)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn socket(&self) -> String {
        self.path().join("podman.sock").display().to_string()
    }

    fn cmd(&self, words: &[&str]) -> Cmd {
        // `ip netns exec` mounts /sys anew, without the control groups that containers need.
        let mounts = format!("--mount=/proc/{}/ns/mnt", std::process::id());
        let command = self.host.cmd("nsenter").args([&mounts, "podman"]);
        let command = command.env("CONTAINERS_CONF", self.path().join("settings"));
        let places = [("--root", "data"), ("--runroot", "run"), ("--tmpdir", "tmp")];
        let placed = places
            .into_iter()
            .fold(command, |command, (option, place)| command.arg(option).arg(self.path().join(place)));
        placed.args(["--storage-driver", "vfs"]).args(words)
    }

    /// The service at the socket, once it answers.
    fn serve(&self) -> Result<Process> {
        let service =
            self.cmd(&["system", "service", "--time", "0"]).arg(format!("unix://{}", self.socket()));
        let service = service.spawn()?;
        eventually(secs(30), || std::os::unix::net::UnixStream::connect(self.socket()).map(drop))?;
        Ok(service)
    }

    fn run(&self) -> Result<()> {
        let start = [
            "run",
            "-d",
            "--network",
            "none",
            "--ulimit",
            "nofile=1024",
            "--ulimit",
            "nproc=1024",
            "--name",
            NAME,
            "-h",
            NAME,
        ];
        let group = format!("/{}", self.host.name());
        self.cmd(&start).args(["--cgroup-parent", &group, IMAGE, "/bin/sleep", "1000000"]).run().map(drop)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if let Err(error) = self.cmd(&["rm", "--all", "--force", "--time", "0"]).run() {
            eprintln!("containers of Podman are left: {error:#}");
        }
        let groups = Path::new("/sys/fs/cgroup").read_dir().into_iter().flatten().flatten();
        for group in groups.map(|controller| controller.path().join(self.host.name())) {
            // What is in it goes first; where there is no such controller, there is no group.
            for within in group.read_dir().into_iter().flatten().flatten() {
                let _gone = std::fs::remove_dir(within.path());
            }
            let _gone = std::fs::remove_dir(group);
        }
    }
}

#[test]
fn a_container_of_podman_is_attached_by_name_and_again_when_it_is_restarted() -> Result<()> {
    let missing =
        ["podman", "conmon"].into_iter().find(|program| !Path::new("/usr/bin").join(program).exists());
    if let Some(reason) = missing.map(|program| format!("there is no {program}")).or_else(Docker::missing) {
        eprintln!("skipped: {reason}");
        return Ok(());
    }
    let lab = Lab::new("podman")?;
    let host = lab.host("h1")?;
    let podman = Podman::new(&host)?;
    let options = words(["--ipam-range", "10.32.0.0/16", "--attach-grace", "1"]);
    launch(&host, &[options, words(["--podman-socket", &podman.socket()])].concat(), None)?;
    let neighbour = host.container("c")?;
    attach_netns(&host, &neighbour, &[])?;
    podman.run()?;
    let failure = refused(&host, 1, &["attach", "podman:web"])?;
    ensure!(failure.message.contains("Podman"), "{failure:?}");

    let service = podman.serve()?;
    let web: AttachDocument = host.mesh(["attach", "podman:web", "-o", "json"])?.json()?;
    ensure!(web.container == "podman:web" && web.attached, "{web:?}");
    ensure!(web.names == ["web.mesh.internal."], "{web:?}");
    let address = web.addresses.first().context("no address")?.addr();
    eventually(READY, || neighbour.ping(address))?;

    podman.cmd(&["restart", "--time", "0", NAME]).run()?;
    eventually(secs(20), || neighbour.ping(address))?;
    podman.cmd(&["rm", "--force", "--time", "0", NAME]).run()?;
    eventually(secs(20), || {
        let listed: Vec<AttachDocument> = host.mesh(["ps", "-o", "json"])?.json()?;
        ensure!(listed.iter().all(|one| one.container != web.container), "{listed:?}");
        Ok(())
    })?;
    drop(service);
    Ok(())
}
