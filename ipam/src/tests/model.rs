//! Every reachable state of a few peers and addresses, by the shipped rules of custody.
//!
//! The network loses, doubles, delays and reorders: a message that was ever said may arrive at any time, at anybody, any
//! number of times. Peers die for good, lose what they keep in memory, and are retired by anybody once they are dead.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_wire::PeerId;
use stateright::{Checker, HasDiscoveries, Model, Property};

use super::laws::peer;
use super::{say, setting};
use crate::addr::Addr;
use crate::answers::Answers;
use crate::custody::Custody;
use crate::epoch::{Epoch, Rec};
use crate::map::Run;
use crate::mutant::{Mutant, Mutants};
use crate::range::Range;
use crate::view::{Member, View};

/// How much may happen.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Members from the start; the first has all addresses.
    members: u8,
    newcomers: u8,
    addresses: u8,
    grants: u8,
    deaths: u8,
    /// How often a peer forgets what it keeps in memory.
    restarts: u8,
    /// Whether grants also travel alone, apart from the rest of what the donor knows.
    deltas: bool,
    /// Whether living peers are retired, against the rules.
    retire_living: bool,
    mutant: Option<Mutant>,
}

const STATIC: Bounds = Bounds {
    members: 3,
    newcomers: 0,
    addresses: 1,
    grants: 2,
    deaths: 1,
    restarts: 0,
    deltas: false,
    retire_living: false,
    mutant: None,
};

const ONE_NEWCOMER: Bounds = Bounds { members: 2, newcomers: 1, grants: 1, ..STATIC };

const TWO_NEWCOMERS: Bounds = Bounds { members: 1, newcomers: 2, grants: 1, ..STATIC };

const SPACE_MOVES: &str = "all space moves";

const DEAD_ARE_INHERITED: &str = "the dead are inherited from";

/// More steps than any model takes that is to be exhausted.
const STEPS_MAX: usize = 20_000_000;

/// Steps of each model that cannot be exhausted, when nothing else is said.
const LONG_STEPS: u64 = 150_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Peer {
    custody: Custody,
    answers: Answers,
    alive: bool,
}

/// What a peer once said of all that it knew, or of one grant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Said {
    from: u8,
    whole: bool,
    view: View,
    inactive: Vec<Range>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    peers: Vec<Arc<Peer>>,
    said: BTreeSet<Arc<Said>>,
    grants: u8,
    deaths: u8,
    restarts: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Deliver(Arc<Said>, u8),
    Grant(u8, Addr, u8),
    Enrol(u8, u8),
    Die(u8),
    Restart(u8),
    Retire(u8, u8),
    Reclaim(u8, u8),
}

impl Bounds {
    fn count(&self) -> u8 {
        self.members + self.newcomers
    }

    fn all(&self) -> std::ops::Range<u8> {
        0..self.count()
    }
}

fn member(admitted: bool) -> Member {
    Member { admitted, nickname: "n".parse().unwrap() }
}

impl World {
    fn peer_mut(&mut self, number: u8) -> &mut Peer {
        Arc::make_mut(&mut self.peers[usize::from(number)])
    }

    fn peer(&self, number: u8) -> &Peer {
        &self.peers[usize::from(number)]
    }

    /// A peer learns something, and says all that it knows then.
    fn learn(&mut self, number: u8, view: &View) {
        let peer = self.peer_mut(number);
        peer.custody.learn(view);
        if let Some(admission) = peer.custody.admission(&peer.answers, &"n".parse().unwrap()) {
            peer.custody.learn(&admission);
        }
        self.speak(number);
    }

    fn speak(&mut self, number: u8) {
        let said = said_by(self, number);
        self.said.insert(Arc::new(said));
    }
}

/// All that a peer knows.
fn said_by(world: &World, number: u8) -> Said {
    let custody = &world.peer(number).custody;
    Said { from: number, whole: true, view: custody.view(), inactive: custody.inactive().iter().collect() }
}

