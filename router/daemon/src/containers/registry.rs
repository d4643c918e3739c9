//! What is attached, as the user wants it: in memory, and on disk for the next life.
//!
//! Owns the list and its file, which people may read and edit while no router runs. A change is on disk when it is
//! acknowledged; changes that wait at once are written at once. Attaches nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use mesh_hostnet::{InterfaceName, MacAddress};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::containers::identity::{Identity, Process};
use crate::{Error, store};

/// Interfaces of containers that one router keeps. One more is refused.
pub(crate) const RECORDS_MAX: usize = 10_000;

/// First and last line of the file. Without both it is no whole list.
const FIRST_LINE: &str = "# mesh attachments, version 1";
const LAST_LINE: &str = "# end";

/// Longest line, in bytes: an identity, a path, some hundred addresses and names.
const LINE_LEN_MAX: usize = 16 * 1024;

/// Longest file that is read, in bytes.
const FILE_LEN_MAX: u64 = 64 * 1024 * 1024;

/// The options of an interface.
const MULTICAST: &str = "multicast";
const DNS: &str = "dns";

/// Stands for an empty field.
const NOTHING: &str = "-";

/// One interface of one container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) identity: Identity,
    /// The interface's name inside.
    pub(crate) ifname: String,
}

/// What that interface is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// By which a nameless namespace can be found again.
    pub(crate) process: Option<Process>,
    /// The container as people know it.
    pub(crate) shown: String,
    pub(crate) mac: MacAddress,
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) names: Vec<String>,
    pub(crate) multicast_route: bool,
    /// Whether it reaches the host's name server.
    pub(crate) dns: bool,
}

/// Where a container is, as far as this router has seen. Not kept across lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It has not been looked for, or could not be; it is to be looked for then.
    Unknown { next_look: Instant },
    /// It is in the network, by this port of the bridge.
    Attached { port: InterfaceName },
    /// It does not run.
    Stopped,
    /// It does not exist, since then.
    Gone { since: Instant },
}

/// A record, and what has become of it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) record: Record,
    pub(crate) presence: Presence,
}

/// The list.
#[derive(Clone)]
pub(crate) struct Registry {
    path: Arc<Path>,
    table: Arc<Mutex<Table>>,
    /// The version of the table that is on disk. Locked while the file is written.
    written: Arc<tokio::sync::Mutex<u64>>,
    changes: watch::Sender<u64>,
}

struct Table {
    entries: BTreeMap<Key, Entry>,
    version: u64,
}

