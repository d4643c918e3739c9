//! What users meet, one story at a time.

use std::time::Duration;

use ipnet::IpNet;

use super::cluster::Cluster;
use super::laws::peer;
use crate::founding::Founding;
use crate::interface::{Answer, Event, Refusal, Request, Waiting};
use crate::mutant::{Mutant, Mutants};
use crate::state::Fence;
use crate::{Readiness, range::Range};

const PATIENCE: Duration = Duration::from_secs(10);

fn seeds(count: u8) -> Founding {
    Founding::Seeds((1..=count).map(peer).collect())
}

fn cluster(count: u8, range: &str) -> Cluster {
    Cluster::new(count, range, |_| seeds(count), 1, Mutants::default())
}

fn with(mutant: Mutant, count: u8, range: &str) -> Cluster {
    Cluster::new(count, range, |_| seeds(count), 1, Mutants::only(mutant))
}

fn addresses(texts: &[&str]) -> Result<Answer, Refusal> {
    Ok(Answer::Addresses(texts.iter().map(|text| text.parse().unwrap()).collect()))
}

fn allocate(cluster: &mut Cluster, host: usize, ident: &str) -> Result<Answer, Refusal> {
    let ticket = cluster.allocate(host, ident);
    cluster.wait(ticket)
}

fn claim(cluster: &mut Cluster, host: usize, ident: &str, address: &str) -> Result<Answer, Refusal> {
    let request = Request::Claim { ident: ident.parse().unwrap(), address: address.parse().unwrap() };
    let ticket = cluster.request(host, request, PATIENCE);
    cluster.wait(ticket)
}

fn release(cluster: &mut Cluster, host: usize, ident: &str) -> Result<Answer, Refusal> {
    let request = Request::Release { ident: ident.parse().unwrap(), subnet: None };
    let ticket = cluster.request(host, request, PATIENCE);
    cluster.wait(ticket)
}

fn retire(cluster: &mut Cluster, host: usize, gone: u8) -> Result<Answer, Refusal> {
    let ticket = cluster.request(host, Request::Retire { peer: peer(gone) }, PATIENCE);
    cluster.wait(ticket)
}

#[test]
fn a_host_alone_founds_at_once_with_an_address_that_its_user_chose() {
    let mut one = Cluster::new(1, "10.32.0.0/12", |_| Founding::Alone, 1, Mutants::default());
    let asked = one.now;
    assert_eq!(claim(&mut one, 0, "c1", "10.33.7.9/24"), addresses(&["10.33.7.9/24"]));
    assert!(one.now.since(asked) < Duration::from_secs(1), "it took {:?}", one.now.since(asked));
}

#[test]
fn a_host_alone_founds_with_its_first_address_and_hands_out_the_lowest() {
    let mut one = Cluster::new(1, "10.32.0.0/12", |_| Founding::Alone, 1, Mutants::default());
    one.run(Duration::from_secs(30));
    assert_eq!(one.ipam(0).status(one.now).readiness, Readiness::Idle);
    assert_eq!(one.ipam(0).network_id(), None);
    assert_eq!(allocate(&mut one, 0, "a"), addresses(&["10.32.0.1/12"]));
    assert_eq!(allocate(&mut one, 0, "b"), addresses(&["10.32.0.2/12"]));
    assert_eq!(allocate(&mut one, 0, "a"), addresses(&["10.32.0.1/12"]));
    let subnet = Request::Allocate { ident: "a".parse().unwrap(), subnet: "10.40.1.0/24".parse().unwrap() };
    let ticket = one.request(0, subnet, PATIENCE);
    assert_eq!(one.wait(ticket), addresses(&["10.40.1.1/24"]));
    let status = one.ipam(0).status(one.now);
    assert_eq!((status.readiness, status.owned[0].active), (Readiness::Ready, Some(3)));
    assert_eq!((status.owned[0].addresses, status.owned[0].share), (1 << 20, 1.0));
}

