//! One router's life: started in order, run, ended in the opposite order.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_api::{Command, ResetDocument, Response, StopDocument};
use mesh_crypto::{Identity, Psk, Rng};
use mesh_dataplane::Dataplane;
use mesh_fastpath::vxlan::Heard;
use mesh_hostnet::{AddressWatch, Bridge, Firewall, GroupWatch, PortKind, WantedGroups};
use mesh_ipam::{Ident, Request};
use mesh_node::{Input, Node, Wanted};
use mesh_wire::{BootCount, NetworkId, PeerId};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};
use tracing::{debug, error, info, warn};
use zeroize::Zeroizing;

use crate::clock::{Alarm, Clock};
use crate::containers::{Attaching, Containers, Registry, Wish};
use crate::control::{Answer, Asked, Control, REQUESTS_QUEUED_MAX};
use crate::desk::{self, ASKS_QUEUED_MAX, Ask, Desk, Management, PROMPT_TIME_MAX_MS};
use crate::dial::Dialer;
use crate::dns::NameServers;
use crate::expose::{Exposed, Exposing};
use crate::fastpath::Lane;
use crate::host::Host;
use crate::http::{self, SCRAPES_QUEUED_MAX, Scrape};
use crate::journal::{self, Journal, JournalError, Opened, Word};
use crate::metrics::Readings;
use crate::mtu::{self, Mtu};
use crate::names::{Added, Names};
use crate::pipe::Pipe;
use crate::reload::Reloading;
use crate::resolv_conf::ResolvConfs;
use crate::shell::{self, INPUTS_QUEUED_MAX, REPORTS_QUEUED_MAX, Setting, Shell};
use crate::store::{self, RunLock};
use crate::supervisor::{self, Supervisor};
use crate::targets::Targets;
use crate::uplink::Uplink;
use crate::{
    AddressConfig, BridgeName, Config, Error, PeerTarget, Peers, Ready, Reload, containers, dns, documents,
    expose, firewall, ipam, names, network, overlaps, pipe, privileges, runtime, secrets, sentry, standing,
    targets,
};

/// After the last word to the peers, time for it to leave.
const GOODBYE_TIME: Duration = Duration::from_millis(50);

/// How a router's life ends.
enum Ending {
    /// Containers and bridge stay.
    Stop,
    /// Nothing stays; the client waits to hear what was removed. A peer may have the router's address space by now.
    Reset(Answer, Option<PeerId>),
}

/// What a running router consists of, beside the shell.
struct Surroundings {
    config: Config,
    mtu: Mtu,
    host: Host,
    containers: Containers,
    addresses: Management,
    targets: Targets,
    firewall: Firewall,
    exposed: Exposed,
    reloading: Reloading,
    names: Names,
    name_servers: NameServers,
    control: Control,
    http: Cell<Option<TcpListener>>,
    /// Released last: whoever waits for the lock knows that the router is gone.
    uplink: Uplink,
    lock: RunLock,
}

pub(crate) fn run(config: Config, reload: Reload, ready: impl FnOnce(Ready)) -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    privileges::drop_others()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { action: "start the runtime", source })?;
    raise_open_files();
    // It was started as /proc/self/exe, and `ps` and `ss` would call it so. A name is no reason not to start.
    let _named = rustix::thread::set_name(c"mesh");
    let result = runtime.block_on(live(config, reload, ready));
    // A resolver may still wait for an answer, on a thread of the blocking pool; nobody waits for it.
    runtime.shutdown_background();
    result
}

/// A new secret, drawn from the system.
pub(crate) fn generate_secret() -> Result<Zeroizing<String>, Error> {
    Ok(secrets::generate(&mut seeded_rng()?))
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
    expose::restore_forwarding(state_dir)?;
    let datapath = mesh_fastpath::ovs::remove(bridge)?;
    mesh_fastpath::esp::remove_all(bridge)?;
    let interfaces = mesh_hostnet::remove_all(bridge).map_err(Error::Reset)?;
    let mut removed: Vec<_> = datapath.iter().chain(&interfaces).map(ToString::to_string).collect();
    removed.extend(ResolvConfs::new(state_dir, None, "").remove_all()?);
    removed.extend(store::remove(run_dir, state_dir)?);
    Ok(removed)
}

