//! One peer's custody: the shared lattice, which of its own grants are active, and the rules by which it may change.
//!
//! Owns what is merged with others, and the deeds that make something new: granting, reclaiming, admission. A deed only
//! computes a [`View`]; [`Custody::learn`] is the one way in which anything changes. Owns no time, no disk and no
//! address in use.
//!
//! **Why no address has two holders.** Everything shared is a maximum or a union, so peers that have heard the same agree,
//! in whatever order they heard it. What remains is that no two peers are *active* on one address:
//!
//! 1. *Grants.* Only a holder grants, and it has given the address up on disk before anybody hears of the grant. So there
//!    is one record for each epoch, and at most one peer that may activate it.
//! 2. *Members.* A newcomer becomes a member when [`VOUCHERS`] members have it in their rosters on disk, or one member and
//!    everybody else it knows of. Space is granted to members only. So as long as one voucher lives, whoever collects the
//!    rosters of all living peers, and of those named in them, and so on, finds every living holder.
//! 3. *Reclaiming.* The heir collects exactly that: a whole view of every living peer of its roster, each given with the
//!    knowledge that the peer is retired, and each listing the heir. Whoever has answered so activates nothing more that
//!    the retired peer gave. What had been activated before is in the answers, under a greater epoch. So what the merged
//!    views ascribe to the retired peer has no holder.
//! 4. *One heir.* The heir is the least living peer of its own roster, newcomers counted. Of two that both believe so, the
//!    greater cannot have known of the lesser; but the lesser has its answer, which lists the lesser, so that answer was
//!    given after the greater had reclaimed, and shows it.
//!
//! This rests on four assumptions: state is never put back (else fenced at the first contact), never copied (else both
//! copies are fenced), a peer is retired only when it will never run again (else it is fenced, and its containers' addresses
//! are shown as conflicts), and not all vouchers of a peer are lost before they told anybody of it.
//!
//! A witness for each grant in place of vouchers for each member was tried and is weaker: two newcomers that only one member
//! knows can then witness for each other, and an heir on the other side of a partition overlooks both.

use std::collections::{BTreeMap, BTreeSet};

use mesh_wire::{Nickname, PeerId};

use crate::addr::Addr;
use crate::answers::Answers;
use crate::epoch::{Epoch, Rec};
use crate::map::{Change, CustodyMap, Run};
use crate::mutant::{Mutant, Mutants};
use crate::range::{Range, RangeSet, count_of};
use crate::view::{Member, ROSTER_MAX, View};

/// How many members must have a newcomer in their roster before it is one of them, unless all that it knows of have. What
/// it holds is safe as long as not all of its vouchers are lost before they told anybody of it.
pub const VOUCHERS: usize = 2;

/// The durable custody state of one peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Custody {
    me: PeerId,
    map: CustodyMap,
    roster: BTreeMap<PeerId, Member>,
    retired: BTreeSet<PeerId>,
    /// What is mine by record, but came from a peer that I knew to be retired: its heir may take it back.
    inactive: RangeSet,
    mutants: Mutants,
}

/// What [`Custody::learn`] changed in what this peer may hand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    /// It may hand these out now.
    Gained(Range),
    /// It may no longer.
    Lost(Range),
}

impl Custody {
    /// The custody of a peer that knows of nothing.
    #[must_use]
    pub const fn new(me: PeerId, mutants: Mutants) -> Self {
        Self {
            me,
            map: CustodyMap::new(),
            roster: BTreeMap::new(),
            retired: BTreeSet::new(),
            inactive: RangeSet::new(),
            mutants,
        }
    }

    /// The custody that [`Self::view`] and [`Self::inactive`] once gave.
    #[must_use]
    pub fn restore(me: PeerId, view: &View, inactive: &[Range], mutants: Mutants) -> Self {
        let mut map = CustodyMap::new();
        view.runs.iter().for_each(|run| drop(map.merge(*run)));
        let roster = view.roster.clone();
        let retired = view.retired.clone();
        Self { me, map, roster, retired, inactive: inactive.iter().copied().collect(), mutants }
    }

