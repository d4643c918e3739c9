//! From what a user calls a container to who it is and where.

use std::sync::Arc;

use mesh_api::{ContainerTarget, ErrorKind, Failure, NetnsTarget, Runtime, RuntimeName};
use mesh_hostnet::Netns;

use crate::containers::Containers;
use crate::containers::identity::{Identity, Process};
use crate::containers::registry::Entry;
use crate::host::{self, Place, netns_ref};
use crate::runtime::{Engine, EngineError, Inspected};

/// A container that runs.
pub(crate) struct Found {
    pub(crate) identity: Identity,
    pub(crate) place: Place,
    pub(crate) process: Option<Process>,
    /// As people know it.
    pub(crate) shown: String,
    /// What others may call it.
    pub(crate) names: Vec<String>,
}

/// A container that may be attached, and may not run.
pub(crate) struct Known {
    pub(crate) identity: Identity,
    /// Or why there is none to be seen.
    pub(crate) place: Result<Place, Failure>,
    pub(crate) shown: String,
}

impl Containers {
    /// The container that is named so, which must run.
    pub(super) async fn find_running(&self, target: &ContainerTarget) -> Result<Found, Failure> {
        let (engine, inspected) = match target {
            ContainerTarget::Netns(netns) => return find_netns(netns).await,
            ContainerTarget::Of(runtime, name) => {
                let engine = self.engine(*runtime)?;
                let inspected = engine.inspect(name.as_str()).await.map_err(|error| error.failure())?;
                (engine, inspected.ok_or_else(|| unknown(target))?)
            }
            ContainerTarget::Bare(name) => self.find_bare(name).await?,
        };
        let shown = shown(engine.runtime(), &inspected);
        let place = engine.place(&inspected).await?.ok_or_else(|| {
            Failure::new(ErrorKind::Refused, format!("the container {shown} does not run"))
                .with_hint("start it first")
        })?;
        let Inspected { id, names, .. } = inspected;
        let identity = Identity::Of(engine.runtime(), id);
        Ok(Found { identity, place, process: None, shown, names })
    }

    /// The container of this name of whichever runtime has it; an error when both do.
    async fn find_bare(&self, name: &RuntimeName) -> Result<(&Engine, Inspected), Failure> {
        let mut found = Vec::new();
        let mut silent: Option<EngineError> = None;
        for engine in self.engines.iter().filter(|engine| engine.has_socket()) {
            match engine.inspect(name.as_str()).await {
                Ok(inspected) => found.extend(inspected.map(|inspected| (engine, inspected))),
                Err(error) => silent = Some(error),
            }
        }
        if found.len() > 1 {
            let all: Vec<_> = found.iter().map(|(engine, one)| shown(engine.runtime(), one)).collect();
            let message = format!("more than one container is called {}: {}", name.as_str(), all.join(", "));
            return Err(Failure::new(ErrorKind::Refused, message).with_hint("say which one"));
        }
        match (found.pop(), silent) {
            (Some(found), _) => Ok(found),
            (None, Some(error)) => Err(error.failure()),
            (None, None) => Err(unknown(&ContainerTarget::Bare(name.clone()))),
        }
    }

    /// The container that is named so, for what needs it not to run: one of the list, or one that could be there.
    pub(super) async fn find_known(&self, target: &ContainerTarget) -> Result<Known, Failure> {
        let listed = match target {
            ContainerTarget::Netns(netns) => return self.find_known_netns(netns).await,
            ContainerTarget::Of(runtime, name) => self.listed(name, Some(*runtime))?,
            ContainerTarget::Bare(name) => self.listed(name, None)?,
        };
        let Some((identity, entry)) = listed else {
            // It may be attached all the same, where the list was lost.
            let Found { identity, place, shown, .. } =
                self.find_running(target).await.map_err(|failure| {
                    Failure::new(ErrorKind::Unknown, format!("{target} is not attached"))
                        .with_hint(failure.message)
                })?;
            return Ok(Known { identity, place: Ok(place), shown });
        };
        let Entry { record, .. } = entry;
        let place = self.whereabouts(&identity, record.process).await.running(&record.shown);
        Ok(Known { identity, place, shown: record.shown })
    }

