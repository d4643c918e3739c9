//! From plan to snapshot: builds what the threads read, and carries over what must outlive a publication: counters,
//! replay windows and learnt addresses. It alone creates and closes sessions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_wire::{PeerId, ReceiverIndex};

use super::links::{Link, canonical};
use super::sessions::{ReceiveSession, SendSession};
use crate::engine::{LinkId, LinkPlan, MTU_RESERVE, Places, Plan, ReceivePlan, SendPlan, Tables};

/// What IP and UDP headers take of a packet.
const UDP_IPV4_LEN: usize = 20 + 8;
const UDP_IPV6_LEN: usize = 40 + 8;

/// The first counter of a session.
const FIRST_COUNTER: u64 = 1;

/// Most ended sessions whose counters are remembered, in each direction; the oldest is forgotten first. A plan that
/// revives a forgotten one would repeat counters, but so many other sessions lie between its end and its revival.
const ENDED_SESSIONS_MAX: usize = 4096;

/// What the threads read for each frame. Immutable, but for what lies behind the `Arc`s.
pub(crate) struct Snapshot {
    pub(crate) tables: Tables,
    /// By [`LinkId`].
    outlets: Vec<Outlet>,
    /// Sorted by receiver index.
    inlets: Vec<Inlet>,
}

/// The way to a neighbour.
pub(crate) struct Outlet {
    pub(crate) link: Arc<Link>,
    pub(crate) places: Places,
    pub(crate) session: Option<Arc<SendSession>>,
}

impl Outlet {
    /// Room for messages in a packet that the path takes; 0 without a session.
    pub(crate) fn room(&self) -> usize {
        let datagram_len = usize::from(self.link.path().datagram_len);
        self.session.as_ref().map_or(0, |session| datagram_len.saturating_sub(session.overhead_len()))
    }

    /// Where in a packet that the path takes its messages have to end.
    pub(crate) fn body_end_max(&self) -> usize {
        let datagram_len = usize::from(self.link.path().datagram_len);
        self.session.as_ref().map_or(0, |session| datagram_len.saturating_sub(session.tag_len()))
    }

    /// The MTU of frames to the neighbour, in bytes of IP packet, when the path is known; the same for all paths that take
    /// the same IP packets, whatever protects or relays the frames.
    pub(crate) fn mtu(&self) -> Option<usize> {
        let path = self.link.path();
        let headers_len = if self.link.remote().is_ipv4() { UDP_IPV4_LEN } else { UDP_IPV6_LEN };
        let packet_len = usize::from(path.datagram_len) + headers_len;
        path.is_settled.then(|| packet_len.saturating_sub(MTU_RESERVE))
    }
}

/// The way from a neighbour.
#[derive(Clone)]
pub(crate) struct Inlet {
    pub(crate) link: LinkId,
    pub(crate) session: Arc<ReceiveSession>,
}

impl Snapshot {
    /// What holds before the first plan: nobody to send to or to hear. The router's id is not known yet, and
    /// compared with nothing, since no packet is authentic.
    pub(crate) fn before_the_first_plan() -> Self {
        let nobody = PeerId::from_bytes([0; PeerId::LEN]);
        Self { tables: Tables::alone(nobody), outlets: Vec::new(), inlets: Vec::new() }
    }

    pub(crate) fn outlet(&self, link: LinkId) -> &Outlet {
        &self.outlets[link.index()]
    }

    pub(crate) fn outlets(&self) -> &[Outlet] {
        &self.outlets
    }

    pub(crate) fn inlet(&self, index: ReceiverIndex) -> Option<&Inlet> {
        let at = self.inlets.binary_search_by_key(&index, |inlet| inlet.session.index).ok()?;
        self.inlets.get(at)
    }
}

/// Names a session's sending direction: who receives, the epoch, and the receiver's name for it.
type SendId = (PeerId, u32, ReceiverIndex);

/// Keeps sessions and links from one plan to the next.
#[derive(Default)]
pub(crate) struct Publisher {
    links: BTreeMap<PeerId, KeptLink>,
    send: Sessions<SendId, SendSession>,
    receive: Sessions<ReceiverIndex, ReceiveSession>,
    serial: u64,
}

struct KeptLink {
    link: Arc<Link>,
    planned: SocketAddr,
}

