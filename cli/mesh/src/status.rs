//! `mesh status`: what the router says of itself, as text or as it comes.

use std::fmt::Write;

use mesh_api::{
    Command, ConnectionCounts, ConnectionDocument, ConnectionState, Failure, FirewallDocument, FlowsDocument,
    IpamDocument, IpamState, MacDocument, PeerDocument, RoutesDocument, StatusDocument, TargetDocument,
};
use serde::de::DeserializeOwned;

use crate::args::{Output, StatusArgs, StatusView};
use crate::control::connect;
use crate::table::{Cell, Table, Tone};
use crate::{dns, output};

/// Asks the router and prints its answer.
pub(crate) fn status(args: &StatusArgs, output: Output) -> Result<(), Failure> {
    match args.view {
        None => show(args, output, Command::Status, overview),
        Some(StatusView::Peers) => show(args, output, Command::Peers, peers),
        Some(StatusView::Connections) => show(args, output, Command::Connections, connections),
        Some(StatusView::Targets) => show(args, output, Command::Targets, targets),
        Some(StatusView::Routes) => show(args, output, Command::Routes, routes),
        Some(StatusView::Ipam) => show(args, output, Command::Ipam, ipam),
        Some(StatusView::Dns) => show(args, output, Command::Dns, dns::view),
        Some(StatusView::Macs) => show(args, output, Command::Macs, macs),
        Some(StatusView::Flows) => show(args, output, Command::Flows, flows),
    }
}

fn show<T: DeserializeOwned>(
    args: &StatusArgs,
    output: Output,
    command: Command,
    render: fn(&T, bool) -> String,
) -> Result<(), Failure> {
    let client = connect(&args.router)?;
    match output {
        Output::Human => output::print(&render(&client.call(command)?, output::colour())),
        // As it came, so that keys of a later version are not lost.
        Output::Json => output::print_json(&client.call_value(command)?),
    }
}

fn overview(status: &StatusDocument, colour: bool) -> String {
    let router = &status.router;
    let on_off = |on: bool| if on { "on" } else { "off" };
    let encryption = if router.encryption { "on" } else { "off: anybody may join, frames travel in clear" };
    let mut table = Table::new(["Router", &format!("{} ({})", router.nickname, router.peer_id)]);
    let mut row = |name: &str, value: String| table.push([Cell::new(name), Cell::new(value)]);
    if router.fenced {
        let stands_aside = "stands aside: another router is at work with a copy of its identity; 'mesh reset' on one of \
                            the two hosts makes that one a new peer";
        row("State", stands_aside.to_owned());
    }
    row("Version", status.version.clone());
    row("Process", format!("pid {}, up {}", router.pid, uptime(router.uptime_seconds)));
    row("Port", router.port.to_string());
    row("Encryption", encryption.to_owned());
    row("Discovery", on_off(router.discovery).to_owned());
    row("Datapath", router.datapath.as_str().to_owned());
    row("Bridge", format!("{}, MTU {}", router.bridge, router.mtu));
    row("Peers", status.peers.to_string());
    row("Connections", counts(&status.connections));
    if let Some(ipam) = &status.ipam {
        row("Addresses", addresses(ipam));
    }
    if let Some(summary) = &status.dns {
        row("Names", dns::overview(summary));
    }
    if let Some(firewall) = &status.firewall {
        row("Firewall", self::firewall(firewall));
        for exposed in &firewall.exposed {
            let how = if exposed.masquerade { "" } else { ", without masquerade" };
            row(
                "Exposed",
                format!("{}{how}", [&[exposed.address.to_string()], &exposed.names[..]].concat().join(" ")),
            );
        }
    }
    for (path, directions) in &status.traffic.passed {
        let ways: Vec<_> =
            directions.iter().map(|(way, passed)| format!("{way} {}", passed.frames)).collect();
        if directions.values().any(|passed| passed.frames > 0) {
            row(&format!("Frames, {path}"), ways.join(", "));
        }
    }
    let drops: Vec<_> =
        status.traffic.drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    if !drops.is_empty() {
        row("Dropped", drops.join(", "));
    }
    let refused = status.control.iter().filter(|(name, _)| is_refusal(name));
    let refused: Vec<_> = refused.map(|(name, count)| format!("{name} {count}")).collect();
    if !refused.is_empty() {
        row("Refused", refused.join(", "));
    }
    table.render(colour)
}

/// Whether containers are kept apart, and which ports lie open.
fn firewall(firewall: &FirewallDocument) -> String {
    let mut text = match &firewall.detail {
        None => format!("up, {} ports guarded", firewall.guarded_ports),
        Some(why) => format!("down, containers are not kept apart: {why}"),
    };
    if !firewall.unguarded_ports.is_empty() {
        text.push_str("; plugged in by hand, open: ");
        text.push_str(&firewall.unguarded_ports.join(", "));
    }
    text
}

