//! What a router tells over HTTP: metrics that Prometheus takes, and the documents of `mesh status`.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Host, Lab, eventually, millis, secs};
use serde_json::Value;

use crate::hostile::Footprint;
use crate::port_security::bytes;
use crate::support::{IFNAME, READY, all_ping, chain, chain_by_sleeve, launch, refused, status, words};

const BASE: &str = "http://127.0.0.1:6782";

/// What a host's router answers: the status of HTTP, and the body.
pub(crate) fn get(host: &Host, path: &str, options: &[&str]) -> Result<(u16, String)> {
    let url = format!("{BASE}{path}");
    let mut arguments = vec!["curl", "-s", "--max-time", "10", "-w", "\n%{http_code}", &url];
    arguments.extend(options);
    let stdout = host.run(arguments)?.stdout;
    let (body, code) = stdout.rsplit_once('\n').context("curl writes the status last")?;
    Ok((code.trim().parse()?, body.to_owned()))
}

/// The value of the sample that a line of the metrics begins with.
pub(crate) fn sample(metrics: &str, name: &str) -> Result<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name} in\n{metrics}"))?.parse()?)
}

#[test]
fn prometheus_takes_the_metrics_and_they_tell_of_what_has_passed() -> Result<()> {
    let (_lab, [one, two]) = chain("metrics", Some("a long enough secret"))?;
    all_ping(&[&one, &two])?;
    let host = &one.host;
    for (name, status) in [("mesh.internal", "NOERROR"), ("nobody.mesh.internal", "NXDOMAIN")] {
        let answer = one.container.run(["dig", "+time=2", "@169.254.32.53", name, "SOA"])?.stdout;
        ensure!(answer.contains(status), "{answer}");
    }
    let (code, text) = get(host, "/metrics", &[])?;
    ensure!(code == 200, "{text}");
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), &text)?;
    let checked =
        host.cmd("sh").args(["-c", "promtool check metrics < \"$0\""]).arg(file.path()).outcome()?;
    ensure!(checked.code() == Some(0) && checked.stderr.trim().is_empty(), "promtool: {checked:?}");

    let accept = ["-H", "Accept: application/openmetrics-text;version=1.0.0"];
    let (code, open) = get(host, "/metrics", &accept)?;
    ensure!(code == 200 && open.ends_with("\n# EOF\n") && open.matches("# EOF").count() == 1, "{open}");
    let established = "mesh_connections{state=\"established\",overlay=\"sleeve\",encrypted=\"yes\"}";
    let metrics = || get(host, "/metrics", &accept).map(|(_, text)| text);
    eventually(READY, || {
        let text = metrics()?;
        ensure!(sample(&text, established)? == 1.0, "{text}");
        ensure!(sample(&text, "mesh_peers")? == 2.0, "{text}");
        for result in ["answered", "nxdomain"] {
            let queries = format!("mesh_dns_queries_total{{result=\"{result}\"}}");
            ensure!(sample(&text, &queries)? >= 1.0, "{text}");
        }
        ensure!(sample(&text, "mesh_dns_query_seconds_count")? >= 2.0, "{text}");
        ensure!(sample(&text, "mesh_frames_total{path=\"sleeve\",direction=\"out\"}")? > 0.0, "{text}");
        ensure!(
            sample(&text, "mesh_gossip_bytes_total{channel=\"topology\",direction=\"in\"}")? > 0.0,
            "{text}"
        );
        let rtt = format!("mesh_rtt_seconds{{peer=\"{}\",nickname=\"h2\"}}", two.peer_id);
        ensure!(sample(&text, &rtt)? > 0.0, "{text}");
        for direction in ["in", "out"] {
            let labels = format!("peer=\"{}\",nickname=\"h2\",direction=\"{direction}\"", two.peer_id);
            ensure!(sample(&text, &format!("mesh_neighbour_frames_total{{{labels}}}"))? > 0.0, "{text}");
        }
        Ok(())
    })?;
    // Each family is described once, and each sample belongs to the family above it.
    let mut families = BTreeSet::new();
    let mut family = "";
    for line in open.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            family = described.split(' ').next().unwrap_or_default();
            ensure!(families.insert(family), "{family} is described twice");
        } else if !line.starts_with('#') {
            ensure!(line.starts_with(family), "{line} stands below {family}");
        }
    }
    two.host.mesh(["stop"])?;
    eventually(READY, || {
        let text = metrics()?;
        ensure!(sample(&text, "mesh_connection_terminations_total")? >= 1.0, "{text}");
        Ok(())
    })
}

