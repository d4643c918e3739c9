//! The broken network: cuts, loss, rates, wires.

use std::net::SocketAddr;

use anyhow::Result;
use mesh_lab::{Chaos, Direction, Frame, Host, Iperf, Lab, Ping, Protocol, eventually, millis, secs};

/// How many of a hundred datagrams arrive: enough are sent for shares to be told apart.
fn arriving_percent(lab: &Lab, from: &Host, to: &Host) -> Result<f64> {
    const DATAGRAMS: usize = 1_000;
    let socket = from.enter(|| std::net::UdpSocket::bind("0.0.0.0:0"))??;
    let capture = lab.capture(to)?;
    for _ in 0..DATAGRAMS {
        socket.send_to(b"x", (to.ip(), 9))?;
    }
    let arrived = capture.stop()?.count(|frame| !frame.outgoing && frame.transport().is_some());
    Ok(arrived as f64 * 100.0 / DATAGRAMS as f64)
}

#[test]
fn a_cut_separates_two_hosts_and_no_others_until_it_is_healed() -> Result<()> {
    let lab = Lab::new("cut")?;
    let (a, b, c) = (lab.host("a")?, lab.host("b")?, lab.host("c")?);

    lab.cut(&a, &b)?;
    a.cannot_ping(b.ip())?;
    b.cannot_ping(a.ip6())?;
    assert!(a.arping("eth0", b.ip()).is_err());
    a.ping(c.ip())?;
    c.ping(b.ip6())?;

    lab.heal(&a, &b)?;
    // Neighbours that were not found are looked for again after a while.
    eventually(secs(5), || a.ping(b.ip()))?;
    eventually(secs(5), || b.ping(a.ip6()))?;
    Ok(())
}

#[test]
fn a_one_way_cut_drops_what_goes_and_passes_what_comes() -> Result<()> {
    let lab = Lab::new("oneway")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let at_b = b.enter(|| std::net::UdpSocket::bind("[::]:5000"))??;
    let at_a = a.enter(|| std::net::UdpSocket::bind("[::]:5000"))??;
    for socket in [&at_a, &at_b] {
        socket.set_read_timeout(Some(millis(200)))?;
    }
    let passes =
        |from: &std::net::UdpSocket, to: &std::net::UdpSocket, address: SocketAddr| -> Result<bool> {
            from.send_to(b"x", address)?;
            Ok(to.recv_from(&mut [0; 8]).is_ok())
        };

    lab.cut_one_way(&a, &b)?;
    let mapped = |host: &Host| SocketAddr::from((host.ip().to_ipv6_mapped(), 5000));
    assert!(!passes(&at_a, &at_b, mapped(&b))?);
    assert!(passes(&at_b, &at_a, mapped(&a))?);
    assert!(!passes(&at_a, &at_b, SocketAddr::from((b.ip6(), 5000)))?);
    assert!(passes(&at_b, &at_a, SocketAddr::from((a.ip6(), 5000)))?);
    assert_eq!(a.arping("eth0", b.ip())?.len(), 17);
    Ok(())
}

#[test]
fn an_isolated_host_reaches_nobody_until_it_is_restored() -> Result<()> {
    let lab = Lab::new("isolate")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);

    lab.isolate(&a)?;
    a.cannot_ping(b.ip())?;
    lab.restore(&a)?;
    eventually(secs(5), || a.ping(b.ip()))?;
    Ok(())
}

#[test]
fn a_partition_keeps_each_part_whole() -> Result<()> {
    let lab = Lab::new("partition")?;
    let (a, b, c) = (lab.host("a")?, lab.host("b")?, lab.host("c")?);

    lab.partition(&[&[&a, &b], &[&c]])?;
    a.ping(b.ip())?;
    a.cannot_ping(c.ip())?;
    c.cannot_ping(b.ip())?;
    lab.heal_everything()?;
    eventually(secs(5), || c.ping(b.ip()))?;
    Ok(())
}

#[test]
fn hosts_on_different_switches_cannot_be_cut_apart() -> Result<()> {
    let lab = Lab::new("switches")?;
    let outer = lab.host("outer")?;
    let home = lab.nat("home")?;
    let inner = lab.host_behind(&home, "inner")?;

    assert!(lab.cut(&outer, &inner).is_err());
    lab.cut(&outer, &home)?;
    inner.cannot_ping(outer.ip())?;
    Ok(())
}