/// Whether a counter of the control plane counts what an operator should look at: others who were turned away.
fn is_refusal(name: &str) -> bool {
    ["refused_", "handshake_"].iter().any(|prefix| name.starts_with(prefix)) || name == "peer_refused"
}

fn peers(peers: &Vec<PeerDocument>, colour: bool) -> String {
    let headings =
        ["PEER", "NICKNAME", "REACHED", "CONNECTED TO", "NICKNAME", "ADDRESS", "DIRECTION", "STATE"];
    let mut table = Table::new(headings);
    for peer in peers {
        let (nickname, reached) = match &peer.info {
            _ if peer.is_self => (format!("{} (here)", peer.nickname), String::new()),
            info => (peer.nickname.clone(), info.clone().unwrap_or_default()),
        };
        let mut head = [Cell::new(&peer.peer_id), Cell::new(nickname), Cell::new(reached)];
        if peer.connections.is_empty() {
            let [id, name, reached] = head;
            let [other_name, address, direction, state] = [const { Cell::empty() }; 4];
            table.push([id, name, reached, Cell::new("-"), other_name, address, direction, state]);
            continue;
        }
        for connection in &peer.connections {
            let state =
                if connection.established { ConnectionState::Established } else { ConnectionState::Pending };
            let [id, name, reached] = std::mem::replace(&mut head, [const { Cell::empty() }; 3]);
            table.push([
                id,
                name,
                reached,
                Cell::new(&connection.peer_id),
                Cell::maybe(connection.nickname.as_ref()),
                Cell::maybe(connection.address),
                Cell::new(direction(connection.outbound)),
                state_cell(state),
            ]);
        }
    }
    table.render(colour)
}

fn connections(connections: &Vec<ConnectionDocument>, colour: bool) -> String {
    let headings =
        ["ADDRESS", "DIRECTION", "STATE", "PEER", "NICKNAME", "OVERLAY", "ENCRYPTED", "MTU", "RTT", "INFO"];
    let mut table = Table::new(headings);
    for connection in connections {
        table.push([
            Cell::maybe(connection.address),
            Cell::new(direction(connection.outbound)),
            state_cell(connection.state),
            Cell::maybe(connection.peer_id.as_ref()),
            Cell::maybe(connection.nickname.as_ref()),
            Cell::maybe(connection.overlay.map(mesh_api::Overlay::as_str)),
            Cell::maybe(connection.encrypted.map(|encrypted| if encrypted { "yes" } else { "no" })),
            Cell::maybe(connection.mtu),
            Cell::maybe(connection.rtt_ms.map(|rtt_ms| format!("{rtt_ms:.1} ms"))),
            Cell::new(connection.info.as_deref().unwrap_or_default()),
        ]);
    }
    table.render(colour)
}

fn targets(targets: &Vec<TargetDocument>, colour: bool) -> String {
    let mut table = Table::new(["TARGET", "STATE", "ADDRESS", "NEXT TRY", "WHY"]);
    for target in targets {
        table.push([
            Cell::new(&target.target),
            state_cell(target.state),
            Cell::maybe(target.address),
            Cell::maybe(target.next_try_seconds.map(|seconds| format!("in {seconds:.1} s"))),
            Cell::new(target.info.as_ref().or(target.last_error.as_ref()).map_or("", String::as_str)),
        ]);
    }
    table.render(colour)
}

fn routes(routes: &RoutesDocument, colour: bool) -> String {
    let mut unicast = Table::new(["TO", "NICKNAME", "GIVEN TO", "HOPS", "WHY"]);
    for route in &routes.unicast {
        unicast.push([
            Cell::new(&route.peer_id),
            Cell::maybe(route.nickname.as_ref()),
            Cell::maybe(route.via.as_ref()),
            Cell::maybe(route.hops),
            Cell::new(route.info.as_deref().unwrap_or_default()),
        ]);
    }
    let mut broadcast = Table::new(["BROADCASTS OF", "NICKNAME", "COME FROM", "GO ON TO"]);
    for tree in &routes.broadcast {
        let via = if tree.via.is_empty() { "-".to_owned() } else { tree.via.join(", ") };
        let (nickname, from) = (Cell::maybe(tree.nickname.as_ref()), Cell::maybe(tree.from.as_ref()));
        broadcast.push([Cell::new(&tree.source), nickname, from, Cell::new(via)]);
    }
    let mut text = format!("{}\n{}", unicast.render(colour), broadcast.render(colour));
    if !routes.groups.is_empty() {
        let mut groups = Table::new(["GROUP", "HAS MEMBERS AT"]);
        for group in &routes.groups {
            groups.push([Cell::new(&group.mac), Cell::new(group.peer_ids.join(", "))]);
        }
        text.push('\n');
        text.push_str(&groups.render(colour));
    }
    text
}

