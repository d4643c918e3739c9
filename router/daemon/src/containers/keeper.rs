//! What happens to containers without a command: they are attached again after a restart, of theirs, of their runtime's, of
//! this router's or of the host's, and forgotten some time after they are gone.
//!
//! Owns when a container is looked at: at the start, at a sign from its runtime, and, for what no runtime tells, every
//! [`LOOK_INTERVAL`]. A look at one that is as it should be changes nothing, so that one too many does no harm, and one that
//! fails is repeated.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mesh_api::{ErrorKind, Failure, NetnsTarget};
use mesh_hostnet::{HostError, InterfaceName, host_end_name};
use mesh_ipam::Request;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use crate::containers::identity::{Identity, Process};
use crate::containers::registry::{Entry, Key, Presence, Record};
use crate::containers::{Containers, find};
use crate::host::{self, Interface, Place};
use crate::runtime::{Engine, Sign};

/// How often it is looked for namespaces that have come or gone, and for ports that somebody took away.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A look that failed is repeated so much later.
const RETRY_TIME: Duration = Duration::from_secs(5);

/// Looks at a time; further ones wait.
const LOOKS_MAX: usize = 8;

/// Signs of runtimes that wait. When there are as many, their streams wait, and the runtimes keep what is to come.
const SIGNS_QUEUED_MAX: usize = 256;

/// A runtime that does not answer is tried again so much later.
const LISTEN_RETRY: Duration = Duration::from_millis(500);

/// After so long without an event it is asked whether there still are containers to listen for.
const LISTEN_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// An address that a container had and does not hold any more is asked for so long.
const CLAIM_TIME_MAX: Duration = Duration::from_secs(5);

/// Where a container is.
pub(super) enum Whereabouts {
    /// It runs.
    Here(Place),
    /// It exists, and does not run.
    Stopped,
    /// It does not exist.
    Gone,
    /// Nobody can say.
    Hidden(Failure),
}

impl Whereabouts {
    /// The namespace of a container that runs.
    pub(super) fn running(self, shown: &str) -> Result<Place, Failure> {
        match self {
            Self::Here(place) => Ok(place),
            Self::Stopped => Err(Failure::new(ErrorKind::Unknown, format!("{shown} does not run"))),
            Self::Gone => Err(Failure::new(ErrorKind::Unknown, format!("{shown} does not exist any more"))),
            Self::Hidden(failure) => Err(failure),
        }
    }
}

