//! The commands against a socket that answers as a router would.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command as Process};
use std::thread;
use std::time::Duration;

use common::{Ran, command, ran};
use mesh_api::{Command, ErrorKind, Failure, Request, Response, StopDocument, socket_path};
use serde_json::json;

/// Longest wait of a side for the other one.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the binary against a router that gives this answer. Returns what it was asked.
fn with_answer(arguments: &[&str], answer: Response) -> (Ran, Command) {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(socket_path(dir.path())).unwrap();
    let router = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        stream.write_all(&answer.encode()).unwrap();
        Request::decode(line.as_bytes()).unwrap()
    });
    let ran = ran(command(arguments).env("MESH_RUN_DIR", dir.path()).output().unwrap());
    (ran, router.join().unwrap())
}

/// A process that lasts until it is dropped.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Process::new("sleep").arg("60").spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn attach_prints_the_addresses_one_a_line() {
    let document = json!({
        "container": "netns:c1", "interface": "ethmesh", "mac": "0a:00:00:00:00:01",
        "addresses": ["10.32.1.1/24", "fd00::1/64"], "names": [], "key_of_a_later_version": 1,
    });
    let line =
        ["attach", "netns:c1", "ip:10.32.1.1/24", "net:default", "--no-multicast-route", "--ifname", "eth7"];
    let (ran, asked) = with_answer(&line, Response::Ok(document));
    assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (0, "10.32.1.1/24\nfd00::1/64\n", ""));
    let expected = Command::Attach {
        container: "netns:c1".parse().unwrap(),
        addresses: vec!["10.32.1.1/24".parse().unwrap(), "net:default".parse().unwrap()],
        ifname: "eth7".to_owned(),
        multicast_route: false,
        names: vec![],
        dns: true,
        resolv_conf: false,
        timeout_ms: 15_000,
    };
    assert_eq!(asked, expected);
}

#[test]
fn connect_and_forget_pass_on_what_was_named_and_say_nothing() {
    let document = json!({"targets": ["h2:6783", "[2001:db8::1]:7000"]});
    let line = ["connect", "h2", "[2001:db8::1]:7000"];
    let (ran, asked) = with_answer(&line, Response::Ok(document.clone()));
    assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));
    let targets = vec!["h2:6783".to_owned(), "[2001:db8::1]:7000".to_owned()];
    assert_eq!(asked, Command::Connect { targets: targets.clone(), replace: false });
    let line = ["connect", "--replace", "h2", "-o", "json"];
    let (ran, asked) = with_answer(&line, Response::Ok(document.clone()));
    assert_eq!(ran.json(), document);
    assert_eq!(asked, Command::Connect { targets: vec!["h2:6783".to_owned()], replace: true });
    let (ran, asked) =
        with_answer(&["forget", "h2", "[2001:db8::1]:7000"], Response::Ok(json!({"targets": []})));
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""));
    assert_eq!(asked, Command::Forget { targets });
}

#[test]
fn forgetting_a_peer_that_was_not_named_gives_status_4() {
    let failure = Failure::new(ErrorKind::Unknown, "this router was not told to connect to h9:6783");
    let (ran, _) = with_answer(&["forget", "h9"], failure.into());
    assert_eq!(ran.status, 4, "{ran:?}");
    assert!(ran.stderr.contains("h9:6783"), "{}", ran.stderr);
}

#[test]
fn detach_prints_what_it_took() {
    let document = json!({"container": "pid:7", "addresses": ["10.32.1.1/24"]});
    let (ran, asked) = with_answer(&["detach", "pid:7"], Response::Ok(document.clone()));
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "10.32.1.1/24\n"));
    assert_eq!(asked, Command::Detach { container: "pid:7".parse().unwrap(), addresses: vec![] });
    let (ran, _) = with_answer(&["detach", "pid:7", "-o", "json"], Response::Ok(document.clone()));
    assert_eq!(ran.json(), document);
}