#[test]
fn a_dropped_port_is_closed_for_its_protocol_alone() -> Result<()> {
    let lab = Lab::new("ports")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let _echo = b.echo_server(6783)?;
    let server = SocketAddr::from((b.ip(), 6783));

    b.drop_udp(6783)?;
    a.echo(server, b"tcp still passes")?;
    let capture = lab.capture(&b)?;
    let send = |host: &Host| -> Result<()> {
        let socket = host.enter(|| std::net::UdpSocket::bind("0.0.0.0:0"))??;
        socket.send_to(b"datagram", (b.ip(), 6783))?;
        Ok(())
    };
    send(&a)?;
    a.ping(b.ip())?;
    assert_eq!(capture.stop()?.udp_port(6783), 0);

    b.allow_udp(6783)?;
    let capture = lab.capture(&b)?;
    send(&a)?;
    a.ping(b.ip())?;
    assert!(capture.stop()?.udp_port(6783) > 0);

    b.block(Protocol::Tcp, 6783, &[Direction::Incoming])?;
    assert!(a.echo(server, b"x").is_err());
    b.unblock(Protocol::Tcp, 6783)?;
    a.echo(server, b"x")?;
    Ok(())
}

#[test]
fn loss_is_as_large_as_asked_for() -> Result<()> {
    let lab = Lab::new("loss")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    a.ping(b.ip())?;

    // 1,000 draws of 30 % have a standard deviation of 1.45 %, of 50 % one of 1.6 %: five of them leave one
    // failure in a million.
    lab.loss_one_way(&a, Direction::Outgoing, 30.0)?;
    let (out, back) = (arriving_percent(&lab, &a, &b)?, arriving_percent(&lab, &b, &a)?);
    assert!((62.0..78.0).contains(&out), "{out} %");
    assert_eq!(back, 100.0);

    lab.loss(&a, 50.0)?;
    let (out, back) = (arriving_percent(&lab, &a, &b)?, arriving_percent(&lab, &b, &a)?);
    assert!((42.0..58.0).contains(&out) && (42.0..58.0).contains(&back), "{out} % and {back} %");

    lab.loss(&a, 0.0)?;
    assert_eq!(arriving_percent(&lab, &a, &b)?, 100.0);
    assert!(lab.loss(&a, 101.0).is_err());
    Ok(())
}

#[test]
fn a_loss_can_be_of_one_protocol_alone() -> Result<()> {
    let lab = Lab::new("lossof")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    a.ping(b.ip())?;

    lab.loss_of(&b, Protocol::Tcp, 100.0)?;
    assert_eq!(arriving_percent(&lab, &a, &b)?, 100.0);
    lab.loss_of(&b, Protocol::Udp, 30.0)?;
    let (out, back) = (arriving_percent(&lab, &a, &b)?, arriving_percent(&lab, &b, &a)?);
    assert!((62.0..78.0).contains(&out) && (62.0..78.0).contains(&back), "{out} % and {back} %");
    assert_eq!(a.ping_with(&Ping::to(b.ip()).count(100))?.received, 100);
    Ok(())
}

#[test]
fn a_rate_limits_both_directions() -> Result<()> {
    let lab = Lab::new("rate")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let _server = b.iperf_server()?;

    lab.rate(&a, "20mbit")?;
    for measurement in [Iperf::to(b.ip()), Iperf::to(b.ip()).reverse()] {
        let rate = a.iperf(&measurement)?.bits_per_second;
        assert!((8e6..21e6).contains(&rate), "{rate} bit/s");
    }
    lab.unlimited(&a)?;
    assert!(a.iperf(&Iperf::to(b.ip()))?.bits_per_second > 1e8);
    Ok(())
}

#[test]
fn a_wire_delays_and_is_changed_and_removed_while_traffic_goes_on() -> Result<()> {
    let lab = Lab::new("delay")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    a.ping(b.ip())?;
    let pings = || a.ping_with(&Ping::to(b.ip()).count(10).every_ms(20));

    lab.wire(&a, Chaos { delay_ms: 40, jitter_ms: 20, ..Chaos::default() })?;
    let delayed = pings()?;
    let rtt = delayed.rtt.unwrap();
    assert_eq!(delayed.received, 10);
    assert!(rtt.min_ms >= 80.0 && rtt.avg_ms < 160.0, "{rtt:?}");
    assert!(a.ping(b.ip6()).is_ok());

    lab.wire(&a, Chaos { delay_ms: 1, ..Chaos::default() })?;
    assert!(pings()?.rtt.unwrap().avg_ms < 40.0);

    lab.unplug(&a)?;
    b.cannot_ping(a.ip())?;
    lab.plug(&a)?;
    eventually(secs(5), || b.ping(a.ip()))?;

    lab.unwire(&a)?;
    assert!(pings()?.rtt.unwrap().min_ms < 1.0);
    assert!(lab.wire_counts(&a).is_err());
    Ok(())
}

