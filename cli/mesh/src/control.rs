//! Commands that change something: each is one request to the router, and `reset` does without one if it must.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use mesh_api::{
    AttachDocument, Client, ClientError, Command, DetachDocument, ErrorKind, Failure, IpamDocument,
    ResetDocument, StopDocument, TargetListDocument,
};
use mesh_daemon::{BridgeName, PeerTarget};
use rustix::process::Pid;
use serde::de::DeserializeOwned;

use crate::args::{AttachArgs, ConnectArgs, DetachArgs, ForgetArgs, Output, PsArgs, ResetArgs, RouterArgs};
use crate::problems::Problems;
use crate::table::{Cell, Table, Tone};
use crate::{address, launch, output, overlaps, process};

/// So much longer than the router waits its client, to hear why it was in vain.
const ANSWER_GRACE: Duration = Duration::from_secs(6);

/// How often a command that waits looks at what it waits for: people wonder after about a second.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Advice for a malformed container or address.
const CONTAINER_HINT: &str = "CONTAINER is docker:NAME, podman:NAME, a name or id that one of them has, netns:NAME, \
                              netns:/path or pid:N; ADDR is A.B.C.D/LEN, an IPv6 address with /LEN, net:CIDR or net:default";

/// Ends the router, and returns when its process has ended.
pub(crate) fn stop(router: &RouterArgs, output: Output) -> Result<(), Failure> {
    let deadline = Instant::now() + router.timeout.timeout;
    let stopped: StopDocument = connect(router)?.call(Command::Stop)?;
    wait_for_router(stopped.pid, deadline, router.timeout.timeout)?;
    match output {
        Output::Human => output::print(&format!("the router has ended (pid {})\n", stopped.pid)),
        Output::Json => output::print_json(&stopped),
    }
}

/// Removes all that a router made here, with its help or without it.
pub(crate) fn reset(args: &ResetArgs, output: Output) -> Result<(), Failure> {
    let deadline = Instant::now() + args.router.timeout.timeout;
    let timeout_ms = timeout_ms(&args.router);
    let command = Command::Reset { force: args.force, timeout_ms };
    let document: ResetDocument = match call_and_wait(&args.router, output, command) {
        Ok(document) => document,
        // A router that closes without an answer is dying: what it leaves is removed as soon as it is dead.
        Err(ClientError::NotRunning(_) | ClientError::Closed) => reset_without_router(args)?,
        Err(error) => return Err(error.into()),
    };
    if let Some(pid) = document.pid {
        // Its answer may have taken all the time; its end takes little more.
        let deadline = deadline.max(Instant::now() + ANSWER_GRACE);
        wait_for_router(pid, deadline, args.router.timeout.timeout)?;
    }
    let heir = document.handed_over_to.iter().map(|peer| format!("gave the address space to {peer}\n"));
    let removed = document.removed.iter().map(|what| format!("removed {what}\n"));
    match output {
        Output::Human if document.removed.is_empty() => output::print("nothing to remove\n"),
        Output::Human => output::print(&heir.chain(removed).collect::<String>()),
        Output::Json => output::print_json(&document),
    }
}

/// Names further peers to connect to.
pub(crate) fn connect_to(args: &ConnectArgs, output: Output) -> Result<(), Failure> {
    let targets = peers(&args.peers)?;
    tell_targets(&args.router, Command::Connect { targets, replace: args.replace }, output)
}

/// Takes back what `connect_to` or `launch` named.
pub(crate) fn forget(args: &ForgetArgs, output: Output) -> Result<(), Failure> {
    let targets = peers(&args.peers)?;
    tell_targets(&args.router, Command::Forget { targets }, output)
}

/// Gives a container addresses.
pub(crate) fn attach(args: &AttachArgs, output: Output) -> Result<(), Failure> {
    let mut problems = Problems::default();
    let container = address::container(&args.container, &mut problems);
    let addresses = address::addresses(&args.addresses, &mut problems);
    let ifname = address::interface_name(&args.ifname);
    let ifname = problems.check(&format!("--ifname '{}'", args.ifname.escape_debug()), ifname);
    let (Some(container), Some(addresses), Some(ifname)) = (container, addresses, ifname.map(str::to_owned))
    else {
        return Err(problems.into_failure(CONTAINER_HINT));
    };
    let (multicast_route, timeout_ms) = (!args.no_multicast_route, timeout_ms(&args.router));
    let command = Command::Attach {
        container,
        addresses: addresses.clone(),
        ifname,
        multicast_route,
        names: args.names.clone(),
        dns: !args.no_dns,
        resolv_conf: args.resolv_conf,
        timeout_ms,
    };
    let attached: AttachDocument = call_and_wait(&args.router, output, command)?;
    overlaps::warn(&args.router, &addresses, output);
    match output {
        Output::Human => print_addresses(&attached.addresses),
        Output::Json => output::print_json(&attached),
    }
}

/// Takes addresses from a container.
pub(crate) fn detach(args: &DetachArgs, output: Output) -> Result<(), Failure> {
    let mut problems = Problems::default();
    let container = address::container(&args.container, &mut problems);
    let addresses = address::addresses(&args.addresses, &mut problems);
    let (Some(container), Some(addresses)) = (container, addresses) else {
        return Err(problems.into_failure(CONTAINER_HINT));
    };
    let detached: DetachDocument = connect(&args.router)?.call(Command::Detach { container, addresses })?;
    match output {
        Output::Human => print_addresses(&detached.addresses),
        Output::Json => output::print_json(&detached),
    }
}

