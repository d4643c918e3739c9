//! The peers that a router was told of and has no connection with, as users are told of them who wait for more peers.

use std::fmt;

use mesh_ipam::{Refusal, Waiting};
use mesh_node::{Node, TargetState, TargetStatus};
use mesh_wire::Moment;

/// Most peers that are named; of more, how many there are.
const SHOWN_MAX: usize = 8;

/// Them, each with what came of the last attempt to reach it. Shown, it is the end of a sentence, and nothing if there is none.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Absent(Vec<String>);

impl Absent {
    /// Those of now, if they may be what `waiting` waits for: votes, or somebody who founds the network.
    pub(crate) fn for_wait(waiting: &Waiting, node: &Node, now: Moment) -> Self {
        match waiting {
            Waiting::Consensus { .. } | Waiting::Founder => {
                Self(node.target_status(now).iter().filter_map(shown).collect())
            }
            Waiting::Range { .. }
            | Waiting::Admission { .. }
            | Waiting::Word
            | Waiting::Space { .. }
            | Waiting::Cooling
            | Waiting::Owners { .. }
            | Waiting::Heir { .. }
            | Waiting::Answers { .. }
            | Waiting::HandOver { .. }
            | Waiting::Farewell => Self::default(),
        }
    }

    /// Those of now, if they may be why a request was refused.
    pub(crate) fn for_refusal(refusal: &Refusal, node: &Node, now: Moment) -> Self {
        match refusal {
            Refusal::TimedOut(waiting) => Self::for_wait(waiting, node, now),
            Refusal::Fenced(_)
            | Refusal::Disk
            | Refusal::OutsideRange(..)
            | Refusal::Edge(_)
            | Refusal::Held(..)
            | Refusal::InUse { .. }
            | Refusal::Exhausted { .. }
            | Refusal::HostFull
            | Refusal::Unknown(_)
            | Refusal::UnknownPeer(_)
            | Refusal::StillReachable(_)
            | Refusal::Oneself
            | Refusal::Busy => Self::default(),
        }
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let named = &self.0[..self.0.len().min(SHOWN_MAX)];
        write!(f, "; not connected: {}", named.join(", "))?;
        match self.0.len() - named.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

fn shown(status: &TargetStatus) -> Option<String> {
    match status.state {
        TargetState::Waiting | TargetState::Connecting => Some(match &status.last_error {
            Some(error) => format!("{} ({error})", status.target),
            None => status.target.to_string(),
        }),
        TargetState::Connected | TargetState::Itself | TargetState::Enough => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_the_first_are_named() {
        let absent = |count: usize| Absent((0..count).map(|n| format!("h{n}")).collect()).to_string();
        assert_eq!(absent(0), "");
        assert_eq!(absent(2), "; not connected: h0, h1");
        assert_eq!(absent(9), "; not connected: h0, h1, h2, h3, h4, h5, h6, h7 and 1 more");
    }
}
