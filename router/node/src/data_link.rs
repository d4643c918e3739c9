//! The data session with one neighbour: which epochs' keys are in force at each end, and whether packets pass.
//!
//! ```text
//!  ours offered, theirs not ── their offer ──► both: send and receive ── probe answered ──► alive
//!        ▲                                               │
//!        └──── next epoch ◄── proposal, answer ◄─────────┘      (the old epoch still receives for a while)
//! ```
//! Each end can receive before it says so, and sends only after the other end has said so: a rekey loses nothing. While
//! the peer has not made its offer for an epoch, the keys of the one before stay in force.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_crypto::{KeySchedule, Protection, RekeyError, RekeyStep, Rng};
use mesh_wire::control::{DataOffer, LinkRecord, OVERLAY_NONE, OVERLAY_SLEEVE, Rekey};
use mesh_wire::{Moment, PeerId, ReceiverIndex};

use crate::limits::{EPOCHS_MAX, OLD_EPOCH_KEPT, OLD_SESSION_KEPT};
use crate::plan::{EspPlan, LinkPlan, ReceivePlan, SendPlan};
use crate::vxlan::KernelPath;

pub(crate) struct DataLink {
    /// Where packets go at first; `None` while nobody has said.
    remote: Option<SocketAddr>,
    candidates: Vec<SocketAddr>,
    roams: bool,
    in_doubt: bool,
    schedule: KeySchedule,
    protection: Protection,
    receive: Vec<Receiving>,
    send: Option<SendPlan>,
    /// Whether the peer receives under the schedule's epoch.
    is_answered: bool,
    /// What the data plane calls the schedule's epoch 0: greater than all epochs of the link that this one follows.
    epoch_base: u32,
    liveness: Liveness,
    /// [`LinkRecord::distance`], as of the last time that packets passed.
    distance: u8,
    /// What is agreed about frames between the two kernels.
    pub(crate) kernel: KernelPath,
    /// Which overlay carries frames for known MACs while the link is alive.
    pub(crate) overlay: u8,
    /// When this end asks for the next epoch; only the session's initiator does by itself.
    rotation: Option<Rotation>,
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

/// What the peer must get after its step towards fresh keys.
pub(crate) enum RekeyReply {
    Nothing,
    Offer,
    AnswerAndOffer(Rekey),
}

/// When the initiator of a session asks for fresh keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rotation {
    every: Duration,
    at: Moment,
}

impl Rotation {
    /// Each time after `every`, spread by ±10 %.
    pub(crate) fn new(every: Duration, rng: &mut Rng, now: Moment) -> Self {
        let mut rotation = Self { every, at: now };
        rotation.is_due(rng, now);
        rotation
    }

    /// Whether the time has come; if so, the next is set.
    fn is_due(&mut self, rng: &mut Rng, now: Moment) -> bool {
        let is_due = self.at <= now;
        if is_due {
            let tenth_ms = u64::try_from(self.every.as_millis() / 10).unwrap_or(u64::MAX);
            self.at = now + self.every * 9 / 10 + Duration::from_millis(rng.below(2 * tenth_ms));
        }
        is_due
    }
}

impl DataLink {
    /// A link whose first epoch this end is ready to receive.
    pub(crate) fn new(
        remote: Option<SocketAddr>,
        schedule: KeySchedule,
        protection: Protection,
        index: ReceiverIndex,
        rotation: Option<Rotation>,
    ) -> Self {
        let mut link = Self {
            remote,
            candidates: Vec::new(),
            roams: true,
            in_doubt: false,
            schedule,
            protection,
            receive: Vec::new(),
            send: None,
            is_answered: false,
            epoch_base: 0,
            liveness: Liveness::Untried,
            distance: 0,
            kernel: KernelPath {
                is_sealed: matches!(protection, Protection::Sealed),
                ..KernelPath::default()
            },
            overlay: OVERLAY_SLEEVE,
            rotation,
        };
        link.receive_under_current_epoch(index);
        link
    }

    /// What tells the peer that this end receives under the present epoch.
    pub(crate) fn offer(&self) -> Option<DataOffer> {
        let newest = self.receive.last()?;
        Some(DataOffer { epoch: self.schedule.epoch(), index: newest.plan.index })
    }

