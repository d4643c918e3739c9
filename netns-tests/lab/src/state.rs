//! A picture of a network namespace, to be compared with a later one.
//!
//! Owns what counts as the host's state and what is volatile: counters, indices and timers are left out.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::id::LabId;
use crate::namespace::{NAMESPACES, Namespace};

/// Settings below `/proc/sys` that a router could change.
const SYSCTL_TREES: [&str; 3] = ["net/ipv4", "net/ipv6", "net/bridge"];

/// Settings whose values the kernel draws by chance.
const SYSCTLS_VOLATILE: [&str; 1] = ["net/ipv4/tcp_fastopen_key"];

/// How deep the trees of settings are at most; the kernel's are less deep.
const SYSCTL_DEPTH_MAX: u32 = 8;

/// Fields of `ip` and `nft` that change by themselves.
const FIELDS_VOLATILE: [&str; 20] = [
    "bytes",
    "expires",
    "forward_delay_timer",
    "gc_timer",
    "handle",
    "hello_timer",
    "hold_timer",
    "ifindex",
    "index",
    "link_index",
    "link_netnsid",
    "message_age_timer",
    "packets",
    "preferred_life_time",
    "stats",
    "stats64",
    "tcn_timer",
    "topology_change_timer",
    "used",
    "valid_life_time",
];

/// All that `mesh` may change in a host's network: links, addresses, routes, rules, the nft ruleset,
/// settings, and the list of named namespaces; as sorted lines of text.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkState {
    lines: Vec<String>,
}

impl NetworkState {
    pub(crate) fn of(namespace: &Namespace) -> Result<Self> {
        let mut lines = Vec::new();
        for link in ip(namespace, &["link", "show"])? {
            flatten(&format!("link {}", name_of(&link)), &link, &mut lines);
        }
        for link in ip(namespace, &["address", "show"])? {
            let addresses = link.get("addr_info").and_then(Value::as_array).into_iter().flatten();
            let name = name_of(&link);
            lines.extend(addresses.map(|address| format!("address of {name}: {}", normal(address))));
        }
        for (family, title) in [("-4", "IPv4"), ("-6", "IPv6")] {
            for (what, words) in
                [("route", &["route", "show", "table", "all"][..]), ("rule", &["rule", "show"])]
            {
                let found = ip(namespace, &[&[family], words].concat())?;
                lines.extend(found.iter().map(|entry| format!("{title} {what}: {}", normal(entry))));
            }
        }
        lines.extend(ruleset(namespace)?);
        lines.extend(namespace.enter(settings)??);
        lines.extend(named_namespaces()?);
        lines.sort_unstable();
        Ok(Self { lines })
    }

    /// What has to be taken away from and added to this picture to get the later one.
    #[must_use]
    pub fn diff(&self, later: &Self) -> StateDiff {
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        let (mut old, mut fresh) = (self.lines.iter().peekable(), later.lines.iter().peekable());
        // Both are sorted: the smaller of the two next lines cannot come later in the other list.
        loop {
            match (old.peek(), fresh.peek()) {
                (None, None) => return StateDiff { gone, new },
                (Some(left), Some(right)) if left == right => {
                    old.next();
                    fresh.next();
                }
                (Some(left), Some(right)) if left > right => new.extend(fresh.next().cloned()),
                (Some(_), _) => gone.extend(old.next().cloned()),
                (None, Some(_)) => new.extend(fresh.next().cloned()),
            }
        }
    }

    /// Wants the later picture to be the same as this one.
    ///
    /// # Errors
    /// When it is not; the error is the [`StateDiff`].
    pub fn must_equal(&self, later: &Self) -> Result<()> {
        let diff = self.diff(later);
        if diff.is_empty() { Ok(()) } else { Err(diff.into()) }
    }

    /// All lines.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// Hundreds of lines help nobody: see [`NetworkState::must_equal`] for a comparison that can be read.
impl fmt::Debug for NetworkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkState({} lines)", self.lines.len())
    }
}

/// The difference of two pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDiff {
    /// Lines of the earlier picture that are not in the later one.
    pub gone: Vec<String>,
    /// Lines of the later picture that were not in the earlier one.
    pub new: Vec<String>,
}

impl StateDiff {
    /// Whether both pictures are the same.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.new.is_empty()
    }
}

/// Interfaces that came or went have some two hundred settings each: those are not shown.
impl fmt::Display for StateDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the network's state has changed:")?;
        for (sign, lines) in [('-', &self.gone), ('+', &self.new)] {
            let interfaces: Vec<_> = lines.iter().filter_map(|line| interface_named_by(line)).collect();
            let of_these = |line: &str| {
                line.starts_with("setting ")
                    && interfaces.iter().any(|name| line.contains(&format!("/{name}/")))
            };
            lines.iter().filter(|line| !of_these(line)).try_for_each(|line| write!(f, "\n{sign} {line}"))?;
        }
        Ok(())
    }
}

/// The line that each link has exactly once: `link NAME.ifname = NAME`.
fn interface_named_by(line: &str) -> Option<&str> {
    let (left, name) = line.strip_prefix("link ")?.split_once(".ifname = ")?;
    (left == name).then_some(name)
}

impl std::error::Error for StateDiff {}

