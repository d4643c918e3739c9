//! The gossip of a node: merging what comes, spreading what is new, repairing what was lost.
//!
//! News goes at once to the neighbours that this router feeds, at the pace of [`News`](crate::news::News). Half a second later
//! its number is mentioned to a few neighbours, whoever they are. What all that missed is found by summaries, when a session
//! opens and now and then with a random neighbour:
//!
//! ```text
//!  Digest(rows that are news) ──► if one is newer there: Digest(all rows of its bucket) ──► Gossip
//!
//!  Summary(root) ──► if it differs: Summary(buckets) ──► Digest(rows of the buckets that differ)
//!                       Gossip(what is newer here), Digest(of what is newer there) ◄──┘
//! ```
//! Records of channels that this version does not know take the same ways.

use mesh_topology::{Carried, Compared, Ghost, MergeError, Merged, Records};
use mesh_wire::control::{
    Channel, Digest, DigestRow, Farewell, GOSSIP_ENTRIES_MAX, Gossip, Message, Summary,
};
use mesh_wire::{Moment, PeerId};

use crate::connection::{CloseCause, Connection};
use crate::counters::Count;
use crate::interface::{ConnectionId, Event, Output};
use crate::limits::{COMPLAINT_PACE, GOSSIP_LEN, MENTIONED_TO};
use crate::names::NameRecords;
use crate::news::Name;
use crate::node::Node;

/// The records of one channel, whatever this version reads in them.
trait Channelled {
    fn summary(&self) -> Summary;
    fn summary_in_full(&self) -> Summary;
    fn differing(&self, summary: &Summary) -> u64;
    fn digest(&self, buckets: u64, reply: bool) -> Digest;
    fn compare(&self, digest: &Digest, offer: &dyn Fn(PeerId) -> bool) -> Compared;
    fn row(&self, origin: PeerId) -> Option<DigestRow>;
}

impl<T> Channelled for Records<T> {
    fn summary(&self) -> Summary {
        self.summary()
    }

    fn summary_in_full(&self) -> Summary {
        self.summary_in_full()
    }

    fn differing(&self, summary: &Summary) -> u64 {
        self.differing(summary)
    }

    fn digest(&self, buckets: u64, reply: bool) -> Digest {
        self.digest(buckets, reply)
    }

    fn compare(&self, digest: &Digest, offer: &dyn Fn(PeerId) -> bool) -> Compared {
        self.compare(digest, offer)
    }

    fn row(&self, origin: PeerId) -> Option<DigestRow> {
        self.get(origin).map(|record| record.row)
    }
}

impl Node {
    /// Merges what a neighbour passes on. An entry that is refused is left out and counted; the others hold.
    pub(crate) fn gossip(&mut self, id: ConnectionId, peer: PeerId, gossip: &Gossip, now: Moment) {
        let channel = gossip.channel;
        for entry in &gossip.entries {
            let merged = match (channel, channel.chunk_of_names()) {
                (Channel::TOPOLOGY, _) => self.topology.merge(entry),
                (Channel::MACS, _) => self.merge_macs(entry),
                (Channel::GROUPS, _) => self.merge_groups(entry),
                (_, Some(index)) => self.merge_names(index, entry, now),
                (unknown, None) => self.carried.merge(unknown, entry),
            };
            match merged {
                Ok(Merged::Newer(origin)) => {
                    self.counters.count(Count::RecordMerged);
                    self.announce((channel, origin), Some(id), now);
                    match channel {
                        Channel::TOPOLOGY => self.heard_of(origin, now),
                        _names_or_carried => self.doubt_origins(now),
                    }
                }
                Ok(Merged::Known(_)) => self.counters.count(Count::RecordKnown),
                Ok(Merged::Ghost(ghost)) if channel == Channel::MACS => self.outrun_macs(&ghost, now),
                Ok(Merged::Ghost(ghost)) if channel == Channel::GROUPS => self.outrun_groups(&ghost, now),
                Ok(Merged::Ghost(ghost)) => match channel.chunk_of_names() {
                    Some(index) => self.outrun_names(index, &ghost, now),
                    None => self.outrun(&ghost, now),
                },
                Err(error) => self.refuse_entry(peer, error, now),
            }
        }
        let of_names = channel.chunk_of_names().is_some_and(|index| self.names.get(index).is_some());
        let is_told = [Channel::MACS, Channel::GROUPS].contains(&channel);
        if is_told || of_names || self.carried.get(channel).is_some() {
            self.counters.carry(channel);
        }
    }