    /// Takes in the peer's offer. False when it is for another epoch than the present; nothing was changed then.
    pub(crate) fn handle_offer(&mut self, offer: DataOffer) -> bool {
        let is_awaited = offer.epoch == self.schedule.epoch() && !self.is_answered;
        if is_awaited {
            let keys = self.schedule.data_keys(self.protection);
            let epoch = self.epoch_base + offer.epoch;
            self.send = Some(SendPlan { epoch, index: offer.index, key: keys.send });
            self.is_answered = true;
        }
        is_awaited
    }

    /// Proposes fresh keys, if the peer has answered this end's last offer: what it must get.
    pub(crate) fn propose(&mut self, rng: &mut Rng) -> Option<Rekey> {
        let epoch = self.schedule.next_epoch();
        let payload = if self.is_answered { self.schedule.propose(rng)? } else { return None };
        Some(Rekey { epoch, payload })
    }

    /// Takes in the peer's step towards fresh keys. When it leads to a new epoch, this end is ready to receive under it,
    /// at `index`.
    pub(crate) fn handle_rekey(
        &mut self,
        rekey: &Rekey,
        index: ReceiverIndex,
        rng: &mut Rng,
        now: Moment,
    ) -> Result<RekeyReply, RekeyError> {
        let answer = match self.schedule.handle_rekey(rekey.epoch, &rekey.payload, rng)? {
            RekeyStep::Crossed => return Ok(RekeyReply::Nothing),
            RekeyStep::Accepted(payload) => Some(Rekey { epoch: rekey.epoch, payload }),
            RekeyStep::Completed => None,
        };
        for receiving in &mut self.receive {
            receiving.retire_at.get_or_insert(now + OLD_EPOCH_KEPT);
        }
        self.receive_under_current_epoch(index);
        Ok(answer.map_or(RekeyReply::Offer, RekeyReply::AnswerAndOffer))
    }

    /// Whether this end should ask for fresh keys now; if so, the next time is set.
    pub(crate) fn rekey_due(&mut self, rng: &mut Rng, now: Moment) -> bool {
        self.rotation.as_mut().is_some_and(|rotation| rotation.is_due(rng, now))
    }

    /// Drops epochs whose time is over. Returns whether there were any.
    pub(crate) fn retire(&mut self, now: Moment) -> bool {
        let before = self.receive.len();
        self.receive.retain(|receiving| receiving.retire_at.is_none_or(|at| at > now));
        self.receive.len() != before
    }

    pub(crate) fn set_liveness(&mut self, liveness: Liveness) {
        let was_alive = self.is_alive();
        self.liveness = liveness;
        if !was_alive {
            self.take_distance();
        }
    }

    /// How far the neighbour is now.
    fn present_distance(&self) -> u8 {
        match self.liveness {
            Liveness::Alive { rtt } => distance(rtt, self.distance),
            Liveness::Untried | Liveness::Silent => self.distance,
        }
    }

    /// Whether the record has another distance than it would have now.
    pub(crate) fn has_moved(&self) -> bool {
        self.present_distance() != self.distance
    }

    /// Has the record say how far the neighbour is now.
    pub(crate) fn take_distance(&mut self) {
        self.distance = self.present_distance();
    }

    pub(crate) const fn set_remote(&mut self, remote: SocketAddr) {
        self.remote = Some(remote);
    }

    pub(crate) const fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// Pins the neighbour to its address: that alone excuses that frames travel in clear.
    pub(crate) const fn pin(&mut self) {
        self.roams = false;
    }

    /// The connection that told of the neighbour broke.
    pub(crate) const fn doubt(&mut self) {
        self.in_doubt = true;
    }

    /// Where else the neighbour may be reached.
    pub(crate) fn set_candidates(&mut self, candidates: Vec<SocketAddr>) {
        self.remote = self.remote.or_else(|| candidates.first().copied());
        self.candidates = candidates;
    }

