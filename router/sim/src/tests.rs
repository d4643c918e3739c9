//! Whole networks. Each test says with its seeds what it has tried; a failure names the seed.

use std::time::Duration;

use mesh_node::limits::SIMULTANEOUS_DIAL;
use mesh_node::{ConnectionState, Node};
use mesh_wire::{BootCount, Moment};

use crate::{Boot, Crash, Fault, HostId, Scenario, Secret, Shape, World, run};

const A: HostId = HostId(0);
const B: HostId = HostId(1);
const C: HostId = HostId(2);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// How long until all agree, asked every 10 ms; fails after `limit`.
fn converges_within(world: &mut World, scenario: &Scenario, limit: Duration) -> Duration {
    let start = world.now();
    while let Some(difference) = world.difference(scenario) {
        let passed = world.now().since(start);
        assert!(passed < limit, "seed {}: after {passed:?}: {difference}", scenario.seed);
        advance(world, ms(10));
    }
    world.now().since(start)
}

fn advance(world: &mut World, time: Duration) {
    world.run_for(time).unwrap();
}

fn node(world: &World, host: HostId) -> &Node {
    world.node(host).expect("the router runs")
}

fn both_ways(a: HostId, b: HostId, fault: impl Fn(HostId, HostId) -> Fault) -> [Fault; 2] {
    [fault(a, b), fault(b, a)]
}

fn settled(scenario: &Scenario) -> World {
    let mut world = World::new(scenario, None);
    converges_within(&mut world, scenario, ms(10_000));
    advance(&mut world, ms(6_000));
    world
}

