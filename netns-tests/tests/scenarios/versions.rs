//! Routers of other versions than this one: row 48 of the fault table. They are played, with real sessions and packets, so that
//! they say what no version says yet, and what earlier ones said.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use mesh_api::{ConnectionDocument, ConnectionState};
use mesh_crypto::{Identity, Rng};
use mesh_lab::{Host, Lab, Ping, always, eventually, secs};
use mesh_wire::control::{Channel, Digest, LinkRecord, Message};

use crate::player::{ANSWERS_WITHIN, PlayedContainer, Player, entry, gossip, record};
use crate::support::{
    Member, NO_DISCOVERY, READY, alarms, all_ping, are_connected, chain, connections, launch, mesh_binary,
    ordered_pairs, peers, words,
};
use crate::trust::tells;

const PASSWORD: &str = "the same in all versions";

/// A channel that no router knows.
const UNKNOWN: Channel = Channel(999);

/// A message between neighbours that no router knows: its kind, and something behind it.
const UNKNOWN_MESSAGE: [u8; 3] = [200, 0x81, 0x01];

/// The same in a sleeve packet: kind, length, payload.
const UNKNOWN_IN_PACKET: [u8; 6] = [99, 0, 3, 1, 2, 3];

/// An overlay that no router knows.
const UNKNOWN_OVERLAY: u8 = 9;

/// A structure (an array of CBOR) as a later version writes it, with two fields behind those that are known.
fn with_more(structure: &[u8]) -> Vec<u8> {
    let mut longer = structure.to_vec();
    longer[0] += 2;
    longer.extend([&[0x65][..], b"later", &[0xa1, 0x01, 0x83, 1, 2, 3]].concat());
    longer
}

/// A structure without its last field, of one byte: as it was before that field was added.
fn with_less(structure: &[u8]) -> Vec<u8> {
    let mut shorter = structure.to_vec();
    shorter[0] -= 1;
    shorter.pop();
    shorter
}

/// A router of another version that plays its part in the network.
struct Foreigner<'a> {
    player: Player<'a>,
    nickname: &'static str,
    container: PlayedContainer,
    /// How it writes structures.
    writes: fn(&[u8]) -> Vec<u8>,
    /// How it calls the overlay of its link.
    overlay: u8,
    /// What it puts before the messages of each packet.
    in_packets: &'static [u8],
    /// What it says when it has joined, beside what all say.
    says: Vec<Vec<u8>>,
    /// The entries that it has heard, of all channels.
    heard: Mutex<BTreeSet<Vec<u8>>>,
}

impl<'a> Foreigner<'a> {
    fn new(
        identity: &'a Identity,
        nickname: &'static str,
        number: u8,
        versions: (u8, u8),
        writes: fn(&[u8]) -> Vec<u8>,
    ) -> Result<Self> {
        let ordinary = Player::ordinary(identity, PASSWORD, nickname)?;
        Ok(Self {
            player: Player { versions, hello: writes(&ordinary.hello), ..ordinary },
            nickname,
            container: PlayedContainer { mac: [2, 0, 0, 0, 0, number], ip: Ipv4Addr::new(10, 32, 0, number) },
            writes,
            overlay: 1,
            in_packets: &[],
            says: Vec::new(),
            heard: Mutex::default(),
        })
    }

    /// Its record: one link, which passes frames.
    fn record(&self, link: LinkRecord) -> Result<Vec<u8>> {
        let mut record = record(self.player.identity, self.nickname, 1)?;
        record.links.push(link);
        Ok(entry(self.player.identity, Channel::TOPOLOGY, (self.writes)(&record.encode())))
    }

    /// Joins the network by the router at `target`, and stays until it is over. Returns the entry that was its record.
    fn play(&self, target: SocketAddr, seed: u8, over: &AtomicBool) -> Result<Vec<u8>> {
        let me = self.player.identity.peer_id();
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 6783))?;
        let mut talk = self.player.dial(target, &mut Rng::from_seed([seed; 32]))?;
        let link = LinkRecord {
            peer: talk.router(),
            address: target,
            outbound: true,
            established: true,
            distance: 1,
            overlay: self.overlay,
        };
        let record = self.record(link)?;
        let overlay = talk.overlay(me, socket, self.container, self.in_packets.to_vec())?;
        talk.say(&gossip(Channel::TOPOLOGY, vec![record.clone()]))?;
        self.says.iter().try_for_each(|said| talk.say(said))?;
        for channel in [Channel::TOPOLOGY, UNKNOWN] {
            // It holds nothing, in any bucket: whatever the router has is news.
            let digest = Digest { channel, rows: Vec::new(), reply: false, buckets: u64::MAX };
            talk.say(&Message::Digest(digest).encode())?;
        }
        std::thread::scope(|scope| {
            let frames = scope.spawn(|| overlay.play(over));
            let session = talk.stay(over, |message| {
                if let Message::Gossip(gossip) = message {
                    let mut heard = self.heard.lock().expect("nobody panics with it");
                    heard.extend(gossip.entries.into_iter().map(Vec::from));
                }
            });
            frames.join().expect("a player does not panic")?;
            session
        })
        .with_context(|| format!("{} plays", self.nickname))?;
        Ok(record)
    }

    fn has_heard(&self, entry: &[u8]) -> bool {
        self.heard.lock().expect("nobody panics with it").contains(entry)
    }
}

