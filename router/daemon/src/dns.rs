//! The name servers of this host: where they listen, whom they serve, when they start and end. What they say is `mesh-dns`'s
//! and comes from the node's snapshots.
//!
//! One listens where containers reach it, on addresses that each host has for itself. Where Docker has its own bridge,
//! another listens there, from when that bridge has an address to when it has none.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mesh_api::{
    DnsDocument, DnsEntryDocument, DnsNameDocument, DnsSummaryDocument, ErrorKind, Failure, Response,
};
use mesh_dns::{Listen, Outcome, Server, Snapshot, Stats, Upstream};
use mesh_hostnet::{AddressPlace, Bridge};
use mesh_names::{Name, Order, Rng, Zone};
use mesh_node::Node;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::{DnsConfig, DnsListen, ServerConfig};
use crate::metrics::DnsReadings;
use crate::resolv_conf::ResolvConfs;
use crate::{AddressConfig, Config, Error};

/// Docker's own bridge, unless its administrator has given it another name.
const DOCKER_BRIDGE: &str = "docker0";

/// The port of name servers.
const PORT: u16 = 53;

/// Connections that the kernel holds for the server to accept.
const BACKLOG: i32 = 256;

/// The name servers of this host.
pub(crate) struct NameServers {
    names: Arc<ArcSwap<Snapshot>>,
    settings: Arc<Settings>,
    first: Option<Server>,
    docker: Arc<Mutex<Option<Server>>>,
    watch: Option<JoinHandle<()>>,
}

/// What all servers of this host have alike.
struct Settings {
    upstream: Upstream,
    private: Vec<IpNet>,
    nsid: Vec<u8>,
    /// Each server draws a generator of its own from it.
    rng: Mutex<Rng>,
}

/// The zones that this router answers for.
pub(crate) fn zone(config: &Config) -> Zone {
    let DnsConfig { domain, ttl_seconds, .. } = &config.dns;
    Zone {
        domain: domain.clone(),
        ranges: ranges(config),
        ttl: *ttl_seconds,
        negative_ttl: *ttl_seconds,
        servers: addresses(config).map(|address| address.ip()).collect(),
        order: Order::Shuffled,
    }
}

/// The addresses that a name server of this host is to have though none of its interfaces has them: those are node-local.
pub(crate) fn node_local(config: &Config) -> Result<Vec<Ipv4Addr>, Error> {
    let mut found = Vec::new();
    for listen in addresses(config) {
        let IpAddr::V4(address) = listen.ip() else { continue };
        let place = mesh_hostnet::place_of(listen.ip())?;
        // A bridge that an earlier life has left has them already.
        if place.is_none_or(|place| place.interface == config.bridge.as_str()) {
            found.push(address);
        }
    }
    Ok(found)
}

/// The files by which containers find the name server.
pub(crate) fn resolv_confs(config: &Config) -> ResolvConfs {
    // resolv.conf(5) knows no port but the usual one.
    let server = addresses(config).find(|address| address.port() == PORT);
    ResolvConfs::new(&config.state_dir, server, &config.dns.domain.to_string())
}

/// What `dns lookup` answers.
pub(crate) fn lookup(text: &str, names: &Snapshot) -> Response {
    let shown = text.escape_debug();
    let name: Name = match text.parse() {
        Ok(name) => name,
        Err(error) => {
            return Failure::new(ErrorKind::Invalid, format!("'{shown}' is no name: {error}")).into();
        }
    };
    let (name, addresses) = names.addresses(&name);
    if addresses.is_empty() {
        return Failure::new(ErrorKind::Unknown, format!("{name} has no address"))
            .with_hint("`mesh dns list` shows all names of the network")
            .into();
    }
    Response::document(&DnsNameDocument { name: name.to_string(), addresses })
}

/// Where containers reach the name server at node-local addresses.
pub(crate) fn node_local_servers(config: &Config, node_local: &[Ipv4Addr]) -> Vec<SocketAddrV4> {
    let of_v4 = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => Some(v4),
        SocketAddr::V6(_) => None,
    };
    addresses(config).filter_map(of_v4).filter(|address| node_local.contains(address.ip())).collect()
}