async fn live(config: Config, reload: Reload, ready: impl FnOnce(Ready)) -> Result<(), Error> {
    let system = |action| move |source| Error::System { action, source };
    let mut signals = Signals::new()?;
    store::make_dir(&config.run_dir)?;
    let lock = RunLock::take(&config.run_dir)?;
    store::make_dir(&config.state_dir)?;
    let known = Known::load(&config)?;

    check_range(&config)?;

    let listener = pipe::listen(config.listen, config.port).and_then(TcpListener::from_std);
    let listener = listener.map_err(|source| Error::Listen { port: config.port, source })?;
    let http = http::bind(config.http)?;
    let mtu = mtu::at_first(config.mtu)?;
    let (address_teller, mut addresses) = watch::channel(Vec::new());
    let _watch = AddressWatch::start(move |now| drop(address_teller.send_replace(now)))?;
    let (report, mut reports) = mpsc::channel(REPORTS_QUEUED_MAX);
    let node_local = dns::node_local(&config)?;
    let uplink = Uplink::prepare(&config, mtu)?;
    let dataplane = Dataplane::start(dataplane_config(&config, &uplink, mtu, &node_local), move |seen| {
        report.try_send(seen).is_ok()
    });
    let dataplane = dataplane.map_err(Error::Dataplane)?;
    let own = addresses.borrow().clone();
    let clock = Clock::start();
    let mut alarm = Alarm::new(clock).map_err(system("make a timer"))?;
    // What can be refused has been; from here on things are made that outlast the process.
    let mut rng = seeded_rng()?;
    let (identity, boot) = store::load_identity(&config.state_dir, &mut rng)?;
    let journal = open_journal(&config, identity.peer_id())?;
    let (bridge, control) = join_host(&config, mtu)?;
    let firewall = firewall::start(&config, &bridge).inspect_err(|_| leave_host(&config, &bridge))?;
    let (group_teller, mut groups) = watch::channel(WantedGroups::All);
    let group_watch = GroupWatch::start(&bridge, move |now| drop(group_teller.send_replace(now)));
    let _group_watch = group_watch.inspect_err(|_| {
        firewall.close();
        leave_host(&config, &bridge);
    })?;
    let lane = Lane::start(&config, &bridge, (identity.peer_id(), &mut rng), &firewall, &dataplane);
    let (lane, mut heard) = lane.inspect_err(|_| leave_host(&config, &bridge))?;
    if let Err(error) = targets::save(&known.targets_file, &known.peers) {
        firewall.close();
        leave_host(&config, &bridge);
        return Err(error);
    }

    let (asks, mut asked) = mpsc::channel(ASKS_QUEUED_MAX);
    let managed = manage_addresses(&config, &known, journal, &own, (asks, clock))?;
    let Managed { management, node: ipam, journal, mut words } = managed;
    let (nonce, names_rng) = (rng.u64(), rng.fork());
    let known_names = mesh_names::Names::new(identity.peer_id(), boot, dns::zone(&config))?;
    let node_config = node_config(&config, &known, (identity, boot), nonce, (ipam, known_names));
    let node = Node::new(node_config, rng, clock.now());
    let (me, peer_id, nickname) = (node.peer_id(), node.peer_id().to_string(), node.nickname().to_string());
    say_started(&node, mtu);
    let (inputs, mut input_queue) = mpsc::channel(INPUTS_QUEUED_MAX);
    let accepting = tokio::spawn(pipe::accept_all(listener, config.connection_limit, inputs.clone()));
    let setting = Setting {
        dialer: Dialer::new(config.listen, inputs.clone()),
        clock,
        network: known.network,
        network_file: known.network_file,
        journal,
    };
    let mut shell = Shell::new(node, dataplane, lane, setting);
    // Before any session opens: a neighbour that is told of no kernel path leaves the one that it has.
    let found = heard.borrow_and_update().clone();
    shell.fast_path_heard(found);
    let targets = Targets::new(known.targets_file, known.peers, inputs.clone());
    let (published, watched) = (Arc::clone(shell.names()), addresses.clone());
    firewall.set_name_servers(dns::node_local_servers(&config, &node_local));
    let name_servers = NameServers::start(&config, &bridge, &node_local, published, names_rng, watched);
    let name_servers = name_servers.inspect_err(|_| {
        firewall.close();
        leave_host(&config, &bridge);
    })?;
    let names = Names::new(config.dns.domain.clone(), known.names_file, known.names, inputs.clone());
    for input in names.at_start().await {
        shell.handle(input, None);
    }
    let (file, state) = (known.exposed_file, known.exposed);
    let exposed = Exposed::new(&bridge, &firewall, (&management, &names), file, state).start().await;
    let resolv_confs = dns::resolv_confs(&config);
    let mtu = Mtu::new(mtu);
    let host = Host::new(bridge, firewall.clone(), mtu.clone());
    let settings =
        containers::Settings { me, grace: config.containers.grace, node_local: node_local.first().copied() };
    let services = containers::Services {
        addresses: management.clone(),
        names: names.clone(),
        resolv_confs,
        engines: runtime::engines(&config.containers),
    };
    let containers = Containers::new(host.clone(), services, known.attachments, settings);
    let keeping = tokio::spawn(containers.clone().keep());
    let holding = tokio::spawn(standing::keep_bridge(host.clone(), node_local.clone(), exposed.clone()));
    let watching = tokio::spawn(sentry::watch(firewall.clone(), shell.dataplane().sightings()));
    let around = Surroundings {
        containers,
        host,
        names,
        name_servers,
        addresses: management,
        reloading: Reloading::new(reload, config.clone(), targets.clone(), inputs),
        firewall,
        exposed,
        targets,
        config,
        mtu,
        control,
        http: Cell::new(http),
        uplink,
        lock,
    };
    ready(Ready { peer_id, nickname, pid: std::process::id() });
    let supervisor = Supervisor::of_environment();
    supervisor.tell(supervisor::Word::Ready);

    let mut sources = Sources {
        inputs: &mut input_queue,
        reports: &mut reports,
        addresses: &mut addresses,
        alarm: &mut alarm,
        signals: &mut signals,
        asked: &mut asked,
        words: &mut words,
        heard: &mut heard,
        groups: &mut groups,
    };
    let ending = around.serve(&mut shell, &mut sources, &supervisor).await;
    supervisor.tell(supervisor::Word::Stopping);
    accepting.abort();
    keeping.abort();
    holding.abort();
    watching.abort();
    around.end(shell, ending).await
}

