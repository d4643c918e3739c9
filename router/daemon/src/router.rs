//! One router's life: started in order, run, ended in the opposite order.

use std::fs;
use std::path::Path;

use mesh_api::{Command, ResetDocument, Response, StopDocument};
use mesh_crypto::{Psk, Rng};
use mesh_dataplane::Dataplane;
use mesh_hostnet::{Bridge, PortKind};
use mesh_node::{Input, Node};
use mesh_topology::Target;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep};
use tracing::{info, warn};

use crate::control::{Answer, Asked, Control, REQUESTS_QUEUED_MAX};
use crate::host::Host;
use crate::shell::{self, Clock, INPUTS_QUEUED_MAX, REPORTS_QUEUED_MAX, Shell};
use crate::store::{self, RunLock};
use crate::{BridgeName, Config, Error, MtuSetting, Ready, documents, pipe};

/// What a frame grows by on its way, at most: outer IPv6 (40) and UDP (8) headers, sleeve's header and tag (32), the
/// message header (3) and that of a relayed frame (33), the inner Ethernet header (14). In bytes.
const OVERHEAD_MAX: u32 = 130;

/// After the last word to the peers, time for it to leave.
const GOODBYE_TIME: Duration = Duration::from_millis(50);

/// How a router's life ends.
enum Ending {
    /// Containers and bridge stay.
    Stop,
    /// Nothing stays; the client waits to hear what was removed.
    Reset(Answer),
}

/// What a running router consists of, beside the shell.
struct Surroundings {
    config: Config,
    mtu: u32,
    host: Host,
    control: Control,
    /// Released last: whoever waits for the lock knows that the router is gone.
    lock: RunLock,
}

pub(crate) fn run(config: Config, ready: impl FnOnce(Ready)) -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { action: "start the runtime", source })?;
    runtime.block_on(live(config, ready))
}

/// Removes what a router that no longer runs has left.
pub(crate) fn reset_host(
    run_dir: &Path,
    state_dir: &Path,
    bridge: &BridgeName,
) -> Result<Vec<String>, Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let lock = if run_dir.exists() { Some(RunLock::take(run_dir)?) } else { None };
    let removed = remove_everything(run_dir, state_dir, bridge);
    drop(lock);
    // The lock's own directory can only go after it.
    let _gone_if_empty = fs::remove_dir(run_dir);
    removed
}

fn remove_everything(run_dir: &Path, state_dir: &Path, bridge: &BridgeName) -> Result<Vec<String>, Error> {
    let mut removed: Vec<_> =
        mesh_hostnet::remove_all(bridge).map_err(Error::Reset)?.iter().map(ToString::to_string).collect();
    removed.extend(store::remove(run_dir, state_dir)?);
    Ok(removed)
}

async fn live(config: Config, ready: impl FnOnce(Ready)) -> Result<(), Error> {
    let system = |action| move |source| Error::System { action, source };
    let mut ends = [
        signal(SignalKind::terminate()).map_err(system("handle SIGTERM"))?,
        signal(SignalKind::interrupt()).map_err(system("handle SIGINT"))?,
    ];
    store::make_dir(&config.run_dir)?;
    let lock = RunLock::take(&config.run_dir)?;
    store::make_dir(&config.state_dir)?;
    let psk = config.password.as_ref().map(|password| Psk::from_password(password.as_str())).transpose()?;

    let listener = pipe::listen(config.listen, config.port).and_then(TcpListener::from_std);
    let listener = listener.map_err(|source| Error::Listen { port: config.port, source })?;
    let mtu = match config.mtu {
        MtuSetting::Fixed(mtu) => mtu,
        MtuSetting::Auto => mesh_hostnet::underlay_mtu()?.saturating_sub(OVERHEAD_MAX),
    };
    let (report, mut reports) = mpsc::channel(REPORTS_QUEUED_MAX);
    let dataplane =
        Dataplane::start(dataplane_config(&config, mtu), move |seen| report.try_send(seen).is_ok());
    let dataplane = dataplane.map_err(Error::Dataplane)?;
    // What can be refused has been; from here on things are made that outlast the process.
    let mut rng = seeded_rng()?;
    let (identity, boot) = store::load_identity(&config.state_dir, &mut rng)?;
    let (bridge, control) = join_host(&config, mtu)?;

    let clock = Clock::start();
    let node = mesh_node::Config {
        identity,
        boot,
        nickname: config.nickname.clone(),
        port: config.port,
        nonce: rng.u64(),
        secrets: psk.into_iter().collect(),
        network: None,
        allowed: None,
        trusted_subnets: Vec::new(),
        connection_limit: 64,
        aes_preferred: aes_is_fast(),
        discovery: config.discovery,
        targets: config.peers.iter().map(target).collect(),
    };
    let node = Node::new(node, rng, clock.now());
    let (peer_id, nickname) = (node.peer_id().to_string(), node.nickname().to_string());
    info!(
        version = env!("CARGO_PKG_VERSION"),
        peer_id,
        nickname,
        mtu,
        encryption = node.has_secret(),
        "started"
    );
    if !node.has_secret() {
        warn!(
            "the network has no password: anybody who reaches this host may join it, and frames travel in clear"
        );
    }
    let (inputs, mut input_queue) = mpsc::channel(INPUTS_QUEUED_MAX);
    let accepting = tokio::spawn(pipe::accept_all(listener, inputs.clone()));
    let mut shell = Shell::new(node, dataplane, inputs, clock);
    let around = Surroundings { host: Host::new(bridge, mtu), config, mtu, control, lock };
    ready(Ready { peer_id, nickname, pid: std::process::id() });

    let ending = around.serve(&mut shell, &mut input_queue, &mut reports, &mut ends).await;
    accepting.abort();
    around.end(shell, ending).await
}

