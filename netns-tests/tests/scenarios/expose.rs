//! The host itself in the network, and the ways in and out by it: `mesh expose`, `mesh hide`
//! (rows 124 to 129 and 266 to 270 of the study of Weave Net).

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use mesh_api::AddressesDocument;
use mesh_lab::{Container, Host, Lab, Signal, eventually, secs};

use crate::support::{READY, all_connected, attach, hints_at, launch, refused, status};

/// The host's address in the containers' subnet.
const EXPOSED: &str = "10.32.1.100/24";

/// A host with a router and a container, and one outside that knows nothing of the network.
struct Gate {
    _lab: Lab,
    host: Host,
    outside: Host,
    container: Container,
}

impl Gate {
    fn new(title: &str) -> Result<Self> {
        let lab = Lab::new(title)?;
        let (host, outside) = (lab.host("h1")?, lab.host("outside")?);
        launch(&host, &[], None)?;
        let container = host.container("c")?;
        attach(&host, &container, &["10.32.1.1/24"])?;
        Ok(Self { _lab: lab, host, outside, container })
    }

    /// The container leaves its subnet by the host, the outside reaches it by the host.
    fn route(&self) -> Result<()> {
        self.container.run(["ip", "route", "replace", "default", "via", "10.32.1.100"])?;
        let by = self.host.ip().to_string();
        self.outside.run(["ip", "route", "replace", "10.32.1.0/24", "via", &by])?;
        Ok(())
    }

    fn both_ways(&self) -> Result<()> {
        eventually(READY, || self.container.ping(self.outside.ip()))?;
        eventually(READY, || self.outside.ping("10.32.1.1"))?;
        Ok(())
    }
}

#[test]
fn an_exposed_host_reaches_the_containers_of_its_subnet_until_it_hides() -> Result<()> {
    let lab = Lab::new("exposed")?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    launch(&one, &[], None)?;
    launch(&two, &[one.ip().to_string()], None)?;
    all_connected(&[&one, &two])?;
    let (near, far, other) = (one.container("near")?, two.container("far")?, one.container("other")?);
    attach(&one, &near, &["10.32.1.1/24", "fd32:1::1/64"])?;
    attach(&two, &far, &["10.32.1.2/24", "fd32:1::2/64"])?;
    attach(&one, &other, &["10.32.2.1/24"])?;
    let before = one.network_state()?;

    let printed = one.mesh(["expose", EXPOSED, "fd32:1::100/64"])?.stdout;
    ensure!(printed == format!("{EXPOSED}\nfd32:1::100/64\n"), "expose prints {printed:?}");
    let exposed = one.network_state()?;
    ensure!(one.mesh(["expose", EXPOSED, "fd32:1::100/64"])?.stdout == printed, "it is not idempotent");
    exposed.must_equal(&one.network_state()?)?;

    for address in ["10.32.1.1", "10.32.1.2", "fd32:1::1", "fd32:1::2"] {
        eventually(READY, || one.ping(address))?;
    }
    for container in [&near, &far] {
        eventually(READY, || container.ping("10.32.1.100"))?;
        eventually(READY, || container.ping("fd32:1::100"))?;
    }
    one.cannot_ping("10.32.2.1")?;

    let printed = one.mesh(["hide"])?.stdout;
    ensure!(printed == format!("{EXPOSED}\nfd32:1::100/64\n"), "hide prints {printed:?}");
    one.cannot_ping("10.32.1.1")?;
    before.must_equal(&one.network_state()?)?;
    ensure!(one.mesh(["hide", EXPOSED])?.stdout.is_empty(), "there is nothing to hide");
    Ok(())
}

