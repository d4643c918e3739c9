//! Where clients' requests for addresses wait for their answers.
//!
//! Owns tickets and deadlines, and how a refusal reaches a client. Decides nothing: that is `mesh-ipam`'s.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use mesh_api::{AddressTarget, ErrorKind, Failure};
use mesh_ipam::{Answer, Ident, IdentError, Refusal, Request, Ticket, Waiting};
use mesh_wire::{MacAddr, Moment};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::warn;

use crate::absent::Absent;
use crate::clock::Clock;
use crate::journal::JournalError;

/// Requests that wait for the shell; more wait with their clients.
pub(crate) const ASKS_QUEUED_MAX: usize = 256;

/// Longer than its deadline no request waits for the disk, which may be stuck.
const DISK_GRACE: Duration = Duration::from_secs(5);

/// What does not wait for other peers has so long, in milliseconds.
pub(crate) const PROMPT_TIME_MAX_MS: u64 = 5_000;

/// What the shell is asked.
pub(crate) enum Ask {
    /// Something of address management.
    Request {
        ticket: Ticket,
        request: Request,
        deadline: Moment,
        answer: oneshot::Sender<Result<Answer, Refused>>,
    },
    /// Somebody else uses an address that was just handed out.
    Probed { address: IpAddr, answered: MacAddr },
    /// Nobody waits for this any more.
    Cancel(Ticket),
}

/// A refusal, and which of the router's peers were missing then, where that may be why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) absent: Absent,
}

/// How this router manages addresses.
#[derive(Clone)]
pub(crate) enum Management {
    /// Not at all: users do.
    Off,
    /// It cannot, until somebody has looked at its files.
    Broken { error: Arc<JournalError>, range: IpNet },
    /// By the machine in the node.
    On(Desk),
}

/// Takes requests for addresses.
#[derive(Clone)]
pub(crate) struct Desk {
    asks: mpsc::Sender<Ask>,
    tickets: Arc<AtomicU64>,
    clock: Clock,
    range: IpNet,
    default_subnet: IpNet,
}

impl Management {
    /// The desk, or why there is none.
    pub(crate) fn desk(&self) -> Result<&Desk, Failure> {
        match self {
            Self::On(desk) => Ok(desk),
            Self::Off => Err(Failure::new(ErrorKind::Refused, "this router does not manage addresses")
                .with_hint("it was launched with --ipam-range none: give addresses as 10.32.1.1/24")),
            Self::Broken { error, .. } => {
                Err(Failure::new(ErrorKind::Refused, format!("addresses are disabled: {error}")).with_hint(
                    "restore the files from a copy of this very day, or `mesh reset` this host to join anew",
                ))
            }
        }
    }

    /// The desk, if an attachment to these addresses needs one; an error when it is needed and there is none.
    pub(crate) fn desk_for(&self, targets: &[AddressTarget]) -> Result<Option<&Desk>, Failure> {
        let needs_desk = |target: &AddressTarget| match target {
            AddressTarget::Ip(address) => self.manages(*address),
            AddressTarget::Subnet(_) | AddressTarget::DefaultSubnet => true,
        };
        let is_needed = targets.is_empty() || targets.iter().any(needs_desk);
        is_needed.then(|| self.desk()).transpose()
    }

    /// Whether an address is the network's to give. Those outside its range are the user's own affair.
    pub(crate) fn manages(&self, address: IpNet) -> bool {
        match self {
            Self::On(desk) => desk.manages(address),
            Self::Broken { range, .. } => range.contains(&address.addr()),
            Self::Off => false,
        }
    }
}

impl Desk {
    pub(crate) fn new(asks: mpsc::Sender<Ask>, clock: Clock, range: IpNet, default_subnet: IpNet) -> Self {
        Self { asks, tickets: Arc::default(), clock, range, default_subnet }
    }

    /// When a client that waits so long from now gives up.
    pub(crate) fn deadline(&self, wait: Duration) -> Moment {
        self.clock.now() + wait
    }

    /// Whether the network's range has this address.
    pub(crate) fn manages(&self, address: IpNet) -> bool {
        self.range.contains(&address.addr())
    }

    /// The subnet that is meant when none is named.
    pub(crate) const fn default_subnet(&self) -> IpNet {
        self.default_subnet
    }

