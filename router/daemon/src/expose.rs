//! The host's own addresses in the network: on disk first, then on the bridge.
//!
//! Owns the list and its file, which people may read, and the order of the changes: address management, names, disk,
//! firewall, bridge. It is desired state: each start makes it so again, also after a restart of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mesh_api::{AddressTarget, AddressesDocument, ErrorKind, ExposedDocument, Failure, Response};
use mesh_hostnet::{Bridge, Exposure, Firewall, HostError};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tracing::{info, warn};

use crate::control::Answer;
use crate::desk::{self, Management};
use crate::error::failure_of;
use crate::names::{Names, names_of};
use crate::{Error, host, store};

/// By this name the host holds its addresses.
pub(crate) const HOLDER: &str = "mesh:expose";

/// Addresses that a host can have in the network. One more is refused.
const EXPOSED_MAX: usize = 256;

/// Names of one address. One more is refused.
const NAMES_MAX: usize = 64;

/// First and last line of the file. Without both it is no whole list.
const FIRST_LINE: &str = "# mesh exposed, version 1";
const LAST_LINE: &str = "# end";

/// Says that the host did not forward before.
const FORWARDING_LINE: &str = "forwarding-was-off";
const MASQUERADE: &str = "masquerade";
const PLAIN: &str = "plain";

/// Longest file that is read, in bytes.
const FILE_LEN_MAX: u64 = 4 << 20;

/// What is exposed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct State {
    addresses: BTreeMap<IpNet, How>,
    /// Whether it is the router that made the host forward.
    forwarding_was_off: bool,
}

/// How an address is exposed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct How {
    masquerade: bool,
    names: Vec<String>,
}

/// What the host exposes, while a router runs.
#[derive(Clone)]
pub(crate) struct Exposed {
    bridge: Bridge,
    firewall: Firewall,
    management: Management,
    names: Names,
    path: PathBuf,
    /// What the file holds. Locked while a change is under way.
    state: Arc<Mutex<State>>,
}

/// What a user asks for.
pub(crate) struct Exposing {
    pub(crate) addresses: Vec<AddressTarget>,
    pub(crate) names: Vec<String>,
    pub(crate) masquerade: bool,
    /// Longest wait for addresses.
    pub(crate) wait: Duration,
}

impl Exposed {
    /// Nothing is exposed yet; [`start`](Self::start) makes it so.
    pub(crate) fn new(
        bridge: &Bridge,
        firewall: &Firewall,
        (management, names): (&Management, &Names),
        path: PathBuf,
        state: State,
    ) -> Self {
        let (bridge, firewall, management) = (bridge.clone(), firewall.clone(), management.clone());
        let state = Arc::new(Mutex::new(state));
        Self { bridge, firewall, management, names: names.clone(), path, state }
    }

    /// Makes true again what the file says. What cannot be is said, and kept for the next start.
    pub(crate) async fn start(self) -> Self {
        self.again().await;
        let state = self.finish().await.clone();
        if let Err(error) = self.name(&State::default(), &state).await {
            warn!(%error, "the host does not bear the names that it had");
        }
        self
    }

    /// Exposes on the bridge what it does not have any more.
    pub(crate) async fn again(&self) {
        let (this, state) = (self.clone(), self.finish().await);
        if state.addresses.is_empty() {
            return;
        }
        if let Err(error) = host::look(move || this.make_true(&state)).await {
            warn!(%error, "the host is not exposed as it was");
        }
    }

    /// Exposes the host, and answers. A client that goes away before there are addresses takes its wish with it.
    pub(crate) fn expose(&self, order: Exposing, mut answer: Answer) {
        let this = self.clone();
        tokio::spawn(async move {
            let result = this.try_expose(order, &mut answer).await;
            answer.send(result.map_or_else(Response::from, response));
        });
    }

    /// Takes addresses from the host, all when none is named, and answers.
    pub(crate) fn hide(&self, targets: Vec<AddressTarget>, answer: Answer) {
        let this = self.clone();
        tokio::spawn(async move {
            let result = this.try_hide(&targets).await;
            answer.send(result.map_or_else(Response::from, response));
        });
    }

