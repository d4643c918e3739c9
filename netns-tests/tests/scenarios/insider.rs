//! A peer that knows the secret and speaks the control protocol, and then says what no router would: row 52 of the fault
//! table.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_crypto::{Handshake, HandshakeConfig, HandshakeStep, Identity, Psk, Rng, Role, Session};
use mesh_lab::{Host, Ping, eventually, secs};
use mesh_wire::BootCount;
use mesh_wire::control::{Channel, Farewell, Gossip, Hello, Message, PeerRecord, SignedRecord};

use crate::metrics::{get, sample};
use crate::support::{all_connected, all_ping, chain, have_one_view, peers};

const PASSWORD: &str = "a secret that the insider knows";

/// How long a router may take to answer.
const ANSWERS_WITHIN: Duration = secs(10);

/// An authenticated peer with its session.
struct Insider {
    stream: TcpStream,
    session: Session,
}

impl Insider {
    /// Opens a session with the router at `target`. To be called within the namespace of the insider's host.
    fn join(target: SocketAddr, identity: &Identity, rng: &mut Rng) -> Result<Self> {
        // Before the connection: to make a secret of a password takes long, and the router does not wait for it.
        let secrets = [Psk::from_password(PASSWORD)?];
        let mut stream = TcpStream::connect_timeout(&target, ANSWERS_WITHIN)?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        let hello = Hello {
            nickname: "insider".parse()?,
            boot: BootCount(1),
            port: 6783,
            nonce: 1,
            network: None,
            trusts: false,
        };
        let config = HandshakeConfig {
            role: Role::Initiator,
            identity,
            secrets: &secrets,
            allowed: None,
            aes_preferred: false,
            payload: hello.encode(),
        };
        let (mut handshake, first) = Handshake::new(config, rng);
        stream.write_all(&first)?;
        loop {
            let mut piece = [0; 4096];
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
                HandshakeStep::Failed { error, .. } => bail!("the handshake fails: {error}"),
            }
        }
    }

    fn say(&mut self, plaintext: &[u8]) -> Result<()> {
        let frame = self.session.sealer.seal(plaintext)?;
        Ok(self.stream.write_all(&frame)?)
    }

    /// The next message; `None` when the router has closed.
    fn hear(&mut self) -> Result<Option<Message>> {
        loop {
            if let Some(plaintext) = self.session.opener.next()? {
                return Ok(Some(Message::decode(&plaintext)?));
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(len) => self.session.opener.push(&piece[..len]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the router has read all that was said, and answered.
    fn is_read(&mut self, number: u64) -> Result<()> {
        self.say(&Message::Ping(number).encode())?;
        while let Some(message) = self.hear()? {
            if message == Message::Pong(number) {
                return Ok(());
            }
            if let Message::Ping(asked) = message {
                self.say(&Message::Pong(asked).encode())?;
            }
        }
        bail!("the router has closed")
    }

    /// Waits for the end. Returns the reason that the router gives.
    fn is_thrown_out(&mut self) -> Result<Farewell> {
        let mut reason = None;
        while let Some(message) = self.hear()? {
            if let Message::Bye(farewell) = message {
                reason = Some(farewell);
            }
        }
        reason.context("the router has closed without a word")
    }
}

fn gossip(channel: Channel, entries: Vec<Vec<u8>>) -> Vec<u8> {
    Message::Gossip(Gossip { channel, entries: entries.into_iter().map(Into::into).collect() }).encode()
}

/// How often the router of `host` has counted an event.
fn counted(host: &Host, event: &str) -> Result<f64> {
    let (_, text) = get(host, "/metrics", &[])?;
    sample(&text, &format!("mesh_control_events_total{{event=\"{event}\"}}"))
}

/// Fault table, row 52: whoever breaks the protocol is thrown out and told why, records that prove nothing change nothing,
/// and nobody else notices.
#[test]
fn malformed_gossip_of_a_peer_ends_its_session_and_changes_nothing_else() -> Result<()> {
    let (lab, [one, two]) = chain("insider", Some(PASSWORD))?;
    let eve = lab.host("eve")?;
    all_ping(&[&one, &two])?;
    let target = SocketAddr::from((one.host.ip(), 6783));
    let mut rng = Rng::from_seed([7; 32]);
    let identity = Identity::generate(&mut rng);
    let stranger = Identity::generate(&mut rng);
    let record = PeerRecord {
        key: *stranger.public_key().as_bytes(),
        boot: BootCount(1),
        version: 1,
        nickname: "nobody".parse()?,
        port: 6783,
        links: Vec::new(),
        nonce: 1,
    };
    let forged = SignedRecord { body: record.encode(), signature: [9; 64] }.encode();
    let whole = gossip(Channel::TOPOLOGY, vec![forged.clone()]);
    let cut = whole[..whole.len() - 5].to_vec();
    let endless = [&whole[..1], &[0x9f; 64]].concat();
    let behind = [whole.as_slice(), b"more"].concat();

    let count = u32::try_from(ANSWERS_WITHIN.as_millis() / 50)?;
    let (outcome, stats) = std::thread::scope(|scope| -> Result<_> {
        let insider = scope.spawn(|| {
            eve.enter(|| -> Result<()> {
                for malformed in [&cut, &endless, &behind, &Vec::new()] {
                    let mut insider = Insider::join(target, &identity, &mut rng)?;
                    insider.say(malformed)?;
                    let reason = insider.is_thrown_out()?;
                    ensure!(reason == Farewell::Violation, "{reason:?} for {malformed:?}");
                }
                // Records that prove nothing: the session, on which others' are handed on, stays.
                let mut insider = Insider::join(target, &identity, &mut rng)?;
                insider.say(&gossip(Channel::TOPOLOGY, vec![forged, vec![0; 40], Vec::new()]))?;
                insider.is_read(77)
            })
        });
        let stats = one.container.ping_with(&Ping::to(two.ip).count(count).every_ms(50));
        Ok((insider.join().expect("an insider does not panic")?, stats?))
    })?;
    outcome?;
    ensure!(stats.loss_percent() <= 1.0 && stats.duplicates == 0, "{stats:?}");
    ensure!(counted(&one.host, "record_forged")? >= 1.0 && counted(&one.host, "record_refused")? >= 2.0);
    let log = one.host.router_log();
    ensure!(log.contains("disconnected") && log.contains("malformed"), "the log does not say why:\n{log}");
    // What the insider leaves behind is forgotten; the two have one view, without anybody that it made up.
    eventually(secs(20), || {
        ensure!(peers(&one.host)?.len() == 2, "{:?}", peers(&one.host)?);
        have_one_view(&[&one.host, &two.host])
    })?;
    all_connected(&[&one.host, &two.host])?;
    all_ping(&[&one, &two])
}