    /// Asks, and waits for the answer. Dropped before, it is cancelled.
    pub(crate) async fn ask(&self, request: Request, deadline: Moment) -> Result<Answer, Failure> {
        self.try_ask(request, deadline).await?.map_err(|refused| failure(&refused))
    }

    /// The addresses in an answer that has some.
    pub(crate) async fn addresses(&self, request: Request, deadline: Moment) -> Result<Vec<IpNet>, Failure> {
        Ok(addresses_of(self.ask(request, deadline).await?))
    }

    /// What `ident` has, in a subnet or at all.
    pub(crate) async fn held_by(&self, ident: &Ident, subnet: Option<IpNet>) -> Result<Vec<IpNet>, Failure> {
        self.held(Request::Lookup { ident: ident.clone(), subnet }).await
    }

    /// Takes back what `ident` has, in a subnet or at all; nothing is no error.
    pub(crate) async fn release(&self, ident: &Ident, subnet: Option<IpNet>) -> Result<Vec<IpNet>, Failure> {
        self.held(Request::Release { ident: ident.clone(), subnet }).await
    }

    /// Takes back what a holder has got since it held `before`.
    pub(crate) async fn give_back(&self, ident: &Ident, before: &[IpNet]) {
        let release = async {
            for address in self.held_by(ident, None).await? {
                if !before.contains(&address) {
                    self.release(ident, Some(IpNet::from(address.addr()))).await?;
                }
            }
            Ok::<_, Failure>(())
        };
        if let Err(error) = release.await {
            warn!(%ident, %error, "addresses that are not in use stay with their holder");
        }
    }

    /// Tells that somebody else has answered for an address.
    pub(crate) async fn probed(&self, address: IpAddr, answered: MacAddr) {
        // Nobody listens any more when the router ends.
        let _told = self.asks.send(Ask::Probed { address, answered }).await;
    }

    async fn held(&self, request: Request) -> Result<Vec<IpNet>, Failure> {
        match self.try_ask(request, self.deadline(Duration::from_millis(PROMPT_TIME_MAX_MS))).await? {
            Ok(answer) => Ok(addresses_of(answer)),
            Err(Refused { refusal: Refusal::Unknown(_), .. }) => Ok(Vec::new()),
            Err(refused) => Err(failure(&refused)),
        }
    }

    /// Gets what a container shall have, explicit addresses first, so that no other is chosen where one is given. What
    /// lies outside the network's range is the user's own affair.
    pub(crate) async fn obtain(
        &self,
        ident: &Ident,
        wanted: &[AddressTarget],
        deadline: Moment,
    ) -> Result<Vec<IpNet>, Failure> {
        let wanted = if wanted.is_empty() { &[AddressTarget::DefaultSubnet] } else { wanted };
        let mut obtained = vec![None; wanted.len()];
        for (place, target) in obtained.iter_mut().zip(wanted) {
            if let AddressTarget::Ip(address) = *target {
                if self.manages(address) {
                    self.ask(Request::Claim { ident: ident.clone(), address }, deadline).await?;
                }
                *place = Some(address);
            }
        }
        for (place, target) in obtained.iter_mut().zip(wanted) {
            let subnet = match target {
                AddressTarget::Ip(_) => continue,
                AddressTarget::Subnet(subnet) => *subnet,
                AddressTarget::DefaultSubnet => self.default_subnet,
            };
            *place = Some(self.allocate(ident, subnet, deadline).await?);
        }
        let mut addresses: Vec<IpNet> = Vec::new();
        for address in obtained.into_iter().flatten() {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// An address of a subnet: the one that `ident` has there, as it has it, or another.
    async fn allocate(&self, ident: &Ident, subnet: IpNet, deadline: Moment) -> Result<IpNet, Failure> {
        if let Some(address) = self.held_by(ident, Some(subnet)).await?.into_iter().next() {
            return Ok(address);
        }
        let given = self.addresses(Request::Allocate { ident: ident.clone(), subnet }, deadline).await?;
        given.into_iter().next().ok_or_else(|| Failure::new(ErrorKind::Internal, "no address was given"))
    }

    async fn try_ask(&self, request: Request, deadline: Moment) -> Result<Result<Answer, Refused>, Failure> {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        let (answer, answered) = oneshot::channel();
        let ends = || Failure::new(ErrorKind::NotRunning, "the router is ending");
        let left = deadline.since(self.clock.now()) + DISK_GRACE;
        let ask = Ask::Request { ticket, request, deadline, answer };
        self.asks.send(ask).await.map_err(|_shell_is_gone| ends())?;
        let _cancelled_when_dropped = Cancellation { asks: &self.asks, ticket };
        match timeout(left, answered).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_dropped)) => Err(ends()),
            Err(_late) => Err(Failure::new(ErrorKind::Timeout, "timed out: waiting for the disk")),
        }
    }
}

