//! What the name server says, as `dig` shows it: flags, times to live, the right kind of nothing, and what it does with
//! messages that few clients send.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use mesh_lab::eventually;

use crate::names::{RANGE, SERVER, attach, everywhere, list, network};
use crate::support::{READY, launch, refused, words};

/// Wants all of these in an answer.
fn shows(answer: &str, wanted: &[&str]) -> Result<()> {
    for words in wanted {
        ensure!(answer.contains(words), "{words:?} is not in:\n{answer}");
    }
    Ok(())
}

/// The end of a reverse name's SOA, and that of the domain's.
const SOA: &str = "IN\tSOA\tns.mesh.internal.";

#[test]
fn answers_have_the_flags_the_times_and_the_nothing_of_the_standards() -> Result<()> {
    let (_lab, members) = network("names-dig", 2, &[])?;
    let [one, two] = &members[..] else { anyhow::bail!("two members") };
    everywhere(&members, "c2.mesh.internal", &[two.address])?;
    let address = two.address;

    let found = one.dig("c2.mesh.internal A")?;
    shows(&found, &["status: NOERROR", "flags: qr aa rd ra;", "ANSWER: 1", &format!("1\tIN\tA\t{address}")])?;
    // Another type of a name that is there: nothing, and no denial (RFC 2308, section 2.2; RFC 4074).
    for kind in ["AAAA", "MX", "TXT", "HTTPS"] {
        let none = one.dig(&format!("c2.mesh.internal {kind}"))?;
        shows(&none, &["status: NOERROR", "flags: qr aa rd ra;", "ANSWER: 0", "AUTHORITY: 1", SOA])?;
    }
    let denied = one.dig("nobody.mesh.internal A")?;
    shows(
        &denied,
        &[
            "status: NXDOMAIN",
            "flags: qr aa rd ra;",
            "ANSWER: 0",
            "AUTHORITY: 1",
            "mesh.internal.\t\t1\tIN\tSOA",
        ],
    )?;
    shows(&one.dig("nobody.mesh.internal AAAA")?, &["status: NXDOMAIN", SOA])?;
    // The case of the question comes back (draft-vixie-dnsext-dns0x20).
    shows(&one.dig("C2.MesH.iNTernal A")?, &["C2.MesH.iNTernal.", &address.to_string()])?;
    // The zone itself.
    shows(&one.dig("mesh.internal SOA")?, &["ANSWER: 1", SOA])?;
    shows(&one.dig("mesh.internal NS")?, &["IN\tNS\tns.mesh.internal.", SERVER])?;
    shows(&one.dig("+noedns c2.mesh.internal ANY")?, &["HINFO", "RFC8482"])?;
    shows(&one.dig("c2.mesh.internal ANY +notcp")?, &["status: NOERROR", "HINFO"])?;
    let transfer = one.dig("mesh.internal AXFR")?;
    ensure!(transfer.contains("Transfer failed") || transfer.contains("REFUSED"), "{transfer}");
    // Pointers: of an address with a name, of one without, of another type.
    shows(&one.dig(&format!("-x {address}"))?, &["status: NOERROR", "IN\tPTR\tc2.mesh.internal."])?;
    shows(
        &one.dig("-x 10.32.255.254")?,
        &["status: NXDOMAIN", "flags: qr aa rd ra;", "in-addr.arpa.", "IN\tSOA"],
    )?;
    let reverse = address.to_string().split('.').rev().collect::<Vec<_>>().join(".");
    shows(&one.dig(&format!("{reverse}.in-addr.arpa TXT"))?, &["status: NOERROR", "ANSWER: 0", "IN\tSOA"])?;
    Ok(())
}

/// RFC 2782, for the ports that users give: with a container's name, one for the host itself, and one that is added.
#[test]
fn a_port_that_a_name_was_given_is_told_to_who_asks_for_its_service() -> Result<()> {
    let (_lab, members) = network("names-srv", 2, &[])?;
    let [one, two] = &members[..] else { anyhow::bail!("two members") };
    let container = two.host.container("w")?;
    let web = attach(&two.host, &container, &["--name", "web:80", "--name", "bare"])?;
    two.host.mesh(["dns", "add", "db:5432", "192.0.2.9", "192.0.2.8"])?;
    two.host.mesh(["dns", "add", "db:5433", "192.0.2.9"])?;
    two.host.mesh(["expose", "--name", "host:22"])?;

    let service = |name: &str, port: u16| {
        format!("{name}.mesh.internal.\t1\tIN\tSRV\t0 0 {port} {name}.mesh.internal.")
    };
    eventually(READY, || {
        shows(&one.dig("host.mesh.internal SRV")?, &["status: NOERROR", "ANSWER: 1", &service("host", 22)])
    })?;
    let found = one.dig("web.mesh.internal SRV")?;
    let address = format!("web.mesh.internal.\t1\tIN\tA\t{web}");
    shows(&found, &["flags: qr aa rd ra;", "ANSWER: 1", &service("web", 80), "ADDITIONAL: 2", &address])?;
    shows(&one.dig("db.mesh.internal SRV")?, &["ANSWER: 2", &service("db", 5432), &service("db", 5433)])?;
    // One address is one, whatever waits there; and a name without a port has no service.
    ensure!(one.addresses("db.mesh.internal")? == ["192.0.2.8", "192.0.2.9"]);
    ensure!(one.addresses("web.mesh.internal")? == [web.to_string()]);
    shows(&one.dig("bare.mesh.internal SRV")?, &["status: NOERROR", "ANSWER: 0", SOA])?;
    shows(&one.dig("nobody.mesh.internal SRV")?, &["status: NXDOMAIN", SOA])?;

    let listed = list(&one.host)?.into_iter().filter_map(|entry| Some((entry.name, entry.port?)));
    let listed: std::collections::BTreeSet<_> = listed.collect();
    let wanted = [("db", 5432), ("db", 5433), ("host", 22), ("web", 80)];
    let wanted = wanted.map(|(name, port)| (format!("{name}.mesh.internal."), port));
    ensure!(listed == wanted.into_iter().collect(), "{listed:?}");
    let names = two.host.mesh(["ps"])?.stdout;
    ensure!(
        names.contains("web.mesh.internal.") && !names.contains(":80"),
        "a port is no part of a name: {names}"
    );

    // Ports are kept across lives of the router, and taken back with the name or alone.
    two.host.mesh(["stop"])?;
    launch(&two.host, &words(["--ipam-range", RANGE, &one.host.ip().to_string()]), None)?;
    for (name, port) in [("web", 80), ("host", 22), ("db", 5432)] {
        let question = format!("{name}.mesh.internal SRV");
        eventually(READY, || shows(&one.dig(&question)?, &[&service(name, port)]))?;
    }
    two.host.mesh(["dns", "remove", "db:5432"])?;
    eventually(READY, || shows(&one.dig("db.mesh.internal SRV")?, &["ANSWER: 1", &service("db", 5433)]))?;
    two.host.mesh(["dns", "remove", "db"])?;
    eventually(READY, || shows(&one.dig("db.mesh.internal SRV")?, &["status: NXDOMAIN"]))?;
    for wrong in ["db:0", "db:65536", "db:http", ":80"] {
        refused(&two.host, 1, &["dns", "add", wrong, "192.0.2.9"])?;
    }
    Ok(())
}

