//! Whole machines, clean ones, with systemd as their first process: what a newcomer does by README, and what a service manager
//! does to a router.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use mesh_lab::{Host, Lab, Machine, eventually, millis, secs};

use crate::package;

/// The unit's exposure as `systemd-analyze security` counts it, in tenths: 0 is none, 100 is that of a unit without any guard.
const EXPOSURE_MAX: u32 = 36;

/// What a service manager may take to see that a router is dead, and to start it again.
const RESTARTED: std::time::Duration = secs(30);

/// What apt, dpkg and systemd note of what they did, and caches that others keep.
const NOTES: [&str; 8] = [
    "/var/cache/",
    "/var/lib/apt/",
    "/var/lib/dpkg/",
    "/var/lib/systemd/",
    "/var/log/",
    "/root/",
    "/tmp/",
    "/etc/ld.so.cache",
];

/// A machine on each host, with the package of the binary under test as `/root/target/deb/mesh_0.1.0_amd64.deb`, as README names it.
fn machines<const N: usize>(lab: &Lab, names: [&str; N]) -> Result<Option<Vec<Machine>>> {
    if let Some(reason) = Machine::missing() {
        eprintln!("skipped: {reason}");
        return Ok(None);
    }
    let directory = tempfile::tempdir()?;
    let package = package::build(directory.path())?;
    let hosts = names.iter().map(|name| lab.host(name)).collect::<Result<Vec<_>>>()?;
    let boot = |host: &Host| -> Result<Machine> {
        let machine = Machine::boot(host)?;
        let target = machine.path("/root/target/deb");
        fs::create_dir_all(&target)?;
        let name = std::path::Path::new(&package).file_name().context("a package has a name")?;
        fs::copy(&package, target.join(name))?;
        // As the name service of their network would tell it.
        let lines: String = hosts.iter().map(|other| format!("{} {}\n", other.ip(), other.label())).collect();
        let names = machine.path("/etc/hosts");
        let known = fs::read_to_string(&names)?;
        fs::write(names, known + &lines)?;
        Ok(machine)
    };
    hosts.iter().map(boot).collect::<Result<Vec<_>>>().map(Some)
}

/// The commands of the block in README that begins with this one, without their comments.
fn readme(first: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(package::repository()?.join("README.md"))?;
    let begins = |block: &&str| block.starts_with(&format!("\n# {first}"));
    let block = text.split("```").find(begins).context("README has no such block")?;
    let command = |line: &str| Some(line.strip_prefix("# ")?.split("   ").next()?.trim().to_owned());
    Ok(block.lines().filter_map(command).collect())
}

/// All files of a machine but [`NOTES`].
fn files(machine: &Machine) -> Result<BTreeSet<String>> {
    let found = machine.sh("find / -xdev -not -type d")?.stdout;
    let noted = |path: &&str| NOTES.iter().any(|note| path.starts_with(note));
    Ok(found.lines().filter(|path| !noted(path)).map(str::to_owned).collect())
}

#[test]
fn a_newcomer_joins_two_clean_machines_by_readme_and_removes_mesh_without_a_trace() -> Result<()> {
    let lab = Lab::new("newcomer")?;
    let Some(machines) = machines(&lab, ["host1", "host2"])? else { return Ok(()) };
    let [one, two] = machines.as_slice() else { bail!("two machines") };
    let before = [(files(one)?, one.host().network_state()?), (files(two)?, two.host().network_state()?)];
    for machine in [one, two] {
        for command in readme("apt install")? {
            if command.starts_with("editor") {
                // What README says beside it.
                let peers = if std::ptr::eq(machine, two) { "peers = [\"host1\"]\n" } else { "" };
                let settings = format!("{peers}password-file = \"password\"\n");
                machine.cmd("tee").args(["-a", "/etc/mesh/mesh.toml"]).stdin(settings).run()?;
                continue;
            }
            if command.contains("secret generate") && std::ptr::eq(machine, two) {
                fs::copy(one.path("/etc/mesh/password"), two.path("/etc/mesh/password"))?;
                continue;
            }
            machine
                .cmd("sh")
                .args(["-c", &command.replace("apt install", "apt install -y")])
                .deadline(secs(100))
                .run()?;
        }
    }
    one.sh("ip netns add web && mesh attach netns:web --name web")?;
    two.sh("ip netns add client && mesh attach netns:client --resolv-conf")?;
    eventually(secs(20), || two.sh("ip netns exec client ping -c 1 -W 1 web.mesh.internal"))?;
    let doctor = one.sh("mesh doctor")?.stdout;
    ensure!(doctor.contains("eth0 carries 1500 bytes, containers get 1390 of them"), "{doctor}");

    for (machine, (files_before, state)) in [one, two].into_iter().zip(before) {
        machine.sh("ip netns delete web || ip netns delete client")?;
        machine.cmd("apt").args(["purge", "-y", "--autoremove", "mesh"]).deadline(secs(100)).run()?;
        let after = files(machine)?;
        let differing: Vec<_> = after.symmetric_difference(&files_before).collect();
        ensure!(differing.is_empty(), "{} is left with {differing:?}", machine.host().label());
        eventually(secs(10), || state.must_equal(&machine.host().network_state()?))?;
    }
    Ok(())
}

