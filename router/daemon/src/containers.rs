//! What containers have in the network: their addresses by address management, their interfaces by the host.
//!
//! Owns the order of the two, how the first is undone when the second fails, and the name by which a container holds its
//! addresses. One change at a time for each container.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ipnet::IpNet;
use mesh_api::{AddressTarget, AttachDocument, DetachDocument, ErrorKind, Failure, NetnsTarget, Response};
use mesh_hostnet::Netns;
use mesh_ipam::Ident;
use mesh_names::Name;
use tracing::warn;

use crate::control::Answer;
use crate::desk::{self, Desk, Management};
use crate::error::failure_of;
use crate::host::{Host, Interface, netns_ref};
use crate::names::Names;
use crate::prober::Prober;
use crate::resolv_conf::ResolvConfs;

/// Where `ip netns` keeps named namespaces; the second is the older name of the first.
const NAMED_DIRECTORIES: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Named namespaces that are looked at for the name of one. Where there are more, it goes by its number.
const NAMED_MAX: usize = 10_000;

/// Changes what containers have.
#[derive(Clone)]
pub(crate) struct Containers {
    host: Host,
    addresses: Management,
    /// Where addresses are managed.
    prober: Option<Prober>,
    names: Names,
    resolv_confs: ResolvConfs,
    turns: Turns,
}

/// What a container is to get.
pub(crate) struct Attaching {
    pub(crate) container: NetnsTarget,
    pub(crate) addresses: Vec<AddressTarget>,
    pub(crate) interface: Interface,
    /// Names that it gets, beside those that it has.
    pub(crate) names: Vec<String>,
    /// Whether its `resolv.conf` is written.
    pub(crate) resolv_conf: bool,
    /// Longest wait for addresses.
    pub(crate) wait: Duration,
}

impl Containers {
    pub(crate) fn new(host: Host, addresses: Management, names: Names, resolv_confs: ResolvConfs) -> Self {
        let prober = match &addresses {
            Management::On(desk) => Some(Prober::start(host.bridge(), desk.clone())),
            Management::Off | Management::Broken { .. } => None,
        };
        Self { host, addresses, prober, names, resolv_confs, turns: Turns::default() }
    }

    /// Gives a name to addresses or to a container, and answers.
    pub(crate) fn add_name(
        &self,
        name: String,
        addresses: Vec<IpAddr>,
        container: Option<NetnsTarget>,
        answer: Answer,
    ) {
        let names = self.names.clone();
        tokio::spawn(async move {
            let added = async {
                let container = match container {
                    Some(container) => Some(ident_of(container).await?.to_string()),
                    None => None,
                };
                names.add(&name, &addresses, container.as_deref()).await
            };
            answer.send(added.await.map_or_else(Response::from, |document| Response::document(&document)));
        });
    }

    /// Attaches a container and answers. A client that goes away before there are addresses takes its wish with it.
    pub(crate) fn attach(&self, order: Attaching, mut answer: Answer) {
        let this = self.clone();
        tokio::spawn(async move {
            let result = this.try_attach(order, &mut answer).await;
            answer.send(result.map_or_else(Response::from, |document| Response::document(&document)));
        });
    }

    /// Detaches a container, wholly or some addresses of it, and answers.
    pub(crate) fn detach(&self, container: NetnsTarget, addresses: Vec<AddressTarget>, answer: Answer) {
        let this = self.clone();
        tokio::spawn(async move {
            let result = this.try_detach(container, &addresses).await;
            answer.send(result.map_or_else(Response::from, |document| Response::document(&document)));
        });
    }

    /// Waits for a change of the host under way; none begins while the guard lives.
    pub(crate) async fn finish(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.host.finish().await
    }

    async fn try_attach(&self, order: Attaching, answer: &mut Answer) -> Result<AttachDocument, Failure> {
        let Attaching { container, addresses, interface, names, resolv_conf, wait } = order;
        let names = self.names.complete(&names)?;
        self.host.check(container.clone(), own(&addresses)).await?;
        let ident = ident_of(container.clone()).await?;
        let turn = self.turns.of(&ident);
        let _turn = turn.lock().await;
        if resolv_conf {
            self.resolv_confs.check(&ident.to_string())?;
        }
        let Some(desk) = self.desk_for(&addresses)? else {
            let attached = self.host.attach(container, own(&addresses), interface).await?;
            return self.name(&ident, names, resolv_conf, attached).await;
        };
        let before = desk.held_by(&ident, None).await?;
        let obtained = tokio::select! {
            obtained = desk.obtain(&ident, &addresses, desk.deadline(wait)) => obtained,
            () = answer.gone() => Err(Failure::new(ErrorKind::Refused, "the client has gone away")),
        };
        let attached = match obtained {
            Ok(addresses) => self.host.attach(container, addresses, interface).await,
            Err(failure) => Err(failure),
        };
        match (&attached, &self.prober) {
            (Err(_), _) => give_back(desk, &ident, &before).await,
            (Ok(document), Some(prober)) => {
                let new = document.addresses.iter().filter(|address| !before.contains(address));
                new.for_each(|address| prober.ask(address.addr(), &document.mac));
            }
            (Ok(_), None) => {}
        }
        self.name(&ident, names, resolv_conf, attached?).await
    }