/// What a router knows before it speaks, from its settings and its earlier lives.
struct Known {
    secrets: Vec<Psk>,
    network: Option<NetworkId>,
    network_file: PathBuf,
    peers: Vec<PeerTarget>,
    targets_file: PathBuf,
    names: BTreeSet<Added>,
    names_file: PathBuf,
    exposed: expose::State,
    exposed_file: PathBuf,
    attachments: Registry,
}

impl Known {
    fn load(config: &Config) -> Result<Self, Error> {
        let targets_file = config.state_dir.join(store::TARGETS_FILE);
        let network_file = config.state_dir.join(store::NETWORK_FILE);
        let peers = match &config.peers {
            Peers::Named(peers) => peers.clone(),
            Peers::Resumed => targets::load(&targets_file)?,
        };
        let exposed_file = config.state_dir.join(store::EXPOSED_FILE);
        let exposed = expose::load(&exposed_file)?;
        let network = network::load(&network_file)?;
        let names_file = config.state_dir.join(store::NAMES_FILE);
        let attachments = Containers::load(config.state_dir.join(store::ATTACHMENTS_FILE))?;
        let (secrets, names) = (secrets::keys(&config.secrets)?, names::load(&names_file)?);
        Ok(Self {
            secrets,
            network,
            network_file,
            peers,
            targets_file,
            names,
            names_file,
            exposed,
            exposed_file,
            attachments,
        })
    }
}