    /// What is exposed, for `status`; nothing while a change is under way, which is told in the next one.
    pub(crate) fn documents(&self) -> Vec<ExposedDocument> {
        let Ok(state) = self.state.try_lock() else { return Vec::new() };
        let document = |(address, how): (&IpNet, &How)| ExposedDocument {
            address: *address,
            masquerade: how.masquerade,
            names: names_of(&how.names),
        };
        state.addresses.iter().map(document).collect()
    }

    /// Waits for a change under way; none begins while the guard lives.
    pub(crate) async fn finish(&self) -> OwnedMutexGuard<State> {
        Arc::clone(&self.state).lock_owned().await
    }

    async fn try_expose(&self, order: Exposing, answer: &mut Answer) -> Result<Vec<IpNet>, Failure> {
        let mut state = self.finish().await;
        let Exposing { addresses, names, masquerade, wait } = order;
        let names = self.names.complete(&names)?;
        let ident = desk::ident(HOLDER)?;
        let desk = self.management.desk_for(&addresses)?;
        let (before, obtained) = match desk {
            None => (Vec::new(), desk::chosen(&addresses)),
            Some(desk) => {
                let before = desk.held_by(&ident, None).await?;
                let obtained = tokio::select! {
                    obtained = desk.obtain(&ident, &addresses, desk.deadline(wait)) => obtained,
                    () = answer.gone() => Err(Failure::new(ErrorKind::Refused, "the client has gone away")),
                };
                match obtained {
                    Ok(addresses) => (before, addresses),
                    Err(failure) => {
                        desk.give_back(&ident, &before).await;
                        return Err(failure);
                    }
                }
            }
        };
        let mut new = state.clone();
        for address in &obtained {
            let how = new.addresses.entry(*address).or_insert(How { masquerade, names: Vec::new() });
            how.masquerade = masquerade;
            how.names.extend(names.iter().map(ToString::to_string));
            how.names.sort_unstable();
            how.names.dedup();
        }
        let done = match check(&new) {
            Ok(()) => match self.name(&state, &new).await {
                Ok(()) => self.change(&state, &mut new).await,
                Err(failure) => Err(failure),
            },
            Err(failure) => Err(failure),
        };
        match done {
            Ok(()) => {
                info!(addresses = ?obtained, masquerade, "exposed");
                *state = new;
                Ok(obtained)
            }
            Err(failure) => {
                if let Err(error) = self.name(&new, &state).await {
                    warn!(%error, "names of the host that are not in use could not be taken back");
                }
                if let Some(desk) = desk {
                    desk.give_back(&ident, &before).await;
                }
                Err(failure)
            }
        }
    }

    /// Has the host found by the names of `new`, each at its own addresses, and no longer by those of `old` alone.
    async fn name(&self, old: &State, new: &State) -> Result<(), Failure> {
        for (address, how) in &new.addresses {
            if old.addresses.get(address).is_none_or(|before| before.names != how.names) {
                let names: BTreeSet<_> = self.names.complete(&how.names)?;
                self.names.set(&bearer(address), names, [address.addr()]).await?;
            }
        }
        for address in old.addresses.keys().filter(|address| !new.addresses.contains_key(address)) {
            self.names.remove(&bearer(address)).await?;
        }
        Ok(())
    }

    async fn try_hide(&self, targets: &[AddressTarget]) -> Result<Vec<IpNet>, Failure> {
        let mut state = self.finish().await;
        let default_subnet = match &self.management {
            Management::On(desk) => Some(desk.default_subnet()),
            Management::Off | Management::Broken { .. } => None,
        };
        let is_meant = |address: &IpNet| {
            let by = |target: &AddressTarget| match target {
                AddressTarget::Ip(named) => named.addr() == address.addr(),
                AddressTarget::Subnet(subnet) => subnet.trunc() == address.trunc(),
                AddressTarget::DefaultSubnet => {
                    default_subnet.is_some_and(|subnet| subnet == address.trunc())
                }
            };
            targets.is_empty() || targets.iter().any(by)
        };
        let gone: Vec<_> = state.addresses.keys().filter(|address| is_meant(address)).copied().collect();
        if gone.is_empty() {
            return Ok(gone);
        }
        let mut new = state.clone();
        new.addresses.retain(|address, _| !gone.contains(address));
        self.change(&state, &mut new).await?;
        let before = std::mem::replace(&mut *state, new);
        info!(addresses = ?gone, "hidden");
        self.name(&before, &state).await?;
        if let Management::On(desk) = &self.management {
            let ident = desk::ident(HOLDER)?;
            for address in &gone {
                if desk.manages(*address) {
                    desk.release(&ident, Some(IpNet::from(address.addr()))).await?;
                }
            }
        }
        Ok(gone)
    }

