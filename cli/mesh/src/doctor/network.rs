//! The host's network as a router finds it: MTU, routes, forwarding, firewall, name servers.

use std::process::{Command, Stdio};

use ipnet::{IpNet, Ipv4Net};

use crate::doctor::files::Files;
use crate::doctor::{Facts, Finding};

/// By how much a container's packets are shorter than those of the path, in bytes.
const OVERHEAD: u64 = 110;

/// What an interface must carry, so that IPv6 (at least 1280 bytes, RFC 8200, section 5) passes between containers.
const MTU_MIN: u64 = 1280 + OVERHEAD;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let Facts { files, config, router, .. } = facts;
    let bridge = router.as_ref().map(|router| router.status.router.bridge.clone());
    let bridge =
        bridge.or_else(|| config.as_ref().map(|config| config.bridge.to_string())).unwrap_or_default();
    let range = config.as_ref().and_then(|config| config.ipam.as_ref()).map(|ipam| ipam.range);
    let mut findings = vec![mtu(files), forwarding(files), name_servers(files)];
    findings.extend(systemd_resolved(files, facts, &bridge));
    findings.extend(range.map(|range| routes(files, range, &bridge)));
    findings.push(filter(files, forward_policy().as_deref()));
    findings
}

fn mtu(files: &Files) -> Finding {
    let has_device = |name: &String| files.exists(format!("sys/class/net/{name}/device"));
    let mut all = files.names("sys/class/net");
    // Those of a router carry what others leave for them.
    all.retain(|name| {
        !files.read(format!("sys/class/net/{name}/ifalias")).is_some_and(|mark| mark.starts_with("mesh "))
    });
    let mut interfaces: Vec<_> = all.iter().filter(|name| has_device(name)).collect();
    if interfaces.is_empty() {
        // Of a machine without devices, as a container, any interface may be the way out.
        interfaces = all.iter().filter(|name| *name != "lo").collect();
    }
    let up = interfaces
        .iter()
        .filter(|name| files.read(format!("sys/class/net/{name}/operstate")).as_deref() != Some("down"));
    let smallest =
        up.filter_map(|name| Some((files.number(format!("sys/class/net/{name}/mtu"))?, *name))).min();
    match smallest {
        None => Finding::warn("mtu", "this host has no interface but lo", "give it one"),
        Some((mtu, name)) if mtu < MTU_MIN => Finding::warn(
            "mtu",
            format!("{name} carries {mtu} bytes: too little for IPv6 between containers"),
            format!("ip link set {name} mtu 1500, if all that is behind it can"),
        ),
        Some((mtu, name)) => Finding::ok(
            "mtu",
            format!("{name} carries {mtu} bytes, containers get {} of them", mtu - OVERHEAD),
        ),
    }
}

/// Containers reach each other without it.
fn forwarding(files: &Files) -> Finding {
    match files.number("proc/sys/net/ipv4/ip_forward") {
        Some(0) => {
            Finding::ok("forwarding", "off: containers reach each other, but nothing outside the network")
        }
        Some(_) => Finding::ok("forwarding", "on"),
        None => Finding::warn("forwarding", "cannot be read", "mount /proc"),
    }
}

fn name_servers(files: &Files) -> Finding {
    let text = files.read("etc/resolv.conf").unwrap_or_default();
    let servers =
        text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next());
    let servers: Vec<_> = servers.collect();
    if servers.is_empty() {
        let message = "/etc/resolv.conf names no server: peers can only be given by address";
        return Finding::warn("dns", message, "add a line 'nameserver ADDRESS'");
    }
    Finding::ok("dns", format!("names are asked of {}", servers.join(", ")))
}

/// How this host's own programs come to know the network's names where systemd-resolved asks for them: by a server for
/// one domain at an interface (resolvectl(1)). Containers need nothing of it.
fn systemd_resolved(files: &Files, facts: &Facts, bridge: &str) -> Option<Finding> {
    let dns = facts.router.as_ref()?.status.dns.as_ref()?;
    let server = dns.listen.iter().find(|server| server.port() == 53)?.ip();
    if !files.exists("run/systemd/resolve") {
        return None;
    }
    let domain = dns.domain.trim_end_matches('.');
    let mut finding = Finding::ok(
        "dns",
        format!("systemd-resolved asks for this host; names of {domain} it asks of {server} once it is told"),
    );
    finding.remedy =
        Some(format!("resolvectl dns {bridge} {server} && resolvectl domain {bridge} '~{domain}'"));
    Some(finding)
}