/// Tells the shell, when dropped, that nobody waits. To cancel what was answered changes nothing.
struct Cancellation<'a> {
    asks: &'a mpsc::Sender<Ask>,
    ticket: Ticket,
}

impl Drop for Cancellation<'_> {
    fn drop(&mut self) {
        // When the queue is full, the request ends at its deadline.
        let _told = self.asks.try_send(Ask::Cancel(self.ticket));
    }
}

/// Those of the targets that name an address themselves.
pub(crate) fn chosen(targets: &[AddressTarget]) -> Vec<IpNet> {
    let chosen = targets.iter().filter_map(|target| match target {
        AddressTarget::Ip(address) => Some(*address),
        AddressTarget::Subnet(_) | AddressTarget::DefaultSubnet => None,
    });
    chosen.collect()
}

/// The holder that a user names.
pub(crate) fn ident(text: &str) -> Result<Ident, Failure> {
    text.parse().map_err(|error: IdentError| Failure::new(ErrorKind::Invalid, error.to_string()))
}

fn addresses_of(answer: Answer) -> Vec<IpNet> {
    match answer {
        Answer::Addresses(addresses) => addresses,
        Answer::Ready(_) | Answer::Reclaimed { .. } | Answer::HandedOver { .. } => Vec::new(),
    }
}

