//! Several machines in virtual time, with disks and a network that can fail, and an oracle that knows who has what.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use mesh_crypto::Rng;
use mesh_wire::{Moment, PeerId};

use super::laws::peer;
use crate::addr::Addr;
use crate::epoch::{Epoch, Rec};
use crate::founding::Founding;
use crate::interface::{Answer, Config, Event, Input, Output, Reachable, Refusal, Request, Ticket};
use crate::ipam::Ipam;
use crate::limits::COOLING_TIME;
use crate::log;
use crate::message::{Envelope, Message};
use crate::mutant::Mutants;

/// Steps in one stretch of virtual time, past which a machine is said to spin.
const STEPS_MAX: u32 = 200_000;

/// What a test found. Mutants must lead to one.
pub(super) type Finding = String;

pub(super) struct Disk {
    pub(super) snapshot: Option<Vec<u8>>,
    pub(super) log: Vec<u8>,
    /// Written, and not yet on disk.
    pub(super) unsynced: Vec<(u64, Vec<u8>)>,
}

pub(super) struct Host {
    pub(super) id: PeerId,
    pub(super) config: Config,
    pub(super) disk: Disk,
    pub(super) ipam: Option<Ipam>,
    /// Never comes back.
    pub(super) is_gone: bool,
    /// Its state was copied or put back, against the assumptions: duplicates with it are no finding.
    pub(super) is_tainted: bool,
    boot: u64,
    pub(super) events: Vec<Event>,
}

enum Happening {
    Deliver { from: usize, to: usize, bytes: Vec<u8> },
    Sync { host: usize, boot: u64 },
}

pub(super) struct Cluster {
    pub(super) hosts: Vec<Host>,
    pub(super) now: Moment,
    pub(super) rng: Rng,
    queue: BTreeMap<(Moment, u64), Happening>,
    events: u64,
    pub(super) tickets: u64,
    pub(super) requests: BTreeMap<Ticket, (usize, Request)>,
    pub(super) answers: BTreeMap<Ticket, Result<Answer, Refusal>>,
    /// Hosts of different groups do not reach each other.
    pub(super) groups: Vec<u8>,
    /// Percent of messages that are lost; as many are doubled.
    pub(super) loss: u64,
    /// Whether disks take their time; else they answer at once.
    pub(super) slow_disks: bool,
    mutants: Mutants,
    /// Who has which address: host and holder.
    pub(super) holders: BTreeMap<Addr, (usize, String)>,
    /// When which holder on which host gave an address back. What a host that is gone had is not cooled by its heir.
    freed: BTreeMap<Addr, (Moment, String, usize)>,
    recs: BTreeMap<(Addr, Epoch), Rec>,
    pub(super) subnet: IpNet,
    pub(super) findings: Vec<Finding>,
}

impl Cluster {
    pub(super) fn new(
        count: u8,
        range: &str,
        founding: impl Fn(u8) -> Founding,
        seed: u64,
        mutants: Mutants,
    ) -> Self {
        let subnet: IpNet = range.parse().unwrap();
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let hosts = (0..count).map(|number| Host {
            id: peer(number + 1),
            config: Config {
                nickname: format!("host-{number}").parse().unwrap(),
                range: subnet,
                founding: founding(number),
            },
            disk: Disk { snapshot: None, log: Vec::new(), unsynced: Vec::new() },
            ipam: None,
            is_gone: false,
            is_tainted: false,
            boot: 0,
            events: Vec::new(),
        });
        let mut cluster = Self {
            hosts: hosts.collect(),
            now: Moment::ORIGIN,
            rng: Rng::from_seed(bytes),
            queue: BTreeMap::new(),
            events: 0,
            tickets: 0,
            requests: BTreeMap::new(),
            answers: BTreeMap::new(),
            groups: vec![0; count.into()],
            loss: 0,
            slow_disks: false,
            mutants,
            holders: BTreeMap::new(),
            freed: BTreeMap::new(),
            recs: BTreeMap::new(),
            subnet,
            findings: Vec::new(),
        };
        (0..count).for_each(|number| cluster.start(number.into()));
        cluster
    }

