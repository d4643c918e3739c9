//! Where a neighbour may be: which of its packets move its address, and where its probes are answered. Owns the rules;
//! the address itself is the link's.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_wire::Moment;

use super::plan::CANDIDATES_MAX;

/// While packets come from a link's address at least this often, those from another address that the plan names do not
/// move it: both ends may use different ones of several good ways, and each would otherwise chase the other. Two probe
/// intervals of a link in use.
const ADDRESS_KEPT: Duration = Duration::from_millis(500);

/// A neighbour's addresses, by the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    roams: bool,
    /// The addresses that the plan names if it names several, else none.
    known: Vec<SocketAddr>,
}

impl Places {
    /// Those of a [`LinkPlan`](super::LinkPlan) with these addresses, of which at most [`CANDIDATES_MAX`] count besides
    /// `remote`.
    #[must_use]
    pub fn new(remote: SocketAddr, candidates: impl Iterator<Item = SocketAddr>, roams: bool) -> Self {
        let known: BTreeSet<_> = std::iter::once(remote).chain(candidates.take(CANDIDATES_MAX)).collect();
        Self { roams, known: if known.len() > 1 { known.into_iter().collect() } else { Vec::new() } }
    }

    /// The addresses to be probed while the link is not alive; none if there is no choice.
    #[must_use]
    pub fn known(&self) -> &[SocketAddr] {
        &self.known
    }

    /// Whether a link moves with its newest packet, which came `from` elsewhere. From its present address something came
    /// last at `heard_there`.
    #[must_use]
    pub fn follow(&self, from: SocketAddr, heard_there: Option<Moment>, now: Moment) -> bool {
        if self.known.contains(&from) {
            return heard_there.is_none_or(|at| now.since(at) >= ADDRESS_KEPT);
        }
        self.roams
    }

    /// Whether a link moves with the reply that brings it to life, which came `from` elsewhere.
    #[must_use]
    pub fn settle(&self, from: SocketAddr) -> bool {
        self.roams || self.known.contains(&from)
    }

    /// Where a probe is answered that came `from` there, when the link's address is `present`. Of several known ways it
    /// is the one that is tried. Any other address gets no answer but where the link's packets go anyway.
    #[must_use]
    pub fn answer(&self, from: SocketAddr, present: SocketAddr) -> SocketAddr {
        if self.known.contains(&from) { from } else { present }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    fn at(ms: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(ms))
    }

    #[test]
    fn addresses_are_told_apart_and_bounded() {
        let known = |candidates: &[u16]| {
            Places::new(address(1), candidates.iter().copied().map(address), true).known().to_vec()
        };
        assert_eq!(known(&[]), []);
        assert_eq!(known(&[1]), []);
        assert_eq!(known(&[2, 1, 2]), [1, 2].map(address));
        assert_eq!(known(&(2..1_000).collect::<Vec<_>>()).len(), 1 + CANDIDATES_MAX);
    }

    #[test]
    fn with_one_address_a_neighbour_is_followed_anywhere_or_nowhere() {
        for roams in [true, false] {
            let places = Places::new(address(1), std::iter::empty(), roams);
            assert_eq!(places.follow(address(9), Some(at(0)), at(0)), roams);
            assert_eq!(places.settle(address(9)), roams);
            assert_eq!(places.answer(address(9), address(1)), address(1));
        }
    }

    #[test]
    fn of_several_good_ways_the_one_in_use_is_kept() {
        for roams in [true, false] {
            let places = Places::new(address(1), [address(2)].into_iter(), roams);
            assert!(places.follow(address(2), None, at(0)), "nothing ever came from where it should be");
            assert!(!places.follow(address(2), Some(at(0)), at(499)));
            assert!(places.follow(address(2), Some(at(0)), at(500)), "it has fallen silent");
            assert!(places.settle(address(2)));
            assert_eq!(places.answer(address(2), address(1)), address(2));
            assert_eq!(places.follow(address(9), Some(at(0)), at(0)), roams);
        }
    }
}
