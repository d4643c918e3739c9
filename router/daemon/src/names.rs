//! The names of this router's containers, and those that the user has added: given to the node, which tells the others.
//!
//! Owns the file of the names that were added by hand, which people may read and edit while no router runs. The names of
//! containers are kept by whoever attaches them, and said here again in each life.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_api::{DnsNameDocument, ErrorKind, Failure, Response};
use mesh_names::{ContainerId, Entry, Name, ORIGIN_ENTRIES_MAX};
use mesh_node::Input;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tracing::info;

use crate::control::Answer;
use crate::pipe::Inputs;
use crate::{Error, store};

pub(crate) use given::{Given, names_of};

mod given;

/// Names that can be added by hand, each with its address or container. One more is refused.
const ADDED_MAX: usize = 4_096;

/// Addresses of one name on this router. Its entries travel in one piece, which has room for so many.
const SAME_NAME_MAX: usize = 128;

/// First and last line of the file. Without both it is no whole list.
const FIRST_LINE: &str = "# mesh names, version 1";
const LAST_LINE: &str = "# end";

/// The word between a name and a container in a line of the file.
const CONTAINER_WORD: &str = "container";

/// Longest file that is read, in bytes: [`ADDED_MAX`] lines of the longest names and container ids.
const FILE_LEN_MAX: u64 = ADDED_MAX as u64 * 512;

/// To whom names belong that were added by hand, with their addresses.
const EXTERNAL: &str = "external";

/// The names of this router, while it runs.
#[derive(Clone)]
pub(crate) struct Names {
    domain: Name,
    path: PathBuf,
    /// Locked while a change is under way, so that file and node see changes in one order.
    held: Arc<Mutex<Held>>,
    inputs: Inputs,
}

/// What this router answers for, as it was said here.
#[derive(Debug, Default, Clone)]
pub(crate) struct Held {
    containers: BTreeMap<ContainerId, Borne>,
    added: BTreeSet<Added>,
}

/// What a container bears.
#[derive(Debug, Default, Clone)]
struct Borne {
    names: BTreeSet<Given>,
    addresses: BTreeSet<IpAddr>,
}

/// A name that the user has added.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Added {
    given: Given,
    bearer: Bearer,
}

/// Whose an added name is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Bearer {
    /// Something with this address.
    Address(IpAddr),
    /// A container, wherever it is attached, with all its addresses.
    Container(ContainerId),
}

impl Names {
    /// The names that the file at `path` holds already.
    pub(crate) fn new(domain: Name, path: PathBuf, added: BTreeSet<Added>, inputs: Inputs) -> Self {
        let held = Held { containers: BTreeMap::new(), added };
        Self { domain, path, held: Arc::new(Mutex::new(held)), inputs }
    }

    /// What the node is to be told at the start.
    pub(crate) async fn at_start(&self) -> Vec<Input> {
        let external = external();
        let entries = self.held.lock().await.entries(&external);
        vec![Input::Names { container: external, entries }]
    }

    /// Full names for what users write: a single label lies in the domain.
    ///
    /// # Errors
    /// For what is no host's name, or lies outside of the domain.
    pub(crate) fn complete(&self, texts: &[String]) -> Result<BTreeSet<Given>, Failure> {
        texts.iter().map(|text| self.complete_one(text)).collect()
    }