    /// Writes down what is to be, and makes it so. On an error all is as before.
    async fn change(&self, old: &State, new: &mut State) -> Result<(), Failure> {
        let (this, before, after) = (self.clone(), old.clone(), new.clone());
        let changing = move || this.change_host(&before, after);
        let done = tokio::task::spawn_blocking(changing).await;
        *new = done.unwrap_or_else(|_panicked| {
            Err(Failure::new(ErrorKind::Internal, "the change to the host failed"))
        })?;
        Ok(())
    }

    fn change_host(&self, before: &State, mut after: State) -> Result<State, Failure> {
        let of_host = |error: HostError| failure_of(&error);
        if before.addresses.is_empty() && !after.addresses.is_empty() {
            after.forwarding_was_off = !mesh_hostnet::forwards().map_err(of_host)?;
        }
        save(&self.path, &after).map_err(|error| error.failure())?;
        let written = after.clone();
        if let Err(error) = self.transform(before, &mut after) {
            let mut back = State { forwarding_was_off: written.forwarding_was_off, ..before.clone() };
            if let Err(left) = self.transform(&written, &mut back) {
                warn!(error = %left, "not all of what was exposed could be taken back");
            }
            save(&self.path, &back).map_err(|error| error.failure())?;
            return Err(of_host(error));
        }
        if after != written {
            save(&self.path, &after).map_err(|error| error.failure())?;
        }
        Ok(after)
    }

    /// Makes the host expose what `new` says, and no longer what only `old` did.
    fn transform(&self, old: &State, new: &mut State) -> Result<(), HostError> {
        let gone: Vec<_> =
            old.addresses.keys().filter(|address| !new.addresses.contains_key(address)).copied().collect();
        mesh_hostnet::hide(&self.bridge, &gone)?;
        self.make_true(new)?;
        if new.addresses.is_empty() && new.forwarding_was_off {
            mesh_hostnet::set_forwarding(false)?;
            new.forwarding_was_off = false;
        }
        Ok(())
    }

    /// The firewall comes first, so that nothing passes that it does not know.
    fn make_true(&self, state: &State) -> Result<(), HostError> {
        let exposures = state.addresses.iter();
        self.firewall.set_exposed(
            exposures
                .map(|(address, how)| Exposure { address: *address, masquerade: how.masquerade })
                .collect(),
        );
        if state.addresses.is_empty() {
            return Ok(());
        }
        let addresses: Vec<_> = state.addresses.keys().copied().collect();
        mesh_hostnet::expose(&self.bridge, &addresses)?;
        mesh_hostnet::set_forwarding(true)
    }
}

/// Puts the host's forwarding back to what it was before anything was exposed, when no router runs any more.
pub(crate) fn restore_forwarding(state_dir: &Path) -> Result<(), Error> {
    match load(&state_dir.join(store::EXPOSED_FILE)) {
        Ok(State { forwarding_was_off: true, .. }) => {
            mesh_hostnet::set_forwarding(false).map_err(Error::Host)
        }
        Ok(State { forwarding_was_off: false, .. }) => Ok(()),
        // Whoever resets wants to be rid of what is damaged, too.
        Err(error) => {
            warn!(%error, "whether the host forwarded before is not known; it goes on as it does");
            Ok(())
        }
    }
}

/// Who bears the names of one of the host's addresses.
fn bearer(address: &IpNet) -> String {
    format!("{HOLDER}/{}", address.addr())
}

fn response(addresses: Vec<IpNet>) -> Response {
    Response::document(&AddressesDocument { id: HOLDER.to_owned(), addresses })
}

