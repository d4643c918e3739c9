//! What containers and upstream name servers send to the name server of a host, which has a few names here.

use std::cell::RefCell;
use std::sync::Arc;

use mesh_dns::{Snapshot, fuzzing};
use mesh_names::{Entry, Names, Order, Zone};
use mesh_wire::{BootCount, PeerId};

use crate::input::Input;

/// Longest piece in which bytes of a connection come.
const PIECE_LEN_MAX: usize = 300;

thread_local! {
    static NAMES: RefCell<Names> = RefCell::new(names());
}

pub(crate) fn query(bytes: &[u8]) {
    fuzzing::query(&snapshot(), bytes);
}

/// Each piece has its length before it.
pub(crate) fn connection(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut pieces = Vec::new();
    while !input.is_empty() {
        pieces.push(input.piece(PIECE_LEN_MAX));
    }
    fuzzing::connection(&snapshot(), &pieces);
}

pub(crate) fn upstream_answer(bytes: &[u8]) {
    fuzzing::upstream_answer(bytes);
}

fn snapshot() -> Arc<Snapshot> {
    NAMES.with_borrow_mut(Names::snapshot)
}

fn names() -> Names {
    let zone = Zone {
        domain: "mesh.internal".parse().expect("a name"),
        ranges: vec!["10.32.0.0/12".parse().expect("a range")],
        ttl: 1,
        negative_ttl: 1,
        servers: vec!["169.254.32.53".parse().expect("an address")],
        order: Order::Shuffled,
    };
    let mut names = Names::new(PeerId::from_bytes([1; 16]), BootCount(1), zone).expect("a zone");
    let many = (0..70).map(|last| format!("many 10.33.0.{last}"));
    let few = ["web 10.32.0.1", "both 10.32.0.2", "both fd00::2", "a.b 10.32.0.3"].map(str::to_owned);
    for line in few.into_iter().chain(many) {
        let (name, address) = line.split_once(' ').expect("a name and an address");
        let name = format!("{name}.mesh.internal");
        let container = "c".parse().expect("an id");
        let entry = Entry::new(&name, address.parse().expect("an address"), container, Some(80));
        names.add(entry.expect("an entry")).expect("room");
    }
    names
}
