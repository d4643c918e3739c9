//! How long the work of one change takes in networks of 1,000 and 10,000 peers, and what a partial mesh of them looks
//! like: `cargo run --release -p mesh-topology --example measure`.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    reason = "a measurement reads the clock and says what it has read"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use mesh_crypto::{Identity, Rng};
use mesh_topology::{Formation, Graph, Routes, Topology};
use mesh_wire::control::LinkRecord;
use mesh_wire::{BootCount, PeerId};

/// Connections up to which everybody is connected with everybody.
const CONNECTION_LIMIT: usize = 64;

/// Times that each step is taken; the fastest counts.
const TIMES: u32 = 5;

fn main() {
    for peers in [1_000, 10_000] {
        measure(peers);
    }
}

fn measure(peers: u32) {
    let identities: BTreeMap<PeerId, Identity> = (0..peers)
        .map(|n| {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&n.to_be_bytes());
            let identity = Identity::generate(&mut Rng::from_seed(seed));
            (identity.peer_id(), identity)
        })
        .collect();
    let formation = timed("formation of all", 1, || {
        let formation = Formation::new(identities.keys().copied(), CONNECTION_LIMIT);
        let mut graph: BTreeMap<PeerId, BTreeSet<PeerId>> = BTreeMap::new();
        for chooser in identities.keys() {
            for chosen in formation.choices(*chooser) {
                graph.entry(*chooser).or_default().insert(chosen);
                graph.entry(chosen).or_default().insert(*chooser);
            }
        }
        graph
    });
    let ends: usize = formation.values().map(BTreeSet::len).sum();
    let most = formation.values().map(BTreeSet::len).max().unwrap_or(0);
    println!("{peers} peers: {} links each, at most {most}", ends / identities.len());

    let records: Vec<_> = identities.values().map(|identity| record(identity, &formation)).collect();
    let here = timed("merge of all records", 1, || {
        let mut here = record(&identities[&records[0].me()], &formation);
        for topology in &records[1..] {
            here.merge(topology.entry(topology.me()).expect("own record")).expect("genuine");
        }
        here
    });
    let bytes: usize = here.store().iter().map(|record| record.entry.len()).sum();
    println!("records of {bytes} bytes, {} each", bytes / here.store().len());
    timed("who is reachable, from scratch", 1, || here.cut_off().len());
    timed("choices of one", TIMES, || {
        Formation::new(here.records().map(|r| r.0), CONNECTION_LIMIT).choices(here.me())
    });
    timed("graph", TIMES, || Graph::of(&here));
    let routes = timed("routes", TIMES, || Routes::compute(&here));
    println!("farthest peer: {:?} hops", routes.hops.values().max());
}

fn record(identity: &Identity, formation: &BTreeMap<PeerId, BTreeSet<PeerId>>) -> Topology {
    let mut topology = Topology::new(identity, BootCount(1), "peer".parse().expect("letters"), 6783, 1);
    let links = formation[&topology.me()].iter().map(|peer| LinkRecord {
        peer: *peer,
        address: "192.0.2.1:6783".parse().expect("a literal"),
        outbound: true,
        established: true,
        distance: 1 + peer.as_bytes()[0] % 8,
        overlay: 1,
    });
    topology.publish(identity, links.collect());
    topology
}

fn timed<T>(what: &str, times: u32, mut run: impl FnMut() -> T) -> T {
    let mut taken = Vec::new();
    let mut result = None;
    for _ in 0..times {
        let start = Instant::now();
        result = Some(run());
        taken.push(start.elapsed());
    }
    println!("  {what}: {:?}", taken.iter().min().expect("it runs at least once"));
    result.expect("it runs at least once")
}
