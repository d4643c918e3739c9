//! Other programs that join hosts, as their packages have them (Debian's, or cargo's) and with their own defaults.
//!
//! They run between the hosts themselves, without the bridge and the veth that containers behind a mesh have: what is
//! shown of them is a little better than what containers would get.

use std::fs;

use anyhow::{Context as _, Result};
use mesh_lab::{Cmd, Host, Process};

use crate::Subject;
use crate::ground::{Ground, Started};

pub(crate) const SUBJECTS: &[Subject] = &[
    Subject {
        name: "wireguard-go",
        program: Some("wireguard-go"),
        about: "`wireguard-go -f IFACE`, keys and peers by `wg set`, MTU 1420; routed",
        start: |ground| wireguard(ground, "wireguard-go", &["-f"]),
    },
    Subject {
        name: "boringtun",
        program: Some("boringtun-cli"),
        about: "`boringtun-cli -f IFACE`, keys and peers by `wg set`, MTU 1420; routed",
        start: |ground| wireguard(ground, "boringtun-cli", &["-f", "--disable-drop-privileges"]),
    },
    Subject {
        name: "nebula",
        program: Some("nebula"),
        about: "`nebula -config`, certificates by `nebula-cert`, AES, MTU 1300; routed",
        start: nebula,
    },
    Subject {
        name: "fastd",
        program: Some("fastd"),
        about: "`fastd --config`, mode tap, method salsa2012+umac, MTU 1426",
        start: |ground| fastd(ground, "salsa2012+umac"),
    },
    Subject {
        name: "fastd, null",
        program: Some("fastd"),
        about: "the same with method null: in clear",
        start: |ground| fastd(ground, "null"),
    },
    Subject {
        name: "tinc",
        program: Some("tincd"),
        about: "`tincd -c DIR -D`, mode switch, RSA keys of 2048 bits",
        start: tinc,
    },
    Subject {
        name: "vpncloud",
        program: Some("vpncloud"),
        about: "`vpncloud --type tap --mode switch`, a password, AES-256-GCM, its own MTU",
        start: vpncloud,
    },
    Subject {
        name: "openvpn",
        program: Some("openvpn"),
        about: "`openvpn --dev-type tap`, two peers with pinned certificates, AES-256-GCM",
        start: openvpn,
    },
];

/// Gives an interface that a program has made its address.
fn address(host: &Host, interface: &str, number: u8, mtu: Option<u16>) -> Result<()> {
    let mtu = mtu.map(|mtu| format!("link set {interface} mtu {mtu}\n")).unwrap_or_default();
    let lines = format!("addr add 10.50.0.{number}/24 dev {interface}\n{mtu}link set {interface} up\n");
    mesh_lab::eventually(mesh_lab::secs(5), || host.run(["ip", "link", "show", "dev", interface]))?;
    host.cmd("ip").args(["-batch", "-"]).stdin(lines).run()?;
    Ok(())
}

fn out(command: Cmd) -> Result<String> {
    Ok(command.run()?.stdout.trim().to_owned())
}

/// One of the programs that make WireGuard's interface in user space.
fn wireguard(ground: &Ground, program: &str, options: &[&str]) -> Result<Started> {
    let mut keys = Vec::new();
    for (name, host) in ground.both() {
        let private = out(host.cmd("wg").arg("genkey"))?;
        let public = out(host.cmd("wg").arg("pubkey").stdin(private.clone()))?;
        let file = ground.files.path().join(format!("{name}.key"));
        fs::write(&file, private)?;
        keys.push((file, public));
    }
    let mut processes = Vec::new();
    for (number, (_, host)) in (1..).zip(ground.both()) {
        // Its control socket lies in a directory that all hosts share.
        let interface = ground.interface(host, "wg");
        processes.push(host.cmd(program).args(options).arg(&interface).spawn()?);
        address(host, &interface, number, Some(1420))?;
        let (own, other) = (&keys[usize::from(number) - 1].0, &keys[2 - usize::from(number)].1);
        let there = if number == 1 { ground.b.ip() } else { ground.a.ip() };
        let set = host.cmd("wg").args(["set", &interface, "listen-port", "51820", "private-key"]).arg(own);
        let set = set.args(["peer", other, "allowed-ips", "10.50.0.0/24", "endpoint"]);
        set.arg(format!("{there}:51820")).run()?;
    }
    Ok(Started::between_hosts(ground, "10.50.0.2", processes))
}

