//! Forty hosts: GOALS C7, and row 49 of the fault table.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use mesh_api::ConnectionState;
use mesh_lab::{Host, Lab, Signal, eventually, secs};

use crate::support::{Member, READY, attach, connections, launch, peers, status};

/// So many.
const HOSTS: u8 = 40;

/// How long all of them may take to be joined. GOALS C7 wants 5 s; a busy machine runs forty debug binaries on two
/// processors.
const JOINED: std::time::Duration = secs(30);

/// Wants each of these hosts to know all of them and nobody else, with a connection to each.
fn is_full_mesh(hosts: &[Host]) -> Result<()> {
    for host in hosts {
        let found = status(host)?;
        let wanted = (hosts.len() as u64, hosts.len() as u64 - 1);
        let is = (found.peers, found.connections.established);
        if is != wanted {
            let waiting: Vec<_> = connections(host)?
                .into_iter()
                .filter(|one| one.state != ConnectionState::Established)
                .map(|one| (one.nickname, one.state, one.info))
                .collect();
            bail!("{} has {is:?} peers and connections, not {wanted:?}; {waiting:?}", host.label());
        }
    }
    Ok(())
}

#[test]
fn forty_hosts_started_at_once_are_joined_and_outlive_the_death_of_half() -> Result<()> {
    let lab = Lab::new("crowd")?;
    let made = Instant::now();
    let hosts = (1..=HOSTS).map(|number| lab.host(&format!("h{number}"))).collect::<Result<Vec<_>>>()?;
    lab.introduce(&hosts)?;
    println!("measured: {HOSTS} hosts made in {:.1} s", made.elapsed().as_secs_f64());

    let launched = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let launching: Vec<_> = hosts
            .iter()
            .enumerate()
            .map(|(index, host)| {
                // Everybody names the first, and its neighbour, as operators do with a list of two.
                let named = [0, index.saturating_sub(1)].map(|named| hosts[named].ip().to_string());
                let peers = if index == 0 { Vec::new() } else { named.to_vec() };
                scope.spawn(move || launch(host, &peers, None))
            })
            .collect();
        for thread in launching {
            thread.join().expect("a launch does not panic")?;
        }
        Ok(())
    })?;
    let ready = launched.elapsed().as_secs_f64();
    eventually(JOINED, || is_full_mesh(&hosts))?;
    let joined = launched.elapsed().as_secs_f64();
    println!("measured: {HOSTS} hosts: all launched after {ready:.2} s, fully joined after {joined:.2} s");

    // Frames pass from the first to the last, and from the one to the other of the middle.
    for (from, to, numbers) in [(0, 39, [1, 2]), (19, 20, [3, 4])] {
        let ends = [from, to].map(|index: usize| &hosts[index]);
        let containers = [ends[0].container("c")?, ends[1].container("c")?];
        for ((host, container), number) in ends.iter().zip(&containers).zip(numbers) {
            attach(host, container, &[&format!("10.32.0.{number}/24")])?;
        }
        eventually(READY, || containers[0].ping(format!("10.32.0.{}", numbers[1])))?;
    }

    let (dead, alive) = hosts.split_at(usize::from(HOSTS) / 2);
    dead.iter().try_for_each(|host| host.kill_router(Signal::KILL))?;
    let died = Instant::now();
    eventually(JOINED, || is_full_mesh(alive))?;
    println!(
        "measured: the others have settled {:.2} s after {} died",
        died.elapsed().as_secs_f64(),
        dead.len()
    );
    ensure!(peers(&alive[0])?.len() == alive.len(), "{:?}", peers(&alive[0])?.len());
    Ok(())
}

/// C2, beside the above: what one host needs.
#[test]
fn from_launch_to_the_first_ping_it_takes_a_moment() -> Result<()> {
    let lab = Lab::new("first")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let one = Member::launch(&h1, 1, &[], None)?;
    let start = Instant::now();
    let two = Member::launch(&h2, 2, &[h1.ip().to_string()], None)?;
    eventually(READY, || two.container.ping(one.ip))?;
    println!("measured: from launch to the first ping {} ms", start.elapsed().as_millis());
    Ok(())
}
