//! The sound network: hosts, containers, addresses, probes, captures.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use mesh_lab::{
    CommandFailed, Iperf, Lab, Namespace, NatKind, Ping, Protocol, Signal, eventually, millis, secs,
};

#[test]
fn hosts_reach_each_other_over_ipv4_and_ipv6_at_once() -> Result<()> {
    let lab = Lab::new("reach")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);

    a.ping(b.ip())?;
    b.ping(a.ip6())?;
    assert_eq!(a.arping("eth0", b.ip())?.len(), 17);
    Ok(())
}

#[test]
fn hosts_that_were_introduced_need_not_ask_for_each_other() -> Result<()> {
    let lab = Lab::new("introduce")?;
    let hosts = [lab.host("a")?, lab.host("b")?, lab.host("c")?];

    lab.introduce(&hosts)?;
    let capture = lab.capture(&hosts[1])?;
    hosts[0].ping(hosts[1].ip())?;
    hosts[1].ping(hosts[2].ip6())?;
    assert_eq!(capture.stop()?.count(|frame| frame.ethertype() == 0x0806), 0);
    Ok(())
}

#[test]
fn a_container_has_nothing_but_loopback_and_a_name_that_ip_knows() -> Result<()> {
    let lab = Lab::new("container")?;
    let c = lab.host("a")?.container("c1")?;

    c.ping("127.0.0.1")?;
    c.ping("::1")?;
    let links: Vec<serde_json::Value> = c.run(["ip", "-j", "link"])?.json()?;
    assert_eq!(links.len(), 1);
    assert_eq!(c.spec(), format!("netns:{}", c.name()));
    assert!(Path::new("/run/netns").join(c.name()).exists());
    Ok(())
}

#[test]
fn programs_see_the_interfaces_of_their_own_namespace_in_sys() -> Result<()> {
    let lab = Lab::new("sys")?;
    let a = lab.host("a")?;

    let mut names: Vec<_> =
        a.run(["ls", "/sys/class/net"])?.stdout.split_whitespace().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["eth0", "lo"]);
    Ok(())
}

#[test]
fn a_failing_command_is_reported_with_its_place_and_words() -> Result<()> {
    let lab = Lab::new("failure")?;
    let a = lab.host("a")?;

    let error = a.run(["ip", "link", "show", "nothing"]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("ip link show nothing") && text.contains("in a"), "{text}");
    assert!(text.contains("does not exist"), "{text}");
    assert_eq!(error.downcast_ref::<CommandFailed>().unwrap().output.code(), Some(1));
    assert!(a.cmd("sleep").arg("60").deadline(millis(50)).run().is_err());
    Ok(())
}

#[test]
fn a_spawned_program_is_in_its_namespace_and_ends_with_its_guard() -> Result<()> {
    let lab = Lab::new("spawn")?;
    let a = lab.host("a")?;

    let mut sleeper = a.spawn(["sleep", "60"])?;
    assert!(sleeper.is_running());
    assert_eq!(lab.processes(), [sleeper.pid()]);
    sleeper.signal(Signal::STOP)?;
    drop(sleeper);
    assert!(lab.processes().is_empty());

    let speaker = a.spawn(["sh", "-c", "echo hello; exit 4"])?;
    let output = speaker.wait(secs(5))?;
    assert_eq!((output.code(), output.stdout.as_str()), (Some(4), "hello\n"));
    Ok(())
}

#[test]
fn a_changed_address_takes_the_place_of_the_old_one() -> Result<()> {
    let lab = Lab::new("address")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let (old, old6) = (a.ip(), a.ip6());

    a.change_address()?;
    assert_ne!((a.ip(), a.ip6()), (old, old6));
    b.ping(a.ip())?;
    b.ping(a.ip6())?;
    b.cannot_ping(old)?;
    Ok(())
}

#[test]
fn a_link_that_was_down_comes_back_with_its_addresses() -> Result<()> {
    let lab = Lab::new("link")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);

    a.link_down()?;
    a.cannot_ping(b.ip())?;
    a.link_up()?;
    eventually(secs(5), || a.ping(b.ip()))?;
    eventually(secs(5), || a.ping(b.ip6()))?;

    lab.unplug(&a)?;
    b.cannot_ping(a.ip())?;
    lab.plug(&a)?;
    eventually(secs(5), || b.ping(a.ip()))?;
    eventually(secs(5), || b.ping(a.ip6()))?;
    Ok(())
}

#[test]
fn a_small_mtu_fragments_and_a_black_hole_swallows() -> Result<()> {
    let lab = Lab::new("mtu")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let large = Ping::to(b.ip()).size(1400).wait(millis(300));
    assert_eq!(a.ping_with(&large)?.received, 1);

    lab.path_mtu(&b, 1280)?;
    assert_eq!(a.ping_with(&large)?.received, 0);
    assert_eq!(a.ping_with(&Ping::to(b.ip()).size(1200))?.received, 1);

    a.set_mtu(1280)?;
    assert!(a.ping_with(&large.dont_fragment()).is_ok_and(|stats| stats.received == 0));
    Ok(())
}

