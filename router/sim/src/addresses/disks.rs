//! Disks that are lost, put back to an earlier day, or copied to a second machine, and what an operator does about it.
//!
//! Owns when that is fair. A disk comes to harm only when the last one that did is made good, since peers that are gone for
//! good at once may take with them all who knew of a newcomer. It does so only when each disk knows the network: a vote for
//! its founder that is forgotten, or copied, may be given twice, and nobody can see that.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_crypto::{Identity, Rng};
use mesh_ipam::{Readiness, Request};
use mesh_wire::{BootCount, Moment, PeerId};

use super::oracle::{Fork, Wrong};
use super::{DEAD_TIME_MAX, Disk, FINAL_WAIT, Management};
use crate::faults::{Boot, Crash, Fault};
use crate::invariants::Violation;
use crate::network::below;
use crate::run::CONVERGED_WITHIN;
use crate::tcp::index_below;
use crate::world::{Host, HostId, World};

/// One of so many steps of the clients harms a disk, or makes a copy of one.
const HARM_ONCE_IN: u64 = 40;

/// An operator looks so often after quiet which routers are fenced.
const RESETS_MAX: usize = 2;

/// A kind of harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Lost,
    PutBack,
    Cloned,
}

/// What an operator keeps of a disk.
struct Backup {
    host: HostId,
    peer: PeerId,
    boot: BootCount,
    log: Vec<u8>,
    at: Moment,
}

/// Which disks come to harm in a run, and how far that has come.
pub(super) struct Harms {
    kinds: Vec<Harm>,
    backup: Option<Backup>,
    /// The second machine, and the one whose disk it started from.
    pub(super) clone: Option<(HostId, HostId)>,
}

impl Harms {
    /// A random subset of the kinds there are.
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let kinds = [Harm::Lost, Harm::PutBack, Harm::Cloned].into_iter().filter(|_| rng.below(2) == 0);
        Self { kinds: kinds.collect(), backup: None, clone: None }
    }
}

impl Management {
    /// Whether what is on each disk knows the network.
    fn all_founded(&self, hosts: &[Host]) -> bool {
        self.disks.iter().all(|(host, disk)| {
            mesh_ipam::recover(hosts[host.0].peer, None, &disk.log)
                .is_ok_and(|(state, _)| state.range().is_some())
        })
    }
}

impl World {
    /// Perhaps harms a disk of one of the members, or takes a backup, or lets an operator make good what was lost.
    pub(super) fn harm(&mut self, harms: &mut Harms, rng: &mut Rng, members: usize) -> Result<(), Violation> {
        let (host, other) = (HostId(index_below(rng, members)), HostId(index_below(rng, members)));
        let Some(management) = &self.management else { return Ok(()) };
        if let Some(peer) = management.oracle.lost.filter(|_| rng.below(10) == 0) {
            return self.ask_addresses(other, Request::Retire { peer }, Duration::from_secs(10));
        }
        if harms.kinds.is_empty() || rng.below(HARM_ONCE_IN) > 0 {
            return Ok(());
        }
        let is_whole = management.oracle.lost.is_none() && management.oracle.fork.is_none();
        if !is_whole || !management.all_founded(&self.hosts) {
            return Ok(());
        }
        match harms.kinds[index_below(rng, harms.kinds.len())] {
            Harm::Lost => self.lose_disk(host),
            Harm::Cloned => self.clone_machine(harms, host, rng),
            Harm::PutBack => match harms.backup.take() {
                Some(backup) if self.peer(backup.host) == backup.peer => self.put_back(backup),
                Some(_) | None => {
                    harms.backup = self.backup(host);
                    Ok(())
                }
            },
        }
    }

    fn backup(&self, host: HostId) -> Option<Backup> {
        let place = &self.hosts[host.0];
        let log = self.management.as_ref()?.disks.get(&host)?.log.clone();
        Some(Backup { host, peer: place.peer, boot: place.boot, log, at: self.now() })
    }

    /// A host falls silent, and comes back with an empty disk: as another peer. Its containers run on.
    fn lose_disk(&mut self, host: HostId) -> Result<(), Violation> {
        let peer = self.peer(host);
        self.now_let(&Fault::Crash { host, how: Crash::PowerCut })?;
        self.renew(host);
        if let Some(management) = &mut self.management {
            management.oracle.begin_book(host, None);
            management.oracle.lost = Some(peer);
            management.oracle.tally.lost += 1;
        }
        self.start_soon(host);
        Ok(())
    }

    /// A host's disk is as it was when the backup was made. Its containers run on.
    fn put_back(&mut self, backup: Backup) -> Result<(), Violation> {
        let Backup { host, peer, boot, log, at } = backup;
        self.now_let(&Fault::Crash { host, how: Crash::PowerCut })?;
        let place = &mut self.hosts[host.0];
        (place.boot, place.restored) = (boot, true);
        if let Some(management) = &mut self.management {
            management.disks.insert(host, Disk { log, unsynced: Vec::new() });
            management.oracle.begin_book(host, Some(at));
            management.oracle.fork = Some(Fork { peer, at });
            management.oracle.tally.put_back += 1;
        }
        self.start_soon(host);
        Ok(())
    }

