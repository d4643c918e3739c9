//! Whom a chain of listed connections reaches. Owns that set, and carries it on as records come and go, so that a change
//! costs a look around and not a search of the whole network; knows nothing of what else records say.

use std::collections::BTreeSet;

use mesh_wire::PeerId;
use mesh_wire::control::PeerRecord;

use crate::records::{Record, Records};

/// Who is reached, as what is out of the ordinary: nearly everybody has a record and is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Those with a record that no chain leads to.
    cut_off: BTreeSet<PeerId>,
    /// Those that a chain leads to and that have no record here.
    unrecorded: BTreeSet<PeerId>,
}

/// What was seen of a change is not enough: the whole is to be searched.
#[derive(Debug)]
pub(crate) struct Unclear;

impl Reach {
    /// Searches everything.
    pub(crate) fn search(records: &Records<PeerRecord>, me: PeerId) -> Self {
        let mut reach = Self {
            cut_off: records.iter().map(|known| known.row.origin).collect(),
            unrecorded: BTreeSet::new(),
        };
        reach.spread(records, [me]);
        reach
    }

    pub(crate) fn contains(&self, records: &Records<PeerRecord>, peer: PeerId) -> bool {
        match records.get(peer) {
            Some(_) => !self.cut_off.contains(&peer),
            None => self.unrecorded.contains(&peer),
        }
    }

    /// Those with a record that no chain leads to.
    pub(crate) const fn cut_off(&self) -> &BTreeSet<PeerId> {
        &self.cut_off
    }

    /// Takes in that `after` stands in place of `before` among the records.
    pub(crate) fn replaced(
        &mut self,
        records: &Records<PeerRecord>,
        me: PeerId,
        before: Option<&Record<PeerRecord>>,
        after: &Record<PeerRecord>,
    ) -> Result<(), Unclear> {
        let origin = after.row.origin;
        match before {
            None if !self.unrecorded.remove(&origin) => {
                self.cut_off.insert(origin);
            }
            Some(_) if self.cut_off.contains(&origin) => {}
            None => self.spread(records, listed(after)),
            Some(before) if listed(before).eq(listed(after)) => {}
            Some(before) => {
                self.spread(records, listed(after));
                let after: BTreeSet<_> = listed(after).collect();
                for peer in listed(before).filter(|peer| !after.contains(peer)) {
                    self.lose(records, me, peer)?;
                }
            }
        }
        Ok(())
    }

    /// Takes in that the records of `gone` are no more.
    pub(crate) fn forget(&mut self, gone: &BTreeSet<PeerId>) -> Result<(), Unclear> {
        if !gone.is_subset(&self.cut_off) {
            return Err(Unclear);
        }
        self.cut_off.retain(|peer| !gone.contains(peer));
        Ok(())
    }

    /// Adds those of `peers` that are not reached yet, and all that lists lead to from there.
    fn spread(&mut self, records: &Records<PeerRecord>, peers: impl IntoIterator<Item = PeerId>) {
        let mut frontier: Vec<_> = peers.into_iter().collect();
        while let Some(peer) = frontier.pop() {
            match records.get(peer) {
                Some(known) if self.cut_off.remove(&peer) => frontier.extend(listed(known)),
                Some(_) => {}
                None => {
                    self.unrecorded.insert(peer);
                }
            }
        }
    }

    /// Somebody who is reached lists `peer` no longer.
    fn lose(&mut self, records: &Records<PeerRecord>, me: PeerId, peer: PeerId) -> Result<(), Unclear> {
        let mut suspects = vec![peer];
        while let Some(peer) = suspects.pop() {
            if !self.contains(records, peer) || leads(records, me, peer) {
                continue;
            }
            let lists_it = |known: &Record<PeerRecord>| listed(known).any(|other| other == peer);
            if records.iter().any(|known| lists_it(known) && !self.cut_off.contains(&known.row.origin)) {
                return Err(Unclear);
            }
            match records.get(peer) {
                Some(known) => {
                    self.cut_off.insert(peer);
                    suspects.extend(listed(known));
                }
                None => {
                    self.unrecorded.remove(&peer);
                }
            }
        }
        Ok(())
    }
}

/// Whether a chain of lists leads from one peer to another, sought from both ends at once: most often they meet within a few
/// steps. Backwards it is sought among those that the peers list themselves, so that a "no" is not certain.
fn leads(records: &Records<PeerRecord>, from: PeerId, to: PeerId) -> bool {
    if from == to {
        return true;
    }
    let (mut ahead, mut behind) = (BTreeSet::from([from]), BTreeSet::from([to]));
    let (mut front, mut back) = (vec![from], vec![to]);
    while !front.is_empty() && !back.is_empty() {
        if front.len() <= back.len() {
            let next = front.iter().filter_map(|peer| records.get(*peer)).flat_map(|known| listed(known));
            front = next.filter(|peer| ahead.insert(*peer)).collect();
            if front.iter().any(|peer| behind.contains(peer)) {
                return true;
            }
        } else {
            let lists = |other: PeerId, peer: PeerId| {
                records.get(other).is_some_and(|known| {
                    known.content.links.binary_search_by_key(&peer, |link| link.peer).is_ok()
                })
            };
            let next = back.iter().filter_map(|peer| Some((*peer, records.get(*peer)?)));
            let next = next.flat_map(|(peer, known)| listed(known).filter(move |other| lists(*other, peer)));
            back = next.filter(|peer| behind.insert(*peer)).collect();
            if back.iter().any(|peer| ahead.contains(peer)) {
                return true;
            }
        }
    }
    false
}

fn listed(record: &Record<PeerRecord>) -> impl Iterator<Item = PeerId> {
    record.content.links.iter().map(|link| link.peer)
}