#[test]
fn an_error_of_the_router_decides_the_exit_status() {
    for (kind, status) in [
        (ErrorKind::Unknown, 4),
        (ErrorKind::Timeout, 5),
        (ErrorKind::InUse, 1),
        (ErrorKind::Refused, 1),
        (ErrorKind::Internal, 1),
    ] {
        let failure = Failure::new(kind, "no container c1").with_hint("look again");
        let (ran, _) = with_answer(&["detach", "netns:c1"], failure.clone().into());
        assert_eq!((ran.status, ran.stdout.as_str()), (status, ""));
        assert_eq!(ran.stderr, "error: no container c1\nhint: look again\n");
        let (ran, _) = with_answer(&["detach", "netns:c1", "-o", "json"], failure.clone().into());
        let (_, message, hint) = ran.json_error();
        assert_eq!((message.as_str(), hint.as_str()), ("no container c1", "look again"));
    }
}

#[test]
fn status_shows_documents_as_tables_and_as_they_came() {
    let macs =
        json!([{"mac": "0a:00:00:00:00:01", "peer_id": "abcdef010203", "last_seen_seconds": 3, "new": true}]);
    let (ran, asked) = with_answer(&["status", "macs"], Response::Ok(macs.clone()));
    assert_eq!(asked, Command::Macs);
    let expected = "\
MAC                PEER          LAST SEEN
0a:00:00:00:00:01  abcdef010203  3 s ago
";
    assert_eq!((ran.status, ran.stdout.as_str()), (0, expected));
    let (ran, _) = with_answer(&["status", "macs", "-o", "json"], Response::Ok(macs.clone()));
    assert_eq!(ran.json(), macs);
}

#[test]
fn routes_say_where_frames_go_and_why() {
    let document = json!({
        "unicast": [
            {"peer_id": "0102030405ff", "nickname": "h2", "via": "0102030405ff", "hops": 1, "info": "direct"},
            {"peer_id": "0a0b0c0d0e0f", "nickname": "h3", "via": "0102030405ff", "hops": 2,
             "info": "relayed: no answer; over h2 (0102030405ff)"},
            {"peer_id": "1a0b0c0d0e0f", "nickname": null, "via": null, "hops": null, "info": "unreachable"},
        ],
        "broadcast": [
            {"source": "abcdef010203", "nickname": "h1", "from": null, "via": ["0102030405ff", "0a0b0c0d0e0f"]},
            {"source": "0102030405ff", "nickname": "h2", "from": "0102030405ff", "via": []},
        ],
    });
    let (ran, asked) = with_answer(&["status", "routes"], Response::Ok(document.clone()));
    assert_eq!(asked, Command::Routes);
    let expected = "\
TO            NICKNAME  GIVEN TO      HOPS  WHY
0102030405ff  h2        0102030405ff  1     direct
0a0b0c0d0e0f  h3        0102030405ff  2     relayed: no answer; over h2 (0102030405ff)
1a0b0c0d0e0f  -         -             -     unreachable

BROADCASTS OF  NICKNAME  COME FROM     GO ON TO
abcdef010203   h1        -             0102030405ff, 0a0b0c0d0e0f
0102030405ff   h2        0102030405ff  -
";
    assert_eq!((ran.status, ran.stdout.as_str()), (0, expected));
    let (ran, _) = with_answer(&["status", "routes", "-o", "json"], Response::Ok(document.clone()));
    assert_eq!(ran.json(), document);
}

#[test]
fn targets_say_how_far_each_has_come_and_what_was_wrong() {
    let document = json!([
        {"target": "h2:6783", "state": "established", "address": "192.0.2.2:6783", "next_try_seconds": null,
         "last_error": null},
        {"target": "h3:6783", "state": "retrying", "address": null, "next_try_seconds": 1.25,
         "last_error": "the name has no address"},
        {"target": "h4:6783", "state": "failed", "address": null, "next_try_seconds": 9.0,
         "last_error": "the password is not the same"},
        {"target": "h5:6783", "state": "established", "address": null, "next_try_seconds": 60.0,
         "last_error": "no answer", "info": "this is the router itself"},
    ]);
    let (ran, asked) = with_answer(&["status", "targets"], Response::Ok(document));
    assert_eq!(asked, Command::Targets);
    let expected = "\
TARGET   STATE        ADDRESS         NEXT TRY   WHY
h2:6783  established  192.0.2.2:6783  -
h3:6783  retrying     -               in 1.2 s   the name has no address
h4:6783  failed       -               in 9.0 s   the password is not the same
h5:6783  established  -               in 60.0 s  this is the router itself
";
    assert_eq!((ran.status, ran.stdout.as_str()), (0, expected));
}

