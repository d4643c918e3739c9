//! The loop that owns the node: one input at a time, then a full drain of its outputs.
//!
//! Owns the node, the pipes by connection, and the data plane's handle. It never awaits while it holds a decision
//! half executed, and never blocks: what is slow (names, dials, the host's network) runs elsewhere and reports back
//! as an input.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh_dataplane::Dataplane;
use mesh_fastpath::vxlan::Heard;
use mesh_ipam::{self as ipam, Ticket};
use mesh_names::Snapshot;
use mesh_node::{AddressOutput, ConnectionId, Event, Input, Node, Output, Report};
use mesh_wire::{Moment, NetworkId};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use crate::absent::Absent;
use crate::clock::Clock;
use crate::desk::{Ask, Refused};
use crate::dial::Dialer;
use crate::fastpath::Lane;
use crate::journal::{Journal, Word};
use crate::pipe::Pipe;
use crate::{network, plan};

/// Inputs from connections that may wait. When it is full the connections' readers wait, and TCP slows their peers.
pub(crate) const INPUTS_QUEUED_MAX: usize = 1024;

/// Reports from the data plane that may wait. When it is full the data plane drops them; liveness is told again.
pub(crate) const REPORTS_QUEUED_MAX: usize = 256;

/// The node with its surroundings.
pub(crate) struct Shell {
    node: Node,
    dataplane: Dataplane,
    lane: Lane,
    pipes: BTreeMap<ConnectionId, Pipe>,
    dialer: Dialer,
    clock: Clock,
    /// The network that this router belongs to, and the file that says so to its next life.
    network: Option<NetworkId>,
    network_file: PathBuf,
    /// Whether the node has a plan that the data plane does not know.
    plan_is_due: bool,
    /// The names as the name servers of this host see them.
    names: Arc<ArcSwap<Snapshot>>,
    /// Writes the state of address management, where it is on.
    journal: Option<Journal>,
    /// A batch that the journal did not take.
    unwritten: Option<u64>,
    /// Who waits for address management. As many as the clients of the control socket, and few each.
    clients: BTreeMap<Ticket, oneshot::Sender<Result<ipam::Answer, Refused>>>,
}

/// What a shell is made of, beside the node and the data plane.
pub(crate) struct Setting {
    pub(crate) dialer: Dialer,
    pub(crate) clock: Clock,
    pub(crate) network: Option<NetworkId>,
    pub(crate) network_file: PathBuf,
    pub(crate) journal: Option<Journal>,
}

impl Shell {
    pub(crate) fn new(mut node: Node, dataplane: Dataplane, lane: Lane, setting: Setting) -> Self {
        let names = Arc::new(ArcSwap::new(node.names()));
        let Setting { dialer, clock, network, network_file, journal } = setting;
        Self {
            node,
            dataplane,
            lane,
            pipes: BTreeMap::new(),
            dialer,
            clock,
            network,
            network_file,
            plan_is_due: false,
            names,
            journal,
            unwritten: None,
            clients: BTreeMap::new(),
        }
    }

    /// Gives the node one input and executes all that follows.
    pub(crate) fn handle(&mut self, input: Input, pipe: Option<Pipe>) {
        if let (Input::Dialed { id, .. } | Input::Accepted { id, .. }, Some(pipe)) = (&input, pipe) {
            self.pipes.insert(*id, pipe);
        }
        if let Input::Closed { id } = &input {
            self.pipes.remove(id);
        }
        let mut pending = vec![input];
        while let Some(input) = pending.pop() {
            self.node.handle(input, self.clock.now());
            while let Some(output) = self.node.poll_output() {
                // A connection whose peer lets too much pile up is over.
                pending.extend(self.execute(output).map(|id| Input::Closed { id }));
            }
            pending.extend(self.unwritten.take().map(|seq| Input::Ipam(ipam::Input::PersistFailed(seq))));
        }
    }