/// Wants each of these hosts to show the peer of that name as an established neighbour.
fn are_neighbours(pairs: &[(&Host, &str)]) -> Result<()> {
    for (host, nickname) in pairs {
        let found = connections(host)?;
        let established = |one: &ConnectionDocument| {
            one.nickname.as_deref() == Some(*nickname) && one.state == ConnectionState::Established
        };
        ensure!(found.iter().any(established), "{nickname} is none of {found:?}");
    }
    Ok(())
}

/// A network of which one member is of a later version and one of an earlier: frames pass between all of them, also over each
/// other's neighbours, and what only the later one understands reaches the others of its kind as it was said.
#[test]
fn a_newer_and_an_older_router_are_peers_as_all_others() -> Result<()> {
    let (lab, [one, two]) = chain("versions", Some(PASSWORD))?;
    let hosts = [lab.host("newer")?, lab.host("older")?];
    all_ping(&[&one, &two])?;
    let identities = [48, 84].map(|seed| Identity::generate(&mut Rng::from_seed([seed; 32])));
    let unknown_entry = {
        let body = with_more(&record(&identities[0], "newer", 1)?.encode());
        entry(&identities[0], UNKNOWN, body)
    };
    let unknown_gossip = gossip(UNKNOWN, vec![unknown_entry.clone()]);
    let newer = Foreigner {
        overlay: UNKNOWN_OVERLAY,
        in_packets: &UNKNOWN_IN_PACKET,
        says: vec![
            UNKNOWN_MESSAGE.to_vec(),
            [&unknown_gossip[..1], &with_more(&unknown_gossip[1..])].concat(),
        ],
        ..Foreigner::new(&identities[0], "newer", 101, (1, 9), with_more)?
    };
    let older = Foreigner::new(&identities[1], "older", 102, (0, 1), with_less)?;
    let lost = || [&one, &two].map(|member| alarms(&member.host));
    let (before, over) = (lost(), AtomicBool::new(false));

    let play = |host: &Host, foreigner: &Foreigner<'_>, at: &Member, seed| {
        let target = SocketAddr::from((at.host.ip(), 6783));
        host.enter(|| foreigner.play(target, seed, &over))
    };
    let (outcome, played) = std::thread::scope(|scope| {
        let players = [
            scope.spawn(|| play(&hosts[0], &newer, &one, 1)),
            scope.spawn(|| play(&hosts[1], &older, &two, 2)),
        ];
        let outcome = (|| -> Result<()> {
            eventually(READY, || are_neighbours(&[(&one.host, "newer"), (&two.host, "older")]))?;
            for member in [&one, &two] {
                eventually(READY, || {
                    let known: BTreeSet<_> =
                        peers(&member.host)?.into_iter().map(|peer| peer.nickname).collect();
                    ensure!(known == ["h1", "h2", "newer", "older"].map(str::to_owned).into(), "{known:?}");
                    Ok(())
                })?;
                for foreigner in [&newer, &older] {
                    eventually(READY, || member.container.ping(foreigner.container.ip))?;
                    let stats = member.container.ping_with(&Ping::to(foreigner.container.ip).count(50))?;
                    ensure!(
                        (stats.received, stats.duplicates) == (50, 0),
                        "{}: {stats:?}",
                        foreigner.nickname
                    );
                }
            }
            eventually(READY, || {
                ensure!(older.has_heard(&unknown_entry), "the unknown channel did not get through as it was");
                Ok(())
            })?;
            always(secs(3), || are_neighbours(&[(&one.host, "newer"), (&two.host, "older")]))?;
            all_ping(&[&one, &two])?;
            ensure!(lost() == before, "{:?} links or sessions lost, {before:?} before", lost());
            Ok(())
        })();
        over.store(true, Ordering::Relaxed);
        (outcome, players.map(|player| player.join().expect("a player does not panic")))
    });
    let [newers_record, olders_record] = played;
    let [newers_record, olders_record] = [newers_record??, olders_record??];
    outcome?;
    ensure!(older.has_heard(&newers_record), "the newer one's record has lost what nobody here understands");
    ensure!(newer.has_heard(&olders_record), "the older one's record is another");
    eventually(READY, || are_connected(&[&one.host, &two.host]))
}

