//! Whom a router trusts, and with what: several secrets, a roll of them, subnets where nobody listens, pinned peers,
//! networks that are not one, stolen identities, and a man in the middle.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_api::ConnectionState;
use mesh_lab::{Frames, Host, Lab, Ping, Signal, always, eventually, millis, secs};

use crate::heartbeat::Heartbeat;
use crate::support::{
    Member, NO_DISCOVERY, READY, all_connected, all_ping, are_connected, connections, has_neighbours, launch,
    multicast_arrives_once, neighbours, peers, secret_file, status, words,
};

/// What containers say where somebody listens.
const PATTERN: &[u8; 24] = b"t0p-s3cret-p4yl0ad/0x5A!";

/// How long a refusal may take to be told.
const TOLD: Duration = secs(10);

/// Wants one of these words in what a host tells of its connections.
pub(crate) fn tells(host: &Host, wanted: &[&str]) -> Result<()> {
    let found = connections(host)?;
    let text = host.mesh(["status", "connections"])?.stdout;
    let mut reasons = found.iter().filter_map(|one| one.info.as_deref());
    let told = reasons.any(|info| wanted.iter().any(|word| info.contains(word)));
    ensure!(told, "{} tells {found:?}", host.label());
    ensure!(text.contains("failed") || text.contains("retrying"), "{text}");
    Ok(())
}

/// Fault table, row 35. First all know both secrets, then all use the new one, then the old one is gone.
#[test]
fn a_secret_is_rolled_under_traffic_without_losing_a_packet() -> Result<()> {
    let lab = Lab::new("roll")?;
    let directory = tempfile::tempdir()?;
    let hosts = [lab.host("h1")?, lab.host("h2")?, lab.host("h3")?];
    let generate =
        || -> Result<String> { Ok(hosts[0].mesh(["secret", "generate"])?.stdout.trim().to_owned()) };
    let (old, new) = (generate()?, generate()?);
    let file = |host: &Host, secrets: &[&str]| secret_file(directory.path(), host.label(), secrets);
    let mut members: Vec<Member> = Vec::new();
    for (number, host) in (1..).zip(&hosts) {
        let path = file(host, &[&old])?;
        let mut arguments = words(["--password-file", path.to_str().context("a path of the test's own")?]);
        arguments.extend(members.first().map(|first| first.host.ip().to_string()));
        members.push(Member::launch(host, number, &arguments, None)?);
    }
    all_connected(&hosts.each_ref())?;
    all_ping(&members.iter().collect::<Vec<_>>())?;
    let beats = [(0, 1), (1, 2), (2, 0)];
    let heartbeats = beats
        .iter()
        .map(|(from, to)| Heartbeat::beating(&members[*from].container, &members[*to]))
        .collect::<Result<Vec<_>>>()?;

    let steps: [&[&str]; 3] = [&[&old, &new], &[&new, &old], &[&new]];
    for secrets in steps {
        for host in &hosts {
            file(host, secrets)?;
            host.kill_router(Signal::HUP)?;
            always(millis(1500), || are_connected(&hosts.each_ref()))?;
        }
    }
    // What the last step has set off may take a moment.
    always(secs(5), || are_connected(&hosts.each_ref()))?;
    for heartbeat in &heartbeats {
        let tally = heartbeat.tally();
        println!(
            "measured: while a secret was rolled: {tally:?}, longest silence {:.2} s",
            heartbeat.longest_silence()
        );
        ensure!((tally.lost, tally.copies) == (0, 0) && tally.sent > 500, "{tally:?}");
    }
    drop(heartbeats);

    // The old secret opens nothing any more, the new one does.
    let late = lab.host("h4")?;
    launch(&late, &[hosts[0].ip().to_string()], Some(&old))?;
    eventually(TOLD, || tells(&late, &["password", "secret"]))?;
    late.mesh(["stop"])?;
    launch(&late, &[hosts[0].ip().to_string()], Some(&new))?;
    eventually(READY, || has_neighbours(&late, &["h1", "h2", "h3"]))
}

