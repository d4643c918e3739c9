//! The data session with one neighbour: which epochs' keys are in force at each end, and whether packets pass.
//!
//! ```text
//!  ours offered, theirs not ── their offer ──► both: send and receive ── probe answered ──► alive
//!        ▲                                               │
//!        └────────────── rekey: next epoch ◄─────────────┘      (the old epoch still receives for a while)
//! ```
//! Each end can receive before it says so, and sends only after the other end has said so: a rekey loses nothing.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_crypto::{KeySchedule, Protection, Rng};
use mesh_wire::control::DataOffer;
use mesh_wire::{Moment, PeerId, ReceiverIndex};

use crate::limits::{OLD_EPOCH_KEPT, REKEY_AFTER};
use crate::plan::{LinkPlan, ReceivePlan, SendPlan};

pub(crate) struct DataLink {
    remote: SocketAddr,
    schedule: KeySchedule,
    protection: Protection,
    receive: Vec<Receiving>,
    send: Option<SendPlan>,
    liveness: Liveness,
    /// When this end asks for the next epoch; only the session's initiator does by itself.
    rekey_at: Option<Moment>,
}

struct Receiving {
    plan: ReceivePlan,
    retire_at: Option<Moment>,
}

/// Whether packets pass, as the data plane's probes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// No probe has been answered yet.
    Untried,
    /// Probes are answered, after this long.
    Alive { rtt: Duration },
    /// Nothing comes any more.
    Silent,
}

/// What a peer's offer asks of this end.
pub(crate) enum OfferOutcome {
    /// It completes what this end has offered: send under it.
    Accepted,
    /// It opens a new epoch: answer with this offer.
    Answer(DataOffer),
    /// It names an epoch that is neither the present nor the next. Nothing was changed.
    OutOfStep,
}

impl DataLink {
    /// A link whose first epoch this end is ready to receive, with the offer that says so.
    pub(crate) fn new(
        remote: SocketAddr,
        schedule: KeySchedule,
        protection: Protection,
        index: ReceiverIndex,
        rekey_at: Option<Moment>,
    ) -> (Self, DataOffer) {
        let mut link = Self {
            remote,
            schedule,
            protection,
            receive: Vec::new(),
            send: None,
            liveness: Liveness::Untried,
            rekey_at,
        };
        let offer = link.receive_under_current_epoch(index);
        (link, offer)
    }

    /// When a session's initiator should rekey next.
    pub(crate) fn next_rekey(rng: &mut Rng, now: Moment) -> Moment {
        let tenth_ms = u64::try_from(REKEY_AFTER.as_millis() / 10).unwrap_or(u64::MAX);
        now + REKEY_AFTER * 9 / 10 + Duration::from_millis(rng.below(2 * tenth_ms))
    }

    /// Takes in the peer's offer. `index` is used if this end has to answer with one of its own.
    pub(crate) fn handle_offer(
        &mut self,
        offer: DataOffer,
        index: ReceiverIndex,
        now: Moment,
    ) -> OfferOutcome {
        let sending = self.send.as_ref().map(|send| send.epoch);
        if offer.epoch == self.schedule.epoch() && sending != Some(offer.epoch) {
            self.send_under(offer);
            return OfferOutcome::Accepted;
        }
        if offer.epoch == self.schedule.epoch() + 1 && sending == Some(self.schedule.epoch()) {
            let answer = self.next_epoch(index, now);
            self.send_under(offer);
            return OfferOutcome::Answer(answer);
        }
        OfferOutcome::OutOfStep
    }

    /// Opens the next epoch at this end, and returns the offer that tells the peer.
    pub(crate) fn next_epoch(&mut self, index: ReceiverIndex, now: Moment) -> DataOffer {
        for receiving in &mut self.receive {
            receiving.retire_at.get_or_insert(now + OLD_EPOCH_KEPT);
        }
        self.schedule.ratchet();
        self.receive_under_current_epoch(index)
    }

    /// Whether this end should open the next epoch now; if so, the next one is scheduled. While the peer has not
    /// answered the last one, the present keys stay in force.
    pub(crate) fn rekey_due(&mut self, rng: &mut Rng, now: Moment) -> bool {
        let due = self.rekey_at.is_some_and(|at| at <= now);
        if due {
            self.rekey_at = Some(Self::next_rekey(rng, now));
        }
        due && self.can_rekey()
    }

    /// Whether the peer has answered this end's last offer.
    pub(crate) fn can_rekey(&self) -> bool {
        self.send.as_ref().is_some_and(|send| send.epoch == self.schedule.epoch())
    }

    /// Drops epochs whose time is over. Returns whether there were any.
    pub(crate) fn retire(&mut self, now: Moment) -> bool {
        let before = self.receive.len();
        self.receive.retain(|receiving| receiving.retire_at.is_none_or(|at| at > now));
        self.receive.len() != before
    }

    pub(crate) const fn set_liveness(&mut self, liveness: Liveness) {
        self.liveness = liveness;
    }

    pub(crate) const fn set_remote(&mut self, remote: SocketAddr) {
        self.remote = remote;
    }

    pub(crate) const fn liveness(&self) -> Liveness {
        self.liveness
    }

    pub(crate) const fn is_alive(&self) -> bool {
        matches!(self.liveness, Liveness::Alive { .. })
    }

    pub(crate) const fn protection(&self) -> Protection {
        self.protection
    }

    pub(crate) fn uses(&self, index: ReceiverIndex) -> bool {
        self.receive.iter().any(|receiving| receiving.plan.index == index)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        self.receive.iter().filter_map(|receiving| receiving.retire_at).chain(self.rekey_at).min()
    }

    pub(crate) fn plan(&self, peer: PeerId) -> LinkPlan {
        LinkPlan {
            peer,
            remote: self.remote,
            candidates: Vec::new(),
            roams: true,
            receive: self.receive.iter().map(|receiving| receiving.plan.clone()).collect(),
            send: self.send.clone(),
        }
    }

    fn receive_under_current_epoch(&mut self, index: ReceiverIndex) -> DataOffer {
        let keys = self.schedule.data_keys(self.protection);
        let plan = ReceivePlan { epoch: keys.epoch, index, key: keys.receive };
        self.receive.push(Receiving { plan, retire_at: None });
        DataOffer { epoch: keys.epoch, index }
    }

    fn send_under(&mut self, offer: DataOffer) {
        let keys = self.schedule.data_keys(self.protection);
        self.send = Some(SendPlan { epoch: offer.epoch, index: offer.index, key: keys.send });
    }
}