/// Whether the host has routes of its own into the network's addresses.
fn routes(files: &Files, range: IpNet, bridge: &str) -> Finding {
    let IpNet::V4(range) = range else {
        return Finding::ok("routes", format!("{range} is of IPv6, and not looked for"));
    };
    let text = files.read("proc/net/route").unwrap_or_default();
    let clash = text.lines().skip(1).filter_map(route).find(|(interface, network)| {
        *interface != bridge
            && network.prefix_len() > 0
            && (network.contains(&range) || range.contains(network))
    });
    match clash {
        None => Finding::ok("routes", format!("none of this host's leads into {range}")),
        Some((interface, network)) => Finding::fail(
            "routes",
            format!("{network} on {interface} overlaps the network's range {range}"),
            "choose another with --ipam-range, the same on all hosts, or give that network up",
        ),
    }
}

/// Interface and destination of a line of `/proc/net/route`, whose numbers are hexadecimal in the order of the machine.
fn route(line: &str) -> Option<(&str, Ipv4Net)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let number = |field: &str| u32::from_str_radix(field, 16).ok().map(u32::from_be);
    let (network, mask) = (number(fields.get(1)?)?, number(fields.get(7)?)?);
    let length = u8::try_from(mask.leading_ones()).ok()?;
    Some((fields.first()?, Ipv4Net::new(network.into(), length).ok()?))
}

/// What iptables does to packets that nothing in its chain FORWARD speaks of; `None` where nobody can tell.
fn forward_policy() -> Option<String> {
    let run = Command::new("iptables")
        .args(["-w", "2", "-S", "FORWARD"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let text = String::from_utf8(run.ok()?.stdout).ok()?;
    text.lines().find_map(|line| line.strip_prefix("-P FORWARD ")).map(str::to_owned)
}

/// Frames that a bridge passes on from port to port go through iptables too where bridge filtering is on.
fn filter(files: &Files, forward_policy: Option<&str>) -> Finding {
    let filtered = files.number("proc/sys/net/bridge/bridge-nf-call-iptables") == Some(1);
    match (filtered, forward_policy) {
        (true, Some("DROP")) => Finding::warn(
            "firewall",
            "bridge filtering is on and the policy of FORWARD is DROP, as Docker sets it: frames between containers of this host may be dropped",
            "sysctl net.bridge.bridge-nf-call-iptables=0, or iptables -I DOCKER-USER -i mesh0 -o mesh0 -j ACCEPT",
        ),
        (true, Some(_) | None) => {
            Finding::ok("firewall", "bridge filtering is on, and nothing is known to drop frames")
        }
        (false, _) => Finding::ok("firewall", "frames between containers pass no iptables"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::doctor::Outcome;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_route_into_the_range_is_found_and_the_bridges_own_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        let range = "10.32.0.0/12".parse().unwrap();
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";
        let line = |interface, destination: u32, mask: u32| {
            let raw = |address: u32| address.to_be();
            format!("{interface}\t{:08X}\t0\t1\t0\t0\t0\t{:08X}\n", raw(destination), raw(mask))
        };
        let default = line("eth0", 0, 0);
        write(
            dir.path(),
            "proc/net/route",
            &format!("{head}{default}{}", line("mesh0", 0x0a20_0000, 0xfff0_0000)),
        );
        assert_eq!(routes(&files, range, "mesh0").result, Outcome::Ok);
        for (destination, mask) in [(0x0a00_0000, 0xff00_0000), (0x0a21_0000, 0xffff_0000)] {
            write(
                dir.path(),
                "proc/net/route",
                &format!("{head}{default}{}", line("eth1", destination, mask)),
            );
            let finding = routes(&files, range, "mesh0");
            assert!(finding.result == Outcome::Fail && finding.message.contains("on eth1"), "{finding:?}");
        }
    }

    #[test]
    fn the_smallest_interface_that_is_up_decides() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        assert_eq!(mtu(&files).result, Outcome::Warn);
        for (name, size, state) in
            [("lo", "65536", "unknown"), ("eth0", "1500", "up"), ("eth1", "576", "down")]
        {
            write(dir.path(), &format!("sys/class/net/{name}/mtu"), size);
            write(dir.path(), &format!("sys/class/net/{name}/operstate"), state);
        }
        assert!(
            mtu(&files).message.contains("eth0 carries 1500 bytes, containers get 1390"),
            "{:?}",
            mtu(&files)
        );
        write(dir.path(), "sys/class/net/mesh0/mtu", "1390");
        write(dir.path(), "sys/class/net/mesh0/ifalias", "mesh bridge");
        assert_eq!(mtu(&files).result, Outcome::Ok);
        write(dir.path(), "sys/class/net/eth1/operstate", "up");
        assert_eq!(mtu(&files).result, Outcome::Warn);
    }

    #[test]
    fn bridge_filtering_matters_only_where_forward_drops() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        assert_eq!(filter(&files, Some("DROP")).result, Outcome::Ok);
        write(dir.path(), "proc/sys/net/bridge/bridge-nf-call-iptables", "1\n");
        assert_eq!(filter(&files, Some("ACCEPT")).result, Outcome::Ok);
        assert_eq!(filter(&files, Some("DROP")).result, Outcome::Warn);
    }
}
