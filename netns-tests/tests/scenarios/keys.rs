//! The keys of what seals between kernels: renewed under way, and put back when somebody takes them.

use anyhow::{Context, Result, ensure};
use mesh_lab::{Direction, Host, Lab, Protocol, eventually, secs};

use crate::heartbeat::Heartbeat;
use crate::support::{Member, READY, all_connected, all_ping, connections, words};
use crate::vxlan::{SEALED_PORT, SECRET, Sealer, kernels_carry, sealer};

/// The UDP port of sleeve.
const SLEEVE_PORT: u16 = 6783;

/// How often the keys are renewed beside a heartbeat.
const RENEWALS: u32 = 3;

/// What somebody may do to the keys of a host.
pub(crate) fn takings(host: &Host, sealer: Sealer) -> Result<Vec<Vec<String>>> {
    let device = sealer.device();
    Ok(match sealer {
        Sealer::Wireguard => {
            let peers = host.run(["wg", "show", device, "peers"])?.stdout;
            let peer = peers.lines().next().context("WireGuard has no peer")?;
            vec![
                words(["wg", "set", device, "peer", peer, "remove"]),
                words(["wg", "set", device, "listen-port", "6799"]),
            ]
        }
        Sealer::Esp => {
            vec![words(["ip", "xfrm", "state", "flush"]), words(["ip", "xfrm", "policy", "flush"])]
        }
    })
}

/// Wants the kernel to have all that it seals and opens with.
pub(crate) fn has_keys(host: &Host, sealer: Sealer) -> Result<()> {
    match sealer {
        Sealer::Wireguard => {
            let told = host.run(["wg", "show", sealer.device(), "dump"])?.stdout;
            let port = format!("\t{SEALED_PORT}\t");
            ensure!(told.contains("/32") && told.contains(&port), "{told}");
        }
        Sealer::Esp => {
            let [states, policies] =
                ["state", "policy"].map(|of| host.run(["ip", "xfrm", of]).map(|told| told.stdout));
            let (states, policies) = (states?, policies?);
            ensure!(states.matches("aead rfc4106").count() >= 2, "{states}");
            ensure!(policies.contains("dir out") && policies.contains("dir in"), "{policies}");
        }
    }
    Ok(())
}

/// What a host seals with: WireGuard's preshared keys, or the parameter indexes of ESP, of which each key has another.
fn keys(host: &Host, sealer: Sealer) -> Result<String> {
    let told = match sealer {
        Sealer::Wireguard => host.run(["wg", "show", sealer.device(), "preshared-keys"]),
        Sealer::Esp => host.run(["ip", "xfrm", "policy"]),
    };
    Ok(told?.stdout)
}

/// When WireGuard has last agreed on keys with its peer, in seconds since the epoch.
fn last_handshake(host: &Host) -> Result<String> {
    Ok(host.run(["wg", "show", Sealer::Wireguard.device(), "latest-handshakes"])?.stdout)
}

#[test]
fn keys_are_renewed_while_frames_pass_without_a_loss() -> Result<()> {
    let lab = Lab::new("renewed")?;
    let (h1, h2) = (lab.host("h1")?, lab.host("h2")?);
    let Some(sealer) = sealer(&h1) else { return Ok(()) };
    let one = Member::launch(&h1, 1, &[], Some(SECRET))?;
    let two = Member::launch(&h2, 2, &words([&h1.ip().to_string()]), Some(SECRET))?;
    all_connected(&[&h1, &h2])?;
    all_ping(&[&one, &two])?;
    eventually(READY, || kernels_carry(&[&one, &two]))?;
    let heartbeat = Heartbeat::beating(&one.container, &two)?;
    for _ in 0..RENEWALS {
        let before = [keys(&h1, sealer)?, keys(&h2, sealer)?];
        // A link of user space that has fallen silent gets fresh keys, and so does the kernel, whose path goes on.
        h2.block(Protocol::Udp, SLEEVE_PORT, &Direction::BOTH)?;
        eventually(READY, || {
            let now = [keys(&h1, sealer)?, keys(&h2, sealer)?];
            ensure!(now.iter().zip(&before).all(|(now, before)| now != before), "the keys are the same");
            Ok(())
        })?;
        h2.unblock(Protocol::Udp, SLEEVE_PORT)?;
        eventually(READY, || {
            let is_answered =
                |host| Ok::<_, anyhow::Error>(connections(host)?.iter().all(|one| one.rtt_ms.is_some()));
            ensure!(is_answered(&h1)? && is_answered(&h2)?, "user space has no way yet");
            kernels_carry(&[&one, &two])
        })?;
    }
    if sealer == Sealer::Wireguard {
        // It takes what it was told into its keys two minutes after the last time.
        let before = last_handshake(&h1)?;
        eventually(secs(150), || {
            ensure!(last_handshake(&h1)? != before, "no handshake yet");
            Ok(())
        })?;
    }
    kernels_carry(&[&one, &two])?;
    let tally = heartbeat.tally();
    println!("measured: {tally:?}, the longest silence {:.3} s", heartbeat.longest_silence());
    ensure!((tally.lost, tally.copies) == (0, 0), "{tally:?}");
    Ok(())
}
