//! `mesh expose` and `mesh hide`: each is one request to the router.

use mesh_api::{AddressTarget, AddressesDocument, Command, Failure};

use crate::args::{ExposeArgs, HideArgs, Output, RouterArgs};
use crate::control::{call_and_wait, print_addresses, timeout_ms};
use crate::problems::Problems;
use crate::{address, output, overlaps};

/// Advice for addresses.
const ADDRESS_HINT: &str = "ADDR is as 10.32.1.1/24, net:10.32.7.0/24 or net:default";

/// Gives the host addresses in the network.
pub(crate) fn expose(args: &ExposeArgs, output: Output) -> Result<(), Failure> {
    let addresses = addresses(&args.addresses)?;
    let command = Command::Expose {
        addresses: addresses.clone(),
        names: args.names.clone(),
        masquerade: !args.no_masquerade,
        timeout_ms: timeout_ms(&args.router),
    };
    ask(&args.router, output, command)?;
    overlaps::warn(&args.router, &addresses, output);
    Ok(())
}

/// Takes them away.
pub(crate) fn hide(args: &HideArgs, output: Output) -> Result<(), Failure> {
    let addresses = addresses(&args.addresses)?;
    ask(&args.router, output, Command::Hide { addresses })
}

fn addresses(texts: &[String]) -> Result<Vec<AddressTarget>, Failure> {
    let mut problems = Problems::default();
    match address::addresses(texts, &mut problems) {
        Some(addresses) => Ok(addresses),
        None => Err(problems.into_failure(ADDRESS_HINT)),
    }
}

fn ask(router: &RouterArgs, output: Output, command: Command) -> Result<(), Failure> {
    let document: AddressesDocument = call_and_wait(router, output, command)?;
    match output {
        Output::Human => print_addresses(&document.addresses),
        Output::Json => output::print_json(&document),
    }
}