/// Makes the bridge, with the TAP interface as its port, and the control socket. When that fails, a bridge without
/// containers goes again.
fn join_host(config: &Config, mtu: u32) -> Result<(Bridge, Control), Error> {
    let bridge = mesh_hostnet::ensure_bridge(&config.bridge, mtu)?;
    let tap = mesh_hostnet::add_port(&bridge, &config.bridge.tap(), PortKind::Uplink);
    let control = tap.map_err(Error::Host).and_then(|()| Control::bind(&config.run_dir));
    match control {
        Ok(control) => Ok((bridge, control)),
        Err(error) => {
            if mesh_hostnet::attachments(&bridge).is_ok_and(|containers| containers.is_empty())
                && let Err(left) = mesh_hostnet::remove_all(&config.bridge)
            {
                warn!(?left, "the bridge could not be removed again");
            }
            Err(error)
        }
    }
}

impl Surroundings {
    /// Runs the shell until somebody ends it.
    async fn serve(
        &self,
        shell: &mut Shell,
        inputs: &mut mpsc::Receiver<(Input, Option<pipe::Pipe>)>,
        reports: &mut shell::Reports,
        [terminate, interrupt]: &mut [Signal; 2],
    ) -> Ending {
        let (requests, mut asked) = mpsc::channel(REQUESTS_QUEUED_MAX);
        let mut serving = std::pin::pin!(self.control.serve(requests));
        shell.handle(Input::Timeout, None);
        loop {
            let timeout = shell.timeout();
            tokio::select! {
                _ = terminate.recv() => return Ending::Stop,
                _ = interrupt.recv() => return Ending::Stop,
                () = &mut serving => return Ending::Stop,
                Some(asked) = asked.recv() => {
                    if let Some(ending) = self.answer(shell, asked) {
                        return ending;
                    }
                }
                Some(report) = reports.recv() => {
                    if let Some(report) = shell::to_node(report) {
                        shell.handle(Input::Report(report), None);
                    }
                }
                Some((input, pipe)) = inputs.recv() => shell.handle(input, pipe),
                () = timeout => shell.handle(Input::Timeout, None),
            }
        }
    }

    fn answer(&self, shell: &Shell, Asked { command, answer }: Asked) -> Option<Ending> {
        let (node, now) = (shell.node(), shell.clock().now());
        match command {
            Command::Status => {
                let status = documents::status(
                    node,
                    &shell.dataplane().counters(),
                    &self.config,
                    self.mtu,
                    now.since_origin(),
                );
                answer.send(Response::document(&status));
            }
            Command::Peers => answer.send(Response::document(&documents::peers(node))),
            Command::Connections => {
                answer.send(Response::document(&documents::connections(node, shell.dataplane(), self.mtu)));
            }
            Command::Targets => answer.send(Response::document(&documents::targets(node, now))),
            Command::Macs => {
                answer.send(Response::document(&documents::macs(node.peer_id(), shell.dataplane())));
            }
            Command::Attach { netns, addresses, ifname, multicast_route } => {
                self.host.attach(netns, addresses, ifname, multicast_route, answer);
            }
            Command::Detach { netns, addresses } => self.host.detach(netns, addresses, answer),
            Command::Stop => {
                answer.send(Response::document(&StopDocument { pid: std::process::id() }));
                return Some(Ending::Stop);
            }
            Command::Reset { .. } => return Some(Ending::Reset(answer)),
        }
        None
    }

    async fn end(self, shell: Shell, ending: Ending) -> Result<(), Error> {
        let Self { config, host, control, lock, .. } = self;
        let _no_more_changes = host.finish().await;
        shell.stop();
        sleep(GOODBYE_TIME).await;
        let result = match ending {
            Ending::Stop => Ok(()),
            Ending::Reset(answer) => {
                let done = remove_everything(&config.run_dir, &config.state_dir, &config.bridge);
                answer.send(match &done {
                    Ok(removed) => {
                        let pid = Some(std::process::id());
                        Response::document(&ResetDocument { pid, removed: removed.clone() })
                    }
                    Err(error) => error.failure().into(),
                });
                done.map(|_removed| ())
            }
        };
        control.finish().await;
        info!("ended");
        drop(control);
        drop(lock);
        // After a reset nothing else is in it; after a stop it may stay.
        let _gone_if_empty = fs::remove_dir(&config.run_dir);
        result
    }
}

fn dataplane_config(config: &Config, mtu: u32) -> mesh_dataplane::Config {
    mesh_dataplane::Config {
        tap_name: config.bridge.tap().to_string(),
        listen: config.listen,
        port: config.port,
        workers: 1,
        mtu,
    }
}

fn target(peer: &crate::PeerTarget) -> Target {
    Target::Named { host: peer.host().to_owned(), port: peer.port() }
}

fn seeded_rng() -> Result<Rng, Error> {
    let mut seed = [0; 32];
    let mut filled = 0;
    while filled < seed.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut seed[filled..], flags)
            .map_err(|errno| Error::System { action: "draw random bytes", source: errno.into() })?;
    }
    Ok(Rng::from_seed(seed))
}

/// Whether the CPU has instructions for AES; without them ChaCha20 is several times faster.
fn aes_is_fast() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[allow(unreachable_code, reason = "reached on other architectures only")]
    false
}
