//! Whole dialogues with fixed keys, byte by byte as PROTOCOL.md writes them down.
//!
//! All that the bytes follow from stands in the file with them, the ephemeral keys too, so that another implementation
//! can be checked against it. An independent one, over Python's `hashlib`, `hmac` and `cryptography`, gave the same.

#[path = "../../wire/tests/golden/compare.rs"]
mod compare;

use compare::Golden;
use mesh_crypto::{
    DirectionKey, Handshake, HandshakeConfig, HandshakeStep, Identity, Membership, Protection, Psk,
    RekeyStep, Rng, Role, SealingKey, Session, Suite, VERSIONS,
};

/// Whose randomness and keys follow from a seed.
struct Side {
    name: &'static str,
    role: Role,
    seed: u8,
    payload: &'static [u8],
}

const INITIATOR: Side =
    Side { name: "initiator", role: Role::Initiator, seed: 1, payload: b"from initiator" };
const RESPONDER: Side =
    Side { name: "responder", role: Role::Responder, seed: 2, payload: b"from responder" };

impl Side {
    fn identity(&self) -> Identity {
        Identity::generate(&mut Rng::from_seed([self.seed; 32]))
    }

    fn rng(&self) -> Rng {
        Rng::from_seed([0x80 | self.seed; 32])
    }

    fn start(&self, secrets: &[Psk], aes_preferred: bool) -> (Handshake, Vec<u8>) {
        let identity = self.identity();
        let payload = self.payload.to_vec();
        let config = HandshakeConfig {
            role: self.role,
            versions: VERSIONS,
            identity: &identity,
            secrets,
            allowed: None,
            aes_preferred,
            payload,
        };
        Handshake::new(config, &mut self.rng())
    }

    /// The handshake's ephemeral private key: the handshake forks its generator, draws a seed from that, and gives the
    /// generator with that seed to Noise, which forks it once more.
    fn ephemeral(&self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng().fork().fill(&mut seed);
        first_draw(Rng::from_seed(seed).fork())
    }

    fn describe(&self, golden: &mut Golden) {
        let identity = self.identity();
        let name = |what| format!("{} {what}", self.name);
        golden.add(&name("Ed25519 seed and X25519 private key"), identity.secret().as_bytes());
        golden.add(&name("Ed25519 public key"), identity.public_key().as_bytes());
        golden.add(&name("peer id"), identity.peer_id().as_bytes());
        golden.add(&name("payload"), self.payload);
        golden.add(&name("ephemeral private key"), self.ephemeral());
    }
}

fn first_draw(mut rng: Rng) -> [u8; 32] {
    let mut bytes = [0; 32];
    rng.fill(&mut bytes);
    bytes
}

/// A side's handshake, as far as it is.
enum End {
    Waiting(Handshake),
    Done(Box<Session>),
}

impl End {
    fn feed(self, input: &[u8]) -> (Self, Vec<u8>) {
        let Self::Waiting(handshake) = self else { panic!("the handshake is over") };
        match handshake.handle(input) {
            HandshakeStep::More { handshake, send } => (Self::Waiting(handshake), send),
            HandshakeStep::Done { session, send, .. } => (Self::Done(session), send),
            HandshakeStep::Failed { error, .. } => panic!("{error}"),
        }
    }

    fn session(self) -> Box<Session> {
        let Self::Done(session) = self else { panic!("the handshake is not over") };
        session
    }
}

const MESSAGES: [&str; 6] =
    ["preamble, initiator", "preamble, responder", "Noise 1", "Noise 2", "Noise 3", "confirm"];

/// Plays a handshake, writes it down, and gives both sessions.
fn handshake(golden: &mut Golden, secrets: [&[Psk]; 2], aes: bool) -> [Box<Session>; 2] {
    let (initiator, mut message) = INITIATOR.start(secrets[0], aes);
    let (responder, _) = RESPONDER.start(secrets[1], aes);
    let (mut receiver, mut sender) = (End::Waiting(responder), End::Waiting(initiator));
    for name in MESSAGES {
        golden.add(name, &message);
        let (next, answer) = receiver.feed(&message);
        message = answer;
        (receiver, sender) = (sender, next);
    }
    assert!(message.is_empty());
    // After six messages the one to receive next is the responder again.
    [sender.session(), receiver.session()]
}