#[test]
fn the_overview_names_the_router_and_counts() {
    let document = json!({
        "version": "0.1.0",
        "router": {
            "peer_id": "abcdef010203", "nickname": "h1", "port": 6783, "pid": 7, "uptime_seconds": 61,
            "encryption": false, "discovery": true, "capture": "tap", "datapath": "sleeve", "bridge": "mesh0",
            "mtu": 1370,
        },
        "connections": {"established": 2, "pending": 0, "connecting": 0, "retrying": 1, "failed": 0},
        "peers": 3, "ipam": null, "dns": null,
        "control": {"accepted": 4, "peer_refused": 1, "refused_by_rate": 2},
    });
    let (ran, asked) = with_answer(&["status"], Response::Ok(document));
    assert_eq!(asked, Command::Status);
    let expected = "\
Router       h1 (abcdef010203)
Version      0.1.0
Process      pid 7, up 1 min 1 s
Port         6783
Encryption   off: anybody may join, frames travel in clear
Discovery    on
Datapath     sleeve
Bridge       mesh0, MTU 1370
Peers        3
Connections  2 established, 1 retrying
Refused      peer_refused 1, refused_by_rate 2
";
    assert_eq!(ran.stdout, expected);
}

#[test]
fn the_overview_says_when_a_router_stands_aside() {
    let document = json!({
        "version": "0.1.0",
        "router": {
            "peer_id": "abcdef010203", "fenced": true, "nickname": "h1", "port": 6783, "pid": 7,
            "uptime_seconds": 61, "encryption": true, "discovery": true, "capture": "tap", "datapath": "sleeve",
            "bridge": "mesh0", "mtu": 1370,
        },
        "connections": {"established": 0, "pending": 0, "connecting": 0, "retrying": 0, "failed": 0},
        "peers": 1, "ipam": null, "dns": null,
    });
    let (ran, _) = with_answer(&["status"], Response::Ok(document));
    assert!(ran.stdout.contains("stands aside") && ran.stdout.contains("mesh reset"), "{}", ran.stdout);
}

#[test]
fn stop_returns_when_the_process_has_ended() {
    let sleeper = Sleeper::new();
    let pid = sleeper.0.id();
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(socket_path(dir.path())).unwrap();
    let router = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        stream.write_all(&Response::document(&StopDocument { pid }).encode()).unwrap();
        drop(sleeper);
    });
    let ran = ran(command(&["stop"]).env("MESH_RUN_DIR", dir.path()).output().unwrap());
    router.join().unwrap();
    assert_eq!((ran.status, ran.stdout), (0, format!("the router has ended (pid {pid})\n")));
}

#[test]
fn stop_gives_up_on_a_router_that_does_not_end() {
    let sleeper = Sleeper::new();
    let answer = Response::document(&StopDocument { pid: sleeper.0.id() });
    let (ran, _) = with_answer(&["stop", "--timeout", "2"], answer);
    assert_eq!((ran.status, ran.stdout.as_str()), (5, ""));
    assert!(ran.stderr.contains("has not ended within 2 s"), "{}", ran.stderr);
}

#[test]
fn reset_prints_what_was_removed() {
    let document = json!({"pid": null, "removed": ["bridge mesh0"], "handed_over_to": "abcdef010203"});
    let (ran, asked) = with_answer(&["reset", "--force", "--timeout", "2"], Response::Ok(document));
    assert_eq!(asked, Command::Reset { force: true, timeout_ms: 2_000 });
    let expected = "gave the address space to abcdef010203\nremoved bridge mesh0\n";
    assert_eq!((ran.status, ran.stdout.as_str()), (0, expected));
}

