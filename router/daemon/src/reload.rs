//! SIGHUP: the settings are read again, and what can change while a router runs changes.
//!
//! Owns which settings those are: the secrets, the peers, the level of the log. Of all others it says that they wait for the next
//! launch. Settings that cannot be read, or are wrong, change nothing.

use std::sync::Arc;

use mesh_api::Failure;
use mesh_node::Input;
use tokio::sync::Mutex;
use tracing::{error, info, warn};

use crate::control::Answer;
use crate::logging::{LogControl, LogLevel};
use crate::pipe::Inputs;
use crate::targets::Targets;
use crate::{Config, Peers, secrets};

/// Reads all settings again, from where they came at the launch. It may block, and runs on a thread that may.
pub type ReadSettings = Arc<dyn Fn() -> Result<(Config, LogLevel), Failure> + Send + Sync>;

/// What a router needs of its program to take changed settings while it runs.
pub struct Reload {
    /// Reads them.
    pub read: ReadSettings,
    /// Sets the level of the log.
    pub log: LogControl,
}

/// Takes changed settings.
#[derive(Clone)]
pub(crate) struct Reloading {
    read: ReadSettings,
    log: LogControl,
    targets: Targets,
    inputs: Inputs,
    /// The settings that hold. Locked while they are read anew, so that the last reading is the one that holds.
    held: Arc<Mutex<Config>>,
}

impl Reloading {
    /// A router that was launched with `held`.
    pub(crate) fn new(reload: Reload, held: Config, targets: Targets, inputs: Inputs) -> Self {
        let Reload { read, log } = reload;
        Self { read, log, targets, inputs, held: Arc::new(Mutex::new(held)) }
    }

    /// Begins to read the settings. The log says what came of it.
    pub(crate) fn begin(&self) {
        let this = self.clone();
        tokio::spawn(async move {
            let mut held = this.held.lock().await;
            let read = Arc::clone(&this.read);
            let read = tokio::task::spawn_blocking(move || {
                let (config, level) = read().map_err(|failure| failure.message)?;
                let keys = secrets::keys(&config.secrets).map_err(|error| error.to_string())?;
                Ok::<_, String>((config, level, keys))
            });
            let (new, level, keys) = match read.await {
                Ok(Ok(read)) => read,
                Ok(Err(error)) => return warn!(error, "the settings were not taken; all stays as it was"),
                Err(error) => return error!(%error, "the settings were not read"),
            };
            let restart = waiting_for_restart(&held, &new);
            this.log.set_level(level);
            this.follow_peers(&held.peers, &new.peers);
            if new.password_file.is_some() {
                info!(secrets = keys.len(), "the secrets were read again");
                // Nobody listens any more when the router stops.
                let _told = this.inputs.send((Input::Secrets(keys), None)).await;
            }
            if !restart.is_empty() {
                warn!(settings = restart.join(", "), "these have changed, and hold from the next launch on");
            }
            info!(?level, "the settings were read again");
            held.peers = new.peers;
        });
    }

    /// Connects to peers that are new among the settings, and forgets those that are there no longer. What `mesh connect`
    /// has named stays.
    fn follow_peers(&self, old: &Peers, new: &Peers) {
        let (Peers::Named(old), Peers::Named(new)) = (old, new) else { return };
        let added: Vec<_> = new.iter().filter(|peer| !old.contains(peer)).map(ToString::to_string).collect();
        // Both answer with a list that the log has already.
        if !added.is_empty() {
            self.targets.connect(added, false, Answer::channel().0);
        }
        for gone in old.iter().filter(|peer| !new.contains(peer)) {
            // One that a user has forgotten already is not known any more.
            self.targets.forget(vec![gone.to_string()], Answer::channel().0);
        }
    }
}

/// The options whose values differ, and cannot change while a router runs.
fn waiting_for_restart(held: &Config, new: &Config) -> Vec<&'static str> {
    // All fields by name, so that nobody adds one and forgets to say here whether it can change.
    let Config {
        run_dir,
        state_dir,
        nickname,
        port,
        listen,
        secrets: _read_again,
        password_file,
        allowed,
        trusted_subnets,
        mtu,
        capture,
        datapath,
        workers,
        bridge,
        discovery,
        connection_limit,
        rekey_after,
        peers: _followed,
        ipam,
        http,
        dns,
        containers,
    } = new;
    let settings = [
        ("run-dir", *run_dir != held.run_dir),
        ("state-dir", *state_dir != held.state_dir),
        ("nickname", *nickname != held.nickname),
        ("port", *port != held.port),
        ("listen", *listen != held.listen),
        ("password-file", password_file.is_some() != held.password_file.is_some()),
        ("allow-peers", *allowed != held.allowed),
        ("trusted-subnets", *trusted_subnets != held.trusted_subnets),
        ("mtu", *mtu != held.mtu),
        ("capture", *capture != held.capture),
        ("datapath", *datapath != held.datapath),
        ("workers", *workers != held.workers),
        ("bridge", *bridge != held.bridge),
        ("no-discovery", *discovery != held.discovery),
        ("conn-limit", *connection_limit != held.connection_limit),
        ("rekey-after", *rekey_after != held.rekey_after),
        ("ipam-range, ipam-subnet, ipam-init", *ipam != held.ipam),
        ("http", *http != held.http),
        ("no-dns, dns-domain, dns-listen, dns-upstream, dns-ttl", *dns != held.dns),
        ("docker-socket, podman-socket, attach-grace", *containers != held.containers),
    ];
    settings.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}
