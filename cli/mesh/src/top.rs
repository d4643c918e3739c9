//! `mesh top`: the router's peers and rates, drawn anew each second until somebody presses q.
//!
//! Owns the loop and what is shown. The terminal itself is `terminal`'s.

mod terminal;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mesh_api::{
    Command, ConnectionDocument, ErrorKind, Failure, Overlay, PassedDocument, PeerDocument, StatusDocument,
};

use crate::args::RouterArgs;
use crate::control::connect;
use crate::output;
use crate::table::{Cell, Table, Tone};
use crate::top::terminal::{Key, Terminal};

/// How often the router is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the router said at one moment.
struct Sample {
    at: Instant,
    status: StatusDocument,
    peers: Vec<PeerDocument>,
    connections: Vec<ConnectionDocument>,
}

/// Shows the router until q or an interrupt.
pub(crate) fn top(router: &RouterArgs) -> Result<(), Failure> {
    // A router that does not run is told before the screen changes.
    let mut sample = Sample::take(router)?;
    let terminal = Terminal::open()?;
    let mut trouble = None;
    let mut earlier: Option<Sample> = None;
    loop {
        let size = terminal.size();
        terminal.draw(&screen(&sample, earlier.as_ref(), trouble.as_ref(), size.rows))?;
        match terminal.key(sample.at + INTERVAL)? {
            Key::Quit => return Ok(()),
            // Drawn anew for another size, with the numbers that there are.
            Key::Other if Instant::now() < sample.at + INTERVAL => continue,
            Key::Other | Key::None => {}
        }
        match Sample::take(router) {
            Ok(next) => {
                earlier = Some(std::mem::replace(&mut sample, next));
                trouble = None;
            }
            Err(failure) => {
                trouble = Some(failure);
                sample.at = Instant::now();
            }
        }
    }
}

impl Sample {
    fn take(router: &RouterArgs) -> Result<Self, Failure> {
        Ok(Self {
            at: Instant::now(),
            status: connect(router)?.call(Command::Status)?,
            peers: connect(router)?.call(Command::Peers)?,
            connections: connect(router)?.call(Command::Connections)?,
        })
    }
}

/// All lines; those that do not fit below `rows` are counted in the last one.
fn screen(now: &Sample, earlier: Option<&Sample>, trouble: Option<&Failure>, rows: usize) -> String {
    let colour = output::colour();
    let StatusDocument { version, router, connections, .. } = &now.status;
    let mut lines = vec![format!(
        "mesh {version}  {} ({})  q quits  up {} s  {} peers  {} connections  MTU {}  {}",
        Cell::new(&router.nickname).text(),
        router.peer_id,
        router.uptime_seconds,
        now.status.peers,
        connections.established,
        router.mtu,
        if router.encryption { "encrypted" } else { "in clear" },
    )];
    if let Some(failure) = trouble {
        lines.push(format!("no answer: {}", failure.message.escape_debug()));
    }
    lines.push(String::new());
    lines.extend(rates(now, earlier).render(colour).lines().map(str::to_owned));
    lines.push(String::new());
    lines.extend(peers(now, earlier).render(colour).lines().map(str::to_owned));
    if lines.len() > rows && rows > 1 {
        let hidden = lines.len() - (rows - 1);
        lines.truncate(rows - 1);
        lines.push(format!("and {hidden} more"));
    }
    lines.join("\n")
}

/// Frames and bits by path and direction, and what was lost.
fn rates(now: &Sample, earlier: Option<&Sample>) -> Table<4> {
    let seconds = earlier.map_or(1.0, |earlier| now.at.duration_since(earlier.at).as_secs_f64().max(0.001));
    let mut table = Table::new(["PATH", "FRAMES/S", "BITS/S", "FRAMES IN ALL"]);
    for (path, ways) in &now.status.traffic.passed {
        for (way, passed) in ways {
            let before = earlier
                .and_then(|earlier| earlier.status.traffic.passed.get(path)?.get(way))
                .unwrap_or(passed);
            let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
            let PassedDocument { frames, bytes } = *passed;
            table.push([
                Cell::new(format!("{path} {way}")),
                Cell::new(format!("{:.0}", rate(frames, before.frames))),
                Cell::new(bits(8.0 * rate(bytes, before.bytes))),
                Cell::new(frames.to_string()),
            ]);
        }
    }
    let sum = |drops: &BTreeMap<String, u64>| drops.values().sum::<u64>();
    let all = sum(&now.status.traffic.drops);
    let lost = all.saturating_sub(earlier.map_or(all, |earlier| sum(&earlier.status.traffic.drops)));
    let tone = if lost > 0 { Tone::Bad } else { Tone::Plain };
    let dropped = Cell::toned(format!("{:.0}", lost as f64 / seconds), tone);
    table.push([Cell::new("dropped"), dropped, Cell::empty(), Cell::new(all.to_string())]);
    table
}

