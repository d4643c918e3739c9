//! Questions and answers as data. Owns neither the bytes of a DNS message nor what a client is told about other zones.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use mesh_crypto::Rng;

use crate::index::{Host, Index, Node, Place};
use crate::name::Name;
use crate::zone::{Order, Zone};

/// Most records in an answer; of more, a random choice is given.
pub const ANSWERS_MAX: usize = 64;

/// Types of records of a delegation (DS, DNSKEY), which have a meaning for a top-level domain only.
const DELEGATION_TYPES: [u16; 2] = [43, 48];

/// The names at one moment. Immutable, and cheap to pass on.
#[derive(Debug, Clone)]
pub struct Snapshot {
    zone: Arc<Zone>,
    index: Index,
    server: Name,
    serial: u32,
}

/// What a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// The names of an address.
    Ptr,
    /// Where a service is.
    Srv,
    /// The zone.
    Soa,
    /// The zone's servers.
    Ns,
    /// Anything there is (RFC 8482).
    Any,
    /// The whole zone, by AXFR or IXFR.
    Transfer,
    /// A type of which no name here has a record, by its number.
    Other(u16),
}

impl Kind {
    /// The kind with this number (IANA, "DNS Resource Record Types").
    #[must_use]
    pub const fn from_code(code: u16) -> Self {
        match code {
            1 => Self::A,
            28 => Self::Aaaa,
            12 => Self::Ptr,
            33 => Self::Srv,
            6 => Self::Soa,
            2 => Self::Ns,
            255 => Self::Any,
            251 | 252 => Self::Transfer,
            other => Self::Other(other),
        }
    }
}

/// What is to be said to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name is not in a zone of ours: ask somebody else.
    NotOurs,
    /// It is ours, and nobody gets this: a transfer of the zone.
    Refused,
    /// It is ours, and this is the answer.
    Ours(Reply),
}

/// An authoritative answer. The owner of its answers is the name of the question, as the client wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Whether the name exists.
    pub code: Code,
    /// The records that were asked for; empty for a name without such records.
    pub answers: Vec<Data>,
    /// The zone's apex and its SOA, when there are no answers.
    pub authority: Option<(Name, Soa)>,
    /// Addresses of what the answers name, with their owners. May be left out.
    pub additional: Vec<(Name, Data)>,
    /// Time to live of all of them but the authority's, in seconds.
    pub ttl: u32,
}

/// The two authoritative results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// NOERROR: the name exists.
    Exists,
    /// NXDOMAIN: neither it nor anything below it exists.
    NoSuchName,
}

/// The data of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// A name of an address.
    Ptr(Name),
    /// A service at `port` of `target`, of priority and weight 0 (RFC 2782).
    Srv {
        /// The port.
        port: u16,
        /// The host.
        target: Name,
    },
    /// The zone.
    Soa(Soa),
    /// A server of the zone.
    Ns(Name),
    /// The short answer to "anything": an HINFO record that says so (RFC 8482, section 4.2).
    Hinfo,
}

/// A zone's SOA record (RFC 1035, section 3.3.13). Refresh, retry and expiry are left to whoever encodes it: nobody
/// may transfer the zone, so they mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Soa {
    /// The server.
    pub server: Name,
    /// Counts the changes this router knows of; wraps.
    pub serial: u32,
    /// Time to live of a denial and of this record, in seconds.
    pub minimum: u32,
}

impl Snapshot {
    pub(crate) const fn new(zone: Arc<Zone>, index: Index, server: Name, serial: u32) -> Self {
        Self { zone, index, server, serial }
    }

    /// The zones.
    #[must_use]
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The answer to the question of `kind` about `name`. A name of one label is completed with the domain, if such a
    /// name exists.
    #[must_use]
    pub fn answer(&self, name: &Name, kind: Kind, rng: &mut Rng) -> Answer {
        if let Some(apex) = self.zone.apex(name) {
            return self.answer_in_zone(name, apex, kind, rng);
        }
        match self.completed(name, kind) {
            Some(full) => self.answer_in_zone(&full, self.zone.domain.clone(), kind, rng),
            None => Answer::NotOurs,
        }
    }

    /// The addresses of `name`, in order, whoever asks for them: for `dns lookup`. A name of one label is completed; the
    /// name that was meant comes first.
    #[must_use]
    pub fn addresses(&self, name: &Name) -> (Name, Vec<IpAddr>) {
        let full = self.completed(name, Kind::A).unwrap_or_else(|| name.clone());
        let node = self.index.get(&full);
        let addresses: BTreeSet<IpAddr> =
            node.into_iter().flat_map(|node| &node.hosts).map(|host| host.address).collect();
        (full, addresses.into_iter().collect())
    }