fn node_config(
    config: &Config,
    known: &Known,
    (identity, boot): (Identity, BootCount),
    nonce: u64,
    (ipam, names): (Option<mesh_node::Addresses>, mesh_names::Names),
) -> mesh_node::Config {
    mesh_node::Config {
        identity,
        boot,
        nickname: config.nickname.clone(),
        port: config.port,
        nonce,
        secrets: known.secrets.clone(),
        network: known.network,
        allowed: config.allowed.clone(),
        trusted_subnets: config.trusted_subnets.clone(),
        ipam,
        names,
        connection_limit: config.connection_limit,
        rekey_after: config.rekey_after,
        aes_preferred: aes_is_fast(),
        discovery: config.discovery,
        targets: known.peers.iter().map(targets::target).collect(),
    }
}

/// Refuses a range that nobody chose for this host, if the host has routes of its own to it.
fn check_range(config: &Config) -> Result<(), Error> {
    let Some(AddressConfig { range, range_is_given: false, .. }) = config.ipam else { return Ok(()) };
    match mesh_hostnet::route_into(range)? {
        Some(route) => Err(Error::RangeRouted { range, route }),
        None => Ok(()),
    }
}

/// Address management, as far as it goes with what is on disk.
struct Managed {
    management: Management,
    node: Option<mesh_node::Addresses>,
    journal: Option<Journal>,
    words: watch::Receiver<Word>,
}

/// What is on disk of address management; `None` where it is off. What cannot be used is for [`manage_addresses`] to say.
fn open_journal(config: &Config, me: PeerId) -> Result<Option<Result<Opened, JournalError>>, Error> {
    let Some(AddressConfig { range, .. }) = &config.ipam else { return Ok(None) };
    let opened = journal::open(&config.state_dir, me);
    if let Ok(opened) = &opened {
        opened.check_range(*range)?;
    }
    Ok(Some(opened))
}

/// Recovers address management. Where its files cannot be used, the router goes on without it, and says so.
fn manage_addresses(
    config: &Config,
    known: &Known,
    opened: Option<Result<Opened, JournalError>>,
    own: &[IpAddr],
    (asks, clock): (mpsc::Sender<Ask>, Clock),
) -> Result<Managed, Error> {
    let without = |management| {
        let (_nobody, words) = watch::channel(Word::Silence);
        Ok(Managed { management, node: None, journal: None, words })
    };
    let (Some(AddressConfig { range, default_subnet, founding, .. }), Some(opened)) = (&config.ipam, opened)
    else {
        return without(Management::Off);
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => {
            error!(%error, "addresses are disabled");
            return without(Management::Broken { error: Arc::new(error), range: *range });
        }
    };
    let (journal, state, words) = Journal::start(opened)
        .map_err(|source| Error::System { action: "start the addresses' journal", source })?;
    let founding = ipam::founding(founding, &known.peers, own, config.port);
    let settings = mesh_ipam::Config { nickname: config.nickname.clone(), range: *range, founding };
    Ok(Managed {
        management: Management::On(Desk::new(asks, clock, *range, *default_subnet)),
        node: Some(mesh_node::Addresses { config: settings, state }),
        journal: Some(journal),
        words,
    })
}

fn say_started(node: &Node, mtu: u32) {
    let (peer_id, nickname) = (node.peer_id(), node.nickname());
    let encryption = node.has_secret();
    info!(version = env!("CARGO_PKG_VERSION"), %peer_id, %nickname, mtu, encryption, "started");
    if !encryption {
        warn!(
            "the network has no password: anybody who reaches this host may join it, and frames travel in clear"
        );
    }
}

