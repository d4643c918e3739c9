//! The defects that Weave Net's address management is known for, put back one by one, and what finds each.
//!
//! | | defect | switch, or why it cannot be | found by |
//! |---|---|---|---|
//! | a | a removed peer's unheard changes outrun its remover | `ReclaimWithoutGather`: the heir asks all first, and writes in a new generation | model |
//! | b | two hosts remove one peer and both own its space | `EveryoneIsHeir`, `TieKeepsMine` | model, histories, laws |
//! | c | a removed peer that lives goes on, in conflict for ever | `IgnoreRetirement`; no message ends a connection | scenarios |
//! | d | space is taken away, and handed out all the same | `KeepIdleOnLoss` | histories |
//! | e | each allocation changes what is shared | cannot be: it is a record of its own | below |
//! | f | owner and addresses are written in two steps | `SpeakBeforeDisk`; one input is one frame of the log | histories, the log cut at each byte |
//! | g | whoever leaves does not wait for its heir | `LeaveWithoutAck` | scenarios |
//! | h | a copied state runs twice | `IgnoreClones` | scenarios |
//! | i | state is lost, the name stays, and old space is taken for free | `IgnoreClones`, `IgnoreRollback` | below, scenarios |
//! | j | state outlives the removal of its peer | `IgnoreRetirement` | scenarios |
//! | k | networks that were founded apart meet | `MergeNetworks` | scenarios |
//! | l | a quorum of whom a host happens to see | `QuorumOfOne` | histories |
//! | m | a restarted host votes twice | `ForgetVotes` | histories |
//! | n | whoever was seen once is given a share | `FoundForAllSeen` | below |
//! | o | a nickname that two bear names one of them | cannot be: the daemon refuses it | the daemon's tests |
//! | p | the map is never joined again | `NeverCoalesce` | scenarios |
//! | q | news that was lost is lost | `NoRepair` | histories |
//! | r | status is read beside the one who writes it | cannot be: one machine, `&mut self` | the compiler |
//! | s | a request waits for ever | `NoDeadline` | histories |
//! | t | no IPv6, no address for good | cannot be: histories run on IPv6, holders get theirs again | histories, scenarios |

use std::time::Duration;

use super::cluster::Cluster;
use super::laws::peer;
use crate::founding::Founding;
use crate::interface::{Input, Output, Refusal, Request, Ticket};
use crate::mutant::{Mutant, Mutants};

fn seeds(count: u8) -> Founding {
    Founding::Seeds((1..=count).map(peer).collect())
}

/// e: what is handed out of one's own space is nobody else's business.
#[test]
fn an_address_of_ones_own_is_given_without_a_word_to_anybody() {
    let mut two = Cluster::new(2, "10.0.0.0/24", |_| seeds(2), 1, Mutants::default());
    two.run(Duration::from_secs(2));
    let shared = two.ipam(0).state().custody.view();
    let now = two.now;
    let ipam = two.hosts[0].ipam.as_mut().unwrap();
    let subnet = "10.0.0.0/24".parse().unwrap();
    let request = Request::Allocate { ident: "a".parse().unwrap(), subnet };
    ipam.handle(Input::Request { ticket: Ticket(1), request, deadline: now }, now);
    let Some(Output::Persist { seq, .. }) = ipam.poll_output() else { panic!("it is written down first") };
    ipam.handle(Input::Persisted(seq), now);
    assert!(matches!(ipam.poll_output(), Some(Output::Answer { result: Ok(_), .. })));
    assert_eq!(ipam.poll_output(), None);
    assert_eq!(ipam.state().custody.view(), shared);
}

/// The second host loses its log, but neither its name nor its containers.
fn forgets_all(mutants: Mutants) -> Result<(), Refusal> {
    let mut two = Cluster::new(2, "10.0.0.0/26", |_| seeds(2), 1, mutants);
    two.run(Duration::from_secs(2));
    let ticket = two.allocate(1, "a");
    two.wait(ticket).unwrap();
    two.run(Duration::from_secs(15));
    two.crash(1, false);
    two.hosts[1].disk.log.clear();
    two.hosts[1].is_tainted = true;
    two.start(1);
    two.run(Duration::from_secs(15));
    let ticket = two.allocate(1, "b");
    two.wait(ticket).map(drop)
}

#[test]
fn a_peer_that_has_lost_its_state_and_kept_its_name_hands_out_nothing() {
    assert!(matches!(forgets_all(Mutants::default()), Err(Refusal::Fenced(_))));
    assert!(forgets_all(Mutants::only(Mutant::IgnoreClones)).is_ok(), "the mistake is found");
}

/// A host is seen, and goes away before the network is founded.
fn owners_without_the_one_that_left(mutants: Mutants) -> bool {
    let mut three = Cluster::new(3, "10.0.0.0/26", |_| Founding::Consensus { voters: 3 }, 1, mutants);
    three.run(Duration::from_secs(2));
    three.kill(2);
    three.run(Duration::from_secs(2));
    let ticket = three.allocate(0, "a");
    three.wait(ticket).unwrap();
    !three.ipam(0).state().custody.map().iter().any(|run| run.rec.owner == peer(3))
}

#[test]
fn whoever_has_left_before_the_foundation_owns_nothing() {
    assert!(owners_without_the_one_that_left(Mutants::default()));
    assert!(
        !owners_without_the_one_that_left(Mutants::only(Mutant::FoundForAllSeen)),
        "the mistake is found"
    );
}
