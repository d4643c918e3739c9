//! What is simulated: hosts, who names whom, the network's quality, and the faults. A scenario is data; a seed expands
//! to one.

use std::time::Duration;

use mesh_crypto::Rng;

use crate::HostId;
use crate::faults::{self, Fault};
use crate::nat::NatKind;
use crate::tcp::index_below;

/// Everything that a run depends on.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Feeds all randomness of the run.
    pub seed: u64,
    /// The hosts.
    pub hosts: Vec<HostPlan>,
    /// Greatest one-way latency of a pair, jitter apart.
    pub latency_max: Duration,
    /// Routers start at random times up to this one.
    pub start_within: Duration,
    /// Whether there are so many hosts that looking at everything after each step would cost too much: records are opened
    /// once for all, data planes get links without routes, and agreement is judged by hashes.
    pub light: bool,
    /// What breaks, and when, counted from the start. The last entry is [`Fault::Calm`] if there are any.
    pub faults: Vec<(Duration, Fault)>,
}

/// A host and its router's configuration.
#[derive(Debug, Clone)]
pub struct HostPlan {
    /// The network's secret as this host knows it.
    pub secret: Secret,
    /// Whether it dials peers that others know.
    pub discovery: bool,
    /// Whether nobody can dial it.
    pub firewalled: bool,
    /// The NAT that it is behind.
    pub nat: Option<NatKind>,
    /// Past so many connections a well-connected subset of the peers is enough.
    pub connection_limit: usize,
    /// To whose containers its own talk all the time.
    pub talks_to: Vec<HostId>,
    /// Whether its CPU computes AES fast.
    pub aes: bool,
    /// Whom it names.
    pub targets: Vec<HostId>,
}

/// A secret: routers with the same belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Secret {
    /// The network of this scenario.
    Right,
    /// Another.
    Wrong,
    /// None, where the others have one.
    Missing,
}

/// Who names whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Each names the one before it.
    Chain,
    /// All name the first.
    Star,
    /// Each names the one before it, and the first the last.
    Ring,
    /// Each names up to three before it.
    Random,
    /// All name all, themselves included.
    Everybody,
}

impl HostPlan {
    /// Whether nobody can open a connection to it.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.firewalled || self.nat.is_some()
    }
}

/// Connections that a router wants at most, unless a scenario says otherwise: the product's own setting.
pub(crate) const CONNECTION_LIMIT: usize = 64;

impl Scenario {
    /// Routers with the right secret on a fast network where nothing breaks, all started at once.
    #[must_use]
    pub fn quiet(seed: u64, hosts: usize, shape: Shape) -> Self {
        let mut rng = rng_from(seed);
        let hosts = (0..hosts)
            .map(|host| HostPlan {
                secret: Secret::Right,
                discovery: true,
                firewalled: false,
                nat: None,
                connection_limit: CONNECTION_LIMIT,
                talks_to: Vec::new(),
                aes: true,
                targets: targets(shape, host, hosts, &mut rng),
            })
            .collect();
        let latency_max = Duration::from_millis(1);
        Self { seed, hosts, latency_max, start_within: Duration::ZERO, light: false, faults: Vec::new() }
    }

    /// The scenario of a seed, with so many routers that belong together, and a few that do not. Things break during
    /// `chaos`.
    #[must_use]
    pub fn from_seed(seed: u64, nodes: usize, chaos: Duration) -> Self {
        let mut rng = rng_from(seed ^ 0x5eed);
        let shapes = [Shape::Chain, Shape::Star, Shape::Ring, Shape::Random, Shape::Everybody];
        let mut scenario = Self::quiet(seed, nodes, shapes[index_below(&mut rng, shapes.len())]);
        scenario.latency_max = [1, 5, 20, 100, 200].map(Duration::from_millis)[index_below(&mut rng, 5)];
        scenario.start_within = [0, 0, 500, 5_000].map(Duration::from_millis)[index_below(&mut rng, 4)];
        let all_discover = rng.below(4) > 0;
        let some_firewalled = rng.below(3) == 0;
        for host in &mut scenario.hosts {
            host.aes = rng.below(2) == 0;
            host.discovery = all_discover || rng.below(2) == 0;
        }
        if some_firewalled {
            scenario.firewall_some(&mut rng);
        }
        scenario.add_strangers(&mut rng);
        if rng.below(2) == 0 {
            scenario.let_some_talk(&mut rng);
        }
        if rng.below(8) == 0 {
            let limit = 2 + index_below(&mut rng, nodes);
            scenario.hosts.iter_mut().for_each(|host| host.connection_limit = limit);
        }
        scenario.faults = faults::chaos(&mut rng, scenario.hosts.len(), chaos);
        scenario
    }

