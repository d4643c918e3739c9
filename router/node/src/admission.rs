//! With whom this router shares a network, and what protects the frames between the two: the secrets, the network's id,
//! the peers that are allowed, the subnets that are trusted. Owns these settings and the rules that follow from them.
//! The handshake proves what is judged here, and sessions carry out the judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_crypto::{Membership, Protection, Psk};
use mesh_topology::Target;
use mesh_wire::{NetworkId, PeerId};

use crate::limits::SECRETS_MAX;

pub(crate) struct Admission {
    /// At most [`SECRETS_MAX`].
    secrets: Vec<Psk>,
    allowed: Option<Arc<BTreeSet<PeerId>>>,
    trusted_subnets: Vec<IpNet>,
    network: Option<NetworkId>,
    /// Which secret the next dial of a target shows, where it is not the first. Only targets of the connector.
    turns: BTreeMap<Target, usize>,
}

/// What comes of learning which network a peer belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// Both belong to the same, or one to none yet that does not learn of it here.
    Nothing,
    /// This router belongs to the peer's network from now on.
    Joined,
    /// They belong to two: this router's, and the peer's.
    Strangers(NetworkId, NetworkId),
}

impl Admission {
    /// Secrets past [`SECRETS_MAX`] are left out.
    pub(crate) fn new(
        secrets: Vec<Psk>,
        allowed: Option<BTreeSet<PeerId>>,
        trusted_subnets: Vec<IpNet>,
        network: Option<NetworkId>,
    ) -> Self {
        let mut admission = Self {
            secrets: Vec::new(),
            allowed: allowed.map(Arc::new),
            trusted_subnets,
            network,
            turns: BTreeMap::new(),
        };
        admission.set_secrets(secrets);
        admission
    }

    pub(crate) fn set_secrets(&mut self, mut secrets: Vec<Psk>) {
        secrets.truncate(SECRETS_MAX);
        self.secrets = secrets;
        self.turns.clear();
    }