    /// Says by which names the container that has been attached can be found, and in it, where to ask for others.
    async fn name(
        &self,
        ident: &Ident,
        names: BTreeSet<Name>,
        resolv_conf: bool,
        attached: AttachDocument,
    ) -> Result<AttachDocument, Failure> {
        let ident = ident.to_string();
        let all = &self.names.of(&ident).await | &names;
        let addresses = attached.addresses.iter().map(IpNet::addr);
        let named = self.names.set(&ident, all, addresses).await;
        let written = if resolv_conf { self.resolv_confs.write(&ident) } else { Ok(()) };
        match named.and_then(|names| written.map(|()| names)) {
            Ok(names) => Ok(AttachDocument { names, ..attached }),
            Err(failure) => {
                let hint = failure.hint.clone().map_or_else(String::new, |hint| format!("; {hint}"));
                Err(failure
                    .with_hint(format!("the container is attached, as it was asked for otherwise{hint}")))
            }
        }
    }

    /// Takes from a detached container the names of addresses that it has no longer; all that it has when it has gone.
    async fn unname(&self, ident: &Ident, container: NetnsTarget) -> Result<(), Failure> {
        let ident = ident.to_string();
        let left = self.host.addresses(container).await;
        if left.is_empty() {
            self.names.remove(&ident).await?;
            return self.resolv_confs.remove(&ident).map_err(|error| error.failure());
        }
        let names = self.names.of(&ident).await;
        self.names.set(&ident, names, left.iter().map(IpNet::addr)).await.map(|_names| ())
    }

    async fn try_detach(
        &self,
        container: NetnsTarget,
        targets: &[AddressTarget],
    ) -> Result<DetachDocument, Failure> {
        let Management::On(desk) = &self.addresses else {
            if targets.iter().any(|target| !matches!(target, AddressTarget::Ip(_))) {
                self.addresses.desk()?;
            }
            let ident = ident_of(container.clone()).await?;
            let turn = self.turns.of(&ident);
            let _turn = turn.lock().await;
            let addresses = self.host.detach(container.clone(), own(targets)).await?;
            self.unname(&ident, container.clone()).await?;
            return Ok(DetachDocument { container: container.to_string(), addresses });
        };
        let ident = ident_of(container.clone()).await?;
        let turn = self.turns.of(&ident);
        let _turn = turn.lock().await;
        let mut unwanted = own(targets);
        for target in targets {
            let subnet = match target {
                AddressTarget::Ip(_) => continue,
                AddressTarget::Subnet(subnet) => *subnet,
                AddressTarget::DefaultSubnet => desk.default_subnet(),
            };
            let held = desk.held_by(&ident, Some(subnet)).await?;
            if held.is_empty() {
                let message = format!("{container} has no address of {subnet}");
                return Err(Failure::new(ErrorKind::Unknown, message));
            }
            unwanted.extend(held);
        }
        unwanted.sort_unstable();
        unwanted.dedup();
        let name = container.to_string();
        let mut removed = match self.host.detach(container.clone(), unwanted).await {
            Ok(removed) => removed,
            // A container that is gone leaves its addresses behind.
            Err(failure) if targets.is_empty() && failure.kind == ErrorKind::Unknown => {
                let left = desk.release(&ident, None).await?;
                if left.is_empty() {
                    return Err(failure);
                }
                left
            }
            Err(failure) => return Err(failure),
        };
        if targets.is_empty() {
            removed.extend(desk.release(&ident, None).await?);
        } else {
            for address in &removed {
                desk.release(&ident, Some(IpNet::from(address.addr()))).await?;
            }
        }
        self.unname(&ident, container).await?;
        removed.sort_unstable();
        removed.dedup();
        Ok(DetachDocument { container: name, addresses: removed })
    }