/// All that the shell listens to, beside its clients.
struct Sources<'a> {
    inputs: &'a mut mpsc::Receiver<(Input, Option<Pipe>)>,
    reports: &'a mut shell::Reports,
    addresses: &'a mut watch::Receiver<Vec<IpAddr>>,
    alarm: &'a mut Alarm,
    signals: &'a mut Signals,
    asked: &'a mut mpsc::Receiver<Ask>,
    words: &'a mut watch::Receiver<Word>,
    heard: &'a mut watch::Receiver<Heard>,
    groups: &'a mut watch::Receiver<WantedGroups>,
}

/// The signals that a router heeds.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let heed = |kind, action| signal(kind).map_err(|source| Error::System { action, source });
        Ok(Self {
            terminate: heed(SignalKind::terminate(), "handle SIGTERM")?,
            interrupt: heed(SignalKind::interrupt(), "handle SIGINT")?,
            hangup: heed(SignalKind::hangup(), "handle SIGHUP")?,
        })
    }
}

/// Makes the bridge, with the uplink as its port, and the control socket. When that fails, a bridge without
/// containers goes again.
fn join_host(config: &Config, mtu: u32) -> Result<(Bridge, Control), Error> {
    let bridge = mesh_hostnet::ensure_bridge(&config.bridge, mtu)?;
    let tap = mesh_hostnet::add_port(&bridge, &config.bridge.tap(), PortKind::Uplink);
    let control = tap.map_err(Error::Host).and_then(|()| Control::bind(&config.run_dir));
    match control {
        Ok(control) => Ok((bridge, control)),
        Err(error) => {
            leave_host(config, &bridge);
            Err(error)
        }
    }
}

/// Takes back what `join_host` has made, unless there are containers on it.
fn leave_host(config: &Config, bridge: &Bridge) {
    if mesh_hostnet::attachments(bridge).is_ok_and(|containers| containers.is_empty())
        && let Err(left) = mesh_hostnet::remove_all(&config.bridge)
    {
        warn!(?left, "the bridge could not be removed again");
    }
}

impl Surroundings {
    /// Runs the shell until somebody ends it.
    async fn serve(&self, shell: &mut Shell, sources: &mut Sources<'_>, supervisor: &Supervisor) -> Ending {
        let Sources { inputs, reports, addresses, alarm, signals, asked: asks, words, heard, groups } =
            sources;
        let (leaving, mut left) = mpsc::channel(1);
        let (requests, mut asked) = mpsc::channel(REQUESTS_QUEUED_MAX);
        let (scrapes, mut scraped) = mpsc::channel(SCRAPES_QUEUED_MAX);
        let mut http_clients = JoinSet::new();
        if let Some(listener) = self.http.take() {
            http_clients.spawn(http::serve(listener, http::Sources { requests: requests.clone(), scrapes }));
        }
        let mut ticks = supervisor.ticks();
        let mut serving = std::pin::pin!(self.control.serve(requests));
        shell.handle(addresses_of(addresses, self.config.listen), None);
        let found = heard.borrow_and_update().clone();
        shell.fast_path_heard(found);
        loop {
            shell.publish();
            if let Err(error) = alarm.set(shell.timeout()) {
                // It cannot happen with a timer that is open and a time that is valid; without timers a router is lost.
                error!(%error, "the timer cannot be set");
                return Ending::Stop;
            }
            tokio::select! {
                _ = signals.terminate.recv() => return Ending::Stop,
                _ = signals.interrupt.recv() => return Ending::Stop,
                _ = signals.hangup.recv() => self.reloading.begin(),
                () = &mut serving => return Ending::Stop,
                Some(asked) = asked.recv() => {
                    if let Some(ending) = self.answer(shell, asked, &leaving) {
                        return ending;
                    }
                }
                Some(scrape) = scraped.recv() => self.scrape(shell, scrape),
                Some((answer, to)) = left.recv() => return Ending::Reset(answer, to),
                Some(ask) = asks.recv() => shell.ask(ask),
                Ok(()) = words.changed() => {
                    let word = *words.borrow_and_update();
                    shell.written(word);
                }
                Ok(()) = heard.changed() => {
                    let found = heard.borrow_and_update().clone();
                    shell.fast_path_heard(found);
                }
                Ok(()) = groups.changed() => shell.handle(wanted_groups(groups), None),
                Some(report) = reports.recv() => self.take_report(shell, report),
                Some((input, pipe)) = inputs.recv() => shell.handle(input, pipe),
                Ok(()) = addresses.changed() => shell.handle(addresses_of(addresses, self.config.listen), None),
                () = alarm.rings() => shell.handle(Input::Timeout, None),
                () = ticks.next() => supervisor.tell(supervisor::Word::Alive),
            }
            // What waits already is taken in before the data plane gets a plan, so that a burst makes one.
            for _ in 0..INPUTS_QUEUED_MAX {
                let Ok((input, pipe)) = inputs.try_recv() else { break };
                shell.handle(input, pipe);
            }
            for _ in 0..REPORTS_QUEUED_MAX {
                let Ok(report) = reports.try_recv() else { break };
                self.take_report(shell, report);
            }
        }
    }

