//! Words that the scenarios share: launching and joining hosts, asking routers, wanting a command to be refused.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_api::{
    AttachDocument, ConnectionDocument, ConnectionState, Failure, LaunchDocument, PeerDocument,
    StatusDocument,
};
use mesh_lab::{Cmd, Container, Host, Lab, Process, eventually, millis, secs};
use serde_json::Value;

/// A network that is not under test for its speed must be up within this time.
pub(crate) const READY: Duration = secs(10);

/// The option of a router that dials only whom it was told to.
pub(crate) const NO_DISCOVERY: &str = "--no-discovery";

/// The options of a router whose kernel carries nothing.
pub(crate) const BY_SLEEVE: [&str; 2] = ["--datapath", "sleeve"];

/// Hexadecimal digits of a peer's id in a log.
const SHORT_ID: usize = 12;

/// The interface that a container gets.
pub(crate) const IFNAME: &str = "ethmesh";

/// A host with a router and one attached container.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) host: Host,
    pub(crate) peer_id: String,
    pub(crate) container: Container,
    /// The container's addresses.
    pub(crate) ip: Ipv4Addr,
    pub(crate) ip6: Ipv6Addr,
    /// The container's hardware address.
    pub(crate) mac: String,
}

impl Member {
    /// Launches a router with these options and peers, and attaches a container that gets the addresses of `number`.
    pub(crate) fn launch(
        host: &Host,
        number: u8,
        arguments: &[String],
        password: Option<&str>,
    ) -> Result<Self> {
        let peer_id = launch(host, arguments, password)?.peer_id;
        let container = host.container("c")?;
        let ip = Ipv4Addr::new(10, 32, 0, number);
        let ip6 = Ipv6Addr::new(0xfd32, 0, 0, 0, 0, 0, 0, number.into());
        let attached = attach(host, &container, &[&format!("{ip}/24"), &format!("{ip6}/64")])?;
        Ok(Self { host: host.clone(), peer_id, container, ip, ip6, mac: attached.mac })
    }

    /// The address that the kernel has given the container's interface.
    pub(crate) fn link_local(&self) -> Result<Ipv6Addr> {
        let addresses = self.container.addresses(IFNAME)?;
        let link_local = addresses.iter().find_map(|address| match address {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(*v6),
            IpAddr::V6(_) | IpAddr::V4(_) => None,
        });
        link_local.with_context(|| format!("no link-local address among {addresses:?}"))
    }
}

/// A lab with `N` hosts, `h1` to `hN`, each launched with the one before as its only peer; all are connected.
pub(crate) fn chain<const N: usize>(title: &str, password: Option<&str>) -> Result<(Lab, [Member; N])> {
    chain_with(title, password, &[])
}

/// The same, for what is about sleeve: the kernel carries nothing.
pub(crate) fn chain_by_sleeve<const N: usize>(
    title: &str,
    password: Option<&str>,
) -> Result<(Lab, [Member; N])> {
    chain_with(title, password, &BY_SLEEVE)
}

/// The same, with these options of `mesh launch`.
pub(crate) fn chain_with<const N: usize>(
    title: &str,
    password: Option<&str>,
    options: &[&str],
) -> Result<(Lab, [Member; N])> {
    let lab = Lab::new(title)?;
    let mut members: Vec<Member> = Vec::new();
    for number in 1..=u8::try_from(N)? {
        let host = lab.host(&format!("h{number}"))?;
        let peers = members.last().map(|before| before.host.ip().to_string());
        let arguments: Vec<_> = options.iter().copied().map(str::to_owned).chain(peers).collect();
        members.push(Member::launch(&host, number, &arguments, password)?);
    }
    let Ok(members) = <[Member; N]>::try_from(members) else { bail!("there are as many members as numbers") };
    all_connected(&members.each_ref().map(|member| &member.host))?;
    Ok((lab, members))
}