    /// Says that `container` bears these names, and no others, at these addresses; none for one that is not there now.
    /// Names that were added to it by hand come on top. Returns all its names.
    pub(crate) async fn set(
        &self,
        container: &str,
        names: BTreeSet<Given>,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Vec<String>, Failure> {
        let container = container_id(container)?;
        let mut held = Arc::clone(&self.held).lock_owned().await;
        let mut new = held.clone();
        let borne = Borne { names, addresses: addresses.into_iter().collect() };
        new.containers.insert(container.clone(), borne);
        new.check()?;
        *held = new;
        self.tell(&held, &container).await;
        Ok(names_of(&held.names_of(&container).map(ToString::to_string).collect::<Vec<_>>()))
    }

    /// The names that were said of `container`, without those that were added by hand.
    #[cfg(test)]
    pub(crate) async fn of(&self, container: &str) -> BTreeSet<Given> {
        let Ok(container) = container_id(container) else { return BTreeSet::new() };
        let held = self.held.lock().await;
        held.containers.get(&container).map(|borne| borne.names.clone()).unwrap_or_default()
    }

    /// Forgets `container`, and the names that were added to it by hand.
    pub(crate) async fn remove(&self, container: &str) -> Result<(), Failure> {
        let Ok(container) = container_id(container) else { return Ok(()) };
        let held = Arc::clone(&self.held).lock_owned().await;
        let mut new = held.clone();
        new.containers.remove(&container);
        new.added.retain(|added| added.bearer != Bearer::Container(container.clone()));
        self.replace(held, new, [container]).await.map(|_held| ())
    }

    /// Takes an added name back, at these addresses or everywhere, and answers.
    pub(crate) fn take_back(&self, name: String, addresses: Vec<IpAddr>, answer: Answer) {
        let this = self.clone();
        tokio::spawn(async move {
            let result = this.try_take_back(&name, &addresses).await;
            answer.send(result.map_or_else(Response::from, |document| Response::document(&document)));
        });
    }

    /// Waits for a change under way; none begins while the guard lives.
    pub(crate) async fn finish(&self) -> OwnedMutexGuard<Held> {
        Arc::clone(&self.held).lock_owned().await
    }

    /// Gives a name to addresses, or to a container wherever it is attached.
    pub(crate) async fn add(
        &self,
        name: &str,
        addresses: &[IpAddr],
        container: Option<&str>,
    ) -> Result<DnsNameDocument, Failure> {
        let given = self.complete_one(name)?;
        let held = Arc::clone(&self.held).lock_owned().await;
        let (bearers, owner) = match container {
            None => (addresses.iter().copied().map(Bearer::Address).collect(), external()),
            Some(text) => {
                let container = container_id(text)?;
                (vec![Bearer::Container(container.clone())], container)
            }
        };
        if let Some(wrong) = addresses.iter().find(|address| entry(&given, **address, &owner).is_none()) {
            return Err(Failure::new(ErrorKind::Invalid, format!("{wrong} is no address of one host")));
        }
        let mut new = held.clone();
        new.added.extend(bearers.into_iter().map(|bearer| Added { given: given.clone(), bearer }));
        if new.added.len() > ADDED_MAX {
            let message = format!("no more than {ADDED_MAX} names can be added to a router");
            return Err(Failure::new(ErrorKind::Refused, message));
        }
        let held = self.replace(held, new, [owner.clone()]).await?;
        let entries = held.entries(&owner);
        let mut addresses: Vec<_> =
            entries.iter().filter(|entry| *entry.name() == given.name).map(Entry::address).collect();
        addresses.dedup();
        Ok(DnsNameDocument { name: given.name.to_string(), addresses })
    }

    async fn try_take_back(&self, name: &str, addresses: &[IpAddr]) -> Result<DnsNameDocument, Failure> {
        let given = self.complete_one(name)?;
        let held = Arc::clone(&self.held).lock_owned().await;
        let is_meant = |added: &&Added| {
            let at = match &added.bearer {
                Bearer::Address(address) => addresses.is_empty() || addresses.contains(address),
                Bearer::Container(_) => addresses.is_empty(),
            };
            given.includes(&added.given) && at
        };
        let gone: BTreeSet<Added> = held.added.iter().filter(is_meant).cloned().collect();
        let has = |address: &IpAddr| gone.iter().any(|added| added.bearer == Bearer::Address(*address));
        let missing: Vec<_> =
            addresses.iter().filter(|address| !has(address)).map(IpAddr::to_string).collect();
        if gone.is_empty() || !missing.is_empty() {
            let at = if missing.is_empty() { String::new() } else { format!(" at {}", missing.join(", ")) };
            let message = format!("{given} was not added on this host{at}");
            return Err(Failure::new(ErrorKind::Unknown, message).with_hint(
                "a name is removed where it was added: `mesh dns list` shows the peer; `mesh detach` takes a container's own names",
            ));
        }
        let owners: BTreeSet<ContainerId> = gone.iter().map(Added::owner).collect();
        let mut new = held.clone();
        new.added.retain(|added| !gone.contains(added));
        self.replace(held, new, owners).await?;
        let of = |added: &Added| match &added.bearer {
            Bearer::Address(address) => Some(*address),
            Bearer::Container(_) => None,
        };
        let mut addresses: Vec<_> = gone.iter().filter_map(of).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(DnsNameDocument { name: given.name.to_string(), addresses })
    }

    /// Puts `new` into the place of what is held: on disk first, then told to the node.
    async fn replace(
        &self,
        mut held: OwnedMutexGuard<Held>,
        new: Held,
        changed: impl IntoIterator<Item = ContainerId>,
    ) -> Result<OwnedMutexGuard<Held>, Failure> {
        new.check()?;
        if new.added != held.added {
            let (path, added) = (self.path.clone(), new.added.clone());
            match tokio::task::spawn_blocking(move || save(&path, &added)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error.failure()),
                Err(_panicked) => {
                    return Err(Failure::new(ErrorKind::Internal, "the list of names was not written"));
                }
            }
        }
        *held = new;
        for container in changed {
            self.tell(&held, &container).await;
        }
        Ok(held)
    }