impl NameServers {
    /// Starts what `config` asks for. Docker's bridge is looked for each time that the host's `addresses` change.
    ///
    /// # Errors
    /// When a server cannot listen; nothing does then.
    pub(crate) fn start(
        config: &Config,
        bridge: &Bridge,
        node_local: &[Ipv4Addr],
        names: Arc<ArcSwap<Snapshot>>,
        rng: Rng,
        addresses: watch::Receiver<Vec<IpAddr>>,
    ) -> Result<Self, Error> {
        let upstream = match config.dns.server.as_ref().and_then(|server| server.upstream.clone()) {
            Some(servers) => Upstream::Servers(servers),
            None => Upstream::host(),
        };
        let nsid = config.nickname.to_string().into_bytes();
        let settings = Settings { upstream, private: ranges(config), nsid, rng: Mutex::new(rng) };
        let mut servers =
            Self { names, settings: Arc::new(settings), first: None, docker: Arc::default(), watch: None };
        let Some(ServerConfig { listen, .. }) = &config.dns.server else { return Ok(servers) };
        for address in node_local {
            mesh_hostnet::add_node_local(bridge, *address)?;
        }
        servers.first = Some(servers.settings.listen(&servers.names, &listen.addresses(), bridge)?);
        if matches!(listen, DnsListen::Usual) {
            servers.watch = Some(tokio::spawn(follow_docker(
                Arc::clone(&servers.settings),
                Arc::clone(&servers.names),
                Arc::clone(&servers.docker),
                addresses,
            )));
        }
        Ok(servers)
    }

    /// Closes all sockets.
    pub(crate) async fn stop(self) {
        if let Some(watch) = self.watch {
            watch.abort();
            // It ends at once, by that or on its own.
            let _ended = watch.await;
        }
        let docker = lock(&self.docker).take();
        for server in self.first.into_iter().chain(docker) {
            server.stop().await;
        }
    }

