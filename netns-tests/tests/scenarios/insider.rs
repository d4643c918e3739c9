//! A peer that knows the secret and speaks the control protocol, and then says what no router would: row 52 of the fault
//! table.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use mesh_crypto::{Identity, Rng};
use mesh_lab::{Host, Ping, eventually, secs};
use mesh_wire::control::{Channel, Farewell, SignedRecord};

use crate::metrics::{get, sample};
use crate::player::{ANSWERS_WITHIN, Player, gossip, record};
use crate::support::{all_connected, all_ping, chain, have_one_view, peers};

const PASSWORD: &str = "a secret that the insider knows";

/// How often the router of `host` has counted an event.
fn counted(host: &Host, event: &str) -> Result<f64> {
    let (_, text) = get(host, "/metrics", &[])?;
    sample(&text, &format!("mesh_control_events_total{{event=\"{event}\"}}"))
}

/// Fault table, row 52: whoever breaks the protocol is thrown out and told why, records that prove nothing change nothing,
/// and nobody else notices.
#[test]
fn malformed_gossip_of_a_peer_ends_its_session_and_changes_nothing_else() -> Result<()> {
    let (lab, [one, two]) = chain("insider", Some(PASSWORD))?;
    let eve = lab.host("eve")?;
    all_ping(&[&one, &two])?;
    let target = SocketAddr::from((one.host.ip(), 6783));
    let mut rng = Rng::from_seed([7; 32]);
    let identity = Identity::generate(&mut rng);
    let stranger = Identity::generate(&mut rng);
    let forged = SignedRecord { body: record(&stranger, "nobody", 1)?.encode(), signature: [9; 64] }.encode();
    let whole = gossip(Channel::TOPOLOGY, vec![forged.clone()]);
    let cut = whole[..whole.len() - 5].to_vec();
    let endless = [&whole[..1], &[0x9f; 64]].concat();
    let behind = [whole.as_slice(), b"more"].concat();

    let count = u32::try_from(ANSWERS_WITHIN.as_millis() / 50)?;
    let (outcome, stats) = std::thread::scope(|scope| -> Result<_> {
        let insider = scope.spawn(|| {
            eve.enter(|| -> Result<()> {
                let player = Player::ordinary(&identity, PASSWORD, "insider")?;
                for malformed in [&cut, &endless, &behind, &Vec::new()] {
                    let mut insider = player.dial(target, &mut rng)?;
                    insider.say(malformed)?;
                    let reason = insider.is_thrown_out()?;
                    ensure!(reason == Farewell::Violation, "{reason:?} for {malformed:?}");
                }
                // Records that prove nothing: the session, on which others' are handed on, stays.
                let mut insider = player.dial(target, &mut rng)?;
                insider.say(&gossip(Channel::TOPOLOGY, vec![forged, vec![0; 40], Vec::new()]))?;
                insider.is_read(77)?;
                Ok(())
            })
        });
        let stats = one.container.ping_with(&Ping::to(two.ip).count(count).every_ms(50));
        Ok((insider.join().expect("an insider does not panic")?, stats?))
    })?;
    outcome?;
    ensure!(stats.loss_percent() <= 1.0 && stats.duplicates == 0, "{stats:?}");
    ensure!(counted(&one.host, "record_forged")? >= 1.0 && counted(&one.host, "record_refused")? >= 2.0);
    let log = one.host.router_log();
    ensure!(log.contains("disconnected") && log.contains("malformed"), "the log does not say why:\n{log}");
    // What the insider leaves behind is forgotten; the two have one view, without anybody that it made up.
    eventually(secs(20), || {
        ensure!(peers(&one.host)?.len() == 2, "{:?}", peers(&one.host)?);
        have_one_view(&[&one.host, &two.host])
    })?;
    all_connected(&[&one.host, &two.host])?;
    all_ping(&[&one, &two])
}
