//! The probes of one thread: which links live, and how long their datagrams may be. Owns their sending; what they come to
//! is the engine's.

use std::io;
use std::sync::Arc;

use mesh_wire::Moment;
use mesh_wire::sleeve::{MESSAGE_HEADER_LEN, Message, SIZE_PROBE_LEN};

use super::forwarder::Forwarder;
use super::udp;
use crate::engine::{DueProbe, DueSizeProbe, Prober, Sizes};
use crate::report::Report;
use crate::shared::{Outlet, Snapshot, lock};

impl Forwarder {
    /// Probes what is due, tells the control plane what has changed, and says when to come again.
    pub(super) fn run_prober(&mut self, snapshot: &Snapshot, now: Moment) -> Option<Moment> {
        let shared = Arc::clone(&self.shared);
        let (mut prober, mut sizes) = (lock(&shared.prober), lock(&shared.sizes));
        self.look(snapshot, &mut prober, &mut sizes, now);
        prober.handle_timeout(now);
        for Outlet { link, .. } in snapshot.outlets() {
            if prober.is_idle(link.peer()) {
                link.await_frame();
            }
        }
        while let Some(due) = prober.poll_probe(now) {
            self.probe(due, snapshot);
        }
        prober.undelivered(now, |report| self.report(report.into()));
        self.run_sizes(snapshot, &mut sizes, now);
        for outlet in snapshot.outlets() {
            let Some(session) = outlet.session.as_ref().filter(|session| session.wants_rekey()) else {
                continue;
            };
            if self.report(Report::RekeyWanted { peer: outlet.link.peer(), epoch: session.epoch }) {
                session.rekey_was_asked();
            }
        }
        prober.poll_timeout().into_iter().chain(sizes.poll_timeout()).min()
    }

    /// Has a path measured anew for which this thread's datagrams have turned out to be too long.
    pub(super) fn doubt_refused(&mut self, snapshot: &Snapshot, now: Moment) {
        let Some(refused) = self.outbox.take_refused() else { return };
        let mut sizes = lock(&self.shared.sizes);
        for Outlet { link, .. } in snapshot.outlets().iter().filter(|outlet| outlet.link.remote() == refused)
        {
            sizes.doubt(link.peer(), now);
        }
        drop(sizes);
        self.shared.want_prober();
    }

    /// Tells both how the links stand.
    fn look(&self, snapshot: &Snapshot, prober: &mut Prober, sizes: &mut Sizes, now: Moment) {
        for Outlet { link, .. } in snapshot.outlets() {
            let (peer, remote) = (link.peer(), link.remote());
            if let Some(at) = link.last_heard() {
                prober.heard(peer, at);
            }
            let has_carried = link.take_passed();
            if has_carried {
                prober.carried(peer, now);
            }
            let route = || udp::route_datagram_len(remote);
            sizes.follow(peer, (prober.is_alive(peer), has_carried), remote, route, now);
        }
    }

    fn probe(&mut self, due: DueProbe, snapshot: &Snapshot) {
        let DueProbe { peer, candidate, probe, is_deaf } = due;
        // The links may have changed since this snapshot was taken.
        let Some(link) = snapshot.tables.link(peer) else { return };
        let remote = snapshot.outlet(link).link.remote();
        if candidate == Some(remote) {
            return;
        }
        let destination = candidate.unwrap_or(remote);
        let messages = [Some(Message::Probe(probe)), is_deaf.then_some(Message::Deaf)];
        for message in messages.into_iter().flatten() {
            self.send_to(destination, link, snapshot, message.encoded_len(), |out| message.encode(out));
        }
    }

    fn run_sizes(&mut self, snapshot: &Snapshot, sizes: &mut Sizes, now: Moment) {
        sizes.handle_timeout(now);
        while let Some(due) = sizes.poll_probe(now) {
            if self.size_probe(due, snapshot) == Sent::TooLong {
                sizes.refused(due.peer, due.sequence, now);
            }
        }
        for Outlet { link, .. } in snapshot.outlets() {
            link.set_path(sizes.size(link.peer()));
        }
        sizes.undelivered(|peer, datagram_len| self.report(Report::PathMtu { peer, datagram_len }));
    }

    fn size_probe(&mut self, due: DueSizeProbe, snapshot: &Snapshot) -> Sent {
        let DueSizeProbe { peer, datagram_len, sequence } = due;
        let Some(link) = snapshot.tables.link(peer) else { return Sent::OrNot };
        let outlet = snapshot.outlet(link);
        let Some(session) = &outlet.session else { return Sent::OrNot };
        let remote = outlet.link.remote();
        let head_len = session.overhead_len() + MESSAGE_HEADER_LEN + SIZE_PROBE_LEN;
        // The least size has room for the headers.
        let padding = datagram_len.saturating_sub(head_len as u16);
        let padded = Message::SizeProbe { sequence, padding };
        match self.outbox.send_whole(outlet, remote, |out| padded.encode(out)) {
            Err(error) if is_too_long(&error) => return Sent::TooLong,
            // The companion tells, or does not.
            Ok(()) | Err(_) => {}
        }
        let companion = Message::SizeProbe { sequence: sequence.wrapping_add(1), padding: 0 };
        self.send_to(remote, link, snapshot, companion.encoded_len(), |out| companion.encode(out));
        // Nothing may join it: what follows may be another path's.
        self.outbox.flush();
        Sent::OrNot
    }
}

/// What became of a size probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// The interface does not take it.
    TooLong,
    /// A reply will tell.
    OrNot,
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}