/// A lab with hosts `h1`, `h2` and so on that are connected, and reach each other at all, only as `edges` say. Each pair of
/// them is `(dialled, dialling)`, numbers from 1, the smaller one first.
pub(crate) fn shape(title: &str, count: u8, edges: &[(u8, u8)]) -> Result<(Lab, Vec<Member>)> {
    let lab = Lab::new(title)?;
    let mut members: Vec<Member> = Vec::new();
    for number in 1..=count {
        let host = lab.host(&format!("h{number}"))?;
        let dialled = edges.iter().filter(|edge| edge.1 == number);
        let peers = dialled.map(|edge| members[usize::from(edge.0) - 1].host.ip().to_string());
        let arguments: Vec<_> = [NO_DISCOVERY.to_owned()].into_iter().chain(peers).collect();
        for (other, member) in (1..).zip(&members) {
            if !edges.contains(&(other, number)) {
                lab.cut(&member.host, &host)?;
            }
        }
        members.push(Member::launch(&host, number, &arguments, None)?);
    }
    eventually(READY, || has_shape(&members, edges))?;
    Ok((lab, members))
}

/// Wants each member to have exactly one established connection with each of those that an edge names beside it.
pub(crate) fn has_shape(members: &[Member], edges: &[(u8, u8)]) -> Result<()> {
    for (number, member) in (1..).zip(members) {
        let ends = edges.iter().filter_map(|(one, other)| match number {
            _ if *one == number => Some(*other),
            _ if *other == number => Some(*one),
            _ => None,
        });
        let mut others: Vec<_> = ends.map(|end| format!("h{end}")).collect();
        others.sort_unstable();
        has_neighbours(&member.host, &others.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Wants all these hosts to know the same peers with the same connections, and nobody else.
pub(crate) fn have_one_view(hosts: &[&Host]) -> Result<()> {
    let view = |host: &&Host| -> Result<BTreeSet<String>> {
        let line = |peer: PeerDocument| {
            let mut ends: Vec<_> = peer
                .connections
                .iter()
                .map(|end| format!("{} {} {}", end.peer_id, end.outbound, end.established))
                .collect();
            ends.sort_unstable();
            format!("{} {} version {}: {ends:?}", peer.peer_id, peer.nickname, peer.version)
        };
        Ok(peers(host)?.into_iter().map(line).collect())
    };
    let views = hosts.iter().map(view).collect::<Result<Vec<_>>>()?;
    for (host, found) in hosts.iter().zip(&views) {
        ensure!(found.len() == hosts.len(), "{} knows {} peers", host.label(), found.len());
        let differing: Vec<_> = found.symmetric_difference(&views[0]).collect();
        ensure!(differing.is_empty(), "{} and {} differ: {differing:?}", hosts[0].label(), host.label());
    }
    Ok(())
}

/// How many frames a host has sent on for others.
pub(crate) fn relayed(host: &Host) -> Result<u64> {
    let passed = status(host)?.traffic.passed;
    Ok(passed.get("relay").and_then(|relay| relay.get("out")).map_or(0, |out| out.frames))
}

/// How often a host's data plane has dropped for this reason.
pub(crate) fn drops(host: &Host, reason: &str) -> Result<u64> {
    Ok(status(host)?.traffic.drops.get(reason).copied().unwrap_or(0))
}

/// How often a host has lost a link or a session, by its log. The version of its record does not tell: it rises as well when the
/// kernel's path comes up, or a path is found to take more.
pub(crate) fn alarms(host: &Host) -> usize {
    alarms_about(host, "")
}

/// The same, with this peer alone.
pub(crate) fn alarms_about(host: &Host, peer_id: &str) -> usize {
    let peer = format!("peer={}", peer_id.get(..SHORT_ID).unwrap_or_default());
    let lost = |line: &&str| line.contains("frames no longer pass") || line.contains("disconnected");
    host.router_log().lines().filter(lost).filter(|line| line.contains(&peer)).count()
}

/// How many established TCP connections a host has with port 6783 at either end.
pub(crate) fn sessions(host: &Host) -> Result<usize> {
    let filter = "( sport = :6783 or dport = :6783 )";
    Ok(host.run(["ss", "-Htn", "state", "established", filter])?.stdout.lines().count())
}

/// A process in a network namespace that has no name, and its id. It ends with the lab at the latest.
pub(crate) fn nameless(host: &Host) -> Result<(Process, u32)> {
    // The shell stays in the host's namespace, where the lab looks for whom it has started.
    let shell = host.cmd("sh").args(["-c", "unshare --net sleep 300 & echo $!; wait"]).spawn()?;
    let pid = eventually(READY, || -> Result<u32> { Ok(shell.stdout().trim().parse()?) })?;
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net"));
    let own = namespace(shell.pid())?;
    eventually(READY, || namespace(pid).is_ok_and(|found| found != own))?;
    Ok((shell, pid))
}

/// A file that only root reads.
pub(crate) fn secret_file(directory: &Path, name: &str, secrets: &[&str]) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, secrets.join("\n") + "\n")?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(path)
}

/// Words as a command's arguments.
pub(crate) fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// Launches a router in the background, with these options and peers.
pub(crate) fn launch(host: &Host, arguments: &[String], password: Option<&str>) -> Result<LaunchDocument> {
    // An emulated CPU takes its time.
    let command = host.mesh_cmd(["launch", "-o", "json", "--timeout", "60"])?.args(arguments);
    let command = command.deadline(secs(90));
    match password {
        Some(password) => command.env("MESH_PASSWORD", password),
        None => command,
    }
    .run()?
    .json()
}

/// Attaches a container.
pub(crate) fn attach(host: &Host, container: &Container, addresses: &[&str]) -> Result<AttachDocument> {
    host.mesh_cmd(["attach", "-o", "json", &container.spec()])?.args(addresses).run()?.json()
}

pub(crate) fn status(host: &Host) -> Result<StatusDocument> {
    host.mesh(["status", "-o", "json"])?.json()
}

pub(crate) fn peers(host: &Host) -> Result<Vec<PeerDocument>> {
    host.mesh(["status", "peers", "-o", "json"])?.json()
}

pub(crate) fn connections(host: &Host) -> Result<Vec<ConnectionDocument>> {
    host.mesh(["status", "connections", "-o", "json"])?.json()
}

/// The nicknames of the peers to which a host has an established connection, sorted; one connected twice is there
/// twice.
pub(crate) fn neighbours(host: &Host) -> Result<Vec<String>> {
    let established = |connection: &ConnectionDocument| connection.state == ConnectionState::Established;
    let connections = connections(host)?;
    let mut names: Vec<_> = connections
        .into_iter()
        .filter(established)
        .map(|connection| connection.nickname.unwrap_or_else(|| "?".to_owned()))
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Wants established connections to these peers and no others, by nickname and sorted.
pub(crate) fn has_neighbours(host: &Host, names: &[&str]) -> Result<()> {
    let found = neighbours(host)?;
    ensure!(found == names, "{} is connected to {found:?}, not to {names:?}", host.label());
    Ok(())
}

/// Wants exactly one established connection from each host to each other one, now.
pub(crate) fn are_connected(hosts: &[&Host]) -> Result<()> {
    for host in hosts {
        let mut others: Vec<_> = hosts.iter().map(|other| other.label()).collect();
        others.retain(|other| *other != host.label());
        others.sort_unstable();
        has_neighbours(host, &others)?;
    }
    Ok(())
}

/// Waits for [`are_connected`].
pub(crate) fn all_connected(hosts: &[&Host]) -> Result<()> {
    eventually(READY, || are_connected(hosts))
}

/// Wants each member's container to reach each other one over IPv4, within [`READY`].
pub(crate) fn all_ping(members: &[&Member]) -> Result<()> {
    for (from, to) in ordered_pairs(members) {
        eventually(READY, || from.container.ping(to.ip))?;
    }
    Ok(())
}

/// Each member with each other one, in both orders.
pub(crate) fn ordered_pairs<'a>(members: &[&'a Member]) -> Vec<(&'a Member, &'a Member)> {
    let with_others = |from: &'a Member| {
        let others = members.iter().filter(move |to| !std::ptr::eq(**to, from));
        others.map(move |to| (from, *to))
    };
    members.iter().flat_map(|from| with_others(from)).collect()
}

