//! Whether the host itself has routes to subnets of containers: legal, and rarely meant. Changes nothing.

use std::collections::BTreeSet;

use ipnet::IpNet;
use mesh_api::{OVERLAPS_ASKED_MAX, OverlapDocument, Response};
use mesh_hostnet::HostError;

use crate::control::Answer;
use crate::host;

/// Looks, and answers.
pub(crate) fn find(networks: Vec<IpNet>, answer: Answer) {
    tokio::spawn(async move {
        let found = host::look(move || among(networks)).await;
        answer.send(found.map_or_else(Response::from, |documents| Response::document(&documents)));
    });
}

fn among(networks: Vec<IpNet>) -> Result<Vec<OverlapDocument>, HostError> {
    let networks: BTreeSet<_> =
        networks.into_iter().take(OVERLAPS_ASKED_MAX).map(|network| network.trunc()).collect();
    let mut overlaps = Vec::new();
    for network in networks {
        if let Some(route) = mesh_hostnet::route_into(network)? {
            overlaps.push(OverlapDocument { network, route: route.to_string() });
        }
    }
    Ok(overlaps)
}
