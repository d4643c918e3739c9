//! Names as simulated routers have them, and the model of what each must answer.
//!
//! Owns what each host's containers are called, which outlives its router, and the comparison: a router answers for all hosts
//! that run where its own packets get to, and for no others. How names travel, and whose are shown, is the node's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use mesh_crypto::Rng;
use mesh_names::{Answer, Code, ContainerId, Data, Entry, Kind, Name, Order, Reply, Snapshot, Zone};
use mesh_node::Input;

use crate::invariants::Violation;
use crate::world::{HostId, World};

mod run;

pub use run::{NameFailure, NameOutcome, NameTally, run_names};

/// What each host's containers are called: what is on its disk.
#[derive(Default)]
pub(crate) struct Naming {
    hosts: BTreeMap<HostId, BTreeMap<ContainerId, BTreeSet<Entry>>>,
    /// All names and addresses that ever were, each of which is asked for.
    names: BTreeSet<Name>,
    addresses: BTreeSet<IpAddr>,
}

/// A router that does not answer as the model does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrongName {
    /// It shows other entries.
    Entries {
        /// Which router.
        host: HostId,
        /// Entries of hosts that it should show, and does not.
        missing: BTreeSet<(HostId, Entry)>,
        /// Entries that it should not show.
        stale: BTreeSet<(HostId, Entry)>,
    },
    /// It answers a question otherwise.
    Answer {
        /// Which router.
        host: HostId,
        /// The name that was asked for.
        name: Name,
        /// And the kind of record.
        kind: Kind,
        /// What it says; `None` when it says that the name is not its own.
        found: Option<(Code, BTreeSet<Data>)>,
        /// What it should say.
        wanted: (Code, BTreeSet<Data>),
    },
}

impl fmt::Display for WrongName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries { host, missing, stale } => {
                write!(f, "{host} lacks {} entries and shows {} that are gone", missing.len(), stale.len())?;
                let first = missing.first().map(|entry| ("missing", entry));
                let first = first.or_else(|| stale.first().map(|entry| ("stale", entry)));
                first.map_or(Ok(()), |(what, (of, entry))| write!(f, "; {what}: {entry:?} of {of}"))
            }
            Self::Answer { host, name, kind, found, wanted } => {
                write!(f, "{host} answers {kind:?} of {name} with {found:?}, and should with {wanted:?}")
            }
        }
    }
}

/// What all routers answer for.
pub(crate) fn zone() -> Zone {
    Zone {
        domain: "mesh.internal".parse().expect("a name"),
        ranges: vec!["10.0.0.0/8".parse().expect("a range")],
        ttl: 1,
        negative_ttl: 1,
        servers: Vec::new(),
        order: Order::Shuffled,
    }
}

impl Naming {
    /// The names of one container.
    fn of(&self, host: HostId, container: &ContainerId) -> BTreeSet<Entry> {
        self.hosts.get(&host).and_then(|containers| containers.get(container)).cloned().unwrap_or_default()
    }

    fn containers(&self, host: HostId) -> Vec<ContainerId> {
        self.hosts.get(&host).into_iter().flat_map(|containers| containers.keys().cloned()).collect()
    }

    fn set(&mut self, host: HostId, container: &ContainerId, entries: &BTreeSet<Entry>) {
        self.names.extend(entries.iter().map(|entry| entry.name().clone()));
        self.addresses.extend(entries.iter().map(Entry::address));
        let containers = self.hosts.entry(host).or_default();
        if entries.is_empty() {
            containers.remove(container);
        } else {
            containers.insert(container.clone(), entries.clone());
        }
    }

    /// All that hosts which `is_shown` names have.
    fn shown(&self, is_shown: impl Fn(HostId) -> bool) -> BTreeSet<(HostId, Entry)> {
        let hosts = self.hosts.iter().filter(|(host, _)| is_shown(**host));
        hosts
            .flat_map(|(host, containers)| containers.values().flatten().map(|entry| (*host, entry.clone())))
            .collect()
    }
}

impl World {
    /// Tells a router that starts what its host's containers are called.
    pub(crate) fn name_all(&mut self, host: HostId) -> Result<(), Violation> {
        let containers = self.naming.hosts.get(&host).cloned().unwrap_or_default();
        containers
            .into_iter()
            .try_for_each(|(container, entries)| self.input(host, Input::Names { container, entries }))
    }