/// Sends `count` numbered datagrams to a group, and wants each of them to arrive exactly once at each listener.
pub(crate) fn multicast_arrives_once(from: &Member, to: &[&Member], group: &str, count: u16) -> Result<()> {
    let group: SocketAddr = group.parse()?;
    let listen = |member: &&Member| member.container.multicast_listen(group, IFNAME);
    let wanted = usize::from(count);
    let listeners = to.iter().map(listen).collect::<Result<Vec<_>>>()?;
    // Frames for a group begin to come when the other hosts have heard of the member.
    for (listener, member) in listeners.iter().zip(to) {
        eventually(READY, || {
            from.container.multicast_send(group, IFNAME, b"joined?")?;
            listener.next(millis(100)).with_context(|| format!("{} hears nothing", member.host.label()))
        })?;
    }
    for number in 0..count {
        from.container.multicast_send(group, IFNAME, &number.to_be_bytes())?;
    }
    for (listener, member) in listeners.iter().zip(to) {
        let mut seen = BTreeSet::new();
        // The first one may have a long way; when all are there, one more look finds copies.
        while let Ok((payload, _)) = listener.next(if seen.len() < wanted { secs(1) } else { millis(200) }) {
            if payload == b"joined?" {
                continue;
            }
            let payload = <[u8; 2]>::try_from(payload).ok().context("a foreign datagram in the group")?;
            let number = u16::from_be_bytes(payload);
            ensure!(seen.insert(number), "datagram {number} came twice to {}", member.host.label());
        }
        ensure!(seen.len() == wanted, "{} of {wanted} came to {}", seen.len(), member.host.label());
    }
    Ok(())
}