/// A file that cannot be read again changes nothing.
#[test]
fn a_damaged_password_file_leaves_the_secrets_as_they_are() -> Result<()> {
    let lab = Lab::new("hup")?;
    let directory = tempfile::tempdir()?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let path = secret_file(directory.path(), "secret", &["one for all"])?;
    let argument = path.to_str().context("a path of the test's own")?;
    launch(&h1, &words(["--password-file", argument]), None)?;
    fs::write(&path, "\n\n")?;
    h1.kill_router(Signal::HUP)?;
    eventually(READY, || h1.router_log().contains("WARN"))?;
    launch(&h2, &[h1.ip().to_string()], Some("one for all"))?;
    all_connected(&[&h1, &h2])
}

/// Two secrets on one side are enough for the other side to have either.
#[test]
fn a_router_with_two_secrets_lets_both_in() -> Result<()> {
    let lab = Lab::new("two")?;
    let directory = tempfile::tempdir()?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    let path = secret_file(directory.path(), "both", &["the first of them", "the second of them"])?;
    launch(&h1, &words(["--password-file", path.to_str().context("a path of the test's own")?]), None)?;
    let first = [NO_DISCOVERY.to_owned(), h1.ip().to_string()];
    launch(&h2, &first, Some("the first of them"))?;
    launch(&h3, &first, Some("the second of them"))?;
    eventually(READY, || has_neighbours(&h1, &["h2", "h3"]))?;

    // It dials with its first, and finds the door of the second open at the next try.
    h3.mesh(["stop"])?;
    launch(&h3, &words([NO_DISCOVERY]), Some("the second of them"))?;
    h1.mesh(["connect", &h3.ip().to_string()])?;
    eventually(READY, || has_neighbours(&h1, &["h2", "h3"]))
}

