//! The node itself: connections and sessions, and the decisions that span them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mesh_crypto::{Identity, Rng};
use mesh_ipam::{Ipam, Reachable};
use mesh_topology::{Carried, Connector, OpenRecord, Record, Records, Target, Topology, Verify};
use mesh_wire::control::{Channel, Farewell, LinkRecord, Message, PeerRecord};
use mesh_wire::{Moment, Nickname, PeerId};

use crate::addresses::Addresses;
use crate::admission::Admission;
use crate::bucket::Bucket;
use crate::clones::Clones;
use crate::connection::CloseCause;
use crate::connections::Connections;
use crate::counters::Counters;
use crate::data_link::DataLink;
use crate::groups::Groups;
use crate::interface::{Config, ConnectionId, Input, Output, VxlanEnd};
use crate::limits::ANTI_ENTROPY_EVERY;
use crate::macs::Macs;
use crate::mail::Post;
use crate::names::NameRecords;
use crate::news::News;
use crate::orphans::Orphans;
use crate::plan::{LinkPlan, Plan};
use crate::refusals::Refusals;
use crate::relay::Relays;
use crate::strangers::Strangers;
use crate::survey::Survey;

/// The control plane of one router.
///
/// **Contract.** After each [`Self::handle`] drain [`Self::poll_output`] to `None` before the next, and call again
/// with [`Input::Timeout`] no later than [`Self::poll_timeout`] says. Times never go backwards. The getters may be
/// called at any time. Nothing a peer sends makes a method panic.
pub struct Node {
    pub(crate) identity: Identity,
    pub(crate) admission: Admission,
    pub(crate) aes_preferred: bool,
    /// Whether peers are reached that the user did not name.
    pub(crate) discovery: bool,
    pub(crate) rekey_after: Duration,
    pub(crate) topology: Topology,
    pub(crate) carried: Carried,
    pub(crate) connector: Connector,
    pub(crate) connections: Connections,
    /// The one connection of each peer that counts.
    pub(crate) sessions: BTreeMap<PeerId, ConnectionId>,
    /// Why each target's last attempt failed.
    pub(crate) failures: BTreeMap<Target, CloseCause>,
    pub(crate) refusals: Refusals,
    pub(crate) relays: Relays,
    pub(crate) orphans: Orphans,
    pub(crate) post: Post,
    /// Address management, where it is on.
    pub(crate) ipam: Option<Ipam>,
    /// The peers that it was told of last.
    pub(crate) members: BTreeMap<PeerId, Reachable>,
    pub(crate) macs: Macs,
    pub(crate) groups: Groups,
    /// Where this host's kernel takes frames.
    pub(crate) vxlan: Option<VxlanEnd>,
    pub(crate) names: NameRecords,
    pub(crate) strangers: Strangers,
    pub(crate) clones: Clones,
    /// Whether this router has found itself to be the copy of another that is at work, and has given up.
    pub(crate) fenced: bool,
    pub(crate) news: News,
    /// Allows lines in the log about gossip that was refused.
    pub(crate) complaints: Bucket,
    pub(crate) counters: Counters,
    pub(crate) timers: Timers,
    pub(crate) rng: Rng,
    pub(crate) dials: u64,
    /// What follows from `topology`, as of the last survey or before.
    pub(crate) survey: Survey,
    pub(crate) links_changed: bool,
    pub(crate) topology_changed: bool,
    pub(crate) plan_changed: bool,
    /// Whether the peers of relayed sessions have to hear of other candidate addresses.
    pub(crate) candidates_changed: bool,
    pub(crate) outputs: VecDeque<Output>,
}

/// All times of the node that belong to no single connection.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    pub(crate) survey: Option<Moment>,
    pub(crate) forget: Option<Moment>,
    pub(crate) surplus: Option<Moment>,
    pub(crate) anti_entropy: Option<Moment>,
    pub(crate) names: Option<Moment>,
    pub(crate) distances: Option<Moment>,
}

impl Node {
    /// A node that has connected to nobody yet; its first [`Input::Timeout`] may come at once.
    #[must_use]
    pub fn new(config: Config, rng: Rng, now: Moment) -> Self {
        Self::with_opener(config, Box::new(Verify), rng, now)
    }