#[test]
fn a_freed_address_cools_and_the_one_freed_first_comes_back_first() {
    let mut one = Cluster::new(1, "10.0.0.0/29", |_| Founding::Alone, 1, Mutants::default());
    for ident in ["a", "b", "c", "d", "e", "f"] {
        allocate(&mut one, 0, ident).unwrap();
    }
    assert_eq!(release(&mut one, 0, "d"), addresses(&["10.0.0.4/29"]));
    one.run(Duration::from_secs(1));
    release(&mut one, 0, "b").unwrap();
    assert_eq!(allocate(&mut one, 0, "x"), Err(Refusal::TimedOut(Waiting::Cooling)));
    assert_eq!(allocate(&mut one, 0, "b"), addresses(&["10.0.0.2/29"]), "its last holder need not wait");
    release(&mut one, 0, "b").unwrap();
    one.run(Duration::from_secs(61));
    assert_eq!(allocate(&mut one, 0, "x"), addresses(&["10.0.0.4/29"]));
    assert_eq!(allocate(&mut one, 0, "y"), addresses(&["10.0.0.2/29"]));
    let all: IpNet = "10.0.0.0/29".parse().unwrap();
    let owners = vec![(peer(1), Some("host-0".parse().unwrap()), 6)];
    let refusal = Refusal::Exhausted { within: Range::hosts_of(all), owners };
    assert_eq!(refusal.to_string(), "no address left in 10.0.0.1-10.0.0.6; host-0 has 6");
    assert_eq!(allocate(&mut one, 0, "z"), Err(refusal));
}

#[test]
fn a_cooling_address_cools_again_after_a_restart() {
    let mut one = Cluster::new(1, "10.0.0.0/30", |_| Founding::Alone, 1, Mutants::default());
    for ident in ["a", "b"] {
        allocate(&mut one, 0, ident).unwrap();
        release(&mut one, 0, ident).unwrap();
    }
    one.run(Duration::from_secs(50));
    one.crash(0, false);
    one.start(0);
    one.run(Duration::from_secs(50));
    assert_eq!(allocate(&mut one, 0, "x"), Err(Refusal::TimedOut(Waiting::Cooling)));
    one.run(Duration::from_secs(10));
    assert_eq!(allocate(&mut one, 0, "x"), addresses(&["10.0.0.1/30"]));
}

#[test]
fn claims_are_granted_once_wherever_the_address_belongs() {
    let mut two = cluster(2, "10.0.0.0/24");
    two.run(Duration::from_secs(2));
    assert_eq!(claim(&mut two, 0, "near", "10.0.0.5/24"), addresses(&["10.0.0.5/24"]));
    assert_eq!(claim(&mut two, 0, "far", "10.0.0.200/24"), addresses(&["10.0.0.200/24"]));
    assert_eq!(claim(&mut two, 0, "far", "10.0.0.200/24"), addresses(&["10.0.0.200/24"]));
    let held = Refusal::Held("10.0.0.5".parse().unwrap(), "near".parse().unwrap());
    assert_eq!(claim(&mut two, 0, "other", "10.0.0.5/24"), Err(held));
    let in_use = Refusal::InUse { address: "10.0.0.200".parse().unwrap(), owner: peer(1) };
    assert_eq!(claim(&mut two, 1, "other", "10.0.0.200/24"), Err(in_use));
    assert_eq!(
        claim(&mut two, 0, "edge", "10.0.0.255/24"),
        Err(Refusal::Edge("10.0.0.255".parse().unwrap()))
    );
    assert!(matches!(claim(&mut two, 0, "out", "10.9.0.1/24"), Err(Refusal::OutsideRange(..))));
    assert_eq!(two.ipam(0).state().custody.active().count(), 129, "only the one address moved");
    let lookup = Request::Lookup { ident: "far".parse().unwrap(), subnet: None };
    let ticket = two.request(0, lookup, PATIENCE);
    assert_eq!(two.wait(ticket), addresses(&["10.0.0.200/24"]));
}

#[test]
fn hosts_exhaust_a_range_together_and_all_hear_so() {
    let mut three = cluster(3, "10.0.0.0/27");
    three.run(Duration::from_secs(2));
    let tickets: Vec<_> = (0..30).map(|n| three.allocate(n % 3, &format!("c{n}"))).collect();
    for ticket in tickets {
        three.wait(ticket).unwrap();
    }
    assert_eq!(three.holders.len(), 30);
    for host in 0..3 {
        assert!(matches!(allocate(&mut three, host, "more"), Err(Refusal::Exhausted { .. })));
    }
    three.check();
    assert_eq!(three.findings, Vec::<String>::new());
}