fn check(state: &State) -> Result<(), Failure> {
    if state.addresses.len() > EXPOSED_MAX {
        let message = format!("a host can have {EXPOSED_MAX} addresses in the network, no more");
        return Err(Failure::new(ErrorKind::Refused, message));
    }
    let mut names = state.addresses.values().flat_map(|how| &how.names);
    if let Some(wrong) = names.find(|name| name.is_empty() || name.contains(char::is_whitespace)) {
        return Err(Failure::new(ErrorKind::Invalid, format!("'{}' is no name", wrong.escape_debug())));
    }
    match state.addresses.values().find(|how| how.names.len() > NAMES_MAX) {
        Some(_) => {
            let message = format!("an address can have {NAMES_MAX} names, no more");
            Err(Failure::new(ErrorKind::Refused, message))
        }
        None => Ok(()),
    }
}

/// What the file at `path` says is exposed; nothing when there is none.
///
/// # Errors
/// [`Error::ExposedDamaged`] for anything but a whole list; the file is left as it is.
pub(crate) fn load(path: &Path) -> Result<State, Error> {
    let damaged = |line| Error::ExposedDamaged { path: path.to_owned(), line };
    let text = match store::read_text(path, FILE_LEN_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(damaged(1)),
        Err(source) => return Err(Error::File { action: "read", path: path.to_owned(), source }),
    };
    let mut lines = text.lines().enumerate();
    if lines.next().map(|(_, line)| line) != Some(FIRST_LINE) {
        return Err(damaged(1));
    }
    let mut state = State::default();
    for (index, line) in lines {
        match line {
            LAST_LINE => return Ok(state),
            FORWARDING_LINE => state.forwarding_was_off = true,
            _ => {
                let (address, how) = parse(line).ok_or_else(|| damaged(index + 1))?;
                state.addresses.insert(address, how);
            }
        }
    }
    Err(damaged(text.lines().count() + 1))
}

/// An address, how it is exposed, and its names.
fn parse(line: &str) -> Option<(IpNet, How)> {
    let mut words = line.split(' ');
    let address = words.next()?.parse().ok()?;
    let masquerade = match words.next()? {
        MASQUERADE => true,
        PLAIN => false,
        _ => return None,
    };
    Some((address, How { masquerade, names: words.map(str::to_owned).collect() }))
}

/// Replaces the file at `path`, durably.
fn save(path: &Path, state: &State) -> Result<(), Error> {
    let mut text = format!("{FIRST_LINE}\n");
    if state.forwarding_was_off {
        text.push_str(FORWARDING_LINE);
        text.push('\n');
    }
    for (address, how) in &state.addresses {
        let kind = if how.masquerade { MASQUERADE } else { PLAIN };
        write!(text, "{address} {kind}").expect("writing to a string does not fail");
        for name in &how.names {
            write!(text, " {name}").expect("writing to a string does not fail");
        }
        text.push('\n');
    }
    text.push_str(LAST_LINE);
    text.push('\n');
    store::replace(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn state() -> State {
        let how = |masquerade, names: &[&str]| How {
            masquerade,
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        State {
            addresses: BTreeMap::from([
                ("10.32.0.1/12".parse().expect("an address"), how(true, &["gate.mesh.internal", "gate"])),
                ("fd00::1/64".parse().expect("an address"), how(false, &[])),
            ]),
            forwarding_was_off: true,
        }
    }

    #[test]
    fn what_is_exposed_is_kept_and_a_missing_file_is_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("exposed");
        assert_eq!(load(&path).expect("nothing"), State::default());
        for state in [state(), State::default()] {
            save(&path, &state).expect("written");
            assert_eq!(load(&path).expect("whole"), state);
        }
    }

    #[test]
    fn a_damaged_list_is_refused_with_its_line() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("exposed");
        save(&path, &state()).expect("written");
        let whole = fs::read_to_string(&path).expect("the file");
        let cases = [
            (String::new(), 1),
            (whole[..whole.len() - 3].to_owned(), 5),
            (whole.replace("plain", "bare"), 4),
            (whole.replace("10.32.0.1/12", "10.32.0.1"), 3),
        ];
        for (damaged, expected) in cases {
            fs::write(&path, &damaged).expect("writable");
            match load(&path) {
                Err(Error::ExposedDamaged { line, .. }) => assert_eq!(line, expected, "{damaged}"),
                other => panic!("{damaged}: {other:?}"),
            }
        }
    }
}