    /// Takes the place of `old`, the link of an earlier session with the same life of the same peer: what is on its way
    /// under its keys is still received, and until the peer is ready for the new ones, they go on.
    pub(crate) fn inherit(&mut self, old: Self, now: Moment) {
        self.epoch_base = old.epoch_base + old.schedule.epoch() + 1;
        self.liveness = old.liveness;
        self.distance = old.distance;
        self.overlay = old.overlay;
        // On the same host the old address is the better one, for packets have come from there; a peer on another has moved.
        let ip = |remote: Option<SocketAddr>| remote.map(|remote| remote.ip());
        if self.roams && old.roams && (self.remote.is_none() || ip(self.remote) == ip(old.remote)) {
            self.remote = old.remote;
        }
        for receiving in &mut self.receive {
            receiving.plan.epoch += self.epoch_base;
        }
        let retired = old.receive.into_iter().map(|receiving| Receiving {
            retire_at: receiving.retire_at.or(Some(now + OLD_SESSION_KEPT)),
            ..receiving
        });
        self.receive.splice(0..0, retired);
        self.forget_oldest();
        match &mut self.send {
            Some(send) => send.epoch += self.epoch_base,
            None => self.send = old.send,
        }
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
        self.receive
            .iter()
            .filter_map(|receiving| receiving.retire_at)
            .chain(self.rotation.map(|rotation| rotation.at))
            .min()
    }

    /// What this router's record says of the link.
    pub(crate) fn record(&self, peer: PeerId, address: SocketAddr, outbound: bool) -> LinkRecord {
        let established = self.is_alive();
        let overlay = if established { self.overlay } else { OVERLAY_NONE };
        LinkRecord { peer, address, outbound, established, distance: self.distance, overlay }
    }

    /// What the data plane needs; nothing before an address is known.
    pub(crate) fn plan(&self, peer: PeerId) -> Option<LinkPlan> {
        Some(LinkPlan {
            peer,
            remote: self.remote?,
            candidates: self.candidates.clone(),
            roams: self.roams,
            in_doubt: self.in_doubt,
            kernel: self.kernel,
            wireguard_key: self.kernel.is_sealed.then(|| self.schedule.wireguard_key()),
            esp: self
                .kernel
                .is_sealed
                .then(|| EspPlan { keys: self.schedule.esp_keys(), is_answered: self.is_answered }),
            receive: self.receive.iter().map(|receiving| receiving.plan.clone()).collect(),
            send: self.send.clone(),
        })
    }

    fn receive_under_current_epoch(&mut self, index: ReceiverIndex) {
        let keys = self.schedule.data_keys(self.protection);
        let plan = ReceivePlan { epoch: self.epoch_base + keys.epoch, index, key: keys.receive };
        self.receive.push(Receiving { plan, retire_at: None });
        self.is_answered = false;
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        let surplus = self.receive.len().saturating_sub(EPOCHS_MAX);
        self.receive.drain(..surplus);
    }
}

/// The step of a round-trip time: `n` for times below 2^(n-1) × 250 µs. A time that has left the `present` step by less
/// than half of it changes nothing.
fn distance(rtt: Duration, present: u8) -> u8 {
    const FIRST_STEP_US: u128 = 250;
    let micros = rtt.as_micros();
    let end_of = |step: u8| FIRST_STEP_US << (step - 1);
    if present != 0 {
        let start = if present == 1 { 0 } else { end_of(present - 1) * 2 / 3 };
        if (start..end_of(present) * 3 / 2).contains(&micros) {
            return present;
        }
    }
    (1..DISTANCE_MAX).find(|step| micros < end_of(*step)).unwrap_or(DISTANCE_MAX)
}

/// The last step: 4 s and more.
const DISTANCE_MAX: u8 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_of_a_time_changes_only_when_it_has_left_it_clearly() {
        let us = Duration::from_micros;
        for (rtt, present, step) in [
            (us(0), 0, 1),
            (us(249), 0, 1),
            (us(250), 0, 2),
            (us(250), 1, 1),
            (us(374), 1, 1),
            (us(375), 1, 2),
            (us(30_000), 0, 8),
            (us(21_000), 8, 8),
            (us(9_000), 8, 7),
            (us(10_600), 8, 7),
            (us(10_700), 8, 8),
            (Duration::from_secs(60), 0, 16),
            (Duration::from_secs(60), 16, 16),
        ] {
            assert_eq!(distance(rtt, present), step, "{rtt:?} from {present}");
        }
    }
}