#[test]
fn an_address_is_chosen_where_none_is_named_and_is_free_again_when_hidden() -> Result<()> {
    let lab = Lab::new("chosen")?;
    let host = lab.host("h1")?;
    let launched = host.mesh_cmd(["launch"])?.env("MESH_IPAM_RANGE", "10.32.0.0/16").run()?;
    ensure!(launched.success());

    let exposed: AddressesDocument = host.mesh(["expose", "-o", "json"])?.json()?;
    ensure!(exposed.addresses.len() == 1 && exposed.id == "mesh:expose", "{exposed:?}");
    let held: AddressesDocument = host.mesh(["ipam", "lookup", "mesh:expose", "-o", "json"])?.json()?;
    ensure!(held == exposed, "{held:?}");
    let again: AddressesDocument = host.mesh(["expose", "net:default", "-o", "json"])?.json()?;
    ensure!(again == exposed, "{again:?}");
    host.mesh(["hide", "net:default"])?;
    host.mesh_fails(4, ["ipam", "lookup", "mesh:expose"])?;
    Ok(())
}

#[test]
fn packets_to_and_from_the_outside_take_on_the_hosts_address() -> Result<()> {
    let gate = Gate::new("masquerade")?;
    gate.route()?;
    gate.container.cannot_ping(gate.outside.ip())?;
    gate.host.mesh(["expose", EXPOSED])?;

    // Neither side has a route to the other, but by addresses of the host.
    gate.outside.run(["ip", "route", "del", "10.32.1.0/24"])?;
    eventually(READY, || gate.container.ping(gate.outside.ip()))?;
    gate.container.run(["ip", "route", "del", "default"])?;
    let by = gate.host.ip().to_string();
    gate.outside.run(["ip", "route", "add", "10.32.1.0/24", "via", &by])?;
    eventually(READY, || gate.outside.ping("10.32.1.1"))?;

    gate.host.mesh(["expose", EXPOSED, "--no-masquerade"])?;
    gate.outside.cannot_ping("10.32.1.1")?;
    gate.route()?;
    gate.both_ways()
}

#[test]
fn containers_of_other_hosts_are_reached_by_an_exposed_host() -> Result<()> {
    let lab = Lab::new("gateway")?;
    let (one, two, outside) = (lab.host("h1")?, lab.host("h2")?, lab.host("outside")?);
    launch(&one, &[], None)?;
    launch(&two, &[one.ip().to_string()], None)?;
    all_connected(&[&one, &two])?;
    let far = two.container("far")?;
    attach(&two, &far, &["10.32.1.2/24"])?;
    for arguments in [&["expose", EXPOSED][..], &["expose", EXPOSED, "--no-masquerade"]] {
        one.mesh(arguments)?;
        far.run(["ip", "route", "replace", "default", "via", "10.32.1.100"])?;
        let by = one.ip().to_string();
        outside.run(["ip", "route", "replace", "10.32.1.0/24", "via", &by])?;
        eventually(READY, || far.ping(outside.ip()))?;
        eventually(READY, || outside.ping("10.32.1.2"))?;
    }
    Ok(())
}

#[test]
fn within_the_network_no_source_is_rewritten() -> Result<()> {
    let lab = Lab::new("sources")?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    launch(&one, &[], None)?;
    launch(&two, &[one.ip().to_string()], None)?;
    all_connected(&[&one, &two])?;
    let (a, b, c) = (one.container("a")?, one.container("b")?, two.container("c")?);
    attach(&one, &a, &["10.32.1.1/24"])?;
    attach(&one, &b, &["10.32.1.2/24"])?;
    attach(&two, &c, &["10.32.1.3/24"])?;
    one.mesh(["expose", EXPOSED])?;
    two.mesh(["expose", "10.32.1.101/24"])?;
    for (to, address) in [(&b, "10.32.1.2"), (&c, "10.32.1.3")] {
        let capture = to.capture("ethmesh")?;
        eventually(READY, || a.ping(address))?;
        let frames = capture.stop()?;
        let of =
            |host: u8| frames.count(|frame| !frame.outgoing && frame.contains(&[10, 32, 1, host, 10, 32, 1]));
        ensure!(of(1) > 0 && of(100) == 0 && of(101) == 0, "{} from it, {} {}", of(1), of(100), of(101));
    }
    Ok(())
}