    /// Merges what `view` says; never fails, and does not depend on what is in use here. Returns what followed for this
    /// peer, in order.
    pub fn learn(&mut self, view: &View) -> Vec<Shift> {
        for (peer, member) in &view.roster {
            self.roster.entry(*peer).or_insert_with(|| member.clone()).merge(member);
        }
        self.retired.extend(&view.retired);
        let mut shifts = Vec::new();
        for run in &view.runs {
            for change in self.merge_run(*run) {
                self.shift(change, &mut shifts);
            }
        }
        shifts
    }

    fn merge_run(&mut self, run: Run) -> Vec<Change> {
        if !self.mutants.has(Mutant::TieKeepsMine) {
            return self.map.merge(run);
        }
        let newer = |change: &Change| change.old.is_none_or(|old| old.epoch < change.new.epoch);
        let changes: Vec<Change> = self.map.news(run).into_iter().filter(newer).collect();
        changes.iter().for_each(|change| self.map.set(change.range, change.new));
        changes
    }

    fn shift(&mut self, change: Change, shifts: &mut Vec<Shift>) {
        let was_active: Vec<Range> = match change.old {
            Some(old) if old.owner == self.me => self.active_within(change.range).iter().collect(),
            Some(_) | None => Vec::new(),
        };
        let is_mine = change.new.owner == self.me;
        let is_active = is_mine && self.may_activate(change.new);
        if is_mine && !is_active {
            self.inactive.insert(change.range);
        } else {
            self.inactive.remove(change.range);
        }
        if is_active {
            let mut gained = RangeSet::from_iter([change.range]);
            was_active.into_iter().for_each(|range| gained.remove(range));
            shifts.extend(gained.iter().map(Shift::Gained));
        } else {
            shifts.extend(was_active.into_iter().map(Shift::Lost));
        }
    }

    /// A grant of a peer that is known to be retired stays inactive: its heir may have counted on that.
    fn may_activate(&self, rec: Rec) -> bool {
        rec.donor == self.me
            || !self.retired.contains(&rec.donor)
            || self.mutants.has(Mutant::ActivateThoughDonorRetired)
    }

    /// `range` without what is inactive; all of `range` is mine.
    fn active_within(&self, range: Range) -> RangeSet {
        let mut active = RangeSet::from_iter([range]);
        self.inactive.within(range).for_each(|part| active.remove(part));
        active
    }

    /// The part of `view` that [`Self::learn`] would change something by.
    #[must_use]
    pub fn news(&self, view: &View) -> View {
        let runs = view.runs.iter().flat_map(|run| self.map.news(*run));
        let is_news = |peer: &PeerId, member: &Member| {
            self.roster.get(peer).is_none_or(|known| known.clone().merge(member))
        };
        View {
            runs: runs.map(|change| Run { range: change.range, rec: change.new }).collect(),
            roster: view.roster.iter().filter(|(p, m)| is_news(p, m)).map(|(p, m)| (*p, m.clone())).collect(),
            retired: view.retired.difference(&self.retired).copied().collect(),
        }
    }

    /// All that this peer knows.
    #[must_use]
    pub fn view(&self) -> View {
        View { runs: self.map.iter().collect(), roster: self.roster.clone(), retired: self.retired.clone() }
    }

    /// What it may hand out: its own, and active.
    #[must_use]
    pub fn active(&self) -> RangeSet {
        let mine = self.map.iter().filter(|run| run.rec.owner == self.me);
        let mut active: RangeSet = mine.map(|run| run.range).collect();
        self.inactive.iter().for_each(|range| active.remove(range));
        active
    }

    /// Whether it may hand out `addr`.
    #[must_use]
    pub fn is_active(&self, addr: Addr) -> bool {
        self.map.get(addr).is_some_and(|rec| rec.owner == self.me) && !self.inactive.contains(addr)
    }

    /// Its own grants that never became active.
    #[must_use]
    pub const fn inactive(&self) -> &RangeSet {
        &self.inactive
    }

    /// The merged records.
    #[must_use]
    pub const fn map(&self) -> &CustodyMap {
        &self.map
    }

    /// Members and newcomers, retired ones too.
    #[must_use]
    pub const fn roster(&self) -> &BTreeMap<PeerId, Member> {
        &self.roster
    }

    /// Peers that will never act again.
    #[must_use]
    pub const fn retired(&self) -> &BTreeSet<PeerId> {
        &self.retired
    }

    /// Those in the roster that may still act, this peer too.
    pub fn living(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.roster.keys().copied().filter(|peer| !self.retired.contains(peer))
    }

