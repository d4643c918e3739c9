//! What a switch does to the frames that pass it: cuts, losses, blocked ports; as data, and as nft rules.
//!
//! Pure. [`segment`](crate::segment) owns the switch and hands the rules to the kernel.
//!
//! ```text
//!  host ──► arriving ──────► passing ──────► leaving ──► host
//!           isolation,       cuts,           isolation,
//!           loss             blocked ports   loss
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

/// A port of a switch; each host has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port(pub(crate) u16);

impl Port {
    /// The switch's end of the host's cable.
    pub(crate) fn cable(self) -> String {
        format!("p{}", self.0)
    }

    /// What takes the cable's place in the bridge when a wire is put in between.
    pub(crate) fn behind_wire(self) -> String {
        format!("w{}", self.0)
    }

    /// Both names, as an nft set: one of them is in the bridge.
    fn set(self) -> String {
        format!("{{ \"{}\", \"{}\" }}", self.cable(), self.behind_wire())
    }
}

/// A transport protocol that a switch can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, over IPv4 and IPv6.
    Tcp,
    /// UDP, over IPv4 and IPv6.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What a loss takes its share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Traffic {
    /// All frames.
    Everything,
    /// One transport protocol; the other one passes.
    Only(Protocol),
}

impl Traffic {
    /// The beginning of an nft rule that matches it.
    fn matched(self) -> String {
        match self {
            Self::Everything => String::new(),
            Self::Only(protocol) => format!("meta l4proto {protocol} "),
        }
    }
}

/// A direction, seen from a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the host to the switch.
    Outgoing,
    /// From the switch to the host.
    Incoming,
}

impl Direction {
    /// Both directions.
    pub const BOTH: [Self; 2] = [Self::Outgoing, Self::Incoming];
}

/// A share of frames, in steps of a hundredth of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share(u16);

impl Share {
    /// All frames.
    const WHOLE: u16 = 10_000;

    /// `None` unless `percent` lies between 0 and 100.
    pub(crate) fn from_percent(percent: f64) -> Option<Self> {
        if !(0.0..=100.0).contains(&percent) {
            return None;
        }
        // In range by the check above, so that the conversion loses the fraction only.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10,000, rounded")]
        let steps = (percent * f64::from(Self::WHOLE) / 100.0).round() as u16;
        Some(Self(steps))
    }

    /// The middle of an nft rule that holds for this share; nft takes no comparison that always holds.
    fn drawn(self) -> String {
        match self.0 {
            Self::WHOLE => String::new(),
            steps => format!("numgen random mod {} < {steps} ", Self::WHOLE),
        }
    }
}

/// How frames that go from one port to another are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Everything, as if there were no cable.
    Everything,
    /// IP, but neither ARP nor neighbour discovery: without those the other direction would end too.
    Traffic,
}

/// All that is wrong with a switch at a time.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// From the first port to the second.
    pub(crate) cuts: BTreeMap<(Port, Port), Cut>,
    pub(crate) isolated: BTreeSet<Port>,
    pub(crate) loss: BTreeMap<(Port, Direction, Traffic), Share>,
    pub(crate) blocked: BTreeSet<(Port, Direction, Protocol, u16)>,
}

impl Faults {
    /// The complete table `bridge lab`, as input of `nft -f`: it replaces the earlier one in one transaction.
    pub(crate) fn ruleset(&self) -> String {
        let mut text = String::from("table bridge lab {}\ndelete table bridge lab\ntable bridge lab {\n");
        let chains = [
            ("arriving", "prerouting", self.at_the_port(Direction::Outgoing)),
            ("passing", "forward", self.passing()),
            ("leaving", "postrouting", self.at_the_port(Direction::Incoming)),
        ];
        for (chain, hook, rules) in chains {
            push(&mut text, format_args!("chain {chain} {{\ntype filter hook {hook} priority 0"));
            for rule in rules {
                push(&mut text, format_args!("{rule}"));
            }
            push(&mut text, format_args!("}}"));
        }
        text.push_str("}\n");
        text
    }

    fn at_the_port(&self, direction: Direction) -> Vec<String> {
        let at = |port: Port| interface(port, direction);
        let isolated = self.isolated.iter().map(|port| format!("{} drop", at(*port)));
        let losses = self.loss.iter().filter(|((_, way, _), _)| *way == direction);
        let loss = losses.map(|((port, _, traffic), share)| {
            format!("{} {}{}drop", at(*port), traffic.matched(), share.drawn())
        });
        isolated.chain(loss).collect()
    }

    fn passing(&self) -> Vec<String> {
        let mut rules = Vec::new();
        for (port, direction, protocol, number) in &self.blocked {
            let at = interface(*port, *direction);
            for end in ["sport", "dport"] {
                rules.push(format!("{at} {protocol} {end} {number} drop"));
            }
        }
        for ((from, to), cut) in &self.cuts {
            let way = format!("iifname {} oifname {}", from.set(), to.set());
            match cut {
                Cut::Everything => rules.push(format!("{way} drop")),
                Cut::Traffic => {
                    rules.push(format!(
                        "{way} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept"
                    ));
                    rules.push(format!("{way} ether type {{ ip, ip6 }} drop"));
                }
            }
        }
        rules
    }
}

fn interface(port: Port, direction: Direction) -> String {
    match direction {
        Direction::Outgoing => format!("iifname {}", port.set()),
        Direction::Incoming => format!("oifname {}", port.set()),
    }
}

fn push(text: &mut String, line: fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Port = Port(1);
    const B: Port = Port(2);

    #[test]
    fn a_sound_switch_has_no_rules() {
        assert!(!Faults::default().ruleset().contains("drop"));
    }

    #[test]
    fn a_full_cut_spares_nothing_and_a_traffic_cut_spares_neighbour_discovery() {
        let mut faults = Faults::default();
        faults.cuts.insert((A, B), Cut::Everything);
        assert!(faults.ruleset().contains("iifname { \"p1\", \"w1\" } oifname { \"p2\", \"w2\" } drop"));

        faults.cuts.insert((A, B), Cut::Traffic);
        let rules = faults.ruleset();
        assert!(
            rules.contains("nd-neighbor-solicit") && rules.contains("ether type { ip, ip6 } drop"),
            "{rules}"
        );
    }

    #[test]
    fn loss_stands_where_its_direction_passes_once() {
        let mut faults = Faults::default();
        let traffic = Traffic::Everything;
        faults.loss.insert((A, Direction::Incoming, traffic), Share::from_percent(2.5).unwrap());

        let rules = faults.ruleset();
        let (_, leaving) = rules.split_once("chain leaving").unwrap();
        assert!(leaving.contains("oifname { \"p1\", \"w1\" } numgen random mod 10000 < 250 drop"), "{rules}");
    }

    #[test]
    fn a_loss_can_be_of_one_protocol() {
        let mut faults = Faults::default();
        let udp = Traffic::Only(Protocol::Udp);
        faults.loss.insert((A, Direction::Outgoing, udp), Share::from_percent(30.0).unwrap());

        let wanted = "iifname { \"p1\", \"w1\" } meta l4proto udp numgen random mod 10000 < 3000 drop";
        assert!(faults.ruleset().contains(wanted), "{}", faults.ruleset());
    }

    #[test]
    fn a_share_is_between_nothing_and_everything() {
        assert_eq!(Share::from_percent(100.0), Some(Share(10_000)));
        assert_eq!(Share::from_percent(0.01), Some(Share(1)));
        assert_eq!(Share::from_percent(100.1), None);
        assert_eq!(Share::from_percent(-1.0), None);
        assert_eq!(Share::from_percent(f64::NAN), None);
    }
}
