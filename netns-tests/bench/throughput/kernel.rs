//! What the kernel does without anybody's help: the wire, and a bridge over VXLAN with the entries that a router would write.

use anyhow::Result;

use crate::Subject;
use crate::ground::{Ground, Started};

pub(crate) const SUBJECTS: &[Subject] = &[
    Subject {
        name: "wire",
        program: None,
        about: "the hosts themselves, without any overlay",
        start: |ground| Ok(Started::between_hosts(ground, &ground.b.ip().to_string(), Vec::new())),
    },
    Subject {
        name: "kernel VXLAN",
        program: None,
        about: "`ip link add type vxlan id 5 remote … dstport 4789 nolearning` in a bridge, MTU 1450; containers by veth",
        start: vxlan,
    },
];

fn vxlan(ground: &Ground) -> Result<Started> {
    let mut containers = Vec::new();
    for (number, (_, host)) in (1..).zip(ground.both()) {
        let other = if number == 1 { ground.b.ip() } else { ground.a.ip() };
        let container = host.container("c")?;
        let name = container.name();
        let lines = format!(
            "link add br0 type bridge mcast_snooping 0\n\
             link add vx0 mtu 1450 type vxlan id 5 remote {other} dstport 4789 nolearning\n\
             link add v0 mtu 1450 type veth peer name c0 mtu 1450 netns {name}\n\
             link set vx0 master br0 up\nlink set v0 master br0 up\nlink set br0 up\n"
        );
        host.cmd("ip").args(["-batch", "-"]).stdin(lines).run()?;
        let lines = format!("addr add 10.40.0.{number}/24 dev c0\nlink set c0 up\n");
        container.cmd("ip").args(["-batch", "-"]).stdin(lines).run()?;
        containers.push(container);
    }
    Ok(Started::between([&containers[0], &containers[1]], "10.40.0.2", Vec::new()))
}
