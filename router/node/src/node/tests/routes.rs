//! What a router tells of its routes, and why.

use super::*;
use crate::{BroadcastRoute, RouteReason};

#[test]
fn routes_say_which_way_and_why() {
    let quiet = |config: Config| Config { discovery: false, ..config };
    let hosts =
        [config(1, None, vec![named(1)]), config(2, None, vec![named(2)]), config(3, None, vec![named(3)])];
    let mut net = Net::new(hosts.into_iter().chain([config(4, None, vec![])]).map(quiet).collect());
    net.run(secs(1));
    let [a, b, c, d] = [0, 1, 2, 3].map(|node: usize| net.nodes[node].peer_id());
    for (from, to) in [(0, b), (1, a), (1, c), (2, b)] {
        net.input(from, Input::Report(Report::Alive { peer: to, rtt: Duration::from_millis(3) }));
    }
    net.run(secs(1));
    let status = net.nodes[0].route_status();
    let way = |to| {
        let route = status.unicast.iter().find(|route| route.peer == to).expect("a route");
        (route.via, route.hops, route.reason.clone())
    };
    assert_eq!(way(b), (Some(b), Some(1), RouteReason::Direct));
    assert_eq!(way(c), (Some(b), Some(2), RouteReason::NotWanted));
    assert_eq!(way(d), (None, None, RouteReason::Unreachable));
    let tree = |source, from, via| BroadcastRoute { source, from, via };
    assert!(status.broadcast.contains(&tree(a, None, vec![b])));
    assert!(status.broadcast.contains(&tree(c, Some(b), vec![])));

    net.input(0, Input::Connect { targets: vec![named(2)], replace: false });
    net.run(secs(1));
    let status = net.nodes[0].route_status();
    let route = status.unicast.iter().find(|route| route.peer == c).expect("a route");
    assert_eq!((route.via, &route.reason), (Some(b), &RouteReason::LinkSilent));
}
