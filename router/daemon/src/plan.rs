//! The node's plan in the data plane's words. The two crates do not know each other.

use std::sync::Arc;

use mesh_dataplane::engine as dataplane;
use mesh_node::Plan;

pub(crate) fn to_dataplane(plan: Plan) -> dataplane::Plan {
    let links = plan.links.into_iter().map(|link| dataplane::LinkPlan {
        peer: link.peer,
        remote: link.remote,
        candidates: link.candidates,
        roams: link.roams,
        in_doubt: link.in_doubt,
        receive: link
            .receive
            .into_iter()
            .map(|end| dataplane::ReceivePlan { epoch: end.epoch, index: end.index, key: end.key })
            .collect(),
        send: link.send.map(|end| dataplane::SendPlan { epoch: end.epoch, index: end.index, key: end.key }),
    });
    let trees = plan
        .routes
        .trees
        .into_iter()
        .map(|(source, tree)| (source, dataplane::Tree { parent: tree.parent, children: tree.children }));
    let groups = Arc::unwrap_or_clone(plan.groups);
    let groups = dataplane::Groups { selective: groups.selective, members: groups.members };
    dataplane::Plan {
        me: plan.me,
        digest: plan.routes.digest,
        links: links.collect(),
        next_hop: plan.routes.next_hop,
        trees: trees.collect(),
        groups: Arc::new(groups),
    }
}