    /// A container of a host is called so from now on.
    fn name(
        &mut self,
        host: HostId,
        container: ContainerId,
        entries: BTreeSet<Entry>,
    ) -> Result<(), Violation> {
        self.naming.set(host, &container, &entries);
        self.input(host, Input::Names { container, entries })
    }

    /// Whether `to` runs, and packets of `from` get there.
    fn is_shown(&self, from: HostId, to: HostId) -> bool {
        self.node(to).is_some() && self.network.carries(from, to)
    }

    /// The first running router that shows other entries than the model.
    fn entry_difference(&self) -> Option<WrongName> {
        let hosts = (0..self.hosts.len()).map(HostId);
        hosts.filter_map(|host| Some((host, self.node(host)?))).find_map(|(host, node)| {
            let wanted = self.naming.shown(|to| self.is_shown(host, to));
            let place = |peer| self.hosts.iter().position(|host| host.peer == peer).map(HostId);
            let found: BTreeSet<(HostId, Entry)> = node
                .name_entries()
                .map(|owned| (place(owned.origin).expect("all peers are hosts"), owned.entry.clone()))
                .collect();
            let missing: BTreeSet<_> = wanted.difference(&found).cloned().collect();
            let stale: BTreeSet<_> = found.difference(&wanted).cloned().collect();
            (!missing.is_empty() || !stale.is_empty()).then_some(WrongName::Entries { host, missing, stale })
        })
    }

    /// Asks every running router for everything that ever was.
    fn answer_difference(&mut self, rng: &mut Rng) -> Option<WrongName> {
        (0..self.hosts.len()).map(HostId).find_map(|host| {
            let shown = self.naming.shown(|to| self.is_shown(host, to));
            let entries: BTreeSet<&Entry> = shown.iter().map(|(_, entry)| entry).collect();
            let snapshot = self.hosts[host.0].life.as_mut()?.node.names();
            let names = self.naming.names.iter().flat_map(|name| {
                [Kind::A, Kind::Aaaa, Kind::Srv]
                    .map(|kind| (name.clone(), kind, forward(&entries, name, kind)))
            });
            let addresses = self
                .naming
                .addresses
                .iter()
                .map(|address| (reverse_name(*address), Kind::Ptr, reverse(&entries, *address)));
            names.chain(addresses).find_map(|(name, kind, wanted)| {
                let found = ask(&snapshot, &name, kind, rng);
                (found.as_ref() != Some(&wanted)).then_some(WrongName::Answer {
                    host,
                    name,
                    kind,
                    found,
                    wanted,
                })
            })
        })
    }
}

fn ask(snapshot: &Snapshot, name: &Name, kind: Kind, rng: &mut Rng) -> Option<(Code, BTreeSet<Data>)> {
    match snapshot.answer(name, kind, rng) {
        Answer::Ours(Reply { code, answers, .. }) => Some((code, answers.into_iter().collect())),
        Answer::NotOurs | Answer::Refused => None,
    }
}

/// What a name must lead to, by these entries: it exists also when only names below it do.
fn forward(entries: &BTreeSet<&Entry>, name: &Name, kind: Kind) -> (Code, BTreeSet<Data>) {
    let exists = entries.iter().any(|entry| entry.name().is_within(name));
    let data = entries.iter().filter(|entry| entry.name() == name).filter_map(|entry| {
        match (kind, entry.address(), entry.port()) {
            (Kind::A, IpAddr::V4(address), _) => Some(Data::A(address)),
            (Kind::Aaaa, IpAddr::V6(address), _) => Some(Data::Aaaa(address)),
            (Kind::Srv, _, Some(port)) => Some(Data::Srv { port, target: name.clone() }),
            _ => None,
        }
    });
    (code(exists), data.collect())
}

/// What an address must lead to.
fn reverse(entries: &BTreeSet<&Entry>, address: IpAddr) -> (Code, BTreeSet<Data>) {
    let names: BTreeSet<Data> = entries
        .iter()
        .filter(|entry| entry.address() == address)
        .map(|entry| Data::Ptr(entry.name().clone()))
        .collect();
    (code(!names.is_empty()), names)
}

const fn code(exists: bool) -> Code {
    if exists { Code::Exists } else { Code::NoSuchName }
}

/// The name under which an IPv4 address is asked for (RFC 1035, section 3.5).
fn reverse_name(address: IpAddr) -> Name {
    let text = match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(_) => unreachable!("containers here have IPv4 addresses"),
    };
    text.parse().expect("digits and dots")
}

#[cfg(test)]
mod tests;
