//! What is left on a host when the router has been reset: nothing.

use std::fs;

use anyhow::{Result, ensure};
use mesh_api::ResetDocument;
use mesh_lab::{Container, Host, Lab, NetworkState, Signal};

use crate::support::{all_connected, attach, launch};

#[test]
fn reset_leaves_the_host_as_it_was_before_the_first_launch() -> Result<()> {
    leaves_everything_as_it_was("reset", |host| {
        let reset: ResetDocument = host.mesh(["reset", "--force", "-o", "json"])?.json()?;
        ensure!(reset.pid.is_some() && !reset.removed.is_empty(), "{reset:?}");
        Ok(())
    })
}

#[test]
fn reset_after_a_kill_leaves_the_host_as_it_was_before_the_first_launch() -> Result<()> {
    leaves_everything_as_it_was("killed", |host| {
        host.kill_router(Signal::KILL)?;
        let reset: ResetDocument = host.mesh(["reset", "--force", "-o", "json"])?.json()?;
        ensure!(reset.pid.is_none() && !reset.removed.is_empty(), "{reset:?}");
        Ok(())
    })
}

#[test]
fn reset_after_stop_leaves_the_host_as_it_was_before_the_first_launch() -> Result<()> {
    leaves_everything_as_it_was("stopped", |host| {
        host.mesh(["stop"])?;
        host.mesh(["reset", "--force"])?;
        Ok(())
    })
}

#[test]
fn reset_where_nothing_is_changes_nothing() -> Result<()> {
    let lab = Lab::new("nothing")?;
    let host = lab.host("h1")?;
    let before = Picture::of(&host, &[])?;
    host.mesh(["reset", "--force"])?;
    before.must_be_the_same(&host, &[])
}

#[test]
fn reset_leaves_alone_what_is_not_the_routers() -> Result<()> {
    let lab = Lab::new("others")?;
    let host = lab.host("h1")?;
    let container = host.container("c")?;
    // Names that look like the router's, on interfaces in use; an interface of the container's own; and files in both
    // directories.
    host.run(["ip", "link", "add", "mv0123456789ab", "type", "veth", "peer", "name", "other"])?;
    host.run(["ip", "link", "add", "mesh1", "type", "bridge"])?;
    host.run(["ip", "link", "set", "mv0123456789ab", "up"])?;
    container.run(["ip", "link", "add", "eth7", "type", "bridge"])?;
    for directory in [host.run_dir(), host.state_dir()] {
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("notes"), "mine")?;
    }
    let before = Picture::of(&host, &[&container])?;
    launch(&host, &[], None)?;
    attach(&host, &container, &["10.32.0.1/24"])?;

    host.mesh(["reset", "--force"])?;

    before.must_be_the_same(&host, &[&container])
}

#[test]
fn a_router_launched_after_a_reset_is_a_new_peer() -> Result<()> {
    let lab = Lab::new("new")?;
    let host = lab.host("h1")?;
    let first = launch(&host, &[], None)?;
    host.mesh(["reset", "--force"])?;
    let second = launch(&host, &[], None)?;
    ensure!(first.peer_id != second.peer_id, "both are {}", first.peer_id);
    Ok(())
}

/// Two hosts with a router each; two containers on the one that is reset, one of them attached with several addresses.
fn leaves_everything_as_it_was(title: &str, reset: impl Fn(&Host) -> Result<()>) -> Result<()> {
    let lab = Lab::new(title)?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let (one, two) = (h1.container("c")?, h1.container("d")?);
    let before = Picture::of(&h1, &[&one, &two])?;
    launch(&h2, &[], None)?;
    // The second round shows that the first has left nothing that disturbs, either.
    for _ in 0..2 {
        launch(&h1, &[h2.ip().to_string()], None)?;
        attach(&h1, &one, &["10.32.0.1/24", "10.33.0.1/24", "fd32::1/64"])?;
        attach(&h1, &two, &["10.32.0.2/24"])?;
        all_connected(&[&h1, &h2])?;
        two.ping("10.32.0.1")?;

        reset(&h1)?;

        before.must_be_the_same(&h1, &[&one, &two])?;
        h1.mesh_fails(3, ["status"])?;
    }
    Ok(())
}

/// A host's network, its containers', and the files in the router's directories.
struct Picture {
    host: NetworkState,
    containers: Vec<NetworkState>,
    files: Vec<String>,
}

impl Picture {
    fn of(host: &Host, containers: &[&Container]) -> Result<Self> {
        let containers =
            containers.iter().map(|container| container.network_state()).collect::<Result<_>>()?;
        let mut files = Vec::new();
        for directory in [host.run_dir(), host.state_dir()].iter().filter(|directory| directory.exists()) {
            files.push(directory.display().to_string());
            for entry in fs::read_dir(directory)? {
                files.push(entry?.path().display().to_string());
            }
        }
        files.sort_unstable();
        Ok(Self { host: host.network_state()?, containers, files })
    }

    fn must_be_the_same(&self, host: &Host, containers: &[&Container]) -> Result<()> {
        let later = Self::of(host, containers)?;
        self.host.must_equal(&later.host)?;
        for (before, after) in self.containers.iter().zip(&later.containers) {
            before.must_equal(after)?;
        }
        ensure!(self.files == later.files, "files were {:?}, are {:?}", self.files, later.files);
        Ok(())
    }
}