    /// The desk, if these addresses need one; an error when it is needed and there is none. Addresses outside the network's
    /// range are the user's own affair.
    fn desk_for(&self, addresses: &[AddressTarget]) -> Result<Option<&Desk>, Failure> {
        let is_managed = |address: &IpNet| match &self.addresses {
            Management::On(desk) => desk.manages(*address),
            Management::Broken { range, .. } => range.contains(&address.addr()),
            Management::Off => false,
        };
        let needs_desk = |target: &AddressTarget| match target {
            AddressTarget::Ip(address) => is_managed(address),
            AddressTarget::Subnet(_) | AddressTarget::DefaultSubnet => true,
        };
        let needed = addresses.is_empty() || addresses.iter().any(needs_desk);
        needed.then(|| self.addresses.desk()).transpose()
    }
}

/// Takes back what a holder has got since.
async fn give_back(desk: &Desk, ident: &Ident, before: &[IpNet]) {
    let release = async {
        for address in desk.held_by(ident, None).await? {
            if !before.contains(&address) {
                desk.release(ident, Some(IpNet::from(address.addr()))).await?;
            }
        }
        Ok::<_, Failure>(())
    };
    if let Err(error) = release.await {
        warn!(%ident, %error, "addresses of a container that was not attached stay with it");
    }
}

/// The addresses that the user has chosen.
fn own(targets: &[AddressTarget]) -> Vec<IpNet> {
    let own = targets.iter().filter_map(|target| match target {
        AddressTarget::Ip(address) => Some(*address),
        AddressTarget::Subnet(_) | AddressTarget::DefaultSubnet => None,
    });
    own.collect()
}

/// The name by which a container holds its addresses: the same for all ways to name it, as far as that can be seen.
async fn ident_of(container: NetnsTarget) -> Result<Ident, Failure> {
    let named = tokio::task::spawn_blocking(move || {
        let text = match &container {
            NetnsTarget::Name(name) => format!("netns:{}", name.as_str()),
            NetnsTarget::Path(path) => match name_of(path) {
                Some(name) => format!("netns:{name}"),
                None if path.starts_with("/proc") => by_number(&container)?,
                None => format!("netns:{}", path.display()),
            },
            NetnsTarget::Pid(_) => by_number(&container)?,
        };
        text.parse().or_else(|_too_long| desk::ident(&by_number(&container)?))
    });
    named.await.unwrap_or_else(|_panicked| {
        Err(Failure::new(ErrorKind::Internal, "the container's name was not found out"))
    })
}

/// The name of a namespace whose file is at this path, if it has one.
fn name_of(path: &Path) -> Option<String> {
    let dir = path.parent()?;
    let named = NAMED_DIRECTORIES.iter().any(|named| dir == Path::new(named));
    named.then(|| path.file_name()?.to_str().map(str::to_owned)).flatten()
}

/// The name of the namespace that a process is in, or else its number, by which no other is known as long as it lives.
fn by_number(container: &NetnsTarget) -> Result<String, Failure> {
    let id = Netns::open(&netns_ref(container)).map_err(|error| failure_of(&error))?.id();
    let entries = NAMED_DIRECTORIES.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let named = entries
        .take(NAMED_MAX)
        .find(|entry| fs::metadata(entry.path()).is_ok_and(|file| (file.dev(), file.ino()) == id.parts()));
    let name = named.and_then(|entry| name_of(&entry.path()));
    Ok(name.map_or_else(|| id.to_string(), |name| format!("netns:{name}")))
}

/// Whose turn it is, for each container. Holds as many entries as there are changes under way.
#[derive(Clone, Default)]
struct Turns(Arc<Mutex<BTreeMap<Ident, Weak<tokio::sync::Mutex<()>>>>>);

impl Turns {
    fn of(&self, ident: &Ident) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(ident).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(ident.clone(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_namespace_has_one_name_by_whatever_path() {
        assert_eq!(name_of(Path::new("/run/netns/c1")).as_deref(), Some("c1"));
        assert_eq!(name_of(Path::new("/var/run/netns/c1")).as_deref(), Some("c1"));
        assert_eq!(name_of(Path::new("/run/netns/a/c1")), None);
        assert_eq!(name_of(Path::new("/run/docker/netns/c1")), None);
    }

    #[tokio::test]
    async fn two_changes_of_one_container_take_turns_and_leave_nothing_behind() {
        let turns = Turns::default();
        let (one, other): (Ident, Ident) = ("a".parse().expect("a name"), "b".parse().expect("a name"));
        let first = turns.of(&one);
        let guard = first.lock().await;
        assert!(turns.of(&one).try_lock().is_err());
        assert!(turns.of(&other).try_lock().is_ok());
        drop(guard);
        drop(first);
        drop(turns.of(&other));
        assert_eq!(turns.0.lock().expect("not poisoned").len(), 1);
    }
}
