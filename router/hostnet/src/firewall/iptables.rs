//! Where the host's iptables drop what they do not know, they are told to leave the bridge to us.
//!
//! Owns two rules, known by their comment, in a chain of others: what one table of netfilter drops, no other can let
//! pass, so there is no way around. They accept what comes from the bridge and what goes to it; our own table says then
//! what of it may pass. Docker keeps the chain `DOCKER-USER` for rules of this kind; where it is not, they go to
//! `FORWARD`. Where iptables forward everything, or nobody uses them, nothing is touched.

use std::fs;

use super::walls::Walls;
use crate::name::BridgeName;
use crate::program::{ProgramError, run};

/// The variants of iptables that may filter on one host, all at once: for IPv4 and IPv6, with tables of nftables and with
/// those of old.
const VARIANTS: [Variant; 4] = [
    Variant { program: "iptables-nft", used: Used::Nft("ip") },
    Variant { program: "ip6tables-nft", used: Used::Nft("ip6") },
    Variant { program: "iptables-legacy", used: Used::Legacy("/proc/thread-self/net/ip_tables_names") },
    Variant { program: "ip6tables-legacy", used: Used::Legacy("/proc/thread-self/net/ip6_tables_names") },
];

/// The chains that can have our rules, the better place first.
const CHAINS: [&str; 2] = ["DOCKER-USER", "FORWARD"];

/// Whether frames within a bridge pass iptables: switches of br_netfilter, for the whole host.
const BRIDGE_SWITCHES: [&str; 2] =
    ["/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"];

/// A rule of ours is removed so often at most: it is there once, unless somebody has copied it.
const COPIES_MAX: u32 = 8;

struct Variant {
    program: &'static str,
    used: Used,
}

/// How to find out whether there are tables of a variant, without making any.
enum Used {
    /// By the family of the table `filter` in nftables.
    Nft(&'static str),
    /// By the kernel's list of tables.
    Legacy(&'static str),
}

impl Variant {
    fn is_used(&self) -> bool {
        match self.used {
            Used::Nft(family) => run("nft", &["list", "chain", family, "filter", "FORWARD"], "").is_ok(),
            Used::Legacy(path) => {
                fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == "filter"))
            }
        }
    }

    fn call(&self, arguments: &[&str]) -> Result<String, ProgramError> {
        let printed = run(self.program, &[&["-w", "5"], arguments].concat(), "")?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    /// The chain where our rules belong; `None` when everything is forwarded anyway.
    fn place(&self) -> Option<&'static str> {
        let forward = self.call(&["-S", "FORWARD"]).ok()?;
        let ours = |line: &&str| line.contains(COMMENT);
        let filters = forward.lines().filter(|line| !ours(line)).any(|line| line != "-P FORWARD ACCEPT");
        let docker = self.call(&["-S", CHAINS[0]]).is_ok();
        filters.then_some(if docker { CHAINS[0] } else { CHAINS[1] })
    }
}

/// Begins the comments of our rules; the bridge's name follows.
const COMMENT: &str = "mesh leaves ";

fn rules(bridge: &BridgeName) -> [Vec<String>; 2] {
    let comment = format!("{COMMENT}{bridge} to its own table");
    ["-i", "-o"].map(|side| {
        [side, bridge.as_str(), "-m", "comment", "--comment", &comment, "-j", "ACCEPT"]
            .map(str::to_owned)
            .to_vec()
    })
}

/// Puts our rules where they are needed. What goes wrong is said, and tried again at the next look.
pub(crate) fn ensure(walls: &Walls) {
    let is_on = |path: &&str| fs::read_to_string(path).is_ok_and(|value| value.trim() == "1");
    if walls.exposed.is_empty() && !BRIDGE_SWITCHES.iter().any(is_on) {
        return;
    }
    for variant in VARIANTS.iter().filter(|variant| variant.is_used()) {
        let Some(chain) = variant.place() else { continue };
        for rule in rules(&walls.bridge) {
            let rule: Vec<_> = rule.iter().map(String::as_str).collect();
            if variant.call(&[&["-C", chain], &rule[..]].concat()).is_ok() {
                continue;
            }
            match variant.call(&[&["-I", chain], &rule[..]].concat()) {
                Ok(_) => tracing::info!(
                    program = variant.program,
                    chain,
                    "iptables leave the bridge to its own table"
                ),
                Err(error) => {
                    tracing::warn!(program = variant.program, chain, %error, "iptables may drop frames of the bridge");
                }
            }
        }
    }
}

/// Removes our rules from wherever they are.
pub(crate) fn remove(bridge: &BridgeName) {
    for variant in VARIANTS.iter().filter(|variant| variant.is_used()) {
        for chain in CHAINS {
            for rule in rules(bridge) {
                let rule: Vec<_> = rule.iter().map(String::as_str).collect();
                let mut copies = 0;
                while copies < COPIES_MAX && variant.call(&[&["-D", chain], &rule[..]].concat()).is_ok() {
                    copies += 1;
                }
            }
        }
    }
}