/// The sessions of one direction: those in force, those that some thread may still hold, and what is left of others.
struct Sessions<Id, Session> {
    current: BTreeMap<Id, Arc<Session>>,
    lingering: Vec<(Id, Arc<Session>)>,
    /// The last counters of ended sessions, oldest first.
    ended: VecDeque<(Id, u64)>,
}

/// A plan as the threads take it.
pub(crate) struct Publication {
    pub(crate) snapshot: Snapshot,
    /// Neighbours who were there before, but on sessions none of which is left: the connection is another.
    pub(crate) restarted: Vec<PeerId>,
    /// Those who are to prove that they are still there.
    pub(crate) in_doubt: BTreeSet<PeerId>,
}

impl Publisher {
    /// Makes `plan` the one in force. Where it names a receiver index twice, the first counts.
    pub(crate) fn publish(&mut self, plan: Plan) -> Publication {
        self.sweep();
        let tables = Tables::new(&plan);
        let mut old_links = std::mem::take(&mut self.links);
        let mut old_send = std::mem::take(&mut self.send.current);
        let mut old_receive = std::mem::take(&mut self.receive.current);
        let (mut outlets, mut inlets, mut restarted) = (Vec::new(), Vec::new(), Vec::new());
        let mut taken = BTreeSet::new();
        let mut doubtful = BTreeSet::new();
        for LinkPlan { peer, remote, candidates, roams, in_doubt, receive, send } in plan.links {
            doubtful.extend(in_doubt.then_some(peer));
            let stays = receive.iter().any(|plan| old_receive.contains_key(&plan.index));
            let kept = old_links.remove(&peer);
            restarted.extend(kept.is_some().then_some(peer).filter(|_| !stays));
            let link = self.link(peer, remote, kept.filter(|_| stays));
            let own_link = tables.link(peer);
            for plan in receive {
                let is_first = taken.insert(plan.index);
                if let Some(link) = own_link.filter(|_| is_first) {
                    inlets.push(Inlet { link, session: self.receive_session(plan, &mut old_receive) });
                }
            }
            let session = send.map(|plan| self.send_session(peer, plan, &mut old_send));
            let places = Places::new(canonical(remote), candidates.into_iter().map(canonical), roams);
            outlets.push(Outlet { link, places, session });
        }
        self.send.lingering.extend(old_send);
        self.receive.lingering.extend(old_receive);
        inlets.sort_by_key(|inlet| inlet.session.index);
        Publication { snapshot: Snapshot { tables, outlets, inlets }, restarted, in_doubt: doubtful }
    }

    /// Erases the keys of ended sessions that no thread holds any more.
    pub(crate) fn sweep(&mut self) {
        self.send.sweep(SendSession::into_next);
        self.receive.sweep(ReceiveSession::into_greatest);
    }

    fn link(&mut self, peer: PeerId, planned: SocketAddr, kept: Option<KeptLink>) -> Arc<Link> {
        let link = match kept {
            Some(kept) => {
                if kept.planned != planned {
                    kept.link.move_to(planned);
                }
                kept.link
            }
            None => Arc::new(Link::new(peer, planned)),
        };
        self.links.insert(peer, KeptLink { link: Arc::clone(&link), planned });
        link
    }

    fn send_session(
        &mut self,
        peer: PeerId,
        plan: SendPlan,
        old: &mut BTreeMap<SendId, Arc<SendSession>>,
    ) -> Arc<SendSession> {
        let id = (peer, plan.epoch, plan.index);
        let is_same = |session: &SendSession| session.has_key(&plan.key);
        self.send.take_up(id, old, is_same, |last| {
            SendSession::new(plan.epoch, plan.index, plan.key.clone(), last.unwrap_or(FIRST_COUNTER))
        })
    }

    fn receive_session(
        &mut self,
        plan: ReceivePlan,
        old: &mut BTreeMap<ReceiverIndex, Arc<ReceiveSession>>,
    ) -> Arc<ReceiveSession> {
        self.serial += 1;
        let serial = self.serial;
        let is_same = |session: &ReceiveSession| session.epoch == plan.epoch && session.has_key(&plan.key);
        self.receive.take_up(plan.index, old, is_same, |last| {
            ReceiveSession::new(plan.index, plan.epoch, serial, plan.key.clone(), last.unwrap_or_default())
        })
    }
}

