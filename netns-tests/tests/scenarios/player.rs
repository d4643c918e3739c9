//! A peer that the tests play: it opens real control sessions over TCP and says what no router of this version would.

mod overlay;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_crypto::{
    Handshake, HandshakeConfig, HandshakeStep, Identity, Protection, Psk, Rng, Role, Session, VERSIONS,
};
use mesh_wire::control::{Channel, DataOffer, Farewell, Gossip, Hello, Message, PeerRecord, SignedRecord};
use mesh_wire::{BootCount, PeerId, ReceiverIndex};

pub(crate) use self::overlay::{Overlay, PlayedContainer};

/// How long a router may take to answer.
pub(crate) const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// The largest piece that is read at once, in bytes.
const PIECE_LEN: usize = 4096;

/// Whoever plays looks so often whether the play is over.
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// The name under which players receive packets.
const INDEX: ReceiverIndex = ReceiverIndex(77);

/// What a played peer brings to its sessions.
pub(crate) struct Player<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) password: &'a str,
    /// The least and the greatest version of the protocol that it claims to speak.
    pub(crate) versions: (u8, u8),
    /// Its greeting, as it goes into the handshake.
    pub(crate) hello: Vec<u8>,
}

impl<'a> Player<'a> {
    /// One that is as all routers are.
    pub(crate) fn ordinary(identity: &'a Identity, password: &'a str, nickname: &str) -> Result<Self> {
        let hello = Hello {
            nickname: nickname.parse()?,
            boot: BootCount(1),
            port: 6783,
            nonce: 1,
            network: None,
            trusts: false,
        };
        Ok(Self { identity, password, versions: VERSIONS, hello: hello.encode() })
    }

    fn handshake(&self, role: Role, rng: &mut Rng) -> Result<(Handshake, Vec<u8>)> {
        let config = HandshakeConfig {
            role,
            versions: self.versions,
            identity: self.identity,
            secrets: &[Psk::from_password(self.password)?],
            allowed: None,
            aes_preferred: false,
            payload: self.hello.clone(),
        };
        Ok(Handshake::new(config, rng))
    }

    /// Opens a session with the router at `target`. To be called within the namespace of the player's host.
    pub(crate) fn dial(&self, target: SocketAddr, rng: &mut Rng) -> Result<Talk> {
        // Before the connection: to make a secret of a password takes long, and the router does not wait for it.
        let (handshake, first) = self.handshake(Role::Initiator, rng)?;
        let mut stream = TcpStream::connect_timeout(&target, ANSWERS_WITHIN)?;
        stream.write_all(&first)?;
        Talk::open(stream, handshake)
    }

    /// Lets a router that has dialed try to open a session.
    pub(crate) fn answer(&self, stream: TcpStream, rng: &mut Rng) -> Result<Talk> {
        let (handshake, _nothing) = self.handshake(Role::Responder, rng)?;
        Talk::open(stream, handshake)
    }
}

/// An open session.
pub(crate) struct Talk {
    stream: TcpStream,
    session: Session,
}

impl Talk {
    fn open(mut stream: TcpStream, mut handshake: Handshake) -> Result<Self> {
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        loop {
            let mut piece = [0; PIECE_LEN];
            let len = stream.read(&mut piece)?;
            ensure!(len > 0, "the router has hung up on the handshake");
            match handshake.handle(&piece[..len]) {
                HandshakeStep::More { handshake: next, send } => {
                    stream.write_all(&send)?;
                    handshake = next;
                }
                HandshakeStep::Done { mut session, send, rest } => {
                    stream.write_all(&send)?;
                    session.opener.push(&rest);
                    return Ok(Self { stream, session: *session });
                }
                HandshakeStep::Failed { error, send } => {
                    stream.write_all(&send).ok();
                    bail!("the handshake fails: {error}")
                }
            }
        }
    }