    /// Takes in what somebody wants of address management.
    pub(crate) fn ask(&mut self, ask: Ask) {
        let input = match ask {
            Ask::Request { ticket, request, deadline, answer } => {
                self.clients.insert(ticket, answer);
                ipam::Input::Request { ticket, request, deadline }
            }
            Ask::Probed { address, answered } => ipam::Input::Probed { address, answered },
            Ask::Cancel(ticket) => {
                self.clients.remove(&ticket);
                ipam::Input::Cancel { ticket }
            }
        };
        self.handle(Input::Ipam(input), None);
    }

    /// Takes in what came of writing the state of address management.
    pub(crate) fn written(&mut self, word: Word) {
        match word {
            Word::Silence => {}
            Word::Persisted { seq, .. } => self.handle(Input::Ipam(ipam::Input::Persisted(seq)), None),
            Word::Failed(seq) => self.handle(Input::Ipam(ipam::Input::PersistFailed(seq)), None),
        }
        if let Some(journal) = &mut self.journal
            && journal.wants_snapshot(word)
            && let Some((_, snapshot)) = self.node.ipam_snapshot()
        {
            journal.snapshot(snapshot);
        }
    }

    fn persist(&mut self, seq: u64, bytes: Vec<u8>) {
        let written = self.journal.as_mut().is_some_and(|journal| journal.append(seq, bytes));
        if !written {
            self.unwritten = Some(seq);
        }
    }

    /// Gives the data plane what the node wants of it, and the name servers the names, if that has changed. Not done with each input: what a burst of
    /// them comes to is all that counts, and a plan is work in proportion to the network.
    pub(crate) fn publish(&mut self) {
        if std::mem::take(&mut self.plan_is_due) {
            let plan = self.node.plan();
            self.dataplane.publish(plan::to_dataplane(plan.clone()));
            // The data plane takes announcements only of peers that it knows by now.
            self.lane.see(&self.node, &plan, &self.dataplane);
        }
        let names = self.node.names();
        if !Arc::ptr_eq(&names, &self.names.load()) {
            self.names.store(names);
        }
    }

    /// The size of a path is known: whether it takes what the kernel seals is judged anew.
    pub(crate) const fn path_sized(&mut self) {
        self.plan_is_due = true;
    }

    /// Takes in what the fast path has found.
    pub(crate) fn fast_path_heard(&mut self, heard: Heard) {
        for input in self.lane.hear(heard) {
            self.handle(input, None);
        }
    }

    /// The names as of the last publication.
    pub(crate) const fn names(&self) -> &Arc<ArcSwap<Snapshot>> {
        &self.names
    }

    /// When the node wants to hear of the time.
    pub(crate) fn timeout(&self) -> Option<Moment> {
        self.node.poll_timeout()
    }

    /// Says goodbye to all peers and stops the data plane. Pipes still send what is queued.
    pub(crate) fn stop(mut self) {
        self.handle(Input::Stop, None);
        // First, since the fast path would miss the TAP device that goes with the data plane.
        drop(self.lane);
        self.dataplane.stop();
        if let Some(journal) = self.journal {
            journal.finish();
        }
    }

    pub(crate) const fn node(&self) -> &Node {
        &self.node
    }

    pub(crate) const fn dataplane(&self) -> &Dataplane {
        &self.dataplane
    }

    pub(crate) const fn lane(&self) -> &Lane {
        &self.lane
    }

    /// The network that this router belongs to, if it has one.
    pub(crate) const fn network(&self) -> Option<NetworkId> {
        self.network
    }