    fn take_report(&self, shell: &mut Shell, report: mesh_dataplane::Report) {
        if matches!(report, mesh_dataplane::Report::PathMtu { .. }) {
            shell.path_sized();
            let is_sealed = shell.lane().seals();
            if let Some(mtu) = mtu::wanted(self.config.mtu, shell.dataplane(), is_sealed) {
                self.mtu.follow(&self.host, mtu);
            }
        }
        if let Some(report) = shell::to_node(report) {
            shell.handle(Input::Report(report), None);
        }
    }

    fn scrape(&self, shell: &Shell, scrape: Scrape) {
        let connections = documents::connections(shell);
        let ipam = ipam::document(shell.node(), &self.addresses, &self.config, shell.now());
        let walls = firewall::drops(&self.firewall);
        let dns = self.name_servers.readings(shell.node());
        let readings = Readings::take(shell, connections, ipam, walls, dns);
        // A client that has gone away needs none.
        let _sent = scrape.send(readings);
    }

    fn answer(
        &self,
        shell: &Shell,
        Asked { command, answer }: Asked,
        leaving: &mpsc::Sender<(Answer, Option<PeerId>)>,
    ) -> Option<Ending> {
        match command {
            Command::Status => {
                let own = documents::Own {
                    config: &self.config,
                    network: shell.network(),
                    mtu: self.mtu.get(),
                    datapath: shell.lane().datapath(),
                    uptime: shell.now().since_origin(),
                    ipam: ipam::document(shell.node(), &self.addresses, &self.config, shell.now()),
                    dns: self.name_servers.summary(shell.node(), &self.config),
                    firewall: firewall::document(&self.firewall, self.exposed.documents()),
                    walls: firewall::drops(&self.firewall),
                };
                answer.send(Response::document(&documents::status(
                    shell.node(),
                    &shell.dataplane().counters(),
                    &own,
                )));
            }
            Command::Peers => answer.send(Response::document(&documents::peers(shell.node()))),
            Command::Connections => {
                answer.send(Response::document(&documents::connections(shell)));
            }
            Command::Targets => {
                answer.send(Response::document(&documents::targets(shell.node(), shell.now())));
            }
            Command::Flows => {
                let (flows, counted) = (shell.lane().flows(), shell.dataplane().counters());
                tokio::task::spawn_blocking(move || answer.send(Response::document(&flows(&counted))));
            }
            Command::Routes => answer.send(Response::document(&documents::routes(shell.node()))),
            Command::Connect { targets, replace } => self.targets.connect(targets, replace, answer),
            Command::Forget { targets } => self.targets.forget(targets, answer),
            Command::Macs => {
                answer.send(Response::document(&documents::macs(shell.node().peer_id(), shell.dataplane())));
            }
            Command::Attach {
                container,
                addresses,
                ifname,
                multicast_route,
                names,
                dns,
                resolv_conf,
                timeout_ms,
            } => {
                let wait = Duration::from_millis(timeout_ms);
                let wish = Wish { names, dns, resolv_conf, multicast_route };
                self.containers.attach(Attaching { container, addresses, ifname, wish, wait }, answer);
            }
            Command::Dns => {
                answer.send(Response::document(&self.name_servers.document(shell.node(), &self.config)));
            }
            Command::DnsAdd { name, addresses, container } => {
                self.containers.add_name(name, addresses, container, answer);
            }
            Command::DnsRemove { name, addresses } => self.names.take_back(name, addresses, answer),
            Command::DnsLookup { name } => answer.send(dns::lookup(&name, &shell.names().load())),
            Command::Expose { addresses, names, masquerade, timeout_ms } => {
                let wait = Duration::from_millis(timeout_ms);
                self.exposed.expose(Exposing { addresses, names, masquerade, wait }, answer);
            }
            Command::Hide { addresses } => self.exposed.hide(addresses, answer),
            Command::Detach { container, addresses } => self.containers.detach(container, addresses, answer),
            Command::Port { container, ifname } => self.containers.port(container, ifname, answer),
            Command::Ps { containers } => self.containers.ps(containers, answer),
            Command::Overlaps { networks } => overlaps::find(networks, answer),
            Command::Ipam => {
                let document = ipam::document(shell.node(), &self.addresses, &self.config, shell.now());
                answer.send(Response::document(&document));
            }
            Command::IpamAllocate { id, subnet, timeout_ms } => {
                self.ask_addresses(id, answer, timeout_ms, move |ident, desk| Request::Allocate {
                    ident,
                    subnet: subnet.unwrap_or_else(|| desk.default_subnet()),
                });
            }
            Command::IpamClaim { id, address, timeout_ms } => {
                self.ask_addresses(id, answer, timeout_ms, move |ident, _| Request::Claim { ident, address });
            }
            Command::IpamLookup { id, subnet } => {
                self.ask_addresses(id, answer, PROMPT_TIME_MAX_MS, move |ident, _| Request::Lookup {
                    ident,
                    subnet,
                });
            }
            Command::IpamRelease { id, subnet } => {
                self.ask_addresses(id, answer, PROMPT_TIME_MAX_MS, move |ident, _| Request::Release {
                    ident,
                    subnet,
                });
            }
            Command::Prime { timeout_ms } => match self.addresses.desk() {
                Ok(desk) => ipam::serve(answer, ipam::prime(desk.clone(), Duration::from_millis(timeout_ms))),
                Err(failure) => answer.send(failure.into()),
            },
            Command::RemovePeers { peers, timeout_ms } => {
                let named = self.addresses.desk().and_then(|desk| {
                    Ok((desk.clone(), ipam::peers_named(shell.node(), shell.now(), &peers)?))
                });
                match named {
                    Ok((desk, peers)) => {
                        ipam::serve(answer, ipam::retire(desk, peers, Duration::from_millis(timeout_ms)));
                    }
                    Err(failure) => answer.send(failure.into()),
                }
            }
            Command::Stop => {
                answer.send(Response::document(&StopDocument { pid: std::process::id() }));
                return Some(Ending::Stop);
            }
            Command::Reset { force, timeout_ms } => {
                let (addresses, leaving) = (self.addresses.clone(), leaving.clone());
                tokio::spawn(async move {
                    match ipam::hand_over(&addresses, force, Duration::from_millis(timeout_ms)).await {
                        // Nobody listens any more when the router ends otherwise; the client is told so.
                        Ok(to) => drop(leaving.send((answer, to)).await),
                        Err(failure) => answer.send(failure.into()),
                    }
                });
            }
        }
        None
    }