#[test]
fn a_part_of_the_network_that_is_alone_hands_out_its_own_space_and_says_whose_is_missing() {
    let mut two = cluster(2, "10.0.0.0/28");
    two.run(Duration::from_secs(2));
    two.part(vec![0, 1]);
    for n in 0..7 {
        allocate(&mut two, 0, &format!("a{n}")).unwrap();
    }
    let refusal = allocate(&mut two, 0, "more");
    assert_eq!(refusal, Err(Refusal::TimedOut(Waiting::Owners { peers: [peer(2)].into() })));
    assert!(refusal.unwrap_err().to_string().contains("mesh rmpeer"));
    let ticket = two.allocate(0, "waits");
    two.run(Duration::from_secs(1));
    let status = two.ipam(0).status(two.now);
    assert_eq!(status.readiness, Readiness::UnreachableOwner);
    assert!(!status.owned[1].reachable && status.detail.contains(&peer(2).to_string()), "{}", status.detail);
    two.part(vec![0, 0]);
    two.wait(ticket).unwrap();
}

#[test]
fn the_space_of_a_dead_peer_is_taken_over_once_however_often_it_is_retired() {
    let mut four = cluster(4, "10.0.0.0/26");
    four.run(Duration::from_secs(2));
    four.kill(1);
    four.part(vec![0, 0, 0, 1]);
    let missing = Waiting::Answers { missing: [peer(4)].into(), gone: peer(2) };
    assert_eq!(retire(&mut four, 0, 2), Err(Refusal::TimedOut(missing)));
    let heir = Waiting::Heir { heir: peer(1), gone: peer(2) };
    assert_eq!(retire(&mut four, 2, 2), Err(Refusal::TimedOut(heir)));
    let first = four.request(0, Request::Retire { peer: peer(2) }, PATIENCE);
    let second = four.request(2, Request::Retire { peer: peer(2) }, PATIENCE);
    four.part(vec![0; 4]);
    assert_eq!(four.wait(first), Ok(Answer::Reclaimed { addresses: 16 }));
    assert_eq!(four.wait(second), Ok(Answer::Reclaimed { addresses: 16 }));
    assert_eq!(retire(&mut four, 3, 2), Ok(Answer::Reclaimed { addresses: 0 }));
    assert_eq!(retire(&mut four, 0, 1), Err(Refusal::Oneself));
    assert_eq!(retire(&mut four, 0, 3), Err(Refusal::StillReachable(peer(3))));
    assert_eq!(retire(&mut four, 0, 9), Err(Refusal::UnknownPeer(peer(9))));
    four.check();
    assert_eq!(four.findings, Vec::<String>::new());
}

#[test]
fn a_peer_that_leaves_gives_its_space_away_and_is_gone() {
    let mut two = cluster(2, "10.0.0.0/26");
    two.run(Duration::from_secs(2));
    allocate(&mut two, 1, "a").unwrap();
    let ticket = two.request(1, Request::HandOver, PATIENCE);
    assert_eq!(two.wait(ticket), Ok(Answer::HandedOver { to: Some(peer(1)), addresses: 32 }));
    assert_eq!(allocate(&mut two, 1, "b"), Err(Refusal::Fenced(Fence::Retired)));
    assert_eq!(two.ipam(0).state().custody.active().count(), 64);
    let alone = two.request(0, Request::HandOver, PATIENCE);
    two.kill(1);
    assert_eq!(two.wait(alone), Ok(Answer::HandedOver { to: None, addresses: 0 }));
}

/// A peer leaves while its heir hears nothing.
fn leaves_unheard(mut two: Cluster) -> Result<Answer, Refusal> {
    two.run(Duration::from_secs(2));
    two.loss = 100;
    let ticket = two.request(1, Request::HandOver, PATIENCE);
    two.wait(ticket)
}

#[test]
fn a_peer_that_leaves_unheard_says_so() {
    let waiting = Waiting::HandOver { to: peer(1) };
    assert_eq!(leaves_unheard(cluster(2, "10.0.0.0/26")), Err(Refusal::TimedOut(waiting.clone())));
    assert_ne!(
        leaves_unheard(with(Mutant::LeaveWithoutAck, 2, "10.0.0.0/26")),
        Err(Refusal::TimedOut(waiting)),
        "the mistake is found"
    );
}