    /// The same, with another way to open the records of peers.
    #[must_use]
    pub fn with_opener(
        config: Config,
        opener: Box<dyn OpenRecord<PeerRecord>>,
        mut rng: Rng,
        now: Moment,
    ) -> Self {
        let Config { identity, boot, nickname, port, nonce, .. } = config;
        let ipam = config.ipam.map(|Addresses { config, state }| Ipam::new(config, state, rng.fork(), now));
        let topology = Topology::with_opener(&identity, boot, nickname, port, nonce, opener);
        let connector =
            Connector::new(topology.me(), config.discovery, config.connection_limit, config.targets, now);
        Self {
            identity,
            admission: Admission::new(config.secrets, config.allowed, config.trusted_subnets, config.network),
            aes_preferred: config.aes_preferred,
            discovery: config.discovery,
            rekey_after: config.rekey_after,
            topology,
            carried: Carried::default(),
            connector,
            connections: Connections::default(),
            sessions: BTreeMap::new(),
            failures: BTreeMap::new(),
            refusals: Refusals::default(),
            relays: Relays::default(),
            orphans: Orphans::default(),
            post: Post::default(),
            ipam,
            members: BTreeMap::new(),
            macs: Macs::default(),
            groups: Groups::default(),
            vxlan: None,
            names: NameRecords::new(config.names),
            strangers: Strangers::default(),
            clones: Clones::default(),
            fenced: false,
            news: News::default(),
            complaints: Bucket::default(),
            counters: Counters::new(),
            timers: Timers { anti_entropy: Some(now + ANTI_ENTROPY_EVERY), ..Timers::default() },
            rng,
            dials: 0,
            survey: Survey::default(),
            links_changed: false,
            topology_changed: true,
            plan_changed: true,
            candidates_changed: false,
            outputs: VecDeque::new(),
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Moment) {
        debug_assert!(self.outputs.is_empty(), "outputs of the last input were not drained");
        self.excuse_own_sleep(now);
        match input {
            Input::Dialed { id, local, remote } => self.dialed(id, local, remote, now),
            Input::DialFailed { id, failure } => self.end(id, CloseCause::Dial(failure), now),
            Input::Accepted { id, local, remote } => self.accepted(id, local, remote, now),
            Input::Received { id, bytes } => self.received(id, bytes, now),
            Input::Closed { id } => self.end(id, CloseCause::Closed, now),
            Input::Report(report) => self.report(report, now),
            Input::Addresses(addresses) => self.addresses_changed(&addresses, now),
            Input::Connect { targets, replace } => self.connect(targets, replace, now),
            Input::Forget { targets } => self.forget(&targets),
            Input::Secrets(secrets) => self.set_secrets(secrets, now),
            Input::Founded(network) => self.founded(network, now),
            Input::Macs(macs) => self.set_macs(&macs, now),
            Input::Groups(wanted) => self.set_groups(wanted, now),
            Input::Vxlan(end) => self.set_vxlan(end, now),
            Input::Ipam(input) => self.address_input(input, now),
            Input::Names { container, entries } => self.set_names(&container, &entries, now),
            Input::Timeout => {}
            Input::Stop => return self.stop(),
        }
        self.run_timers(now);
        self.settle(now);
        self.connections.tabulate();
    }

    /// The next thing that the shell shall do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let connections = self.connections.poll_timeout();
        let dials = self.connector.poll_timeout().filter(|_| !self.fenced);
        let Timers { survey, forget, surplus, anti_entropy, names, distances } = self.timers;
        let addresses = self.ipam.as_ref().and_then(Ipam::poll_timeout);
        let others = [
            dials,
            self.relays.poll_timeout(),
            self.news.poll_timeout(),
            addresses,
            self.orphans.poll_timeout(),
        ];
        let timers = [survey, forget, surplus, anti_entropy, names, distances];
        others.into_iter().chain(timers).flatten().chain(connections).min()
    }

    /// All that the data plane shall do, as of now.
    #[must_use]
    pub fn plan(&mut self) -> Plan {
        let routes = self.routes().clone();
        Plan::new(self.peer_id(), routes, self.data_links(), Arc::clone(self.group_members()))
    }

    /// The links of the plan alone, without the routes: what whoever only probes needs.
    #[must_use]
    pub fn links(&self) -> Vec<LinkPlan> {
        self.data_links().filter_map(|(peer, link)| link.plan(peer)).collect()
    }

    fn data_links(&self) -> impl Iterator<Item = (PeerId, &DataLink)> {
        let all = self.sessions.iter().map(|(peer, id)| (*peer, *id)).chain(self.relays.all());
        let of_sessions = all.filter_map(|(peer, id)| Some((peer, &self.connections.get(&id)?.open()?.data)));
        of_sessions.chain(self.orphans.links())
    }

    /// How many peers are known, this router among them.
    #[must_use]
    pub fn peer_count(&self) -> usize {
        self.topology.records().len()
    }

    /// Takes in the records of a network that this router is about to have its links in, and tells nobody: how a simulator begins
    /// with a network too large to be joined one by one. Call it between two inputs.
    pub fn adopt(&mut self, records: &Records<PeerRecord>) {
        self.topology.adopt(records);
        self.topology_changed = true;
    }