#[test]
fn forwarding_survives_a_policy_of_iptables_and_leaves_no_trace_of_it() -> Result<()> {
    for (program, save) in
        [("iptables-nft", "iptables-nft-save"), ("iptables-legacy", "iptables-legacy-save")]
    {
        for docker in [false, true] {
            let lab = Lab::new("policy")?;
            let (host, outside) = (lab.host("h1")?, lab.host("outside")?);
            host.run([program, "-P", "FORWARD", "DROP"])?;
            if docker {
                // As Docker sets it up.
                host.run([program, "-N", "DOCKER-USER"])?;
                host.run([program, "-A", "DOCKER-USER", "-j", "RETURN"])?;
                host.run([program, "-A", "FORWARD", "-j", "DOCKER-USER"])?;
            }
            let dump = || -> Result<String> {
                let saved = host.run([save])?.stdout;
                let rules = saved.lines().filter(|line| !line.starts_with('#'));
                // Counters stand in brackets behind the chains' policies.
                Ok(rules.map(|line| format!("{}\n", line.split('[').next().unwrap_or_default())).collect())
            };
            let (before, state) = (dump()?, host.network_state()?);
            launch(&host, &[], None)?;
            let (container, neighbour) = (host.container("c")?, host.container("d")?);
            attach(&host, &container, &["10.32.1.1/24"])?;
            attach(&host, &neighbour, &["10.32.1.2/24"])?;
            host.mesh(["expose", EXPOSED])?;
            let gate = Gate { _lab: lab, host: host.clone(), outside: outside.clone(), container };
            gate.route()?;
            gate.both_ways()?;
            eventually(READY, || neighbour.ping("10.32.1.1"))?;

            // Somebody reloads their rules, ours among them.
            let chain = if docker { "DOCKER-USER" } else { "FORWARD" };
            host.run([program, "-F", chain])?;
            if docker {
                host.run([program, "-A", chain, "-j", "RETURN"])?;
            }
            eventually(secs(30), || gate.outside.ping("10.32.1.1"))?;

            host.mesh(["reset", "--force"])?;
            ensure!(dump()? == before, "{program}, Docker {docker}: {}", dump()?);
            state.must_equal(&host.network_state()?)?;
        }
    }
    Ok(())
}

#[test]
fn what_is_exposed_is_so_again_after_a_restart_of_the_router_and_of_the_host() -> Result<()> {
    let gate = Gate::new("again")?;
    gate.host.mesh(["expose", EXPOSED])?;
    gate.route()?;
    gate.both_ways()?;

    gate.host.kill_router(Signal::KILL)?;
    launch(&gate.host, &[], None)?;
    gate.both_ways()?;
    ensure!(status(&gate.host)?.firewall.is_some_and(|firewall| firewall.exposed.len() == 1));

    // All that a host forgets when it starts anew.
    gate.host.mesh(["stop"])?;
    gate.host.run(["ip", "link", "delete", "mesh0"])?;
    gate.host.run(["nft", "flush", "ruleset"])?;
    gate.host.run(["sysctl", "-qw", "net.ipv4.ip_forward=0"])?;
    launch(&gate.host, &[], None)?;
    let container = gate.host.container("new")?;
    attach(&gate.host, &container, &["10.32.1.7/24"])?;
    container.run(["ip", "route", "replace", "default", "via", "10.32.1.100"])?;
    eventually(READY, || container.ping(gate.outside.ip()))?;
    eventually(READY, || gate.outside.ping("10.32.1.7"))?;
    gate.host.mesh(["hide"])?;
    ensure!(gate.host.sysctl("net.ipv4.ip_forward")?.trim() == "0", "the host goes on forwarding");
    Ok(())
}