    /// Puts some hosts behind firewalls and NATs, and turns the targets round so that all can still meet: every firewalled
    /// host names the first, which is not, and edges towards it are turned.
    fn firewall_some(&mut self, rng: &mut Rng) {
        for host in self.hosts.iter_mut().skip(1) {
            match rng.below(8) {
                0 => host.firewalled = true,
                1 | 2 => host.nat = Some(NatKind::EndpointIndependent),
                3 => host.nat = Some(NatKind::AddressAndPortDependent),
                _ => {}
            }
        }
        let firewalled: Vec<_> = self.hosts.iter().map(HostPlan::is_closed).collect();
        let mut turned = Vec::new();
        for (index, host) in self.hosts.iter().enumerate() {
            turned.extend(host.targets.iter().filter(|to| firewalled[to.0]).map(|to| (to.0, HostId(index))));
            if host.is_closed() {
                turned.push((index, HostId(0)));
            }
        }
        for (from, to) in turned {
            self.hosts[from].targets.push(to);
        }
    }

    /// Adds up to two hosts that know no secret or a wrong one and name members, and that members name.
    fn add_strangers(&mut self, rng: &mut Rng) {
        let members = self.hosts.len();
        for _ in 0..rng.below(3) {
            let stranger = HostId(self.hosts.len());
            let secret = if rng.below(2) == 0 { Secret::Wrong } else { Secret::Missing };
            let targets = vec![HostId(index_below(rng, members)), HostId(index_below(rng, members))];
            self.hosts.push(HostPlan {
                secret,
                discovery: true,
                firewalled: false,
                nat: None,
                connection_limit: CONNECTION_LIMIT,
                talks_to: Vec::new(),
                aes: true,
                targets,
            });
            self.hosts[index_below(rng, members)].targets.push(stranger);
        }
    }

    /// Lets up to four pairs of members' containers talk, of those whose routers can reach each other somehow.
    fn let_some_talk(&mut self, rng: &mut Rng) {
        let members = self.hosts.iter().filter(|host| host.secret == Secret::Right).count();
        for _ in 0..=rng.below(4) {
            let (a, b) = (index_below(rng, members), index_below(rng, members));
            if a != b && self.can_send_datagrams(HostId(a), HostId(b)) {
                self.hosts[a].talks_to.push(HostId(b));
                self.hosts[b].talks_to.push(HostId(a));
            }
        }
    }

    /// Whether two hosts whose containers talk reach each other directly: by a connection, or by datagrams when both may try,
    /// and not through two NATs one of which shows each destination another port.
    #[must_use]
    pub fn can_send_datagrams(&self, a: HostId, b: HostId) -> bool {
        let nats = [a, b].map(|host| self.hosts[host.0].nat);
        let discover = [a, b].iter().all(|host| self.hosts[host.0].discovery);
        let connects = [(a, b), (b, a)]
            .iter()
            .any(|(from, to)| !self.hosts[to.0].is_closed() && self.hosts[from.0].targets.contains(to));
        if !discover {
            return connects;
        }
        nats.contains(&None) || !nats.contains(&Some(NatKind::AddressAndPortDependent))
    }

    /// Whether the members are too many for all to be connected.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        let members = self.hosts.iter().filter(|host| host.secret == Secret::Right).count();
        self.hosts.iter().any(|host| host.connection_limit < members.saturating_sub(1))
    }

    /// Whether two running members have a connection once all is calm: one of them has a reason to dial the other,
    /// and can.
    #[must_use]
    pub fn expects_link(&self, a: HostId, b: HostId) -> bool {
        if self.is_partial() {
            return false;
        }
        let dials = |from: HostId, to: HostId| {
            let host = &self.hosts[from.0];
            !self.hosts[to.0].is_closed() && (host.discovery || host.targets.contains(&to))
        };
        dials(a, b) || dials(b, a)
    }
}

/// The generator of a seed.
pub(crate) fn rng_from(seed: u64) -> Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    Rng::from_seed(bytes)
}

fn targets(shape: Shape, host: usize, hosts: usize, rng: &mut Rng) -> Vec<HostId> {
    let before = host.checked_sub(1).map(HostId);
    match shape {
        Shape::Chain => before.into_iter().collect(),
        Shape::Star => before.map(|_| HostId(0)).into_iter().collect(),
        Shape::Ring => vec![before.unwrap_or(HostId(hosts - 1))],
        Shape::Random if host == 0 => Vec::new(),
        Shape::Random => {
            let mut drawn: Vec<_> = (0..=rng.below(3)).map(|_| HostId(index_below(rng, host))).collect();
            drawn.sort_unstable();
            drawn.dedup();
            drawn
        }
        Shape::Everybody => (0..hosts).map(HostId).collect(),
    }
}