#[test]
fn a_wire_duplicates() -> Result<()> {
    let lab = Lab::new("duplicate")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);

    lab.wire(&a, Chaos { duplicate_percent: 100.0, ..Chaos::default() })?;
    let stats = a.ping_with(&Ping::to(b.ip()).count(10))?;
    // Both the request and each of its two answers are doubled. ping may end before the last copies arrive.
    assert_eq!(stats.received, 10);
    assert!(stats.duplicates >= 20, "{stats:?}");
    Ok(())
}

#[test]
fn a_wire_reorders_without_loss() -> Result<()> {
    const DATAGRAMS: u32 = 200;
    let lab = Lab::new("reorder")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let receiver = b.enter(|| std::net::UdpSocket::bind("0.0.0.0:5000"))??;
    receiver.set_read_timeout(Some(millis(1000)))?;
    let sender = a.enter(|| std::net::UdpSocket::bind("0.0.0.0:0"))??;
    lab.wire(&a, Chaos { reorder_percent: 30.0, reorder_ms: 10, seed: 1, ..Chaos::default() })?;
    a.ping(b.ip())?;

    for number in 0..DATAGRAMS {
        sender.send_to(&number.to_be_bytes(), (b.ip(), 5000))?;
        if number % 50 == 49 {
            std::thread::sleep(millis(2));
        }
    }
    let mut numbers = Vec::new();
    let mut buffer = [0; 4];
    for _ in 0..DATAGRAMS {
        receiver.recv_from(&mut buffer)?;
        numbers.push(u32::from_be_bytes(buffer));
    }
    assert!(!numbers.is_sorted());
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..DATAGRAMS));
    Ok(())
}

#[test]
fn a_wire_corrupts_so_that_checksums_fail_and_loses_by_its_seed() -> Result<()> {
    let lab = Lab::new("corrupt")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    a.ping(b.ip())?;
    let _echo = b.echo_server(7)?;

    lab.wire(&a, Chaos { corrupt_percent: 3.0, loss_percent: 2.0, seed: 5, ..Chaos::default() })?;
    // TCP repairs what it notices: what comes back unchanged was never damaged past a checksum.
    let payload: Vec<u8> = (0..400_000_u32).map(|byte| byte as u8).collect();
    a.echo(SocketAddr::from((b.ip(), 7)), &payload)?;
    let counts = lab.wire_counts(&a)?;
    assert!(counts.corrupted > 0 && counts.lost > 0, "{counts:?}");

    let capture = lab.capture(&b)?;
    lab.wire(&a, Chaos { corrupt_percent: 100.0, ..Chaos::default() })?;
    let sender = a.enter(|| std::net::UdpSocket::bind("0.0.0.0:0"))??;
    for _ in 0..20 {
        sender.send_to(&[0; 1000], (b.ip(), 5000))?;
    }
    eventually(millis(2000), || lab.wire_counts(&a).is_ok_and(|now| now.corrupted >= counts.corrupted + 20))?;
    let frames = capture.stop()?;
    let damaged = |frame: &Frame| frame.bytes.len() > 1000 && frame.bytes[42..].iter().any(|byte| *byte != 0);
    assert!(
        frames.count(damaged) >= 15,
        "the bit is nearly always in the payload, which is most of the frame"
    );
    Ok(())
}

#[test]
fn a_wire_carries_super_frames_cut_to_the_mtu() -> Result<()> {
    let lab = Lab::new("super")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let _server = b.iperf_server()?;
    lab.wire(&a, Chaos::default())?;

    let capture = lab.capture(&a)?;
    assert!(a.iperf(&Iperf::to(b.ip()).bytes(2_000_000))?.bits_per_second > 1e6);
    assert!(a.iperf(&Iperf::to(b.ip()).reverse().bytes(2_000_000))?.bits_per_second > 1e6);
    let longest = capture.stop()?.iter().map(|frame| frame.bytes.len()).max();
    assert_eq!(longest, Some(1514));
    Ok(())
}
