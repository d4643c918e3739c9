//! Hosts behind NAT routers: they join, reach each other by relays at once, and directly where that can be.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Frames, Host, Lab, Nat, NatKind, Ping, Protocol, always, eventually, secs};

use crate::heartbeat::{Heartbeat, now};
use crate::support::{
    Member, READY, all_connected, all_ping, are_connected, has_neighbours, multicast_arrives_once,
    ordered_pairs, relayed,
};

/// The longest silence of traffic whose NAT router has changed its ports: fault table, row 16.
const REBINDING: f64 = 3.0;

/// How long two hosts may take to get through two NAT routers.
const PUNCHED: std::time::Duration = secs(20);

/// Frames that a relay may send on for others while nothing is relayed any more: ARP, and neighbour discovery.
const STRAY_FRAMES: u64 = 5;

/// weave-net.md 30, 33: who is behind NAT joins when it dials, and when its router lets others in.
#[test]
fn a_host_behind_nat_joins_whichever_side_dials() -> Result<()> {
    let lab = Lab::new("either")?;
    let (public, nat) = (lab.host("public")?, lab.nat("nat")?);
    let inside = lab.host_behind(&nat, "inside")?;
    let one = Member::launch(&public, 1, &[], None)?;
    let two = Member::launch(&inside, 2, &[public.ip().to_string()], None)?;
    all_connected(&[&public, &inside])?;
    all_ping(&[&one, &two])?;
    for member in [&one, &two] {
        member.host.mesh(["stop"])?;
    }

    for protocol in [Protocol::Tcp, Protocol::Udp] {
        nat.forward(protocol, 6783, &inside)?;
    }
    nat.flush()?;
    inside.mesh(["launch"])?;
    public.mesh(["launch", &nat.ip().to_string()])?;
    all_connected(&[&public, &inside])?;
    all_ping(&[&one, &two])
}

/// Two hosts behind one NAT router reach each other on their own network.
#[test]
fn two_hosts_behind_one_nat_talk_without_leaving_it() -> Result<()> {
    let lab = Lab::new("onenat")?;
    let (public, nat) = (lab.host("public")?, lab.nat("nat")?);
    let (left, right) = (lab.host_behind(&nat, "left")?, lab.host_behind(&nat, "right")?);
    let first = [public.ip().to_string()];
    let one = Member::launch(&public, 1, &[], None)?;
    let two = Member::launch(&left, 2, &first, None)?;
    let three = Member::launch(&right, 3, &first, None)?;
    all_ping(&[&one, &two, &three])?;
    let direct = eventually(PUNCHED, || relays_nothing(&one, &two, &three));
    let told = two.host.mesh(["status", "routes"])?.stdout;
    direct.with_context(|| format!("the public host still relays; the way is\n{told}"))
}

/// Two hosts behind a NAT router each, a public one, and what they tell.
struct TwoNats {
    lab: Lab,
    nats: [Nat; 2],
    public: Member,
    left: Member,
    right: Member,
}

impl TwoNats {
    fn set_up(title: &str, kinds: [NatKind; 2], password: Option<&str>) -> Result<Self> {
        let lab = Lab::new(title)?;
        let (host, nats) = (lab.host("public")?, [lab.nat("nat1")?, lab.nat("nat2")?]);
        for (nat, kind) in nats.iter().zip(kinds) {
            nat.set_kind(kind)?;
        }
        let inside = [lab.host_behind(&nats[0], "left")?, lab.host_behind(&nats[1], "right")?];
        let first = [host.ip().to_string()];
        let public = Member::launch(&host, 1, &[], password)?;
        let left = Member::launch(&inside[0], 2, &first, password)?;
        let right = Member::launch(&inside[1], 3, &first, password)?;
        eventually(READY, || has_neighbours(&host, &["left", "right"]))?;
        Ok(Self { lab, nats, public, left, right })
    }

    fn works(&self) -> Result<()> {
        let all = [&self.public, &self.left, &self.right];
        all_ping(&all)?;
        for (from, to) in ordered_pairs(&all) {
            let stats = from.container.ping_with(&Ping::to(to.ip).count(20))?;
            ensure!((stats.received, stats.duplicates) == (20, 0), "{stats:?}");
        }
        multicast_arrives_once(&self.left, &[&self.public, &self.right], "239.1.2.3:5000", 20)
    }
}

/// Wants fifty pings from the one to the other to be answered without the relay's help.
fn relays_nothing(relay: &Member, from: &Member, to: &Member) -> Result<()> {
    let before = relayed(&relay.host)?;
    let stats = from.container.ping_with(&Ping::to(to.ip).count(50))?;
    let by_relay = relayed(&relay.host)? - before;
    ensure!(stats.received == 50, "{stats:?}");
    ensure!(by_relay <= STRAY_FRAMES, "{by_relay} frames are relayed");
    Ok(())
}