    /// Answers the question whether anything differs, if it does.
    pub(crate) fn answer_summary(&mut self, id: ConnectionId, summary: &Summary, now: Moment) {
        self.counters.count(Count::SummaryReceived);
        let answer = self.with_channel(summary.channel, |records| {
            let differing = records.differing(summary);
            match (differing, summary.buckets.is_empty()) {
                (0, _) => None,
                (_, true) => Some(Message::Summary(records.summary_in_full())),
                (differing, false) => Some(Message::Digest(records.digest(differing, true))),
            }
        });
        if let Some(answer) = answer.flatten() {
            self.counters.count(Count::SummaryDiffered);
            self.send(id, &answer, now);
        }
    }

    /// Sends what is newer here than in a neighbour's digest, and asks for what is newer there. What is about to be
    /// forgotten is not handed on: it would go round for ever.
    pub(crate) fn answer_digest(&mut self, id: ConnectionId, digest: &Digest, now: Moment) {
        self.counters.count(Count::DigestReceived);
        let reachable = |peer: PeerId| self.topology.reaches(peer);
        let compared = self.with_channel(digest.channel, |records| {
            let Compared { newer_here, newer_there } = records.compare(digest, &reachable);
            let back = (digest.reply && newer_there != 0).then(|| records.digest(newer_there, false));
            (newer_here, back)
        });
        let Some((newer_here, back)) = compared else { return };
        self.send_records(id, digest.channel, &newer_here, now);
        if let Some(back) = back {
            self.send(id, &Message::Digest(back), now);
        }
    }

    /// A session has opened: finds out what the two ends have missed of each other. The one that dialed asks; the other
    /// does so for channels that the first may never have heard of.
    pub(crate) fn begin_gossip(&mut self, id: ConnectionId, now: Moment) {
        let dialed = matches!(id, ConnectionId::Dialed(_));
        let topology = dialed.then(|| self.topology.store().summary_in_full());
        let others = self.beside_topology(
            |records| {
                if dialed { records.summary_in_full() } else { records.summary() }
            },
        );
        for summary in topology.into_iter().chain(others) {
            self.send(id, &Message::Summary(summary), now);
        }
    }

    /// Asks one neighbour, chosen at random, whether anything differs.
    pub(crate) fn repair_gossip(&mut self, now: Moment) {
        let Some(id) = self.pick_neighbours(1, None).pop() else { return };
        let others = self.beside_topology(|records| records.summary());
        for summary in std::iter::once(self.topology.store().summary()).chain(others) {
            self.send(id, &Message::Summary(summary), now);
        }
    }

    /// Lets a record wait for its turn to be passed on.
    pub(crate) fn announce(&mut self, name: Name, from: Option<ConnectionId>, now: Moment) {
        if !self.news.add(name, from, now) {
            self.counters.count(Count::NewsDropped);
        }
    }

    /// Passes on what is due to those whom this router feeds, and mentions a while later to some that it was there.
    pub(crate) fn spread_news(&mut self, now: Moment) {
        let reachable = |peer| self.topology.reaches(peer);
        for (from, names) in self.news.take_due(now, reachable) {
            let neighbours = self.sessions.iter().filter(|(_, id)| Some(**id) != from);
            for (neighbour, id) in neighbours.map(|(peer, id)| (*peer, *id)).collect::<Vec<_>>() {
                let names = self.meant_for(neighbour, &names);
                // Names are in order, so that those of one channel stand together.
                for names in names.chunk_by(|(a, _), (b, _)| a == b) {
                    let origins: Vec<_> = names.iter().map(|(_, origin)| *origin).collect();
                    self.send_records(id, names[0].0, &origins, now);
                }
            }
        }
        let mentioned = self.news.take_mentions(now);
        if !mentioned.is_empty() {
            self.mention(&mentioned, now);
        }
    }

