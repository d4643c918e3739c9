//! A server on a loopback address with many made-up names, for trying resolvers and measuring: it prints what it
//! listens on and what it has done, and ends with its input.
//!
//! `cargo run --release -p mesh-dns --example serve -- ADDRESS:PORT NAMES limited|unlimited [UPSTREAM]...`

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use mesh_dns::{Config, Listen, Outcome, Rates, Rng, Server, Upstream};
use mesh_names::{Chunk, Entry, Kind, Name, Names, ORIGIN_ENTRIES_MAX, Order, Zone};
use mesh_wire::{BootCount, Moment, PeerId};

/// Questions whose answers are timed.
const LOOKUPS: u32 = 1_000_000;

/// Changes that are timed.
const CHANGES: u8 = 100;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments.next().ok_or("ADDRESS:PORT is missing")?.parse()?;
    let total: u32 = arguments.next().map_or(Ok(1_000), |text| text.parse())?;
    // The rest comes while changes are timed.
    let count = total.checked_sub(CHANGES.into()).filter(|count| *count > 0).ok_or("too few NAMES")?;
    let rates = match arguments.next().as_deref() {
        Some("limited") => Rates::default(),
        Some("unlimited") | None => Rates { queries: u32::MAX, same_question: u32::MAX, no_name: u32::MAX },
        Some(other) => return Err(format!("{other:?} is neither limited nor unlimited").into()),
    };
    let upstream: Vec<SocketAddr> = arguments.map(|text| text.parse()).collect::<Result<_, _>>()?;

    let before = resident_bytes();
    let mut names = names(count)?;
    time_changes(&mut names)?;
    let snapshot = names.snapshot();
    println!("{total} names take {} kB", (resident_bytes() - before) / 1024);
    time_lookups(&snapshot, count)?;

    let config = Config {
        listen: vec![Listen::Address(address)],
        clients: vec!["127.0.0.0/8".parse()?],
        upstream: Upstream::Servers(upstream),
        private: vec!["10.32.0.0/12".parse()?],
        rates,
        nsid: b"example".to_vec(),
        rng: Rng::from_seed([1; 32]),
    };
    let server = Server::start(config, Arc::new(ArcSwap::new(snapshot)))?;
    println!("listening on {:?}", server.addresses());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let stats = server.stats();
    for outcome in Outcome::ALL.into_iter().filter(|outcome| stats.outcome(*outcome) > 0) {
        println!("{}: {}", outcome.label(), stats.outcome(outcome));
    }
    println!("latency classes: {:?}", stats.latency);
    Ok(())
}

/// `count` names of as many peers as it takes, this router first.
fn names(count: u32) -> Result<Names, Failure> {
    let mut names = Names::new(PeerId::from_bytes([0; 16]), BootCount(1), zone()?)?;
    let mut reachable = std::collections::BTreeSet::new();
    let per_peer = u32::try_from(ORIGIN_ENTRIES_MAX)?;
    for number in 0..count.min(per_peer - u32::from(CHANGES)) {
        names.add(entry(number)?)?;
    }
    for first in (per_peer - u32::from(CHANGES)..count).step_by(ORIGIN_ENTRIES_MAX) {
        let peer = PeerId::from_bytes((u128::from(first) + 1).to_be_bytes());
        let mut origin = Names::new(peer, BootCount(1), zone()?)?;
        for number in first..count.min(first + per_peer) {
            origin.add(entry(number)?)?;
        }
        reachable.insert(peer);
        names.set_reachable(&reachable, Moment::ORIGIN);
        for key in origin.take_changed() {
            let bytes = origin.encode(key).ok_or("a changed chunk is there")?;
            names.merge(Chunk::decode(&bytes)?, Moment::ORIGIN)?;
        }
    }
    Ok(names)
}

fn zone() -> Result<Zone, Failure> {
    Ok(Zone {
        domain: "mesh.internal".parse()?,
        ranges: vec!["10.32.0.0/12".parse()?],
        ttl: 1,
        negative_ttl: 1,
        servers: vec!["169.254.32.53".parse()?],
        order: Order::Shuffled,
    })
}

fn entry(number: u32) -> Result<Entry, Failure> {
    let address = IpAddr::from(Ipv4Addr::from(0x0a20_0001 + number));
    let container = format!("{number:064x}").parse()?;
    Ok(Entry::new(&format!("name-{number}.mesh.internal"), address, container, None)?)
}

/// How long a change takes until a snapshot shows it, while an older one is held as a server holds it.
fn time_changes(names: &mut Names) -> Result<(), Failure> {
    let mut kept = names.snapshot();
    let started = Instant::now();
    for last in 0..CHANGES {
        let container = "changed".parse()?;
        let address = IpAddr::from(Ipv4Addr::new(10, 47, 0, last));
        names.add(Entry::new(&format!("new-{last}.mesh.internal"), address, container, None)?)?;
        kept = names.snapshot();
    }
    drop(kept);
    println!("a change and its snapshot take {:?}", started.elapsed() / u32::from(CHANGES));
    Ok(())
}

fn time_lookups(snapshot: &mesh_dns::Snapshot, count: u32) -> Result<(), Failure> {
    let asked = (0..count).map(|number| format!("name-{number}.mesh.internal").parse());
    let asked: Vec<Name> = asked.collect::<Result<_, _>>()?;
    let mut rng = Rng::from_seed([2; 32]);
    let started = Instant::now();
    let mut at = 0;
    for _ in 0..LOOKUPS {
        // A stride that visits all names in an order that no cache foresees.
        at = (at + 7_919) % asked.len();
        std::hint::black_box(snapshot.answer(&asked[at], Kind::A, &mut rng));
    }
    let each = started.elapsed() / LOOKUPS;
    println!("an answer takes {each:?}, {:.0} a second", 1.0 / each.as_secs_f64());
    Ok(())
}

/// Memory of this process, in bytes (proc(5), statm counts pages of 4 KiB).
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
}
