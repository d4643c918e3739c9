//! `mesh` itself.

use anyhow::Result;

use crate::Subject;
use crate::ground::{Ground, Started};

pub(crate) const SUBJECTS: &[Subject] = &[
    Subject {
        name: "mesh sleeve, clear",
        program: None,
        about: "`MESH_DATAPATH=sleeve mesh launch`, without a password; containers attached",
        start: |ground| join(ground, "sleeve", None),
    },
    Subject {
        name: "mesh sleeve, sealed",
        program: None,
        about: "`MESH_DATAPATH=sleeve mesh launch`, with a password (AES-256-GCM); containers attached",
        start: |ground| join(ground, "sleeve", Some("a password for a benchmark")),
    },
    Subject {
        name: "mesh kernel, clear",
        program: None,
        about: "`MESH_DATAPATH=vxlan mesh launch`, without a password; containers attached, port security as always",
        start: |ground| join(ground, "vxlan", None),
    },
    Subject {
        name: "mesh datapath, clear",
        program: None,
        about: "`MESH_DATAPATH=ovs mesh launch`, without a password; containers attached, port security as always",
        start: |ground| join(ground, "ovs", None),
    },
];

/// A router on each host, and a container at each.
fn join(ground: &Ground, datapath: &str, password: Option<&str>) -> Result<Started> {
    let first_address = ground.a.ip().to_string();
    for (host, peers) in [(&ground.a, &[][..]), (&ground.b, &[first_address.as_str()][..])] {
        let command = host.mesh_cmd(["launch"])?.env("MESH_DATAPATH", datapath).args(peers);
        password
            .into_iter()
            .fold(command, |command, password| command.env("MESH_PASSWORD", password))
            .run()?;
    }
    let (c1, c2) = (ground.a.container("c1")?, ground.b.container("c2")?);
    ground.a.mesh(["attach", &c1.spec(), "10.40.0.1/24"])?;
    ground.b.mesh(["attach", &c2.spec(), "10.40.0.2/24"])?;
    let pids = vec![ground.a.router_pid()?, ground.b.router_pid()?];
    Ok(Started::between([&c1, &c2], "10.40.0.2", pids))
}
