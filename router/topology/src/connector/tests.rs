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
    let mut connector = Connector::new(me(), true, 64, [named("h1")], at(0));
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
    let mut connector = Connector::new(me(), true, 64, [named("h1")], at(0));
    connector.due(at(0));
    connector.connected(&named("h1"), peer);
    assert_eq!(connector.poll_timeout(), None);
    connector.lost(peer, Duration::from_secs(60), &mut rng(), at(1_000));
    assert!(connector.poll_timeout().is_some_and(|next| next <= at(1_240)));
}

#[test]
fn a_peer_that_drops_each_session_at_once_is_tried_ever_less_often() {
    let peer = PeerId::from_bytes([1; 16]);
    let mut connector = Connector::new(me(), true, 64, [named("h1")], at(0));
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
    let mut connector = Connector::new(me(), true, 64, [named("h1")], at(0));
    connector.due(at(0));
    connector.reached_itself(&named("h1"), at(0));
    assert_eq!(connector.poll_timeout(), Some(at(60_000)));
}

fn router(seed: u8, port: u16) -> (Identity, Topology) {
    let identity = Identity::generate(&mut Rng::from_seed([seed; 32]));
    let topology = Topology::new(&identity, BootCount(1), "h".parse().expect("a letter"), port, 1);
    (identity, topology)
}

fn link(peer: PeerId, address: &str, outbound: bool) -> LinkRecord {
    let address = address.parse().expect("a literal");
    LinkRecord { peer, address, outbound, established: true, distance: 0, overlay: 1 }
}

fn learn(here: &mut Topology, from: &Topology) {
    here.merge(from.entry(from.me()).expect("own record")).expect("genuine");
}

fn discovered(peer: PeerId, address: &str) -> Target {
    Target::Discovered { peer, address: address.parse().expect("a literal") }
}

/// `h1` dialed `h2`, and `h3` dialed `h2`; what `h1` then knows of them.
struct Chain {
    here: Topology,
    middle: (Identity, Topology),
    far: (Identity, Topology),
    connected: BTreeSet<PeerId>,
}

impl Chain {
    fn new() -> Self {
        let ((h1, mut here), middle, far) = (router(1, 6783), router(2, 6783), router(3, 7000));
        here.publish(&h1, vec![link(middle.1.me(), "192.0.2.2:6783", true)]);
        let connected = BTreeSet::from([middle.1.me()]);
        let mut chain = Self { here, middle, far, connected };
        chain.far.1.publish(&chain.far.0, vec![link(chain.middle.1.me(), "192.0.2.2:6783", true)]);
        chain.middle_lists("192.0.2.3:50000");
        chain
    }

    fn middle_lists(&mut self, far: &str) {
        let links = vec![link(self.here.me(), "192.0.2.1:40000", false), link(self.far.1.me(), far, false)];
        self.middle.1.publish(&self.middle.0, links);
        learn(&mut self.here, &self.middle.1);
        learn(&mut self.here, &self.far.1);
    }

    /// The link between the middle and the far one ends; the far one is forgotten.
    fn cut(&mut self) {
        self.middle.1.publish(&self.middle.0, vec![link(self.here.me(), "192.0.2.1:40000", false)]);
        learn(&mut self.here, &self.middle.1);
        self.here.forget(&BTreeSet::from([self.far.1.me()]));
    }
}

#[test]
fn addresses_are_discovered_from_neighbours_and_forgotten_with_their_peers() {
    let mut chain = Chain::new();
    let mut connector = Connector::new(chain.here.me(), true, 64, [], at(0));
    connector.discover(&chain.here, &chain.connected, at(0));
    // The far one listens on 7000; 50000 is where it dialed from.
    let expected = discovered(chain.far.1.me(), "192.0.2.3:7000");
    assert_eq!(connector.due(at(0) + YIELD), vec![expected.clone()]);

    connector.failed(&expected, &mut rng(), at(0));
    chain.cut();
    connector.discover(&chain.here, &chain.connected, at(1));
    assert_eq!(connector.targets().count(), 0);

    let mut settled = Connector::new(chain.here.me(), false, 64, [], at(0));
    settled.discover(&Chain::new().here, &BTreeSet::new(), at(0));
    assert_eq!(settled.targets().count(), 0, "discovery is off");
}