#[test]
fn unusual_messages_are_answered_as_the_edns_compliance_queries_ask() -> Result<()> {
    let (_lab, members) = network("names-edns", 1, &[])?;
    let one = &members[0];
    everywhere(&members, "c1.mesh.internal", &[one.address])?;
    // The queries of ISC's ednscomp, and what each wants (RFC 6891, sections 6 and 7).
    for (options, wanted) in [
        ("+noedns", &["status: NOERROR", "IN\tSOA"][..]),
        ("+edns=0", &["status: NOERROR", "EDNS: version: 0", "IN\tSOA"]),
        ("+edns=1 +noednsnegotiation", &["status: BADVERS", "EDNS: version: 0"]),
        ("+ednsopt=100", &["status: NOERROR", "EDNS: version: 0", "IN\tSOA"]),
        ("+edns=1 +noednsnegotiation +ednsopt=100", &["status: BADVERS"]),
        ("+ednsflags=0x40", &["status: NOERROR", "EDNS: version: 0, flags:;", "IN\tSOA"]),
        ("+dnssec", &["status: NOERROR", "EDNS: version: 0", "IN\tSOA"]),
        ("+cookie +subnet=0.0.0.0/0 +expire +nsid", &["status: NOERROR", "NSID", "IN\tSOA"]),
        ("+bufsize=512 +ignore", &["status: NOERROR", "EDNS: version: 0"]),
        ("+tcp", &["status: NOERROR", "IN\tSOA"]),
        ("+tcp +keepopen +edns=0", &["status: NOERROR", "EDNS: version: 0"]),
    ] {
        let answer = one.dig(&format!("+nocookie {options} mesh.internal SOA"))?;
        shows(&answer, wanted).map_err(|error| error.context(options.to_owned()))?;
        ensure!(!answer.contains("OPT=100"), "an option that nobody knows comes back: {answer}");
    }
    let other = one.dig("+opcode=status mesh.internal SOA")?;
    ensure!(other.contains("status: NOTIMP"), "{other}");
    let chaos = one.dig("version.bind TXT CH")?;
    ensure!(chaos.contains("status: REFUSED") || chaos.contains("status: NOTIMP"), "{chaos}");
    Ok(())
}

#[test]
fn replicas_come_in_changing_order_and_what_is_too_much_for_a_datagram_comes_by_tcp() -> Result<()> {
    let (_lab, members) = network("names-many", 2, &[])?;
    let [one, two] = &members[..] else { anyhow::bail!("two members") };
    let addresses: Vec<IpAddr> = (1..=60).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    two.host.mesh(["dns", "add", "many"].into_iter().chain(texts.iter().map(String::as_str)))?;
    everywhere(&members[..1], "many.mesh.internal", &addresses)?;

    let small = one.dig("+noedns +ignore many.mesh.internal A")?;
    shows(&small, &["flags: qr aa tc rd ra;"])?;
    let whole = one.dig("+noedns many.mesh.internal A")?;
    shows(&whole, &["(TCP)", "ANSWER: 60"])?;
    shows(&one.dig("+bufsize=4096 +ignore many.mesh.internal A")?, &["ANSWER: 60"])?;

    let (a, b) = (two.host.container("r")?, one.host.container("r")?);
    let replicas = [attach(&two.host, &a, &["--name", "web"])?, attach(&one.host, &b, &["--name", "web"])?];
    everywhere(&members, "web.mesh.internal", &replicas)?;
    let mut first = std::collections::BTreeSet::new();
    eventually(READY, || -> Result<()> {
        let answer = one.dig("+short web.mesh.internal A")?;
        first.extend(answer.lines().next().map(str::to_owned));
        ensure!(first.len() == 2, "only {first:?} comes first");
        Ok(())
    })
}