/// What cannot be ignored is refused, and both sides read why: versions that do not meet, and a mode that is not known.
#[test]
fn a_router_with_no_version_in_common_is_refused_with_the_versions_of_both() -> Result<()> {
    let (lab, [one, two]) = chain("apart", Some(PASSWORD))?;
    let foreign = lab.host("foreign")?;
    all_ping(&[&one, &two])?;
    let identity = Identity::generate(&mut Rng::from_seed([49; 32]));
    let player = Player { versions: (2, 3), ..Player::ordinary(&identity, PASSWORD, "foreign")? };
    let target = SocketAddr::from((one.host.ip(), 6783));
    let versions = "the protocol versions do not meet: this router speaks 1, the other 2 to 3";

    let refused = foreign.enter(|| player.dial(target, &mut Rng::from_seed([1; 32])).map(drop))?;
    let error = refused.err().context("it was let in")?.to_string();
    ensure!(error.contains("this router speaks 2 to 3, the other 1"), "{error}");
    eventually(READY, || tells(&one.host, &[versions]))?;

    let listener = foreign.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 6783)))??;
    two.host.mesh(["connect", &foreign.ip().to_string()])?;
    let (stream, _from) = listener.accept()?;
    let error = player.answer(stream, &mut Rng::from_seed([2; 32])).err().context("it got in")?;
    ensure!(error.to_string().contains("this router speaks 2 to 3, the other 1"), "{error}");
    eventually(READY, || tells(&two.host, &[versions]))?;
    drop(listener);

    // In clear, and no more than a preamble: what kind of secret the network has is not to be guessed at.
    let said = foreign.enter(|| -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&target, ANSWERS_WITHIN)?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        stream.write_all(b"MESH\x01\x01\x07\x00\0\0\0\0\0\0\0\0")?;
        let mut said = Vec::new();
        stream.read_to_end(&mut said)?;
        Ok(said)
    })??;
    ensure!(said.starts_with(b"MESH") && said.len() < 32, "{said:?}");
    eventually(READY, || tells(&one.host, &["malformed"]))?;

    always(secs(1), || are_connected(&[&one.host, &two.host]))?;
    ensure!(peers(&one.host)?.len() == 2, "{:?}", peers(&one.host)?);
    all_ping(&[&one, &two])
}

/// Real routers of two builds, the other of which `MESH_OTHER_BIN` names, such as one of the release before: they join, relay for
/// each other, and one takes the place of the other with its state.
#[test]
fn routers_of_two_builds_are_one_network_and_one_takes_the_others_place() -> Result<()> {
    let Some(other) = std::env::var_os("MESH_OTHER_BIN").map(PathBuf::from) else {
        println!("skipped: MESH_OTHER_BIN names no other build of mesh");
        return Ok(());
    };
    for password in [None, Some(PASSWORD)] {
        let lab = Lab::new("builds")?;
        let hosts = [lab.host("h1")?, lab.host("h2")?, lab.host("h3")?];
        // The other build between two of this one, then this one between two of the other.
        let ours = |number: usize, turn: usize| number % 2 == turn;
        let mut members: Vec<Member> = Vec::new();
        for turn in [0, 1] {
            for (index, host) in hosts.iter().enumerate() {
                if !ours(index, turn) {
                    host.use_binary(&other);
                } else {
                    host.use_binary(mesh_binary()?);
                }
                let mut arguments = words([NO_DISCOVERY]);
                arguments.extend(index.checked_sub(1).map(|before| hosts[before].ip().to_string()));
                if turn == 0 {
                    members.push(Member::launch(host, u8::try_from(index + 1)?, &arguments, password)?);
                } else {
                    host.mesh(["stop"])?;
                    let again = launch(host, &arguments, password)?;
                    ensure!(again.peer_id == members[index].peer_id, "{again:?}");
                }
            }
            let all: Vec<_> = members.iter().collect();
            eventually(READY, || are_neighbours(&[(&hosts[1], "h1"), (&hosts[1], "h3")]))?;
            all_ping(&all)?;
            for (from, to) in ordered_pairs(&all) {
                let stats = from.container.ping_with(&Ping::to(to.ip).count(50))?;
                ensure!((stats.received, stats.duplicates) == (50, 0), "{stats:?}");
            }
        }
    }
    Ok(())
}
