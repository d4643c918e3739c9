//! All names that are answered for, each with what it bears; shared between snapshots until it changes.
//!
//! Owns no entry: it counts what it is told to add and to take out. A table is a thousand small trees. A change copies
//! those that it touches if a snapshot still holds them, and no others, so that a network of 100,000 names can change a
//! hundred times a second.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::name::Name;

/// How many trees share the names.
const SHARDS: usize = 1_024;

/// Names, and what is known of each.
#[derive(Debug, Clone)]
pub(crate) struct Index(Vec<Arc<BTreeMap<Name, Node>>>);

/// A name that exists: it bears something, or a name below it does (an empty non-terminal, RFC 8020).
#[derive(Debug, Default, Clone)]
pub(crate) struct Node {
    /// What the name bears, in order. One element for each entry, so equal ones may occur.
    pub(crate) hosts: Vec<Host>,
    /// In a reverse zone: the names of the address. One element for each entry.
    pub(crate) pointers: Vec<Name>,
    /// How many names below it bear something.
    below: u32,
}

/// An address of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host {
    /// The address.
    pub(crate) address: IpAddr,
    /// Whether it is of this router's containers.
    pub(crate) place: Place,
    /// Where the name's service listens.
    pub(crate) port: Option<u16>,
}

/// Where a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// On this router's host.
    Here,
    /// On another.
    Elsewhere,
}

/// Something that a name bears.
pub(crate) enum Item {
    Host(Host),
    Pointer(Name),
}

impl Index {
    pub(crate) fn new() -> Self {
        Self((0..SHARDS).map(|_| Arc::default()).collect())
    }

    pub(crate) fn get(&self, name: &Name) -> Option<&Node> {
        self.0[shard_of(name)].get(name)
    }

    /// `name`, which lies in the zone of `apex`, bears `item` from now on.
    pub(crate) fn add(&mut self, name: &Name, apex: &Name, item: Item) {
        let node = self.node(name);
        let was_bare = node.is_bare();
        match item {
            Item::Host(host) => insert_sorted(&mut node.hosts, host),
            Item::Pointer(pointer) => insert_sorted(&mut node.pointers, pointer),
        }
        if was_bare {
            for ancestor in name.ancestors_below(apex) {
                self.node(&ancestor).below += 1;
            }
        }
    }

    /// Undoes one [`Self::add`] of the same.
    pub(crate) fn remove(&mut self, name: &Name, apex: &Name, item: &Item) {
        let node = self.node(name);
        match item {
            Item::Host(host) => remove_sorted(&mut node.hosts, host),
            Item::Pointer(pointer) => remove_sorted(&mut node.pointers, pointer),
        }
        if node.is_bare() {
            self.drop_if_gone(name);
            for ancestor in name.ancestors_below(apex) {
                self.node(&ancestor).below -= 1;
                self.drop_if_gone(&ancestor);
            }
        }
    }

    fn node(&mut self, name: &Name) -> &mut Node {
        Arc::make_mut(&mut self.0[shard_of(name)]).entry(name.clone()).or_default()
    }

    fn drop_if_gone(&mut self, name: &Name) {
        if self.get(name).is_some_and(|node| node.is_bare() && node.below == 0) {
            Arc::make_mut(&mut self.0[shard_of(name)]).remove(name);
        }
    }
}

impl Node {
    fn is_bare(&self) -> bool {
        self.hosts.is_empty() && self.pointers.is_empty()
    }
}

fn shard_of(name: &Name) -> usize {
    // The high half, for the low bits are those that all names of one chunk share.
    let high = name.hash64() >> 32;
    usize::try_from(high).expect("32 bits fit") % SHARDS
}

fn insert_sorted<T: Ord>(list: &mut Vec<T>, item: T) {
    let at = list.binary_search(&item).unwrap_or_else(|at| at);
    // Nearly all names have one address and one pointer, for which a list would make room for four.
    list.reserve_exact(1);
    list.insert(at, item);
}

fn remove_sorted<T: Ord>(list: &mut Vec<T>, item: &T) {
    if let Ok(at) = list.binary_search(item) {
        list.remove(at);
    }
}