/// The entries of a JSON list that `ip` prints.
fn ip(namespace: &Namespace, words: &[&str]) -> Result<Vec<Value>> {
    let output = namespace.cmd("ip").args(["-d", "-j"]).args(words).run()?;
    if output.stdout.trim().is_empty() {
        return Ok(Vec::new());
    }
    let mut entries: Vec<Value> = output.json()?;
    // With -d, entries that do not match come as empty objects.
    entries.retain(|entry| entry.as_object().is_some_and(|fields| !fields.is_empty()));
    entries.iter_mut().for_each(forget_volatile);
    entries.sort_by_cached_key(Value::to_string);
    Ok(entries)
}

fn ruleset(namespace: &Namespace) -> Result<Vec<String>> {
    let mut document: Value = namespace.cmd("nft").args(["-j", "list", "ruleset"]).run()?.json()?;
    forget_volatile(&mut document);
    for set in
        document["nftables"].as_array_mut().into_iter().flatten().filter_map(|item| item.get_mut("set"))
    {
        // What frames put into a set, and time takes out of it.
        if set.get("timeout").is_some()
            && let Some(fields) = set.as_object_mut()
        {
            fields.remove("elem");
        }
    }
    let items = document.get("nftables").and_then(Value::as_array).context("nft printed no ruleset")?;
    // The first item tells nft's version.
    let items = items.iter().filter(|item| item.get("metainfo").is_none());
    Ok(items.map(|item| format!("nft: {}", normal(item))).collect())
}

/// All settings that can be read. Runs on a thread that is in the namespace.
fn settings() -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for tree in SYSCTL_TREES {
        let path = Path::new("/proc/sys").join(tree);
        // Without br_netfilter there is no net/bridge.
        if path.is_dir() {
            read_settings(&path, SYSCTL_DEPTH_MAX, &mut lines)?;
        }
    }
    Ok(lines)
}

fn read_settings(directory: &Path, depth: u32, lines: &mut Vec<String>) -> Result<()> {
    // An interface, and its settings with it, may disappear while they are read.
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory {
            anyhow::ensure!(depth > 0, "{} is nested too deep for a setting", path.display());
            read_settings(&path, depth - 1, lines)?;
            continue;
        }
        let name =
            path.strip_prefix("/proc/sys").context("a setting lies below /proc/sys")?.display().to_string();
        // Some can be written only, or have no value yet.
        if !SYSCTLS_VOLATILE.contains(&name.as_str())
            && let Ok(value) = fs::read_to_string(&path)
        {
            lines.push(format!("setting {name} = {}", value.trim_end()));
        }
    }
    Ok(())
}

/// The named namespaces of the machine, without those of labs: tests make and delete them at any time.
fn named_namespaces() -> Result<Vec<String>> {
    let entries = fs::read_dir(NAMESPACES).with_context(|| format!("cannot read {NAMESPACES}"))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| LabId::of_name(name).is_none()).map(|name| format!("namespace {name}")).collect())
}

fn name_of(link: &Value) -> String {
    link.get("ifname").and_then(Value::as_str).unwrap_or("?").to_owned()
}

fn forget_volatile(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !FIELDS_VOLATILE.contains(&name.as_str()));
            fields.values_mut().for_each(forget_volatile);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_volatile),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// One line for each leaf, so that a difference names the field.
fn flatten(title: &str, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                flatten(&format!("{title}.{name}"), field, lines);
            }
        }
        Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            lines.push(format!("{title} = {}", normal(value)));
        }
    }
}

/// Compact JSON, with the fields of each object in the order of their names.
fn normal(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> =
                fields.iter().map(|(name, field)| format!("{name}: {}", normal(field))).collect();
            fields.sort_unstable();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(normal).collect::<Vec<_>>().join(", ")),
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(lines: &[&str]) -> NetworkState {
        NetworkState { lines: lines.iter().map(|line| (*line).to_owned()).collect() }
    }

    #[test]
    fn a_diff_names_what_is_gone_and_what_is_new_and_counts_doubles() {
        let diff = state(&["a", "b", "b", "d"]).diff(&state(&["a", "b", "c", "e"]));

        assert_eq!(diff.gone, ["b", "d"]);
        assert_eq!(diff.new, ["c", "e"]);
        assert_eq!(diff.to_string(), "the network's state has changed:\n- b\n- d\n+ c\n+ e");
    }

    #[test]
    fn a_diff_is_silent_about_the_settings_of_interfaces_that_came() {
        let link =
            ["link br0.ifname = br0", "setting net/ipv4/conf/br0/mtu = 9", "setting net/ipv4/conf/all/x = 1"];
        let diff = state(&[]).diff(&state(&link));

        let shown = diff.to_string();
        assert_eq!(diff.new.len(), 3);
        assert!(
            shown.contains("br0.ifname") && shown.contains("all/x") && !shown.contains("br0/mtu"),
            "{shown}"
        );
    }

    #[test]
    fn equal_pictures_have_no_diff() {
        assert!(state(&["a", "b"]).must_equal(&state(&["a", "b"])).is_ok());
        assert!(state(&[]).must_equal(&state(&["x"])).is_err());
    }

    #[test]
    fn volatile_fields_are_left_out_at_any_depth() {
        let mut value = serde_json::json!({"rule": {"handle": 4, "expr": [{"counter": {"packets": 9}}]}});
        forget_volatile(&mut value);

        assert_eq!(normal(&value), "{rule: {expr: [{counter: {}}]}}");
    }
}