fn peers(now: &Sample, earlier: Option<&Sample>) -> Table<10> {
    // What changes stands first, since narrow terminals cut the rest.
    let headings =
        ["PEER", "RTT", "LOSS", "SLEEVE IN", "SLEEVE OUT", "OVERLAY", "ENCRYPTED", "LINKS", "REACHED", "ID"];
    let mut table = Table::new(headings);
    let seconds = earlier.map_or(1.0, |earlier| now.at.duration_since(earlier.at).as_secs_f64().max(0.001));
    let mut ordered: Vec<_> = now.peers.iter().collect();
    ordered.sort_by_key(|peer| (!peer.is_self, natural(&peer.nickname), &peer.peer_id));
    for peer in ordered {
        let to_peer = |sample: &Sample| {
            sample.connections.iter().find(|link| link.peer_id.as_ref() == Some(&peer.peer_id)).cloned()
        };
        let (link, before) = (to_peer(now), earlier.and_then(to_peer));
        // A link that was made anew counts from zero.
        let rate = |passed: fn(&ConnectionDocument) -> Option<PassedDocument>| {
            let new = link.as_ref().and_then(passed)?.bytes;
            let old = before.as_ref().and_then(passed).map_or(new, |old| old.bytes);
            Some(bits(8.0 * new.saturating_sub(old) as f64 / seconds))
        };
        let (received, sent) = (Cell::maybe(rate(|link| link.received)), Cell::maybe(rate(|link| link.sent)));
        let link = link.as_ref();
        let reached = match &peer.via {
            _ if peer.is_self => Cell::new("here"),
            Some(via) if *via == peer.peer_id => Cell::toned("directly", Tone::Good),
            Some(_) => Cell::toned(peer.info.as_deref().unwrap_or("over others"), Tone::Waiting),
            None => Cell::toned(peer.info.as_deref().unwrap_or("not reached"), Tone::Bad),
        };
        table.push([
            Cell::new(&peer.nickname),
            Cell::maybe(link.and_then(|link| link.rtt_ms).map(|rtt_ms| format!("{rtt_ms:.1} ms"))),
            link.and_then(|link| link.loss).map_or_else(|| Cell::maybe(None::<String>), lost),
            received,
            sent,
            Cell::maybe(link.and_then(|link| link.overlay).map(Overlay::as_str)),
            Cell::maybe(link.and_then(|link| link.encrypted).map(|sealed| if sealed { "yes" } else { "no" })),
            Cell::new(peer.connections.iter().filter(|link| link.established).count().to_string()),
            reached,
            Cell::new(&peer.peer_id),
        ]);
    }
    table
}

/// A name so that `h2` comes before `h10`.
fn natural(name: &str) -> (&str, Option<u64>) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem, name[stem.len()..].parse().ok())
}

/// A share of lost probes; one in a hundred is worth a look.
fn lost(share: f64) -> Cell {
    Cell::toned(format!("{:.1} %", 100.0 * share), if share < 0.01 { Tone::Plain } else { Tone::Bad })
}

/// A rate with the unit that leaves one to three digits before the point.
fn bits(rate: f64) -> String {
    let units = ["", " k", " M", " G"];
    let exponent = units.iter().zip([1.0, 1e3, 1e6, 1e9]).rfind(|(_, size)| rate >= *size);
    let (unit, size) = exponent.unwrap_or((&"", 1.0));
    format!("{:.*}{unit}", usize::from(size > 1.0), rate / size)
}

/// What cannot be shown.
pub(super) fn no_terminal() -> Failure {
    Failure::new(ErrorKind::Refused, "mesh top needs a terminal for its input and its output")
        .with_hint("programs use 'mesh status -o json' or the metrics")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_the_order_of_their_numbers() {
        let mut names = ["h10", "b", "h2", "h", "a7x", "h99999999999999999999999"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["a7x", "b", "h", "h99999999999999999999999", "h2", "h10"]);
    }

    #[test]
    fn rates_have_a_unit_that_leaves_few_digits() {
        let shown = [0.0, 999.0, 1000.0, 1_500_000.0, 2.5e9, 7e12].map(bits);
        assert_eq!(shown, ["0", "999", "1.0 k", "1.5 M", "2.5 G", "7000.0 G"]);
    }
}
