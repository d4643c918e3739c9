//! A whole router whose surroundings do anything: strangers connect and talk, dials fail and succeed, the data plane
//! reports, users change their minds, time passes.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_crypto::{Identity, Psk, Rng};
use mesh_names::{Names, Order, Zone};
use mesh_node::{Config, ConnectionId, DialFailure, Input as Event, Node, Output, Report};
use mesh_topology::Target;
use mesh_wire::{BootCount, Moment, NetworkId, PeerId};

use crate::input::Input;

/// Most events of one run: what is found, is found in short ones.
const EVENTS_MAX: usize = 256;

pub(crate) fn strangers(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut world =
        World { node: node(1, vec![target(2)], input.u8() & 1 == 0), now: Moment::ORIGIN, known: vec![] };
    for number in 0..EVENTS_MAX {
        if input.is_empty() {
            break;
        }
        let event = world.event(&mut input, number as u64);
        world.step(event);
    }
    let _seen =
        (world.node.connection_status(), world.node.peer_status(), world.node.target_status(world.now));
    assert_eq!(world.node.peer_status().len(), 1, "no stranger becomes a peer");
    world.step(Event::Stop);
}

/// A router with a seed for an identity.
pub(crate) fn node(seed: u8, targets: Vec<Target>, has_secret: bool) -> Node {
    let mut rng = Rng::from_seed([seed; 32]);
    let identity = Identity::generate(&mut rng);
    let names = Names::new(identity.peer_id(), BootCount(1), zone()).expect("the domain is short");
    let config = Config {
        identity,
        boot: BootCount(1),
        nonce: u64::from(seed),
        nickname: format!("h{seed}").parse().expect("a letter and digits"),
        port: 6783,
        secrets: if has_secret { vec![Psk::from_bytes([3; 32])] } else { vec![] },
        network: None,
        allowed: None,
        trusted_subnets: Vec::new(),
        ipam: None,
        names,
        connection_limit: 8,
        rekey_after: mesh_node::limits::REKEY_AFTER,
        aes_preferred: true,
        discovery: true,
        targets,
    };
    Node::new(config, rng, Moment::ORIGIN)
}

fn zone() -> Zone {
    Zone {
        domain: "mesh.internal".parse().expect("a name"),
        ranges: Vec::new(),
        ttl: 1,
        negative_ttl: 1,
        servers: Vec::new(),
        order: Order::Shuffled,
    }
}

pub(crate) fn target(last: u8) -> Target {
    Target::Named { host: format!("192.0.2.{last}"), port: 6783 }
}

pub(crate) fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 6783))
}

struct World {
    node: Node,
    now: Moment,
    /// Connections that the router counts as its own, as far as the surroundings know.
    known: Vec<ConnectionId>,
}

impl World {
    fn event(&mut self, input: &mut Input<'_>, number: u64) -> Event {
        let kind = input.u8();
        let id = self.known.get(usize::from(input.u8())).copied().unwrap_or(ConnectionId::Dialed(number));
        let peer = if input.u8() & 1 == 0 { self.node.peer_id() } else { PeerId::from_bytes([7; 16]) };
        let some_address = address(input.u8());
        match kind % 16 {
            0 | 1 => {
                let id = ConnectionId::Accepted(number);
                self.known.push(id);
                Event::Accepted { id, local: address(1), remote: some_address }
            }
            2..=6 => Event::Received { id, bytes: input.piece(4096).to_vec() },
            7 => Event::Closed { id },
            8 => Event::Dialed { id, local: address(1), remote: some_address },
            9 => Event::DialFailed { id, failure: DialFailure::Refused },
            10 => Event::Report(match input.u8() % 6 {
                0 => Report::Alive { peer, rtt: Duration::from_micros(u64::from(input.u16())) },
                1 => Report::Dead { peer, silent_for: Duration::from_secs(1) },
                2 => Report::Roamed { peer, remote: some_address },
                3 => Report::RekeyWanted { peer },
                4 => Report::Relayed { peer },
                _ => Report::Idle { peer },
            }),
            11 => Event::Connect { targets: vec![target(input.u8())], replace: input.u8() & 1 == 0 },
            12 => Event::Forget { targets: vec![target(input.u8())] },
            13 => match input.u8() % 3 {
                0 => Event::Secrets(vec![Psk::from_bytes([input.u8(); 32])]),
                1 => Event::Addresses(vec![some_address.ip()]),
                _ => Event::Founded(NetworkId::from_bytes([input.u8(); 16])),
            },
            _ => {
                self.now = self.now + Duration::from_millis(u64::from(input.u16()));
                Event::Timeout
            }
        }
    }

    fn step(&mut self, event: Event) {
        self.node.handle(event, self.now);
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Dial { id, .. } => self.known.push(id),
                Output::Close { id } => self.known.retain(|known| *known != id),
                Output::PlanChanged => drop(self.node.plan()),
                Output::Write { .. }
                | Output::Joined(_)
                | Output::MacsChanged
                | Output::Ipam(_)
                | Output::Event(_) => {}
            }
        }
    }
}