/// Records what passes between two members while their containers say the pattern.
fn underlay(lab: &Lab, one: &Member, two: &Member) -> Result<Frames> {
    let capture = lab.capture(&one.host)?;
    let _echo = two.container.echo_server(7)?;
    one.container.echo((two.ip, 7).into(), &PATTERN.repeat(64))?;
    let hexadecimal: String = PATTERN[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    one.container.run([
        "ping",
        "-n",
        "-q",
        "-c",
        "3",
        "-i",
        "0.01",
        "-p",
        &hexadecimal,
        &two.ip.to_string(),
    ])?;
    capture.stop()
}

/// weave-net.md 48 and 1.G: in clear where both ends say so, and only there.
#[test]
fn trusted_subnets_are_clear_only_when_both_ends_agree() -> Result<()> {
    for (title, [dialled, dialling], clear) in [
        ("agree", [true, true], true),
        ("dialled", [true, false], false),
        ("dialling", [false, true], false),
        ("neither", [false, false], false),
    ] {
        let lab = Lab::new(title)?;
        let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
        let [a, b, c, _] = h1.ip().octets();
        let subnet = format!("{}/24", Ipv4Addr::new(a, b, c, 0));
        let trusts = |yes: bool| if yes { words(["--trusted-subnets", &subnet]) } else { Vec::new() };
        let secret = Some("only where we must");
        let one = Member::launch(&h1, 1, &trusts(dialled), secret)?;
        let arguments = [trusts(dialling), vec![h1.ip().to_string()]].concat();
        let two = Member::launch(&h2, 2, &arguments, secret)?;
        all_connected(&[&h1, &h2])?;
        all_ping(&[&one, &two])?;

        for host in [&h1, &h2] {
            ensure!(status(host)?.router.encryption, "{title}: {} has a password", host.label());
            let found = connections(host)?;
            ensure!(found.iter().all(|one| one.encrypted == Some(!clear)), "{title}: {found:?}");
        }
        let frames = underlay(&lab, &one, &two)?;
        ensure!(frames.contains(PATTERN) == clear, "{title}: the payload in clear is {}", !clear);
        // In clear the kernel may carry them, on the port after sleeve's.
        let datagrams = frames.udp_port(6783) + frames.udp_port(6784);
        ensure!(datagrams > 8, "{title}: {datagrams} datagrams");
        ensure!(clear || frames.udp_port(6784) == 0, "{title}: VXLAN where frames are to be sealed");
    }
    Ok(())
}

/// A peer outside the subnet is sealed as ever, beside one inside.
#[test]
fn a_peer_outside_the_trusted_subnets_is_sealed() -> Result<()> {
    let lab = Lab::new("outside")?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    let subnet = format!("{}/32,{}/32", h1.ip(), h2.ip());
    let secret = Some("only where we must");
    let one = Member::launch(&h1, 1, &words(["--trusted-subnets", &subnet]), secret)?;
    let first = h1.ip().to_string();
    let two = Member::launch(&h2, 2, &words(["--trusted-subnets", &subnet, &first]), secret)?;
    let three = Member::launch(&h3, 3, &words(["--trusted-subnets", &subnet, &first]), secret)?;
    all_connected(&[&h1, &h2, &h3])?;
    all_ping(&[&one, &two, &three])?;
    ensure!(underlay(&lab, &one, &two)?.contains(PATTERN), "h1 and h2 trust each other's network");
    ensure!(!underlay(&lab, &one, &three)?.contains(PATTERN), "h3 is not in the trusted network");
    Ok(())
}

/// Only who is named may join, and who is not is told so.
#[test]
fn a_router_with_pinned_peers_refuses_all_others_and_both_sides_say_so() -> Result<()> {
    let lab = Lab::new("pinned")?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    let first = h1.ip().to_string();
    launch(&h2, &words([NO_DISCOVERY, &first]), None)?;
    launch(&h3, &words([NO_DISCOVERY, &first]), None)?;
    let friend = status(&h2)?.router.identity;
    ensure!(friend.len() == 32, "{friend:?}");
    launch(&h1, &words(["--allow-peers", &friend]), None)?;

    all_connected(&[&h1, &h2])?;
    eventually(TOLD, || tells(&h3, &["certain peers"]))?;
    eventually(TOLD, || tells(&h1, &["certain peers", "not allowed", "may connect"]))?;
    // Nor does it go to others by itself.
    h1.mesh(["connect", &h3.ip().to_string()])?;
    always(secs(2), || has_neighbours(&h1, &["h2"]).and_then(|()| has_neighbours(&h3, &[])))
}

/// Fault table, row 29: two networks are not one, whoever connects them; no frame crosses, and both are named.
#[test]
fn networks_with_different_ids_refuse_each_other_and_name_both() -> Result<()> {
    let lab = Lab::new("networks")?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    let ids = ["00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"];
    for (host, id) in [&h1, &h2].into_iter().zip(ids) {
        fs::create_dir_all(host.state_dir())?;
        fs::write(host.state_dir().join("network"), format!("{id}\n"))?;
    }
    let one = Member::launch(&h1, 1, &[], None)?;
    let two = Member::launch(&h2, 2, &[h1.ip().to_string()], None)?;
    for host in [&h1, &h2] {
        eventually(TOLD, || tells(host, &["network"]))?;
        let told = host.mesh(["status", "connections"])?.stdout;
        ensure!(ids.iter().all(|id| told.contains(&id[..12])), "{told}");
        ensure!(peers(host)?.len() == 1, "{:?}", peers(host)?);
    }
    always(secs(1), || one.container.ping(two.ip).is_err())?;
    ensure!(status(&h1)?.router.network_id.as_deref() == Some(ids[0]), "{:?}", status(&h1)?.router);

    // Who is of no network yet becomes one of it, for good.
    launch(&h3, &[h1.ip().to_string()], None)?;
    all_connected(&[&h1, &h3])?;
    let joined = || status(&h3).is_ok_and(|status| status.router.network_id.as_deref() == Some(ids[0]));
    eventually(READY, joined)?;
    eventually(READY, || h3.state_dir().join("network").exists())?;
    h3.mesh(["stop"])?;
    launch(&h3, &[h2.ip().to_string()], None)?;
    eventually(TOLD, || tells(&h3, &["network"]))?;
    ensure!(neighbours(&h3)?.is_empty(), "it has changed networks");
    Ok(())
}

/// Copies all that a router keeps, as a thief or a careless administrator does.
fn copy_state(from: &Host, to: &Host) -> Result<()> {
    let (from, to) = (from.state_dir(), to.state_dir());
    fs::create_dir_all(&to)?;
    for entry in fs::read_dir(&from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name() != "mesh.log" {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// weave-net.md 36; fault table, row 28: the second bearer of an identity is refused, and all say why.
#[test]
fn a_cloned_identity_is_refused_and_the_original_goes_on() -> Result<()> {
    let lab = Lab::new("clone")?;
    let (h1, h2, h3) = (lab.host("h1")?, lab.host("h2")?, lab.host("h3")?);
    let one = Member::launch(&h1, 1, &[], None)?;
    let two = Member::launch(&h2, 2, &[h1.ip().to_string()], None)?;
    all_ping(&[&one, &two])?;
    copy_state(&h2, &h3)?;
    let heartbeat = Heartbeat::beating(&one.container, &two)?;

    let clone = launch(&h3, &[h1.ip().to_string()], None)?;
    let launched = Instant::now();
    ensure!(clone.peer_id == two.peer_id, "{clone:?}");
    eventually(TOLD, || tells(&h3, &["identity", "clone", "copy"]))?;
    println!("measured: the clone is told {:.2} s after its launch", launched.elapsed().as_secs_f64());
    eventually(TOLD, || {
        let log = h1.router_log();
        let alarmed = log.lines().any(|line| {
            line.contains("WARN") && ["clone", "copy", "identity"].iter().any(|word| line.contains(word))
        });
        ensure!(alarmed, "no warning in the log of h1");
        Ok(())
    })?;
    always(secs(5), || has_neighbours(&h1, &["h2"]))?;
    ensure!(
        heartbeat.longest_silence() < 2.0,
        "the original was silent for {:.2} s",
        heartbeat.longest_silence()
    );
    drop(heartbeat);
    all_ping(&[&one, &two])?;

    // When the original is gone for good, its copy takes its place: nothing tells it from a host that was replaced.
    h2.mesh(["stop"])?;
    eventually(secs(40), || has_neighbours(&h1, &["h3"]))
}

/// An identity alone opens no door.
#[test]
fn a_stolen_identity_is_worth_nothing_without_the_secret() -> Result<()> {
    let lab = Lab::new("stolen")?;
    let (h1, h2, eve) = (lab.host("h1")?, lab.host("h2")?, lab.host("eve")?);
    let one = Member::launch(&h1, 1, &[], Some("not on this disk"))?;
    let two = Member::launch(&h2, 2, &[h1.ip().to_string()], Some("not on this disk"))?;
    all_ping(&[&one, &two])?;
    copy_state(&h2, &eve)?;
    for file in fs::read_dir(h2.state_dir())? {
        let bytes = fs::read(file?.path())?;
        let secret = b"not on this disk";
        ensure!(!bytes.windows(secret.len()).any(|window| window == secret), "the password is on the disk");
    }
    for guess in [None, Some("perhaps this")] {
        launch(&eve, &[h1.ip().to_string()], guess)?;
        eventually(TOLD, || tells(&eve, &["password", "secret"]))?;
        always(secs(1), || has_neighbours(&h1, &["h2"]))?;
        ensure!(neighbours(&eve)?.is_empty(), "{:?}", connections(&eve)?);
        eve.mesh(["stop"])?;
    }
    all_ping(&[&one, &two])
}

/// What the man in the middle changes in the preambles that pass him: PROTOCOL.md, "Preamble".
#[derive(Clone, Copy)]
struct Tampering {
    /// The byte of the preamble.
    at: usize,
    /// What becomes of it, for the dialling and for the dialled side's preamble.
    change: fn(u8) -> u8,
}

/// Length of a preamble.
const PREAMBLE_BYTES: usize = 16;

/// Passes on what comes to `listener`, with both preambles tampered with, until it is over. Tells how many connections
/// there were.
fn man_in_the_middle(
    listener: &TcpListener,
    to: SocketAddr,
    tampering: Tampering,
    over: &AtomicBool,
    seen: &AtomicUsize,
) -> Result<()> {
    listener.set_nonblocking(true)?;
    while !over.load(Ordering::Relaxed) {
        let Ok((near, _)) = listener.accept() else {
            std::thread::sleep(millis(10));
            continue;
        };
        near.set_nonblocking(false)?;
        seen.fetch_add(1, Ordering::Relaxed);
        // One side closing ends both; the test does not care how.
        relay_once(&near, to, tampering).ok();
    }
    Ok(())
}

fn relay_once(near: &TcpStream, to: SocketAddr, tampering: Tampering) -> Result<()> {
    let far = TcpStream::connect_timeout(&to, secs(2))?;
    for stream in [near, &far] {
        stream.set_read_timeout(Some(secs(3)))?;
    }
    for (mut from, mut into) in [(near, &far), (&far, near)] {
        let mut preamble = [0; PREAMBLE_BYTES];
        from.read_exact(&mut preamble)?;
        preamble[tampering.at] = (tampering.change)(preamble[tampering.at]);
        into.write_all(&preamble)?;
    }
    std::thread::scope(|scope| {
        for (mut from, mut into) in [(near, &far), (&far, near)] {
            scope.spawn(move || {
                std::io::copy(&mut from, &mut into).ok();
                into.shutdown(std::net::Shutdown::Both).ok();
            });
        }
    });
    Ok(())
}

/// A man in the middle cannot make two routers agree on less than they can: both preambles are part of the handshake.
#[test]
fn a_man_in_the_middle_cannot_lower_what_two_routers_agree_on() -> Result<()> {
    let tamperings = [
        ("nothing", Tampering { at: 0, change: |byte| byte }, true),
        ("suites", Tampering { at: 7, change: |byte| byte ^ 1 }, false),
        ("version", Tampering { at: 5, change: |byte| byte.wrapping_add(1) }, false),
        ("mode", Tampering { at: 6, change: |_| 0 }, false),
        ("reserved", Tampering { at: 15, change: |byte| byte ^ 1 }, false),
    ];
    for (title, tampering, connects) in tamperings {
        let lab = Lab::new(title)?;
        let (h1, h2, eve) = (lab.host("h1")?, lab.host("h2")?, lab.host("eve")?);
        let secret = Some("nobody in between");
        launch(&h1, &words([NO_DISCOVERY]), secret)?;
        let listener = eve.enter(|| TcpListener::bind("0.0.0.0:6783"))??;
        let (over, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
        let target = SocketAddr::from((h1.ip(), 6783));
        std::thread::scope(|scope| -> Result<()> {
            let man =
                scope.spawn(|| eve.enter(|| man_in_the_middle(&listener, target, tampering, &over, &seen)));
            let outcome = (|| -> Result<()> {
                launch(&h2, &words([NO_DISCOVERY, &eve.ip().to_string()]), secret)?;
                let session = || -> Result<bool> {
                    let states = connections(&h2)?.into_iter().map(|one| one.state);
                    let open = [ConnectionState::Established, ConnectionState::Pending];
                    Ok(states.into_iter().any(|state| open.contains(&state)))
                };
                if connects {
                    return eventually(READY, || session().is_ok_and(|open| open));
                }
                eventually(READY, || seen.load(Ordering::Relaxed) > 1)?;
                always(secs(2), || session().is_ok_and(|open| !open))?;
                ensure!(peers(&h1)?.len() == 1 && peers(&h2)?.len() == 1, "{title}: they know each other");
                Ok(())
            })();
            over.store(true, Ordering::Relaxed);
            h2.mesh(["stop"])?;
            man.join().expect("the man in the middle does not panic")??;
            outcome.with_context(|| format!("the man in the middle changes: {title}"))
        })?;
    }
    Ok(())
}

/// Fault table, row 34: who has not the secret learns nothing of the network, and adds nothing to it.
#[test]
fn a_stranger_with_a_wrong_secret_learns_no_names_and_adds_none() -> Result<()> {
    const SECRET_NAME: &str = "nobodys-business";
    let lab = Lab::new("oracle")?;
    let (h1, h2, eve) = (lab.host("h1")?, lab.host("h2")?, lab.host("eve")?);
    let one = Member::launch(&h1, 1, &words(["--nickname", SECRET_NAME]), Some("the right one"))?;
    let two = Member::launch(&h2, 2, &[h1.ip().to_string()], Some("the right one"))?;
    all_ping(&[&one, &two])?;
    let capture = lab.capture(&eve)?;
    launch(&eve, &words(["--nickname", "intruder", &h1.ip().to_string()]), Some("a wrong one"))?;
    eventually(TOLD, || tells(&eve, &["password"]))?;
    always(secs(1), || peers(&h1).is_ok_and(|found| found.len() == 2))?;
    let frames = capture.stop()?;
    ensure!(frames.tcp_port(6783) > 0, "nothing was said");
    for name in [SECRET_NAME, &one.peer_id, &two.peer_id] {
        ensure!(!frames.contains(name.as_bytes()), "{name} passed in clear");
    }
    ensure!(peers(&eve)?.len() == 1, "{:?}", peers(&eve)?);
    let stats = one.container.ping_with(&Ping::to(two.ip).count(50))?;
    ensure!(stats.received == 50, "{stats:?}");
    multicast_arrives_once(&one, &[&two], "239.1.2.3:5000", 20)
}
