//! What follows from the topology: routes, who can be reached, whom to dial and whom to forget. Owns when it is drawn:
//! at a pace that the size of the network sets, however fast its records change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mesh_topology::{Records, Routes, Target};
use mesh_wire::{Moment, PeerId};

use crate::counters::Count;
use crate::limits::{
    ADDRESS_KNOWN_FOR, KNOWN_ADDRESSES_MAX, SETTLED_PER_PEER, SURPLUS_EVERY, UNREACHABLE_KEPT,
};
use crate::node::Node;

/// What was found when the topology was last looked at.
#[derive(Default)]
pub(crate) struct Survey {
    at: Option<Moment>,
    routes: Routes,
    /// Whether `routes` are to be computed anew before they are used again.
    routes_due: bool,
    /// Who could not be reached when the timer to forget them was set; whoever still cannot be when it is due is gone.
    unreachable: BTreeSet<PeerId>,
    /// Where peers are said to be, once somebody has asked.
    addresses: Option<BTreeSet<IpAddr>>,
    /// Where sessions have ended lately, and when: whoever stopped a moment ago comes back from there.
    left: BTreeMap<IpAddr, Moment>,
}

impl Survey {
    /// The routes that were computed last.
    pub(crate) const fn routes(&self) -> &Routes {
        &self.routes
    }
}

impl Node {
    /// The ways to all peers, as of the last survey, or of the loss of a link since then.
    pub(crate) fn routes(&mut self) -> &Routes {
        if std::mem::take(&mut self.survey.routes_due) {
            self.survey.routes = Routes::compute(&self.topology);
            self.counters.count(Count::RoutesComputed);
        }
        &self.survey.routes
    }

    /// Has the routes computed anew before they are used again, and the data plane told.
    pub(crate) const fn renew_routes(&mut self) {
        self.survey.routes_due = true;
        self.plan_changed = true;
    }

    /// Lets the next survey be as soon as the pace allows.
    pub(crate) fn survey_soon(&mut self, now: Moment) {
        let peers = u32::try_from(self.topology.records().len()).unwrap_or(u32::MAX);
        let pause: Duration = SETTLED_PER_PEER * peers;
        let due = self.survey.at.map_or(now, |last| (last + pause).max(now));
        self.timers.survey.get_or_insert(due);
    }

    pub(crate) fn run_survey(&mut self, now: Moment) {
        self.timers.survey = None;
        self.survey.at = Some(now);
        self.renew_routes();
        self.survey.addresses = None;
        self.news.try_held(now);
        self.show_names_of_reachable(now);
        if self.timers.forget.is_none() {
            self.watch_unreachable(self.unreachable(), now);
        }
        self.look_around(now);
    }

    /// Seeks whom this router wants to be connected with, and lets others go if they are too many.
    pub(crate) fn look_around(&mut self, now: Moment) {
        self.tell_members(now);
        let connected = self.connected();
        self.connector.discover(&self.topology, &connected, now);
        if self.connector.has_too_many(&self.topology, connected.len()) {
            self.timers.surplus.get_or_insert(now + SURPLUS_EVERY);
        }
    }

    /// Whether a target or a peer is said to be at an address. Counted out only when it is asked for, at most once a
    /// survey.
    pub(crate) fn knows(&mut self, address: IpAddr) -> bool {
        let addresses = self.survey.addresses.take().unwrap_or_else(|| self.addresses_of_peers());
        let address = address.to_canonical();
        self.survey.addresses.insert(addresses).contains(&address) || self.survey.left.contains_key(&address)
    }

    /// Looks within a moment whether the origins of what has come can be reached.
    pub(crate) fn doubt_origins(&mut self, now: Moment) {
        self.timers.forget.get_or_insert(now + UNREACHABLE_KEPT);
    }

    /// Forgets peers that are out of reach, and were so the last time, too.
    pub(crate) fn forget_unreachable(&mut self, now: Moment) {
        let unreachable = self.unreachable();
        let (gone, suspects) =
            unreachable.into_iter().partition(|peer| self.survey.unreachable.contains(peer));
        self.watch_unreachable(suspects, now);
        self.forget_peers(&gone, now);
    }

    fn forget_peers(&mut self, gone: &BTreeSet<PeerId>, now: Moment) {
        if gone.is_empty() {
            return;
        }
        self.topology.forget(gone);
        self.carried.retain(|origin| !gone.contains(&origin));
        self.macs.told.retain(|origin| !gone.contains(&origin));
        self.groups.told.retain(|origin| !gone.contains(&origin));
        self.names.retain(|origin| !gone.contains(&origin));
        self.news.retain(|origin| !gone.contains(&origin));
        self.forget_relayed(gone, now);
        self.post.retain(|peer| !gone.contains(&peer));
        self.topology_changed = true;
    }

    fn watch_unreachable(&mut self, suspects: BTreeSet<PeerId>, now: Moment) {
        self.timers.forget = (!suspects.is_empty()).then_some(now + UNREACHABLE_KEPT);
        self.survey.unreachable = suspects;
    }

    /// The origins of records that no chain of listed connections reaches.
    fn unreachable(&self) -> BTreeSet<PeerId> {
        let carried = self.carried.channels().flat_map(Records::iter).map(|record| record.row.origin);
        let announcing = self.macs.told.records().iter().map(|record| record.row.origin);
        let grouped = self.groups.told.records().iter().map(|record| record.row.origin);
        let named = self.names.channels().flat_map(Records::iter).map(|record| record.row.origin);
        let others = carried.chain(announcing).chain(grouped).chain(named);
        let unreachable = others.filter(|origin| !self.topology.reaches(*origin));
        unreachable.chain(self.topology.cut_off().iter().copied()).collect()
    }

    /// A session with a peer at this address has ended.
    pub(crate) fn left(&mut self, address: IpAddr, now: Moment) {
        let left = &mut self.survey.left;
        left.retain(|_, ended| now.since(*ended) < ADDRESS_KNOWN_FOR);
        if left.len() < KNOWN_ADDRESSES_MAX {
            left.insert(address.to_canonical(), now);
        }
    }

    /// Where this router dials, and where peers say that others are.
    fn addresses_of_peers(&self) -> BTreeSet<IpAddr> {
        let listed =
            self.topology.records().flat_map(|(_, record)| &record.links).map(|link| link.address.ip());
        let dialed = self.connector.targets().filter_map(|(target, _)| match target {
            Target::Named { host, .. } => host.parse().ok(),
            Target::Discovered { address, .. } => Some(address.ip()),
        });
        let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
        for address in dialed.chain(listed) {
            if addresses.len() >= KNOWN_ADDRESSES_MAX {
                break;
            }
            addresses.insert(address.to_canonical());
        }
        addresses
    }
}
