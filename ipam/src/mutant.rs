//! Deliberate mistakes, each of which some test must find. In what is shipped none can be switched on.

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// The heir does not wait for the others' answers, as in Weave Net, where each peer takes over by itself.
    ReclaimWithoutGather,
    /// Every member takes itself for the heir.
    EveryoneIsHeir,
    /// What is said does not wait for the disk.
    SpeakBeforeDisk,
    /// A grant becomes active although its donor is known to be retired.
    ActivateThoughDonorRetired,
    /// Whole views are merged without the retired peers that they name.
    VouchWithoutRetired,
    /// A newcomer counts as a member at once.
    AdmitWithoutVouchers,
    /// Newcomers vouch for newcomers.
    NewcomersVouch,
    /// Newcomers need no word of those that are newcomers themselves.
    NewcomersUncounted,
    /// The heir does not wait for newcomers.
    GatherSkipsNewcomers,
    /// Whoever is asked for all it knows does not write the asker down first.
    AnswerWithoutRoster,
    /// Of two records of one epoch each peer keeps its own, as in Weave Net.
    TieKeepsMine,
    /// A grant does not raise the epoch.
    GrantKeepsEpoch,
    /// A grant may contain addresses that are held.
    GrantHeld,
    /// A peer goes on handing out what it lost or gave away, as in Weave Net, whose lists could only grow.
    KeepIdleOnLoss,
    /// Owners forget what others report as not activated, and take all that the retired peer gave.
    ForfeitEverything,
    /// A freed address is reused at once, as in Weave Net.
    NoCooling,
    /// The first and last address of a subnet are handed out.
    HandOutEdges,
    /// A vote for a founder is not written down, as in Weave Net.
    ForgetVotes,
    /// A quorum is any one vote.
    QuorumOfOne,
    /// A network is founded for all peers that were ever seen, as in Weave Net, whether they are there or not.
    FoundForAllSeen,
    /// Two lives of one identity at once go unnoticed.
    IgnoreClones,
    /// News of an own deed that is not remembered goes unnoticed.
    IgnoreRollback,
    /// A peer that is told that it was retired goes on.
    IgnoreRetirement,
    /// The second network is merged with the first.
    MergeNetworks,
    /// A peer that leaves does not wait for anybody to have taken over, as in Weave Net.
    LeaveWithoutAck,
    /// Lost news is never repaired.
    NoRepair,
    /// Neighbouring runs of one owner are never joined, as in Weave Net.
    NeverCoalesce,
    /// A request waits for ever, as in Weave Net.
    NoDeadline,
}

/// Which mistake is switched on, if any.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mutants {
    #[cfg(any(test, feature = "mutants"))]
    on: Option<Mutant>,
}

impl Mutants {
    /// Everything as it should be, but for `mutant`.
    #[cfg(any(test, feature = "mutants"))]
    #[must_use]
    pub const fn only(mutant: Mutant) -> Self {
        Self { on: Some(mutant) }
    }

    #[cfg(any(test, feature = "mutants"))]
    pub(crate) fn has(self, mutant: Mutant) -> bool {
        self.on == Some(mutant)
    }

    #[cfg(not(any(test, feature = "mutants")))]
    #[expect(clippy::unused_self, reason = "the shipped form of a function that has a use in tests")]
    pub(crate) const fn has(self, _: Mutant) -> bool {
        false
    }
}
