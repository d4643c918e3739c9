//! What containers have in the network: their addresses by address management, their interfaces by the host, and the list
//! of both, by which they have them again after a restart of anything.
//!
//! Owns the order of the three, and how what was done is undone when the next fails. One change at a time for each
//! container. Who a container is stands in [`identity`], what is wanted in [`registry`], the search in [`find`], and what
//! happens without a command in [`keeper`].

mod find;
mod identity;
mod keeper;
mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ipnet::IpNet;
use mesh_api::{
    AddressTarget, AttachDocument, ContainerTarget, DetachDocument, ErrorKind, Failure, PortDocument,
    Response,
};
use mesh_hostnet::{Attachment, InterfaceName, MacAddress, host_end_name};
use mesh_ipam::Ident;
use mesh_wire::PeerId;
use tracing::{info, warn};

use crate::Error;
use crate::containers::find::Found;
use crate::containers::identity::Identity;
pub(crate) use crate::containers::registry::Registry;
use crate::containers::registry::{Entry, Key, Presence, RECORDS_MAX, Record};
use crate::control::Answer;
use crate::desk::{self, Management};
use crate::host::{Host, Interface};
use crate::names::{Given, Names, names_of};
use crate::prober::Prober;
use crate::resolv_conf::ResolvConfs;
use crate::runtime::Engine;

/// Changes what containers have.
#[derive(Clone)]
pub(crate) struct Containers {
    host: Host,
    addresses: Management,
    /// Where addresses are managed.
    prober: Option<Prober>,
    engines: Arc<[Engine]>,
    registry: Registry,
    names: Names,
    resolv_confs: ResolvConfs,
    turns: Turns,
    settings: Settings,
}

/// What containers need of others.
pub(crate) struct Services {
    pub(crate) addresses: Management,
    pub(crate) names: Names,
    pub(crate) resolv_confs: ResolvConfs,
    pub(crate) engines: Vec<Engine>,
}

/// What holds for all containers of a router.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// This router. Its containers' Ethernet addresses are made of it, so that no other router makes the same ones.
    pub(crate) me: PeerId,
    /// How long the addresses of a container that is gone are kept for it.
    pub(crate) grace: Duration,
    /// The address of the host's name server.
    pub(crate) node_local: Option<Ipv4Addr>,
}

/// What else a container is to have.
pub(crate) struct Wish {
    /// Names, beside those that it has.
    pub(crate) names: Vec<String>,
    /// Whether it reaches the host's name server, and bears the names that its runtime knows.
    pub(crate) dns: bool,
    /// Whether its `resolv.conf` is written.
    pub(crate) resolv_conf: bool,
    /// Whether it sends IPv4 multicast by the interface.
    pub(crate) multicast_route: bool,
}

/// What a container is to get.
pub(crate) struct Attaching {
    pub(crate) container: ContainerTarget,
    pub(crate) addresses: Vec<AddressTarget>,
    /// The interface's name inside.
    pub(crate) ifname: String,
    pub(crate) wish: Wish,
    /// Longest wait for addresses.
    pub(crate) wait: Duration,
}

impl Containers {
    pub(crate) fn new(host: Host, services: Services, registry: Registry, settings: Settings) -> Self {
        let Services { addresses, names, resolv_confs, engines } = services;
        let prober = match &addresses {
            Management::On(desk) => Some(Prober::start(host.bridge(), desk.clone())),
            Management::Off | Management::Broken { .. } => None,
        };
        let (engines, turns) = (engines.into(), Turns::default());
        Self { host, addresses, prober, engines, registry, names, resolv_confs, turns, settings }
    }

    /// Gives a name to addresses or to a container, and answers.
    pub(crate) fn add_name(
        &self,
        name: String,
        addresses: Vec<IpAddr>,
        container: Option<ContainerTarget>,
        answer: Answer,
    ) {
        let this = self.clone();
        tokio::spawn(async move {
            let added = async {
                let container = match container {
                    Some(container) => Some(this.find_known(&container).await?.identity.ident().to_string()),
                    None => None,
                };
                this.names.add(&name, &addresses, container.as_deref()).await
            };
            answer.send(added.await.map_or_else(Response::from, |document| Response::document(&document)));
        });
    }