    /// Whether `peer` is a member as far as this peer knows.
    #[must_use]
    pub fn is_admitted(&self, peer: PeerId) -> bool {
        self.roster.get(&peer).is_some_and(|member| member.admitted)
    }

    /// Whether this peer is a member that may make records.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.is_admitted(self.me)
            && (!self.retired.contains(&self.me) || self.mutants.has(Mutant::IgnoreRetirement))
    }

    /// Gives `block`, all of it active and none of it in use, to the member `to`; `None` if that may not be.
    #[must_use]
    pub fn grant(&self, block: Range, to: PeerId) -> Option<View> {
        let allowed = self.is_member()
            && to != self.me
            && self.is_admitted(to)
            && !self.retired.contains(&to)
            && self.owns(block);
        allowed.then(|| self.rewrite(block, to))
    }

    /// Whether all of `range` is active.
    #[must_use]
    pub fn owns(&self, range: Range) -> bool {
        let mine = self.map.runs_within(range).filter(|run| run.rec.owner == self.me);
        count_of(mine.map(|run| run.range)) == range.count() && self.inactive.within(range).next().is_none()
    }

    /// The records of `range` raised by one, for `owner`, from me.
    fn rewrite(&self, range: Range, owner: PeerId) -> View {
        let raised =
            |rec: Rec| if self.mutants.has(Mutant::GrantKeepsEpoch) { rec.epoch } else { rec.epoch.next() };
        let runs = self.map.runs_within(range);
        let runs = runs
            .map(|run| Run { range: run.range, rec: Rec { epoch: raised(run.rec), owner, donor: self.me } });
        View { runs: runs.collect(), ..View::default() }
    }

    /// Writes `peer` into the roster; `None` if it is there, or the roster is full.
    #[must_use]
    pub fn enrol(&self, peer: PeerId, nickname: &Nickname) -> Option<View> {
        if self.roster.contains_key(&peer) || self.roster.len() >= ROSTER_MAX {
            return None;
        }
        let member = Member { admitted: false, nickname: nickname.clone() };
        Some(View { roster: BTreeMap::from([(peer, member)]), ..View::default() })
    }

    /// Makes this peer a member when enough members have vouched for it.
    #[must_use]
    pub fn admission(&self, answers: &Answers, nickname: &Nickname) -> Option<View> {
        if self.is_admitted(self.me) || self.map.is_empty() || self.retired.contains(&self.me) {
            return None;
        }
        (self.is_vouched_for(answers) || self.mutants.has(Mutant::AdmitWithoutVouchers)).then(|| {
            let member = Member { admitted: true, nickname: nickname.clone() };
            View { roster: BTreeMap::from([(self.me, member)]), ..View::default() }
        })
    }

    /// Whether so many have written this peer down that no heir can overlook it: [`VOUCHERS`] members, or at least one
    /// member and everybody else that this peer knows of, newcomers too.
    fn is_vouched_for(&self, answers: &Answers) -> bool {
        let vouches = |peer: &PeerId| {
            answers.is_member(*peer) || (self.mutants.has(Mutant::NewcomersVouch) && answers.has(*peer))
        };
        let members = self.living().filter(vouches).count();
        members >= VOUCHERS || (members > 0 && self.silent(answers).is_empty())
    }

    /// The living peers that have not said yet that they have written this peer down.
    #[must_use]
    pub fn silent(&self, answers: &Answers) -> BTreeSet<PeerId> {
        let counted =
            |peer: &PeerId| !self.mutants.has(Mutant::NewcomersUncounted) || self.is_admitted(*peer);
        let others = self.living().filter(|peer| *peer != self.me).filter(counted);
        others.filter(|peer| !answers.has(*peer)).collect()
    }

    /// Who takes over from retired peers: the least living peer of the roster, newcomer or not. A newcomer that another
    /// did not count could later believe itself the least, and act on answers from before.
    #[must_use]
    pub fn heir(&self) -> Option<PeerId> {
        self.living().next()
    }

    /// The living peers whose answers are missing before anything of `gone` may be reclaimed.
    #[must_use]
    pub fn unanswered(&self, gone: PeerId, answers: &Answers) -> BTreeSet<PeerId> {
        let asked = self.living().filter(|peer| *peer != self.me);
        let asked = asked.filter(|p| !self.mutants.has(Mutant::GatherSkipsNewcomers) || self.is_admitted(*p));
        asked.filter(|peer| !answers.knows_retired(*peer, gone)).collect()
    }

    /// The retired peers from whom something may be there to be reclaimed.
    #[must_use]
    pub fn legacies(&self) -> BTreeSet<PeerId> {
        if self.retired.is_empty() {
            return BTreeSet::new();
        }
        let runs = self.map.iter().flat_map(|run| {
            let open = run.rec.owner != self.me || self.inactive.within(run.range).next().is_some();
            [Some(run.rec.owner), open.then_some(run.rec.donor)]
        });
        runs.flatten().filter(|peer| self.retired.contains(peer)).collect()
    }

    /// Takes over what `gone` held, and what it granted and the living grantee reports as never activated. `None` if
    /// this peer is not the heir, an answer is missing, or nothing is left.
    #[must_use]
    pub fn reclaim(&self, gone: PeerId, answers: &Answers) -> Option<View> {
        let is_heir = self.heir() == Some(self.me) || self.mutants.has(Mutant::EveryoneIsHeir);
        let is_complete =
            self.unanswered(gone, answers).is_empty() || self.mutants.has(Mutant::ReclaimWithoutGather);
        if !(self.is_member() && self.retired.contains(&gone) && is_heir && is_complete) {
            return None;
        }
        let mut runs = Vec::new();
        for run in self.map.iter() {
            if run.rec.owner == gone {
                runs.push(self.inherited(run));
            } else if run.rec.donor == gone && run.rec.owner == self.me {
                runs.extend(
                    self.inactive.within(run.range).map(|range| self.inherited(Run { range, ..run })),
                );
            } else if run.rec.donor == gone {
                let forfeit = self.forfeited(run, answers);
                runs.extend(forfeit.into_iter().map(|range| self.inherited(Run { range, ..run })));
            }
        }
        (!runs.is_empty()).then(|| View { runs, ..View::default() })
    }

    fn forfeited(&self, run: Run, answers: &Answers) -> Vec<Range> {
        if self.mutants.has(Mutant::ForfeitEverything) {
            return vec![run.range];
        }
        let same = answers.forfeits().runs_within(run.range).filter(|forfeit| forfeit.rec == run.rec);
        same.map(|forfeit| forfeit.range).collect()
    }

    fn inherited(&self, run: Run) -> Run {
        let retired = u32::try_from(self.retired.len()).unwrap_or(u32::MAX);
        let generation = retired.max(run.rec.epoch.generation);
        let epoch = Epoch { generation, ..run.rec.epoch.next() };
        Run { range: run.range, rec: Rec { epoch, owner: self.me, donor: self.me } }
    }

    /// Joins neighbouring active runs of this peer, so that the map stays short; `None` if there are none.
    #[must_use]
    pub fn coalesce(&self) -> Option<View> {
        if !self.is_member() {
            return None;
        }
        let mut runs = Vec::new();
        for range in self.active().iter() {
            let epochs: Vec<Epoch> = self.map.runs_within(range).map(|run| run.rec.epoch).collect();
            if let (2.., Some(epoch)) = (epochs.len(), epochs.iter().max()) {
                runs.push(Run { range, rec: Rec { epoch: epoch.next(), owner: self.me, donor: self.me } });
            }
        }
        (!runs.is_empty()).then(|| View { runs, ..View::default() })
    }

    /// Whether `view` has a record that names me as its donor and is news to me. As nothing is said before it is on
    /// disk, I can only have forgotten it: this state is older than what I did with it. Only when `founding`, that is,
    /// when I belong to no network yet, records of its foundation may name me: others had my vote, and founded it.
    #[must_use]
    pub fn reveals_forgotten_deeds(&self, view: &View, founding: bool) -> bool {
        let mine = view.runs.iter().filter(|run| run.rec.donor == self.me);
        let mut deeds =
            mine.filter(|run| !(founding && run.rec.epoch == Epoch::FIRST && run.rec.owner == self.me));
        deeds.any(|run| !self.map.news(*run).is_empty())
    }

    /// Whose custody it is.
    #[must_use]
    pub const fn me(&self) -> PeerId {
        self.me
    }

    /// The deliberate mistake, if any.
    #[must_use]
    pub const fn mutants(&self) -> Mutants {
        self.mutants
    }
}
