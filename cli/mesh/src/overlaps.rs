//! Warns of addresses that a user has chosen and that the host has routes to. Owns the words; who looks is the router.

use ipnet::IpNet;
use mesh_api::{AddressTarget, Command, OverlapDocument};

use crate::args::{Output, RouterArgs};
use crate::{control, output};

/// Says on standard error which of these subnets the host reaches otherwise. What was asked for has been done; where the
/// router does not answer, nothing is said.
pub(crate) fn warn(router: &RouterArgs, targets: &[AddressTarget], output: Output) {
    let chosen = targets.iter().filter_map(|target| match target {
        AddressTarget::Ip(network) | AddressTarget::Subnet(network) => Some(*network),
        AddressTarget::DefaultSubnet => None,
    });
    let networks: Vec<_> = chosen.collect();
    if networks.is_empty() {
        return;
    }
    for overlap in find(router, networks) {
        output::warn(&message(&overlap), output);
    }
}

/// To which of these networks the host has routes of its own; none where the router does not say.
pub(crate) fn find(router: &RouterArgs, networks: Vec<IpNet>) -> Vec<OverlapDocument> {
    let asked = control::connect(router).and_then(|client| client.call(Command::Overlaps { networks }));
    asked.unwrap_or_default()
}

pub(crate) fn message(overlap: &OverlapDocument) -> String {
    let OverlapDocument { network, route } = overlap;
    format!(
        "{network} overlaps a route of this host ({route}): of two addresses that are alike only one is reached"
    )
}