fn add_keys(golden: &mut Golden, session: &Session) {
    for protection in [Protection::Sealed, Protection::Clear] {
        let keys = session.keys.data_keys(protection);
        for (direction, key) in [("i2r", &keys.send), ("r2i", &keys.receive)] {
            match key {
                DirectionKey::Sealed { key, .. } => {
                    golden.add(&format!("udp {direction}, epoch {}", keys.epoch), key);
                }
                DirectionKey::Clear { cookie } => {
                    golden.add(&format!("cookie {direction}, epoch {}", keys.epoch), cookie);
                }
            }
        }
    }
}

/// Both ends go on to the next epoch, which `proposer` proposes.
fn rekey(golden: &mut Golden, sessions: [&mut Session; 2]) {
    let [proposer, acceptor] = sessions;
    let epoch = proposer.keys.next_epoch();
    // A dialogue forks the generator that it is given, and Noise forks that one.
    let ephemeral = |seed: u8| first_draw(Rng::from_seed([seed; 32]).fork().fork());
    let [proposing, accepting] = [0x40, 0x50].map(|seed| Rng::from_seed([seed; 32]));
    let (mut proposing, mut accepting) = (proposing, accepting);
    golden.add(&format!("ephemeral private key of the proposer, epoch {epoch}"), ephemeral(0x40));
    golden.add(&format!("ephemeral private key of the acceptor, epoch {epoch}"), ephemeral(0x50));
    let proposal = proposer.keys.propose(&mut proposing).expect("none waits");
    golden.add(&format!("rekey proposal, epoch {epoch}"), &proposal);
    let Ok(RekeyStep::Accepted(answer)) = acceptor.keys.handle_rekey(epoch, &proposal, &mut accepting) else {
        panic!("not accepted")
    };
    golden.add(&format!("rekey answer, epoch {epoch}"), &answer);
    assert_eq!(proposer.keys.handle_rekey(epoch, &answer, &mut proposing), Ok(RekeyStep::Completed));
}

#[test]
fn golden_handshakes() {
    let mut golden = Golden::default();
    let psk = Psk::from_bytes([0x77; 32]);
    let other = Psk::from_bytes([0x88; 32]);
    golden.section("The two sides.");
    INITIATOR.describe(&mut golden);
    RESPONDER.describe(&mut golden);
    golden.add("secret", [0x77; 32]);
    golden.add("secret, as a token in ASCII", psk.to_token().as_bytes());
    let known = [other, psk.clone()];
    let shown = [psk];
    let cases: [(&str, [&[Psk]; 2], bool); 3] = [
        ("Without a secret, ChaCha20-Poly1305.", [&[], &[]], false),
        ("With a secret, AES-256-GCM.", [&shown, &shown], true),
        ("With a secret that is the responder's second, ChaCha20-Poly1305.", [&shown, &known], false),
    ];
    for (title, secrets, aes) in cases {
        golden.section(title);
        let [mut i, mut r] = handshake(&mut golden, secrets, aes);
        assert_eq!(i.keys.suite(), if aes { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 });
        assert_eq!(i.secured_by == Membership::Open, secrets[0].is_empty());
        golden
            .add("first frame to responder, with the text \"ping\"", i.sealer.seal(b"ping").expect("short"));
        golden
            .add("second frame to initiator, with the text \"pong\"", r.sealer.seal(b"pong").expect("short"));
        add_keys(&mut golden, &i);
        let keys = i.keys.data_keys(Protection::Sealed);
        let sealing = SealingKey::new(&keys.send).expect("it seals");
        let mut datagram = b"\x01\x01\0\0\xde\xad\xbe\xef\0\0\0\0\0\0\0\x01a body".to_vec();
        let (header, body) = datagram.split_first_chunk_mut().expect("it is longer");
        let tag = sealing.seal_in_place(1, header, body);
        datagram.extend(tag);
        golden.add("datagram 1 to responder, with the body \"a body\"", datagram);
        rekey(&mut golden, [&mut i, &mut r]);
        add_keys(&mut golden, &i);
        rekey(&mut golden, [&mut r, &mut i]);
        add_keys(&mut golden, &i);
    }
    golden.check(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/handshake.txt"));
}