fn nebula(ground: &Ground) -> Result<Started> {
    let files = ground.files.path();
    let shown = files.display();
    let certify = |words: &[&str]| ground.a.cmd("nebula-cert").args(words).run();
    let at = |name: &str| format!("{shown}/{name}");
    certify(&["ca", "-name", "bench", "-out-crt", &at("ca.crt"), "-out-key", &at("ca.key")])?;
    let mut processes = Vec::new();
    for (number, (name, host)) in (1_u8..).zip(ground.both()) {
        let (certificate, key) = (at(&format!("{name}.crt")), at(&format!("{name}.key")));
        let ip = format!("10.50.0.{number}/24");
        let signed =
            ["-ca-crt", &at("ca.crt"), "-ca-key", &at("ca.key"), "-out-crt", &certificate, "-out-key", &key];
        certify(&[&["sign", "-name", name, "-ip", &ip][..], &signed].concat())?;
        let (there, other) =
            if number == 1 { (ground.b.ip(), "10.50.0.2") } else { (ground.a.ip(), "10.50.0.1") };
        let text = format!(
            "pki: {{ca: {shown}/ca.crt, cert: {certificate}, key: {key}}}\n\
             static_host_map: {{\"{other}\": [\"{there}:4242\"]}}\n\
             lighthouse: {{am_lighthouse: false}}\ncipher: aes\nlisten: {{host: 0.0.0.0, port: 4242}}\n\
             tun: {{dev: neb0, mtu: 1300}}\nlogging: {{level: error, format: text}}\n\
             firewall:\n  outbound: [{{port: any, proto: any, host: any}}]\n\
             \x20 inbound: [{{port: any, proto: any, host: any}}]\n"
        );
        let file = at(&format!("{name}.yml"));
        fs::write(&file, text)?;
        processes.push(host.cmd("nebula").args(["-config", &file]).spawn()?);
    }
    Ok(Started::between_hosts(ground, "10.50.0.2", processes))
}

fn fastd(ground: &Ground, method: &str) -> Result<Started> {
    let mut keys = Vec::new();
    for (_, host) in ground.both() {
        let secret = out(host.cmd("fastd").args(["--generate-key", "--machine-readable"]))?;
        let file = ground.files.path().join("secret.conf");
        fs::write(&file, format!("secret \"{secret}\";\n"))?;
        let show = host.cmd("fastd").args(["--show-key", "--machine-readable", "--config"]).arg(&file);
        keys.push((secret, out(show)?));
    }
    let mut processes = Vec::new();
    for (number, (name, host)) in (1..).zip(ground.both()) {
        let (secret, other) = (&keys[usize::from(number) - 1].0, &keys[2 - usize::from(number)].1);
        let there = if number == 1 { ground.b.ip() } else { ground.a.ip() };
        let text = format!(
            "log level error;\nbind 0.0.0.0:10000;\nmode tap;\ninterface \"fastd0\";\nmethod \"{method}\";\n\
             mtu 1426;\nsecret \"{secret}\";\npeer \"other\" {{ key \"{other}\"; remote {there}:10000; }}\n"
        );
        let file = ground.files.path().join(format!("{name}.conf"));
        fs::write(&file, text)?;
        processes.push(host.cmd("fastd").arg("--config").arg(&file).spawn()?);
        address(host, "fastd0", number, None)?;
    }
    Ok(Started::between_hosts(ground, "10.50.0.2", processes))
}

