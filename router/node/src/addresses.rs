//! Address management inside the node: who can be reached, what goes out as mail, what the shell has to do. The rules are
//! `mesh-ipam`'s.

use std::collections::{BTreeMap, BTreeSet};

use mesh_ipam::{Ipam, Reachable};
use mesh_topology::{Target, TargetStatus};
use mesh_wire::control::Channel;
use mesh_wire::{Moment, Nickname, PeerId};

use crate::interface::{AddressOutput, Event, Output};
use crate::node::Node;

/// What address management starts from.
pub struct Addresses {
    /// Its settings.
    pub config: mesh_ipam::Config,
    /// What was found on disk.
    pub state: mesh_ipam::State,
}

impl Node {
    /// The state of address management; `None` where it is off.
    #[must_use]
    pub fn ipam_status(&self, now: Moment) -> Option<mesh_ipam::Status> {
        self.ipam.as_ref().map(|ipam| ipam.status(now))
    }

    /// The peers that were declared gone for good, with the labels that they had.
    pub fn retired_peers(&self) -> impl Iterator<Item = (PeerId, Option<Nickname>)> + '_ {
        self.ipam.iter().flat_map(Ipam::retired)
    }

    /// The durable state of address management with the number of its last batch, from which a new log can start.
    #[must_use]
    pub fn ipam_snapshot(&self) -> Option<(u64, Vec<u8>)> {
        self.ipam.as_ref().map(Ipam::snapshot)
    }

    pub(crate) fn address_input(&mut self, input: mesh_ipam::Input, now: Moment) {
        if let Some(ipam) = &mut self.ipam {
            ipam.handle(input, now);
        }
    }

    /// Tells address management who can be reached, if that is news.
    pub(crate) fn tell_members(&mut self, now: Moment) {
        if self.ipam.is_none() {
            return;
        }
        let me = self.peer_id();
        let told = self.told_peers();
        let members: BTreeMap<PeerId, Reachable> = self
            .topology
            .records()
            .filter(|(peer, _)| *peer != me && self.topology.reaches(*peer))
            .map(|(peer, record)| {
                (peer, Reachable { nickname: record.nickname.clone(), told: told.contains(&peer) })
            })
            .collect();
        if members != self.members {
            self.members.clone_from(&members);
            self.address_input(mesh_ipam::Input::Members(members), now);
        }
    }

    /// The peers that the user's targets have led to.
    fn told_peers(&self) -> BTreeSet<PeerId> {
        let named = self.connector.targets().filter_map(|(target, status)| match (target, status) {
            (Target::Named { .. }, TargetStatus::Connected(peer) | TargetStatus::Enough(peer)) => Some(peer),
            (Target::Named { .. } | Target::Discovered { .. }, _) => None,
        });
        named.collect()
    }

    /// Carries out what address management wants. Whatever that leads to is done within the same input.
    pub(crate) fn settle_addresses(&mut self, now: Moment) {
        if self.ipam.as_ref().and_then(Ipam::poll_timeout).is_some_and(|at| at <= now) {
            self.address_input(mesh_ipam::Input::Timeout, now);
        }
        while let Some(output) = self.ipam.as_mut().and_then(Ipam::poll_output) {
            match output {
                mesh_ipam::Output::Persist { seq, bytes } => {
                    self.outputs.push_back(Output::Ipam(AddressOutput::Persist { seq, bytes }));
                }
                mesh_ipam::Output::Answer { ticket, result } => {
                    self.outputs.push_back(Output::Ipam(AddressOutput::Answer { ticket, result }));
                }
                mesh_ipam::Output::Send { peer, bytes } => {
                    self.post(Some(peer), Channel::ADDRESSES, bytes, now);
                }
                mesh_ipam::Output::Broadcast { bytes } => self.post(None, Channel::ADDRESSES, bytes, now),
                mesh_ipam::Output::Event(event) => {
                    self.outputs.push_back(Output::Event(Event::Addresses(event)));
                }
            }
        }
        let network = self.ipam.as_ref().and_then(Ipam::network_id);
        if let Some(network) = network.filter(|network| self.admission.network() != Some(*network)) {
            self.founded(network, now);
        }
    }
}