impl<Id: Copy + Ord, Session> Sessions<Id, Session> {
    /// The session in force under `id`: the same object as long as somebody may hold it, so that there is one counter
    /// and one window for each key; else one made from the last counter that is remembered.
    fn take_up(
        &mut self,
        id: Id,
        old: &mut BTreeMap<Id, Arc<Session>>,
        is_same: impl Fn(&Session) -> bool,
        make: impl FnOnce(Option<u64>) -> Session,
    ) -> Arc<Session> {
        let lingering = self.lingering.iter().map(|(at, session)| (*at, session));
        let known = old.iter().map(|(at, session)| (*at, session)).chain(lingering);
        let same =
            known.filter(|(at, _)| *at == id).map(|(_, session)| session).find(|session| is_same(session));
        let session = match same {
            Some(session) => Arc::clone(session),
            None => Arc::new(make(self.last_counter(id))),
        };
        if let Some(left) = old.remove(&id).filter(|left| !Arc::ptr_eq(left, &session)) {
            self.lingering.push((id, left));
        }
        self.lingering.retain(|(_, left)| !Arc::ptr_eq(left, &session));
        self.current.insert(id, Arc::clone(&session));
        session
    }

    fn last_counter(&self, id: Id) -> Option<u64> {
        self.ended.iter().filter(|(at, _)| *at == id).map(|(_, counter)| *counter).max()
    }

    fn sweep(&mut self, last_counter: impl Fn(Session) -> u64) {
        for (id, session) in std::mem::take(&mut self.lingering) {
            match Arc::try_unwrap(session) {
                Ok(session) => self.ended.push_back((id, last_counter(session))),
                Err(held) => self.lingering.push((id, held)),
            }
        }
        let surplus = self.ended.len().saturating_sub(ENDED_SESSIONS_MAX);
        self.ended.drain(..surplus);
    }
}