#[test]
fn where_both_want_each_other_the_smaller_id_dials_first() {
    let chain = Chain::new();
    let far = chain.far.1.me();
    let mut connector = Connector::new(chain.here.me(), true, 64, [], at(0));
    connector.discover(&chain.here, &chain.connected, at(0));
    let expected = if chain.here.me() < far { at(0) } else { at(0) + YIELD };
    assert_eq!(connector.poll_timeout(), Some(expected));
}

#[test]
fn a_peer_that_says_where_it_is_now_is_dialed_there() {
    let mut chain = Chain::new();
    let mut connector = Connector::new(chain.here.me(), true, 64, [], at(0));
    connector.discover(&chain.here, &chain.connected, at(0));
    let old = connector.due(at(300)).pop().expect("the far one");
    connector.failed(&old, &mut rng(), at(300));
    chain.middle_lists("198.51.100.9:50001");
    connector.discover(&chain.here, &chain.connected, at(301));
    assert_eq!(connector.due(at(301) + YIELD), vec![discovered(chain.far.1.me(), "198.51.100.9:7000")]);
    assert_eq!(connector.targets().count(), 1, "the old address is nobody's");
}

#[test]
fn news_of_a_lost_peer_hurries_what_leads_to_it_now_and_then() {
    let peer = PeerId::from_bytes([1; 16]);
    let mut connector = Connector::new(me(), true, 64, [named("h1"), named("h2")], at(0));
    connector.due(at(0));
    connector.connected(&named("h1"), peer);
    connector.lost(peer, Duration::from_secs(60), &mut rng(), at(1_000));
    let mut now = at(1_000);
    while now < at(100_000) {
        now = connector.poll_timeout().expect("another try");
        connector.due(now);
        connector.failed(&named("h1"), &mut rng(), now);
    }
    let wait = connector.poll_timeout().expect("another try").since(now);
    assert!(wait > Duration::from_secs(8), "{wait:?}");

    let soon = Duration::from_secs(1);
    connector.news(PeerId::from_bytes([2; 16]), &mut rng(), now + soon);
    assert!(connector.due(now + soon + HURRIED_WITHIN).is_empty(), "somebody else");
    connector.news(peer, &mut rng(), now + soon);
    assert_eq!(connector.due(now + soon + HURRIED_WITHIN), vec![named("h1")]);
    connector.failed(&named("h1"), &mut rng(), now + 2 * soon);
    connector.news(peer, &mut rng(), now + 3 * soon);
    assert!(connector.due(now + 3 * soon + HURRIED_WITHIN).is_empty(), "news comes often");
    connector.news(peer, &mut rng(), now + soon + NEWS_EVERY);
    assert_eq!(connector.due(now + soon + NEWS_EVERY + HURRIED_WITHIN), vec![named("h1")]);
}

#[test]
fn new_addresses_of_this_router_make_all_that_waits_due_and_not_in_step() {
    let hosts: Vec<_> = (0..20).map(|n| named(&format!("h{n}"))).collect();
    let mut connector = Connector::new(me(), true, 64, hosts.clone(), at(0));
    connector.due(at(0));
    for host in &hosts {
        connector.reached_itself(host, at(0));
    }
    connector.hurry(&mut rng(), at(10));
    assert!(connector.due(at(60)).len() < hosts.len());
    connector.due(at(10) + HURRIED_WITHIN);
    assert_eq!(connector.poll_timeout(), None, "all are being dialed");
}

#[test]
fn the_user_adds_replaces_and_forgets_targets() {
    let mut connector = Connector::new(me(), true, 64, [named("h1")], at(0));
    connector.due(at(0));
    connector.failed(&named("h1"), &mut rng(), at(0));
    connector.connect([named("h1"), named("h2")], false, at(1)).expect("two are few");
    assert_eq!(connector.due(at(1)), vec![named("h1"), named("h2")], "also what waits");

    connector.connected(&named("h2"), PeerId::from_bytes([1; 16]));
    connector.connect([named("h2"), named("h3")], true, at(2)).expect("two are few");
    assert_eq!(connector.named().cloned().collect::<Vec<_>>(), vec![named("h2"), named("h3")]);
    assert_eq!(connector.due(at(2)), vec![named("h3")], "what is connected is left alone");

    connector.forget(&[named("h3"), named("unknown")]);
    assert_eq!(connector.named().cloned().collect::<Vec<_>>(), vec![named("h2")]);

    let many = (0..NAMED_MAX).map(|n| named(&format!("n{n}")));
    assert_eq!(connector.connect(many, false, at(3)), Err(TooManyTargets));
    assert_eq!(connector.named().count(), 1);
}

