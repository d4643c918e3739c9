//! Names as simulated routers have them.

use mesh_names::{Order, Zone};

/// What all routers answer for.
pub(crate) fn zone() -> Zone {
    Zone {
        domain: "mesh.internal".parse().expect("a name"),
        ranges: Vec::new(),
        ttl: 1,
        negative_ttl: 1,
        servers: Vec::new(),
        order: Order::Shuffled,
    }
}
