//! Address management for clients: its commands, and its state in the words of the control API.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use mesh_api::{
    AddressesDocument, ConflictDocument, ErrorKind, Failure, IpamDocument, IpamState, OwnedDocument,
    PendingDocument, PrimeDocument, RemovedPeerDocument, RemovedPeersDocument, Response,
};
use mesh_ipam::{Answer, Founding, PendingStatus, Readiness, Request, Status, Waiting};
use mesh_node::Node;
use mesh_wire::{Moment, NetworkId, PeerId};

use crate::absent::Absent;
use crate::config::{AddressConfig, FoundingRule};
use crate::control;
use crate::desk::{Desk, Management};
use crate::{Config, PeerTarget};

/// Shortest beginning of a peer id that names a peer, in digits.
const PREFIX_LEN_MIN: usize = 4;

/// How long a router that is reset by force tries to give its space away.
const FORCED_TIME_MAX: Duration = Duration::from_millis(500);

/// Carries a command out and answers, unless the client goes away first.
pub(crate) fn serve(
    mut answer: control::Answer,
    work: impl Future<Output = Result<Response, Failure>> + Send + 'static,
) {
    tokio::spawn(async move {
        tokio::select! {
            result = work => answer.send(result.unwrap_or_else(Response::from)),
            () = answer.gone() => {}
        }
    });
}

/// Asks for addresses on behalf of the holder `id`.
pub(crate) async fn addresses(
    desk: Desk,
    id: String,
    request: Request,
    wait: Duration,
) -> Result<Response, Failure> {
    let addresses = desk.addresses(request, desk.deadline(wait)).await?;
    Ok(Response::document(&AddressesDocument { id, addresses }))
}

/// Waits until the network exists.
pub(crate) async fn prime(desk: Desk, wait: Duration) -> Result<Response, Failure> {
    match desk.ask(Request::Prime, desk.deadline(wait)).await? {
        Answer::Ready(network) => {
            let network_id = format!("{:x}", NetworkId::from_bytes(*network.as_bytes()));
            Ok(Response::document(&PrimeDocument { network_id }))
        }
        Answer::Addresses(_) | Answer::Reclaimed { .. } | Answer::HandedOver { .. } => Err(unexpected()),
    }
}

/// Retires these peers, one after the other, and waits until others have their space.
pub(crate) async fn retire(desk: Desk, peers: Vec<PeerId>, wait: Duration) -> Result<Response, Failure> {
    let deadline = desk.deadline(wait);
    let mut removed = Vec::new();
    // All are declared gone before the first is waited for, since one may wait for the word of another.
    let asked = peers.iter().map(|peer| {
        let (desk, peer) = (desk.clone(), *peer);
        tokio::spawn(async move { (peer, desk.ask(Request::Retire { peer }, deadline).await) })
    });
    for task in asked.collect::<Vec<_>>() {
        let (peer, answer) = task.await.map_err(|_panicked| unexpected())?;
        match answer? {
            Answer::Reclaimed { addresses } => {
                removed.push(RemovedPeerDocument { peer_id: peer.to_string(), addresses: count(addresses) });
            }
            Answer::Addresses(_) | Answer::Ready(_) | Answer::HandedOver { .. } => return Err(unexpected()),
        }
    }
    Ok(Response::document(&RemovedPeersDocument { removed }))
}

/// Gives this router's space away before it leaves for good; says who has it then. By force it hardly waits.
pub(crate) async fn hand_over(
    addresses: &Management,
    force: bool,
    wait: Duration,
) -> Result<Option<PeerId>, Failure> {
    let Management::On(desk) = addresses else { return Ok(None) };
    let wait = if force { FORCED_TIME_MAX.min(wait) } else { wait };
    match desk.ask(Request::HandOver, desk.deadline(wait)).await {
        Ok(Answer::HandedOver { to, .. }) => Ok(to),
        Ok(Answer::Addresses(_) | Answer::Ready(_) | Answer::Reclaimed { .. }) => Err(unexpected()),
        Err(_) if force => Ok(None),
        Err(failure) => Err(failure.with_hint(
            "try again, or `mesh reset --force`, and then `mesh rmpeer` on another host to have its space",
        )),
    }
}

fn unexpected() -> Failure {
    Failure::new(ErrorKind::Internal, "address management gave another answer than was asked for")
}

/// The peers that `texts` name: by id, by the beginning of one, or by a nickname, where only one peer fits.
pub(crate) fn peers_named(node: &Node, now: Moment, texts: &[String]) -> Result<Vec<PeerId>, Failure> {
    let owners = node.ipam_status(now).into_iter().flat_map(|status| status.owned);
    let owners = owners.map(|owned| (owned.peer, owned.nickname.map(|name| name.to_string())));
    let present = node.peer_status().into_iter().map(|peer| (peer.peer, Some(peer.nickname.to_string())));
    let known: BTreeSet<(PeerId, Option<String>)> = owners.chain(present).collect();
    // Whoever is retired already may be so once more, and its name may be another's by now.
    let former = node.retired_peers().map(|(peer, name)| (peer, name.map(|name| name.to_string()))).collect();
    let named = |text: &String| {
        peer_named(&known, text).or_else(|error| peer_named(&former, text).map_err(|_unknown| error))
    };
    texts.iter().map(named).collect()
}