/// Range and state, as `10.32.0.0/12, ready`.
fn addresses(ipam: &IpamDocument) -> String {
    let range = ipam.range.map(|range| format!("{range}, ")).unwrap_or_default();
    let detail = if ipam.detail.is_empty() { String::new() } else { format!(": {}", ipam.detail) };
    format!("{range}{}{detail}", ipam.state.as_str())
}

fn ipam(ipam: &IpamDocument, colour: bool) -> String {
    let tone = match ipam.state {
        IpamState::Ready | IpamState::Idle => Tone::Good,
        IpamState::AwaitingConsensus | IpamState::Observing | IpamState::WaitingForSpace => Tone::Waiting,
        IpamState::UnreachableOwner | IpamState::Disabled => Tone::Bad,
    };
    let mut overview =
        Table::new(["Range", &ipam.range.map_or_else(|| "none".to_owned(), |range| range.to_string())]);
    overview.push([Cell::new("Default subnet"), Cell::maybe(ipam.default_subnet)]);
    overview.push([Cell::new("Network"), Cell::maybe(ipam.network_id.as_ref())]);
    overview.push([Cell::new("State"), Cell::toned(ipam.state.as_str(), tone)]);
    if !ipam.detail.is_empty() {
        overview.push([Cell::new("Why"), Cell::new(&ipam.detail)]);
    }
    let mut text = overview.render(colour);
    if !ipam.owned.is_empty() {
        let mut owned = Table::new(["OWNER", "NICKNAME", "ADDRESSES", "SHARE", "IN USE", "REACHED"]);
        for owner in &ipam.owned {
            let reached = match (owner.retired, owner.reachable) {
                (true, _) => Cell::toned("gone for good", Tone::Waiting),
                (false, true) => Cell::toned("yes", Tone::Good),
                (false, false) => Cell::toned("no", Tone::Bad),
            };
            owned.push([
                Cell::new(&owner.peer_id),
                Cell::maybe(owner.nickname.as_ref()),
                Cell::new(owner.addresses.to_string()),
                Cell::new(format!("{:.1} %", owner.share * 100.0)),
                Cell::maybe(owner.active),
                reached,
            ]);
        }
        text.push('\n');
        text.push_str(&owned.render(colour));
    }
    if !ipam.pending.is_empty() {
        let mut pending = Table::new(["WAITS", "FOR", "TIME LEFT"]);
        for request in &ipam.pending {
            pending.push([
                Cell::new(&request.request),
                Cell::maybe(request.waiting_for.as_ref()),
                Cell::new(format!("{:.1} s", request.seconds_left)),
            ]);
        }
        text.push('\n');
        text.push_str(&pending.render(colour));
    }
    if !ipam.conflicts.is_empty() {
        let mut conflicts = Table::new(["CONFLICT", "HELD BY", "ON", "ALSO"]);
        for conflict in &ipam.conflicts {
            let also = match &conflict.seen_at {
                Some(mac) => format!("used by {mac}"),
                None => "owned by another peer".to_owned(),
            };
            conflicts.push([
                Cell::toned(conflict.address.to_string(), Tone::Bad),
                Cell::new(&conflict.id),
                Cell::new(conflict.nickname.as_ref().unwrap_or(&conflict.peer_id)),
                Cell::new(&also),
            ]);
        }
        text.push('\n');
        text.push_str(&conflicts.render(colour));
    }
    text
}

fn macs(macs: &Vec<MacDocument>, colour: bool) -> String {
    let mut table = Table::new(["MAC", "PEER", "LAST SEEN", ""]);
    for mac in macs {
        let last_seen = format!("{} ago", uptime(mac.last_seen_seconds));
        let frozen = match mac.frozen {
            true => Cell::toned("frozen: several fight for it", Tone::Bad),
            false => Cell::empty(),
        };
        table.push([Cell::new(&mac.mac), Cell::new(&mac.peer_id), Cell::new(last_seen), frozen]);
    }
    table.render(colour)
}

fn flows(flows: &FlowsDocument, colour: bool) -> String {
    let mut overview = Table::new(["Datapath", flows.datapath.as_str()]);
    overview.push([Cell::new("Carried in user space"), Cell::new(format!("{} frames", flows.misses))]);
    let changes: Vec<_> = flows.changes.iter().map(|(what, count)| format!("{what} {count}")).collect();
    if !changes.is_empty() {
        overview.push([Cell::new("Flows"), Cell::new(changes.join(", "))]);
    }
    let mut table = Table::new(["FRAMES", "GO", "PEER", "PACKETS", "BYTES", "IDLE"]);
    for flow in &flows.entries {
        table.push([
            Cell::new(&flow.key),
            Cell::new(&flow.action),
            Cell::maybe(flow.peer_id.as_ref()),
            Cell::maybe(flow.packets),
            Cell::maybe(flow.bytes),
            Cell::maybe(flow.idle_seconds.map(uptime)),
        ]);
    }
    format!("{}\n{}", overview.render(colour), table.render(colour))
}