    /// Those of the records that this router passes on to `neighbour` at once.
    fn meant_for(&self, neighbour: PeerId, names: &[Name]) -> Vec<Name> {
        let me = self.peer_id();
        let feeds = std::cell::LazyCell::new(|| self.topology.feeds(neighbour));
        let is_meant = |(channel, origin): &Name| {
            let is_read = self.carried.get(*channel).is_none();
            let has_it = is_read && self.topology.is_told_by(neighbour, *origin);
            *origin == me || (!has_it && *feeds)
        };
        names.iter().filter(|name| is_meant(name)).copied().collect()
    }

    /// Tells some neighbours the numbers of records that went round a moment ago. Whoever missed one asks for it.
    fn mention(&mut self, names: &[Name], now: Moment) {
        for names in names.chunk_by(|(a, _), (b, _)| a == b) {
            let channel = names[0].0;
            let rows = self.with_channel(channel, |records| {
                names.iter().filter_map(|(_, origin)| records.row(*origin)).collect::<Vec<_>>()
            });
            let Some(rows) = rows.filter(|rows| !rows.is_empty()) else { continue };
            for id in self.pick_neighbours(MENTIONED_TO, None) {
                let digest = Digest { channel, rows: rows.clone(), reply: true, buckets: 0 };
                self.send(id, &Message::Digest(digest), now);
            }
        }
    }

