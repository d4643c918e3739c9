//! What routers tell each other for their kernels: MACs, and where VXLAN packets are taken.

use mesh_wire::MacAddr;
use mesh_wire::control::{SealOffer, VxlanOffer, WireguardOffer};

use super::*;
use crate::groups::{GroupMembers, Wanted};
use crate::interface::VxlanEnd;

fn mac(number: u8) -> MacAddr {
    MacAddr::from_bytes([2, 0, 0, 0, 0, number])
}

fn end(vni: u32) -> VxlanEnd {
    let seal = WireguardOffer { key: [7; 32], port: 6785 };
    VxlanEnd { vni, clear: Some(6784), sealed: Some((6786, SealOffer::Wireguard(seal))) }
}

impl Net {
    fn set_macs(&mut self, node: usize, numbers: &[u8]) {
        self.input(node, Input::Macs(numbers.iter().copied().map(mac).collect()));
    }

    /// Where a node looks for a MAC: the number of another node.
    fn found(&self, node: usize, number: u8) -> Option<usize> {
        let peer = *self.nodes[node].macs_elsewhere().get(&mac(number))?;
        self.nodes.iter().position(|node| node.peer_id() == peer)
    }

    fn path(&self, from: usize, to: usize) -> (Option<VxlanOffer>, Option<Option<VxlanOffer>>) {
        let kernel = self.link(from, to).kernel;
        (kernel.ours, kernel.theirs)
    }
}

/// Three nodes in a row.
fn three() -> Net {
    let mut net = Net::new(vec![
        config(1, None, vec![]),
        Config { discovery: false, ..config(2, None, vec![named(0)]) },
        Config { discovery: false, ..config(3, None, vec![named(1)]) },
    ]);
    net.run(secs(1));
    net
}

#[test]
fn macs_are_known_everywhere_as_soon_as_they_are_announced_and_no_longer() {
    let mut net = three();
    net.set_macs(0, &[1, 2]);
    net.run(secs(1));
    assert_eq!([0, 1, 2].map(|node| net.found(node, 1)), [None, Some(0), Some(0)]);
    net.set_macs(0, &[2]);
    net.run(secs(1));
    assert_eq!([1, 2].map(|node| (net.found(node, 1), net.found(node, 2))), [(None, Some(0)); 2]);
}

#[test]
fn a_mac_that_moves_leaves_its_old_place_whatever_is_said_there() {
    let mut net = three();
    net.set_macs(0, &[1]);
    net.run(secs(1));
    net.set_macs(2, &[1]);
    net.run(secs(1));
    assert_eq!([0, 1, 2].map(|node| net.found(node, 1)), [Some(2), Some(2), None]);
    // The old place says something else, and still has the MAC in its list.
    net.set_macs(0, &[1, 7]);
    net.run(secs(1));
    assert_eq!([0, 1, 2].map(|node| net.found(node, 1)), [Some(2), Some(2), None]);
    net.set_macs(0, &[7]);
    net.set_macs(0, &[1, 7]);
    net.run(secs(1));
    assert_eq!([0, 1, 2].map(|node| net.found(node, 1)), [None, Some(0), Some(0)], "and back");
}

#[test]
fn whoever_comes_late_hears_of_all_macs_and_those_of_the_gone_are_forgotten() {
    let mut net = Net::new(vec![config(1, None, vec![]), config(2, None, vec![])]);
    net.run(secs(1));
    net.set_macs(0, &[1]);
    net.set_macs(1, &[2]);
    net.input(1, Input::Connect { targets: vec![named(0)], replace: false });
    net.run(secs(1));
    assert_eq!((net.found(0, 2), net.found(1, 1)), (Some(1), Some(0)));
    assert_eq!(net.nodes[0].announcing_peers().count(), 2);
    net.input(1, Input::Stop);
    net.run(secs(3));
    assert_eq!((net.found(0, 2), net.nodes[0].announcing_peers().count()), (None, 1));
}

#[test]
fn a_router_says_for_its_containers_no_more_macs_than_a_record_holds() {
    let mut net = Net::new(vec![config(1, None, vec![]), config(2, None, vec![named(0)])]);
    let many = (0..5_000_u16).map(|n| {
        let [high, low] = n.to_be_bytes();
        MacAddr::from_bytes([2, 0, 0, 0, high, low])
    });
    net.input(0, Input::Macs(many.chain([MacAddr::BROADCAST]).collect()));
    net.run(secs(1));
    assert_eq!(net.nodes[1].macs_elsewhere().len(), mesh_wire::control::MACS_ANNOUNCED_MAX);
}

#[test]
fn neighbours_offer_each_other_a_path_with_a_cookie_for_each() {
    let mut net = three();
    (0..3).for_each(|node| net.input(node, Input::Vxlan(Some(end(node as u32 + 10)))));
    net.run(secs(1));
    let (ours, theirs) = net.path(0, 1);
    assert_eq!((theirs, ours.map(Some)), (Some(net.path(1, 0).0), net.path(1, 0).1));
    assert_eq!(ours.map(|offer| (offer.port, offer.vni)), Some((6784, 10)));
    assert_ne!(net.path(1, 0).0.map(|offer| offer.cookie), net.path(1, 2).0.map(|offer| offer.cookie));
    net.input(1, Input::Vxlan(None));
    net.run(secs(1));
    assert_eq!(net.path(0, 1).1, Some(None));
}