fn peer_named(known: &BTreeSet<(PeerId, Option<String>)>, text: &str) -> Result<PeerId, Failure> {
    // In full it may be that of a peer that nobody here has heard of lately.
    if let Ok(peer) = text.parse() {
        return Ok(peer);
    }
    let digits = text.to_ascii_lowercase();
    let is_prefix = digits.len() >= PREFIX_LEN_MIN && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let fits = |(peer, nickname): &&(PeerId, Option<String>)| {
        nickname.as_deref() == Some(text) || (is_prefix && format!("{peer:x}").starts_with(&digits))
    };
    let fitting: BTreeSet<PeerId> = known.iter().filter(fits).map(|(peer, _)| *peer).collect();
    let mut all = fitting.iter();
    let shown = text.escape_debug();
    match (all.next(), all.next()) {
        (Some(peer), None) => Ok(*peer),
        (None, _) => Err(Failure::new(ErrorKind::Unknown, format!("no peer is called '{shown}'")).with_hint(
            "name it by its id, at least 4 digits of it, or its nickname: `mesh status ipam` shows them",
        )),
        (Some(_), Some(_)) => {
            let ids: Vec<_> = fitting.iter().map(|peer| format!("{peer:x}")).collect();
            let message = format!("'{shown}' is the name of several peers: {}", ids.join(", "));
            Err(Failure::new(ErrorKind::Refused, message).with_hint("name one of them by its id"))
        }
    }
}

/// Who may found the network, by what this router was launched with. A router that is among the peers that it was told
/// of, as when all hosts are given one list, is not counted twice where that can be seen.
pub(crate) fn founding(rule: &FoundingRule, peers: &[PeerTarget], own: &[IpAddr], port: u16) -> Founding {
    let is_own = |peer: &&PeerTarget| {
        peer.port() == port && peer.host().parse().is_ok_and(|address: IpAddr| own.contains(&address))
    };
    let others = peers.len() - peers.iter().filter(is_own).count();
    match rule {
        FoundingRule::ByPeers if peers.is_empty() => Founding::Alone,
        FoundingRule::ByPeers | FoundingRule::Consensus(None) => Founding::Told { others },
        FoundingRule::Consensus(Some(voters)) => Founding::Consensus { voters: *voters },
        FoundingRule::Seeds(seeds) => Founding::Seeds(seeds.clone()),
        FoundingRule::Observer => Founding::Observer,
    }
}

/// The state of address management.
pub(crate) fn document(node: &Node, management: &Management, config: &Config, now: Moment) -> IpamDocument {
    let (range, default_subnet) = match &config.ipam {
        Some(AddressConfig { range, default_subnet, .. }) => (Some(*range), Some(*default_subnet)),
        None => (None, None),
    };
    let disabled = |detail: String| IpamDocument {
        range,
        default_subnet,
        network_id: None,
        state: IpamState::Disabled,
        detail,
        owned: Vec::new(),
        pending: Vec::new(),
        conflicts: Vec::new(),
    };
    match (management, node.ipam_status(now)) {
        (Management::On(_), Some(status)) => {
            let absent = |waiting: &Waiting| Absent::for_wait(waiting, node, now).to_string();
            of_status(status, (range, default_subnet), absent)
        }
        (Management::Broken { error, .. }, _) => disabled(error.to_string()),
        (Management::Off | Management::On(_), _) => {
            disabled("this router does not manage addresses (--ipam-range none)".to_owned())
        }
    }
}