#[test]
fn two_hosts_behind_two_nats_are_relayed_at_once_and_get_through_to_each_other() -> Result<()> {
    for (title, password) in [("punch", None), ("punchsealed", Some("through both walls"))] {
        let net = TwoNats::set_up(title, [NatKind::KeepsPorts; 2], password)?;
        let launched = Instant::now();
        let heartbeat = Heartbeat::beating(&net.left.container, &net.right)?;
        println!(
            "measured: {title}: relayed {:.2} s after the last launch",
            launched.elapsed().as_secs_f64()
        );
        eventually(PUNCHED, || relays_nothing(&net.public, &net.left, &net.right))?;
        println!("measured: {title}: direct {:.2} s after the last launch", launched.elapsed().as_secs_f64());
        println!("measured: {title}: {:?} on the way there", heartbeat.tally());
        ensure!(heartbeat.longest_silence() < 2.0, "{:.2} s of silence", heartbeat.longest_silence());
        drop(heartbeat);
        net.works()?;
        let between = [net.nats[0].ip(), net.nats[1].ip()];
        let capture = net.lab.capture(&net.nats[0])?;
        relays_nothing(&net.public, &net.left, &net.right)?;
        let seen = datagrams_between(&capture.stop()?, between);
        ensure!(seen >= 100, "{seen} datagrams from NAT to NAT");
    }
    Ok(())
}

fn datagrams_between(frames: &Frames, ends: [std::net::Ipv4Addr; 2]) -> usize {
    frames.count(|frame| {
        let Some(found) = frame.transport() else { return false };
        let addresses = [found.source.0, found.destination.0];
        found.protocol == Protocol::Udp && ends.iter().all(|end| addresses.contains(&(*end).into()))
    })
}

/// Ports that differ for each destination cannot be told in advance: the relay goes on, and nothing is lost by trying.
#[test]
fn two_hosts_behind_symmetric_nats_stay_with_the_relay() -> Result<()> {
    let net = TwoNats::set_up("symmetric", [NatKind::RandomPorts; 2], None)?;
    net.works()?;
    // As many tries to get through as there will ever be in a row.
    let stats = net.left.container.ping_with(&Ping::to(net.right.ip).count(150).every_ms(100))?;
    ensure!(stats.received >= 149 && stats.duplicates == 0, "{stats:?}");
    let before = relayed(&net.public.host)?;
    net.left.container.ping_with(&Ping::to(net.right.ip).count(20))?;
    println!("measured: symmetric: {} of 40 frames relayed", relayed(&net.public.host)? - before);
    net.works()
}

/// A direct way that closes again does not take the traffic with it.
#[test]
fn a_way_through_two_nats_that_closes_gives_way_to_the_relay() -> Result<()> {
    let net = TwoNats::set_up("closes", [NatKind::KeepsPorts; 2], None)?;
    let heartbeat = Heartbeat::beating(&net.left.container, &net.right)?;
    eventually(PUNCHED, || relays_nothing(&net.public, &net.left, &net.right))?;
    let closed = now()?;
    net.lab.cut(&net.nats[0], &net.nats[1])?;
    let back = eventually(READY, || heartbeat.first_answer_after(closed + 0.1))?;
    let last = heartbeat.last_answer_before(back).context("there were answers before")?;
    println!("measured: relayed again {:.2} s after the direct way closed", back - last);
    ensure!(back - last < REBINDING, "silent for {:.2} s", back - last);
    net.works()
}

/// Fault table, row 16: the NAT router forgets, and everything comes from other ports.
#[test]
fn a_nat_that_changes_its_ports_interrupts_for_three_seconds_at_most() -> Result<()> {
    let lab = Lab::new("rebind")?;
    let (public, nat) = (lab.host("public")?, lab.nat("nat")?);
    let inside = lab.host_behind(&nat, "inside")?;
    let one = Member::launch(&public, 1, &[], Some("sealed"))?;
    let two = Member::launch(&inside, 2, &[public.ip().to_string()], Some("sealed"))?;
    all_connected(&[&public, &inside])?;
    for (from, to) in [(&two, &one), (&one, &two)] {
        let heartbeat = Heartbeat::beating(&from.container, to)?;
        let rebound = now()?;
        nat.rebind()?;
        eventually(READY, || heartbeat.first_answer_after(rebound + 0.1))?;
        // The control session has to notice, too, and may not take the frames with it when it is replaced.
        eventually(secs(20), || heartbeat.first_answer_after(rebound + 8.0))?;
        let silence = heartbeat.longest_silence();
        println!("measured: silent for {silence:.2} s while the ports changed, {:?}", heartbeat.tally());
        ensure!(silence <= REBINDING, "silent for {silence:.2} s");
        let connected = [&public, &inside];
        eventually(READY, || are_connected(&connected))?;
        always(secs(1), || are_connected(&connected))?;
    }
    Ok(())
}

/// Who is behind a NAT of any kind and whose other end is public needs no relay.
#[test]
fn a_host_behind_a_symmetric_nat_reaches_public_hosts_directly() -> Result<()> {
    let lab = Lab::new("symmetricone")?;
    let (h1, h2, nat) = (lab.host("h1")?, lab.host("h2")?, lab.nat("nat")?);
    nat.set_kind(NatKind::RandomPorts)?;
    let inside = lab.host_behind(&nat, "inside")?;
    let first = [h1.ip().to_string()];
    let one = Member::launch(&h1, 1, &[], None)?;
    let two = Member::launch(&h2, 2, &first, None)?;
    let three = Member::launch(&inside, 3, &first, None)?;
    let hosts: [&Host; 3] = [&h1, &h2, &inside];
    eventually(secs(15), || are_connected(&hosts))?;
    all_ping(&[&one, &two, &three])?;
    relays_nothing(&one, &two, &three)?;
    relays_nothing(&one, &three, &two)
}