#[test]
fn founders_need_a_majority_of_those_they_were_told_of() {
    let mut three =
        Cluster::new(3, "10.0.0.0/26", |_| Founding::Consensus { voters: 3 }, 1, Mutants::default());
    three.part(vec![0, 1, 2]);
    let waiting = Waiting::Consensus { votes: 1, needed: 2 };
    assert_eq!(allocate(&mut three, 0, "a"), Err(Refusal::TimedOut(waiting)));
    assert!(matches!(allocate(&mut three, 1, "a"), Err(Refusal::TimedOut(Waiting::Consensus { .. }))));
    three.part(vec![0, 0, 1]);
    allocate(&mut three, 0, "a").unwrap();
    let prime = three.request(2, Request::Prime, Duration::from_secs(3));
    assert!(three.wait(prime).is_err());
    three.part(vec![0; 3]);
    let prime = three.request(2, Request::Prime, PATIENCE);
    assert_eq!(three.wait(prime), Ok(Answer::Ready(three.ipam(0).network_id().unwrap())));
}

#[test]
fn an_observer_waits_for_others_to_found() {
    let founding = |number| if number == 0 { Founding::Observer } else { Founding::Alone };
    let mut two = Cluster::new(2, "10.0.0.0/26", founding, 1, Mutants::default());
    assert_eq!(allocate(&mut two, 0, "a"), Err(Refusal::TimedOut(Waiting::Founder)));
    assert_eq!(two.ipam(0).status(two.now).readiness, Readiness::Observing);
    allocate(&mut two, 1, "b").unwrap();
    allocate(&mut two, 0, "a").unwrap();
}

/// Two networks that were founded apart come together.
fn meet(mutants: Mutants) -> Cluster {
    let mut two = Cluster::new(2, "10.0.0.0/26", |_| Founding::Alone, 1, mutants);
    two.part(vec![0, 1]);
    allocate(&mut two, 0, "a").unwrap();
    allocate(&mut two, 1, "b").unwrap();
    two.part(vec![0, 0]);
    two.run(Duration::from_secs(30));
    two
}

#[test]
fn two_networks_refuse_each_other_with_both_ids_and_a_remedy() {
    let mut two = meet(Mutants::default());
    let ids = [0, 1].map(|host| two.ipam(host).network_id().unwrap());
    for host in 0..2 {
        let events: Vec<_> =
            two.hosts[host].events.iter().filter(|e| matches!(e, Event::OtherNetwork { .. })).collect();
        assert_eq!(events.len(), 1, "reported once");
        let text = events[0].to_string();
        assert!(ids.iter().all(|id| text.contains(&id.to_string())) && text.contains("mesh reset"), "{text}");
    }
    allocate(&mut two, 0, "goes on").unwrap();
    assert_eq!(two.ipam(0).state().custody.active().count(), 64);
    let merged = meet(Mutants::only(Mutant::MergeNetworks));
    assert!(
        (0..2).any(|host| merged.hosts[host].events.iter().any(|e| matches!(e, Event::Conflict { .. }))),
        "the mistake is found"
    );
}

/// Runs a copy of host 1's state in the place of host 2, after both have gone on for a while.
fn clone(mutants: Mutants) -> Cluster {
    let mut three = Cluster::new(3, "10.0.0.0/26", |_| seeds(2), 1, mutants);
    three.run(Duration::from_secs(2));
    allocate(&mut three, 1, "a").unwrap();
    three.run(Duration::from_secs(15));
    three.crash(2, false);
    three.hosts[2].id = three.hosts[1].id;
    three.hosts[2].disk.log = three.hosts[1].disk.log.clone();
    three.hosts[1].is_tainted = true;
    three.hosts[2].is_tainted = true;
    three.part(vec![0, 0, 1]);
    three.start(2);
    allocate(&mut three, 1, "b").unwrap();
    allocate(&mut three, 2, "c").unwrap();
    for groups in [vec![0, 1, 0], vec![0, 0, 1], vec![0, 1, 0]] {
        three.part(groups);
        three.run(Duration::from_secs(15));
    }
    three
}