/// Shows what is attached.
pub(crate) fn ps(args: &PsArgs, output: Output) -> Result<(), Failure> {
    let mut problems = Problems::default();
    let Some(containers) = address::containers(&args.containers, &mut problems) else {
        return Err(problems.into_failure(CONTAINER_HINT));
    };
    let attached: Vec<AttachDocument> = connect(&args.router)?.call(Command::Ps { containers })?;
    match output {
        Output::Human => output::print(&attachments(&attached).render(output::colour())),
        Output::Json => output::print_json(&attached),
    }
}

fn attachments(attached: &[AttachDocument]) -> Table<6> {
    let mut table = Table::new(["CONTAINER", "INTERFACE", "MAC", "STATE", "ADDRESSES", "NAMES"]);
    for document in attached {
        let addresses: Vec<_> = document.addresses.iter().map(ToString::to_string).collect();
        let state = match document.attached {
            true => Cell::toned("attached", Tone::Good),
            false => Cell::toned("away", Tone::Waiting),
        };
        table.push([
            Cell::new(&document.container),
            Cell::new(&document.interface),
            Cell::new(&document.mac),
            state,
            Cell::new(addresses.join(" ")),
            Cell::new(document.names.join(" ")),
        ]);
    }
    table
}

/// Connects to the router of this host.
pub(crate) fn connect(router: &RouterArgs) -> Result<Client, ClientError> {
    Client::connect(&router.run_dir.run_dir, router.timeout.timeout)
}

/// Has the router carry out what may wait for other routers. The router itself gives up at the timeout, and answers with the
/// reason; until then people are told what it waits for.
pub(crate) fn call_and_wait<T: DeserializeOwned>(
    router: &RouterArgs,
    output: Output,
    command: Command,
) -> Result<T, ClientError> {
    let client = Client::connect(&router.run_dir.run_dir, router.timeout.timeout + ANSWER_GRACE)?;
    let (answered, is_answered) = mpsc::channel::<()>();
    thread::scope(|scope| {
        if output == Output::Human {
            scope.spawn(move || tell_what_is_waited_for(router, &is_answered));
        }
        let answer = client.call(command);
        drop(answered);
        answer
    })
}

/// Says on standard error what requests for addresses wait for, as often as it changes, until `is_answered` is closed.
fn tell_what_is_waited_for(router: &RouterArgs, is_answered: &mpsc::Receiver<()>) {
    let mut told = String::new();
    while is_answered.recv_timeout(TELL_EVERY) == Err(RecvTimeoutError::Timeout) {
        let asked = Client::connect(&router.run_dir.run_dir, TELL_EVERY);
        // A router that does not answer tells so to the command itself.
        let Ok(document) = asked.and_then(|client| client.call::<IpamDocument>(Command::Ipam)) else {
            continue;
        };
        if !document.pending.is_empty() && !document.detail.is_empty() && document.detail != told {
            output::note(&document.detail);
            told = document.detail;
        }
    }
}

/// The time after which the router shall give up.
pub(crate) fn timeout_ms(router: &RouterArgs) -> u64 {
    u64::try_from(router.timeout.timeout.as_millis()).unwrap_or(u64::MAX)
}

/// The peers that `texts` name, as the router shows them.
fn peers(texts: &[String]) -> Result<Vec<String>, Failure> {
    let mut problems = Problems::default();
    let check = |text: &String| {
        let peer = text.parse::<PeerTarget>().map(|peer| peer.to_string());
        problems.check(&format!("PEER '{}'", text.escape_debug()), peer)
    };
    let peers: Vec<_> = texts.iter().map(check).collect();
    let all = peers.into_iter().collect::<Option<_>>();
    all.ok_or_else(|| {
        problems.into_failure("PEER is HOST[:PORT]: a name, an IPv4 address, or an IPv6 address in brackets")
    })
}

/// Changes the targets. For people there is nothing to say of what they asked for.
fn tell_targets(router: &RouterArgs, command: Command, output: Output) -> Result<(), Failure> {
    let list: TargetListDocument = connect(router)?.call(command)?;
    match output {
        Output::Human => Ok(()),
        Output::Json => output::print_json(&list),
    }
}

/// What an earlier router left here is removed by this process.
fn reset_without_router(args: &ResetArgs) -> Result<ResetDocument, Failure> {
    let mut problems = Problems::default();
    let bridge = args.bridge.bridge.parse::<BridgeName>();
    let bridge = problems.check(&format!("--bridge '{}'", args.bridge.bridge.escape_debug()), bridge);
    let Some(bridge) = bridge else {
        return Err(problems.into_failure("'mesh reset --help' explains the options"));
    };
    let run_dir = &args.router.run_dir.run_dir;
    let removed = mesh_daemon::reset_host(run_dir, &args.state_dir.state_dir, &bridge);
    Ok(ResetDocument {
        pid: None,
        removed: removed.map_err(|error| launch::failure(&error))?,
        handed_over_to: None,
    })
}

/// Waits for the end of a router that has said that it ends. It shares this command's process namespace, as the pids
/// in its answers suppose.
fn wait_for_router(pid: u32, deadline: Instant, timeout: Duration) -> Result<(), Failure> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process =
        process.ok_or_else(|| Failure::new(ErrorKind::Internal, format!("{pid} is no process id")))?;
    match process::wait_for_end(process, deadline) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let message = format!("the router (pid {pid}) has not ended within {} s", timeout.as_secs_f64());
            Err(Failure::new(ErrorKind::Timeout, message)
                .with_hint("it is ending; its log says what it waits for"))
        }
        Err(errno) => {
            Err(Failure::new(ErrorKind::Internal, format!("cannot wait for the router (pid {pid}): {errno}")))
        }
    }
}

pub(crate) fn print_addresses(addresses: &[IpNet]) -> Result<(), Failure> {
    output::print(&addresses.iter().map(|address| format!("{address}\n")).collect::<String>())
}