#[test]
fn tcp_and_throughput_probes_work_both_ways() -> Result<()> {
    let lab = Lab::new("tcp")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let _echo = b.echo_server(7)?;
    let payload: Vec<u8> = (0..1_000_000_u32).map(|byte| byte as u8).collect();
    a.echo(SocketAddr::from((b.ip(), 7)), &payload)?;
    a.echo(SocketAddr::from((b.ip6(), 7)), b"short")?;
    assert!(a.echo(SocketAddr::from((b.ip(), 8)), b"nobody").is_err());

    let _iperf = b.iperf_server()?;
    assert!(a.iperf(&Iperf::to(b.ip()))?.bits_per_second > 1e8);
    assert!(a.iperf(&Iperf::to(b.ip6()).reverse())?.bits_per_second > 1e8);
    let udp = a.iperf(&Iperf::to(b.ip()).udp("10M", 1000))?;
    assert!(udp.lost_percent.is_some_and(|lost| lost < 5.0), "{udp:?}");
    Ok(())
}

#[test]
fn multicast_reaches_the_members_of_a_group() -> Result<()> {
    let lab = Lab::new("multicast")?;
    let (a, b, c) = (lab.host("a")?, lab.host("b")?, lab.host("c")?);
    for group in ["239.1.2.3:5000", "[ff02::1234]:5000"] {
        let group: SocketAddr = group.parse()?;
        let listeners = [b.multicast_listen(group, "eth0")?, c.multicast_listen(group, "eth0")?];

        a.multicast_send(group, "eth0", b"to all")?;
        for listener in &listeners {
            assert_eq!(listener.next(secs(2))?.0, b"to all");
        }
    }
    let other = b.multicast_listen("239.9.9.9:5000".parse()?, "eth0")?;
    a.multicast_send("239.1.2.3:5000".parse()?, "eth0", b"not for them")?;
    assert!(other.next(millis(100)).is_err());
    Ok(())
}

#[test]
fn a_capture_holds_every_frame_of_both_directions() -> Result<()> {
    let lab = Lab::new("capture")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let _echo = b.echo_server(7777)?;

    let capture = lab.capture(&a)?;
    for _ in 0..20 {
        a.echo(SocketAddr::from((b.ip(), 7777)), b"needle in the hay")?;
    }
    let frames = capture.stop()?;

    assert!(frames.contains(b"needle in"));
    assert!(!frames.contains(b"no such bytes"));
    let with_needle =
        |outgoing| frames.count(|frame| frame.outgoing == outgoing && frame.contains(b"needle"));
    assert_eq!((with_needle(true), with_needle(false)), (20, 20));
    assert!(frames.tcp_port(7777) >= 20 * 8);
    assert_eq!(frames.udp_port(7777), 0);
    Ok(())
}

#[test]
fn a_frame_is_sent_as_it_is() -> Result<()> {
    let lab = Lab::new("frame")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let mac = |host: &Namespace| -> Result<Vec<u8>> {
        host.mac("eth0")?.split(':').map(|byte| Ok(u8::from_str_radix(byte, 16)?)).collect()
    };
    let frame = [mac(&b)?, mac(&a)?, vec![0x88, 0xb5], vec![0xab; 60]].concat();

    let capture = b.capture("eth0")?;
    a.send_frame("eth0", &frame)?;
    // What a host receives next tells that the frame before it has been received.
    a.ping(b.ip())?;
    assert_eq!(capture.stop()?.count(|seen| seen.bytes == frame), 1);
    assert!(a.send_frame("eth0", &[0; 2000]).is_err());
    assert!(a.addresses("eth0")?.contains(&a.ip().into()));
    Ok(())
}

#[test]
fn a_capture_survives_that_its_interface_goes_down() -> Result<()> {
    let lab = Lab::new("capturedown")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);

    let capture = lab.capture(&a)?;
    a.link_down()?;
    a.link_up()?;
    eventually(secs(5), || a.ping(b.ip()))?;
    assert!(!capture.stop()?.is_empty());
    Ok(())
}

#[test]
fn the_network_state_is_the_same_until_something_changes() -> Result<()> {
    let lab = Lab::new("state")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let before = a.network_state()?;
    a.ping(b.ip())?;
    before.must_equal(&a.network_state()?)?;

    a.run(["ip", "link", "add", "br9", "type", "bridge"])?;
    a.run(["ip", "address", "add", "10.9.9.9/24", "dev", "br9"])?;
    a.run(["nft", "add", "table", "inet", "extra"])?;
    a.set_sysctl("net.ipv4.ip_forward", "1")?;
    let diff = before.diff(&a.network_state()?).to_string();
    for part in ["+ link br9", "+ address of br9", "extra", "- setting net/ipv4/ip_forward = 0"] {
        assert!(diff.contains(part), "{part} is not in {diff}");
    }

    a.run(["ip", "link", "del", "br9"])?;
    a.run(["nft", "delete", "table", "inet", "extra"])?;
    a.set_sysctl("net.ipv4.ip_forward", "0")?;
    a.container("c")?;
    before.must_equal(&a.network_state()?)
}