#[test]
fn clones_are_fenced_both() {
    let mut three = clone(Mutants::default());
    assert_eq!(allocate(&mut three, 1, "x"), Err(Refusal::Fenced(Fence::Copied)));
    assert_eq!(allocate(&mut three, 2, "y"), Err(Refusal::Fenced(Fence::Copied)));
    assert!(three.hosts[0].events.contains(&Event::Clones { peer: peer(2) }));
    three.crash(1, false);
    three.start(1);
    assert_eq!(allocate(&mut three, 1, "x"), Err(Refusal::Fenced(Fence::Copied)), "the fence is durable");
    let mut unnoticed = clone(Mutants::only(Mutant::IgnoreClones));
    assert!(allocate(&mut unnoticed, 1, "x").is_ok(), "the mistake is found");
}

/// Puts host 2's state back to before it gave space away.
fn roll_back(mutants: Mutants) -> Cluster {
    let mut two = Cluster::new(2, "10.0.0.0/26", |_| seeds(2), 1, mutants);
    two.run(Duration::from_secs(2));
    let old = two.hosts[1].disk.log.clone();
    claim(&mut two, 0, "a", "10.0.0.40/26").unwrap();
    two.run(Duration::from_secs(15));
    two.crash(1, false);
    two.hosts[1].disk.log = old;
    two.hosts[1].is_tainted = true;
    two.start(1);
    two.run(Duration::from_secs(15));
    two
}

#[test]
fn a_state_that_was_put_back_is_fenced() {
    let mut two = roll_back(Mutants::default());
    assert!(matches!(allocate(&mut two, 1, "b"), Err(Refusal::Fenced(Fence::Copied | Fence::RolledBack))));
    assert_eq!(two.ipam(1).status(two.now).readiness, Readiness::Disabled);
    // Either of two watches is enough: the position of the log, and deeds that are not remembered.
    let mut by_deeds = roll_back(Mutants::only(Mutant::IgnoreClones));
    assert_eq!(allocate(&mut by_deeds, 1, "b"), Err(Refusal::Fenced(Fence::RolledBack)));
    let mut by_position = roll_back(Mutants::only(Mutant::IgnoreRollback));
    assert_eq!(allocate(&mut by_position, 1, "b"), Err(Refusal::Fenced(Fence::Copied)));
}

/// Host 2 is retired while it is only cut off, and comes back.
fn retire_living(mutants: Mutants) -> Cluster {
    let mut three = Cluster::new(3, "10.0.0.0/26", |_| seeds(3), 1, mutants);
    three.run(Duration::from_secs(2));
    allocate(&mut three, 1, "a").unwrap();
    three.part(vec![0, 1, 0]);
    retire(&mut three, 0, 2).unwrap();
    three.part(vec![0; 3]);
    three.run(Duration::from_secs(2));
    three
}

#[test]
fn a_living_peer_that_was_retired_keeps_its_addresses_and_hands_out_none() {
    let mut three = retire_living(Mutants::default());
    assert_eq!(allocate(&mut three, 1, "b"), Err(Refusal::Fenced(Fence::Retired)));
    assert_eq!(allocate(&mut three, 1, "a").map(|_| ()), Ok(()), "what it has, it has");
    let conflicts = three.ipam(1).status(three.now).conflicts;
    assert_eq!(conflicts.len(), 1);
    assert!(three.hosts[1].events.iter().any(|event| matches!(event, Event::Conflict { .. })), "S8: shown");
    let mut goes_on = retire_living(Mutants::only(Mutant::IgnoreRetirement));
    assert_ne!(allocate(&mut goes_on, 1, "b"), Err(Refusal::Fenced(Fence::Retired)), "the mistake is found");
}

#[test]
fn peers_with_different_ranges_stay_apart() {
    let mut two = Cluster::new(2, "10.0.0.0/26", |_| Founding::Alone, 1, Mutants::default());
    two.crash(1, false);
    two.hosts[1].config.range = "10.0.0.0/25".parse().unwrap();
    two.hosts[1].disk.log.clear();
    two.start(1);
    allocate(&mut two, 0, "a").unwrap();
    two.run(Duration::from_secs(15));
    assert_eq!(two.ipam(1).network_id(), None);
    assert!(two.hosts[1].events.iter().any(|event| matches!(event, Event::OtherRange { .. })));
}