impl Registry {
    /// The list in the file at `path`, empty when there is none.
    ///
    /// # Errors
    /// [`Error::AttachmentsDamaged`] for anything but a whole list; the file is left as it is.
    pub(crate) fn load(path: PathBuf) -> Result<Self, Error> {
        let next_look = Instant::now();
        let entry = |record| Entry { record, presence: Presence::Unknown { next_look } };
        let entries = load(&path)?.into_iter().map(|(key, record)| (key, entry(record))).collect();
        Ok(Self {
            path: path.into(),
            table: Arc::new(Mutex::new(Table { entries, version: 0 })),
            written: Arc::default(),
            changes: watch::Sender::new(0),
        })
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Entry> {
        self.table().entries.get(key).cloned()
    }

    pub(crate) fn all(&self) -> Vec<(Key, Entry)> {
        self.table().entries.iter().map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }

    /// The interfaces of one container.
    pub(crate) fn of(&self, identity: &Identity) -> Vec<(Key, Entry)> {
        let first = Key { identity: identity.clone(), ifname: String::new() };
        let table = self.table();
        let own = table.entries.range(first..).take_while(|(key, _)| key.identity == *identity);
        own.map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }

    /// Whether there is such a container.
    pub(crate) fn any(&self, is_meant: impl Fn(&Identity) -> bool) -> bool {
        self.table().entries.keys().any(|key| is_meant(&key.identity))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.table().entries.len() >= RECORDS_MAX
    }

    /// Tells of changes of the list.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Remembers where a container was seen.
    pub(crate) fn saw(&self, key: &Key, presence: Presence) {
        if let Some(entry) = self.table().entries.get_mut(key) {
            entry.presence = presence;
        }
    }

    /// Puts a record in the place of what there is of `key`, or takes it out; on disk, too, when this returns. On an error
    /// all is as before. Whoever calls this has the container's turn.
    pub(crate) async fn put(&self, key: &Key, record: Option<Record>) -> Result<(), Error> {
        let (before, version) = self.table().replace(key, record);
        let result = self.write(version).await;
        if result.is_err() {
            let mut table = self.table();
            table.version += 1;
            match before {
                Some(entry) => drop(table.entries.insert(key.clone(), entry)),
                None => drop(table.entries.remove(key)),
            }
        }
        self.changes.send_replace(version);
        result
    }

    /// Waits until a version at least as new is on disk. Whoever comes first writes for all who wait.
    async fn write(&self, version: u64) -> Result<(), Error> {
        let mut written = self.written.lock().await;
        if *written >= version {
            return Ok(());
        }
        let (text, newest) = {
            let table = self.table();
            (text_of(&table.entries), table.version)
        };
        let path = Arc::clone(&self.path);
        let replaced = tokio::task::spawn_blocking(move || store::replace(&path, text.as_bytes())).await;
        replaced.unwrap_or_else(|_panicked| {
            Err(Error::File {
                action: "write",
                path: self.path.to_path_buf(),
                source: io::ErrorKind::Other.into(),
            })
        })?;
        *written = newest;
        Ok(())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// What was there before, and the version that has the change.
    fn replace(&mut self, key: &Key, record: Option<Record>) -> (Option<Entry>, u64) {
        self.version += 1;
        let before = self.entries.remove(key);
        if let Some(record) = record {
            let presence = before.as_ref().map_or_else(
                || Presence::Unknown { next_look: Instant::now() },
                |entry| entry.presence.clone(),
            );
            self.entries.insert(key.clone(), Entry { record, presence });
        }
        (before, self.version)
    }
}

fn load(path: &Path) -> Result<BTreeMap<Key, Record>, Error> {
    let damaged = |line| Error::AttachmentsDamaged { path: path.to_owned(), line };
    let text = match store::read_text(path, FILE_LEN_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(damaged(1)),
        Err(source) => return Err(Error::File { action: "read", path: path.to_owned(), source }),
    };
    let mut lines = text.lines().enumerate();
    if lines.next().map(|(_, line)| line) != Some(FIRST_LINE) {
        return Err(damaged(1));
    }
    let mut records = BTreeMap::new();
    for (index, line) in lines {
        if line == LAST_LINE {
            return Ok(records);
        }
        let (key, record) = parse(line).ok_or_else(|| damaged(index + 1))?;
        if records.insert(key, record).is_some() || records.len() > RECORDS_MAX {
            return Err(damaged(index + 1));
        }
    }
    Err(damaged(text.lines().count() + 1))
}

fn text_of(entries: &BTreeMap<Key, Entry>) -> String {
    let mut text = format!("{FIRST_LINE}\n");
    for (key, Entry { record, .. }) in entries {
        text.push_str(&line_of(key, record));
        text.push('\n');
    }
    text.push_str(LAST_LINE);
    text.push('\n');
    text
}

/// Fields with tabs between them: none can hold one, since names and paths with control characters are refused.
fn line_of(key: &Key, record: &Record) -> String {
    let list = |items: Vec<String>| if items.is_empty() { NOTHING.to_owned() } else { items.join(",") };
    let process = record.process.map(|process| format!("{}:{}", process.pid, process.started));
    [
        key.identity.to_string(),
        process.unwrap_or_else(|| NOTHING.to_owned()),
        record.shown.clone(),
        key.ifname.clone(),
        record.mac.to_string(),
        list(record.addresses.iter().map(ToString::to_string).collect()),
        list(record.names.clone()),
        list(options_of(record)),
    ]
    .join("\t")
}

fn options_of(record: &Record) -> Vec<String> {
    let options = [(record.multicast_route, MULTICAST), (record.dns, DNS)];
    options.into_iter().filter(|(is_on, _)| *is_on).map(|(_, option)| option.to_owned()).collect()
}

fn parse(line: &str) -> Option<(Key, Record)> {
    if line.len() > LINE_LEN_MAX {
        return None;
    }
    let fields: Vec<_> = line.split('\t').collect();
    let [identity, process, shown, ifname, mac, addresses, names, options] = fields[..] else {
        return None;
    };
    let list = |text| {
        if text == NOTHING { None } else { Some(text) }.into_iter().flat_map(|text: &str| text.split(','))
    };
    let process = match process {
        NOTHING => None,
        text => {
            let (pid, started) = text.split_once(':')?;
            Some(Process { pid: pid.parse().ok()?, started: started.parse().ok()? })
        }
    };
    let key =
        Key { identity: identity.parse().ok()?, ifname: ifname.parse::<InterfaceName>().ok()?.to_string() };
    let record = Record {
        process,
        shown: Some(shown).filter(|shown| !shown.is_empty())?.to_owned(),
        mac: mac.parse().ok()?,
        addresses: list(addresses).map(|address| address.parse().ok()).collect::<Option<_>>()?,
        names: list(names).map(str::to_owned).collect(),
        multicast_route: list(options).any(|option| option == MULTICAST),
        dns: list(options).any(|option| option == DNS),
    };
    list(options).all(|option| [MULTICAST, DNS].contains(&option)).then_some((key, record))
}

#[cfg(test)]
mod tests;