#[test]
fn small_networks_converge_and_fall_quiet_whatever_broke() {
    for seed in 0..16 {
        let nodes = 2 + usize::try_from(seed % 5).unwrap();
        let outcome = run(&Scenario::from_seed(seed, nodes, ms(20_000)), None);
        assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

#[test]
fn twenty_nodes_with_loss_and_restarts_converge() {
    let start = |host| Fault::Start { host: HostId(host), boot: Boot::Next };
    let crash = |host, how| Fault::Crash { host: HostId(host), how };
    let faults = [
        (ms(0), Fault::Loss(20)),
        (ms(1_000), crash(3, Crash::Killed)),
        (ms(1_500), crash(7, Crash::PowerCut)),
        (ms(1_700), start(3)),
        (ms(2_000), crash(11, Crash::Stopped)),
        (ms(2_500), start(7)),
        (ms(2_600), start(11)),
        (ms(3_000), Fault::Calm),
    ];
    for seed in 1..=3 {
        let mut scenario = Scenario::quiet(seed, 20, Shape::Random);
        scenario.latency_max = ms(20);
        scenario.faults = faults.to_vec();
        let outcome = run(&scenario, None);
        assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let outcomes: Vec<_> = [5, 5, 6].map(|seed| run(&Scenario::from_seed(seed, 5, ms(10_000)), None)).into();
    assert!(outcomes[0].is_ok());
    assert_eq!(outcomes[0], outcomes[1]);
    assert_ne!(outcomes[0].as_ref().unwrap().trace, outcomes[2].as_ref().unwrap().trace);
}

#[test]
fn a_chain_of_three_is_fully_connected_within_a_second() {
    for seed in 0..10 {
        let scenario = Scenario::quiet(seed, 3, Shape::Chain);
        converges_within(&mut World::new(&scenario, None), &scenario, ms(1_000));
    }
}

#[test]
fn a_router_that_restarts_is_connected_again_within_two_seconds() {
    for seed in 0..5 {
        for how in [Crash::Stopped, Crash::Killed, Crash::PowerCut] {
            for away in [ms(50), ms(500), ms(4_000)] {
                let scenario = Scenario::quiet(seed, 4, Shape::Star);
                let mut world = settled(&scenario);
                world.now_let(&Fault::Crash { host: C, how }).unwrap();
                advance(&mut world, away);
                assert!(world.difference(&scenario).is_some());
                world.now_let(&Fault::Start { host: C, boot: Boot::Next }).unwrap();
                converges_within(&mut world, &scenario, ms(2_000));
            }
        }
    }
}

#[test]
fn routers_that_dial_each_other_at_once_keep_one_connection() {
    for seed in 0..100 {
        let mut scenario = Scenario::quiet(seed, 2, Shape::Everybody);
        scenario.latency_max = ms(1 + seed);
        let mut world = World::new(&scenario, None);
        converges_within(&mut world, &scenario, ms(2_000));
        advance(&mut world, ms(4_000));
        assert_eq!(world.difference(&scenario), None, "seed {seed}");
        for host in [A, B] {
            let connections = node(&world, host).connection_status();
            let established = connections.iter().filter(|c| c.state == ConnectionState::Established).count();
            assert_eq!((connections.len(), established), (1, 1), "seed {seed}: {connections:?}");
        }
    }
}

#[test]
fn a_partition_heals() {
    for seed in 0..5 {
        let scenario = Scenario::quiet(seed, 6, Shape::Random);
        let mut world = settled(&scenario);
        world.now_let(&Fault::Partition(vec![true, true, false, false, true, false])).unwrap();
        advance(&mut world, ms(30_000));
        assert_eq!(node(&world, A).peer_status().len(), 3, "the other half is forgotten");
        world.now_let(&Fault::Partition(vec![false; 6])).unwrap();
        // A quarter of the outage and a fifth more; then one dial may still wait for its time-out.
        converges_within(&mut world, &scenario, ms(12_000));
    }
}

#[test]
fn a_wrong_password_never_enters() {
    for (seed, secret) in [(0, Secret::Wrong), (1, Secret::Missing)] {
        let mut scenario = Scenario::quiet(seed, 4, Shape::Everybody);
        scenario.hosts[3].secret = secret;
        let mut world = World::new(&scenario, None);
        advance(&mut world, ms(30_000));
        assert_eq!(world.difference(&scenario), None);
        let stranger = node(&world, HostId(3));
        assert_eq!(stranger.peer_status().len(), 1);
        assert!(stranger.connection_status().iter().any(|c| c.info.contains("password")));
        assert_eq!(node(&world, A).peer_status().len(), 3);
    }
}

#[test]
fn two_routers_behind_a_cut_relay_through_the_third_and_go_direct_again() {
    for seed in 0..5 {
        let scenario = Scenario::quiet(seed, 3, Shape::Chain);
        let mut world = settled(&scenario);
        for block in both_ways(A, C, |from, to| Fault::Block { from, to }) {
            world.now_let(&block).unwrap();
        }
        advance(&mut world, ms(1_500));
        assert_eq!((world.next_hop(A, C), world.next_hop(C, A)), (Some(B), Some(B)), "seed {seed}");
        advance(&mut world, ms(30_000));
        assert_eq!(world.next_hop(A, C), Some(B));
        for unblock in both_ways(A, C, |from, to| Fault::Unblock { from, to }) {
            world.now_let(&unblock).unwrap();
        }
        converges_within(&mut world, &scenario, ms(12_000));
        assert_eq!(world.next_hop(A, C), Some(C));
    }
}

#[test]
fn one_deaf_direction_is_as_good_as_a_cut() {
    let scenario = Scenario::quiet(0, 3, Shape::Chain);
    let mut world = settled(&scenario);
    world.now_let(&Fault::Block { from: A, to: C }).unwrap();
    advance(&mut world, ms(1_700));
    assert_eq!((world.next_hop(A, C), world.next_hop(C, A)), (Some(B), Some(B)));
}

#[test]
fn a_router_behind_a_firewall_joins_and_two_of_them_relay() {
    let mut scenario = Scenario::quiet(0, 4, Shape::Star);
    scenario.hosts[2].firewalled = true;
    scenario.hosts[3].firewalled = true;
    let mut world = World::new(&scenario, None);
    converges_within(&mut world, &scenario, ms(5_000));
    assert_eq!(world.next_hop(C, B), Some(B));
    let relay = world.next_hop(C, HostId(3));
    assert!(relay == Some(A) || relay == Some(B), "{relay:?}");
}

#[test]
fn the_ghost_of_a_later_life_is_outrun() {
    for seed in 0..5 {
        let scenario = Scenario::quiet(seed, 3, Shape::Star);
        let mut world = settled(&scenario);
        for _ in 0..3 {
            world.now_let(&Fault::Crash { host: B, how: Crash::Killed }).unwrap();
            world.now_let(&Fault::Start { host: B, boot: Boot::Next }).unwrap();
            converges_within(&mut world, &scenario, ms(2_000));
            advance(&mut world, ms(3_000));
        }
        // The state directory comes back from a copy made in the first life, while the others still hold the record
        // of the fourth.
        world.now_let(&Fault::Crash { host: B, how: Crash::Killed }).unwrap();
        advance(&mut world, ms(100));
        let boot = Boot::Restored(BootCount(1));
        world.now_let(&Fault::Start { host: B, boot }).unwrap();
        converges_within(&mut world, &scenario, ms(3_000));
        advance(&mut world, ms(5_000));
        assert_eq!(world.difference(&scenario), None, "seed {seed}");
    }
}

#[test]
fn a_quiet_pair_rekeys_without_losing_its_link() {
    let scenario = Scenario::quiet(7, 2, Shape::Chain);
    let mut world = settled(&scenario);
    let version =
        |world: &World| node(world, A).peer_status().iter().map(|peer| peer.version).collect::<Vec<_>>();
    let before = version(&world);
    world.run_until(Moment::from_origin(ms(600_000))).unwrap();
    assert_eq!(version(&world), before, "no link went down");
    assert_eq!(world.difference(&scenario), None);
}

/// Time until `from` dials the host that it names.
fn next_try(world: &World, from: HostId, to: HostId) -> Duration {
    let targets = node(world, from).target_status(world.now());
    let named = targets.into_iter().find(|status| status.target.to_string().starts_with(&to.to_string()));
    named.and_then(|status| status.next_try).unwrap_or_default()
}

#[test]
fn a_later_dial_leaves_a_living_link_alone() {
    for lived in [ms(300), ms(1_000), SIMULTANEOUS_DIAL + ms(100)] {
        for seed in 0..10 {
            let mut scenario = Scenario::quiet(seed, 2, Shape::Everybody);
            scenario.faults = vec![(ms(0), Fault::Crash { host: B, how: Crash::Stopped })];
            let mut world = World::new(&scenario, None);
            advance(&mut world, ms(10_000));
            while next_try(&world, A, B) < lived {
                assert!(world.now() < Moment::from_origin(ms(120_000)), "the waits grow");
                advance(&mut world, ms(100));
            }
            // B dials at once; A, which has tried for long, tries again when the link has lived for a while.
            world.now_let(&Fault::Start { host: B, boot: Boot::Next }).unwrap();
            advance(&mut world, ms(30_000));
            assert_eq!(world.difference(&scenario), None, "seed {seed}");
            let sessions = [A, B].map(|host| world.hosts[host.0].tally.sessions);
            assert_eq!(sessions, [1, 1], "seed {seed}, lived {lived:?}");
        }
    }
}