fn failure(Refused { refusal, absent }: &Refused) -> Failure {
    let kind = match refusal {
        Refusal::TimedOut(_) => ErrorKind::Timeout,
        Refusal::Unknown(_) | Refusal::UnknownPeer(_) => ErrorKind::Unknown,
        Refusal::Held(..) | Refusal::InUse { .. } => ErrorKind::InUse,
        Refusal::OutsideRange(..) | Refusal::Edge(_) => ErrorKind::Invalid,
        Refusal::Fenced(_)
        | Refusal::Disk
        | Refusal::Exhausted { .. }
        | Refusal::HostFull
        | Refusal::StillReachable(_)
        | Refusal::Oneself
        | Refusal::Busy => ErrorKind::Refused,
    };
    let failure = Failure::new(kind, format!("{refusal}{absent}"));
    match refusal {
        Refusal::TimedOut(Waiting::Consensus { .. } | Waiting::Founder) => failure.with_hint(
            "start the other hosts, and wait for them with `mesh prime --timeout SECONDS`; if they will never come, `mesh \
             stop`, and `mesh launch --ipam-init consensus=1` founds the network here (`seed=PEER_ID,...` the same on several \
             hosts without a vote); `--ipam-range none` leaves all addresses to you",
        ),
        Refusal::TimedOut(Waiting::Range { .. }) => {
            failure.with_hint("`mesh stop`, and launch with that network's --ipam-range; or forget its peers")
        }
        Refusal::TimedOut(_) => {
            failure.with_hint("allow more time with --timeout SECONDS; `mesh status ipam` shows more")
        }
        Refusal::Exhausted { .. } => failure.with_hint(
            "free addresses with `mesh detach` or `mesh ipam release`: they come back after a minute; `mesh rmpeer` frees \
             those of a peer that is gone for good",
        ),
        Refusal::Fenced(_)
        | Refusal::Disk
        | Refusal::Unknown(_)
        | Refusal::UnknownPeer(_)
        | Refusal::Held(..)
        | Refusal::InUse { .. }
        | Refusal::OutsideRange(..)
        | Refusal::Edge(_)
        | Refusal::HostFull
        | Refusal::StillReachable(_)
        | Refusal::Oneself
        | Refusal::Busy => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(refusal: Refusal) -> Refused {
        Refused { refusal, absent: Absent::default() }
    }

    fn desk() -> (Desk, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(8);
        let range = "10.32.0.0/12".parse().expect("a range");
        (Desk::new(asks, Clock::start(), range, range), asked)
    }

    /// Answers requests as a machine would in which `held` is all that anybody has, and notes what it was asked.
    async fn answer_all(mut asked: mpsc::Receiver<Ask>, held: &[&str]) -> Vec<Request> {
        let parse = |text: &&str| text.parse().expect("an address");
        let held: Vec<IpNet> = held.iter().map(parse).collect();
        let mut requests = Vec::new();
        while let Some(ask) = asked.recv().await {
            let Ask::Request { request, answer, .. } = ask else { continue };
            let addresses = match &request {
                Request::Lookup { ident, subnet } => {
                    let within =
                        |address: &&IpNet| subnet.is_none_or(|subnet| subnet.contains(&address.addr()));
                    let found: Vec<_> = held.iter().filter(within).copied().collect();
                    if found.is_empty() { Err(Refusal::Unknown(ident.clone())) } else { Ok(found) }
                }
                Request::Claim { address, .. } => Ok(vec![*address]),
                Request::Allocate { .. } => Ok(vec![parse(&"10.33.0.1/16")]),
                Request::Release { .. } | Request::Prime | Request::Retire { .. } | Request::HandOver => {
                    Err(Refusal::Busy)
                }
            };
            requests.push(request);
            answer.send(addresses.map(Answer::Addresses).map_err(refused)).expect("somebody waits");
        }
        requests
    }

    async fn obtained(held: &[&str], wanted: &[&str]) -> (Vec<String>, Vec<Request>) {
        let (desk, asked) = desk();
        let targets: Vec<AddressTarget> = wanted.iter().map(|text| text.parse().expect("a target")).collect();
        let obtain = async move {
            let ident = ident("c1").expect("a name");
            let deadline = desk.deadline(Duration::from_secs(1));
            desk.obtain(&ident, &targets, deadline).await.expect("granted")
        };
        let (addresses, requests) = tokio::join!(obtain, answer_all(asked, held));
        (addresses.iter().map(ToString::to_string).collect(), requests)
    }

    #[tokio::test]
    async fn explicit_addresses_are_claimed_before_others_are_chosen_and_their_order_stays() {
        let wanted = ["net:10.33.0.0/16", "192.168.9.9/24", "10.32.7.7/24"];
        let (addresses, requests) = obtained(&[], &wanted).await;
        assert_eq!(addresses, ["10.33.0.1/16", "192.168.9.9/24", "10.32.7.7/24"]);
        assert!(
            matches!(requests[..], [Request::Claim { .. }, Request::Lookup { .. }, Request::Allocate { .. }]),
            "{requests:?}"
        );
    }

    #[tokio::test]
    async fn an_address_that_the_container_has_is_enough_and_keeps_its_length() {
        let (addresses, _) = obtained(&["10.32.7.7/24"], &[]).await;
        assert_eq!(addresses, ["10.32.7.7/24"]);
    }

    #[tokio::test]
    async fn a_request_that_nobody_waits_for_any_more_is_cancelled() {
        let (desk, mut asked) = desk();
        let deadline = desk.deadline(Duration::from_secs(60));
        let gone = timeout(Duration::from_millis(10), desk.ask(Request::Prime, deadline)).await;
        assert!(gone.is_err(), "nobody has answered");
        let Some(Ask::Request { ticket, .. }) = asked.recv().await else { panic!("it was asked") };
        assert!(matches!(asked.recv().await, Some(Ask::Cancel(cancelled)) if cancelled == ticket));
    }

    #[test]
    fn a_wait_in_vain_ends_with_its_reason_and_what_is_not_there_is_unknown() {
        let late = failure(&refused(Refusal::TimedOut(Waiting::Founder)));
        assert_eq!(late.kind, ErrorKind::Timeout);
        assert!(late.message.contains(&Waiting::Founder.to_string()), "{}", late.message);
        let hint = late.hint.expect("something can be done");
        assert!(
            ["mesh prime", "--ipam-init", "--ipam-range none"].iter().all(|way| hint.contains(way)),
            "{hint}"
        );
        assert_eq!(
            failure(&refused(Refusal::Unknown(ident("c1").expect("a name")))).kind,
            ErrorKind::Unknown
        );
        assert_eq!(failure(&refused(Refusal::Busy)).kind, ErrorKind::Refused);
    }
}