    /// A name of one label with the domain after it, if that exists and the question could mean it. What is asked
    /// about the top-level domain of the same label, as validating resolvers do, is not ours.
    fn completed(&self, name: &Name, kind: Kind) -> Option<Name> {
        let about_a_domain = match kind {
            Kind::Soa | Kind::Ns | Kind::Transfer => true,
            Kind::Other(code) => DELEGATION_TYPES.contains(&code),
            Kind::A | Kind::Aaaa | Kind::Ptr | Kind::Srv | Kind::Any => false,
        };
        if about_a_domain || name.label_count() != 1 {
            return None;
        }
        name.below(&self.zone.domain).ok().filter(|full| self.index.get(full).is_some())
    }

    fn answer_in_zone(&self, name: &Name, apex: Name, kind: Kind, rng: &mut Rng) -> Answer {
        if kind == Kind::Transfer {
            return Answer::Refused;
        }
        let node = self.index.get(name);
        let is_apex = *name == apex;
        if node.is_none() && !is_apex {
            return Answer::Ours(self.denial(Code::NoSuchName, apex));
        }
        let answers = match kind {
            Kind::A | Kind::Aaaa => self.address_records(node, kind, rng),
            Kind::Ptr => pointers(node, rng),
            Kind::Srv => services(node, name, rng),
            Kind::Soa if is_apex => vec![Data::Soa(self.soa())],
            Kind::Ns if is_apex => vec![Data::Ns(self.server.clone())],
            Kind::Any => vec![Data::Hinfo],
            Kind::Soa | Kind::Ns | Kind::Transfer | Kind::Other(_) => Vec::new(),
        };
        if answers.is_empty() {
            return Answer::Ours(self.denial(Code::Exists, apex));
        }
        let additional = match kind {
            Kind::Srv => self.additional(name, rng),
            Kind::Ns => self.additional(&self.server, rng),
            Kind::A | Kind::Aaaa | Kind::Ptr | Kind::Soa | Kind::Any | Kind::Transfer | Kind::Other(_) => {
                Vec::new()
            }
        };
        Answer::Ours(Reply { code: Code::Exists, answers, authority: None, additional, ttl: self.zone.ttl })
    }

    fn denial(&self, code: Code, apex: Name) -> Reply {
        let authority = Some((apex, self.soa()));
        Reply { code, answers: Vec::new(), authority, additional: Vec::new(), ttl: self.zone.ttl }
    }

    fn soa(&self) -> Soa {
        Soa { server: self.server.clone(), serial: self.serial, minimum: self.zone.negative_ttl }
    }

    fn address_records(&self, node: Option<&Node>, kind: Kind, rng: &mut Rng) -> Vec<Data> {
        let wanted = |host: &&Host| (kind == Kind::A) == host.address.is_ipv4();
        let mut hosts: Vec<Host> =
            node.into_iter().flat_map(|node| &node.hosts).filter(wanted).copied().collect();
        // They are sorted by address and then by place, so of equal addresses the local one stays.
        hosts.dedup_by_key(|host| host.address);
        shuffle(&mut hosts, rng);
        if self.zone.order == Order::LocalFirst {
            hosts.sort_by_key(|host| host.place);
        }
        hosts.truncate(ANSWERS_MAX);
        hosts.into_iter().map(|host| address_data(host.address)).collect()
    }

    fn additional(&self, owner: &Name, rng: &mut Rng) -> Vec<(Name, Data)> {
        let node = self.index.get(owner);
        let mut all = self.address_records(node, Kind::A, rng);
        all.extend(self.address_records(node, Kind::Aaaa, rng));
        all.into_iter().map(|data| (owner.clone(), data)).collect()
    }
}

fn pointers(node: Option<&Node>, rng: &mut Rng) -> Vec<Data> {
    let mut names: Vec<Name> = node.map(|node| node.pointers.clone()).unwrap_or_default();
    names.dedup();
    shuffle(&mut names, rng);
    names.truncate(ANSWERS_MAX);
    names.into_iter().map(Data::Ptr).collect()
}

fn services(node: Option<&Node>, target: &Name, rng: &mut Rng) -> Vec<Data> {
    let ports: BTreeSet<u16> =
        node.into_iter().flat_map(|node| &node.hosts).filter_map(|host| host.port).collect();
    let mut ports: Vec<u16> = ports.into_iter().collect();
    shuffle(&mut ports, rng);
    ports.truncate(ANSWERS_MAX);
    ports.into_iter().map(|port| Data::Srv { port, target: target.clone() }).collect()
}

const fn address_data(address: IpAddr) -> Data {
    match address {
        IpAddr::V4(v4) => Data::A(v4),
        IpAddr::V6(v6) => Data::Aaaa(v6),
    }
}

/// Fisher and Yates: every order is as likely.
fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for last in (1..items.len()).rev() {
        let bound = u64::try_from(last).expect("an index fits") + 1;
        let chosen = usize::try_from(rng.below(bound)).expect("it lies below an index");
        items.swap(last, chosen);
    }
}

/// For the index, which keeps what a name bears sorted.
impl Host {
    pub(crate) const fn new(address: IpAddr, place: Place, port: Option<u16>) -> Self {
        Self { address, place, port }
    }
}

#[cfg(test)]
mod tests;