#[test]
fn the_documents_are_those_of_the_command_line() -> Result<()> {
    let (_lab, [one, _two]) = chain("jsonhttp", None)?;
    for view in ["", "/peers", "/connections", "/targets", "/routes", "/macs", "/ipam"] {
        let (code, body) = get(&one.host, &format!("/status{view}"), &[])?;
        let over_http: Value = serde_json::from_str(&body).with_context(|| format!("{view}: {body}"))?;
        let arguments = ["status", view.trim_start_matches('/'), "-o", "json"];
        let own: Value = one.host.mesh(arguments.into_iter().filter(|word| !word.is_empty()))?.json()?;
        let keys = |document: &Value| -> Vec<String> {
            let object = document.get(0).unwrap_or(document);
            object.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default()
        };
        ensure!(code == 200 && keys(&over_http) == keys(&own), "{view}: {body}");
    }
    ensure!(get(&one.host, "/health", &[])? == (200, "ok\n".to_owned()), "healthy");
    Ok(())
}

#[test]
fn whoever_asks_badly_or_slowly_is_turned_away_and_disturbs_nobody() -> Result<()> {
    let lab = Lab::new("badhttp")?;
    let host = lab.host("h1")?;
    launch(&host, &[], None)?;
    let long = format!("X: {}", "x".repeat(9000));
    for (path, options, wanted) in [
        ("/nothing", &[][..], 404),
        ("/debug/pprof/", &[], 404),
        ("/status/everything", &[], 404),
        ("/status/../metrics", &["--path-as-is"], 404),
        ("/metrics", &["-X", "POST"], 405),
        ("/metrics", &["-X", "DELETE"], 405),
        ("/metrics", &["-H", &long], 431),
        ("/metrics", &["-H", "Host: rebound.example.com"], 403),
        ("/metrics", &["-H", "Origin: http://example.com"], 403),
        ("/status", &["-H", "Origin: null"], 403),
        ("/status", &["-H", "Origin: http://127.0.0.1:6782"], 200),
        ("/metrics?x=1", &[], 200),
        ("/metrics", &["-I"], 200),
    ] {
        let (code, body) = get(&host, path, options)?;
        ensure!(code == wanted, "{path} {options:?}: {code} {body}");
    }
    // Nobody reads a body: a client that has a gigabyte to tell has its answer after the head.
    let before = Footprint::of(&host)?;
    let long = "head -c 1G /dev/zero | curl -s -m 60 -o /dev/null -w '%{http_code}' -T - -H Expect: http://127.0.0.1:6782/status || true";
    let code = host.cmd("bash").args(["-c", long]).deadline(secs(90)).run()?.stdout;
    // When the router closes, the rest of the body may be answered by a reset before the client has read.
    ensure!(["405", "000"].contains(&code.trim()), "{code}");
    let after = Footprint::of(&host)?;
    ensure!(after.resident_kib < before.resident_kib + 8 * 1024, "{before:?} has become {after:?}");
    Ok(())
}

#[test]
fn ten_thousand_clients_that_say_nothing_are_cut_off_and_cost_little() -> Result<()> {
    const CLIENTS: usize = 10_000;
    /// Of the control socket, where nobody but root is let in: one more would wait for the backlog.
    const OF_ROOT: usize = 200;

    let lab = Lab::new("crowdhttp")?;
    let host = lab.host("h1")?;
    launch(&host, &[], None)?;
    let before = Footprint::of(&host)?;
    let page: SocketAddr = "127.0.0.1:6782".parse()?;
    let held = host.enter(|| {
        let client = |_| TcpStream::connect_timeout(&page, millis(1)).ok();
        (0..CLIENTS).filter_map(client).collect::<Vec<_>>()
    })?;
    let socket = host.run_dir().join("mesh.sock");
    let root = (0..OF_ROOT).map(|_| UnixStream::connect(&socket)).collect::<Result<Vec<_>, _>>()?;
    println!("measured: of {CLIENTS} clients of the page {} were let in", held.len());
    ensure!(held.len() > 64, "more than are served at once: {}", held.len());
    let during = Footprint::of(&host)?;
    ensure!(
        during.descriptors < before.descriptors + 2 * 64 + 16
            && during.resident_kib < before.resident_kib + 16 * 1024,
        "{before:?} has become {during:?}"
    );
    // They are cut off though they stay, and whoever has something to say is heard.
    eventually(secs(100), || status(&host).map(drop))?;
    eventually(secs(100), || {
        let (code, body) = get(&host, "/health", &[])?;
        ensure!(code == 200, "{body}");
        Ok(())
    })?;
    drop((held, root));
    eventually(secs(30), || {
        let after = Footprint::of(&host)?;
        ensure!(after.descriptors <= before.descriptors + 4, "{before:?} has become {after:?}");
        Ok(())
    })
}

