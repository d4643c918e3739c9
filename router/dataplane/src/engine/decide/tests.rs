use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mesh_crypto::DirectionKey;
use mesh_wire::{Moment, ReceiverIndex};
use proptest::prelude::*;

use super::*;
use crate::engine::{Duplicates, GROUP_COPIES_MAX, Groups, LinkPlan, Plan, SendPlan, Tree};

const fn peer(number: u8) -> PeerId {
    PeerId::from_bytes([number; PeerId::LEN])
}

const ME: PeerId = peer(0);
/// A neighbour without children of its own in our tree.
const LEAF: PeerId = peer(1);
/// A neighbour behind which FAR is.
const HUB: PeerId = peer(2);
/// Reached over HUB.
const FAR: PeerId = peer(3);
/// A neighbour with whom there is no key to send yet.
const MUTE: PeerId = peer(4);
/// A neighbour by a session of ours alone, that the topology reaches over HUB.
const NEAR: PeerId = peer(5);
/// Nobody has heard of it.
const STRANGER: PeerId = peer(9);

const STATION: MacAddr = MacAddr::from_bytes([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr::from_bytes([2, 0, 0, 0, 0, 2]);
const DIGEST: u32 = 7;
const SEQUENCE: u32 = 70;

fn link_plan(peer: PeerId, sends: bool) -> LinkPlan {
    let send = SendPlan { epoch: 0, index: ReceiverIndex(1), key: DirectionKey::Clear { cookie: [0; 8] } };
    let remote = ([127, 0, 0, 1], 1).into();
    LinkPlan {
        peer,
        remote,
        candidates: Vec::new(),
        roams: true,
        in_doubt: false,
        receive: Vec::new(),
        send: sends.then_some(send),
    }
}

fn plan() -> Plan {
    let trees = [
        (ME, Tree { parent: None, children: vec![LEAF, HUB, MUTE] }),
        (HUB, Tree { parent: Some(HUB), children: vec![] }),
        (FAR, Tree { parent: Some(HUB), children: vec![LEAF] }),
        (NEAR, Tree { parent: Some(HUB), children: vec![LEAF] }),
        // As if views differed: the parent is a child as well.
        (LEAF, Tree { parent: Some(LEAF), children: vec![LEAF, HUB] }),
    ];
    Plan {
        me: ME,
        digest: DIGEST,
        links: vec![
            link_plan(LEAF, true),
            link_plan(HUB, true),
            link_plan(MUTE, false),
            link_plan(NEAR, true),
        ],
        next_hop: [(LEAF, LEAF), (HUB, HUB), (FAR, HUB), (MUTE, MUTE), (NEAR, NEAR)].into(),
        trees: trees.into(),
        groups: Arc::default(),
    }
}

fn tables() -> Tables {
    Tables::new(&plan())
}

fn links(tables: &Tables) -> [LinkId; 3] {
    [LEAF, HUB, MUTE].map(|peer| tables.link(peer).unwrap())
}

fn captured(destination: MacAddr) -> Key {
    Key {
        arrival: Arrival::Captured { sequence: SEQUENCE },
        source: STATION,
        destination,
        tells_of_members: false,
    }
}

fn received(from: LinkId, envelope: Envelope) -> Key {
    Key {
        arrival: Arrival::Received { from, envelope },
        source: STATION,
        destination: OTHER,
        tells_of_members: false,
    }
}

fn unicast(links: u8, source: PeerId, destination: PeerId) -> Envelope {
    Envelope::Unicast { ttl: TimeToLive::new(links).unwrap(), source, destination }
}

fn broadcast(links: u8, source: PeerId, digest: u32) -> Envelope {
    Envelope::Broadcast { ttl: TimeToLive::new(links).unwrap(), source, digest, sequence: SEQUENCE }
}

fn sent(decision: &Decision<'_>) -> Vec<(LinkId, Envelope)> {
    decision.transmissions().map(|sent| (sent.link, sent.envelope)).collect()
}

/// A decision that drops, and does nothing else.
fn assert_only_drops(decision: &Decision<'_>, reason: DropReason) {
    assert_eq!((decision.learn, decision.inject, decision.drop), (None, false, Some(reason)));
    assert!(sent(decision).is_empty());
}

#[test]
fn a_captured_frame_for_a_neighbour_goes_to_it_directly() {
    let tables = tables();
    let [leaf, ..] = links(&tables);
    let decision = decide(&captured(OTHER), &tables, Location::Known(Owner::Peer(LEAF)));
    assert_eq!(sent(&decision), [(leaf, Envelope::Direct)]);
    assert_eq!((decision.learn, decision.inject, decision.drop), (Some(Owner::Local), false, None));
}

#[test]
fn a_captured_frame_for_a_far_peer_goes_to_the_next_hop_with_all_its_life() {
    let tables = tables();
    let [_, hub, _] = links(&tables);
    let decision = decide(&captured(OTHER), &tables, Location::Known(Owner::Peer(FAR)));
    assert_eq!(sent(&decision), [(hub, unicast(15, ME, FAR))]);
}

#[test]
fn a_route_around_a_neighbour_wins_over_the_direct_link() {
    let tables = Tables::new(&Plan {
        me: ME,
        digest: 0,
        links: vec![link_plan(LEAF, true), link_plan(HUB, true)],
        next_hop: [(LEAF, HUB), (HUB, HUB)].into(),
        trees: BTreeMap::new(),
        groups: Arc::default(),
    });
    let decision = decide(&captured(OTHER), &tables, Location::Known(Owner::Peer(LEAF)));
    assert_eq!(sent(&decision), [(tables.link(HUB).unwrap(), unicast(15, ME, LEAF))]);
}

#[test]
fn a_captured_frame_for_a_local_mac_is_the_bridges_matter() {
    let decision_tables = tables();
    let decision = decide(&captured(OTHER), &decision_tables, Location::Known(Owner::Local));
    assert_eq!((decision.learn, decision.drop), (Some(Owner::Local), Some(DropReason::DestinationIsLocal)));
    assert!(sent(&decision).is_empty());
}

#[test]
fn a_captured_frame_for_a_peer_without_a_usable_link_is_dropped_by_name() {
    let tables = tables();
    let decision = decide(&captured(OTHER), &tables, Location::Known(Owner::Peer(MUTE)));
    assert_eq!((decision.learn, decision.drop), (Some(Owner::Local), Some(DropReason::NoRoute)));
    assert!(sent(&decision).is_empty());
}

#[test]
fn a_captured_frame_for_a_peer_that_vanished_is_flooded() {
    let tables = tables();
    let gone = decide(&captured(OTHER), &tables, Location::Known(Owner::Peer(STRANGER)));
    assert_eq!(gone, decide(&captured(OTHER), &tables, Location::Unknown));
}

#[test]
fn unknown_and_group_destinations_are_flooded_down_our_own_tree() {
    let tables = tables();
    let [leaf, hub, _] = links(&tables);
    for destination in [OTHER, MacAddr::BROADCAST, MacAddr::from_bytes([0x33, 0x33, 0, 0, 0, 1])] {
        let decision = decide(&captured(destination), &tables, Location::Unknown);
        assert_eq!(sent(&decision), [leaf, hub].map(|link| (link, broadcast(15, ME, DIGEST))));
        assert_eq!(decision.drop, None);
    }
}

const GROUP: MacAddr = MacAddr::from_bytes([0x01, 0x00, 0x5e, 1, 1, 1]);
const ALL_HOSTS: MacAddr = MacAddr::from_bytes([0x01, 0x00, 0x5e, 0, 0, 1]);

/// The usual tables, where these peers want their own groups alone, and these have members of [`GROUP`].
fn snooping(selective: &[PeerId], members: &[PeerId]) -> Tables {
    let members = BTreeMap::from([(GROUP, members.iter().copied().collect())]);
    let groups = Groups { selective: selective.iter().copied().collect(), members };
    Tables::new(&Plan { groups: Arc::new(groups), ..plan() })
}

#[test]
fn a_frame_for_a_group_goes_to_its_members_and_to_whoever_has_said_nothing() {
    let tables = snooping(&[LEAF, HUB, FAR, MUTE], &[FAR]);
    let [_, hub, _] = links(&tables);
    let near = tables.link(NEAR).unwrap();
    let decision = decide(&captured(GROUP), &tables, Location::Unknown);
    assert_eq!(sent(&decision), [(hub, unicast(15, ME, FAR)), (near, Envelope::Direct)]);
    assert_eq!((decision.drop, decision.event), (None, None));

    let flooded = decide(&captured(ALL_HOSTS), &tables, Location::Unknown);
    assert_eq!(sent(&flooded).len(), 2, "everybody is a member");
    assert!(sent(&flooded).iter().all(|(_, envelope)| matches!(envelope, Envelope::Broadcast { .. })));
}

#[test]
fn a_frame_for_a_group_without_members_stays_and_is_counted() {
    let all = [LEAF, HUB, FAR, MUTE, NEAR];
    for (tables, group) in [(snooping(&all, &[]), GROUP), (snooping(&all, &[FAR]), GROUP_OF_OTHERS)] {
        let decision = decide(&captured(group), &tables, Location::Unknown);
        assert_eq!((sent(&decision), decision.event), (vec![], Some(Event::GroupWithoutMembers)));
    }
}

const GROUP_OF_OTHERS: MacAddr = MacAddr::from_bytes([0x33, 0x33, 0, 0, 0x12, 0x34]);

#[test]
fn what_tells_of_members_goes_only_to_whoever_wants_all_groups() {
    let tables = snooping(&[LEAF, HUB, FAR, MUTE], &[LEAF, FAR]);
    let near = tables.link(NEAR).unwrap();
    for group in [GROUP, ALL_HOSTS] {
        let report = Key { tells_of_members: true, ..captured(group) };
        let decision = decide(&report, &tables, Location::Unknown);
        assert_eq!(sent(&decision), [(near, Envelope::Direct)]);
        assert_eq!(decision.event, Some(Event::MembershipKept));
    }
}

#[test]
fn groups_are_flooded_where_all_want_them_or_too_many() {
    let nobody_said_a_word = snooping(&[], &[]);
    let all_are_members = snooping(&[LEAF, HUB, FAR, MUTE, NEAR], &[LEAF, HUB, FAR, MUTE, NEAR]);
    let many: Vec<_> = (10..=10 + GROUP_COPIES_MAX as u8).map(peer).collect();
    let members = BTreeMap::from([(GROUP, many.iter().copied().collect())]);
    let groups = Groups { selective: many.iter().copied().chain([LEAF]).collect(), members };
    let mut next_hop = plan().next_hop;
    next_hop.extend(many.iter().map(|peer| (*peer, HUB)));
    let too_many = Tables::new(&Plan { groups: Arc::new(groups), next_hop, ..plan() });
    for tables in [nobody_said_a_word, all_are_members, too_many] {
        let decision = decide(&captured(GROUP), &tables, Location::Unknown);
        assert_eq!(
            sent(&decision),
            links(&tables)[..2].iter().map(|link| (*link, broadcast(15, ME, DIGEST))).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_router_alone_floods_to_nobody() {
    let tables = Tables::alone(ME);
    let decision = decide(&captured(MacAddr::BROADCAST), &tables, Location::Unknown);
    assert!(sent(&decision).is_empty());
    assert_eq!((decision.learn, decision.drop), (Some(Owner::Local), None));
}

#[test]
fn spanning_tree_and_other_link_control_goes_nowhere_in_either_direction() {
    let tables = tables();
    let [leaf, ..] = links(&tables);
    let control = MacAddr::from_bytes([0x01, 0x80, 0xc2, 0, 0, 0]);
    let keys = [captured(control), Key { destination: control, ..received(leaf, Envelope::Direct) }];
    for key in keys {
        assert_only_drops(&decide(&key, &tables, Location::Unknown), DropReason::LinkLocalControl);
    }
}

#[test]
fn a_frame_whose_source_is_no_station_goes_nowhere_and_teaches_nothing() {
    let tables = tables();
    for source in [MacAddr::BROADCAST, MacAddr::from_bytes([0; 6])] {
        let key = Key { source, ..captured(OTHER) };
        assert_only_drops(&decide(&key, &tables, Location::Unknown), DropReason::BadSource);
    }
}

#[test]
fn a_direct_frame_is_injected_and_learnt_and_never_sent_on() {
    let tables = tables();
    let [leaf, ..] = links(&tables);
    for location in [Location::Unknown, Location::Known(Owner::Peer(FAR)), Location::Known(Owner::Local)] {
        let decision = decide(&received(leaf, Envelope::Direct), &tables, location);
        assert_eq!((decision.learn, decision.inject, decision.drop), (Some(Owner::Peer(LEAF)), true, None));
        assert!(sent(&decision).is_empty());
    }
}

#[test]
fn a_relayed_unicast_for_us_is_injected_and_learnt_at_its_source() {
    let tables = tables();
    let [_, hub, _] = links(&tables);
    let decision = decide(&received(hub, unicast(1, FAR, ME)), &tables, Location::Unknown);
    assert_eq!((decision.learn, decision.inject, decision.drop), (Some(Owner::Peer(FAR)), true, None));
    assert!(sent(&decision).is_empty());
}

#[test]
fn nothing_is_learnt_behind_a_peer_that_the_tables_do_not_know() {
    let tables = tables();
    let [_, hub, _] = links(&tables);
    let decision = decide(&received(hub, unicast(3, STRANGER, ME)), &tables, Location::Unknown);
    assert_eq!((decision.learn, decision.inject), (None, true));
}

#[test]
fn a_relayed_unicast_for_another_is_sent_on_with_one_link_less_and_touches_nothing_here() {
    let tables = tables();
    let [leaf, hub, _] = links(&tables);
    let decision = decide(&received(leaf, unicast(5, LEAF, FAR)), &tables, Location::Known(Owner::Local));
    assert_eq!(sent(&decision), [(hub, unicast(4, LEAF, FAR))]);
    assert_eq!((decision.learn, decision.inject, decision.drop), (None, false, None));
}

#[test]
fn a_relayed_unicast_never_turns_back_and_never_outlives_its_time() {
    let tables = tables();
    let [leaf, hub, mute] = links(&tables);
    let cases = [
        (hub, unicast(5, LEAF, FAR), DropReason::BackToIngress),
        (leaf, unicast(5, HUB, FAR), DropReason::BackToOrigin),
        (leaf, unicast(1, LEAF, FAR), DropReason::TimeToLiveExpired),
        (leaf, unicast(5, LEAF, STRANGER), DropReason::NoRoute),
        (mute, unicast(5, LEAF, MUTE), DropReason::NoRoute),
    ];
    for (from, envelope, reason) in cases {
        assert_only_drops(&decide(&received(from, envelope), &tables, Location::Unknown), reason);
    }
}

#[test]
fn our_own_frames_coming_back_are_dropped() {
    let tables = tables();
    let [_, hub, _] = links(&tables);
    for envelope in [unicast(5, ME, FAR), unicast(5, ME, ME), broadcast(5, ME, DIGEST)] {
        assert_only_drops(
            &decide(&received(hub, envelope), &tables, Location::Unknown),
            DropReason::OwnFrame,
        );
    }
}

#[test]
fn a_relayed_broadcast_from_the_parent_is_injected_and_goes_on_with_its_source() {
    let tables = tables();
    let [leaf, hub, _] = links(&tables);
    let decision = decide(&received(hub, broadcast(9, FAR, DIGEST)), &tables, Location::Unknown);
    assert_eq!((decision.learn, decision.inject, decision.drop), (Some(Owner::Peer(FAR)), true, None));
    assert_eq!(sent(&decision), [(leaf, broadcast(8, FAR, DIGEST))]);
    assert_eq!(decision.event, None);
}

#[test]
fn a_relayed_broadcast_from_neither_the_parent_nor_the_source_is_dropped() {
    let tables = tables();
    let [leaf, ..] = links(&tables);
    let decision = decide(&received(leaf, broadcast(9, FAR, DIGEST)), &tables, Location::Unknown);
    assert_only_drops(&decision, DropReason::NotFromParent);
    let decision = decide(&received(leaf, broadcast(9, STRANGER, DIGEST)), &tables, Location::Unknown);
    assert_only_drops(&decision, DropReason::NoTree);
}

#[test]
fn a_relayed_broadcast_from_its_source_is_taken_whatever_the_tree_says() {
    let tables = tables();
    let [leaf, hub, mute] = links(&tables);
    let near = tables.link(NEAR).unwrap();
    let decision = decide(&received(near, broadcast(9, NEAR, DIGEST)), &tables, Location::Unknown);
    assert_eq!((decision.learn, decision.inject, decision.drop), (Some(Owner::Peer(NEAR)), true, None));
    assert_eq!(sent(&decision), [(leaf, broadcast(8, NEAR, DIGEST))]);
    let by_its_parent = decide(&received(hub, broadcast(9, NEAR, DIGEST)), &tables, Location::Unknown);
    assert!(by_its_parent.inject, "as the tree says");
    let without_tree = decide(&received(mute, broadcast(9, MUTE, DIGEST)), &tables, Location::Unknown);
    assert_eq!((without_tree.inject, without_tree.drop), (true, None));
    assert!(sent(&without_tree).is_empty());
}

#[test]
fn of_two_copies_of_a_broadcast_the_first_accepted_one_counts() {
    let tables = tables();
    let [leaf, hub, _] = links(&tables);
    let near = tables.link(NEAR).unwrap();
    let seen = Duplicates::default();
    let copy = |from, links, now_ms| {
        let key = received(from, broadcast(links, NEAR, DIGEST));
        let now = Moment::from_origin(std::time::Duration::from_millis(now_ms));
        seen.check(key.arrival, decide(&key, &tables, Location::Unknown), now)
    };
    assert_only_drops(&copy(leaf, 9, 0), DropReason::NotFromParent);
    assert!(copy(hub, 9, 1).inject, "the copy by a wrong way has not spoilt it");
    assert_only_drops(&copy(near, 15, 2), DropReason::Duplicate);
    assert_only_drops(&copy(hub, 8, 3), DropReason::Duplicate);
    let other = received(leaf, unicast(5, LEAF, FAR));
    assert_eq!(
        sent(&seen.check(other.arrival, decide(&other, &tables, Location::Unknown), Moment::ORIGIN)).len(),
        1
    );
}

#[test]
fn a_session_that_stands_in_no_tree_carries_unicast_and_no_broadcast() {
    let tables = tables();
    let [leaf, hub, _] = links(&tables);
    let near = tables.link(NEAR).unwrap();
    let decision = decide(&captured(OTHER), &tables, Location::Known(Owner::Peer(NEAR)));
    assert_eq!(sent(&decision), [(near, Envelope::Direct)]);
    let transit = decide(&received(leaf, unicast(5, LEAF, NEAR)), &tables, Location::Unknown);
    assert_eq!(sent(&transit), [(near, unicast(4, LEAF, NEAR))]);
    let direct = decide(&received(near, Envelope::Direct), &tables, Location::Unknown);
    assert_eq!((direct.learn, direct.inject), (Some(Owner::Peer(NEAR)), true));
    let floods = [
        captured(MacAddr::BROADCAST),
        captured(OTHER),
        received(leaf, broadcast(9, LEAF, DIGEST)),
        received(hub, broadcast(9, FAR, DIGEST)),
        received(hub, broadcast(9, NEAR, DIGEST)),
    ];
    for key in floods {
        let decision = decide(&key, &tables, Location::Unknown);
        assert!(sent(&decision).iter().all(|(link, _)| *link != near), "{key:?}");
    }
}

#[test]
fn a_relayed_broadcast_never_goes_back_to_the_parent() {
    let tables = tables();
    let [leaf, hub, _] = links(&tables);
    let decision = decide(&received(leaf, broadcast(9, LEAF, DIGEST)), &tables, Location::Unknown);
    assert_eq!(sent(&decision), [(hub, broadcast(8, LEAF, DIGEST))]);
}

#[test]
fn a_relayed_broadcast_at_the_end_of_its_life_is_injected_and_ends() {
    let tables = tables();
    let [_, hub, _] = links(&tables);
    let decision = decide(&received(hub, broadcast(1, FAR, DIGEST)), &tables, Location::Unknown);
    assert_eq!((decision.inject, decision.drop), (true, Some(DropReason::TimeToLiveExpired)));
    assert!(sent(&decision).is_empty());
    let decision = decide(&received(hub, broadcast(1, HUB, DIGEST)), &tables, Location::Unknown);
    assert_eq!((decision.inject, decision.drop), (true, None), "no drop where nobody waits for it");
}

#[test]
fn another_view_of_the_topology_is_counted_and_changes_nothing() {
    let tables = tables();
    let [_, hub, _] = links(&tables);
    let same = decide(&received(hub, broadcast(9, FAR, DIGEST)), &tables, Location::Unknown);
    let other = decide(&received(hub, broadcast(9, FAR, DIGEST + 1)), &tables, Location::Unknown);
    assert_eq!(other.event, Some(Event::TopologyDiffers));
    assert_eq!((same.learn, same.inject, same.drop), (other.learn, other.inject, other.drop));
    assert_eq!(sent(&other), [(links(&tables)[0], broadcast(8, FAR, DIGEST + 1))]);
}

/// An undirected graph: pairs of nodes, smaller first.
type Edges = BTreeSet<(u8, u8)>;

fn are_joined(edges: &Edges, a: u8, b: u8) -> bool {
    edges.contains(&(a.min(b), a.max(b)))
}

/// The parent of each node in the breadth-first tree of `root`; ties go to the smaller id.
fn parents(nodes: u8, edges: &Edges, root: u8) -> BTreeMap<u8, u8> {
    let mut parents = BTreeMap::new();
    let mut queue = VecDeque::from([root]);
    while let Some(at) = queue.pop_front() {
        for next in (0..nodes).filter(|next| are_joined(edges, at, *next)) {
            if next != root && !parents.contains_key(&next) {
                parents.insert(next, at);
                queue.push_back(next);
            }
        }
    }
    parents
}

/// What node `me` would be told to do if the network had these edges.
fn view(nodes: u8, edges: &Edges, me: u8) -> Tables {
    let neighbours: Vec<_> = (0..nodes).filter(|other| are_joined(edges, me, *other)).collect();
    let tree = |root| {
        let parents = parents(nodes, edges, root);
        let children_of =
            |at: u8| parents.iter().filter(move |(_, parent)| **parent == at).map(|(node, _)| *node);
        let children = children_of(me).map(peer).collect();
        (peer(root), Tree { parent: parents.get(&me).map(|node| peer(*node)), children })
    };
    let mut next_hop = BTreeMap::new();
    for (node, _) in parents(nodes, edges, me) {
        let toward_me = parents(nodes, edges, node);
        next_hop.insert(peer(node), peer(toward_me[&me]));
    }
    Tables::new(&Plan {
        me: peer(me),
        digest: u32::from(edges.len() as u8),
        links: neighbours.iter().map(|node| link_plan(peer(*node), true)).collect(),
        next_hop,
        trees: (0..nodes).map(tree).collect(),
        groups: Arc::default(),
    })
}

/// What came of one captured frame: copies injected at each node, packets sent in all.
#[derive(Debug, Default)]
struct Outcome {
    injected: BTreeMap<u8, usize>,
    packets: usize,
}

/// Lets a frame captured at `source` travel until it is still. A packet arrives if its receiver holds the link, too.
fn travel(views: &[Tables], source: u8, location: Location) -> Outcome {
    let mut outcome = Outcome::default();
    let seen: Vec<_> = views.iter().map(|_| Duplicates::default()).collect();
    let mut queue = VecDeque::new();
    let first = decide(&captured(OTHER), &views[usize::from(source)], location);
    queue.extend(first.transmissions().map(|sent| (source, sent)));
    while let Some((from, sent)) = queue.pop_front() {
        outcome.packets += 1;
        assert!(outcome.packets < 10_000, "the frame does not come to rest");
        let to = views[usize::from(from)].neighbour(sent.link).as_bytes()[0];
        let tables = &views[usize::from(to)];
        let Some(ingress) = tables.link(peer(from)) else { continue };
        let key = received(ingress, sent.envelope);
        let decision = decide(&key, tables, Location::Unknown);
        let decision = seen[usize::from(to)].check(key.arrival, decision, Moment::ORIGIN);
        *outcome.injected.entry(to).or_default() += usize::from(decision.inject);
        queue.extend(decision.transmissions().map(|sent| (to, sent)));
    }
    outcome
}

const NODES_MAX: u8 = 6;

fn graph(nodes: u8) -> impl Strategy<Value = Edges> {
    let pairs: Vec<_> = (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b))).collect();
    prop::collection::vec(any::<bool>(), pairs.len()).prop_map(move |keep| {
        pairs.iter().zip(keep).filter(|(_, keep)| *keep).map(|(pair, _)| *pair).collect()
    })
}

/// A connected graph: a random tree and more edges.
fn connected() -> impl Strategy<Value = (u8, Edges)> {
    (2..=NODES_MAX).prop_flat_map(|nodes| {
        let parents = prop::collection::vec(any::<prop::sample::Index>(), usize::from(nodes) - 1);
        (Just(nodes), parents, graph(nodes)).prop_map(|(nodes, parents, mut edges)| {
            let tree = parents
                .iter()
                .zip(1..nodes)
                .map(|(parent, node)| (parent.index(usize::from(node)) as u8, node));
            edges.extend(tree);
            (nodes, edges)
        })
    })
}

/// A view of its own for each node.
fn stale() -> impl Strategy<Value = (u8, Vec<Edges>)> {
    (2..=NODES_MAX)
        .prop_flat_map(|nodes| (Just(nodes), prop::collection::vec(graph(nodes), usize::from(nodes))))
}

proptest! {
    #[test]
    fn with_equal_views_a_flood_reaches_each_other_peer_exactly_once((nodes, edges) in connected()) {
        let views: Vec<_> = (0..nodes).map(|node| view(nodes, &edges, node)).collect();
        for source in 0..nodes {
            let outcome = travel(&views, source, Location::Unknown);
            let expected = (0..nodes).filter(|node| *node != source).map(|node| (node, 1)).collect();
            prop_assert_eq!(outcome.injected, expected);
            prop_assert_eq!(outcome.packets, usize::from(nodes) - 1);
        }
    }

    #[test]
    fn with_equal_views_a_unicast_reaches_its_peer_and_no_other((nodes, edges) in connected()) {
        let views: Vec<_> = (0..nodes).map(|node| view(nodes, &edges, node)).collect();
        for (source, destination) in (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            let outcome = travel(&views, source, Location::Known(Owner::Peer(peer(destination))));
            let hits: BTreeMap<_, _> = outcome.injected.into_iter().filter(|(_, copies)| *copies > 0).collect();
            prop_assert_eq!(hits, BTreeMap::from([(destination, 1)]));
        }
    }

    #[test]
    fn whatever_the_views_a_frame_comes_to_rest((nodes, views) in stale()) {
        let views: Vec<_> = (0..nodes).zip(&views).map(|(node, edges)| view(nodes, edges, node)).collect();
        for source in 0..nodes {
            let flood = travel(&views, source, Location::Unknown);
            let steps = usize::from(TimeToLive::MAX.links());
            prop_assert!(flood.injected.values().all(|copies| *copies <= 1));
            prop_assert!(flood.packets <= usize::from(nodes) * usize::from(nodes));
            for destination in (0..nodes).filter(|node| *node != source) {
                let unicast = travel(&views, source, Location::Known(Owner::Peer(peer(destination))));
                prop_assert!(unicast.packets <= steps);
            }
        }
    }
}