#[test]
fn systemd_starts_watches_reloads_and_ends_a_router() -> Result<()> {
    let lab = Lab::new("systemd")?;
    let Some(machines) = machines(&lab, ["h1"])? else { return Ok(()) };
    let machine = &machines[0];
    let install = "apt install -y ./target/deb/mesh_*.deb";
    machine.cmd("sh").args(["-c", install]).deadline(secs(100)).run()?;
    ensure!(!is_active(machine)?, "a package starts nothing");
    let exposure = machine.sh("systemd-analyze security --no-pager mesh | tail -n 1")?.stdout;
    println!("measured: {}", exposure.trim());
    machine.sh(&format!("systemd-analyze security --no-pager --threshold={EXPOSURE_MAX} mesh"))?;

    // Nobody wants to wait for a watchdog of twenty seconds.
    machine.sh("mkdir -p /run/systemd/system/mesh.service.d")?;
    let hurry = "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n";
    fs::write(machine.path("/run/systemd/system/mesh.service.d/hurry.conf"), hurry)?;
    machine.sh("systemctl daemon-reload && systemctl enable --now mesh")?;
    // It counts as started when it answers, and not before.
    machine.sh("mesh status && ip netns add a && mesh attach netns:a 10.32.0.1/24 && ip netns add b && mesh attach netns:b 10.32.0.2/24")?;
    let talk = || machine.sh("ip netns exec a ping -c 1 -W 1 10.32.0.2");
    eventually(secs(5), talk)?;
    let ready = show(machine, "After")?;
    ensure!(ready.contains("network-online.target") && ready.contains("docker.service"), "{ready}");

    for (signal, result) in [("KILL", "it is killed"), ("STOP", "it stands still")] {
        let before = main_pid(machine)?;
        machine.sh(&format!("kill -{signal} {before}"))?;
        talk().context(result)?;
        eventually(RESTARTED, || {
            ensure!(is_active(machine)? && main_pid(machine)? != before, "{result}, and not started again");
            machine.sh("mesh status")
        })?;
        talk().context(result)?;
    }
    ensure!(show(machine, "NRestarts")? == "2", "{}", show(machine, "NRestarts")?);

    // It follows its file, and a file that is wrong changes nothing.
    let before = main_pid(machine)?;
    let settings = machine.path("/etc/mesh/mesh.toml");
    fs::write(&settings, "peers = [\"192.0.2.7\"]\n")?;
    machine.sh("systemctl reload mesh || { systemctl status --no-pager mesh >&2; exit 1; }")?;
    let targets = || {
        let targets = machine.sh("mesh status targets")?.stdout;
        ensure!(targets.contains("192.0.2.7"), "{targets}");
        Ok(())
    };
    eventually(secs(5), targets)?;
    fs::write(&settings, "peers = 7\n")?;
    ensure!(!machine.cmd("systemctl").args(["reload", "mesh"]).outcome()?.success(), "a wrong file is taken");
    targets()?;
    ensure!(is_active(machine)? && main_pid(machine)? == before, "a reload has restarted it");
    fs::write(&settings, "")?;

    // An upgrade restarts it, and containers stay connected.
    machine.cmd("sh").args(["-c", &install.replace("install", "reinstall")]).deadline(secs(100)).run()?;
    ensure!(main_pid(machine)? != before, "an upgrade leaves the old one running");
    talk()?;
    // Told to end it ends, and is not started again.
    machine.sh("mesh stop")?;
    eventually(secs(10), || {
        ensure!(show(machine, "ActiveState")? == "inactive", "{}", show(machine, "ActiveState")?);
        Ok(())
    })?;
    mesh_lab::always(millis(1500), || {
        ensure!(!is_active(machine)?, "it was started again");
        Ok(())
    })?;
    talk()?;
    machine.sh("systemctl start mesh && systemctl stop mesh")?;
    ensure!(show(machine, "Result")? == "success", "{}", show(machine, "Result")?);
    // Removed it leaves no interface, and installed again it has all as it was.
    let apt = |arguments: &[&str]| machine.cmd("apt").args(arguments).deadline(secs(100)).run();
    apt(&["remove", "-y", "mesh"])?;
    let links = machine.sh("ip -o link")?.stdout;
    ensure!(!links.contains("mesh"), "{links}");
    machine.cmd("sh").args(["-c", install]).deadline(secs(100)).run()?;
    machine.sh("systemctl start mesh")?;
    eventually(secs(10), talk)?;
    let errors = machine.sh("journalctl --no-pager -u mesh | grep -E ' ERROR |panicked' || true")?.stdout;
    ensure!(errors.is_empty(), "{errors}");
    Ok(())
}