    /// The node's time.
    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Returns the connection that turned out to be broken, if one did.
    fn execute(&mut self, output: Output) -> Option<ConnectionId> {
        match output {
            Output::Dial { id, target } => self.dialer.dial(id, target),
            Output::Write { id, bytes } => {
                let pipe = self.pipes.get(&id)?;
                if !pipe.write(bytes) {
                    self.pipes.remove(&id);
                    return Some(id);
                }
            }
            Output::Close { id } => drop(self.pipes.remove(&id)),
            Output::PlanChanged | Output::MacsChanged => self.plan_is_due = true,
            Output::Joined(network) => {
                info!(network = format_args!("{network:x}"), "joined a network");
                self.network = Some(network);
                network::remember(self.network_file.clone(), network);
            }
            Output::Ipam(AddressOutput::Persist { seq, bytes }) => self.persist(seq, bytes),
            Output::Ipam(AddressOutput::Answer { ticket, result }) => {
                if let Some(answer) = self.clients.remove(&ticket) {
                    let result = result.map_err(|refusal| Refused {
                        absent: Absent::for_refusal(&refusal, &self.node, self.clock.now()),
                        refusal,
                    });
                    // A client that has gone away needs no answer.
                    let _sent = answer.send(result);
                }
            }
            Output::Event(event) => self.log(&event),
        }
        None
    }

    fn log(&self, event: &Event) {
        match event {
            Event::Connected { peer, nickname, remote, outbound } => {
                info!(%peer, %nickname, %remote, outbound, "connected");
            }
            Event::Disconnected { peer, cause } => info!(%peer, %cause, "disconnected"),
            Event::LinkUp { peer } => info!(%peer, overlay = "sleeve", "frames pass"),
            Event::LinkDown { peer, silent_for } => {
                warn!(%peer, overlay = "sleeve", silent_ms = silent_for.as_millis(), "frames no longer pass");
            }
            Event::Refused { remote, cause } => warn!(%remote, %cause, "a connection was refused"),
            Event::DialFailed { target, cause } => info!(%target, %cause, "a connection attempt failed"),
            Event::Cloned { peer, .. } if *peer == self.node.peer_id() && self.node.is_fenced() => warn!(
                %peer,
                "another router is at work with this one's identity, and this one stands aside; `mesh reset` makes it a new peer"
            ),
            Event::Cloned { peer, remote } => {
                warn!(%peer, remote = remote.map(tracing::field::display), "an identity is in use twice");
            }
            Event::Addresses(event) => log_addresses(event),
            Event::NamesRefused { container, error } => {
                warn!(%container, %error, "names of a container are not known to others");
            }
            Event::GossipRefused { peer, error } => warn!(%peer, %error, "gossip was refused"),
        }
    }
}

fn log_addresses(event: &ipam::Event) {
    match event {
        ipam::Event::Joined(_)
        | ipam::Event::Admitted
        | ipam::Event::Retired { .. }
        | ipam::Event::Granted { .. }
        | ipam::Event::Reclaimed { .. } => info!("{event}"),
        ipam::Event::Conflict { .. }
        | ipam::Event::Squatted { .. }
        | ipam::Event::Fenced(_)
        | ipam::Event::OtherNetwork { .. }
        | ipam::Event::OtherRange { .. }
        | ipam::Event::Clones { .. }
        | ipam::Event::MessageRefused { .. } => warn!("{event}"),
    }
}

/// Translates what the data plane reports; `None` for what concerns nobody but the log.
pub(crate) fn to_node(report: mesh_dataplane::Report) -> Option<Report> {
    use mesh_dataplane::Report as Seen;
    match report {
        Seen::Alive { peer, rtt } => Some(Report::Alive { peer, rtt }),
        Seen::Dead { peer, silent_for } => Some(Report::Dead { peer, silent_for }),
        Seen::Roamed { peer, to, .. } => Some(Report::Roamed { peer, remote: to }),
        Seen::RekeyWanted { peer, .. } => Some(Report::RekeyWanted { peer }),
        Seen::Relayed { peer } => Some(Report::Relayed { peer }),
        Seen::Idle { peer } => Some(Report::Idle { peer }),
        Seen::PathMtu { peer, datagram_len } => {
            debug!(%peer, datagram_len, "a path's size is known");
            None
        }
        Seen::Failed(failure) => {
            error!(%failure, cause = failure.source().map(tracing::field::display), "the data plane has lost an end");
            None
        }
    }
}

/// Bounded queue of what the data plane reports.
pub(crate) type Reports = mpsc::Receiver<mesh_dataplane::Report>;