#[test]
fn it_can_be_switched_off_and_an_address_that_is_taken_is_refused() -> Result<()> {
    let lab = Lab::new("nohttp")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    launch(&h1, &words(["--http", "none"]), None)?;
    ensure!(h1.run(["ss", "-Htln", "sport = :6782"])?.stdout.is_empty(), "it listens");
    let taken = h2.cmd("socat").args(["TCP-LISTEN:6782,fork", "EXEC:true"]).spawn()?;
    eventually(READY, || {
        ensure!(!h2.run(["ss", "-Htln", "sport = :6782"])?.stdout.is_empty(), "not yet");
        Ok(())
    })?;
    let failure = refused(&h2, 1, &["launch", "--http", "127.0.0.1:6782"])?;
    ensure!(failure.message.contains("127.0.0.1:6782"), "{failure:?}");
    // The default is no reason not to start.
    launch(&h2, &[], None)?;
    ensure!(h2.router_log().contains("there are no metrics"), "{}", h2.router_log());
    drop(taken);
    Ok(())
}

/// Whatever goes no further has a reason, and each reason is where people look: all in the metrics, what happened in `status`.
#[test]
fn each_reason_of_a_drop_is_in_the_metrics_and_what_was_dropped_in_status() -> Result<()> {
    let (_lab, [one, two]) = chain_by_sleeve("reasons", None)?;
    all_ping(&[&one, &two])?;
    // At the container's port, twice, and at the door of the sleeve.
    let stranger = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 0x77], &[8, 0], &[0; 46]].concat();
    one.container.send_frame(IFNAME, &stranger)?;
    one.container
        .send_frame(IFNAME, &[&[0xff; 6][..], &bytes(&one.mac)?, &[0x88, 0xb5], &[0; 46]].concat())?;
    let door = SocketAddr::from((one.host.ip(), 6783));
    two.host.enter(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"no packet of ours", door).map(drop))??;
    let wanted = ["source-mac", "ether-type", "not_sleeve"];
    let happened = eventually(READY, || -> Result<_> {
        let happened = status(&one.host)?.traffic.drops;
        ensure!(wanted.iter().all(|reason| happened.contains_key(*reason)), "{happened:?}");
        Ok(happened)
    })?;
    println!("measured: {happened:?}");
    let text = one.host.mesh(["status"])?.stdout;
    let metrics = get(&one.host, "/metrics", &[])?.1;
    for (reason, count) in &happened {
        ensure!(text.contains(reason.as_str()), "{reason} is not in {text}");
        let counted = sample(&metrics, &format!("mesh_drops_total{{reason=\"{reason}\"}}"))?;
        ensure!(counted >= *count as f64, "{reason}: {counted} in the metrics, {count} in status");
    }
    // Of all others there is a line that says that they have not happened, so that a rule of Prometheus can name them.
    let known = metrics.lines().filter(|line| line.starts_with("mesh_drops_total{")).count();
    ensure!(known >= 40 && known > happened.len(), "{known} reasons");
    sample(&metrics, "mesh_dataplane_events_total{event=\"host-group\"}")?;
    for reason in ["no_route", "replayed", "inject_failed", "tunnel-source", "unsealed", "node-local"] {
        sample(&metrics, &format!("mesh_drops_total{{reason=\"{reason}\"}}"))?;
    }
    Ok(())
}