#[test]
fn a_host_behind_nat_reaches_out_and_is_not_reached() -> Result<()> {
    let lab = Lab::new("nat")?;
    let outer = lab.host("outer")?;
    let home = lab.nat("home")?;
    let (laptop, phone) = (lab.host_behind(&home, "laptop")?, lab.host_behind(&home, "phone")?);

    laptop.ping(outer.ip())?;
    laptop.ping(outer.ip6())?;
    laptop.ping(phone.ip())?;
    outer.cannot_ping(laptop.ip())?;

    let capture = lab.capture(&outer)?;
    let _echo = outer.echo_server(7)?;
    laptop.echo(SocketAddr::from((outer.ip(), 7)), b"from behind")?;
    let frames = capture.stop()?;
    let senders = frames.iter().filter(|frame| !frame.outgoing).filter_map(|frame| frame.transport());
    assert!(senders.into_iter().all(|ends| ends.source.0 == home.ip()));

    let _inner = laptop.echo_server(80)?;
    assert!(outer.echo(SocketAddr::from((home.ip(), 80)), b"knock").is_err());
    home.forward(Protocol::Tcp, 80, &laptop)?;
    outer.echo(SocketAddr::from((home.ip(), 80)), b"knock")?;
    outer.echo(SocketAddr::from((home.ip6(), 80)), b"knock")?;
    Ok(())
}

#[test]
fn a_nat_keeps_or_changes_ports_as_told_and_forgets_them_when_flushed() -> Result<()> {
    let lab = Lab::new("ports")?;
    let outer = lab.host("outer")?;
    let home = lab.nat("home")?;
    let laptop = lab.host_behind(&home, "laptop")?;
    let server = outer.enter(|| std::net::UdpSocket::bind("0.0.0.0:5000"))??;
    server.set_read_timeout(Some(secs(2)))?;
    let client = laptop.enter(|| std::net::UdpSocket::bind("0.0.0.0:4000"))??;
    let seen_as = || -> Result<u16> {
        client.send_to(b"who am I", (outer.ip(), 5000))?;
        Ok(server.recv_from(&mut [0; 16])?.1.port())
    };

    assert_eq!(seen_as()?, 4000);
    home.set_kind(NatKind::RandomPorts)?;
    assert_eq!(seen_as()?, 4000, "an existing mapping stays");
    home.flush()?;
    let random = seen_as()?;
    assert_ne!(random, 4000);
    assert_eq!(seen_as()?, random);
    home.rebind()?;
    assert_ne!(seen_as()?, random);
    Ok(())
}

#[test]
fn a_conversation_outlasts_an_interruption_and_tells_how_long_it_was() -> Result<()> {
    let lab = Lab::new("flow")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);

    let flow = a.converse(&b, (b.ip(), 5000).into())?;
    eventually(secs(5), || flow.report().answers > 10)?;
    lab.cut(&a, &b)?;
    let before = flow.report().answers;
    eventually(secs(5), || a.ping(b.ip()).is_err())?;
    lab.heal(&a, &b)?;
    eventually(secs(10), || flow.report().answers > before + 10)?;
    let report = flow.finish()?;
    assert!(report.longest_wait > millis(150), "{report:?}");
    Ok(())
}

#[test]
fn a_host_has_several_addresses_or_one_family_alone() -> Result<()> {
    let lab = Lab::new("families")?;
    let (a, b, c) = (lab.host("a")?, lab.host("b")?, lab.host("c")?);

    let (second, second6) = a.add_addresses()?;
    for address in [IpAddr::from(a.ip()), second.into(), a.ip6().into(), second6.into()] {
        b.ping(address)?;
    }

    let server = b.enter(|| std::net::TcpListener::bind("0.0.0.0:80"))??;
    let _connection = a.connect_from(second.into(), (b.ip(), 80).into(), secs(2))?;
    assert_eq!(server.accept()?.1.ip(), second);
    assert!(a.connect_from(c.ip().into(), (b.ip(), 80).into(), secs(2)).is_err());

    b.remove_ipv4()?;
    a.cannot_ping(b.ip())?;
    a.ping(b.ip6())?;

    c.switch_ipv6_off()?;
    a.ping(c.ip())?;
    a.cannot_ping(c.ip6())?;
    c.run(["ip", "link", "add", "br9", "type", "bridge"])?;
    assert_eq!(c.sysctl("net.ipv6.conf.br9.disable_ipv6")?, "1");
    Ok(())
}