    async fn tell(&self, held: &Held, container: &ContainerId) {
        let entries = held.entries(container);
        info!(%container, names = entries.len(), "names have changed");
        // Nobody listens any more when the router stops; the next life is told anew.
        let _told = self.inputs.send((Input::Names { container: container.clone(), entries }, None)).await;
    }

    fn complete_one(&self, text: &str) -> Result<Given, Failure> {
        let domain = &self.domain;
        let invalid = |what: String| {
            Failure::new(ErrorKind::Invalid, format!("'{}': {what}", text.escape_debug())).with_hint(format!(
                "a name is a label, or a name in the domain, as web.{domain}, and may have a port, as web:80"
            ))
        };
        let given = Given::complete(text, domain).map_err(|error| invalid(error.to_string()))?;
        if given.name == *domain || !given.name.is_within(domain) {
            return Err(invalid(format!("no name in the domain {domain}")));
        }
        Ok(given)
    }
}

impl Held {
    fn names_of<'a>(&'a self, container: &'a ContainerId) -> impl Iterator<Item = &'a Given> {
        let added = self.added.iter().filter(|added| added.bearer == Bearer::Container(container.clone()));
        let own = self.containers.get(container).into_iter().flat_map(|borne| &borne.names);
        let all: BTreeSet<&Given> = own.chain(added.map(|added| &added.given)).collect();
        all.into_iter()
    }

    /// What others are to know of a container, or of the names without one. Where a name has a port, it does not stand there
    /// without one, too.
    fn entries(&self, container: &ContainerId) -> BTreeSet<Entry> {
        let mut entries: BTreeSet<Entry> = if container.as_str() == EXTERNAL {
            let of = |added: &Added| match &added.bearer {
                Bearer::Address(address) => entry(&added.given, *address, container),
                Bearer::Container(_) => None,
            };
            self.added.iter().filter_map(of).collect()
        } else {
            let Some(borne) = self.containers.get(container) else { return BTreeSet::new() };
            let at = |given| borne.addresses.iter().filter_map(move |at| entry(given, *at, container));
            self.names_of(container).flat_map(at).collect()
        };
        let place = |entry: &Entry| (entry.name().clone(), entry.address());
        let served: BTreeSet<_> = entries.iter().filter(|entry| entry.port().is_some()).map(place).collect();
        entries.retain(|entry| entry.port().is_some() || !served.contains(&place(entry)));
        entries
    }

