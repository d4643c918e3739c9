//! The machine itself: what enters, what leaves, and that nothing is said before it is on disk.
//!
//! Owns the queues, the timers and the order of work. The work itself stands in the modules below: requests of clients,
//! messages of peers, the vote, space, and the succession of peers that are gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mesh_crypto::Rng;
use mesh_wire::{MacAddr, Moment, NetworkId, Nickname, PeerId};

use crate::addr::Addr;
use crate::answers::Answers;
use crate::cooling::Cooling;
use crate::founding::{Network, Proposal};
use crate::interface::{Answer, Config, Event, Input, Output, Reachable, Refusal, Ticket};
use crate::limits::{HAIL_EVERY, HAIL_FANOUT, LISTEN_TIME_MAX, RETRY_AFTER, TIDY_EVERY};
use crate::log::{encode_batch, encode_snapshot};
use crate::message::{Conflict, Envelope, Hint, Message, VERSION};
use crate::mutant::{Mutant, Mutants};
use crate::range::Range;
use crate::state::{Fence, Life, Record, State, Violation};
use crate::view::{Member, View};

mod conflicts;
mod gossip;
mod requests;
mod space;
mod succession;
pub(crate) mod telling;
mod vote;

use requests::Pending;
use space::Asking;
use succession::Leaving;
use telling::Unfinished;

/// The address management of one router.
///
/// **Contract.** After each [`Self::handle`] drain [`Self::poll_output`] to `None` before the next, and call again with
/// [`Input::Timeout`] no later than [`Self::poll_timeout`] says. Times never go backwards. [`Output::Persist`] comes at
/// once; all that rests on it is held back until [`Input::Persisted`] says that it is on disk. The getters may be called
/// at any time. Nothing a peer or a client says makes a method panic.
pub struct Ipam {
    config: Config,
    range: Range,
    pub(crate) state: State,
    mutants: Mutants,
    life: Life,
    rng: Rng,
    answers: Answers,
    members: BTreeMap<PeerId, Neighbour>,
    /// The last life of each other peer, newer than on disk.
    lives: BTreeMap<PeerId, Life>,
    /// Lives of other peers that clash with those in `lives`: copies of one state.
    clashes: BTreeMap<PeerId, Life>,
    /// How often this life has told all that it knows.
    tellings: u64,
    unfinished: Unfinished,
    /// A hash of what is shared, until it changes.
    sum: Option<u64>,
    /// Held addresses for which somebody else has answered, and who.
    seen: BTreeMap<Addr, MacAddr>,
    /// What others have said of addresses of theirs that may be in use twice.
    conflicts: BTreeMap<PeerId, Vec<Conflict>>,
    /// What this peer says of its own.
    own_conflicts: Vec<Conflict>,
    /// Whether that may have changed.
    conflicts_changed: bool,
    /// How full each reachable peer last said it was.
    hints: BTreeMap<PeerId, Hint>,
    pending: BTreeMap<Ticket, Pending>,
    asks: BTreeMap<Range, Asking>,
    proposal: Option<Proposal>,
    /// When the next proposal is made, if this one leads nowhere.
    proposal_due: Option<Moment>,
    /// The greatest round that was seen in a refusal.
    round_seen: u64,
    leaving: Option<Leaving>,
    /// Until when this life hands nothing out, unless it hears before that it is up to date.
    listens_until: Option<Moment>,
    /// How often others were asked for their word.
    calls: usize,
    cooling: Cooling,
    timers: Timers,
    disk: Disk,
    records: Vec<Record>,
    drafts: Vec<Draft>,
    ready: VecDeque<Output>,
    /// What waits for the disk, each with the batch that it waits for.
    held: VecDeque<(u64, Output)>,
}

/// A peer that can be reached.
#[derive(Debug)]
struct Neighbour {
    reachable: Reachable,
    since: Moment,
    /// Its network, once it has said anything.
    network: Option<Option<NetworkId>>,
    /// The range of its network, when that is not this peer's.
    other_range: Option<Range>,
    /// Whether its being of another network, or range, was reported.
    reported: bool,
}

/// What is to leave when the records of this input are on disk.
enum Draft {
    Send(PeerId, Message),
    Broadcast(Message),
    Answer(Ticket, Result<Answer, Refusal>),
    Event(Event),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    /// Batches up to this one are on disk.
    Works(u64),
    /// Nothing more gets there.
    Failed,
}