#[test]
fn the_commands_of_address_management_print_addresses_and_pass_on_their_patience() {
    let document = json!({"id": "db", "addresses": ["10.32.0.9/12"]});
    let subnet = Some("10.32.0.0/24".parse().unwrap());
    let id = || "db".to_owned();
    for (line, command) in [
        ("ipam allocate db", Command::IpamAllocate { id: id(), subnet: None, timeout_ms: 3_000 }),
        ("ipam allocate db 10.32.0.0/24", Command::IpamAllocate { id: id(), subnet, timeout_ms: 3_000 }),
        ("ipam lookup db", Command::IpamLookup { id: id(), subnet: None }),
        ("ipam release db 10.32.0.0/24", Command::IpamRelease { id: id(), subnet }),
        (
            "ipam claim db 10.32.0.9/12",
            Command::IpamClaim { id: id(), address: "10.32.0.9/12".parse().unwrap(), timeout_ms: 3_000 },
        ),
    ] {
        let line = format!("{line} --timeout 3");
        let arguments: Vec<_> = line.split(' ').collect();
        let (ran, asked) = with_answer(&arguments, Response::Ok(document.clone()));
        assert_eq!((ran.status, ran.stdout.as_str()), (0, "10.32.0.9/12\n"), "{line}: {ran:?}");
        assert_eq!(asked, command, "{line}");
        let (ran, _) =
            with_answer(&[&arguments[..], &["-o", "json"]].concat(), Response::Ok(document.clone()));
        assert_eq!(ran.json(), document, "{line}");
    }
}

#[test]
fn prime_and_rmpeer_say_what_came_of_it() {
    let (ran, asked) = with_answer(&["prime"], Response::Ok(json!({"network_id": "00ff"})));
    assert_eq!(
        (asked, ran.stdout.as_str()),
        (Command::Prime { timeout_ms: 15_000 }, "network 00ff is founded\n")
    );
    let document = json!({"removed": [{"peer_id": "abcdef010203", "addresses": 256}]});
    let (ran, asked) = with_answer(&["rmpeer", "h2"], Response::Ok(document));
    assert_eq!(asked, Command::RemovePeers { peers: vec!["h2".to_owned()], timeout_ms: 15_000 });
    assert_eq!(ran.stdout, "256 addresses of abcdef010203 were taken over\n");
}

#[test]
fn the_state_of_address_management_names_owners_and_what_waits() {
    let document = json!({
        "range": "10.32.0.0/12", "default_subnet": "10.32.0.0/16", "network_id": "00ff",
        "state": "unreachable-owner", "detail": "h3 is gone",
        "owned": [{"peer_id": "abcdef010203", "nickname": "h1", "addresses": 524_288, "share": 0.5, "active": 2,
                   "reachable": true}],
        "pending": [{"request": "prime", "waiting_for": "h3", "seconds_left": 1.5}],
    });
    let (ran, asked) = with_answer(&["status", "ipam"], Response::Ok(document));
    assert_eq!(asked, Command::Ipam);
    let expected = "\
Range           10.32.0.0/12
Default subnet  10.32.0.0/16
Network         00ff
State           unreachable-owner
Why             h3 is gone

OWNER         NICKNAME  ADDRESSES  SHARE   IN USE  REACHED
abcdef010203  h1        524288     50.0 %  2       yes

WAITS  FOR  TIME LEFT
prime  h3   1.5 s
";
    assert_eq!((ran.status, ran.stdout.as_str()), (0, expected));
}

#[test]
fn a_silent_router_costs_no_more_than_the_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(socket_path(dir.path())).unwrap();
    let ran = ran(command(&["status", "--timeout", "0.2"]).env("MESH_RUN_DIR", dir.path()).output().unwrap());
    assert_eq!(ran.status, 5, "{ran:?}");
    assert!(ran.stderr.starts_with("error: no answer of the router within 0.2 s\nhint: "), "{}", ran.stderr);
}

#[test]
fn nonsense_and_another_version_are_errors_and_not_panics() {
    for (answer, says) in [
        (&b"hello\n"[..], "malformed answer"),
        (b"", "without an answer"),
        (b"{\"version\":2}\n", "version 2"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket_path(dir.path())).unwrap();
        let answer = answer.to_vec();
        let router = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(&answer).unwrap();
        });
        let ran = ran(command(&["status"]).env("MESH_RUN_DIR", dir.path()).output().unwrap());
        router.join().unwrap();
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(ran.stderr.contains(says), "{says}: {}", ran.stderr);
    }
}
