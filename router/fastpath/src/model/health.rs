//! Whether kernel paths carry: questions as large as the largest frame, asked all the time over the path itself.
//!
//! ```text
//!  untried ── answered ──► carrying ── 6 unanswered, 1.2 s ──► suspended ── answered for a while ──► carrying
//! ```
//! A path that fails again soon after it came back has to be answered twice as long the next time. Owns the times of
//! probes and the verdicts; sends nothing.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use mesh_hostnet::is_sealed;
use mesh_wire::control::VxlanOffer;
use mesh_wire::{Moment, PeerId};

use super::{Agreement, Refusal, Tunnel};

/// Time between probes of a path that carries frames, or whose last probe was not answered.
pub const PROBE_EVERY: Duration = Duration::from_millis(200);

/// Time between probes of a path that carries nothing at the moment.
pub const IDLE_PROBE_EVERY: Duration = Duration::from_secs(5);

/// A path with so many unanswered probes in a row, over [`DEAD_AFTER`] at least, carries no longer. At 5 % loss in each
/// direction that happens to one path in ten days.
pub const UNANSWERED_MAX: u32 = 6;

/// See [`UNANSWERED_MAX`].
pub const DEAD_AFTER: Duration = Duration::from_millis(1_000);

/// A path that does not carry is tried again after an eighth of the time for which it has not, within
/// [`PROBE_EVERY`] and this.
pub const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long a path that came back is answered before it carries again, for the first time.
pub const PROOF_FIRST: Duration = Duration::from_millis(400);

/// The same at most.
pub const PROOF_MAX: Duration = Duration::from_secs(60);

/// A path that has carried for so long has made good for its failures.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(120);

/// Probes of one path whose answers are awaited; answers to older ones count for nothing.
const AWAITED_MAX: usize = 16;

/// A question to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueProbe {
    /// To whom.
    pub peer: PeerId,
    /// Where to.
    pub tunnel: Tunnel,
    /// What the peer knows this router by.
    pub cookie: u64,
    /// What its answer bears.
    pub number: u64,
    /// Whether it has the size of the largest frame; a small one only tells a path that is too narrow from one that is
    /// blocked.
    pub is_full: bool,
}

/// How a path stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathState {
    /// It shall not be used.
    Refused(Refusal),
    /// No probe was answered yet.
    Untried,
    /// Probes are answered.
    Carrying {
        /// Where frames go.
        tunnel: Tunnel,
        /// Time until the last answer.
        rtt: Duration,
    },
    /// They are not, or not for long enough.
    Suspended {
        /// Since when.
        since: Moment,
        /// What is known of it.
        why: Suspicion,
    },
}

/// Why a path does not carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// Nothing comes back.
    Silent,
    /// Small packets pass, large ones do not.
    Narrow,
    /// It is answered again, and has to be for so long.
    Proving(Duration),
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("VXLAN is not answered: its UDP port may be blocked on the way"),
            Self::Narrow => {
                f.write_str("VXLAN passes small packets only: the path's MTU is too small for it")
            }
            Self::Proving(time) => {
                write!(f, "VXLAN is answered again, and has to be for {:.1} s", time.as_secs_f64())
            }
        }
    }
}

/// A path that began or ceased to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Whose.
    pub peer: PeerId,
    /// How it stands now.
    pub state: PathState,
}

/// The judge of all paths.
#[derive(Debug, Default)]
pub struct PathHealth {
    paths: BTreeMap<PeerId, Path>,
    turns: VecDeque<Turn>,
}

#[derive(Debug)]
struct Path {
    /// `None` where the path is refused.
    end: Option<End>,
    state: PathState,
    is_busy: bool,
    next: Moment,
    number: u64,
    /// Probes that may still be answered: number, time, whether full.
    awaited: VecDeque<(u64, Moment, bool)>,
    /// Full probes since the last answer to one.
    unanswered: u32,
    /// When the last full probe was answered, or the first one sent.
    answered: Moment,
    /// Since when answers come without a gap.
    streak: Option<Moment>,
    small_answered: Option<Moment>,
    proof: Duration,
    carried_since: Moment,
    /// Since when the path does not carry.
    down_since: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    tunnel: Tunnel,
    cookie: u64,
    our_cookie: u64,
}

