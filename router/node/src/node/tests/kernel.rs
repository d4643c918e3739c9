//! What routers tell each other for their kernels: MACs, and where VXLAN packets are taken.

use mesh_wire::MacAddr;
use mesh_wire::control::VxlanOffer;

use super::*;
use crate::interface::VxlanEnd;

fn mac(number: u8) -> MacAddr {
    MacAddr::from_bytes([2, 0, 0, 0, 0, number])
}

fn end(vni: u32) -> VxlanEnd {
    VxlanEnd { port: 6784, vni }
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
fn nothing_is_offered_where_frames_are_sealed() {
    let mut net = Net::new(vec![config(1, Some([9; 32]), vec![]), config(2, Some([9; 32]), vec![named(0)])]);
    (0..2).for_each(|node| net.input(node, Input::Vxlan(Some(end(5)))));
    net.run(secs(1));
    assert_eq!(net.path(0, 1), (None, Some(None)));
    assert!(net.link(0, 1).kernel.is_sealed);
}
