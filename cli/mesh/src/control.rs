//! Commands that change something: each is one request to the router, and `reset` does without one if it must.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use mesh_api::{
    AttachDocument, Client, ClientError, Command, DetachDocument, ErrorKind, Failure, ResetDocument,
    StopDocument, TargetListDocument,
};
use mesh_daemon::{BridgeName, PeerTarget};
use rustix::process::Pid;

use crate::args::{AttachArgs, ConnectArgs, DetachArgs, ForgetArgs, Output, ResetArgs, RouterArgs};
use crate::problems::Problems;
use crate::{address, launch, output, process};

/// Advice for a container or an address that this version does not take.
const CONTAINER_HINT: &str =
    "CONTAINER is netns:NAME, netns:/path or pid:N; ADDR is A.B.C.D/LEN, or an IPv6 address with /LEN";

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
    let answer = connect(&args.router).and_then(|client| client.call(Command::Reset { force: args.force }));
    let document: ResetDocument = match answer {
        Ok(document) => document,
        // A router that closes without an answer is dying: what it leaves is removed as soon as it is dead.
        Err(ClientError::NotRunning(_) | ClientError::Closed) => reset_without_router(args)?,
        Err(error) => return Err(error.into()),
    };
    if let Some(pid) = document.pid {
        wait_for_router(pid, deadline, args.router.timeout.timeout)?;
    }
    match output {
        Output::Human if document.removed.is_empty() => output::print("nothing to remove\n"),
        Output::Human => output::print(
            &document.removed.iter().map(|what| format!("removed {what}\n")).collect::<String>(),
        ),
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
    let netns = address::container(&args.container, &mut problems);
    let addresses = some_addresses(&args.addresses, &mut problems);
    let ifname = address::interface_name(&args.ifname);
    let ifname = problems.check(&format!("--ifname '{}'", args.ifname.escape_debug()), ifname);
    let (Some(netns), Some(addresses), Some(ifname)) = (netns, addresses, ifname.map(str::to_owned)) else {
        return Err(problems.into_failure(CONTAINER_HINT));
    };
    let command = Command::Attach { netns, addresses, ifname, multicast_route: !args.no_multicast_route };
    let attached: AttachDocument = connect(&args.router)?.call(command)?;
    match output {
        Output::Human => print_addresses(&attached.addresses),
        Output::Json => output::print_json(&attached),
    }
}

/// Takes addresses from a container.
pub(crate) fn detach(args: &DetachArgs, output: Output) -> Result<(), Failure> {
    let mut problems = Problems::default();
    let netns = address::container(&args.container, &mut problems);
    let addresses = address::addresses(&args.addresses, &mut problems);
    let (Some(netns), Some(addresses)) = (netns, addresses) else {
        return Err(problems.into_failure(CONTAINER_HINT));
    };
    let detached: DetachDocument = connect(&args.router)?.call(Command::Detach { netns, addresses })?;
    match output {
        Output::Human => print_addresses(&detached.addresses),
        Output::Json => output::print_json(&detached),
    }
}

/// Connects to the router of this host.
pub(crate) fn connect(router: &RouterArgs) -> Result<Client, ClientError> {
    Client::connect(&router.run_dir.run_dir, router.timeout.timeout)
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

/// The addresses of a container, at least one: with none the router would have to choose.
fn some_addresses(texts: &[String], problems: &mut Problems) -> Option<Vec<IpNet>> {
    if texts.is_empty() {
        let message = "this version does not choose addresses: give at least one ADDR, as in 10.32.1.1/24";
        problems.add(ErrorKind::Unsupported, message.to_owned());
        return None;
    }
    address::addresses(texts, problems)
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
    Ok(ResetDocument { pid: None, removed: removed.map_err(|error| launch::failure(&error))? })
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

fn print_addresses(addresses: &[IpNet]) -> Result<(), Failure> {
    output::print(&addresses.iter().map(|address| format!("{address}\n")).collect::<String>())
}