#[test]
fn a_host_bears_names_at_its_addresses_until_it_hides_also_after_a_restart() -> Result<()> {
    let lab = Lab::new("gatename")?;
    let (one, two) = (lab.host("h1")?, lab.host("h2")?);
    launch(&one, &[], None)?;
    launch(&two, &[one.ip().to_string()], None)?;
    all_connected(&[&one, &two])?;
    one.mesh(["expose", EXPOSED, "--name", "gate", "--name", "door.mesh.internal"])?;
    one.mesh(["expose", "10.32.2.100/24", "--name", "other"])?;
    let is_found = |name: &str, address: &str| {
        let found = two.mesh(["dns", "lookup", name])?.stdout;
        ensure!(found == format!("{address}\n"), "{name} is at {found:?}");
        Ok::<_, anyhow::Error>(())
    };
    let all_found = || {
        is_found("gate", "10.32.1.100")?;
        is_found("door", "10.32.1.100")?;
        is_found("other", "10.32.2.100")
    };
    eventually(READY, all_found)?;
    let exposed = status(&one)?.firewall.map(|firewall| firewall.exposed).unwrap_or_default();
    let names: Vec<_> = exposed.iter().flat_map(|one| &one.names).collect();
    ensure!(names == ["door.mesh.internal.", "gate.mesh.internal.", "other.mesh.internal."], "{exposed:?}");

    one.kill_router(Signal::KILL)?;
    launch(&one, &[], None)?;
    all_connected(&[&one, &two])?;
    eventually(READY, all_found)?;
    one.mesh(["hide", "10.32.1.100/24"])?;
    eventually(READY, || two.mesh_fails(4, ["dns", "lookup", "gate"]))?;
    is_found("other", "10.32.2.100")?;

    let failure = refused(&one, 1, &["expose", "10.32.3.1/24", "--name", "elsewhere.example.com"])?;
    hints_at(&failure, &["mesh.internal"])?;
    ensure!(status(&one)?.firewall.is_some_and(|firewall| firewall.exposed.len() == 1), "it was exposed");
    Ok(())
}

/// Study, row 129: a service of a container is had at the host's own address, by a rule of the user's.
#[test]
fn a_port_of_an_exposed_host_leads_to_a_container_by_a_rule_of_the_users() -> Result<()> {
    let gate = Gate::new("dnat")?;
    gate.host.mesh(["expose", EXPOSED])?;
    let rules = "table ip users { chain in { type nat hook prerouting priority dstnat; \
                 iifname eth0 tcp dport 8080 dnat to 10.32.1.1:80; }; }";
    gate.host.run(["nft", rules])?;
    let _service = gate.container.echo_server(80)?;
    let at_host = SocketAddr::from((gate.host.ip(), 8080));
    eventually(READY, || gate.outside.echo(at_host, b"is anybody there?"))?;
    // Our rules come and go beside theirs.
    let theirs =
        || Ok::<_, anyhow::Error>(gate.host.run(["nft", "-s", "list", "table", "ip", "users"])?.stdout);
    let before = theirs()?;
    gate.host.mesh(["hide"])?;
    ensure!(gate.outside.echo(at_host, b"still there?").is_err(), "a hidden host leads on");
    ensure!(theirs()? == before, "somebody else's rules have changed");
    Ok(())
}

/// Study, row 273: whoever else changes iptables meanwhile is waited for.
#[test]
fn a_lock_of_iptables_that_somebody_holds_is_waited_for() -> Result<()> {
    let lab = Lab::new("xtables")?;
    let (host, outside) = (lab.host("h1")?, lab.host("outside")?);
    host.run(["iptables-legacy", "-P", "FORWARD", "DROP"])?;
    let directory = tempfile::tempdir()?;
    let lock = directory.path().join("lock");
    // A lock of this host's own, since that of the machine is everybody's (iptables(8)).
    let hold = host.cmd("flock").arg(&lock).args(["sleep", "5"]).spawn()?;
    eventually(READY, || lock.exists())?;
    host.mesh_cmd(["launch"])?.env("XTABLES_LOCKFILE", &lock).run()?;
    let container = host.container("c")?;
    attach(&host, &container, &["10.32.1.1/24"])?;
    host.mesh(["expose", EXPOSED])?;
    let gate = Gate { _lab: lab, host, outside, container };
    gate.route()?;
    eventually(secs(30), || gate.both_ways())?;
    drop(hold);
    Ok(())
}