    /// Sends records to a neighbour, or lets them wait until it has read what it was sent before.
    pub(crate) fn send_records(
        &mut self,
        id: ConnectionId,
        channel: Channel,
        origins: &[PeerId],
        now: Moment,
    ) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        let dropped = origins.iter().filter(|origin| !open.outbound.add((channel, **origin))).count();
        self.counters.add(Count::NewsDropped, dropped as u64);
        self.send_waiting(id, now);
    }

    /// A neighbour has answered a ping, perhaps one that followed gossip.
    pub(crate) fn gossip_read(&mut self, id: ConnectionId, number: u64, now: Moment) {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
        if let Some(number) = open.outbound.answered(number) {
            self.send(id, &Message::Ping(number), now);
        }
        self.send_waiting(id, now);
    }

    fn send_waiting(&mut self, id: ConnectionId, now: Moment) {
        while let Some(gossip) = self.next_gossip(id) {
            let len = gossip.entries.iter().map(|entry| entry.len() as u64).sum();
            self.send(id, &Message::Gossip(gossip), now);
            let Some(open) = self.connections.get_mut(&id).and_then(Connection::open_mut) else { return };
            if let Some(number) = open.outbound.sent(len) {
                self.send(id, &Message::Ping(number), now);
            }
        }
    }

    /// The next message of what waits for a neighbour, if it may be sent.
    fn next_gossip(&mut self, id: ConnectionId) -> Option<Gossip> {
        let outbound = &mut self.connections.get_mut(&id)?.open_mut()?.outbound;
        let mut gossip: Option<Gossip> = None;
        let mut room = GOSSIP_LEN;
        while let Some(name) = outbound.next().filter(|_| outbound.has_room()) {
            let (channel, origin) = name;
            let entry = match (channel, channel.chunk_of_names()) {
                (Channel::TOPOLOGY, _) => self.topology.entry(origin),
                (Channel::MACS, _) => self.macs.told.entry(origin),
                (Channel::GROUPS, _) => self.groups.told.entry(origin),
                (_, Some(index)) => {
                    self.names.get(index).and_then(|records| Some(&*records.get(origin)?.entry))
                }
                (unknown, None) => {
                    self.carried.get(unknown).and_then(|records| Some(&*records.get(origin)?.entry))
                }
            };
            if let Some(entry) = entry {
                let gossip = gossip.get_or_insert_with(|| Gossip { channel, entries: Vec::new() });
                let full = entry.len() > room || gossip.entries.len() >= GOSSIP_ENTRIES_MAX;
                if gossip.channel != channel || (full && !gossip.entries.is_empty()) {
                    break;
                }
                room = room.saturating_sub(entry.len());
                gossip.entries.push(entry.to_vec().into());
            }
            outbound.take(name);
        }
        gossip
    }

    /// At most `count` sessions, chosen at random, without `but`.
    pub(crate) fn pick_neighbours(&mut self, count: usize, but: Option<ConnectionId>) -> Vec<ConnectionId> {
        let mut all: Vec<_> = self.sessions.values().copied().filter(|id| Some(*id) != but).collect();
        while all.len() > count {
            let out = usize::try_from(self.rng.below(all.len() as u64)).unwrap_or(0);
            all.swap_remove(out);
        }
        all
    }

    /// What `tell` says of each channel that has records, but the topology's.
    fn beside_topology(&self, tell: impl Fn(&dyn Channelled) -> Summary) -> Vec<Summary> {
        let macs = self.macs.told.in_use().map(|records| tell(records));
        let groups = self.groups.told.in_use().map(|records| tell(records));
        let names = self.names.channels().map(|records| tell(records));
        let carried = self.carried.channels().map(|records| tell(records));
        macs.into_iter().chain(groups).chain(names).chain(carried).collect()
    }

    /// Lets `use_it` work with the records of a channel. `None` where there is no room for them.
    fn with_channel<R>(&self, channel: Channel, use_it: impl FnOnce(&dyn Channelled) -> R) -> Option<R> {
        if channel == Channel::TOPOLOGY {
            return Some(use_it(self.topology.store()));
        }
        if channel == Channel::MACS {
            return Some(use_it(self.macs.told.records()));
        }
        if channel == Channel::GROUPS {
            return Some(use_it(self.groups.told.records()));
        }
        if let Some(index) = channel.chunk_of_names() {
            return Some(match self.names.get(index) {
                Some(records) => use_it(records),
                None => use_it(&NameRecords::empty(index)),
            });
        }
        match self.carried.get(channel) {
            Some(records) => Some(use_it(records)),
            None => self.carried.has_room().then(|| use_it(&Carried::empty(channel))),
        }
    }

    /// Numbers this router's record above one that bears its identity and is not its own, unless that is the work of a
    /// router that shall go on in its place.
    fn outrun(&mut self, ghost: &Ghost, now: Moment) {
        self.counters.count(Count::RecordGhost);
        let (peer, nonce) = (self.peer_id(), self.topology.own().nonce);
        if ghost.nonce != nonce && self.clones.outranked_by(ghost.nonce, (ghost.boot, ghost.version), now) {
            self.outputs.push_back(Output::Event(Event::Cloned { peer, remote: None }));
            self.address_input(mesh_ipam::Input::Copied { peer }, now);
            // Each outruns the boot count of the other, so that nothing but the nonces tells them apart.
            if nonce > ghost.nonce {
                return self.give_up(ghost, now);
            }
        }
        self.topology.outrun(&self.identity, ghost);
        self.announce((Channel::TOPOLOGY, peer), None, now);
    }

    /// This router is a copy: it leaves the network to the other, with a last record by which that one learns of it.
    fn give_up(&mut self, ghost: &Ghost, now: Moment) {
        self.fenced = true;
        self.topology.outrun(&self.identity, ghost);
        for id in self.sessions.values().copied().collect::<Vec<_>>() {
            self.send_records(id, Channel::TOPOLOGY, &[self.peer_id()], now);
        }
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            // Not that there is a copy: whoever is told that takes itself for it.
            self.send(id, &Message::Bye(Farewell::Stopping), now);
            self.end(id, CloseCause::Farewell(Farewell::Cloned), now);
        }
    }

    /// A peer has said something new.
    fn heard_of(&mut self, peer: PeerId, now: Moment) {
        self.topology_changed = true;
        if !self.sessions.contains_key(&peer) {
            self.connector.news(peer, &mut self.rng, now);
        }
    }

    fn refuse_entry(&mut self, peer: PeerId, error: MergeError, now: Moment) {
        self.counters.count(match error {
            MergeError::Forged(_) => Count::RecordForged,
            MergeError::Malformed(_)
            | MergeError::TooLong { .. }
            | MergeError::Full(_)
            | MergeError::TooManyChannels => Count::RecordRefused,
        });
        if self.complaints.take(COMPLAINT_PACE, now) {
            self.outputs.push_back(Output::Event(Event::GossipRefused { peer, error }));
        }
    }
}