    /// Asks for the addresses of the holder `id`, and answers.
    fn ask_addresses(
        &self,
        id: String,
        answer: Answer,
        timeout_ms: u64,
        request: impl FnOnce(Ident, &Desk) -> Request,
    ) {
        let wanted = self.addresses.desk().and_then(|desk| Ok((desk, desk::ident(&id)?)));
        match wanted {
            Ok((desk, ident)) => {
                let request = request(ident, desk);
                let wait = Duration::from_millis(timeout_ms);
                ipam::serve(answer, ipam::addresses(desk.clone(), id, request, wait));
            }
            Err(failure) => answer.send(failure.into()),
        }
    }

    async fn end(self, shell: Shell, ending: Ending) -> Result<(), Error> {
        let Self {
            config,
            containers,
            exposed,
            targets,
            firewall,
            names,
            name_servers,
            control,
            uplink,
            lock,
            ..
        } = self;
        let _no_more_changes =
            (containers.finish().await, exposed.finish().await, targets.finish().await, names.finish().await);
        shell.stop();
        drop(uplink);
        name_servers.stop().await;
        sleep(GOODBYE_TIME).await;
        let result = match ending {
            Ending::Stop => Ok(()),
            Ending::Reset(answer, to) => {
                firewall.close();
                let done = remove_everything(&config.run_dir, &config.state_dir, &config.bridge);
                answer.send(match &done {
                    Ok(removed) => {
                        let pid = Some(std::process::id());
                        let handed_over_to = to.map(|peer| peer.to_string());
                        Response::document(&ResetDocument { pid, removed: removed.clone(), handed_over_to })
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

fn dataplane_config(
    config: &Config,
    uplink: &Uplink,
    mtu: u32,
    node_local: &[Ipv4Addr],
) -> mesh_dataplane::Config {
    mesh_dataplane::Config {
        uplink: uplink.for_dataplane(),
        listen: config.listen,
        port: config.port,
        workers: config.workers,
        mtu,
        node_local: node_local.to_vec(),
    }
}

/// The host's addresses as the node is told them: those at which this router can be reached.
fn addresses_of(addresses: &mut watch::Receiver<Vec<IpAddr>>, listen: Option<IpAddr>) -> Input {
    let reached = |address: &&IpAddr| match listen {
        None => true,
        Some(IpAddr::V4(listen)) if listen.is_unspecified() => address.is_ipv4(),
        Some(IpAddr::V6(listen)) if listen.is_unspecified() => true,
        Some(listen) => **address == listen,
    };
    Input::Addresses(addresses.borrow_and_update().iter().filter(reached).copied().collect())
}

/// The groups of the bridge's members as the node is told them.
fn wanted_groups(groups: &mut watch::Receiver<WantedGroups>) -> Input {
    Input::Groups(match &*groups.borrow_and_update() {
        WantedGroups::All => Wanted::All,
        WantedGroups::Only(groups) => Wanted::Only(groups.clone()),
    })
}

/// Lets the router open as many files as the administrator allows: each connection is one.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        debug!(%error, ?limit, "the limit of open files stays");
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_told_the_addresses_at_which_the_router_listens() {
        let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
        let all = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(parse);
        for (listen, expected) in [
            (None, &all[..]),
            (Some("0.0.0.0"), &all[..2]),
            (Some("::"), &all[..]),
            (Some("192.0.2.2"), &all[1..2]),
            (Some("127.0.0.1"), &[]),
        ] {
            let (_teller, mut addresses) = watch::channel(all.to_vec());
            let told = addresses_of(&mut addresses, listen.map(parse));
            assert!(matches!(told, Input::Addresses(told) if told == expected), "{listen:?}");
        }
    }
}