impl PathHealth {
    /// Takes in what is agreed with each neighbour. A neighbour without a session keeps its path as it is; its probes tell.
    pub(super) fn agree(&mut self, agreements: &BTreeMap<PeerId, Agreement>, now: Moment) {
        for (peer, agreement) in agreements {
            match *agreement {
                Agreement::Unheard => {}
                Agreement::UnheardSealed => {
                    if self.tunnel(*peer).is_some_and(|tunnel| !is_sealed(tunnel.remote)) {
                        self.refuse(*peer, Refusal::Encrypted, now);
                    }
                }
                Agreement::None(refusal) => self.refuse(*peer, refusal, now),
                Agreement::Both { remote, theirs: VxlanOffer { port, vni, cookie, .. }, our_cookie } => {
                    let tunnel = Tunnel { remote, port, vni };
                    self.offer(*peer, End { tunnel, cookie, our_cookie }, now);
                }
            }
        }
        self.paths.retain(|peer, path| {
            agreements.contains_key(peer) || matches!(path.state, PathState::Carrying { .. })
        });
    }

    fn refuse(&mut self, peer: PeerId, refusal: Refusal, now: Moment) {
        let path = self.paths.entry(peer).or_insert_with(|| Path::new(now));
        path.end = None;
        let state = PathState::Refused(refusal);
        if std::mem::replace(&mut path.state, state) != state {
            self.turns.push_back(Turn { peer, state });
        }
    }

    fn offer(&mut self, peer: PeerId, end: End, now: Moment) {
        let path = self.paths.entry(peer).or_insert_with(|| Path::new(now));
        let before = path.end.replace(end);
        if before == Some(end) {
            return;
        }
        // Another session, and the same path: what was found of it holds, and is asked anew at once. But if it was silent, that may
        // have been the router, which was away.
        path.next = now;
        path.awaited.clear();
        let same_path = before.is_some_and(|before| before.tunnel == end.tunnel);
        if !same_path || matches!(path.state, PathState::Suspended { .. }) {
            *path = Path { end: Some(end), is_busy: path.is_busy, number: path.number, ..Path::new(now) };
        }
    }

    /// Says which paths have frames to carry.
    pub fn set_busy(&mut self, is_busy: impl Fn(PeerId) -> bool, now: Moment) {
        for (peer, path) in &mut self.paths {
            let busy = is_busy(*peer);
            if busy && !path.is_busy {
                path.next = path.next.min(now + PROBE_EVERY);
            }
            path.is_busy = busy;
        }
    }

    /// Gives up paths that are not answered. To be called before probes are asked for.
    pub fn handle_timeout(&mut self, now: Moment) {
        for (peer, path) in &mut self.paths {
            if path.end.is_none() || path.unanswered < UNANSWERED_MAX || now.since(path.answered) < DEAD_AFTER
            {
                continue;
            }
            if path.fail(now) {
                self.turns.push_back(Turn { peer: *peer, state: path.state });
            }
        }
    }

    /// The next probe to send, if one is due.
    pub fn poll_probe(&mut self, now: Moment) -> Option<DueProbe> {
        let (peer, path) = self.paths.iter_mut().find(|(_, path)| path.end.is_some() && path.next <= now)?;
        let End { tunnel, cookie, .. } = path.end?;
        let carries = matches!(path.state, PathState::Carrying { .. });
        // Of two probes of a path that does not carry, one is small.
        let is_full = carries || path.streak.is_some() || path.number.is_multiple_of(2);
        path.number += 1;
        if path.awaited.len() == AWAITED_MAX {
            path.awaited.pop_front();
        }
        path.awaited.push_back((path.number, now, is_full));
        if is_full {
            if path.unanswered == 0 {
                path.answered = now;
            }
            path.unanswered = path.unanswered.saturating_add(1);
        }
        path.next = now + path.pause(now);
        Some(DueProbe { peer: *peer, tunnel, cookie, number: path.number, is_full })
    }

    /// Takes in an answer that bears this cookie of this router's. Those to no question are passed over.
    pub fn answered(&mut self, our_cookie: u64, number: u64, now: Moment) {
        let of = |path: &Path| path.end.is_some_and(|end| end.our_cookie == our_cookie);
        let Some((peer, path)) = self.paths.iter_mut().find(|(_, path)| of(path)) else { return };
        let Some(at) = path.awaited.iter().position(|(awaited, ..)| *awaited == number) else { return };
        let Some((_, sent, is_full)) = path.awaited.remove(at) else { return };
        if path.succeed(now.since(sent), is_full, now) {
            self.turns.push_back(Turn { peer: *peer, state: path.state });
        }
    }

    /// The peer that knows itself by this cookie, and where to answer it: tunnel and cookie.
    #[must_use]
    pub fn asked(&self, our_cookie: u64) -> Option<(PeerId, Tunnel, u64)> {
        let asked = |(peer, path): (&PeerId, &Path)| {
            let end = path.end.filter(|end| end.our_cookie == our_cookie)?;
            Some((*peer, end.tunnel, end.cookie))
        };
        self.paths.iter().find_map(asked)
    }