const fn direction(outbound: bool) -> &'static str {
    if outbound { "out" } else { "in" }
}

fn state_cell(state: ConnectionState) -> Cell {
    let tone = match state {
        ConnectionState::Established => Tone::Good,
        ConnectionState::Pending | ConnectionState::Connecting | ConnectionState::Retrying => Tone::Waiting,
        ConnectionState::Failed => Tone::Bad,
    };
    Cell::toned(state.as_str(), tone)
}

/// The states that connections are in, as `2 established, 1 retrying`.
fn counts(counts: &ConnectionCounts) -> String {
    let ConnectionCounts { established, pending, connecting, retrying, failed } = *counts;
    let mut text = format!("{established} established");
    for (count, state) in [
        (pending, ConnectionState::Pending),
        (connecting, ConnectionState::Connecting),
        (retrying, ConnectionState::Retrying),
        (failed, ConnectionState::Failed),
    ] {
        if count > 0 {
            write!(text, ", {count} {}", state.as_str()).expect("writing to a String cannot fail");
        }
    }
    text
}

/// Seconds in the two greatest units that they fill: `3 d 4 h`, `5 min 0 s`, `7 s`.
fn uptime(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days} d {} h", hours % 24)
    } else if hours > 0 {
        format!("{hours} h {} min", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes} min {} s", seconds % 60)
    } else {
        format!("{seconds} s")
    }
}

#[cfg(test)]
mod tests {
    use mesh_api::{Overlay, PeerConnectionDocument};

    use super::*;

    #[test]
    fn connections_are_one_line_each_and_unknown_values_a_dash() {
        let connection = ConnectionDocument {
            peer_id: Some("abcdef010203".to_owned()),
            nickname: Some("h2".to_owned()),
            address: Some("192.0.2.2:6783".parse().unwrap()),
            outbound: true,
            state: ConnectionState::Established,
            overlay: Some(Overlay::Sleeve),
            encrypted: Some(true),
            mtu: Some(1370),
            rtt_ms: Some(0.34),
            loss: None,
            info: None,
            received: None,
            sent: None,
        };
        let failed = ConnectionDocument {
            peer_id: None,
            nickname: None,
            outbound: false,
            state: ConnectionState::Failed,
            overlay: None,
            encrypted: None,
            mtu: None,
            rtt_ms: None,
            loss: None,
            info: Some("wrong password".to_owned()),
            ..connection
        };
        let expected = "\
ADDRESS         DIRECTION  STATE        PEER          NICKNAME  OVERLAY  ENCRYPTED  MTU   RTT     INFO
192.0.2.2:6783  out        established  abcdef010203  h2        sleeve   yes        1370  0.3 ms
192.0.2.2:6783  in         failed       -             -         -        -          -     -       wrong password
";
        assert_eq!(connections(&vec![connection, failed], false), expected);
    }

    #[test]
    fn a_peer_stands_once_however_many_connections_it_has() {
        let connection = |peer_id: &str, established| PeerConnectionDocument {
            peer_id: peer_id.to_owned(),
            nickname: None,
            address: None,
            outbound: established,
            established,
        };
        let peer = |peer_id: &str, is_self, connections| PeerDocument {
            peer_id: peer_id.to_owned(),
            nickname: "h".to_owned(),
            is_self,
            version: 1,
            connections,
            via: None,
            info: (!is_self).then(|| "over relay h2 (b2)".to_owned()),
        };
        let all = vec![
            peer("a1", true, vec![connection("b2", true), connection("c3", false)]),
            peer("d4", false, vec![]),
        ];
        let expected = "\
PEER  NICKNAME  REACHED             CONNECTED TO  NICKNAME  ADDRESS  DIRECTION  STATE
a1    h (here)                      b2            -         -        out        established
                                    c3            -         -        in         pending
d4    h         over relay h2 (b2)  -
";
        assert_eq!(peers(&all, false), expected);
    }

    #[test]
    fn times_and_counts_read_well() {
        let shown = [0, 59, 60, 3_599, 3_600, 86_399, 90_000].map(uptime);
        assert_eq!(shown, ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "23 h 59 min", "1 d 1 h"]);
        let none = ConnectionCounts::default();
        assert_eq!(counts(&none), "0 established");
        assert_eq!(
            counts(&ConnectionCounts { established: 2, failed: 1, ..none }),
            "2 established, 1 failed"
        );
    }
}