    /// What is wanted, from the file in which an earlier life left it.
    pub(crate) fn load(file: PathBuf) -> Result<Registry, Error> {
        Registry::load(file)
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
    pub(crate) fn detach(&self, container: ContainerTarget, addresses: Vec<AddressTarget>, answer: Answer) {
        let this = self.clone();
        tokio::spawn(async move {
            let result = this.try_detach(container, &addresses).await;
            answer.send(result.map_or_else(Response::from, |document| Response::document(&document)));
        });
    }

    /// Shows what is attached, all of it or these containers, and answers.
    pub(crate) fn ps(&self, containers: Vec<ContainerTarget>, answer: Answer) {
        let this = self.clone();
        tokio::spawn(async move {
            let result = this.try_ps(&containers).await;
            answer.send(result.map_or_else(Response::from, |documents| Response::document(&documents)));
        });
    }

    /// Tells by which port of the bridge frames of a container's interface pass, and answers.
    pub(crate) fn port(&self, container: ContainerTarget, ifname: String, answer: Answer) {
        let this = self.clone();
        tokio::spawn(async move {
            let result = this.try_port(&container, &ifname).await;
            answer.send(result.map_or_else(Response::from, |document| Response::document(&document)));
        });
    }

    /// Waits for changes of the host under way; none begins while the guard lives.
    pub(crate) async fn finish(&self) -> tokio::sync::OwnedRwLockWriteGuard<()> {
        self.host.finish().await
    }

    async fn try_attach(&self, order: Attaching, answer: &mut Answer) -> Result<AttachDocument, Failure> {
        let Attaching { container, addresses, ifname, wish, wait } = order;
        let wanted = self.names.complete(&wish.names)?;
        let ifname: InterfaceName = ifname
            .parse()
            .map_err(|error: mesh_hostnet::NameError| Failure::new(ErrorKind::Invalid, error.to_string()))?;
        let desk = self.addresses.desk_for(&addresses)?;
        let found = self.find_running(&container).await?;
        self.host.check(Arc::clone(&found.place.netns), desk::chosen(&addresses)).await?;
        let ident = found.identity.ident();
        let turn = self.turns.of(&ident);
        let _turn = turn.lock().await;
        if wish.resolv_conf {
            self.resolv_confs.check(ident.as_str())?;
        }
        self.forget_another(&found).await?;
        let before = match desk {
            Some(desk) => desk.held_by(&ident, None).await?,
            None => Vec::new(),
        };
        let obtained = match desk {
            None => Ok(desk::chosen(&addresses)),
            Some(desk) => tokio::select! {
                obtained = desk.obtain(&ident, &addresses, desk.deadline(wait)) => obtained,
                () = answer.gone() => Err(Failure::new(ErrorKind::Refused, "the client has gone away")),
            },
        };
        let attached = match obtained {
            Ok(addresses) => self.attach_with(&found, ifname, addresses, (&wish, wanted)).await,
            Err(failure) => Err(failure),
        };
        match (&attached, desk, &self.prober) {
            (Err(_), Some(desk), _) => desk.give_back(&ident, &before).await,
            (Ok(document), Some(_), Some(prober)) => {
                let new = document.addresses.iter().filter(|address| !before.contains(address));
                new.for_each(|address| prober.ask(address.addr(), &document.mac));
            }
            (Ok(_), None, _) | (Ok(_), _, None) | (Err(_), None, _) => {}
        }
        attached
    }

    /// Writes down what a container is to have, and gives it that. When the second fails, the first is undone.
    async fn attach_with(
        &self,
        found: &Found,
        ifname: InterfaceName,
        addresses: Vec<IpNet>,
        (wish, wanted): (&Wish, BTreeSet<Given>),
    ) -> Result<AttachDocument, Failure> {
        let key = Key { identity: found.identity.clone(), ifname: ifname.to_string() };
        let before = self.registry.get(&key).map(|entry| entry.record);
        if before.is_none() && self.registry.is_full() {
            let message = format!("this router has as many containers as it may ({RECORDS_MAX})");
            return Err(Failure::new(ErrorKind::Refused, message));
        }
        let mut record = Record {
            process: found.process,
            shown: found.shown.clone(),
            mac: self.mac_for(&key),
            addresses: merged(before.as_ref().map_or(&[], |record| &record.addresses), &addresses),
            names: self.names_for(found, wish, wanted, before.as_ref()),
            multicast_route: wish.multicast_route,
            dns: wish.dns,
        };
        self.remember(&key, &record, before.as_ref()).await?;
        let interface = Interface {
            ifname,
            mac: record.mac,
            addresses,
            multicast_route: wish.multicast_route,
            node_local: self.settings.node_local.filter(|_| wish.dns),
        };
        let attached = match self.host.attach(found.place.clone(), interface).await {
            Ok(attached) => attached,
            Err(failure) => {
                if let Err(error) = self.registry.put(&key, before).await {
                    warn!(container = record.shown, %error, "a container that was not attached is still written down");
                }
                return Err(failure);
            }
        };
        // An interface that was there keeps its own address, and what the list did not have.
        let written = record.clone();
        (record.mac, record.addresses) = (attached.mac, attached.addresses.clone());
        self.remember(&key, &record, Some(&written)).await?;
        self.settle(&key, &record, &attached);
        let named = self.publish(&found.identity).await;
        let ident = found.identity.ident();
        let written = if wish.resolv_conf { self.resolv_confs.write(ident.as_str()) } else { Ok(()) };
        match named.and_then(|names| written.map(|()| names)) {
            Ok(names) => Ok(AttachDocument { names, ..document(&key, &record, true) }),
            Err(failure) => {
                let hint = failure.hint.clone().map_or_else(String::new, |hint| format!("; {hint}"));
                Err(failure
                    .with_hint(format!("the container is attached, as it was asked for otherwise{hint}")))
            }
        }
    }

    /// All names of an interface: those that it had, those that were asked for, and those that its runtime knows, as far as
    /// they are names of the network's domain.
    fn names_for(
        &self,
        found: &Found,
        wish: &Wish,
        mut wanted: BTreeSet<Given>,
        before: Option<&Record>,
    ) -> Vec<String> {
        let known = found.names.iter().filter(|_| wish.dns);
        for name in known.chain(before.iter().flat_map(|record| &record.names)) {
            match self.names.complete(std::slice::from_ref(name)) {
                Ok(names) => wanted.extend(names),
                Err(failure) => info!(container = found.shown, name, %failure, "a name is left out"),
            }
        }
        wanted.iter().map(ToString::to_string).collect()
    }

    /// Says by which names a container can be found now: at the addresses of those of its interfaces that are in the network.
    async fn publish(&self, identity: &Identity) -> Result<Vec<String>, Failure> {
        let (ident, listed) = (identity.ident(), self.registry.of(identity));
        if listed.is_empty() {
            self.names.remove(ident.as_str()).await?;
            self.resolv_confs.remove(ident.as_str()).map_err(|error| error.failure())?;
            return Ok(Vec::new());
        }
        let (mut names, mut addresses) = (BTreeSet::new(), Vec::new());
        for (_, Entry { record, presence }) in &listed {
            names.extend(self.names.complete(&record.names)?);
            if matches!(presence, Presence::Attached { .. }) {
                addresses.extend(record.addresses.iter().map(IpNet::addr));
            }
        }
        self.names.set(ident.as_str(), names, addresses).await
    }

    /// Notes that a container is in the network.
    fn settle(&self, key: &Key, record: &Record, attached: &Attachment) {
        let Attachment { interface, host_interface: port, addresses, .. } = attached;
        info!(container = record.shown, %interface, %port, ?addresses, "attached");
        self.registry.saw(key, Presence::Attached { port: port.clone() });
    }

    /// Writes a record, unless it is there already.
    async fn remember(&self, key: &Key, record: &Record, present: Option<&Record>) -> Result<(), Failure> {
        if present == Some(record) {
            return Ok(());
        }
        self.registry.put(key, Some(record.clone())).await.map_err(|error| error.failure())
    }

    /// A namespace without a name may have the number of an earlier one, whose addresses are not for it.
    async fn forget_another(&self, found: &Found) -> Result<(), Failure> {
        let Identity::Nameless(id) = &found.identity else { return Ok(()) };
        let known = self.registry.of(&found.identity);
        if known.is_empty() {
            return Ok(());
        }
        let ports = self.host.ports().await?;
        for (key, entry) in known {
            let same =
                key.ifname.parse().is_ok_and(|name| ports.contains(host_end_name(*id, &name).as_str()))
                    || entry.record.process.is_some_and(|process| Some(process) == found.process);
            if !same {
                self.forget(&key, &entry.record).await?;
            }
        }
        Ok(())
    }

    /// Takes what a container had that is no more: its place in the list, and its addresses.
    async fn forget(&self, key: &Key, record: &Record) -> Result<(), Failure> {
        if let Management::On(desk) = &self.addresses {
            let ident = key.identity.ident();
            for address in record.addresses.iter().filter(|address| desk.manages(**address)) {
                desk.release(&ident, Some(IpNet::from(address.addr()))).await?;
            }
        }
        self.registry.put(key, None).await.map_err(|error| error.failure())?;
        self.publish(&key.identity).await?;
        info!(container = record.shown, addresses = ?record.addresses, "a container that is gone has no address any more");
        Ok(())
    }

    async fn try_detach(
        &self,
        container: ContainerTarget,
        targets: &[AddressTarget],
    ) -> Result<DetachDocument, Failure> {
        let desk = match &self.addresses {
            Management::On(desk) => Some(desk),
            Management::Off | Management::Broken { .. } => None,
        };
        let meant = self.find_known(&container).await?;
        let ident = meant.identity.ident();
        let turn = self.turns.of(&ident);
        let _turn = turn.lock().await;
        let known = self.registry.of(&meant.identity);
        let unwanted = self.unwanted(&container, &ident, targets).await?;
        let taken = self.take_off(&meant, &known, &unwanted, targets.is_empty()).await;
        let mut removed = match (taken, desk) {
            (Ok(removed), _) => removed,
            // A container that is gone leaves its addresses behind.
            (Err(failure), Some(desk)) if targets.is_empty() && failure.kind == ErrorKind::Unknown => {
                if desk.held_by(&ident, None).await?.is_empty() {
                    return Err(failure);
                }
                Vec::new()
            }
            (Err(failure), _) => return Err(failure),
        };
        match desk {
            Some(desk) if targets.is_empty() => removed.extend(desk.release(&ident, None).await?),
            Some(desk) => {
                for address in removed.iter().filter(|address| desk.manages(**address)) {
                    desk.release(&ident, Some(IpNet::from(address.addr()))).await?;
                }
            }
            None => {}
        }
        for (key, Entry { mut record, .. }) in known {
            record.addresses.retain(|address| !targets.is_empty() && !removed.contains(address));
            let left = (!record.addresses.is_empty()).then_some(record);
            self.registry.put(&key, left).await.map_err(|error| error.failure())?;
        }
        self.publish(&meant.identity).await?;
        removed.sort_unstable();
        removed.dedup();
        info!(%container, addresses = ?removed, "detached");
        Ok(DetachDocument { container: container.to_string(), addresses: removed })
    }

    /// The addresses that are to be taken from a container, in so far as they are named.
    async fn unwanted(
        &self,
        container: &ContainerTarget,
        ident: &Ident,
        targets: &[AddressTarget],
    ) -> Result<Vec<IpNet>, Failure> {
        let mut unwanted = desk::chosen(targets);
        for target in targets {
            let desk = || self.addresses.desk();
            let subnet = match target {
                AddressTarget::Ip(_) => continue,
                AddressTarget::Subnet(subnet) => *subnet,
                AddressTarget::DefaultSubnet => desk()?.default_subnet(),
            };
            let held = desk()?.held_by(ident, Some(subnet)).await?;
            if held.is_empty() {
                let message = format!("{container} has no address of {subnet}");
                return Err(Failure::new(ErrorKind::Unknown, message));
            }
            unwanted.extend(held);
        }
        unwanted.sort_unstable();
        unwanted.dedup();
        Ok(unwanted)
    }

    /// Takes addresses, or all, from a container's interfaces; from one that has none now, from the list alone.
    async fn take_off(
        &self,
        meant: &find::Known,
        known: &[(Key, Entry)],
        unwanted: &[IpNet],
        all: bool,
    ) -> Result<Vec<IpNet>, Failure> {
        let listed: Vec<IpNet> = known.iter().flat_map(|(_, entry)| entry.record.addresses.clone()).collect();
        let is_attached = known.iter().any(|(_, entry)| matches!(entry.presence, Presence::Attached { .. }));
        match &meant.place {
            Ok(place) => match self.host.detach(Arc::clone(&place.netns), unwanted.to_vec()).await {
                Ok(removed) => return Ok(removed),
                // It is known, and not in the network at this moment.
                Err(failure) if failure.kind == ErrorKind::Unknown && !known.is_empty() && !is_attached => {}
                Err(failure) => return Err(failure),
            },
            Err(failure) if known.is_empty() => return Err(failure.clone()),
            Err(_absent) => {}
        }
        if all {
            for (_, entry) in known {
                if let Presence::Attached { port } = &entry.presence {
                    self.host.cut_off(port.clone()).await?;
                }
            }
            return Ok(listed);
        }
        if let Some(missing) = unwanted.iter().find(|address| !listed.contains(address)) {
            let message = format!("{} does not have the address {missing}", meant.shown);
            return Err(Failure::new(ErrorKind::Unknown, message));
        }
        if is_attached {
            let message = format!("{} cannot be looked into now", meant.shown);
            return Err(Failure::new(ErrorKind::Refused, message)
                .with_hint("detach all of it, or try again when its runtime answers"));
        }
        Ok(unwanted.to_vec())
    }

    async fn try_ps(&self, containers: &[ContainerTarget]) -> Result<Vec<AttachDocument>, Failure> {
        if containers.is_empty() {
            return Ok(self.registry.all().iter().map(listed).collect());
        }
        let mut documents = Vec::new();
        for container in containers {
            let found = self.registry.of(&self.find_known(container).await?.identity);
            if found.is_empty() {
                return Err(Failure::new(ErrorKind::Unknown, format!("{container} is not attached")));
            }
            documents.extend(found.iter().map(listed));
        }
        Ok(documents)
    }

    async fn try_port(&self, container: &ContainerTarget, ifname: &str) -> Result<PortDocument, Failure> {
        let found = self.registry.of(&self.find_known(container).await?.identity);
        let port = found.into_iter().find_map(|(key, Entry { record, presence })| match presence {
            Presence::Attached { port } if key.ifname == ifname => {
                Some(PortDocument { container: record.shown, interface: key.ifname, port: port.to_string() })
            }
            Presence::Attached { .. }
            | Presence::Unknown { .. }
            | Presence::Stopped
            | Presence::Gone { .. } => None,
        });
        let unknown = || Failure::new(ErrorKind::Unknown, format!("{container} is not attached by {ifname}"));
        port.ok_or_else(unknown)
    }

    /// The Ethernet address of a container's interface: the same in all its lives.
    fn mac_for(&self, key: &Key) -> MacAddress {
        let identity = key.identity.to_string();
        let name = self.settings.me.as_bytes().iter().copied().chain(identity.bytes()).chain([0]);
        MacAddress::of_name(name.chain(key.ifname.bytes()))
    }
}

/// An element of what `ps` shows.
fn listed((key, entry): &(Key, Entry)) -> AttachDocument {
    document(key, &entry.record, matches!(entry.presence, Presence::Attached { .. }))
}

fn document(key: &Key, record: &Record, attached: bool) -> AttachDocument {
    AttachDocument {
        container: record.shown.clone(),
        interface: key.ifname.clone(),
        mac: record.mac.to_string(),
        addresses: record.addresses.clone(),
        names: names_of(&record.names),
        attached,
    }
}

/// Both, each once.
fn merged(present: &[IpNet], added: &[IpNet]) -> Vec<IpNet> {
    let mut all = [present, added].concat();
    all.sort_unstable();
    all.dedup();
    all
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
