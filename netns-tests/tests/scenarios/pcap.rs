//! `mesh capture`: what it writes, read by tcpdump.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use mesh_lab::{Host, eventually};

use crate::support::{Member, READY, all_ping, chain, refused};

/// What tcpdump reads from a file, a line a frame.
fn read(host: &Host, file: &Path) -> Result<Vec<String>> {
    let text = host.cmd("tcpdump").args(["-n", "-e", "-r"]).arg(file).run()?.stdout;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Captures with these options while `from` pings `to`, until there are `count` frames.
fn captured(host: &Host, options: &[&str], count: u8, pings: &[(&Member, &Member)]) -> Result<Vec<String>> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("frames.pcap");
    let command = host.mesh_cmd(["capture", "--count", &count.to_string(), "-w"])?.arg(&file).args(options);
    let capture = command.spawn()?;
    eventually(READY, || {
        ensure!(fs::metadata(&file).is_ok_and(|file| file.len() >= 24), "not begun");
        Ok(())
    })?;
    eventually(READY, || {
        for (from, to) in pings {
            from.container.ping(to.ip)?;
        }
        let lines = read(host, &file)?;
        ensure!(lines.len() == usize::from(count), "{} frames so far", lines.len());
        Ok(())
    })?;
    drop(capture);
    read(host, &file)
}

#[test]
fn frames_that_cross_the_overlay_are_written_by_peer_and_by_container() -> Result<()> {
    let (_lab, [one, two, three]) = chain("pcap", Some("a long enough secret"))?;
    all_ping(&[&one, &two, &three])?;
    let both = [(&one, &two), (&one, &three)];
    let has =
        |lines: &[String], member: &Member| lines.iter().any(|line| line.contains(&member.ip.to_string()));
    let all = captured(&one.host, &[], 12, &both)?;
    ensure!(
        has(&all, &two) && has(&all, &three) && all.iter().any(|line| line.contains("ICMP echo reply")),
        "{all:#?}"
    );
    let of_peer = captured(&one.host, &["--peer", "h2"], 6, &both)?;
    ensure!(has(&of_peer, &two) && of_peer.iter().all(|line| line.contains(&two.mac)), "{of_peer:#?}");
    let spec = one.container.spec();
    let of_container = captured(&one.host, &["--container", &spec], 6, &both)?;
    ensure!(
        of_container
            .iter()
            .all(|line| line.contains(&one.mac) || line.contains("> ff:") || line.contains("> 33:33")),
        "{of_container:#?}"
    );

    // By a pipe, as people do, until the reader has enough.
    let shell = format!(
        "{} capture --run-dir {} | tcpdump -c 1 -nr - 2>/dev/null",
        crate::support::mesh_binary()?.display(),
        one.host.run_dir().display()
    );
    let reader = one.host.cmd("sh").args(["-c", &shell]).spawn()?;
    one.container.ping(two.ip)?;
    drop(reader);
    refused(&one.host, 4, &["capture", "--peer", "nobody", "-w", "/dev/null"])?;
    let stranger = one.host.container("stranger")?;
    refused(&one.host, 4, &["capture", "--container", &stranger.spec(), "-w", "/dev/null"])?;
    Ok(())
}