    /// The overview.
    pub(crate) fn summary(&self, node: &Node, config: &Config) -> DnsSummaryDocument {
        let docker = lock(&self.docker);
        let servers: Vec<&Server> = self.first.iter().chain(docker.as_ref()).collect();
        let queries = Outcome::ALL.into_iter().map(|outcome| {
            let count = servers.iter().map(|server| server.stats().outcome(outcome)).sum();
            (outcome.label().to_owned(), count)
        });
        DnsSummaryDocument {
            domain: config.dns.domain.to_string(),
            listen: servers.iter().flat_map(|server| server.addresses()).copied().collect(),
            upstream: servers.first().map(|server| server.upstreams()).unwrap_or_default(),
            ttl: config.dns.ttl_seconds,
            names: node.name_entries().count() as u64,
            queries: queries.filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// What they have done together, as metrics; nothing where none runs.
    pub(crate) fn readings(&self, node: &Node) -> Option<DnsReadings> {
        let docker = lock(&self.docker);
        let servers = self.first.iter().chain(docker.as_ref());
        let stats = servers.map(Server::stats).reduce(Stats::plus)?;
        Some(DnsReadings { entries: node.name_entries().count() as u64, stats })
    }

    /// The overview with all names.
    pub(crate) fn document(&self, node: &Node, config: &Config) -> DnsDocument {
        DnsDocument { summary: self.summary(node, config), entries: entries(node) }
    }
}

/// All names that are answered for, in order.
fn entries(node: &Node) -> Vec<DnsEntryDocument> {
    let mut entries: Vec<_> = node
        .name_entries()
        .map(|owned| DnsEntryDocument {
            name: owned.entry.name().to_string(),
            address: owned.entry.address(),
            port: owned.entry.port(),
            container: owned.entry.container().to_string(),
            origin_peer_id: owned.origin.to_string(),
        })
        .collect();
    entries.sort_by(|a, b| {
        (&a.name, a.address, a.port, &a.container).cmp(&(&b.name, b.address, b.port, &b.container))
    });
    entries
}

impl Settings {
    /// A server at these addresses.
    fn listen(
        &self,
        names: &Arc<ArcSwap<Snapshot>>,
        addresses: &[SocketAddr],
        bridge: &Bridge,
    ) -> Result<Server, Error> {
        let mut sockets = Vec::new();
        let mut clients = Vec::new();
        for address in addresses {
            let place = mesh_hostnet::place_of(address.ip())?;
            let place = place.ok_or(Error::DnsAddress { address: *address })?;
            clients.extend(clients_at(&place, bridge.name.as_str()));
            sockets.push(bind(*address, &place.interface)?);
        }
        self.start(names, sockets, clients).map_err(Error::Dns)
    }

    fn start(
        &self,
        names: &Arc<ArcSwap<Snapshot>>,
        listen: Vec<Listen>,
        clients: Vec<IpNet>,
    ) -> Result<Server, mesh_dns::Error> {
        let config = mesh_dns::Config {
            listen,
            clients,
            upstream: self.upstream.clone(),
            private: self.private.clone(),
            rates: mesh_dns::Rates::default(),
            nsid: self.nsid.clone(),
            rng: lock(&self.rng).fork(),
        };
        Server::start(config, Arc::clone(names))
    }
}

/// Has a server listen on Docker's bridge as long as that has an address. Without one, other containers are none the worse:
/// what goes wrong is told in the log.
async fn follow_docker(
    settings: Arc<Settings>,
    names: Arc<ArcSwap<Snapshot>>,
    docker: Arc<Mutex<Option<Server>>>,
    mut addresses: watch::Receiver<Vec<IpAddr>>,
) {
    let mut present = None;
    loop {
        let looked = tokio::task::spawn_blocking(|| mesh_hostnet::ipv4_of(DOCKER_BRIDGE)).await;
        match looked {
            Ok(Ok(now)) if now.as_ref().map(|(address, _)| *address) == present => {}
            Ok(Ok(now)) => {
                present = now.as_ref().map(|(address, _)| *address);
                let before = lock(&docker).take();
                if let Some(server) = before {
                    server.stop().await;
                }
                if let Some((address, place)) = now {
                    let server = start_on_docker(&settings, &names, address, &place);
                    *lock(&docker) = server;
                }
            }
            Ok(Err(error)) => warn!(%error, "{DOCKER_BRIDGE} was not looked for"),
            Err(error) => warn!(%error, "{DOCKER_BRIDGE} was not looked for"),
        }
        if addresses.changed().await.is_err() {
            return;
        }
    }
}

fn start_on_docker(
    settings: &Settings,
    names: &Arc<ArcSwap<Snapshot>>,
    address: Ipv4Addr,
    place: &AddressPlace,
) -> Option<Server> {
    let address = SocketAddr::from((address, PORT));
    let started = bind(address, &place.interface)
        .and_then(|socket| settings.start(names, vec![socket], place.networks.clone()).map_err(Error::Dns));
    match started {
        Ok(server) => {
            info!(%address, interface = DOCKER_BRIDGE, "names are answered for");
            Some(server)
        }
        Err(error) => {
            warn!(%error, "no names for containers on {DOCKER_BRIDGE} without an interface of the network");
            None
        }
    }
}

/// Who is answered at an address. The overlay's bridge has no network of its own: containers of any address are on it.
fn clients_at(place: &AddressPlace, bridge: &str) -> Vec<IpNet> {
    if place.interface == bridge {
        return vec![Ipv4Net::default().into(), Ipv6Net::default().into()];
    }
    place.networks.clone()
}

/// Two sockets that hear nothing but what comes by this interface. Answers leave by it too, also to addresses to which the
/// host has no route.
fn bind(address: SocketAddr, interface: &str) -> Result<Listen, Error> {
    let open = |kind, protocol| {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        if kind == Type::STREAM {
            // So that connections of an earlier life, which linger, do not keep this one from listening.
            socket.set_reuse_address(true)?;
        }
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(socket)
    };
    let both = || {
        let tcp = open(Type::STREAM, Protocol::TCP)?;
        tcp.listen(BACKLOG)?;
        Ok(Listen::Sockets { udp: open(Type::DGRAM, Protocol::UDP)?.into(), tcp: tcp.into() })
    };
    both().map_err(|source| Error::DnsListen { address, source })
}

fn ranges(config: &Config) -> Vec<IpNet> {
    config.ipam.iter().map(|AddressConfig { range, .. }| *range).collect()
}

fn addresses(config: &Config) -> impl Iterator<Item = SocketAddr> + use<> {
    let listen = config.dns.server.as_ref().map(|server| server.listen.addresses());
    listen.unwrap_or_default().into_iter()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
