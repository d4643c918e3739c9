use mesh_crypto::Identity;
use mesh_wire::BootCount;
use mesh_wire::control::LinkRecord;

use super::*;

fn rng() -> Rng {
    Rng::from_seed([5; 32])
}

fn at(ms: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(ms))
}

fn named(host: &str) -> Target {
    Target::Named { host: host.to_owned(), port: 6783 }
}

fn me() -> PeerId {
    PeerId::from_bytes([0; 16])
}

#[test]
fn a_target_is_dialed_at_once_and_again_after_a_failure() {
    let mut connector = Connector::new(me(), true, [named("h1")], at(0));
    assert_eq!(connector.due(at(0)), vec![named("h1")]);
    assert_eq!(connector.due(at(0)), vec![]);
    assert_eq!(connector.poll_timeout(), None);

    connector.failed(&named("h1"), &mut rng(), at(10));
    let next = connector.poll_timeout().expect("another try");
    assert!(next > at(10) && next <= at(10) + Duration::from_millis(240), "{next:?}");
    assert_eq!(connector.due(next), vec![named("h1")]);
}

#[test]
fn a_connected_target_rests_until_its_peer_is_lost() {
    let peer = PeerId::from_bytes([1; 16]);
    let mut connector = Connector::new(me(), true, [named("h1")], at(0));
    connector.due(at(0));
    connector.connected(&named("h1"), peer);
    assert_eq!(connector.poll_timeout(), None);
    connector.lost(peer, Duration::from_secs(60), &mut rng(), at(1_000));
    assert!(connector.poll_timeout().is_some_and(|next| next <= at(1_240)));
}

#[test]
fn a_peer_that_drops_each_session_at_once_is_tried_ever_less_often() {
    let peer = PeerId::from_bytes([1; 16]);
    let mut connector = Connector::new(me(), true, [named("h1")], at(0));
    let (mut now, mut dials) = (at(0), 0);
    while now < at(120_000) {
        dials += connector.due(now).len();
        connector.connected(&named("h1"), peer);
        connector.lost(peer, Duration::ZERO, &mut rng(), now);
        now = connector.poll_timeout().expect("another try");
    }
    assert!(dials < 60, "{dials} dials in two minutes");
}

#[test]
fn a_target_that_is_this_router_is_left_alone_for_long() {
    let mut connector = Connector::new(me(), true, [named("h1")], at(0));
    connector.due(at(0));
    connector.reached_itself(&named("h1"), at(0));
    assert_eq!(connector.poll_timeout(), Some(at(60_000)));
}

/// `h1` dialed `h2`, and `h3` dialed `h2`; what `h1` and `h3` then know of each other.
#[test]
fn addresses_are_discovered_from_neighbours_and_forgotten_with_their_peers() {
    let identity = |seed| Identity::generate(&mut Rng::from_seed([seed; 32]));
    let topology = |identity: &Identity, port| {
        Topology::new(identity, BootCount(1), "h".parse().expect("a letter"), port, 1)
    };
    let (h1, h2, h3) = (identity(1), identity(2), identity(3));
    let (mut here, mut middle, far) = (topology(&h1, 6783), topology(&h2, 6783), topology(&h3, 7000));
    let link = |peer, address: &str, outbound| LinkRecord {
        distance: 0,
        overlay: 1,
        peer,
        address: address.parse().expect("a literal"),
        outbound,
        established: true,
    };
    middle.publish(
        &h2,
        vec![link(h1.peer_id(), "192.0.2.1:40000", false), link(h3.peer_id(), "192.0.2.3:50000", false)],
    );
    for topology in [&middle, &far] {
        here.merge(topology.entry(topology.me()).expect("own record")).expect("genuine");
    }
    let connected = BTreeSet::from([h2.peer_id()]);
    let mut connector = Connector::new(here.me(), true, [], at(0));
    connector.discover(&here, &connected, at(0));
    let expected =
        Target::Discovered { peer: h3.peer_id(), address: "192.0.2.3:7000".parse().expect("a literal") };
    assert_eq!(connector.due(at(0) + YIELD), vec![expected.clone()]);

    connector.failed(&expected, &mut rng(), at(0));
    middle.publish(&h2, vec![]);
    here.merge(middle.entry(middle.me()).expect("own record")).expect("genuine");
    connector.discover(&here, &connected, at(1));
    assert_eq!(connector.targets().count(), 0);

    let mut settled = Connector::new(here.me(), false, [], at(0));
    settled.discover(&here, &BTreeSet::new(), at(0));
    assert_eq!(settled.targets().count(), 0, "discovery is off");
}