    /// The container of this name, id, or beginning of an id, in the list.
    fn listed(&self, name: &RuntimeName, of: Option<Runtime>) -> Result<Option<(Identity, Entry)>, Failure> {
        let name = name.as_str();
        let (mut named, mut begun) = (Vec::new(), Vec::new());
        for (key, entry) in self.registry.all() {
            let Identity::Of(runtime, id) = &key.identity else { continue };
            if of.is_some_and(|of| of != *runtime) {
                continue;
            }
            if entry.record.shown == format!("{runtime}:{name}") || id == name {
                named.push((key.identity, entry));
            } else if id.starts_with(name) {
                begun.push((key.identity, entry));
            }
        }
        let mut meant = if named.is_empty() { begun } else { named };
        meant.dedup_by(|one, other| one.0 == other.0);
        if meant.len() > 1 {
            let all: Vec<_> = meant.iter().map(|(_, entry)| entry.record.shown.as_str()).collect();
            let message = format!("{name} can be any of {}", all.join(", "));
            return Err(Failure::new(ErrorKind::Refused, message).with_hint("say which one"));
        }
        Ok(meant.pop())
    }

    async fn find_known_netns(&self, target: &NetnsTarget) -> Result<Known, Failure> {
        let shown = target.to_string();
        match find_netns(target).await {
            Ok(Found { identity, place, .. }) => Ok(Known { identity, place: Ok(place), shown }),
            Err(failure) if failure.kind != ErrorKind::Unknown => Err(failure),
            Err(failure) => {
                let by_process =
                    self.registry.all().into_iter().find(|(_, entry)| entry.record.shown == shown);
                let identity =
                    Identity::of_absent(target).or_else(|| by_process.map(|(key, _)| key.identity));
                match identity {
                    Some(identity) => Ok(Known { identity, place: Err(failure), shown }),
                    None => Err(failure),
                }
            }
        }
    }

    pub(super) fn engine(&self, runtime: Runtime) -> Result<&Engine, Failure> {
        let engine = self.engines.iter().find(|engine| engine.runtime() == runtime);
        engine.ok_or_else(|| {
            let message = format!("this router leaves {} alone", runtime.title());
            let hint =
                format!("it was launched with --{runtime}-socket none; name the container by netns: or pid:");
            Failure::new(ErrorKind::Refused, message).with_hint(hint)
        })
    }
}

/// A container as a user would name it.
pub(super) fn shown(runtime: Runtime, container: &Inspected) -> String {
    let name = if container.name.is_empty() { &container.id } else { &container.name };
    format!("{runtime}:{name}")
}

async fn find_netns(target: &NetnsTarget) -> Result<Found, Failure> {
    let target = target.clone();
    host::look(move || {
        // Before the namespace is opened: a process that takes the other's place later has started later.
        let process = Process::of(&target);
        let netns = Netns::open(&netns_ref(&target))?;
        let identity = Identity::of(&target, &netns);
        let process = process.filter(|_| matches!(identity, Identity::Nameless(_)));
        let (shown, place) = (target.to_string(), Place { netns: Arc::new(netns), target });
        Ok(Found { identity, place, process, shown, names: Vec::new() })
    })
    .await
}

fn unknown(target: &ContainerTarget) -> Failure {
    let failure = Failure::new(ErrorKind::Unknown, format!("there is no container {target}"));
    match target {
        ContainerTarget::Bare(name) => {
            let name = name.as_str();
            failure.with_hint(format!(
                "a bare name is one of Docker or Podman, whichever answers; a namespace is netns:{name}"
            ))
        }
        ContainerTarget::Of(..) | ContainerTarget::Netns(_) => failure,
    }
}
