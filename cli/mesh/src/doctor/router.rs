//! Whether the router that runs here is well.

use std::collections::BTreeSet;

use mesh_api::{AttachDocument, Command, IpamState};

use crate::doctor::{Facts, Finding, RouterFacts};
use crate::overlaps;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let Some(router) = &facts.router else {
        return vec![Finding::ok("router", "none is running here")];
    };
    let status = &router.status;
    let mut findings = Vec::new();
    let version = env!("CARGO_PKG_VERSION");
    if status.version == version {
        findings.push(Finding::ok(
            "router",
            format!("{} runs, pid {}", status.router.nickname, status.router.pid),
        ));
    } else {
        let message = format!("it is of version {}, this program of {version}", status.version);
        findings.push(Finding::warn("router", message, "mesh stop, and mesh launch --resume"));
    }
    if status.router.fenced {
        findings.push(Finding::fail(
            "router",
            "it stands aside: a copy of its identity is at work elsewhere",
            "mesh reset on one of the two hosts",
        ));
    }
    if !status.router.encryption {
        let message = "it has no password: anybody may join, and frames travel in clear";
        findings.push(Finding::warn(
            "router",
            message,
            "'mesh secret generate --help' tells how to protect the network",
        ));
    }
    if let Some(ipam) = &status.ipam {
        let message = format!(
            "{}{}{}",
            ipam.state.as_str(),
            if ipam.detail.is_empty() { "" } else { ": " },
            ipam.detail
        );
        findings.push(match ipam.state {
            IpamState::Ready | IpamState::Idle | IpamState::Observing => Finding::ok("addresses", message),
            IpamState::Disabled if ipam.range.is_none() => Finding::ok("addresses", "users manage them"),
            IpamState::Disabled => Finding::fail("addresses", message, "'mesh status ipam' tells more"),
            IpamState::AwaitingConsensus | IpamState::WaitingForSpace | IpamState::UnreachableOwner => {
                Finding::warn("addresses", message, "'mesh status ipam' tells whom it waits for")
            }
        });
    }
    findings.extend(subnets(router));
    findings
}

/// The subnets of containers, and of the host itself, that the host reaches by routes of its own.
fn subnets(router: &RouterFacts) -> Vec<Finding> {
    let attached: Vec<AttachDocument> =
        router.call(Command::Ps { containers: Vec::new() }).unwrap_or_default();
    let exposed = router.status.firewall.iter().flat_map(|firewall| &firewall.exposed);
    let of_containers = attached.iter().flat_map(|one| one.addresses.iter().copied());
    let networks: BTreeSet<_> =
        of_containers.chain(exposed.map(|one| one.address)).map(|network| network.trunc()).collect();
    let finding = |overlap| {
        let remedy = "detach what is in this subnet and attach it to another, or give that route up";
        Finding::warn("routes", overlaps::message(&overlap), remedy)
    };
    overlaps::find(&router.args, networks.into_iter().collect()).into_iter().map(finding).collect()
}