    pub(crate) const fn has_secret(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// What a responder accepts.
    pub(crate) fn accepted(&self) -> &[Psk] {
        &self.secrets
    }

    /// What an initiator shows to `target`: one secret, or none.
    pub(crate) fn shown_to(&self, target: Option<&Target>) -> &[Psk] {
        let turn = target.and_then(|target| self.turns.get(target)).copied().unwrap_or(0);
        self.secrets.get(turn..=turn).unwrap_or_default()
    }

    /// `target` does not know the secret that it was shown: the next dial shows the next one. Returns whether that has
    /// not been shown to it in this round.
    pub(crate) fn turned_down_by(&mut self, target: &Target) -> bool {
        let turn = self.turns.get(target).copied().unwrap_or(0) + 1;
        if turn >= self.secrets.len() {
            self.turns.remove(target);
            return false;
        }
        self.turns.insert(target.clone(), turn);
        true
    }

    /// Forgets targets that are dialed no more.
    pub(crate) fn retain(&mut self, targets: &BTreeSet<&Target>) {
        self.turns.retain(|target, _| targets.contains(target));
    }

    /// Whether what opened a session would still open it.
    pub(crate) fn holds(&self, membership: Membership) -> bool {
        match membership {
            Membership::Open => self.secrets.is_empty(),
            Membership::Psk(id) => self.secrets.iter().any(|secret| secret.id() == id),
        }
    }

    pub(crate) fn allowed(&self) -> Option<Arc<BTreeSet<PeerId>>> {
        self.allowed.clone()
    }

    /// Whether nobody listens on the way to `remote`, as far as this router was told.
    pub(crate) fn trusts(&self, remote: Option<SocketAddr>) -> bool {
        let Some(ip) = remote.map(|remote| remote.ip().to_canonical()) else { return false };
        self.trusted_subnets.iter().any(|subnet| subnet.contains(&ip))
    }

    /// How frames are protected, and whether the peer's address must stay what it is. Where both ends trust the way
    /// between them, frames of a network with a secret travel in clear, and the address alone excuses that.
    pub(crate) const fn protection(membership: Membership, both_trust: bool) -> (Protection, bool) {
        match membership {
            Membership::Open => (Protection::Clear, false),
            Membership::Psk(_) if both_trust => (Protection::Clear, true),
            Membership::Psk(_) => (Protection::Sealed, false),
        }
    }

    pub(crate) const fn network(&self) -> Option<NetworkId> {
        self.network
    }

    /// Takes in that a peer belongs to the network `theirs`.
    pub(crate) fn meet(&mut self, theirs: Option<NetworkId>) -> Meeting {
        match (self.network, theirs) {
            (None, Some(theirs)) => {
                self.network = Some(theirs);
                Meeting::Joined
            }
            (Some(ours), Some(theirs)) if ours != theirs => Meeting::Strangers(ours, theirs),
            (Some(_), Some(_)) | (_, None) => Meeting::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(secrets: &[u8]) -> Admission {
        let secrets = secrets.iter().map(|byte| Psk::from_bytes([*byte; 32])).collect();
        Admission::new(secrets, None, vec!["10.0.0.0/8".parse().expect("a subnet")], None)
    }

    fn target(host: &str) -> Target {
        Target::Named { host: host.to_owned(), port: 1 }
    }

    #[test]
    fn each_target_is_shown_one_secret_after_the_other() {
        let mut admission = admission(&[1, 2, 3]);
        let shown = |admission: &Admission, host| match admission.shown_to(Some(&target(host))) {
            [psk] => (1..=3).find(|byte| *psk == Psk::from_bytes([*byte; 32])),
            _ => None,
        };
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push((shown(&admission, "a"), admission.turned_down_by(&target("a"))));
        }
        assert_eq!(seen, [(Some(1), true), (Some(2), true), (Some(3), false), (Some(1), true)]);
        assert_eq!(shown(&admission, "b"), Some(1), "the turns of two targets are their own");
        admission.retain(&BTreeSet::from([&target("b")]));
        assert_eq!(shown(&admission, "a"), Some(1));
        admission.turned_down_by(&target("a"));
        admission.set_secrets(vec![Psk::from_bytes([2; 32])]);
        assert_eq!(shown(&admission, "a"), Some(2), "a new list is gone through from its start");
        assert!(!admission.turned_down_by(&target("a")));
    }

    #[test]
    fn without_a_secret_none_is_shown() {
        let mut admission = admission(&[]);
        assert_eq!(admission.shown_to(Some(&target("a"))), []);
        assert!(!admission.turned_down_by(&target("a")));
        assert!(!admission.has_secret());
    }

    #[test]
    fn a_session_holds_while_the_secret_that_opened_it_is_listed() {
        let opened_by = |byte| Membership::Psk(Psk::from_bytes([byte; 32]).id());
        let with = admission(&[1, 2]);
        assert!(with.holds(opened_by(2)) && !with.holds(opened_by(3)) && !with.holds(Membership::Open));
        let without = admission(&[]);
        assert!(without.holds(Membership::Open) && !without.holds(opened_by(1)));
    }

    #[test]
    fn frames_travel_in_clear_only_without_a_secret_or_where_both_trust_the_way() {
        let psk = Membership::Psk(Psk::from_bytes([1; 32]).id());
        assert_eq!(Admission::protection(psk, false), (Protection::Sealed, false));
        assert_eq!(Admission::protection(psk, true), (Protection::Clear, true));
        assert_eq!(Admission::protection(Membership::Open, false), (Protection::Clear, false));
        let admission = admission(&[1]);
        let remote = |text: &str| Some(text.parse().expect("an address"));
        assert!(admission.trusts(remote("10.1.2.3:5")) && admission.trusts(remote("[::ffff:10.1.2.3]:5")));
        assert!(!admission.trusts(remote("192.0.2.1:5")) && !admission.trusts(None));
    }

    #[test]
    fn a_router_without_a_network_joins_the_first_that_it_meets_and_stays() {
        let [x, y] = [1, 2].map(|byte| NetworkId::from_bytes([byte; 16]));
        let mut admission = admission(&[]);
        assert_eq!(admission.meet(None), Meeting::Nothing);
        assert_eq!(admission.meet(Some(x)), Meeting::Joined);
        assert_eq!(admission.meet(Some(x)), Meeting::Nothing);
        assert_eq!(admission.meet(Some(y)), Meeting::Strangers(x, y));
        assert_eq!(admission.network(), Some(x));
    }
}