/// Wants a command to be refused: see [`refused_as`].
pub(crate) fn refused(host: &Host, status: i32, arguments: &[&str]) -> Result<Failure> {
    refused_as(status, |format| host.mesh_cmd(arguments.iter().chain(format)))
}

/// Runs a command twice, for people and for programs, and wants both to end with this status, to print nothing on
/// standard output, and to tell the same error on standard error. `command` is given the options to be added.
pub(crate) fn refused_as(status: i32, command: impl Fn(&[&str]) -> Result<Cmd>) -> Result<Failure> {
    let title = command(&[])?.to_string();
    let human = command(&[])?.outcome()?;
    let json = command(&["-o", "json"])?.outcome()?;
    for output in [&human, &json] {
        let (code, stderr) = (output.code(), output.stderr.trim());
        ensure!(code == Some(status), "{title} ends with {code:?} in place of {status}: {stderr}");
        ensure!(output.stdout.is_empty(), "{title} fails and prints {:?}", output.stdout);
        ensure!(!stderr.contains("panicked"), "{title} panics: {stderr}");
    }
    let document: Value = serde_json::from_str(&json.stderr)
        .with_context(|| format!("{title} prints an error that is no JSON document: {:?}", json.stderr))?;
    let failure: Failure = serde_json::from_value(document["error"].clone())
        .with_context(|| format!("{title} prints an error without the keys of one: {document}"))?;
    ensure!(
        human.stderr.lines().any(|line| line.starts_with("error: ")),
        "{title} prints an error without its mark: {}",
        human.stderr
    );
    ensure!(!failure.message.trim().is_empty(), "{title} gives no reason");
    ensure!(
        i32::from(failure.kind.exit_status()) == status,
        "{title}: {:?} is not status {status}",
        failure.kind
    );
    if let Some(hint) = failure.hint.as_deref().filter(|_| human.stderr.contains("hint: ")) {
        ensure!(human.stderr.contains(hint), "{title} has another hint in JSON: {hint}");
    }
    Ok(failure)
}

/// Wants the failure to have a hint in which one of these words stands.
pub(crate) fn hints_at(failure: &Failure, words: &[&str]) -> Result<()> {
    let hint = failure.hint.as_deref().with_context(|| format!("no hint with {:?}", failure.message))?;
    ensure!(words.iter().any(|word| hint.contains(word)), "the hint speaks of none of {words:?}: {hint}");
    Ok(())
}

/// The binary under test, for commands that do not start with it.
pub(crate) fn mesh_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MESH_BIN") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let target = test.parent().and_then(|deps| deps.parent()).context("tests lie in target/PROFILE/deps")?;
    Ok(target.join("mesh"))
}