impl<Id, Session> Default for Sessions<Id, Session> {
    fn default() -> Self {
        Self { current: BTreeMap::new(), lingering: Vec::new(), ended: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use mesh_crypto::DirectionKey;
    use mesh_wire::sleeve::{Header, Message, Probe};

    use super::*;
    use crate::engine::DropReason;

    const PEER: PeerId = PeerId::from_bytes([1; 16]);
    const PROBE: Message<'_> = Message::Probe(Probe { sequence: 1, sent_ns: 2 });

    fn key(byte: u8) -> DirectionKey {
        DirectionKey::Clear { cookie: [byte; 8] }
    }

    fn remote(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    fn link(port: u16, epochs: &[u32]) -> LinkPlan {
        let receive =
            |epoch: &u32| ReceivePlan { epoch: *epoch, index: ReceiverIndex(*epoch), key: key(*epoch as u8) };
        let last = epochs.last().copied();
        LinkPlan {
            candidates: Vec::new(),
            roams: true,
            in_doubt: false,
            peer: PEER,
            remote: remote(port),
            receive: epochs.iter().map(receive).collect(),
            send: last.map(|epoch| SendPlan { epoch, index: ReceiverIndex(epoch), key: key(epoch as u8) }),
        }
    }

    fn plan(links: Vec<LinkPlan>) -> Plan {
        let me = PeerId::from_bytes([0; 16]);
        Plan {
            me,
            digest: 0,
            links,
            next_hop: BTreeMap::new(),
            trees: BTreeMap::new(),
            groups: Arc::default(),
        }
    }

    /// The counter of the next packet to the neighbour.
    fn counter(snapshot: &Snapshot) -> u64 {
        let mut packet = Vec::new();
        snapshot.outlets()[0].session.as_ref().unwrap().write(|out| PROBE.encode(out), &mut packet).unwrap();
        Header::decode(&packet).unwrap().counter
    }

    /// What becomes of a packet with this counter from the neighbour.
    fn receive(snapshot: &Snapshot, epoch: u32, counter: u64) -> Result<bool, DropReason> {
        let kind = mesh_wire::sleeve::PacketKind::Clear;
        let header = Header { kind, receiver: ReceiverIndex(epoch), counter };
        let mut datagram = [header.encode().as_slice(), &[epoch as u8; 8]].concat();
        let inlet = snapshot.inlet(header.receiver).ok_or(DropReason::UnknownReceiver)?;
        inlet.session.open(&header, &mut datagram).map(|opened| opened.is_newest)
    }

    #[test]
    fn counters_and_windows_go_on_over_publications() {
        let mut publisher = Publisher::default();
        let first = publisher.publish(plan(vec![link(1, &[5])])).snapshot;
        assert_eq!((counter(&first), receive(&first, 5, 1)), (1, Ok(true)));
        let second = publisher.publish(plan(vec![link(1, &[5])]));
        assert_eq!((counter(&second.snapshot), counter(&first), counter(&second.snapshot)), (2, 3, 4));
        assert_eq!(receive(&second.snapshot, 5, 1), Err(DropReason::Replayed));
        assert!(second.restarted.is_empty());
    }

    #[test]
    fn a_revived_session_repeats_no_counter_and_takes_no_replay() {
        for still_held in [true, false] {
            let mut publisher = Publisher::default();
            let first = publisher.publish(plan(vec![link(1, &[5])])).snapshot;
            assert_eq!((counter(&first), receive(&first, 5, 8)), (1, Ok(true)));
            let held = still_held.then_some(first);
            let without = publisher.publish(plan(vec![])).snapshot;
            assert_eq!(receive(&without, 5, 9), Err(DropReason::UnknownReceiver));
            publisher.sweep();
            let again = publisher.publish(plan(vec![link(1, &[5])])).snapshot;
            assert_eq!(counter(&again), 2);
            assert_eq!(receive(&again, 5, 8), Err(DropReason::Replayed));
            assert_eq!(receive(&again, 5, 9), Ok(true));
            drop(held);
        }
    }

    #[test]
    fn keys_of_ended_sessions_are_erased_once_nobody_holds_them() {
        let mut publisher = Publisher::default();
        let held = publisher.publish(plan(vec![link(1, &[5])])).snapshot;
        publisher.publish(plan(vec![link(1, &[6])]));
        publisher.sweep();
        assert_eq!((publisher.send.lingering.len(), publisher.receive.lingering.len()), (1, 1));
        drop(held);
        publisher.sweep();
        assert_eq!((publisher.send.lingering.len(), publisher.receive.lingering.len()), (0, 0));
    }

    #[test]
    fn the_memory_of_ended_sessions_is_bounded() {
        let mut publisher = Publisher::default();
        for epoch in 0..u32::try_from(ENDED_SESSIONS_MAX).unwrap() + 10 {
            publisher.publish(plan(vec![link(1, &[epoch])]));
        }
        assert_eq!(publisher.send.ended.len(), ENDED_SESSIONS_MAX);
    }

    #[test]
    fn another_key_under_the_same_name_is_another_session() {
        let mut publisher = Publisher::default();
        publisher.publish(plan(vec![link(1, &[5])]));
        let mut other = link(1, &[5]);
        other.receive[0].key = key(99);
        let snapshot = publisher.publish(plan(vec![other])).snapshot;
        assert_eq!(receive(&snapshot, 5, 1), Err(DropReason::NotAuthentic));
    }

    #[test]
    fn rekeying_keeps_the_link_and_a_new_connection_restarts_it() {
        let mut publisher = Publisher::default();
        publisher.publish(plan(vec![link(1, &[5])]));
        assert!(publisher.publish(plan(vec![link(1, &[5, 6])])).restarted.is_empty());
        assert!(publisher.publish(plan(vec![link(1, &[6, 7])])).restarted.is_empty());
        assert_eq!(publisher.publish(plan(vec![link(1, &[20])])).restarted, [PEER]);
    }

    #[test]
    fn a_learnt_address_stays_until_the_plan_names_another() {
        let mut publisher = Publisher::default();
        let mut at =
            |port| publisher.publish(plan(vec![link(port, &[5])])).snapshot.outlets()[0].link.clone();
        let kept = at(1);
        let anywhere = Places::new(remote(1), std::iter::empty(), true);
        kept.heard(remote(9), &anywhere, 1, true, mesh_wire::Moment::ORIGIN);
        assert_eq!(at(1).remote(), remote(9));
        assert_eq!(at(2).remote(), remote(2));
    }

    #[test]
    fn an_index_given_twice_belongs_to_the_first() {
        let other = PeerId::from_bytes([2; 16]);
        let twice = plan(vec![link(1, &[5]), LinkPlan { peer: other, ..link(2, &[5]) }]);
        let snapshot = Publisher::default().publish(twice).snapshot;
        assert_eq!(snapshot.tables.neighbour(snapshot.inlet(ReceiverIndex(5)).unwrap().link), PEER);
    }
}