/// What was wanted of a router before its host was rebooted is so again, without a command to it.
#[test]
fn a_host_that_is_rebooted_has_its_router_containers_addresses_and_names_again() -> Result<()> {
    let lab = Lab::new("reboot")?;
    let Some(mut machines) = machines(&lab, ["host1", "host2"])? else { return Ok(()) };
    let [one, two] = machines.as_mut_slice() else { bail!("two machines") };
    for (machine, peers) in [(&*one, ""), (&*two, "peers = [\"host1\"]\n")] {
        machine.cmd("sh").args(["-c", "apt install -y ./target/deb/mesh_*.deb"]).deadline(secs(100)).run()?;
        fs::write(machine.path("/etc/mesh/password"), "a secret of both, and long enough\n")?;
        fs::write(machine.path("/etc/mesh/mesh.toml"), format!("{peers}password-file = \"password\"\n"))?;
        machine.sh("chmod 600 /etc/mesh/password && systemctl enable --now mesh")?;
    }
    one.sh("ip netns add web && mesh attach netns:web --name web && mesh expose --name gate")?;
    one.sh("mesh dns add printer 192.0.2.9")?;
    two.sh("ip netns add client && mesh attach netns:client --resolv-conf")?;
    let is_whole = || -> Result<()> {
        for name in ["web", "gate"] {
            two.sh(&format!("ip netns exec client ping -c 1 -W 1 {name}.mesh.internal"))?;
        }
        ensure!(two.sh("mesh dns lookup printer")?.stdout == "192.0.2.9\n");
        Ok(())
    };
    eventually(secs(20), is_whole)?;
    let wanted = |machine: &Machine| -> Result<String> {
        let [attached, exposed, id] = [
            "mesh ps -o json",
            "mesh status -o json | sed -n '/\"exposed\"/,/]/p'",
            "mesh status -o json | grep '\"identity\"'",
        ]
        .map(|line| machine.sh(line));
        Ok([attached?.stdout, exposed?.stdout, id?.stdout].concat())
    };
    let before = wanted(one)?;
    ensure!(before.contains("netns:web") && before.contains("gate.mesh.internal."), "{before}");

    one.reboot()?;
    ensure!(one.sh("ip netns list")?.stdout.is_empty(), "its namespaces have outlived it");
    // As whatever makes namespaces when a host starts.
    one.sh("ip netns add web")?;
    eventually(secs(60), is_whole)?;
    eventually(secs(20), || {
        let after = wanted(one)?;
        ensure!(after == before, "{after}, before {before}");
        Ok(())
    })?;
    Ok(())
}

fn is_active(machine: &Machine) -> Result<bool> {
    Ok(machine.cmd("systemctl").args(["is-active", "--quiet", "mesh"]).outcome()?.success())
}

fn show(machine: &Machine, property: &str) -> Result<String> {
    let value = machine.cmd("systemctl").args(["show", "--value", "-p", property, "mesh"]).run()?.stdout;
    Ok(value.trim().to_owned())
}

fn main_pid(machine: &Machine) -> Result<String> {
    show(machine, "MainPID")
}
