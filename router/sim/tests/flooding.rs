//! Every flood in every network of up to five routers, by the data plane's own decisions on the control plane's own
//! routes: with equal views, and with views of any age up to two changes.

use std::collections::VecDeque;
use std::sync::Arc;

use mesh_crypto::DirectionKey;
use mesh_dataplane::engine::{
    Arrival, Duplicates, Key, LinkPlan, Location, Plan, SendPlan, Tables, Tree, decide,
};
use mesh_topology::{Graph, Routes, small_graphs};
use mesh_wire::{MacAddr, Moment, PeerId, ReceiverIndex};

const ROUTERS_MAX: usize = 5;

fn peer(router: usize) -> PeerId {
    PeerId::from_bytes([u8::try_from(router).expect("there are few routers"); PeerId::LEN])
}

/// What `me` does in the network with these links. It has a session with everybody, so that no copy is lost on its way
/// to somebody who would take it.
fn tables(routers: usize, links: &[(usize, usize)], me: usize) -> Tables {
    let neighbours = |of: usize| {
        let ends = links.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
        ends.filter(move |(from, _)| *from == of).map(|(_, to)| (peer(to), 1)).collect::<Vec<_>>()
    };
    let graph = Graph::new((0..routers).map(|router| (peer(router), neighbours(router))).collect());
    let Routes { next_hop, trees, digest, .. } = Routes::on(&graph, peer(me));
    let key = DirectionKey::Clear { cookie: [0; 8] };
    let session = |router| LinkPlan {
        peer: peer(router),
        remote: ([127, 0, 0, 1], 1).into(),
        candidates: Vec::new(),
        roams: true,
        in_doubt: false,
        receive: Vec::new(),
        send: Some(SendPlan { epoch: 0, index: ReceiverIndex(0), key: key.clone() }),
    };
    let links = (0..routers).filter(|router| *router != me).map(session).collect();
    let trees = trees.into_iter();
    let trees = trees.map(|(source, tree)| (source, Tree { parent: tree.parent, children: tree.children }));
    Tables::new(&Plan {
        me: peer(me),
        digest,
        links,
        next_hop,
        trees: trees.collect(),
        groups: Arc::default(),
    })
}

/// The order in which copies arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    OldestFirst,
    NewestFirst,
}

/// What routers remember, and the number of the next flood.
#[derive(Default)]
struct World {
    seen: [Duplicates; ROUTERS_MAX],
    sequence: u32,
}

impl World {
    /// Lets a broadcast captured at `source` travel until it rests. Returns how often each router injected it, and how
    /// many copies were sent.
    fn flood(&mut self, views: &[&Tables], source: usize, order: Order) -> (Vec<usize>, usize) {
        self.sequence += 1;
        let key = |arrival| Key {
            arrival,
            source: MacAddr::from_bytes([2, 0, 0, 0, 0, 1]),
            destination: MacAddr::BROADCAST,
            tells_of_members: false,
        };
        let (mut injected, mut sent) = (vec![0; views.len()], 0);
        let captured =
            decide(&key(Arrival::Captured { sequence: self.sequence }), views[source], Location::Unknown);
        let mut flying: VecDeque<_> = captured.transmissions().map(|copy| (source, copy)).collect();
        let next = |flying: &mut VecDeque<_>| match order {
            Order::OldestFirst => flying.pop_front(),
            Order::NewestFirst => flying.pop_back(),
        };
        while let Some((from, copy)) = next(&mut flying) {
            sent += 1;
            assert!(sent <= views.len() * views.len(), "it does not come to rest: {views:?}");
            let to = usize::from(views[from].neighbour(copy.link).as_bytes()[0]);
            let from = views[to].link(peer(from)).expect("everybody has a session with everybody");
            let arrival = Arrival::Received { from, envelope: copy.envelope };
            let decision = decide(&key(arrival), views[to], Location::Unknown);
            let decision = self.seen[to].check(arrival, decision, Moment::ORIGIN);
            injected[to] += usize::from(decision.inject);
            flying.extend(decision.transmissions().map(|copy| (to, copy)));
        }
        (injected, sent)
    }
}

#[test]
fn with_equal_views_everybody_is_reached_exactly_once() {
    let mut world = World::default();
    for routers in 2..=ROUTERS_MAX {
        for links in small_graphs::connected(routers) {
            let tables: Vec<_> = (0..routers).map(|me| tables(routers, &links, me)).collect();
            let views: Vec<_> = tables.iter().collect();
            for source in 0..routers {
                let expected: Vec<_> = (0..routers).map(|router| usize::from(router != source)).collect();
                assert_eq!(
                    world.flood(&views, source, Order::OldestFirst),
                    (expected, routers - 1),
                    "{links:?}"
                );
            }
        }
    }
}

#[test]
fn whatever_two_changes_some_have_missed_nobody_injects_twice_and_all_comes_to_rest() {
    let mut world = World::default();
    for routers in 2..=ROUTERS_MAX {
        let pairs: Vec<_> = (0..routers).flat_map(|a| (a + 1..routers).map(move |b| (a, b))).collect();
        // By the set of links, a bit for each pair, and by router.
        let network = |set: usize| {
            let links: Vec<_> =
                (0..pairs.len()).filter(|at| set >> at & 1 == 1).map(|at| pairs[at]).collect();
            (0..routers).map(|me| tables(routers, &links, me)).collect::<Vec<_>>()
        };
        let networks: Vec<_> = (0..1 << pairs.len()).map(network).collect();
        let changes = (0..pairs.len()).flat_map(|a| (a..pairs.len()).map(move |b| [1_usize << a, 1 << b]));
        let changes: Vec<_> = changes.collect();
        for links in small_graphs::connected(routers) {
            let now: usize = links.iter().map(|link| 1 << pairs.partition_point(|pair| pair < link)).sum();
            for [a, b] in &changes {
                let ages = [now, now ^ a, now ^ b, now ^ (a | b)].map(|set| &networks[set]);
                for source in 0..routers {
                    world.flood_in_all_views(&ages, source);
                }
            }
        }
    }
}

impl World {
    /// Floods once for each way in which routers can hold these views.
    fn flood_in_all_views(&mut self, ages: &[&Vec<Tables>; 4], source: usize) {
        // Views that place a router alike in the source's tree are one.
        let place = |view: &Tables| view.tree(peer(source)).cloned();
        let mut places: Vec<Vec<&Tables>> = vec![Vec::new(); ages[0].len()];
        for (router, views) in places.iter_mut().enumerate() {
            for view in ages.map(|tables| &tables[router]) {
                if !views.iter().any(|known| place(known) == place(view)) {
                    views.push(view);
                }
            }
        }
        let ways: usize = places.iter().map(Vec::len).product();
        for way in 0..ways {
            let mut rest = way;
            let mut views = Vec::new();
            for of_router in &places {
                views.push(of_router[rest % of_router.len()]);
                rest /= of_router.len();
            }
            for order in [Order::OldestFirst, Order::NewestFirst] {
                let (injected, _) = self.flood(&views, source, order);
                assert!(injected.iter().all(|copies| *copies <= 1), "{injected:?} in {views:?}");
                assert_eq!(injected[source], 0, "its own frame came back");
            }
        }
    }
}
