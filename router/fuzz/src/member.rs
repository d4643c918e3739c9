//! A router and a member of its network that knows the secret and then sends anything: the worst that a signed and sealed
//! peer can do.

use std::time::Duration;

use mesh_crypto::{HandshakeStep, Psk, Role, Session};
use mesh_node::{ConnectionId, Input as Event, Node, Output};
use mesh_wire::control::{BUCKETS, Channel, Digest, DigestRow, Gossip, Message, Rekey, Relay, Summary};
use mesh_wire::{BootCount, Moment, PeerId};

use crate::handshakes;
use crate::input::Input;
use crate::routers::{address, node};

const CONNECTION: ConnectionId = ConnectionId::Accepted(0);

/// Most messages of one run.
const MESSAGES_MAX: usize = 64;

pub(crate) fn member(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut node = node(1, Vec::new(), true);
    let mut session = join(&mut node);
    let me = session.peer.peer_id();
    let mut now = Moment::ORIGIN;
    for _ in 0..MESSAGES_MAX {
        if input.is_empty() {
            break;
        }
        let plaintext = plaintext(&mut input, me);
        let Ok(bytes) = session.sealer.seal(&plaintext) else { break };
        drain(&mut node, Event::Received { id: CONNECTION, bytes }, now);
        now = now + Duration::from_millis(u64::from(input.u8()));
        drain(&mut node, Event::Timeout, now);
    }
    assert!(node.peer_status().len() <= 2, "a member speaks for itself alone");
    let _seen = (node.connection_status(), node.target_status(now));
}

/// A session with the router, by its secret.
fn join(node: &mut Node) -> Session {
    let (mut handshake, mut to_node) = handshakes::start(Role::Initiator, 9, &[Psk::from_bytes([3; 32])]);
    let accepted = Event::Accepted { id: CONNECTION, local: address(1), remote: address(9) };
    drain(node, accepted, Moment::ORIGIN);
    for _ in 0..4 {
        let bytes = std::mem::take(&mut to_node);
        let answer = drain(node, Event::Received { id: CONNECTION, bytes }, Moment::ORIGIN);
        match handshake.handle(&answer) {
            HandshakeStep::More { handshake: next, send } => {
                handshake = next;
                to_node = send;
            }
            HandshakeStep::Done { session, .. } => return *session,
            HandshakeStep::Failed { error, .. } => panic!("an honest handshake failed: {error}"),
        }
    }
    panic!("an honest handshake takes four steps");
}

/// What goes out on the connection because of `event`.
fn drain(node: &mut Node, event: Event, now: Moment) -> Vec<u8> {
    let mut written = Vec::new();
    node.handle(event, now);
    while let Some(output) = node.poll_output() {
        match output {
            Output::Write { id: CONNECTION, bytes } => written.extend(bytes),
            Output::PlanChanged => drop(node.plan()),
            Output::Write { .. }
            | Output::Dial { .. }
            | Output::Close { .. }
            | Output::Joined(_)
            | Output::MacsChanged
            | Output::Ipam(_)
            | Output::Event(_) => {}
        }
    }
    written
}

/// A message that makes sense up to a point, or none at all.
fn plaintext(input: &mut Input<'_>, me: PeerId) -> Vec<u8> {
    let peer = |n: u8| if n & 1 == 0 { me } else { PeerId::from_bytes([n; 16]) };
    let channel = Channel(u16::from(input.u8() % 4));
    match input.u8() % 6 {
        0 => Message::Gossip(Gossip { channel, entries: vec![input.piece(4096).to_vec().into()] }).encode(),
        1 => {
            let row = |input: &mut Input<'_>| DigestRow {
                origin: peer(input.u8()),
                boot: BootCount(u64::from(input.u8())),
                version: u64::from(input.u8()),
                tag: u64::from(input.u8()),
            };
            let rows = (0..input.u8() % 8).map(|_| row(input)).collect();
            let reply = input.u8() & 1 == 0;
            Message::Digest(Digest { channel, rows, reply, buckets: u64::from(input.u16()) << 48 }).encode()
        }
        2 => {
            let buckets = if input.u8() & 1 == 0 { vec![] } else { vec![u64::from(input.u8()); BUCKETS] };
            Message::Summary(Summary { channel, root: u64::from(input.u8()), buckets }).encode()
        }
        3 => Message::Relay(Relay {
            source: peer(input.u8()),
            destination: peer(input.u8()),
            hops: input.u8() % 16,
            stream: u64::from(input.u8()),
            from_initiator: input.u8() & 1 == 0,
            sequence: u32::from(input.u8()),
            payload: input.piece(256).to_vec(),
        })
        .encode(),
        4 => {
            let epoch = u32::from(input.u8());
            Message::Rekey(Rekey { epoch, payload: input.piece(128).to_vec() }).encode()
        }
        _ => input.piece(4096).to_vec(),
    }
}
