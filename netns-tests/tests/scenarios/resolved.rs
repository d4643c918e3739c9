//! A real systemd-resolved on a host, which its own programs ask: they know the network's names once it was told what the doctor
//! says.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::names::{everywhere, network};

/// Where `scripts/setup test` unpacks it.
const UNPACKED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/systemd-resolved");

/// Runs in a mount namespace of its own, as systemd-resolved wants a bus, a user, and the directory that the doctor looks for.
/// Prints what the doctor advises, then what came of doing so.
const SCRIPT: &str = r#"
mount --make-rprivate /
mount -t tmpfs tmpfs /run/systemd
mount -t tmpfs tmpfs "$UNPACKED/own"
for file in passwd group; do cp "/etc/$file" "$UNPACKED/own/$file"; done
grep -q ^systemd-resolve: /etc/passwd || echo 'systemd-resolve:x:991:991::/:/bin/false' >> "$UNPACKED/own/passwd"
grep -q ^systemd-resolve: /etc/group || echo 'systemd-resolve:x:991:' >> "$UNPACKED/own/group"
for file in passwd group; do mount --bind "$UNPACKED/own/$file" "/etc/$file"; done
install -d -o systemd-resolve -g systemd-resolve /run/systemd/resolve
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/systemd/bus
cat > "$UNPACKED/own/bus" <<END
<busconfig><type>system</type><listen>$DBUS_SYSTEM_BUS_ADDRESS</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
END
trap 'kill $(jobs -p)' EXIT
until_there() { for _ in $(seq 200); do [ -e "$1" ] && return; sleep 0.1; done; echo "$1 has not come"; exit 1; }
dbus-daemon --config-file="$UNPACKED/own/bus" --nofork --nopidfile &
until_there /run/systemd/bus
"$UNPACKED/lib/systemd/systemd-resolved" &
until_there /run/systemd/resolve/stub-resolv.conf
advice=$("$MESH" doctor -o json | jq -r '.checks[] | select(.message | startswith("systemd-resolved")).remedy') || true
echo "advice: $advice"
export PATH="$UNPACKED/usr/bin:$PATH"
eval "$advice"
resolvectl query c2.mesh.internal
dig +short @127.0.0.53 c2.mesh.internal
"#;

#[test]
fn programs_of_the_host_know_names_once_systemd_resolved_was_told_what_the_doctor_says() -> Result<()> {
    for path in [UNPACKED, "/run/systemd"] {
        if !Path::new(path).exists() {
            eprintln!("skipped: there is no {path}; scripts/setup test");
            return Ok(());
        }
    }
    let (_lab, members) = network("names-resolved", 2, &[])?;
    let (host, wanted) = (&members[0].host, members[1].address);
    everywhere(&members, "c2.mesh.internal", &[wanted])?;
    let told = host
        .cmd("unshare")
        .args(["--mount", "bash", "-euo", "pipefail", "-c", SCRIPT])
        .env("UNPACKED", UNPACKED)
        .env("MESH", format!("/proc/{}/exe", host.router_pid()?))
        .env("MESH_RUN_DIR", host.run_dir())
        .env("MESH_STATE_DIR", host.state_dir())
        .run()?
        .stdout;
    let advice = "resolvectl dns mesh0 169.254.32.53 && resolvectl domain mesh0 '~mesh.internal'";
    ensure!(told.contains(&format!("advice: {advice}\n")), "{told}");
    ensure!(told.contains(&format!("c2.mesh.internal: {wanted} ")), "{told}");
    ensure!(told.ends_with(&format!("\n{wanted}\n")), "the stub for all other programs: {told}");
    Ok(())
}
