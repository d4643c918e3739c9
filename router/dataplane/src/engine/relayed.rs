//! To which peers frames captured here go through others, as news for the control plane: a session of its own with
//! such a peer may spare the way. Owns the pace of that news.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_wire::{Moment, PeerId};

/// In each of these a peer is mentioned once at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// Most peers mentioned in one interval; the others have to wait for a later one.
const PEERS_MAX: usize = 1_024;

/// What one thread has said in the present interval.
#[derive(Debug, Default)]
pub struct RelayedPeers {
    since: Moment,
    mentioned: BTreeSet<PeerId>,
}

impl RelayedPeers {
    /// A frame captured here goes to `peer` through another. True if that is worth a report.
    pub fn is_news(&mut self, peer: PeerId, now: Moment) -> bool {
        if now.since(self.since) >= INTERVAL {
            self.since = now;
            self.mentioned.clear();
        }
        (self.mentioned.len() < PEERS_MAX || self.mentioned.contains(&peer)) && self.mentioned.insert(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u16) -> PeerId {
        let mut bytes = [0; PeerId::LEN];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        PeerId::from_bytes(bytes)
    }

    #[test]
    fn each_peer_is_news_once_a_second_and_only_so_many_are() {
        let mut relayed = RelayedPeers::default();
        let at = |ms| Moment::from_origin(Duration::from_millis(ms));
        let count =
            |relayed: &mut RelayedPeers, now| (0..2_000).filter(|n| relayed.is_news(peer(*n), now)).count();
        assert_eq!(count(&mut relayed, at(5_000)), PEERS_MAX);
        assert_eq!(count(&mut relayed, at(5_999)), 0);
        assert_eq!(count(&mut relayed, at(6_000)), PEERS_MAX);
    }
}