    /// Refuses what the node could not tell others.
    fn check(&self) -> Result<(), Failure> {
        let owners = self.containers.keys().cloned().chain([external()]);
        let mut of_name: BTreeMap<Name, usize> = BTreeMap::new();
        for entry in owners.flat_map(|owner| self.entries(&owner)) {
            *of_name.entry(entry.name().clone()).or_default() += 1;
        }
        if let Some((name, _)) = of_name.iter().find(|(_, count)| **count > SAME_NAME_MAX) {
            let message = format!("{name} would have more than {SAME_NAME_MAX} addresses on this host");
            return Err(Failure::new(ErrorKind::Refused, message));
        }
        if of_name.values().sum::<usize>() > ORIGIN_ENTRIES_MAX {
            let message = format!("a router has at most {ORIGIN_ENTRIES_MAX} names");
            return Err(Failure::new(ErrorKind::Refused, message));
        }
        Ok(())
    }
}

impl Added {
    fn owner(&self) -> ContainerId {
        match &self.bearer {
            Bearer::Address(_) => external(),
            Bearer::Container(container) => container.clone(),
        }
    }
}

/// The names in the file at `path`, none when there is no file.
///
/// # Errors
/// [`Error::NamesDamaged`] for anything but a whole list; the file is left as it is.
pub(crate) fn load(path: &Path) -> Result<BTreeSet<Added>, Error> {
    let damaged = |line| Error::NamesDamaged { path: path.to_owned(), line };
    let text = match store::read_text(path, FILE_LEN_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(damaged(1)),
        Err(source) => return Err(Error::File { action: "read", path: path.to_owned(), source }),
    };
    let mut lines = text.lines().enumerate();
    if lines.next().map(|(_, line)| line) != Some(FIRST_LINE) {
        return Err(damaged(1));
    }
    let mut added = BTreeSet::new();
    for (index, line) in lines {
        if line == LAST_LINE {
            return Ok(added);
        }
        added.insert(parse(line).filter(|_| added.len() < ADDED_MAX).ok_or_else(|| damaged(index + 1))?);
    }
    Err(damaged(text.lines().count() + 1))
}

fn parse(line: &str) -> Option<Added> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (name, bearer) = match words.as_slice() {
        [name, address] => (name, Bearer::Address(address.parse().ok()?)),
        [name, CONTAINER_WORD, container] => (name, Bearer::Container(container.parse().ok()?)),
        _ => return None,
    };
    Some(Added { given: name.parse().ok()?, bearer })
}

/// Replaces the file at `path`, durably.
fn save(path: &Path, added: &BTreeSet<Added>) -> Result<(), Error> {
    let line = |added: &Added| match &added.bearer {
        Bearer::Address(address) => format!("{} {address}\n", added.given),
        Bearer::Container(container) => format!("{} {CONTAINER_WORD} {container}\n", added.given),
    };
    let lines: String = added.iter().map(line).collect();
    store::replace(path, format!("{FIRST_LINE}\n{lines}{LAST_LINE}\n").as_bytes())
}

/// None for an address that nobody can be reached at, which no caller lets through.
fn entry(given: &Given, address: IpAddr, container: &ContainerId) -> Option<Entry> {
    let port = given.port.map(NonZeroU16::get);
    Entry::new(&given.name.to_string(), address, container.clone(), port).ok()
}

fn external() -> ContainerId {
    EXTERNAL.parse().expect("a short word")
}

fn container_id(text: &str) -> Result<ContainerId, Failure> {
    text.parse().map_err(|error: mesh_names::ContainerIdError| {
        Failure::new(ErrorKind::Invalid, format!("'{}' cannot bear a name: {error}", text.escape_debug()))
    })
}

#[cfg(test)]
mod tests;