#[test]
fn runs_of_one_owner_are_joined() {
    let runs = |mutants| {
        let mut two = Cluster::new(2, "10.0.0.0/24", |_| seeds(2), 1, mutants);
        two.run(Duration::from_secs(2));
        claim(&mut two, 1, "there", "10.0.0.50/24").unwrap();
        release(&mut two, 1, "there").unwrap();
        two.run(Duration::from_secs(61));
        claim(&mut two, 0, "back", "10.0.0.50/24").unwrap();
        two.run(Duration::from_secs(100));
        two.ipam(0).state().custody.map().len()
    };
    assert_eq!(runs(Mutants::default()), 2);
    assert_eq!(runs(Mutants::only(Mutant::NeverCoalesce)), 4, "the mistake is found");
}

#[test]
fn a_map_of_many_runs_comes_to_a_newcomer_in_parts() {
    const CLAIMS: u32 = 1_100;
    let mut three = Cluster::new(3, "10.0.0.0/20", |_| seeds(2), 1, Mutants::default());
    three.part(vec![0, 0, 1]);
    three.run(Duration::from_secs(2));
    // Every other address of the second host moves, so that none of its runs touches another of its owner.
    for n in 0..CLAIMS {
        let address = std::net::Ipv4Addr::from(0x0a00_0800 + 1 + 2 * (n % 1_023));
        claim(&mut three, 0, &format!("c{n}"), &format!("{address}/20")).ok();
    }
    let runs = three.ipam(0).state().custody.map().len();
    assert!(runs > crate::view::PART_ENTRIES_MAX - 10, "{runs} runs");
    three.loss = 20;
    three.part(vec![0; 3]);
    three.run(Duration::from_secs(30));
    let views: Vec<_> = (0..3).map(|host| three.ipam(host).state().custody.view()).collect();
    assert!(views[0] == views[1] && views[1] == views[2], "all know the same");
    assert!(three.ipam(2).state().custody.is_member());
    allocate(&mut three, 2, "new").unwrap();
}

/// Row 6 of the fault table.
#[test]
fn a_thousand_times_a_host_is_cut_off_and_nothing_is_given_twice_or_lost() {
    const CYCLES: usize = 1_000;
    let mut three = cluster(3, "10.0.0.0/24");
    three.run(Duration::from_secs(2));
    let mut runs_max = 0;
    for cycle in 0..CYCLES {
        let mut groups = vec![0; 3];
        groups[cycle % 3] = 1;
        three.part(groups);
        for host in 0..3 {
            three.allocate(host, &format!("c{cycle}"));
        }
        three.run(Duration::from_millis(300));
        three.part(vec![0; 3]);
        three.run(Duration::from_millis(200));
        for host in 0..3 {
            let request = Request::Release { ident: format!("c{cycle}").parse().unwrap(), subnet: None };
            three.request(host, request, PATIENCE);
        }
        runs_max = runs_max.max(three.ipam(0).state().custody.map().len());
    }
    three.run(Duration::from_secs(100));
    three.check();
    assert_eq!(three.findings, Vec::<String>::new());
    let active: u128 = (0..3).map(|host| three.ipam(host).state().custody.active().count()).sum();
    assert_eq!(active, 256);
    assert!(runs_max < 128, "the map grew to {runs_max} runs");
}

#[test]
fn whatever_a_peer_sends_is_survived() {
    let mut two = cluster(2, "10.0.0.0/26");
    two.run(Duration::from_secs(2));
    for round in 0..2_000_u64 {
        let mut bytes = two.rng.u64().to_be_bytes()[..(round % 9).min(8) as usize].to_vec();
        bytes.insert(0, 0x84);
        bytes.insert(1, 1);
        two.input(0, crate::interface::Input::Received { from: peer(2), bytes });
    }
    let refused = two.hosts[0].events.iter().filter(|event| matches!(event, Event::MessageRefused { .. }));
    assert_eq!(refused.count(), 1, "reported once");
    allocate(&mut two, 0, "a").unwrap();
}