    /// A second machine starts from a copy of a host's disk, at an address of its own, perhaps where the first is not reached.
    fn clone_machine(&mut self, harms: &mut Harms, of: HostId, rng: &mut Rng) -> Result<(), Violation> {
        // It names somebody else beside those that the first one names, or it could be alone for ever.
        let open = |host: &usize| HostId(*host) != of && !self.hosts[*host].plan.is_closed();
        let friend = (0..self.hosts.len()).filter(|host| self.is_managed(HostId(*host))).find(open);
        let (Some(friend), Some(backup)) = (friend, self.backup(of)) else { return Ok(()) };
        let mut plan = self.hosts[of.0].plan.clone();
        plan.targets.push(HostId(friend));
        plan.talks_to.clear();
        let host = HostId(self.hosts.len());
        self.network.add_host(plan.nat, rng.below(2) == 0);
        let (peer, secret) = (backup.peer, self.hosts[of.0].secret.clone());
        let copy = Host { peer, secret, boot: backup.boot, restored: true, ..Host::new(plan, rng) };
        self.hosts.push(copy);
        self.hosts[of.0].restored = true;
        if let Some(management) = &mut self.management {
            management.disks.insert(host, Disk { log: backup.log, unsynced: Vec::new() });
            management.oracle.fork = Some(Fork { peer, at: backup.at });
            management.oracle.tally.cloned += 1;
        }
        harms.clone = Some((host, of));
        self.start_soon(host);
        Ok(())
    }

    fn is_managed(&self, host: HostId) -> bool {
        self.management.as_ref().is_some_and(|management| management.disks.contains_key(&host))
    }

    fn start_soon(&mut self, host: HostId) {
        let Some(management) = &mut self.management else { return };
        let again = below(&mut management.rng, DEAD_TIME_MAX);
        self.at(self.now() + again, Fault::Start { host, boot: Boot::Next });
    }

    /// Lets a host start as a peer that never was.
    fn renew(&mut self, host: HostId) {
        let place = &mut self.hosts[host.0];
        let identity = Identity::generate(&mut place.rng);
        place.former.push(std::mem::replace(&mut place.peer, identity.peer_id()));
        place.secret = identity.secret();
        place.boot = BootCount(0);
        if let Some(management) = &mut self.management {
            management.disks.insert(host, Disk::default());
        }
    }

    /// What an operator does after quiet, as the routers themselves say: those that are fenced are reset, with their
    /// containers, and identities that nobody bears any more are declared gone for good.
    pub(super) fn make_good(&mut self, harms: &Harms, members: usize) -> Result<(), Violation> {
        if let (Some((one, other)), true) = (harms.clone, self.fenced().is_empty()) {
            self.oracle().find(Wrong::Unfenced { one, other });
            return Ok(());
        }
        // The second of two machines may hear of the first only when that is gone.
        for _ in 0..RESETS_MAX {
            for host in self.fenced() {
                self.reset(harms, host)?;
            }
            self.run_for(CONVERGED_WITHIN)?;
        }
        // All of them: a state that was put back may have forgotten that one was declared gone.
        let is_borne = |peer: &PeerId| self.hosts.iter().any(|host| host.peer == *peer);
        let former = self.hosts.iter().flat_map(|host| host.former.iter().copied());
        let gone: BTreeSet<PeerId> = former.filter(|peer| !is_borne(peer)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        for peer in gone {
            (0..members).try_for_each(|host| {
                self.ask_addresses(HostId(host), Request::Retire { peer }, FINAL_WAIT)
            })?;
        }
        self.run_for(FINAL_WAIT)
    }

    /// Lets a fenced router start anew, without its containers; or, on a second machine, never again.
    fn reset(&mut self, harms: &Harms, host: HostId) -> Result<(), Violation> {
        self.now_let(&Fault::Crash { host, how: Crash::Stopped })?;
        self.oracle().tally.fenced += 1;
        self.oracle().emptied(host);
        self.renew(host);
        if harms.clone.is_some_and(|(clone, _)| clone == host) {
            self.forget_machine(host);
            return Ok(());
        }
        self.now_let(&Fault::Start { host, boot: Boot::Next })
    }

    fn fenced(&self) -> Vec<HostId> {
        let status = |host: &HostId| self.node(*host).and_then(|node| node.ipam_status(self.now()));
        let is_fenced =
            |host: &HostId| status(host).is_some_and(|status| status.readiness == Readiness::Disabled);
        self.managed().into_iter().filter(is_fenced).collect()
    }

    fn forget_machine(&mut self, host: HostId) {
        if let Some(management) = &mut self.management {
            management.disks.remove(&host);
        }
    }
}