impl Model for Bounds {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let all = Range::new(Addr(0), Addr(u128::from(self.addresses) - 1)).unwrap();
        let rec = Rec { epoch: Epoch::FIRST, owner: peer(0), donor: peer(0) };
        let genesis = View {
            runs: vec![Run { range: all, rec }],
            roster: (0..self.members).map(|number| (peer(number), member(true))).collect(),
            ..View::default()
        };
        let mutants = self.mutant.map_or_else(Mutants::default, Mutants::only);
        let new = |number| Peer {
            custody: Custody::new(peer(number), mutants),
            answers: Answers::default(),
            alive: true,
        };
        let peers = self.all().map(|number| Arc::new(new(number))).collect();
        let mut world = World { peers, said: BTreeSet::new(), grants: 0, deaths: 0, restarts: 0 };
        (0..self.members).for_each(|number| world.learn(number, &genesis));
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for i in self.all().filter(|i| world.peer(*i).alive) {
            let custody = &world.peer(i).custody;
            for addr in (0..self.addresses).map(|addr| Addr(addr.into())) {
                if world.grants < self.grants && custody.is_active(addr) {
                    actions.extend(self.all().map(|to| Action::Grant(i, addr, to)));
                }
            }
            if custody.is_member() {
                let unknown = self.all().filter(|j| !custody.roster().contains_key(&peer(*j)));
                actions.extend(unknown.filter(|j| world.peer(*j).alive).map(|j| Action::Enrol(i, j)));
            }
            if world.deaths < self.deaths {
                actions.push(Action::Die(i));
            }
            if world.restarts < self.restarts && world.peer(i).answers != Answers::default() {
                actions.push(Action::Restart(i));
            }
            for j in self.all().filter(|j| *j != i && custody.roster().contains_key(&peer(*j))) {
                if !custody.retired().contains(&peer(j)) && (self.retire_living || !world.peer(j).alive) {
                    actions.push(Action::Retire(i, j));
                }
                actions.push(Action::Reclaim(i, j));
            }
            let others = world.said.iter().filter(|said| said.from != i);
            actions.extend(others.map(|said| Action::Deliver(Arc::clone(said), i)));
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Deliver(said, to) => {
                // A peer that knows of nobody hears only of those that have written it down.
                let custody = &world.peer(to).custody;
                if custody.map().is_empty() && !(said.whole && said.view.roster.contains_key(&peer(to))) {
                    return None;
                }
                let peer_to = world.peer_mut(to);
                if said.whole {
                    peer_to.answers.note(peer(to), peer(said.from), &said.view, &said.inactive);
                }
                let before = peer_to.custody.clone();
                let answers_changed = peer_to.answers != last.peer(to).answers;
                let admission = |p: &Peer| p.custody.admission(&p.answers, &"n".parse().unwrap());
                peer_to.custody.learn(&said.view);
                if let Some(admission) = admission(peer_to) {
                    peer_to.custody.learn(&admission);
                }
                if peer_to.custody != before {
                    world.speak(to);
                } else if !answers_changed {
                    return None;
                }
            }
            Action::Grant(from, addr, to) => {
                let view = world.peer(from).custody.grant(Range::single(addr), peer(to))?;
                world.learn(from, &view);
                world.grants += 1;
                if self.deltas {
                    let said = Said { from, whole: false, view, inactive: Vec::new() };
                    world.said.insert(Arc::new(said));
                }
            }
            Action::Enrol(by, newcomer) => {
                let view = world.peer(by).custody.enrol(peer(newcomer), &"n".parse().unwrap())?;
                world.learn(by, &view);
            }
            Action::Die(who) => {
                world.peer_mut(who).alive = false;
                world.deaths += 1;
            }
            Action::Restart(who) => {
                world.peer_mut(who).answers = Answers::default();
                world.restarts += 1;
            }
            Action::Retire(by, gone) => {
                let view = View { retired: BTreeSet::from([peer(gone)]), ..View::default() };
                world.learn(by, &view);
            }
            Action::Reclaim(by, gone) => {
                let heir = world.peer(by);
                let view = heir.custody.reclaim(peer(gone), &heir.answers)?;
                world.learn(by, &view);
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no address has two holders (S2)", |bounds: &Self, world: &World| {
                (0..bounds.addresses).all(|addr| holders(world, Addr(addr.into())) <= 1)
            }),
            Property::always(
                "records of one epoch are equal, but for retired owners (S3)",
                |bounds: &Self, world: &World| {
                    (0..bounds.addresses).all(|addr| epochs_are_unique(world, Addr(addr.into())))
                },
            ),
            Property::sometimes(SPACE_MOVES, |bounds: &Self, world: &World| {
                (0..bounds.addresses)
                    .all(|addr| world.peers[1..].iter().any(|p| p.custody.is_active(Addr(addr.into()))))
            }),
            Property::sometimes(DEAD_ARE_INHERITED, |bounds: &Self, world: &World| {
                bounds.deaths == 0
                    || world
                        .peers
                        .iter()
                        .any(|p| p.custody.map().iter().any(|run| run.rec.epoch.generation > 0))
            }),
        ]
    }
}