/// All times that belong to no single request.
#[derive(Debug)]
struct Timers {
    hail: Moment,
    tidy: Moment,
    /// When what others owe is asked for again.
    retry: Option<Moment>,
}

impl Ipam {
    /// The machine with its recovered state. It writes down that a new life began before it says anything.
    #[must_use]
    pub fn new(config: Config, state: State, mut rng: Rng, now: Moment) -> Self {
        let life = Life { incarnation: rng.u64(), born: state.seq, seq: state.seq };
        let knows_others = state.custody.living().any(|peer| peer != state.me);
        let mut ipam = Self {
            range: config.range.into(),
            mutants: state.custody.mutants(),
            life,
            answers: Answers::default(),
            members: BTreeMap::new(),
            lives: state.lives.clone(),
            clashes: BTreeMap::new(),
            tellings: 0,
            unfinished: Unfinished::default(),
            sum: None,
            seen: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            own_conflicts: Vec::new(),
            conflicts_changed: true,
            hints: BTreeMap::new(),
            pending: BTreeMap::new(),
            asks: BTreeMap::new(),
            proposal: None,
            proposal_due: None,
            round_seen: 0,
            leaving: None,
            listens_until: knows_others.then(|| now + LISTEN_TIME_MAX),
            calls: 0,
            cooling: Cooling::default(),
            timers: Timers { hail: now + HAIL_EVERY, tidy: now + TIDY_EVERY, retry: None },
            disk: Disk::Works(state.seq),
            records: Vec::new(),
            drafts: Vec::new(),
            ready: VecDeque::new(),
            held: VecDeque::new(),
            config,
            state,
            rng,
        };
        let freed: Vec<Addr> = ipam.state.book.freed().map(|(addr, _)| addr).collect();
        freed.into_iter().for_each(|addr| ipam.cooling.insert(addr, now));
        ipam.record(Record::Started(life.incarnation));
        ipam.settle(now);
        ipam.flush();
        ipam
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Moment) {
        match input {
            Input::Request { ticket, request, deadline } => self.request(ticket, request, deadline),
            Input::Cancel { ticket } => drop(self.pending.remove(&ticket)),
            Input::Received { from, bytes } => self.received(from, &bytes),
            Input::Copied { peer } => self.copied(peer),
            Input::Probed { address, answered } => self.probed(address, answered),
            Input::Members(members) => self.members(members, now),
            Input::Persisted(seq) => self.persisted(seq),
            Input::PersistFailed(_) => self.persist_failed(),
            Input::Timeout => {}
        }
        self.settle(now);
        self.flush();
    }

