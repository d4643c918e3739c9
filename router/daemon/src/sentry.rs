//! Says in the log when somebody takes what is another's: a MAC for which several fight, and frames of containers that claim
//! what they were not given.
//!
//! Owns how often that is looked for, and how often it is told. It stops nobody: the table of MACs and the firewall have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_dataplane::Sightings;
use mesh_dataplane::engine::{MacEntry, Owner};
use mesh_hostnet::{Firewall, Wall};
use mesh_wire::MacAddr;
use tokio::time::{Instant, sleep};
use tracing::warn;

const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A container may go on for ever. After a line about a reason, the next one about it comes so much later.
const SILENCE: Duration = Duration::from_secs(600);

/// MACs that one look tells of; `mesh status macs` shows all.
const MACS_TOLD_MAX: usize = 8;

/// What no container does by mistake. What else the firewall drops is counted, and told when somebody asks.
const CLAIMS: [Wall; 6] =
    [Wall::SourceMac, Wall::ArpSender, Wall::Neighbour, Wall::RouterAdvert, Wall::DhcpAnswer, Wall::MacMoved];

/// Looks until the future is dropped.
pub(crate) async fn watch(firewall: Firewall, sightings: Sightings) {
    let mut told = Told::default();
    loop {
        sleep(LOOK_INTERVAL).await;
        for (wall, frames) in told.claims(&firewall.drops(), Instant::now()) {
            warn!(
                reason = wall.name(),
                frames, "frames that claim what is another's were dropped: somebody in a container takes it"
            );
        }
        for MacEntry { mac, owner, .. } in told.fights(sightings.frozen()) {
            let at = match owner {
                Owner::Local => "this host".to_owned(),
                Owner::Peer(peer) => peer.to_string(),
            };
            warn!(%mac, at, "several hosts show one MAC in turn: it stays where it is for some minutes");
        }
    }
}

/// What was told already.
#[derive(Debug, Default)]
struct Told {
    claims: BTreeMap<Wall, (Instant, u64)>,
    frozen: BTreeSet<MacAddr>,
}

impl Told {
    /// Of which reasons it is time to tell, and how many frames were dropped for them since it was told last.
    fn claims(&mut self, drops: &BTreeMap<Wall, u64>, now: Instant) -> Vec<(Wall, u64)> {
        let mut due = Vec::new();
        for wall in CLAIMS {
            let count = drops.get(&wall).copied().unwrap_or(0);
            let before = self.claims.get(&wall);
            let new = count.saturating_sub(before.map_or(0, |(_, count)| *count));
            if new > 0 && before.is_none_or(|(told, _)| now.duration_since(*told) >= SILENCE) {
                self.claims.insert(wall, (now, count));
                due.push((wall, new));
            }
        }
        due
    }

    /// Those of these MACs that were not frozen at the last look.
    fn fights(&mut self, frozen: Vec<MacEntry>) -> Vec<MacEntry> {
        let now: BTreeSet<_> = frozen.iter().map(|entry| entry.mac).collect();
        let before = std::mem::replace(&mut self.frozen, now);
        frozen.into_iter().filter(|entry| !before.contains(&entry.mac)).take(MACS_TOLD_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_at_once_and_then_after_a_while_with_all_that_came_meanwhile() {
        let mut told = Told::default();
        let begin = Instant::now();
        let mut look = |count: u64, seconds: u64| {
            let drops = BTreeMap::from([(Wall::SourceMac, count), (Wall::OtherSubnet, 9)]);
            told.claims(&drops, begin + Duration::from_secs(seconds))
        };
        assert_eq!(look(0, 0), []);
        assert_eq!(look(3, 5), [(Wall::SourceMac, 3)]);
        assert_eq!(look(50, 10), []);
        assert_eq!(look(70, 604), []);
        assert_eq!(look(70, 605), [(Wall::SourceMac, 67)]);
        assert_eq!(look(70, 2_000), []);
    }

    #[test]
    fn a_fight_is_told_once_as_long_as_it_lasts() {
        let mut told = Told::default();
        let entry = |number| MacEntry {
            mac: MacAddr::from_bytes([2, 0, 0, 0, 0, number]),
            owner: Owner::Local,
            last_seen: Duration::ZERO,
            is_frozen: true,
        };
        assert_eq!(told.fights(vec![entry(1)]), [entry(1)]);
        assert_eq!(told.fights(vec![entry(1), entry(2)]), [entry(2)]);
        assert_eq!(told.fights(vec![]), []);
        assert_eq!(told.fights(vec![entry(1)]), [entry(1)]);
        assert_eq!(told.fights((0..20).map(entry).collect()).len(), MACS_TOLD_MAX);
    }
}