    /// Sends the plaintext of one frame.
    pub(crate) fn say(&mut self, plaintext: &[u8]) -> Result<()> {
        let frame = self.session.sealer.seal(plaintext)?;
        Ok(self.stream.write_all(&frame)?)
    }

    /// The next message; `None` when the router has closed. Questions for a sign of life are answered.
    pub(crate) fn hear(&mut self) -> Result<Option<Message>> {
        loop {
            if let Some(plaintext) = self.session.opener.next()? {
                let message = Message::decode(&plaintext)?;
                if let Message::Ping(asked) = message {
                    self.say(&Message::Pong(asked).encode())?;
                }
                return Ok(Some(message));
            }
            let mut piece = [0; PIECE_LEN];
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(len) => self.session.opener.push(&piece[..len]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Who is at the other end.
    pub(crate) fn router(&self) -> PeerId {
        self.session.peer.peer_id()
    }

    /// Agrees on a sealed data link by `socket`, which is bound to the port of the player's greeting.
    pub(crate) fn overlay(
        &mut self,
        me: PeerId,
        socket: UdpSocket,
        container: PlayedContainer,
        unknown: Vec<u8>,
    ) -> Result<Overlay> {
        self.say(&Message::DataOffer(DataOffer { epoch: 0, index: INDEX }).encode())?;
        let index = loop {
            let message = self.hear()?.context("the router has closed")?;
            if let Message::DataOffer(offer) = message {
                break offer.index;
            }
        };
        let (neighbour, to) = (self.router(), self.stream.peer_addr()?);
        let keys = self.session.keys.data_keys(Protection::Sealed);
        Ok(Overlay { me, neighbour, socket, to, index, keys, container, unknown })
    }

    /// Stays in the session until it is over, and gives what is heard to `take`.
    pub(crate) fn stay(&mut self, over: &AtomicBool, mut take: impl FnMut(Message)) -> Result<()> {
        self.stream.set_read_timeout(Some(LOOKS_EVERY))?;
        while !over.load(Ordering::Relaxed) {
            match self.hear() {
                Ok(Some(message)) => take(message),
                Ok(None) => bail!("the router has closed"),
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the router has read all that was said. Returns what it has said meanwhile.
    pub(crate) fn is_read(&mut self, number: u64) -> Result<Vec<Message>> {
        self.say(&Message::Ping(number).encode())?;
        let mut heard = Vec::new();
        while let Some(message) = self.hear()? {
            if message == Message::Pong(number) {
                return Ok(heard);
            }
            heard.push(message);
        }
        bail!("the router has closed after {:?}", heard.last())
    }

    /// Waits for the end. Returns the reason that the router gives.
    pub(crate) fn is_thrown_out(&mut self) -> Result<Farewell> {
        let mut reason = None;
        while let Some(message) = self.hear()? {
            if let Message::Bye(farewell) = message {
                reason = Some(farewell);
            }
        }
        reason.context("the router has closed without a word")
    }
}

fn is_timeout(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(kind, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// A record of a peer without links.
pub(crate) fn record(identity: &Identity, nickname: &str, version: u64) -> Result<PeerRecord> {
    Ok(PeerRecord {
        key: *identity.public_key().as_bytes(),
        boot: BootCount(1),
        version,
        nickname: nickname.parse()?,
        port: 6783,
        links: Vec::new(),
        nonce: 1,
    })
}

/// An entry of a channel, signed by its origin.
pub(crate) fn entry(identity: &Identity, channel: Channel, body: Vec<u8>) -> Vec<u8> {
    let signed = [&channel.0.to_be_bytes()[..], &body].concat();
    let signature = *identity.sign("mesh record v1", &signed).as_bytes();
    SignedRecord { body, signature }.encode()
}

/// A message of gossip as a frame's plaintext.
pub(crate) fn gossip(channel: Channel, entries: Vec<Vec<u8>>) -> Vec<u8> {
    Message::Gossip(Gossip { channel, entries: entries.into_iter().map(Into::into).collect() }).encode()
}