    pub(super) fn find(&mut self, finding: impl Into<Finding>) {
        self.findings.push(finding.into());
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).unwrap()
    }

    pub(super) fn ipam(&self, host: usize) -> &Ipam {
        self.hosts[host].ipam.as_ref().expect("the host is up")
    }

    /// Starts a host from what is on its disk.
    pub(super) fn start(&mut self, host: usize) {
        let rng = self.rng.fork();
        let at = &mut self.hosts[host];
        if at.ipam.is_some() || at.is_gone {
            return;
        }
        at.boot += 1;
        let recovered = log::recover_with(at.id, at.disk.snapshot.as_deref(), &at.disk.log, self.mutants);
        let (state, valid) = match recovered {
            Ok(recovered) => recovered,
            Err(error) => return self.find(format!("host {host} does not recover: {error}")),
        };
        at.disk.log.truncate(valid);
        at.ipam = Some(Ipam::new(at.config.clone(), state, rng, self.now));
        self.drain(host);
        self.tell_members();
    }

    /// Ends a host's process. What was written and not synced is lost, but for the start of the first write, if `torn`.
    pub(super) fn crash(&mut self, host: usize, torn: bool) {
        let cut = self.rng.u64();
        let at = &mut self.hosts[host];
        at.ipam = None;
        let unsynced = std::mem::take(&mut at.disk.unsynced);
        if let Some((_, bytes)) = unsynced.first().filter(|_| torn) {
            let len = usize::try_from(cut % bytes.len() as u64).unwrap();
            at.disk.log.extend_from_slice(&bytes[..len]);
            if cut.is_multiple_of(3) {
                at.disk.log.extend(std::iter::repeat_n(0, bytes.len() - len));
            }
        }
        self.requests.retain(|_, (of, _)| *of != host);
        self.tell_members();
    }

    /// Ends a host for good, its containers too.
    pub(super) fn kill(&mut self, host: usize) {
        self.crash(host, false);
        self.hosts[host].is_gone = true;
        self.forget(host);
    }

    fn forget(&mut self, host: usize) {
        self.holders.retain(|_, (of, _)| *of != host);
        self.freed.retain(|_, (_, _, of)| *of != host);
    }

    pub(super) fn reaches(&self, a: usize, b: usize) -> bool {
        a != b
            && self.hosts[a].ipam.is_some()
            && self.hosts[b].ipam.is_some()
            && self.groups[a] == self.groups[b]
    }

    pub(super) fn part(&mut self, groups: Vec<u8>) {
        self.groups = groups;
        self.tell_members();
    }

    fn tell_members(&mut self) {
        for host in 0..self.hosts.len() {
            let others = (0..self.hosts.len()).filter(|other| self.reaches(host, *other));
            let told = |other: &usize| match self.hosts[host].config.founding {
                Founding::Told { .. } => *other == 0,
                Founding::Alone | Founding::Consensus { .. } | Founding::Seeds(_) | Founding::Observer => {
                    false
                }
            };
            let members = others.map(|other| {
                let nickname = self.hosts[other].config.nickname.clone();
                (self.hosts[other].id, Reachable { nickname, told: told(&other) })
            });
            let members = members.collect();
            self.input(host, Input::Members(members));
        }
    }

    pub(super) fn input(&mut self, host: usize, input: Input) {
        let now = self.now;
        if let Some(ipam) = &mut self.hosts[host].ipam {
            ipam.handle(input, now);
            self.drain(host);
        }
    }

    pub(super) fn request(&mut self, host: usize, request: Request, patience: Duration) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        match &request {
            // Whoever gives an address back has stopped using it.
            Request::Release { ident, .. } => {
                let now = self.now;
                // What it was given and has not heard of yet goes back with the rest.
                self.requests.retain(|_, (of, request)| {
                    !(*of == host && matches!(request, Request::Allocate { ident: i, .. } | Request::Claim { ident: i, .. } if i == ident))
                });
                let is_its = |(of, holder): &(usize, String)| *of == host && holder == ident.as_str();
                let gone: Vec<Addr> =
                    self.holders.iter().filter(|(_, h)| is_its(h)).map(|(a, _)| *a).collect();
                for addr in gone {
                    let (_, holder) = self.holders.remove(&addr).unwrap();
                    self.freed.insert(addr, (now, holder, host));
                }
            }
            Request::HandOver => {
                self.requests.retain(|_, (of, _)| *of != host);
                self.forget(host);
            }
            Request::Allocate { .. }
            | Request::Claim { .. }
            | Request::Lookup { .. }
            | Request::Prime
            | Request::Retire { .. } => {}
        }
        self.requests.insert(ticket, (host, request.clone()));
        self.input(host, Input::Request { ticket, request, deadline: self.now + patience });
        ticket
    }

    pub(super) fn allocate(&mut self, host: usize, ident: &str) -> Ticket {
        let request = Request::Allocate { ident: ident.parse().unwrap(), subnet: self.subnet };
        self.request(host, request, Duration::from_secs(5))
    }

    /// Runs until the request is answered, and returns the answer.
    pub(super) fn wait(&mut self, ticket: Ticket) -> Result<Answer, Refusal> {
        for _ in 0..4_000 {
            if let Some(answer) = self.answers.remove(&ticket) {
                return answer;
            }
            self.run(Duration::from_millis(20));
        }
        panic!("no answer within 80 s");
    }

    /// Lets virtual time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        let mut steps = 0;
        loop {
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let timeouts = self
                .hosts
                .iter()
                .enumerate()
                .filter_map(|(host, at)| Some((at.ipam.as_ref()?.poll_timeout()?.max(self.now), host)));
            let timeout = timeouts.min();
            let next = [event, timeout.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            steps += 1;
            self.now = next;
            if steps > STEPS_MAX {
                return self.find("a machine spins");
            }
            match timeout {
                Some((at, host)) if at == next && event != Some(next) => self.input(host, Input::Timeout),
                Some(_) | None => {
                    if let Some(((_, _), happening)) = self.queue.pop_first() {
                        self.happen(happening);
                    }
                }
            }
        }
        self.now = until;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver { from, to, bytes } => {
                if self.reaches(from, to)
                    || (self.hosts[to].ipam.is_some() && self.hosts[from].ipam.is_none())
                {
                    let from = self.hosts[from].id;
                    self.input(to, Input::Received { from, bytes });
                }
            }
            Happening::Sync { host, boot } => {
                let at = &mut self.hosts[host];
                if at.boot == boot && at.ipam.is_some() {
                    self.sync(host);
                }
            }
        }
    }

    /// Brings all that a host has written to disk, and says so.
    fn sync(&mut self, host: usize) {
        let disk = &mut self.hosts[host].disk;
        let mut last = None;
        for (seq, bytes) in disk.unsynced.drain(..) {
            disk.log.extend_from_slice(&bytes);
            last = Some(seq);
        }
        if let Some(seq) = last {
            self.input(host, Input::Persisted(seq));
        }
    }

    fn later(&mut self, delay: Duration, happening: Happening) {
        self.events += 1;
        self.queue.insert((self.now + delay, self.events), happening);
    }

    fn drain(&mut self, host: usize) {
        let mut wrote = false;
        while let Some(output) = self.hosts[host].ipam.as_mut().and_then(Ipam::poll_output) {
            match output {
                Output::Persist { seq, bytes } => {
                    self.hosts[host].disk.unsynced.push((seq, bytes));
                    wrote = true;
                }
                Output::Send { peer, bytes } => {
                    self.said(host, &bytes);
                    // Clones have one id.
                    let all = (0..self.hosts.len()).filter(|to| self.hosts[*to].id == peer);
                    all.collect::<Vec<_>>().into_iter().for_each(|to| self.transmit(host, to, bytes.clone()));
                }
                Output::Broadcast { bytes } => {
                    self.said(host, &bytes);
                    for to in 0..self.hosts.len() {
                        self.transmit(host, to, bytes.clone());
                    }
                }
                Output::Answer { ticket, result } => self.answered(host, ticket, result),
                Output::Event(event) => self.hosts[host].events.push(event),
            }
        }
        if wrote {
            let boot = self.hosts[host].boot;
            let micros = if self.slow_disks { 100 + self.rng.below(20_000) } else { 100 };
            self.later(Duration::from_micros(micros), Happening::Sync { host, boot });
        }
    }

    fn transmit(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        if !self.reaches(from, to) {
            return;
        }
        let copies =
            if self.rng.below(100) < self.loss { 0 } else { 1 + u64::from(self.rng.below(100) < self.loss) };
        for _ in 0..copies {
            let delay =
                Duration::from_micros(200 + self.rng.below(if self.loss > 0 { 80_000 } else { 5_000 }));
            self.later(delay, Happening::Deliver { from, to, bytes: bytes.clone() });
        }
    }

    /// Checks what a host says: S3, and now and then S6.
    fn said(&mut self, host: usize, bytes: &[u8]) {
        let envelope = Envelope::decode(bytes).expect("what is said can be read");
        let Message::Tell(tell) = &envelope.message else { return };
        let retired: BTreeSet<PeerId> = self.hosts.iter().filter(|h| h.is_gone).map(|h| h.id).collect();
        let tainted = self.hosts.iter().any(|host| host.is_tainted);
        for run in tell.view.runs.iter().filter(|run| !retired.contains(&run.rec.owner) && !tainted) {
            for addr in run.range.first().0..=run.range.last().0 {
                let known = *self.recs.entry((Addr(addr), run.rec.epoch)).or_insert(run.rec);
                if known != run.rec && !retired.contains(&known.owner) {
                    self.findings.push(format!("S3: {} has {known:?} and {:?}", Addr(addr), run.rec));
                }
            }
        }
        if self.rng.below(8) == 0 {
            let at = &self.hosts[host];
            match log::recover_with(at.id, at.disk.snapshot.as_deref(), &at.disk.log, self.mutants) {
                Ok((state, _)) if state.custody.news(&tell.view).is_empty() => {}
                Ok(_) => self.findings.push(format!("S6: host {host} says what is not on its disk")),
                Err(error) => self.findings.push(format!("host {host} has a bad disk: {error}")),
            }
        }
    }

    fn answered(&mut self, host: usize, ticket: Ticket, result: Result<Answer, Refusal>) {
        if let (Some((_, request)), Ok(Answer::Addresses(addresses))) =
            (self.requests.remove(&ticket), &result)
            && let Request::Allocate { ident, .. } | Request::Claim { ident, .. } = &request
        {
            for address in addresses {
                self.granted(host, ident.as_str(), address.addr().into());
            }
        }
        self.answers.insert(ticket, result);
    }

    fn granted(&mut self, host: usize, ident: &str, addr: Addr) {
        let mine = (host, ident.to_owned());
        if addr == self.subnet.network().into() || addr == self.subnet.broadcast().into() {
            self.find(format!("{addr} is an edge"));
        }
        if let Some(other) = self.holders.get(&addr).filter(|other| **other != mine)
            && !self.hosts[other.0].is_tainted
            && !self.hosts[host].is_tainted
        {
            self.findings.push(format!("S1: {addr} is held by {other:?}, and was given to {mine:?}"));
        }
        if let Some((at, last, _)) = self.freed.get(&addr)
            && last != ident
            && self.now.since(*at) < COOLING_TIME
        {
            self.findings
                .push(format!("{addr} was given to {ident} {:?} after {last} had it", self.now.since(*at)));
        }
        self.holders.insert(addr, mine);
    }

    pub(super) fn living(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|host| !self.hosts[*host].is_gone).collect()
    }

    /// Checks what holds at any time, within each host and between them.
    pub(super) fn check(&mut self) {
        let up: Vec<usize> = (0..self.hosts.len()).filter(|host| self.hosts[*host].ipam.is_some()).collect();
        let mut holders: BTreeMap<Addr, usize> = BTreeMap::new();
        for host in up {
            let ipam = self.ipam(host);
            let state = ipam.state();
            if let Err(violation) = ipam.check_invariants() {
                self.findings.push(format!("host {host}: {violation}"));
                continue;
            }
            if state.fence().is_some() || self.hosts[host].is_tainted {
                continue;
            }
            for addr in state.custody.active().iter().flat_map(|range| range.first().0..=range.last().0) {
                if let Some(other) = holders.insert(Addr(addr), host) {
                    self.findings
                        .push(format!("S2: hosts {other} and {host} may both hand out {}", Addr(addr)));
                }
            }
            let lost: Vec<_> = self
                .holders
                .iter()
                .filter(|(addr, (of, ident))| {
                    *of == host
                        && self
                            .ipam(host)
                            .state()
                            .book
                            .holding(**addr)
                            .is_none_or(|h| h.ident.as_str() != ident)
                })
                .map(|(addr, holder)| format!("{addr} of {holder:?} was forgotten"))
                .collect();
            self.findings.extend(lost);
        }
    }
}