impl Containers {
    /// Keeps what is wanted, until it is dropped.
    pub(crate) async fn keep(self) {
        let (signs, mut told) = mpsc::channel(SIGNS_QUEUED_MAX);
        let mut listeners = JoinSet::new();
        for engine in self.engines.iter() {
            listeners.spawn(self.clone().listen(engine.clone(), signs.clone()));
        }
        let looks = Arc::new(Semaphore::new(LOOKS_MAX));
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = tokio::select! {
                _ = ticks.tick() => self.due().await,
                Some(sign) = told.recv() => self.meant_by(&sign),
            };
            for identity in due {
                let Ok(place) = Arc::clone(&looks).acquire_owned().await else { return };
                let this = self.clone();
                tokio::spawn(async move {
                    this.look_at(&identity).await;
                    drop(place);
                });
            }
        }
    }

    /// Passes on what a runtime tells, as long as it has containers that are wanted. A runtime that nobody uses is not
    /// disturbed: by systemd, a connection would start it.
    async fn listen(self, engine: Engine, signs: mpsc::Sender<Sign>) {
        let runtime = engine.runtime();
        let is_wanted =
            || self.registry.any(|identity| matches!(identity, Identity::Of(of, _) if *of == runtime));
        let mut changes = self.registry.changes();
        let mut was_silent = false;
        loop {
            while !is_wanted() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
            match engine.events().await {
                Ok(mut events) => {
                    info!(%runtime, socket = %engine.socket().display(), "listening for containers");
                    was_silent = false;
                    if signs.send(Sign::Listening(runtime)).await.is_err() {
                        return;
                    }
                    loop {
                        match timeout(LISTEN_CHECK_INTERVAL, events.next()).await {
                            Ok(Some(sign)) => {
                                if signs.send(sign).await.is_err() {
                                    return;
                                }
                            }
                            Ok(None) => break,
                            Err(_silence) if is_wanted() => {}
                            Err(_silence) => break,
                        }
                    }
                    debug!(%runtime, "no events any more");
                }
                // It may be stopped for long: that is told once.
                Err(error) if !was_silent => {
                    info!(%runtime, %error, "containers are not heard of until it answers");
                    was_silent = true;
                }
                Err(error) => debug!(%runtime, %error, "still no events"),
            }
            sleep(LISTEN_RETRY).await;
        }
    }

    /// The containers that a sign is about, as far as they are wanted.
    fn meant_by(&self, sign: &Sign) -> BTreeSet<Identity> {
        match sign {
            Sign::Listening(runtime) => {
                let all = self.registry.all().into_iter().map(|(key, _)| key.identity);
                all.filter(|identity| matches!(identity, Identity::Of(of, _) if of == runtime)).collect()
            }
            Sign::Of(runtime, id) => {
                let identity = Identity::Of(*runtime, id.clone());
                if self.registry.of(&identity).is_empty() {
                    BTreeSet::new()
                } else {
                    BTreeSet::from([identity])
                }
            }
        }
    }

    /// The containers that are to be looked at now, without a sign.
    async fn due(&self) -> BTreeSet<Identity> {
        let all = self.registry.all();
        if all.is_empty() {
            return BTreeSet::new();
        }
        let ports = match self.host.ports().await {
            Ok(ports) => ports,
            Err(error) => {
                warn!(%error, "the ports of the bridge cannot be listed");
                return BTreeSet::new();
            }
        };
        let now = Instant::now();
        let is_due = |(key, entry): &(Key, Entry)| match &entry.presence {
            Presence::Unknown { next_look } => *next_look <= now,
            Presence::Attached { port } => !ports.contains(port.as_str()),
            // Its runtime tells when it is started.
            Presence::Stopped => false,
            Presence::Gone { since } => {
                !matches!(key.identity, Identity::Of(..)) || since.elapsed() >= self.settings.grace
            }
        };
        all.into_iter().filter(is_due).map(|(key, _)| key.identity).collect()
    }

    /// Looks where a container is, and makes of its interfaces what is wanted.
    async fn look_at(&self, identity: &Identity) {
        let turn = self.turns.of(&identity.ident());
        let _turn = turn.lock().await;
        for (key, entry) in self.registry.of(identity) {
            if let Some(port) = self.port_of_nameless(&key).await {
                self.adopt(&key, &entry).await;
                self.registry.saw(&key, Presence::Attached { port });
                self.publish_again(&key).await;
                continue;
            }
            match self.whereabouts(identity, entry.record.process).await {
                Whereabouts::Here(place) => self.take_in(&key, entry, place).await,
                Whereabouts::Stopped => self.away(&key, &entry, Presence::Stopped).await,
                Whereabouts::Gone => self.gone(&key, entry).await,
                Whereabouts::Hidden(error) => {
                    debug!(container = entry.record.shown, %error, "a container cannot be looked for");
                    let next_look = Instant::now() + RETRY_TIME;
                    self.registry.saw(&key, Presence::Unknown { next_look });
                }
            }
        }
    }

    /// The port of a namespace without a name, if it is there. Then so is the namespace, whatever has become of the process by
    /// which it was named.
    async fn port_of_nameless(&self, key: &Key) -> Option<InterfaceName> {
        let Identity::Nameless(id) = &key.identity else { return None };
        let port = host_end_name(*id, &key.ifname.parse().ok()?);
        self.host.ports().await.ok()?.contains(port.as_str()).then_some(port)
    }

    /// Has the interface of a namespace without a name, which is attached, follow the overlay's MTU. Where the process is
    /// gone by which it was named there is no way in, and the interface keeps the MTU that it has.
    async fn adopt(&self, key: &Key, entry: &Entry) {
        let Ok(ifname) = key.ifname.parse() else { return };
        let Whereabouts::Here(place) = self.whereabouts(&key.identity, entry.record.process).await else {
            return debug!(container = entry.record.shown, "its MTU stays as it is");
        };
        if let Err(error) = self.host.adopt(place, ifname).await {
            warn!(container = entry.record.shown, %error, "a container keeps the MTU that it has");
        }
    }

    /// Attaches a container that runs, if it is not attached.
    async fn take_in(&self, key: &Key, mut entry: Entry, place: Place) {
        let record = &mut entry.record;
        let attached = async {
            self.claim(key, record).await?;
            let ifname = key.ifname.parse().expect("it was a name when it was written down");
            let interface = Interface {
                ifname,
                mac: record.mac,
                addresses: record.addresses.clone(),
                multicast_route: record.multicast_route,
                node_local: self.settings.node_local.filter(|_| record.dns),
            };
            self.host.attach(place, interface).await
        };
        match attached.await {
            Ok(attached) => {
                let port = attached.host_interface;
                let is_news = entry.presence != Presence::Attached { port: port.clone() };
                if is_news {
                    info!(container = entry.record.shown, addresses = ?attached.addresses, "attached again");
                }
                self.registry.saw(key, Presence::Attached { port });
                if is_news {
                    self.publish_again(key).await;
                }
            }
            Err(error) => {
                warn!(container = record.shown, %error, "a container cannot be attached again; it is tried again");
                self.registry.saw(key, Presence::Unknown { next_look: Instant::now() + RETRY_TIME });
            }
        }
    }

    /// Makes sure that a container holds the addresses that it is to have.
    async fn claim(&self, key: &Key, record: &Record) -> Result<(), Failure> {
        if !record.addresses.iter().any(|address| self.addresses.manages(*address)) {
            return Ok(());
        }
        let (desk, ident) = (self.addresses.desk()?, key.identity.ident());
        let held = desk.held_by(&ident, None).await?;
        let missing = |address: &&IpNet| desk.manages(**address) && !held.contains(address);
        for address in record.addresses.iter().filter(missing) {
            let request = Request::Claim { ident: ident.clone(), address: *address };
            desk.ask(request, desk.deadline(CLAIM_TIME_MAX)).await?;
        }
        Ok(())
    }

    /// Takes a container that does not run out of the network. Its namespace may live on for a while.
    async fn away(&self, key: &Key, entry: &Entry, presence: Presence) {
        let shown = &entry.record.shown;
        match &entry.presence {
            Presence::Attached { port } => {
                if let Err(error) = self.host.cut_off(port.clone()).await {
                    warn!(container = shown, %port, %error, "a container that does not run is still in the network");
                }
                info!(container = shown, "a container is away; its addresses are kept for it");
            }
            Presence::Unknown { .. } => info!(container = shown, "a container is away"),
            Presence::Stopped | Presence::Gone { .. } => return self.registry.saw(key, presence),
        }
        self.registry.saw(key, presence);
        self.publish_again(key).await;
    }

    /// Says anew by which names a container can be found.
    async fn publish_again(&self, key: &Key) {
        if let Err(error) = self.publish(&key.identity).await {
            warn!(container = %key.identity, %error, "the names of a container have not changed with it");
        }
    }

    /// A container that does not exist any more is forgotten when it stays so.
    async fn gone(&self, key: &Key, entry: Entry) {
        let since = match entry.presence {
            Presence::Gone { since } => since,
            Presence::Unknown { .. } | Presence::Attached { .. } | Presence::Stopped => Instant::now(),
        };
        self.away(key, &entry, Presence::Gone { since }).await;
        if since.elapsed() >= self.settings.grace
            && let Err(error) = self.forget(key, &entry.record).await
        {
            warn!(container = entry.record.shown, %error, "a container that is gone is not forgotten yet");
        }
    }

    /// Looks for a container. `process` is the one by which a nameless namespace was found.
    pub(super) async fn whereabouts(&self, identity: &Identity, process: Option<Process>) -> Whereabouts {
        let here = |result: Result<Result<Place, HostError>, Failure>| match result {
            Ok(Ok(place)) => Whereabouts::Here(place),
            Ok(Err(
                HostError::NamespaceNotFound { .. }
                | HostError::NoSuchProcess { .. }
                | HostError::NotANamespace { .. },
            )) => Whereabouts::Gone,
            Ok(Err(error)) => Whereabouts::Hidden(crate::error::failure_of(&error)),
            Err(failure) => Whereabouts::Hidden(failure),
        };
        match identity {
            Identity::Of(runtime, id) => match self.engine(*runtime) {
                Ok(engine) => self.ask_for(engine, id).await,
                Err(failure) => Whereabouts::Hidden(failure),
            },
            Identity::Named(_) | Identity::At(_) => match identity.target() {
                Some(target) => here(host::open(target).await),
                None => Whereabouts::Gone,
            },
            Identity::Nameless(id) => {
                let Some(process) = process else { return Whereabouts::Gone };
                // The namespace is opened before the process is looked at again: if it still is the same, it was it.
                let found = here(host::open(NetnsTarget::Pid(process.pid)).await);
                match found {
                    Whereabouts::Here(place)
                        if place.netns.id() == *id && Process::now(process.pid) == Some(process) =>
                    {
                        Whereabouts::Here(place)
                    }
                    Whereabouts::Here(_) | Whereabouts::Stopped | Whereabouts::Gone => Whereabouts::Gone,
                    hidden @ Whereabouts::Hidden(_) => hidden,
                }
            }
        }
    }

    async fn ask_for(&self, engine: &Engine, id: &str) -> Whereabouts {
        let inspected = match engine.inspect(id).await {
            Ok(Some(inspected)) => inspected,
            Ok(None) => return Whereabouts::Gone,
            Err(error) => return Whereabouts::Hidden(error.failure()),
        };
        debug!(container = find::shown(engine.runtime(), &inspected), life = ?inspected.life, "looked at");
        match engine.place(&inspected).await {
            Ok(Some(place)) => Whereabouts::Here(place),
            Ok(None) => Whereabouts::Stopped,
            Err(failure) => Whereabouts::Hidden(failure),
        }
    }
}