    /// This router's record as others hold it.
    #[must_use]
    pub fn signed_record(&self) -> Arc<Record<PeerRecord>> {
        let own = self.topology.store().get(self.peer_id());
        Arc::clone(own.expect("a router holds its own record"))
    }

    /// A hash of all records of peers that are held: equal where the same are.
    #[must_use]
    pub fn topology_root(&self) -> u64 {
        self.topology.store().summary().root
    }

    /// Bytes of all records of peers that are held: as they travel, and as they are read. An allocator adds its own.
    #[must_use]
    pub fn topology_bytes(&self) -> usize {
        let bytes = |record: &Arc<Record<PeerRecord>>| {
            let links = record.content.links.len() * size_of::<LinkRecord>();
            size_of::<Record<PeerRecord>>() + record.entry.len() + links
        };
        self.topology.store().iter().map(bytes).sum()
    }

    /// What was counted since the start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether this router is a copy of another that is at work, and has left the network to it.
    #[must_use]
    pub const fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// This router's id.
    #[must_use]
    pub const fn peer_id(&self) -> PeerId {
        self.topology.me()
    }

    /// What this router says of itself to others.
    #[must_use]
    pub fn own_record(&self) -> &PeerRecord {
        self.topology.own()
    }

    /// This router's label.
    #[must_use]
    pub fn nickname(&self) -> &Nickname {
        &self.topology.own().nickname
    }

    /// Whether the network has a secret.
    #[must_use]
    pub const fn has_secret(&self) -> bool {
        self.admission.has_secret()
    }

    fn stop(&mut self) {
        for (id, mut connection) in self.connections.take() {
            if let Some(Ok(bytes)) =
                connection.open_mut().map(|open| open.seal(&Message::Bye(Farewell::Stopping)))
            {
                self.outputs.push_back(Output::Write { id, bytes });
            }
            self.outputs.push_back(Output::Close { id });
        }
        self.sessions.clear();
    }

    fn run_timers(&mut self, now: Moment) {
        self.connections.tabulate();
        for id in self.connections.due(now) {
            self.run_connection_timers(id, now);
        }
        if self.timers.anti_entropy.is_some_and(|at| at <= now) {
            let fifth_ms = u64::try_from(ANTI_ENTROPY_EVERY.as_millis() / 5).unwrap_or(u64::MAX);
            let wait = ANTI_ENTROPY_EVERY * 4 / 5 + Duration::from_millis(self.rng.below(2 * fifth_ms));
            self.timers.anti_entropy = Some(now + wait);
            self.repair_gossip(now);
            self.look_around(now);
        }
        if self.timers.forget.is_some_and(|at| at <= now) {
            self.forget_unreachable(now);
        }
        if self.timers.surplus.is_some_and(|at| at <= now) {
            self.let_one_go(now);
        }
        if self.timers.names.is_some_and(|at| at <= now) {
            self.show_names_of_reachable(now);
        }
        if self.timers.distances.is_some_and(|at| at <= now) {
            self.tell_distances();
        }
        self.run_relay_timers(now);
        self.run_orphan_timers(now);
        self.refusals.expire(now);
    }

    /// Draws the consequences of what changed: own record, news, targets, dials, plan.
    fn settle(&mut self, now: Moment) {
        self.settle_addresses(now);
        self.settle_relayed(now);
        if std::mem::take(&mut self.links_changed) {
            self.publish_links(now);
        }
        if std::mem::take(&mut self.topology_changed) {
            self.survey_soon(now);
        }
        if self.timers.survey.is_some_and(|at| at <= now) {
            self.run_survey(now);
        }
        self.settle_macs();
        self.settle_groups();
        self.spread_news(now);
        self.dial_due(now);
        if self.plan_changed {
            self.plan_changed = false;
            self.outputs.push_back(Output::PlanChanged);
        }
    }

    /// Says in the own record which links there are now.
    fn publish_links(&mut self, now: Moment) {
        let links = self.own_links();
        let carrying = |links: &[LinkRecord]| -> BTreeSet<PeerId> {
            links.iter().filter(|link| link.established).map(|link| link.peer).collect()
        };
        let lost_one = !carrying(&self.topology.own().links).is_subset(&carrying(&links));
        if !self.topology.publish(&self.identity, links) {
            return;
        }
        self.topology_changed = true;
        self.announce((Channel::TOPOLOGY, self.peer_id()), None, now);
        // The present routes may lead over a link that is gone.
        if lost_one {
            self.renew_routes();
        }
    }
}

#[cfg(test)]
mod tests;
