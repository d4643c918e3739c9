//! Whom routers dial and let go, as the user says and as the network grows.

use super::*;
use crate::TargetState;
use crate::counters::Count;

fn quiet(seed: u8, targets: Vec<Target>) -> Config {
    Config { discovery: false, ..config(seed, None, targets) }
}

fn elsewhere(n: u8) -> Target {
    Target::Named { host: format!("198.51.100.{n}"), port: 6783 }
}

fn connect(net: &mut Net, targets: Vec<Target>, replace: bool) {
    net.input(0, Input::Connect { targets, replace });
}

#[test]
fn targets_come_and_go_at_run_time() {
    let mut net = Net::new(vec![quiet(1, vec![elsewhere(1)]), quiet(2, vec![])]);
    net.run(secs(1));
    connect(&mut net, vec![named(1)], false);
    net.run(secs(1));
    assert_eq!(net.nodes[0].sessions.len(), 1);
    let named_now = |net: &Net| net.nodes[0].connector.named().cloned().collect::<Vec<_>>();
    assert_eq!(named_now(&net), [named(1), elsewhere(1)]);

    connect(&mut net, vec![elsewhere(2)], true);
    net.run(secs(1));
    assert_eq!(named_now(&net), [elsewhere(2)]);
    assert_eq!(net.nodes[0].sessions.len(), 1, "connections stay");
    assert!(
        net.states(0).iter().any(|(state, info)| *state == ConnectionState::Retrying && !info.is_empty())
    );

    net.input(0, Input::Forget { targets: vec![elsewhere(2), elsewhere(3)] });
    assert_eq!(named_now(&net), []);
    assert_eq!(net.states(0).len(), 1, "what failed before is shown no more: {:?}", net.states(0));
}

#[test]
fn a_forgotten_target_is_not_dialed_again_when_its_peer_is_gone() {
    let mut net = Net::new(vec![quiet(1, vec![named(1)]), quiet(2, vec![])]);
    net.run(secs(1));
    net.input(0, Input::Forget { targets: vec![named(1)] });
    net.input(1, Input::Stop);
    let dials = net.nodes[0].dials;
    net.run(secs(60));
    assert_eq!(net.nodes[0].dials, dials);
}

#[test]
fn a_known_target_is_dialed_at_once_when_it_is_named_again_or_addresses_change() {
    let mut net = Net::new(vec![quiet(1, vec![elsewhere(1)])]);
    net.run(secs(300));
    let wait = |net: &Net| net.nodes[0].target_status(net.now)[0].next_try.expect("it waits");
    let dials = net.nodes[0].dials;
    while wait(&net) < secs(10) {
        net.run(secs(1));
    }
    connect(&mut net, vec![elsewhere(1)], false);
    assert!(net.nodes[0].dials > dials && wait(&net) < secs(1));
    net.run(secs(300));
    while wait(&net) < secs(10) {
        net.run(secs(1));
    }
    net.input(0, Input::Addresses(vec![address(0).ip()]));
    assert!(wait(&net) < secs(2), "{:?}", wait(&net));
}

#[test]
fn a_router_past_its_limit_lets_those_go_whom_nobody_needs() {
    let count = 24_u8;
    let host = |n: u8| {
        let targets = if n == 1 { vec![] } else { vec![named(0)] };
        Config { connection_limit: 12, ..config(n, None, targets) }
    };
    let mut net = Net::new((1..=count).map(host).collect());
    for _ in 0..40 {
        net.run(Duration::from_millis(500));
        net.all_alive();
    }
    let hub = &net.nodes[0];
    assert!(net.nodes[0].counters().get(Count::SessionSurplus) > 0);
    assert!(hub.sessions.len() <= 16, "{} sessions", hub.sessions.len());
    assert_eq!(hub.peer_status().len(), usize::from(count), "all are known");
    assert_eq!(hub.route_status().unicast.iter().filter(|route| route.via.is_none()).count(), 0);
    let left_alone = (1..usize::from(count)).filter(|node| {
        net.nodes[*node].target_status(net.now).iter().any(|target| target.state == TargetState::Enough)
    });
    assert!(left_alone.count() > 0);

    let opened =
        |net: &Net| net.nodes.iter().map(|node| node.counters().get(Count::SessionOpened)).sum::<u64>();
    let before = opened(&net);
    net.run(secs(60));
    assert_eq!(opened(&net), before, "whoever was told that it is enough does not come back");
}

impl Net {
    /// Tells all nodes that packets pass to all of their neighbours.
    fn all_alive(&mut self) {
        for node in 0..self.nodes.len() {
            for peer in self.nodes[node].connected() {
                self.input(node, Input::Report(Report::Alive { peer, rtt: Duration::from_millis(3) }));
            }
        }
    }
}