#[test]
fn a_peer_with_enough_connections_is_left_alone_while_others_reach_it() {
    let mut chain = Chain::new();
    let far = chain.far.1.me();
    let mut connector = Connector::new(chain.here.me(), true, 64, [named("far")], at(0));
    connector.due(at(0));
    connector.connected(&named("far"), far);
    connector.discover(&chain.here, &chain.connected, at(0));
    connector.enough(far, at(1));
    connector.discover(&chain.here, &chain.connected, at(2));
    assert_eq!(connector.poll_timeout(), None);
    assert_eq!(connector.targets().next(), Some((&named("far"), TargetStatus::Enough(far))));

    chain.cut();
    connector.discover(&chain.here, &chain.connected, at(3));
    assert_eq!(connector.due(at(3)), vec![named("far")]);
}

#[test]
fn a_wanted_peer_with_enough_connections_is_asked_again_in_the_end() {
    let chain = Chain::new();
    let far = chain.far.1.me();
    let mut connector = Connector::new(chain.here.me(), true, 64, [], at(0));
    connector.discover(&chain.here, &chain.connected, at(0));
    connector.enough(far, at(0));
    connector.discover(&chain.here, &chain.connected, at(0) + WANTED_REST / 2);
    assert_eq!(connector.targets().count(), 0);
    connector.discover(&chain.here, &chain.connected, at(0) + WANTED_REST);
    assert_eq!(connector.targets().count(), 1);
}

#[test]
fn a_peer_that_dials_after_all_is_connected_by_its_target() {
    let mut chain = Chain::new();
    let far = chain.far.1.me();
    let mut connector = Connector::new(chain.here.me(), true, 64, [named("far")], at(0));
    connector.due(at(0));
    connector.connected(&named("far"), far);
    connector.enough(far, at(1));
    chain.connected.insert(far);
    connector.discover(&chain.here, &chain.connected, at(2));
    connector.lost(far, Duration::from_secs(60), &mut rng(), at(3));
    assert!(connector.poll_timeout().is_some());
}

/// A hundred peers that are all connected with one: only those that the formation chooses become targets.
#[test]
fn past_the_limit_only_chosen_peers_are_dialed() {
    let (hub, mut of_hub) = router(0, 6783);
    let (_, mut here) = router(100, 6783);
    let others: Vec<_> = (1..100).map(|seed| router(seed, 6783)).collect();
    let at_host = |n: usize| format!("192.0.2.{n}:6783");
    of_hub.publish(
        &hub,
        others.iter().enumerate().map(|(n, (_, t))| link(t.me(), &at_host(n), false)).collect(),
    );
    learn(&mut here, &of_hub);
    for (identity, mut topology) in others {
        topology.publish(&identity, vec![link(of_hub.me(), "192.0.2.200:6783", true)]);
        learn(&mut here, &topology);
    }
    let mut connector = Connector::new(here.me(), true, 64, [], at(0));
    connector.discover(&here, &BTreeSet::new(), at(0));
    let peers = here.records().map(|(peer, _)| peer);
    let chosen = Formation::new(peers, 64).choices(here.me());
    let dialed: BTreeSet<_> = connector.due(at(0) + YIELD).iter().filter_map(peer_of).collect();
    assert_eq!(dialed, chosen);

    let mut all = Connector::new(here.me(), true, 100, [], at(0));
    all.discover(&here, &BTreeSet::new(), at(0));
    assert_eq!(all.due(at(0) + YIELD).len(), 100);
}

fn peer_of(target: &Target) -> Option<PeerId> {
    match target {
        Target::Named { .. } => None,
        Target::Discovered { peer, .. } => Some(*peer),
    }
}