fn holders(world: &World, addr: Addr) -> usize {
    let holds = |p: &&Arc<Peer>| p.alive && p.custody.is_member() && p.custody.is_active(addr);
    world.peers.iter().filter(holds).count()
}

fn epochs_are_unique(world: &World, addr: Addr) -> bool {
    let retired: BTreeSet<PeerId> = world.peers.iter().flat_map(|p| p.custody.retired().clone()).collect();
    let recs = world.said.iter().flat_map(|said| &said.view.runs).filter(|run| run.range.contains(addr));
    let recs: BTreeSet<Rec> = recs.map(|run| run.rec).filter(|rec| !retired.contains(&rec.owner)).collect();
    let epochs: BTreeSet<Epoch> = recs.iter().map(|rec| rec.epoch).collect();
    epochs.len() == recs.len()
}

/// What a walk through the model has shown.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Every reachable state was seen.
    Complete,
    /// As many as were asked for.
    Bounded,
    /// Every reachable state was seen, and what the rules are for never happened.
    Vacuous,
    Violated(&'static str),
}

/// Walks through the model until it is exhausted, something is violated, or `steps_max` steps were taken.
fn check(bounds: Bounds, steps_max: usize) -> Outcome {
    let builder = bounds.checker().threads(2).target_state_count(steps_max);
    let checker = builder.finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let (states, steps, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
    let found: BTreeSet<&str> = checker.discoveries().keys().copied().collect();
    let violated = found.iter().copied().find(|name| name.contains("(S"));
    say(format_args!("{bounds:?}: {states} states, {steps} steps, depth {depth}, {violated:?}"));
    match violated {
        Some(name) => Outcome::Violated(name),
        None if steps >= steps_max => Outcome::Bounded,
        None if !(found.contains(SPACE_MOVES) && found.contains(DEAD_ARE_INHERITED)) => Outcome::Vacuous,
        None => Outcome::Complete,
    }
}

#[test]
fn three_members_with_two_addresses_are_safe_in_every_reachable_state() {
    assert_eq!(check(Bounds { addresses: 2, ..STATIC }, STEPS_MAX), Outcome::Complete);
}

#[test]
fn two_of_three_members_may_die() {
    assert_eq!(check(Bounds { deaths: 2, ..STATIC }, STEPS_MAX), Outcome::Complete);
}

#[test]
fn restarts_and_grants_that_travel_alone_do_no_harm() {
    assert_eq!(check(Bounds { restarts: 1, grants: 1, ..STATIC }, STEPS_MAX), Outcome::Complete);
    assert_eq!(check(Bounds { deltas: true, ..STATIC }, STEPS_MAX), Outcome::Complete);
}

#[test]
fn a_newcomer_is_safe_in_every_reachable_state() {
    assert_eq!(check(ONE_NEWCOMER, STEPS_MAX), Outcome::Complete);
}

#[test]
fn each_mistake_is_found() {
    for (mutant, bounds) in [
        (Mutant::ReclaimWithoutGather, STATIC),
        (Mutant::EveryoneIsHeir, STATIC),
        (Mutant::ActivateThoughDonorRetired, STATIC),
        (Mutant::GrantKeepsEpoch, STATIC),
        (Mutant::ForfeitEverything, STATIC),
        (Mutant::AdmitWithoutVouchers, ONE_NEWCOMER),
        (Mutant::GatherSkipsNewcomers, ONE_NEWCOMER),
        (Mutant::NewcomersUncounted, TWO_NEWCOMERS),
    ] {
        let outcome = check(Bounds { mutant: Some(mutant), ..bounds }, STEPS_MAX);
        assert!(matches!(outcome, Outcome::Violated(_)), "{mutant:?} is not found");
    }
}

#[test]
fn a_living_peer_that_is_retired_breaks_the_rules_and_is_found() {
    let outcome = check(Bounds { retire_living: true, ..STATIC }, STEPS_MAX);
    assert!(matches!(outcome, Outcome::Violated(_)), "{outcome:?}");
}

/// The long run: more peers, more deaths. `MESH_IPAM_STEPS` says how many steps each may take; the first is exhausted
/// within 2,100,000.
#[test]
fn more_peers_are_safe_as_far_as_is_looked() {
    let steps = usize::try_from(setting("MESH_IPAM_STEPS", LONG_STEPS)).unwrap();
    for bounds in [
        TWO_NEWCOMERS,
        Bounds { addresses: 2, grants: 3, ..STATIC },
        Bounds { members: 4, ..STATIC },
        Bounds { members: 1, newcomers: 3, grants: 2, ..STATIC },
        Bounds { members: 2, newcomers: 2, grants: 2, ..STATIC },
        Bounds { members: 3, newcomers: 1, grants: 2, deltas: true, ..STATIC },
        Bounds { addresses: 2, grants: 3, deaths: 2, restarts: 1, deltas: true, ..STATIC },
    ] {
        assert!(!matches!(check(bounds, steps), Outcome::Violated(_)));
    }
}

/// Plays a story; deliveries are of what the speaker knows then.
struct Story {
    bounds: Bounds,
    world: World,
}

impl Story {
    fn new(bounds: Bounds) -> Self {
        let world = bounds.init_states().remove(0);
        Self { bounds, world }
    }

    fn act(&mut self, action: Action) {
        if let Some(next) = self.bounds.next_state(&self.world, action) {
            self.world = next;
        }
    }

    fn tell(&mut self, from: u8, to: u8) {
        let said = Arc::new(said_by(&self.world, from));
        self.act(Action::Deliver(said, to));
    }
}

/// Members 0 and 1 are parted; 2 and 3 join through 0, which gives to 3 and dies; 1 retires it.
fn two_newcomers_behind_one_member(mutant: Option<Mutant>) -> usize {
    let mut story = Story::new(Bounds { members: 2, newcomers: 2, grants: 1, mutant, ..STATIC });
    story.act(Action::Enrol(0, 2));
    story.act(Action::Enrol(0, 3));
    for (from, to) in [(0, 2), (0, 3), (2, 3), (3, 2), (2, 0), (3, 0)] {
        story.tell(from, to);
    }
    story.act(Action::Grant(0, Addr(0), 3));
    story.tell(0, 3);
    story.act(Action::Die(0));
    story.act(Action::Retire(1, 0));
    story.act(Action::Reclaim(1, 0));
    assert!(story.world.peer(1).custody.is_active(Addr(0)), "the heir does not know of the newcomers");
    holders(&story.world, Addr(0))
}

#[test]
fn newcomers_cannot_vouch_each_other_into_a_network_that_does_not_know_them() {
    assert_eq!(two_newcomers_behind_one_member(None), 1);
    assert_eq!(two_newcomers_behind_one_member(Some(Mutant::NewcomersVouch)), 2, "the mistake is found");
}

/// The limit of the design: both who vouched for a newcomer die before they told anybody else.
#[test]
fn a_newcomer_whose_vouchers_are_all_lost_unheard_is_overlooked() {
    let mut story = Story::new(Bounds { newcomers: 1, deaths: 2, ..STATIC });
    story.act(Action::Enrol(0, 3));
    story.act(Action::Enrol(1, 3));
    for (from, to) in [(0, 3), (1, 3), (3, 0)] {
        story.tell(from, to);
    }
    story.act(Action::Grant(0, Addr(0), 3));
    story.tell(0, 3);
    for gone in [0, 1] {
        story.act(Action::Die(gone));
        story.act(Action::Retire(2, gone));
    }
    story.act(Action::Reclaim(2, 0));
    assert_eq!(holders(&story.world, Addr(0)), 2);
}
