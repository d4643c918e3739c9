//! The thread of the fast path: hears the router, the kernel and the neighbours, and keeps the tables as they shall be.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_hostnet::{FdbEntry, FdbEvent, FdbPlace, FdbWatch, UnderlayFamily, is_sealed};
use mesh_wire::vxlan::{HEARTBEAT_LEN, Heartbeat, HeartbeatKind};
use mesh_wire::{MacAddr, Moment, PeerId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::kernel::{Found, Kernel, Local, remotes};
use super::socket::{Ear, Mouth};
use super::{BackEnd, Config, Flow, Flows, Heard, Hooks, Mailbox, StartError};
use crate::model::{AWAY_MAX, Agreement, DueProbe, Model, PathState, Place, Reconciler, Refusal, Turn, View};
use crate::seal;

/// The data plane's sightings and the devices' counters are looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Whether what seals has all its keys is looked at this often.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// While a path is silent and user space has not been heard either, it is asked this often.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// The tables are read this often although nobody is known to have changed them: idle times come from there.
const READ_EVERY: Duration = Duration::from_secs(30);

/// After a reading, the next one waits at least this long, and [`READ_PAUSE_FACTOR`] times as long as it took.
const READ_PAUSE: Duration = Duration::from_millis(20);

/// See [`READ_PAUSE`]: reading takes a fifth of a CPU at most.
const READ_PAUSE_FACTOR: u32 = 4;

/// Devices that cannot be had are tried again after this time.
const REPAIR_EVERY: Duration = Duration::from_secs(1);

/// Paths are busy for this long after the last frame through a tunnel.
const BUSY_FOR: Duration = Duration::from_secs(3);

/// Changes between two looks at what else there is to do.
const CHANGES_PER_TURN_MAX: usize = 2_048;

/// Heartbeats of one device that are read before the thread does something else.
const HEARTBEATS_PER_TURN_MAX: u32 = 1_024;

/// A flow that no frame has taken for so long is not in use: what only the data plane has seen is forgotten then
/// (IEEE 802.1Q, section 8.8.3, recommends 300 s).
const IDLE_MAX: Duration = Duration::from_secs(300);

pub(super) struct Driver {
    mailbox: Arc<Mailbox>,
    hooks: Hooks,
    started: Instant,
    back_end: BackEnd,
    kernel: Kernel,
    watch: FdbWatch,
    /// By the number of the port.
    ears: BTreeMap<u32, Ear>,
    mouths: BTreeMap<UnderlayFamily, (u32, Mouth)>,
    model: Model,
    reconciler: Reconciler,
    found: Found,
    /// MACs that have turned up here, and that the router still holds for somebody else's: it has not heard of it yet.
    claimed: BTreeSet<MacAddr>,
    announced: Arc<BTreeMap<MacAddr, PeerId>>,
    due: Due,
    sent: u64,
    busy_until: Moment,
    guarded: Option<BTreeSet<IpAddr>>,
    /// Until when packets from an address are taken although nothing is agreed on any more.
    let_in: BTreeMap<IpAddr, Moment>,
    /// Whether the firewall stands, without which nothing is sealed by the kernel.
    is_guarded: bool,
    /// What the router said last.
    view: Option<View>,
    heard: Heard,
    fault: Option<String>,
    /// Flows that lead into tunnels.
    tunnelled: usize,
}

/// What is to be done at the next turn, and when else.
struct Due {
    /// The tables are not as they were left.
    read: bool,
    not_read_before: Moment,
    read_at: Moment,
    /// An interface has changed.
    repair: bool,
    repair_at: Option<Moment>,
    /// Something that flows follow from has changed.
    want: bool,
    look_at: Moment,
    check_at: Moment,
    /// Whether there are silent paths that are not left yet.
    doubts: bool,
    ask_at: Moment,
}

impl Driver {
    pub(super) fn start(
        config: &Config,
        mut hooks: Hooks,
        mailbox: Arc<Mailbox>,
    ) -> Result<Self, StartError> {
        // Subscribed first and looked up then: no change can fall between the two.
        let watch = FdbWatch::open()?;
        let left = Kernel::left(config)?;
        (hooks.guard)(&remotes(left.flows.values().flatten()));
        let mut kernel = Kernel::open(config)?;
        let found = kernel.read()?;
        let mut driver = Self {
            mailbox,
            hooks,
            started: Instant::now(),
            back_end: config.back_end,
            kernel,
            watch,
            ears: BTreeMap::new(),
            mouths: BTreeMap::new(),
            model: Model::default(),
            reconciler: Reconciler::default(),
            found: Found::default(),
            claimed: BTreeSet::new(),
            announced: Arc::default(),
            due: Due {
                read: false,
                not_read_before: Moment::ORIGIN,
                read_at: Moment::ORIGIN + READ_EVERY,
                repair: false,
                repair_at: None,
                want: true,
                look_at: Moment::ORIGIN,
                check_at: Moment::ORIGIN,
                doubts: false,
                ask_at: Moment::ORIGIN,
            },
            sent: 0,
            busy_until: Moment::ORIGIN + BUSY_FOR,
            guarded: None,
            let_in: BTreeMap::new(),
            is_guarded: false,
            view: None,
            heard: Heard::default(),
            fault: None,
            tunnelled: 0,
        };
        let left = found.flows.iter().filter_map(|(mac, place)| Some((*mac, (*place)?)));
        let adopted: BTreeMap<_, _> = left
            .filter(|(_, place)| place.is_sealed() || (config.adopt && *place != Place::UserSpace))
            .collect();
        driver.model.adopt(&adopted, Moment::ORIGIN);
        driver.reconciler.adopt(found.flows.clone());
        driver.found = found;
        driver.open_sockets();
        driver.protect(&adopted, Moment::ORIGIN);
        driver.is_guarded = (driver.hooks.is_guarded)();
        driver.tell();
        Ok(driver)
    }

    /// Runs until the handle is dropped.
    pub(super) fn run(mut self) {
        loop {
            let now = self.now();
            if !self.take_mail(now) {
                return;
            }
            self.look(now);
            self.repair(now);
            self.read_if_due(now);
            self.judge(now);
            self.doubt(now);
            self.reconcile(now);
            self.tell();
            if let Err(errno) = self.wait() {
                tracing::error!(%errno, "the fast path waits for nothing any more, and ends");
                return;
            }
            self.listen();
        }
    }

    fn now(&self) -> Moment {
        Moment::from_origin(self.started.elapsed())
    }

    /// False when the handle is gone.
    fn take_mail(&mut self, now: Moment) -> bool {
        let (view, asks) = {
            let mut mail = self.mailbox.lock();
            if mail.is_over {
                return false;
            }
            (mail.view.take(), std::mem::take(&mut mail.asks))
        };
        if let Some(view) = view {
            self.see(view.clone(), now);
            self.view = Some(view);
        }
        if !asks.is_empty() {
            let flows = self.flows(now);
            // Whoever has given up waiting needs no answer.
            asks.into_iter().for_each(|ask| drop(ask.try_send(flows.clone())));
        }
        true
    }

    fn see(&mut self, mut view: View, now: Moment) {
        let mut taken = BTreeSet::new();
        for (peer, agreement) in &mut view.neighbours {
            if let Agreement::Both { remote, .. } = agreement
                && let Some(refusal) =
                    self.refusal(*remote, (view.seals.get(peer), view.room.get(peer)), &mut taken, now)
            {
                *agreement = Agreement::None(refusal);
            }
        }
        self.announced = Arc::clone(&view.announced);
        self.claimed.retain(|mac| view.announced.contains_key(mac));
        self.model.see(view, now);
        self.due.want = true;
    }

    /// Why there can be no path to this address; if there is none, what seals it is in place from now on.
    fn refusal(
        &mut self,
        remote: IpAddr,
        (seal, room): (Option<&seal::Peer>, Option<&u32>),
        taken: &mut BTreeSet<IpAddr>,
        now: Moment,
    ) -> Option<Refusal> {
        let family = UnderlayFamily::of(remote);
        if family != UnderlayFamily::Sealed {
            return (!self.kernel.ports().contains_key(&family)).then_some(Refusal::NoDevice);
        }
        let (is_guarded, mtu) = (self.is_guarded, self.kernel.mtu());
        if self.kernel.missing().contains_key(&family) {
            return Some(Refusal::NoDevice);
        }
        let Some((device, seal)) = self.kernel.seal().zip(seal) else { return Some(Refusal::Encrypted) };
        if !is_guarded {
            return Some(Refusal::Unguarded);
        }
        // What seals lets its packets be cut, so that heartbeats do not find out.
        if room.is_some_and(|room| *room < mtu) {
            return Some(Refusal::Narrow);
        }
        // Two ids may have the 27 bits in common that their addresses are made of.
        if seal.address() == device.address() || !taken.insert(remote) {
            return Some(Refusal::Address);
        }
        device.put(seal, now).err().map(|error| {
            tracing::debug!(%error, "what seals does not take a peer");
            if error.wants_fresh_keys() {
                return Refusal::Unkeyed;
            }
            self.due.repair = true;
            Refusal::Encrypted
        })
    }

    /// Looks whether what seals is as it was left: nobody tells of keys that somebody has taken.
    fn check_seal(&mut self, now: Moment) {
        if self.due.check_at > now {
            return;
        }
        self.due.check_at = now + CHECK_EVERY;
        match self.kernel.seal().map(seal::Device::check) {
            Some(Ok(true)) => {
                tracing::warn!("keys of the fast path were not as they had been left: repaired");
                self.see_again(now);
            }
            // What is wrong with the device is found out when it is repaired.
            Some(Err(error)) => tracing::debug!(%error, "what seals cannot be looked at"),
            Some(Ok(false)) | None => {}
        }
    }

    /// Looks at what nobody tells of: sightings of the data plane, and whether frames go through the tunnels.
    fn look(&mut self, now: Moment) {
        if self.due.look_at > now {
            return;
        }
        self.due.look_at = now + LOOK_EVERY;
        if let Some(learnt) = (self.hooks.learnt)() {
            let idle = &self.found.idle;
            self.model.learn(&learnt, |mac| idle.get(&mac).is_some_and(|idle| *idle < IDLE_MAX));
            self.due.want = true;
        }
        let is_guarded = (self.hooks.is_guarded)();
        if std::mem::replace(&mut self.is_guarded, is_guarded) != is_guarded {
            self.see_again(now);
        }
        if let Some(device) = self.kernel.seal() {
            device.handle_timeout(now);
        }
        self.check_seal(now);
        self.due.want |= self.let_in.values().any(|until| *until <= now);
        let sent = self.kernel.passed().map_or(self.sent, |[(frames, _), _]| frames);
        if std::mem::replace(&mut self.sent, sent) != sent {
            self.busy_until = now + BUSY_FOR;
        }
        let is_busy = now < self.busy_until;
        let carrying = &self.heard.carrying;
        self.model.health().set_busy(|peer| is_busy && carrying.contains(&peer), now);
    }

    /// Something has changed that agreements are judged by.
    fn see_again(&mut self, now: Moment) {
        if let Some(view) = self.view.clone() {
            self.see(view, now);
        }
    }

    /// Asks user space about neighbours whose paths have fallen silent.
    fn doubt(&mut self, now: Moment) {
        let doubted: Vec<_> = self.model.doubted(now).collect();
        // A path is left also when its time is over.
        self.due.want |= std::mem::replace(&mut self.due.doubts, !doubted.is_empty()) && doubted.is_empty();
        if doubted.is_empty() || self.due.ask_at > now {
            return;
        }
        self.due.ask_at = now + ASK_EVERY;
        for peer in doubted {
            if let Some(ago) = (self.hooks.ask)(peer) {
                self.model.heard(peer, Moment::from_origin(now.since_origin().saturating_sub(ago)));
            }
        }
        self.due.want = true;
    }

    /// Makes devices that are missing, or not as they shall be.
    fn repair(&mut self, now: Moment) {
        let is_due = self.due.repair || self.due.repair_at.is_some_and(|at| at <= now);
        if !is_due {
            return;
        }
        self.due.repair = false;
        self.due.repair_at = None;
        let mtu = self.kernel.mtu();
        match self.kernel.repair() {
            Ok(is_other) => {
                if is_other {
                    tracing::warn!("the devices of the fast path were not as they had been left: repaired");
                    self.due.read = true;
                    self.due.want = true;
                }
                if self.fault.take().is_some() {
                    tracing::info!("the fast path is back");
                }
                self.open_sockets();
                if is_other || self.kernel.mtu() != mtu {
                    self.see_again(now);
                }
            }
            Err(error) => {
                self.due.repair_at = Some(now + REPAIR_EVERY);
                self.due.read = true;
                if self.fault.is_none() {
                    tracing::warn!(%error, "there is no fast path for now: user space carries all frames");
                }
                self.fault = Some(error.to_string());
            }
        }
    }

    fn open_sockets(&mut self) {
        let ports: Vec<_> = self.kernel.ports().iter().map(|(family, port)| (*family, *port)).collect();
        self.ears.retain(|ear, _| ports.iter().any(|(_, port)| port == ear));
        self.mouths.retain(|family, (port, _)| ports.contains(&(*family, *port)));
        for (family, port) in ports {
            if let Entry::Vacant(place) = self.ears.entry(port) {
                match Ear::open(port) {
                    Ok(ear) => drop(place.insert(ear)),
                    Err(error) => tracing::warn!(%error, "heartbeats cannot be heard"),
                }
            }
            if let Entry::Vacant(place) = self.mouths.entry(family) {
                let (local, device) = self.kernel.local(family);
                match Mouth::open(family, local, device) {
                    Ok(mouth) => drop(place.insert((port, mouth))),
                    Err(error) => tracing::warn!(%error, "heartbeats cannot be sent"),
                }
            }
        }
    }

    fn read_if_due(&mut self, now: Moment) {
        let is_disturbed = self.due.read && self.due.not_read_before <= now;
        if self.due.read_at <= now || self.reconciler.retries(now) || is_disturbed {
            self.read(now);
        }
    }

    fn read(&mut self, now: Moment) {
        self.due.read = false;
        self.due.read_at = now + READ_EVERY;
        let before = Instant::now();
        match self.kernel.read() {
            Ok(found) => self.take(found),
            Err(error) => {
                tracing::debug!(%error, "the forwarding entries cannot be read");
                self.due.read = true;
            }
        }
        self.due.not_read_before = now + READ_PAUSE.max(before.elapsed() * READ_PAUSE_FACTOR);
    }

    fn take(&mut self, found: Found) {
        for mac in found.locals.keys().filter(|mac| !self.found.locals.contains_key(*mac)) {
            if self.announced.contains_key(mac) {
                self.claimed.insert(*mac);
            }
        }
        self.reconciler.found(found.flows.clone());
        self.found = found;
        self.due.want = true;
    }

    /// Judges the paths, and asks those whose turn it is.
    fn judge(&mut self, now: Moment) {
        self.model.health().handle_timeout(now);
        while let Some(probe) = self.model.health().poll_probe(now) {
            self.ask(&probe);
        }
        while let Some(turn) = self.model.health().poll_turn() {
            say(&turn, self.back_end);
            self.due.want = true;
        }
    }

    fn ask(&self, probe: &DueProbe) {
        let DueProbe { tunnel, cookie, number, is_full, .. } = *probe;
        let heartbeat = Heartbeat { kind: HeartbeatKind::Question, cookie, number };
        let len = if is_full { self.kernel.mtu() as usize } else { 0 };
        self.send(&heartbeat.encode(tunnel.vni, len), SocketAddr::new(tunnel.remote, tunnel.port));
    }

    fn send(&self, packet: &[u8], to: SocketAddr) {
        if let Some((_, mouth)) = self.mouths.get(&UnderlayFamily::of(to.ip()))
            && let Err(error) = mouth.send(packet, to)
        {
            tracing::trace!(%error, %to, "a heartbeat did not leave");
        }
    }

    /// Makes the tables what they shall be, a part at a time.
    fn reconcile(&mut self, now: Moment) {
        let is_due = self.due.want || self.model.poll_change().is_some_and(|at| at <= now);
        if !is_due || self.reconciler.poll_timeout().is_some() || self.fault.is_some() {
            return;
        }
        self.due.want = false;
        let mut wanted = self.model.wanted(now);
        self.protect(&wanted, now);
        self.keep_own(&mut wanted);
        self.tunnelled = wanted.values().filter(|place| matches!(place, Place::Tunnel(_))).count();
        self.reconciler.want(wanted);
        let changes = self.reconciler.changes(CHANGES_PER_TURN_MAX);
        if changes.is_empty() {
            return;
        }
        tracing::debug!(?changes, "flows change");
        match self.kernel.apply(&changes) {
            Ok(done) => {
                for (change, is_done) in changes.iter().zip(done) {
                    self.reconciler.done(change, is_done, now);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the forwarding entries cannot be changed");
                changes.iter().take(1).for_each(|change| self.reconciler.done(change, false, now));
            }
        }
        self.due.want = true;
    }

    /// Takes from `wanted` what is on this host's own bridge. What the bridge has merely learnt and somebody else has
    /// announced since is forgotten here.
    fn keep_own(&mut self, wanted: &mut BTreeMap<MacAddr, Place>) {
        let locals: Vec<(MacAddr, Local)> = self
            .found
            .locals
            .iter()
            .filter(|(mac, _)| wanted.contains_key(*mac))
            .map(|(mac, local)| (*mac, *local))
            .collect();
        for (mac, local) in locals {
            let has_left =
                self.announced.contains_key(&mac) && !self.claimed.contains(&mac) && !local.is_fixed;
            if has_left && self.kernel.forget(mac, local).is_ok() {
                self.found.locals.remove(&mac);
            } else {
                wanted.remove(&mac);
            }
        }
    }

    /// Lets in whom a path was agreed on with, and whoever still has flows from before. Whoever was let in is so for
    /// [`AWAY_MAX`] more where nothing comes in clear that must not: the two ends of a path do not leave it at the same
    /// moment, nor do they come back to it.
    fn protect(&mut self, wanted: &BTreeMap<MacAddr, Place>, now: Moment) {
        let agreed = self.model.paths().tunnels().map(|(_, tunnel)| tunnel.remote);
        let present = agreed.chain(remotes(wanted.values())).collect::<BTreeSet<_>>();
        let may_wait = self.view.as_ref().is_some_and(|view| view.may_wait);
        self.let_in.retain(|remote, until| *until > now && (may_wait || is_sealed(*remote)));
        self.let_in.extend(present.iter().map(|remote| (*remote, now + AWAY_MAX)));
        let peers: BTreeSet<_> = self.let_in.keys().copied().collect();
        if self.guarded.as_ref() != Some(&peers) {
            (self.hooks.guard)(&peers);
            let seals = self.view.iter().flat_map(|view| view.seals.values());
            self.kernel.admit(&peers, &seals.map(|seal| seal.address().into()).collect());
            self.guarded = Some(peers);
        }
    }

    fn tell(&mut self) {
        let paths: BTreeMap<_, _> = self.model.paths().states().collect();
        let is_up = self.fault.is_none();
        let carrying = paths.iter().filter(|(_, state)| matches!(state, PathState::Carrying { .. }) && is_up);
        let heard = Heard {
            macs: self.found.locals.keys().copied().collect(),
            end: is_up.then_some(self.kernel.end()),
            carrying: carrying.map(|(peer, _)| *peer).collect(),
            paths,
            flows: self.tunnelled,
            fault: self.fault.clone(),
            missing: self.kernel.missing().values().cloned().collect(),
        };
        if heard != self.heard {
            (self.hooks.tell)(&heard);
            self.heard = heard;
        }
    }

    fn wait(&self) -> Result<(), Errno> {
        let now = self.now();
        let due = &self.due;
        let read = due.read.then_some(due.not_read_before);
        let is_held_up = self.reconciler.poll_timeout().is_some() || self.fault.is_some();
        let soon = ((due.want && !is_held_up) || due.repair).then_some(now);
        let ask = self.model.doubted(now).next().map(|_| due.ask_at);
        let others =
            [read, soon, ask, due.repair_at, self.model.poll_timeout(), self.reconciler.poll_timeout()];
        let at = others.into_iter().flatten().chain([due.look_at, due.read_at]).min().unwrap_or(due.look_at);
        let timeout = Timespec::try_from(at.since(now)).expect("half a minute fits a timespec");
        let mut fds = vec![
            PollFd::new(&self.mailbox.wake, PollFlags::IN),
            PollFd::from_borrowed_fd(self.watch.as_fd(), PollFlags::IN),
        ];
        let ears = self.ears.values();
        fds.extend(ears.map(|ear| PollFd::from_borrowed_fd(ear.as_fd(), PollFlags::IN)));
        fds.extend(self.kernel.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Takes what waits: words of the router, events of the kernel, heartbeats.
    fn listen(&mut self) {
        let mut counter = [0; 8];
        // There is nothing to read when something else has ended the wait.
        let _drained = rustix::io::read(&self.mailbox.wake, &mut counter);
        let mut events = Vec::new();
        self.watch.drain(|event| events.push(event));
        for event in events {
            self.happened(&event);
        }
        let reconciler = &self.reconciler;
        self.due.read |= self.kernel.listen(|mac| reconciler.expects(mac).flatten());
        let now = self.now();
        let mut heartbeats = Vec::new();
        let mut is_deaf = false;
        for ear in self.ears.values() {
            is_deaf |= read_heartbeats(ear, &mut heartbeats).is_err();
        }
        if is_deaf {
            // The device is gone, or down: the socket with it.
            self.ears.clear();
            self.due.repair = true;
        }
        for Heartbeat { kind, cookie, number } in heartbeats {
            match kind {
                HeartbeatKind::Question => self.answer(cookie, number),
                HeartbeatKind::Answer => self.model.health().answered(cookie, number, now),
            }
        }
    }

    fn answer(&self, cookie: u64, number: u64) {
        let Some((_, tunnel, cookie)) = self.model.paths().asked(cookie) else { return };
        let heartbeat = Heartbeat { kind: HeartbeatKind::Answer, cookie, number };
        self.send(&heartbeat.encode(tunnel.vni, 0), SocketAddr::new(tunnel.remote, tunnel.port));
    }

    /// Has the tables read if an event is not the echo of what this thread has done.
    fn happened(&mut self, event: &FdbEvent) {
        match event {
            FdbEvent::Link => self.due.repair = true,
            FdbEvent::Lost => self.due.read = true,
            FdbEvent::Put(entry) => self.due.read |= !self.is_echo(entry, true),
            FdbEvent::Gone(entry) => self.due.read |= !self.is_echo(entry, false),
        }
    }

    fn is_echo(&self, entry: &FdbEntry, is_there: bool) -> bool {
        let expected = self.reconciler.expects(entry.mac);
        if self.kernel.is_ours(entry) {
            let is_as_left = expected.is_some_and(|place| self.kernel.is_of(entry, place));
            return is_as_left == is_there;
        }
        // On a port of a container, or of a bridge that is none of ours.
        let is_known = self.found.locals.get(&entry.mac).is_some_and(|local| local.port == entry.device);
        let is_of_bridge = matches!(entry.place, FdbPlace::Bridge) && !entry.is_own;
        !is_of_bridge || is_known == is_there
    }

    fn flows(&mut self, now: Moment) -> Flows {
        self.read(now);
        let flow = |(mac, place): (&MacAddr, &Option<Place>)| Flow {
            mac: *mac,
            peer: self.model.owners().of(*mac),
            place: *place,
            idle: self.found.idle.get(mac).copied(),
            passed: self.found.passed.get(mac).copied(),
        };
        Flows {
            flows: self.reconciler.installed().iter().map(flow).collect(),
            counted: self.reconciler.counted(),
            passed: self.kernel.passed().unwrap_or_default(),
            missed: self.kernel.missed().unwrap_or_default(),
        }
    }
}

fn read_heartbeats(ear: &Ear, heartbeats: &mut Vec<Heartbeat>) -> std::io::Result<()> {
    let mut buffer = [0; HEARTBEAT_LEN];
    for _ in 0..HEARTBEATS_PER_TURN_MAX {
        match ear.hear(&mut buffer) {
            Ok(Some(len)) => heartbeats.extend(Heartbeat::decode(&buffer[..len])),
            Ok(None) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn say(turn: &Turn, back_end: BackEnd) {
    let Turn { peer, state } = turn;
    match state {
        PathState::Carrying { tunnel, .. } => {
            let overlay = back_end.as_str();
            tracing::info!(%peer, overlay, %tunnel, "the kernel carries frames for known MACs");
        }
        PathState::Suspended { why, .. } => {
            tracing::info!(%peer, overlay = "sleeve", reason = %why, "user space carries all frames");
        }
        PathState::Refused(why) => {
            tracing::info!(%peer, overlay = "sleeve", reason = %why, "user space carries all frames");
        }
        PathState::Untried => {}
    }
}