fn of_status(
    status: Status,
    (range, default_subnet): (Option<ipnet::IpNet>, Option<ipnet::IpNet>),
    absent: impl Fn(&Waiting) -> String,
) -> IpamDocument {
    let owned = status.owned.into_iter().map(|owned| OwnedDocument {
        peer_id: owned.peer.to_string(),
        nickname: owned.nickname.map(|nickname| nickname.to_string()),
        addresses: count(owned.addresses),
        share: owned.share,
        active: owned.active,
        reachable: owned.reachable,
        retired: owned.retired,
    });
    // The detail speaks of the first request that waits, unless nothing is handed out at all.
    let missing = match status.readiness {
        Readiness::AwaitingConsensus | Readiness::Observing => {
            status.pending.iter().find_map(|pending| pending.waiting.as_ref()).map(&absent)
        }
        Readiness::Ready
        | Readiness::Idle
        | Readiness::WaitingForSpace
        | Readiness::UnreachableOwner
        | Readiness::Disabled => None,
    }
    .unwrap_or_default();
    let conflicts = status.conflicts.into_iter().map(|conflict| ConflictDocument {
        address: conflict.address,
        id: conflict.ident.to_string(),
        peer_id: conflict.peer.to_string(),
        nickname: conflict.nickname.map(|nickname| nickname.to_string()),
        seen_at: conflict.seen_at.map(|mac| mac.to_string()),
    });
    IpamDocument {
        range,
        default_subnet,
        network_id: status.network.map(|id| format!("{:x}", NetworkId::from_bytes(*id.as_bytes()))),
        state: match status.readiness {
            Readiness::Ready => IpamState::Ready,
            Readiness::Idle => IpamState::Idle,
            Readiness::AwaitingConsensus => IpamState::AwaitingConsensus,
            Readiness::Observing => IpamState::Observing,
            Readiness::WaitingForSpace => IpamState::WaitingForSpace,
            Readiness::UnreachableOwner => IpamState::UnreachableOwner,
            Readiness::Disabled => IpamState::Disabled,
        },
        detail: format!("{}{missing}", status.detail),
        owned: owned.collect(),
        pending: status.pending.iter().map(|request| pending(request, &absent)).collect(),
        conflicts: conflicts.collect(),
    }
}

fn pending(pending: &PendingStatus, absent: &impl Fn(&Waiting) -> String) -> PendingDocument {
    let within =
        |subnet: &Option<ipnet::IpNet>| subnet.map_or_else(String::new, |subnet| format!(" in {subnet}"));
    PendingDocument {
        request: match &pending.request {
            Request::Allocate { ident, subnet } => format!("allocate in {subnet} for {ident}"),
            Request::Claim { ident, address } => format!("claim {address} for {ident}"),
            Request::Lookup { ident, subnet } => format!("look {ident} up{}", within(subnet)),
            Request::Release { ident, subnet } => format!("release of {ident}{}", within(subnet)),
            Request::Prime => "prime".to_owned(),
            Request::Retire { peer } => format!("retire {peer}"),
            Request::HandOver => "hand all addresses over".to_owned(),
        },
        waiting_for: pending.waiting.as_ref().map(|waiting| format!("{waiting}{}", absent(waiting))),
        seconds_left: pending.left.as_secs_f64(),
    }
}

fn count(addresses: u128) -> u64 {
    u64::try_from(addresses).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(first: u8, second: u8) -> PeerId {
        let mut bytes = [0; 16];
        (bytes[0], bytes[1]) = (first, second);
        PeerId::from_bytes(bytes)
    }

    #[test]
    fn a_peer_is_named_by_id_prefix_or_nickname_if_only_one_fits() {
        let known = BTreeSet::from([
            (peer(0xab, 0x01), Some("h1".to_owned())),
            (peer(0xab, 0x02), Some("h2".to_owned())),
            (peer(0xcd, 0x03), Some("h2".to_owned())),
            (peer(0xcd, 0x04), None),
        ]);
        let kind = |text: &str| peer_named(&known, text).map_err(|failure| failure.kind);
        assert_eq!(kind("ab01"), Ok(peer(0xab, 0x01)));
        assert_eq!(kind("AB0100"), Ok(peer(0xab, 0x01)));
        assert_eq!(kind("h1"), Ok(peer(0xab, 0x01)));
        assert_eq!(kind(&format!("{:x}", peer(9, 9))), Ok(peer(9, 9)));
        assert_eq!(kind("h2"), Err(ErrorKind::Refused));
        for unknown in ["ab", "ffff", "h3", "", "ab01x"] {
            assert_eq!(kind(unknown), Err(ErrorKind::Unknown), "{unknown}");
        }
    }

    #[test]
    fn the_founders_follow_from_the_peers_unless_they_are_named() {
        let peers: Vec<PeerTarget> =
            ["192.0.2.1", "h2", "192.0.2.3:7000"].iter().map(|text| text.parse().expect("a peer")).collect();
        let own: Vec<IpAddr> =
            ["192.0.2.1", "192.0.2.3"].map(|text| text.parse().expect("an address")).into();
        let by_peers = |peers: &[PeerTarget]| founding(&FoundingRule::ByPeers, peers, &own, 6783);
        assert_eq!(by_peers(&[]), Founding::Alone);
        assert_eq!(by_peers(&peers), Founding::Told { others: 2 });
        let founded = |rule| founding(&rule, &peers, &own, 6783);
        assert_eq!(founded(FoundingRule::Consensus(Some(5))), Founding::Consensus { voters: 5 });
        assert_eq!(founded(FoundingRule::Consensus(None)), Founding::Told { others: 2 });
        assert_eq!(founded(FoundingRule::Observer), Founding::Observer);
    }
}
