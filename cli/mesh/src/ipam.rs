//! Commands of address management: each is one request to the router.

use mesh_api::{AddressesDocument, Command, Failure, PrimeDocument, RemovedPeersDocument};

use crate::args::{HolderArgs, IpamCommand, Output, PrimeArgs, RmpeerArgs, RouterArgs};
use crate::control::{call_and_wait, print_addresses, timeout_ms};
use crate::problems::Problems;
use crate::{address, output};

/// Advice for a subnet or an address.
const SUBNET_HINT: &str = "SUBNET is as 10.32.7.0/24, CIDR as 10.32.7.9/24";

/// Runs `mesh ipam`.
pub(crate) fn ipam(command: &IpamCommand, output: Output) -> Result<(), Failure> {
    match command {
        IpamCommand::Allocate { holder } => {
            let timeout_ms = timeout_ms(&holder.router);
            of_holder(holder, output, |id, subnet| Command::IpamAllocate { id, subnet, timeout_ms })
        }
        IpamCommand::Lookup { holder } => {
            of_holder(holder, output, |id, subnet| Command::IpamLookup { id, subnet })
        }
        IpamCommand::Release { holder } => {
            of_holder(holder, output, |id, subnet| Command::IpamRelease { id, subnet })
        }
        IpamCommand::Claim { id, cidr, router } => {
            let mut problems = Problems::default();
            let Some(address) = address::address(cidr, &mut problems) else {
                return Err(problems.into_failure(SUBNET_HINT));
            };
            let timeout_ms = timeout_ms(router);
            ask(router, output, Command::IpamClaim { id: id.clone(), address, timeout_ms })
        }
    }
}

/// Waits until the network exists.
pub(crate) fn prime(args: &PrimeArgs, output: Output) -> Result<(), Failure> {
    let command = Command::Prime { timeout_ms: timeout_ms(&args.router) };
    let document: PrimeDocument = call_and_wait(&args.router, output, command)?;
    match output {
        Output::Human => output::print(&format!("network {} is founded\n", document.network_id)),
        Output::Json => output::print_json(&document),
    }
}

/// Declares peers gone for good.
pub(crate) fn rmpeer(args: &RmpeerArgs, output: Output) -> Result<(), Failure> {
    let command = Command::RemovePeers { peers: args.peers.clone(), timeout_ms: timeout_ms(&args.router) };
    let document: RemovedPeersDocument = call_and_wait(&args.router, output, command)?;
    let taken = document
        .removed
        .iter()
        .map(|peer| format!("{} addresses of {} were taken over\n", peer.addresses, peer.peer_id));
    match output {
        Output::Human => output::print(&taken.collect::<String>()),
        Output::Json => output::print_json(&document),
    }
}

fn of_holder(
    holder: &HolderArgs,
    output: Output,
    command: impl FnOnce(String, Option<ipnet::IpNet>) -> Command,
) -> Result<(), Failure> {
    let mut problems = Problems::default();
    let subnet = match &holder.subnet {
        None => None,
        Some(text) => match address::subnet(text, &mut problems) {
            None => return Err(problems.into_failure(SUBNET_HINT)),
            subnet @ Some(_) => subnet,
        },
    };
    ask(&holder.router, output, command(holder.id.clone(), subnet))
}

fn ask(router: &RouterArgs, output: Output, command: Command) -> Result<(), Failure> {
    let document: AddressesDocument = call_and_wait(router, output, command)?;
    match output {
        Output::Human => print_addresses(&document.addresses),
        Output::Json => output::print_json(&document),
    }
}
