//! A real dockerd on a host of the lab, with containers made of one static binary.
//!
//! Owns the daemon, its directories and its image. The daemon is in the host's network namespace, and in a mount namespace of
//! its own with an empty `/run`, so that it shares nothing with one of the machine. Its containers have the lab's mark in
//! their environment, by which they are found when the lab is taken away, and their control groups bear the lab's name.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::command::{Cmd, Output};
use crate::eventually::{eventually, secs};
use crate::host::Host;
use crate::process::Process;
use crate::sweep::ENVIRONMENT_MARK;
use crate::tools;

/// The image that all containers are made of, with busybox in it and nothing else.
pub const IMAGE: &str = "lab/busybox";

/// How long the daemon may take to answer after it was started, and to end after it was told to.
const DAEMON_DEADLINE: Duration = Duration::from_secs(60);

/// Empties `/run` for the daemon alone, and becomes it.
const ENTER: &str = r#"mount --make-rprivate / && mount -t tmpfs tmpfs /run && exec "$0" "$@""#;

/// Names under which busybox is called in a container.
const APPLETS: [&str; 8] = ["sh", "sleep", "ip", "ping", "nslookup", "hostname", "cat", "nc"];

/// A dockerd on a host. It ends, with its containers, when this is dropped.
#[derive(Debug)]
pub struct Docker {
    host: Host,
    directory: PathBuf,
    daemon: Option<Process>,
}

impl Docker {
    /// Why no dockerd can run on this machine; `None` when one can.
    #[must_use]
    pub fn missing() -> Option<String> {
        let missing = ["dockerd", "docker", "containerd", "busybox", "nsenter", "unshare"]
            .into_iter()
            .find_map(|program| tools::locate(program).err());
        missing.map(|error| error.to_string()).or_else(|| {
            // Where control groups are not mounted, containers cannot be made.
            let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
            (!mounts.contains(" cgroup")).then(|| "no control groups are mounted".to_owned())
        })
    }

    /// Starts a dockerd on `host`, with one image. `mesh launch` on this host finds it from now on.
    ///
    /// # Errors
    /// When it does not answer in time; the error has the end of its log.
    pub fn start(host: &Host) -> Result<Self> {
        let directory = host.docker_directory();
        fs::create_dir_all(&directory)?;
        let mut docker = Self { host: host.clone(), directory, daemon: None };
        docker.start_daemon()?;
        docker.import()?;
        Ok(docker)
    }

    /// Starts the daemon again after [`stop_daemon`](Self::stop_daemon).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_daemon(&mut self) -> Result<()> {
        let path = |name: &str| self.directory.join(name).display().to_string();
        let namespace = format!("--net={}", self.host.path().display());
        let mut command = Command::new(tools::locate("nsenter")?);
        command
            .args([&namespace, "unshare", "--mount", "sh", "-c", ENTER])
            .arg(tools::locate("dockerd")?)
            .args([
                "--data-root",
                &path("data"),
                "--exec-root",
                &path("exec"),
                "--pidfile",
                &path("docker.pid"),
            ])
            .args(["--host", &format!("unix://{}", path("docker.sock")), "--bridge", "none"])
            .args(["--iptables=false", "--ip6tables=false", "--storage-driver", "vfs"])
            .args(["--cgroup-parent", &format!("/{}", self.host.site().id().mark())])
            .env(ENVIRONMENT_MARK, self.host.site().id().to_string())
            .stdin(Stdio::null())
            .process_group(0);
        let mut daemon = Process::start(&mut command, "dockerd".to_owned(), Some(&self.host))?;
        let socket = self.socket();
        let answers = eventually(DAEMON_DEADLINE, || {
            ensure!(daemon.is_running(), "dockerd has ended");
            Ok(UnixStream::connect(&socket).map(drop)?)
        });
        if let Err(error) = answers {
            let log = daemon.stderr();
            let tail: Vec<_> = log.lines().rev().take(5).collect();
            bail!("{error:#}; its last words, the last one first:\n{}", tail.join("\n"));
        }
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Ends the daemon, as its administrator would. Its containers end with it.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub fn stop_daemon(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("dockerd does not run")?;
        daemon.stop(DAEMON_DEADLINE)?;
        Ok(())
    }