#[test]
fn where_frames_are_sealed_only_what_the_kernel_seals_is_offered() {
    let mut net = Net::new(vec![config(1, Some([9; 32]), vec![]), config(2, Some([9; 32]), vec![named(0)])]);
    net.input(0, Input::Vxlan(Some(end(5))));
    net.input(1, Input::Vxlan(Some(VxlanEnd { sealed: None, ..end(5) })));
    net.run(secs(1));
    let (ours, theirs) = net.path(0, 1);
    assert_eq!(
        ours.map(|offer| (offer.port, offer.sealing())),
        end(5).sealed.map(|(port, seal)| (port, Some(seal)))
    );
    assert_eq!(theirs, Some(None), "nothing in clear");
    assert!(net.link(0, 1).kernel.is_sealed);
}

fn group(number: u8) -> MacAddr {
    MacAddr::from_bytes([0x01, 0x00, 0x5e, 1, 1, number])
}

impl Net {
    fn set_groups(&mut self, node: usize, numbers: &[u8]) {
        let groups = numbers.iter().copied().map(group).collect();
        self.input(node, Input::Groups(Wanted::Only(groups)));
    }

    /// Ends a node's connections without a word of its own, and lets nobody dial it.
    fn dies(&mut self, node: usize) {
        self.cut.extend((0..self.nodes.len()).flat_map(|other| [(node, other), (other, node)]));
        let ends: Vec<_> =
            self.wires.iter().filter(|((at, _), _)| *at == node).map(|(_, end)| *end).collect();
        self.wires.retain(|(at, _), (to, _)| *at != node && *to != node);
        ends.into_iter().for_each(|(other, id)| self.input(other, Input::Closed { id }));
    }

    /// Whom a node knows to have members of a group: the numbers of other nodes.
    fn members(&self, node: usize, number: u8) -> Vec<usize> {
        let known = self.nodes[node].group_members();
        let members = known.members.get(&group(number)).into_iter().flatten();
        let place = |peer: &PeerId| self.nodes.iter().position(|node| node.peer_id() == *peer);
        let mut places: Vec<_> = members.filter_map(place).collect();
        places.sort_unstable();
        places
    }
}

#[test]
fn members_of_groups_are_known_everywhere_until_they_leave() {
    let mut net = three();
    net.set_groups(0, &[1, 2]);
    net.set_groups(1, &[1]);
    net.run(secs(1));
    assert_eq!((net.members(2, 1), net.members(2, 2), net.members(0, 1)), (vec![0, 1], vec![0], vec![1]));
    net.set_groups(0, &[2]);
    net.run(secs(1));
    assert_eq!((net.members(2, 1), net.members(2, 2)), (vec![1], vec![0]));
}

#[test]
fn members_on_a_router_that_stops_or_dies_are_forgotten() {
    let mut net = three();
    (0..3).for_each(|node| net.set_groups(node, &[1]));
    net.run(secs(1));
    assert_eq!((net.members(0, 1), net.members(1, 1)), (vec![1, 2], vec![0, 2]));
    net.input(2, Input::Stop);
    net.run(secs(3));
    assert_eq!((net.members(0, 1), net.members(1, 1)), (vec![1], vec![0]));
    assert_eq!(net.nodes[0].group_members().selective.len(), 1);
    net.dies(1);
    net.run(secs(3));
    assert_eq!(**net.nodes[0].group_members(), GroupMembers::default());
}

#[test]
fn whoever_wants_all_groups_or_has_said_nothing_is_not_selective() {
    let mut net = three();
    net.set_groups(0, &[]);
    net.input(1, Input::Groups(Wanted::All));
    net.run(secs(1));
    let selective: Vec<_> = net.nodes[2].group_members().selective.iter().copied().collect();
    assert_eq!(selective, [net.nodes[0].peer_id()]);
    let flooded = MacAddr::from_bytes([0x33, 0x33, 0xff, 1, 2, 3]);
    net.input(1, Input::Groups(Wanted::Only([group(1), flooded].into())));
    net.run(secs(1));
    assert_eq!(net.nodes[2].group_members().selective.len(), 2);
    assert_eq!(net.members(2, 1), [1]);
    assert_eq!(net.nodes[2].group_members().members.len(), 1, "one that is flooded anyway is not told");
}

#[test]
fn a_router_with_more_groups_than_a_record_holds_wants_all() {
    let mut net = three();
    let many = (0..=mesh_wire::control::GROUPS_ANNOUNCED_MAX as u16).map(|n| {
        let [high, low] = n.to_be_bytes();
        MacAddr::from_bytes([0x33, 0x33, 0, 1, high, low])
    });
    net.input(0, Input::Groups(Wanted::Only(many.clone().skip(1).collect())));
    net.run(secs(1));
    assert_eq!(net.nodes[2].group_members().members.len(), mesh_wire::control::GROUPS_ANNOUNCED_MAX);
    net.input(0, Input::Groups(Wanted::Only(many.collect())));
    net.run(secs(1));
    assert_eq!(**net.nodes[2].group_members(), GroupMembers::default());
}

#[test]
fn both_ends_share_a_key_for_their_kernels_and_change_it_together() {
    let mut net = Net::new(vec![config(1, Some([9; 32]), vec![]), config(2, Some([9; 32]), vec![named(0)])]);
    net.run(secs(1));
    let key = |net: &Net, from, to| net.link(from, to).wireguard_key.as_ref().map(|key| key.0);
    let first = key(&net, 0, 1);
    assert_eq!(first, key(&net, 1, 0));
    assert!(first.is_some());
    net.run(secs(200));
    let second = key(&net, 0, 1);
    assert_eq!(second, key(&net, 1, 0));
    assert_ne!(first, second);
    let mut clear = Net::new(vec![config(1, None, vec![]), config(2, None, vec![named(0)])]);
    clear.run(secs(1));
    assert_eq!(key(&clear, 0, 1), None);
}