fn tinc(ground: &Ground) -> Result<Started> {
    let directory = |name: &str| ground.files.path().join(name);
    for (name, host) in ground.both() {
        let hosts = directory(name).join("hosts");
        fs::create_dir_all(&hosts)?;
        let other = if name == "a" { "b" } else { "a" };
        let text = format!("Name = {name}\nMode = switch\nInterface = tinc0\nConnectTo = {other}\n");
        fs::write(directory(name).join("tinc.conf"), text)?;
        fs::write(hosts.join(name), format!("Address = {}\n", host.ip()))?;
        host.cmd("tincd").arg("-c").arg(directory(name)).args(["-K2048"]).stdin("\n\n\n").run()?;
    }
    for (name, other) in [("a", "b"), ("b", "a")] {
        fs::copy(directory(name).join("hosts").join(name), directory(other).join("hosts").join(name))?;
    }
    let mut processes = Vec::new();
    for (number, (name, host)) in (1..).zip(ground.both()) {
        let pid_file = directory(name).join("pid");
        let command = host.cmd("tincd").arg("-c").arg(directory(name)).arg("-D");
        processes.push(command.arg(format!("--pidfile={}", pid_file.display())).spawn()?);
        address(host, "tinc0", number, None)?;
    }
    Ok(Started::between_hosts(ground, "10.50.0.2", processes))
}

fn openvpn(ground: &Ground) -> Result<Started> {
    let at =
        |name: &str, kind: &str| ground.files.path().join(format!("{name}.{kind}")).display().to_string();
    let mut prints = Vec::new();
    for (name, host) in ground.both() {
        let make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let names =
            ["-days", "2", "-subj", "/CN=bench", "-keyout", &at(name, "key"), "-out", &at(name, "crt")];
        host.cmd("openssl").args(make).args(names).run()?;
        let print = host.cmd("openssl").args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]);
        let print = out(print.arg(at(name, "crt")))?;
        prints.push(print.split_once('=').context("no fingerprint")?.1.to_owned());
    }
    let mut processes: Vec<Process> = Vec::new();
    for (number, (name, host)) in (1_u8..).zip(ground.both()) {
        let (role, other, there) = if number == 1 {
            ("--tls-server", &prints[1], ground.b.ip())
        } else {
            ("--tls-client", &prints[0], ground.a.ip())
        };
        let command = host.cmd("openvpn").args(["--mode", "p2p", "--dev", "vpn0", "--dev-type", "tap", role]);
        let command = command.args(["--dh", "none", "--proto", "udp", "--port", "1194", "--verb", "1"]);
        let command = command.args(["--remote", &there.to_string(), "--cipher", "AES-256-GCM"]);
        let command = command.args(["--cert", &at(name, "crt"), "--key", &at(name, "key")]);
        processes.push(command.args(["--peer-fingerprint", other]).spawn()?);
        address(host, "vpn0", number, None)?;
    }
    Ok(Started::between_hosts(ground, "10.50.0.2", processes))
}

fn vpncloud(ground: &Ground) -> Result<Started> {
    let mut processes = Vec::new();
    for (number, (_, host)) in (1..).zip(ground.both()) {
        let there = if number == 1 { ground.b.ip() } else { ground.a.ip() };
        // Without a default route it does not start, though it takes none.
        host.run(["ip", "route", "replace", "default", "via", &there.to_string()])?;
        let command = host.cmd("vpncloud").args(["--type", "tap", "--mode", "switch", "--device", "vpc0"]);
        let command = command.args(["--listen", "3210", "--no-port-forwarding", "--algorithm", "aes256"]);
        let command = command.args(["--peer", &format!("{there}:3210"), "--password", "only for the bench"]);
        processes.push(command.spawn()?);
        address(host, "vpc0", number, None)?;
    }
    Ok(Started::between_hosts(ground, "10.50.0.2", processes))
}