    /// Sends the daemon alone a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_daemon(&mut self, signal: Signal) -> Result<()> {
        self.daemon.as_mut().context("dockerd does not run")?.signal(signal)
    }

    /// Runs `docker` and wants it to succeed.
    ///
    /// # Errors
    /// As [`Cmd::run`].
    pub fn docker<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Output> {
        self.cmd(args).run()
    }

    /// A `docker` command.
    pub fn cmd<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Cmd {
        Cmd::on_the_machine("docker")
            .args(args)
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", &self.directory)
    }

    /// Starts a container of this name that sleeps, without any network, with these options of `docker run`. Returns its id.
    ///
    /// # Errors
    /// When `docker` fails.
    pub fn run(&self, name: &str, options: &[&str]) -> Result<String> {
        let mark = format!("{ENVIRONMENT_MARK}={}", self.host.site().id());
        // A first process of its namespace does not end at SIGTERM unless it says so.
        let start = ["run", "-d", "--stop-signal", "KILL", "--network", "none", "-e", &mark, "--name", name];
        let command = start.iter().chain(options).chain(&[IMAGE, "/bin/sleep", "1000000"]);
        Ok(self.docker(command)?.stdout.trim().to_owned())
    }

    /// Runs a command in a container.
    ///
    /// # Errors
    /// When it fails there.
    pub fn exec(&self, name: &str, command: &[&str]) -> Result<Output> {
        self.docker(["exec", name].iter().chain(command))
    }

    /// One ping from a container.
    ///
    /// # Errors
    /// When there is no answer within a second.
    pub fn ping(&self, from: &str, to: &str) -> Result<()> {
        self.exec(from, &["/bin/ping", "-c", "1", "-W", "1", to]).map(drop)
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("docker.sock")
    }

    /// Makes the image out of busybox.
    fn import(&self) -> Result<()> {
        let root = self.directory.join("image");
        let archive = self.directory.join("image.tar");
        busybox_root(&root)?;
        Cmd::on_the_machine("tar")
            .args(["-C".as_ref(), root.as_os_str(), "-cf".as_ref()])
            .arg(&archive)
            .arg(".")
            .run()?;
        self.docker(["import".as_ref(), archive.as_os_str(), IMAGE.as_ref()])?;
        Ok(())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        // A daemon that was stopped by a signal cannot end otherwise.
        let ended = daemon.signal(Signal::CONT).and_then(|()| daemon.stop(secs(15)).map(drop));
        if let Err(error) = ended {
            eprintln!("lab: dockerd does not end by itself: {error:#}");
        }
    }
}

impl Host {
    /// Where a container runtime of this host has its files; there are none unless one was started.
    pub(crate) fn docker_directory(&self) -> PathBuf {
        self.site().directory().join(self.label()).join("docker")
    }

    /// The socket of this host's dockerd, once one was started.
    pub(crate) fn docker_socket(&self) -> Option<PathBuf> {
        let directory = self.docker_directory();
        directory.exists().then(|| directory.join("docker.sock"))
    }
}

/// Makes a root file system of one static binary, as containers of all runtimes have it here.
///
/// # Errors
/// When busybox is not installed, or the files cannot be written.
pub fn busybox_root(root: &Path) -> Result<()> {
    let programs = root.join("bin");
    fs::create_dir_all(&programs)?;
    fs::copy(tools::locate("busybox")?, programs.join("busybox"))?;
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", programs.join(applet))?;
    }
    let etc = root.join("etc");
    fs::create_dir_all(&etc)?;
    writeln!(fs::File::create(etc.join("passwd"))?, "root:x:0:0:root:/:/bin/sh")?;
    Ok(())
}