    /// The next thing that the shell shall do.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.ready.pop_front() {
            return Some(output);
        }
        let (seq, _) = self.held.front()?;
        let may_leave = match self.disk {
            Disk::Works(persisted) => *seq <= persisted,
            Disk::Failed => false,
        };
        (may_leave || self.mutants.has(Mutant::SpeakBeforeDisk))
            .then(|| self.held.pop_front().expect("it is there").1)
    }

    /// When [`Input::Timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let deadlines = self.pending.values().map(|pending| pending.deadline);
        let asks = self.asks.values().filter_map(Asking::due);
        let Timers { hail, tidy, retry } = self.timers;
        let founding = self.founding_due();
        let cooled = self.cooling.next().filter(|_| !self.pending.is_empty());
        let listens = self.listens_until.filter(|_| !self.pending.is_empty());
        let works = self.disk != Disk::Failed;
        deadlines
            .chain(asks)
            .chain([hail, tidy])
            .chain(retry)
            .chain(founding)
            .chain(cooled)
            .chain(listens)
            .min()
            .filter(|_| works)
    }

    /// This peer's network, for the handshake: two that differ refuse each other.
    #[must_use]
    pub fn network_id(&self) -> Option<NetworkId> {
        self.state.network.map(|network| network.id)
    }

    /// The durable state as one snapshot, from which a new log can start. It is worth as much as the log up to its
    /// position: take it when no [`Output::Persist`] is on its way, and drop the old log only when it is on disk.
    #[must_use]
    pub fn snapshot(&self) -> (u64, Vec<u8>) {
        (self.state.seq, encode_snapshot(&self.state))
    }

    /// Checks what one peer can see of its invariants.
    ///
    /// # Errors
    /// The first that is broken.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        self.state.check_invariants()
    }

    /// The durable state, to be looked at.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    fn me(&self) -> PeerId {
        self.state.me
    }

    /// Brings everything to rest that the input has set in motion.
    fn settle(&mut self, now: Moment) {
        if self.disk == Disk::Failed {
            return;
        }
        self.cooling.expire(now);
        self.listens_until = self.listens_until.filter(|until| now < *until);
        self.found(now);
        self.admit();
        self.succeed();
        self.leave();
        self.serve(now);
        self.say_conflicts();
        if self.timers.hail <= now {
            self.timers.hail = now + spread(HAIL_EVERY, &mut self.rng);
            if !self.mutants.has(Mutant::NoRepair) {
                self.hail_some();
                self.report_inactive();
            }
        }
        if self.timers.tidy <= now {
            self.timers.tidy = now + TIDY_EVERY;
            self.tidy();
        }
        self.call(now);
    }

    fn admit(&mut self) {
        if let Some(view) = self.state.custody.admission(&self.answers, &self.config.nickname)
            && self.state.fence().is_none()
        {
            self.deed(view);
            self.drafts.push(Draft::Event(Event::Admitted));
        }
    }

    /// Asks others for their word, again and again, as long as something waits for it.
    fn call(&mut self, now: Moment) {
        let wanted = self.wanted_of_others();
        if wanted.is_empty() {
            self.timers.retry = None;
            return;
        }
        if self.timers.retry.is_some_and(|at| now < at) {
            return;
        }
        self.timers.retry = Some(now + spread(RETRY_AFTER, &mut self.rng));
        self.calls = self.calls.wrapping_add(1);
        for peer in wanted {
            self.send(peer, Message::Call);
        }
    }

    fn hail_some(&mut self) {
        let mut peers: Vec<PeerId> = self.members.keys().copied().collect();
        for _ in 0..HAIL_FANOUT.min(peers.len()) {
            let at = self.rng.below(peers.len() as u64);
            let peer = peers.swap_remove(usize::try_from(at).expect("an index of a Vec"));
            self.hail(peer);
        }
    }

    fn tidy(&mut self) {
        if self.state.fence().is_none()
            && !self.mutants.has(Mutant::NeverCoalesce)
            && let Some(view) = self.state.custody.coalesce()
        {
            self.deed(view);
        }
        let lives = self.lives.iter().filter(|(peer, life)| self.state.lives.get(peer) != Some(life));
        let heard: Vec<Record> = lives.map(|(peer, life)| Record::Heard(*peer, *life)).collect();
        heard.into_iter().for_each(|record| self.record(record));
    }

    /// Applies a record, and puts it on its way to disk.
    fn record(&mut self, record: Record) {
        if matches!(record, Record::Learnt(_)) {
            self.sum = None;
        }
        if let Record::Freed(addr) = &record {
            self.seen.remove(addr);
        }
        if matches!(record, Record::Learnt(_) | Record::Freed(_)) {
            self.conflicts_changed |= !self.own_conflicts.is_empty();
        }
        for addr in self.state.apply(&record) {
            self.conflicts_changed = true;
            if let Some(holding) = self.state.book.holding(addr) {
                let event = Event::Conflict { address: addr.into(), ident: holding.ident.clone() };
                self.drafts.push(Draft::Event(event));
            }
        }
        if !(matches!(record, Record::Voted(_)) && self.mutants.has(Mutant::ForgetVotes)) {
            self.records.push(record);
        }
    }

    /// Merges `view`, if it says anything new.
    fn learn(&mut self, view: &View) {
        let news = self.state.custody.news(view);
        if !news.is_empty() || self.mutants.has(Mutant::TieKeepsMine) {
            self.record(Record::Learnt(news));
        }
    }

    /// Merges what this peer has done, and tells everybody.
    fn deed(&mut self, view: View) {
        self.learn(&view);
        self.broadcast_view(view, false);
    }

    fn broadcast_view(&mut self, view: View, whole: bool) {
        let messages = self.tell(view, whole);
        self.drafts.extend(messages.into_iter().map(Draft::Broadcast));
    }

    fn join(&mut self, network: Network, view: &View) {
        self.record(Record::Joined(network));
        self.learn(view);
        let me = self.me();
        if let Some(member) = self.state.custody.roster().get(&me) {
            let named = Member { nickname: self.config.nickname.clone(), ..member.clone() };
            self.learn(&View { roster: BTreeMap::from([(me, named)]), ..View::default() });
        }
        self.drafts.push(Draft::Event(Event::Joined(network.id)));
    }

    fn fence(&mut self, fence: Fence) {
        if self.state.fence().is_none() {
            self.record(Record::Fenced(fence));
            self.drafts.push(Draft::Event(Event::Fenced(fence)));
        }
    }

    fn send(&mut self, peer: PeerId, message: Message) {
        self.drafts.push(Draft::Send(peer, message));
    }

    fn has_cooled(&self, addr: Addr) -> bool {
        self.cooling.has_cooled(addr) || self.mutants.has(Mutant::NoCooling)
    }

    /// Sends the records to disk, and queues behind them what rests on them.
    fn flush(&mut self) {
        if self.disk == Disk::Failed {
            return self.refuse_all();
        }
        if !self.records.is_empty() {
            self.state.seq += 1;
            let records = std::mem::take(&mut self.records);
            let bytes = encode_batch(self.me(), self.state.seq, records);
            self.ready.push_back(Output::Persist { seq: self.state.seq, bytes });
        }
        self.life.seq = self.state.seq;
        for draft in std::mem::take(&mut self.drafts) {
            let output = match draft {
                Draft::Send(peer, message) => Output::Send { peer, bytes: self.envelope(message) },
                Draft::Broadcast(message) => Output::Broadcast { bytes: self.envelope(message) },
                Draft::Answer(ticket, result) => Output::Answer { ticket, result },
                Draft::Event(event) => Output::Event(event),
            };
            self.held.push_back((self.state.seq, output));
        }
    }

    fn envelope(&self, message: Message) -> Vec<u8> {
        Envelope { version: VERSION, life: self.life, network: self.network_id(), message }.encode()
    }

    fn persisted(&mut self, seq: u64) {
        match self.disk {
            Disk::Works(persisted) => self.disk = Disk::Works(persisted.max(seq.min(self.state.seq))),
            Disk::Failed => {}
        }
    }

    /// After a failed write nobody knows what is on disk: nothing more is said, and the next life reads it.
    fn persist_failed(&mut self) {
        self.disk = Disk::Failed;
    }

    /// Answers everybody who waits: the disk has failed.
    fn refuse_all(&mut self) {
        let mut tickets: BTreeSet<Ticket> = std::mem::take(&mut self.pending).into_keys().collect();
        for (_, output) in self.held.drain(..) {
            if let Output::Answer { ticket, .. } = output {
                tickets.insert(ticket);
            }
        }
        for draft in self.drafts.drain(..) {
            if let Draft::Answer(ticket, _) = draft {
                tickets.insert(ticket);
            }
        }
        self.records.clear();
        let refused = |ticket| Output::Answer { ticket, result: Err(Refusal::Disk) };
        self.ready.extend(tickets.into_iter().map(refused));
    }

    fn answer(&mut self, ticket: Ticket, result: Result<Answer, Refusal>) {
        self.drafts.push(Draft::Answer(ticket, result));
    }

    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn pending(&self) -> impl Iterator<Item = (Ticket, &Pending)> {
        self.pending.iter().map(|(ticket, pending)| (*ticket, pending))
    }

    pub(crate) fn reaches(&self, peer: PeerId) -> bool {
        peer == self.me() || self.members.contains_key(&peer)
    }

    /// The label of a peer: as it says itself, or as the roster remembers it.
    pub(crate) fn nickname_of(&self, peer: PeerId) -> Option<Nickname> {
        let remembered = || {
            let nickname = self.state.custody.roster().get(&peer).map(|member| member.nickname.clone());
            nickname.filter(|nickname| *nickname != Member::unnamed())
        };
        match self.members.get(&peer) {
            Some(neighbour) => Some(neighbour.reachable.nickname.clone()),
            None if peer == self.me() => Some(self.config.nickname.clone()),
            None => remembered(),
        }
    }

    /// The peers that were declared gone for good, with the labels that they had.
    pub fn retired(&self) -> impl Iterator<Item = (PeerId, Option<Nickname>)> + '_ {
        self.state.custody.retired().iter().map(|peer| (*peer, self.nickname_of(*peer)))
    }

    /// How many addresses a peer has in use, as far as it has said.
    pub(crate) fn in_use_at(&self, peer: PeerId) -> Option<u64> {
        if peer == self.me() {
            Some(self.own_hint().held)
        } else {
            self.hints.get(&peer).map(|hint| hint.held)
        }
    }

    pub(crate) fn disk_failed(&self) -> bool {
        self.disk == Disk::Failed
    }
}

/// `time` ±20 %.
fn spread(time: Duration, rng: &mut Rng) -> Duration {
    let percent = u32::try_from(80 + rng.below(41)).expect("at most 120");
    time * percent / 100
}
