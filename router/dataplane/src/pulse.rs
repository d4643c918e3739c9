//! Whether a neighbour is heard from, for whoever has to know it sooner than the link's own pace would tell.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mesh_wire::PeerId;

use crate::shared::Shared;

/// A view of the links that outlives no data plane's threads, but may outlive its handle.
pub struct Pulse {
    shared: Arc<Shared>,
}

impl Pulse {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Has a neighbour that is asked seldom, because frames do not pass by this link, be asked at once. Tells how long ago
    /// it was heard from; `None` if it never was, or is no neighbour.
    #[must_use]
    pub fn ask(&self, peer: PeerId) -> Option<Duration> {
        let now = self.shared.clock.now();
        self.shared.prober.lock().unwrap_or_else(PoisonError::into_inner).carried(peer, now);
        let snapshot = self.shared.snapshot.load();
        let outlet = snapshot.outlets().iter().find(|outlet| outlet.link.peer() == peer)?;
        outlet.link.last_heard().map(|at| now.since(at))
    }
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pulse").finish_non_exhaustive()
    }
}
