//! Kernels that lack what a router would like to use, and devices that it cannot have again: row 46 of the fault table. Frames
//! go through user space then, `status` says why, and where there is a password none leaves in clear.

use anyhow::{Context, Result, ensure};
use mesh_api::{ConnectionDocument, Datapath, Overlay};
use mesh_lab::{Host, Lab, eventually, secs};

use crate::never_in_clear::{PATTERN, talk};
use crate::support::{Member, READY, all_connected, all_ping, chain, connections, launch, status, words};
use crate::vxlan::{SECRET, kernel_path, kernels_carry, sealer};

/// How often a name is snatched from under a router that makes its device again at once.
const SNATCHES_MAX: u32 = 50;

/// Whether this kernel has devices of VXLAN.
fn has_vxlan() -> Result<bool> {
    let lab = Lab::new("probe")?;
    let probe = ["ip", "link", "add", "probe0", "type", "vxlan", "id", "1", "dstport", "0"];
    Ok(lab.host("h1")?.run(probe).is_ok())
}

fn link(member: &Member) -> Result<ConnectionDocument> {
    connections(&member.host)?.into_iter().next().context("a connection")
}

/// Wants user space to carry, and both hosts to say why the kernel does not.
fn user_space_carries(members: &[&Member], why: &str) -> Result<()> {
    for member in members {
        let link = link(member)?;
        let said = link.info.as_deref().unwrap_or_default();
        ensure!(link.overlay == Some(Overlay::Sleeve) && said.contains(why), "{link:?}");
        ensure!(status(&member.host)?.router.datapath == Datapath::Sleeve, "status tells of no change");
    }
    Ok(())
}

/// Study, row 20. Asked only where the module is missing, as by `cargo xtask vm --without vxlan kernels::`.
#[test]
fn a_kernel_without_vxlan_leaves_frames_to_user_space_and_status_says_why() -> Result<()> {
    if has_vxlan()? {
        println!("not asked: this kernel has VXLAN");
        return Ok(());
    }
    for (datapath, password) in
        [("auto", None), ("vxlan", None), ("auto", Some(SECRET)), ("vxlan", Some(SECRET))]
    {
        let lab = Lab::new("novxlan")?;
        let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
        let capture = lab.capture_wire(&h1)?;
        let options = words(["--datapath", datapath]);
        let one = Member::launch(&h1, 1, &options, password)?;
        let two = Member::launch(&h2, 2, &[options, words([&h1.ip().to_string()])].concat(), password)?;
        all_connected(&[&h1, &h2])?;
        all_ping(&[&one, &two])?;
        eventually(READY, || user_space_carries(&[&one, &two], "VXLAN"))?;
        println!("measured: {datapath}: {:?}", link(&one)?.info);
        ensure!(h1.router_log().contains("user space carries all frames"), "the log says nothing of it");
        talk(&one, &two)?;
        let seen = capture.stop()?.contains(PATTERN);
        ensure!(seen == password.is_none(), "{datapath}: in clear {seen}");
    }
    Ok(())
}

/// Puts an interface of another kind in the place of a router's device.
fn snatch(host: &Host, device: &str) -> Result<()> {
    let batch = format!("link delete {device}\nlink add {device} type bridge\n");
    for _ in 0..SNATCHES_MAX {
        // The router may be quicker, and has its own again.
        drop(host.cmd("ip").args(["-batch", "-"]).stdin(batch.clone()).outcome()?);
        let links = host.run(["ip", "-o", "link", "show", "type", "bridge"])?.stdout;
        if links.contains(&format!(" {device}:")) {
            return Ok(());
        }
    }
    anyhow::bail!("the router was always quicker")
}

#[test]
fn a_device_that_cannot_be_made_again_leaves_frames_to_user_space_until_it_can() -> Result<()> {
    if kernel_path() != Overlay::Vxlan || !has_vxlan()? {
        println!("not asked: the kernel path is another, or none");
        return Ok(());
    }
    for (device, password) in [("mesh0-vx", None), ("mesh0-vxs", Some(SECRET))] {
        let lab = Lab::new("snatched")?;
        if password.is_some() && sealer(&lab.host("probe")?).is_none() {
            continue;
        }
        let (lab, [one, two]) = chain("snatched", password)?;
        all_ping(&[&one, &two])?;
        eventually(READY, || kernels_carry(&[&one, &two]))?;
        let capture = lab.capture_wire(&one.host)?;
        snatch(&one.host, device)?;
        eventually(READY, || one.container.ping(two.ip))?;
        eventually(READY, || {
            let link = link(&one)?;
            let said = link.info.clone().unwrap_or_default();
            ensure!(link.overlay == Some(Overlay::Sleeve) && said.contains(device), "{link:?}");
            Ok(())
        })?;
        println!("measured: {device}: {:?}", link(&one)?.info);
        talk(&one, &two)?;
        all_ping(&[&one, &two])?;
        let seen = capture.stop()?.contains(PATTERN);
        ensure!(seen == password.is_none(), "{device}: in clear {seen}");

        one.host.run(["ip", "link", "delete", device])?;
        eventually(secs(30), || kernels_carry(&[&one, &two]))?;
        all_ping(&[&one, &two])?;
    }
    Ok(())
}

/// The user has another use for it; the next life asks again.
#[test]
fn a_device_whose_name_is_taken_at_the_launch_is_done_without() -> Result<()> {
    if kernel_path() != Overlay::Vxlan || !has_vxlan()? {
        println!("not asked: the kernel path is another, or none");
        return Ok(());
    }
    for datapath in ["auto", "vxlan"] {
        let lab = Lab::new("taken")?;
        let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
        h1.run(["ip", "link", "add", "mesh0-vx", "type", "bridge"])?;
        let one = Member::launch(&h1, 1, &words(["--datapath", datapath]), None)?;
        let two = Member::launch(&h2, 2, &words([&h1.ip().to_string()]), None)?;
        all_connected(&[&h1, &h2])?;
        all_ping(&[&one, &two])?;
        eventually(READY, || {
            let link = link(&one)?;
            let said = link.info.clone().unwrap_or_default();
            ensure!(link.overlay == Some(Overlay::Sleeve) && said.contains("mesh0-vx"), "{link:?}");
            Ok(())
        })?;
        println!("measured: {datapath}: {:?}", link(&one)?.info);
        h1.mesh(["stop"])?;
        h1.run(["ip", "link", "delete", "mesh0-vx"])?;
        launch(&h1, &words(["--datapath", datapath, &h2.ip().to_string()]), None)?;
        eventually(READY, || kernels_carry(&[&one, &two]))?;
    }
    Ok(())
}