    /// How a peer's path stands; `None` where nobody has said anything of one.
    #[must_use]
    pub fn state(&self, peer: PeerId) -> Option<PathState> {
        Some(self.paths.get(&peer)?.state)
    }

    /// The end of a peer's path, if there may be one.
    #[must_use]
    pub fn tunnel(&self, peer: PeerId) -> Option<Tunnel> {
        Some(self.paths.get(&peer)?.end?.tunnel)
    }

    /// All paths.
    pub fn states(&self) -> impl Iterator<Item = (PeerId, PathState)> {
        self.paths.iter().map(|(peer, path)| (*peer, path.state))
    }

    /// The ends of all paths that may be used: nobody else may send to this router's.
    pub fn tunnels(&self) -> impl Iterator<Item = (PeerId, Tunnel)> {
        self.paths.iter().filter_map(|(peer, path)| Some((*peer, path.end?.tunnel)))
    }

    /// What has changed since this was asked last.
    pub fn poll_turn(&mut self) -> Option<Turn> {
        self.turns.pop_front()
    }

    /// When the next probe is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.paths.values().filter(|path| path.end.is_some()).map(|path| path.next).min()
    }
}

impl Path {
    fn new(now: Moment) -> Self {
        Self {
            end: None,
            state: PathState::Untried,
            is_busy: false,
            next: now,
            number: 0,
            awaited: VecDeque::new(),
            unanswered: 0,
            answered: now,
            streak: None,
            small_answered: None,
            proof: PROOF_FIRST,
            carried_since: now,
            down_since: now,
        }
    }

    fn pause(&self, now: Moment) -> Duration {
        match self.state {
            // What is asked now is not answered yet; an answer makes the pause that follows it a long one.
            PathState::Carrying { .. } => PROBE_EVERY,
            PathState::Untried | PathState::Suspended { .. } if self.streak.is_some() => PROBE_EVERY,
            PathState::Untried | PathState::Suspended { .. } | PathState::Refused(_) => {
                (now.since(self.down_since) / 8).clamp(PROBE_EVERY / 2, RETRY_MAX)
            }
        }
    }

    /// No answers come. True if the verdict is another now.
    fn fail(&mut self, now: Moment) -> bool {
        self.streak = None;
        let narrow = self.small_answered.is_some_and(|at| now.since(at) < 2 * RETRY_MAX + DEAD_AFTER);
        let why = if narrow { Suspicion::Narrow } else { Suspicion::Silent };
        match &mut self.state {
            PathState::Refused(_) => return false,
            PathState::Suspended { why: before, .. } => {
                let is_news = *before != why;
                *before = why;
                return is_news;
            }
            PathState::Carrying { .. } if now.since(self.carried_since) >= FORGIVEN_AFTER => {
                self.proof = PROOF_FIRST;
            }
            PathState::Carrying { .. } => self.proof = (self.proof * 2).min(PROOF_MAX),
            PathState::Untried => {}
        }
        self.down_since = now;
        self.next = now;
        self.state = PathState::Suspended { since: now, why };
        true
    }

    /// An answer has come. True if the verdict is another now.
    fn succeed(&mut self, rtt: Duration, is_full: bool, now: Moment) -> bool {
        if !is_full {
            self.small_answered = Some(now);
            // Something passes: whether large packets do is asked at once.
            self.next = now;
            return false;
        }
        self.unanswered = 0;
        let Some(end) = self.end else { return false };
        let carrying = PathState::Carrying { tunnel: end.tunnel, rtt };
        match self.state {
            PathState::Refused(_) => false,
            PathState::Carrying { .. } => {
                self.state = carrying;
                if !self.is_busy {
                    self.next = now + IDLE_PROBE_EVERY;
                }
                false
            }
            PathState::Untried => self.come_up(carrying, now),
            PathState::Suspended { since, .. } => {
                let streak = *self.streak.get_or_insert(now);
                if now.since(streak) >= self.proof {
                    return self.come_up(carrying, now);
                }
                self.next = self.next.min(now + PROBE_EVERY);
                let proving = Suspicion::Proving(self.proof);
                self.state = PathState::Suspended { since, why: proving };
                false
            }
        }
    }

    fn come_up(&mut self, carrying: PathState, now: Moment) -> bool {
        self.state = carrying;
        self.streak = None;
        self.small_answered = None;
        self.carried_since = now;
        true
    }
}
