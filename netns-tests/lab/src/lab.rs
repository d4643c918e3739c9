//! The lab itself: its hosts, what is done to the network between them, and the end of it all.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::capture::Capture;
use crate::chaos::{Chaos, ChaosCounts};
use crate::faults::{Cut, Direction, Faults, Protocol, Share, Traffic};
use crate::host::{Gateway, Host};
use crate::id::LabId;
use crate::namespace::Namespace;
use crate::nat::Nat;
use crate::reaper::Reaper;
use crate::router;
use crate::segment::{ROUTER_NUMBER, Reach, Segment, Subnet, UNDERLAY};
use crate::site::{Site, lock};
use crate::{sweep, tools};

/// How long the programs of a lab may take to end by themselves when it is over, before they are killed.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Labs of one process are numbered; the number is part of their addresses.
static LABS_OF_THIS_PROCESS: AtomicU32 = AtomicU32::new(0);

/// A network of its own, with a switch to which hosts are joined.
///
/// Everything that it made is gone when it is dropped: programs, namespaces, files. A watcher beside it does
/// the same when the test is killed, and each new lab does it for those whose watcher was killed, too.
///
/// Dropping it also *fails the test* when a router has logged an error or panicked, unless
/// [`tolerate_errors`](Self::tolerate_errors) was called.
#[derive(Debug)]
pub struct Lab {
    title: String,
    site: Arc<Site>,
    subnet_number: u8,
    switch: Arc<Segment>,
    hosts: Mutex<Vec<Host>>,
    nats: Mutex<Vec<Nat>>,
    nats_made: AtomicU8,
    errors_tolerated: AtomicBool,
    reaper: Option<Reaper>,
}

impl Lab {
    /// Makes a lab with nothing but a switch. The title is for messages.
    ///
    /// # Errors
    /// When this is not root, a program is missing (the error names its Debian package), or the watcher's
    /// binary is not built.
    pub fn new(title: &str) -> Result<Self> {
        Self::of(title, Reach::Straight)
    }

    /// Makes a lab for up to a thousand hosts. They have IPv4 alone, and reach each other by a router.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn crowd(title: &str) -> Result<Self> {
        Self::of(title, Reach::ByTheBridge)
    }

    fn of(title: &str, reach: Reach) -> Result<Self> {
        tools::check_machine()?;
        sweep::remove_abandoned();
        let serial = LABS_OF_THIS_PROCESS.fetch_add(1, Ordering::Relaxed) + 1;
        let subnet_number = u8::try_from(serial % 250).context("less than 250")? + 1;
        let id = LabId::of_this_process(serial)?;
        // The watcher first, so that nothing is ever unwatched; it also cleans up if the rest fails.
        let reaper = Reaper::watch(id)?;
        Self::build(title, id, subnet_number, reach, reaper)
            .with_context(|| format!("cannot make the lab {title:?}"))
    }

    fn build(title: &str, id: LabId, subnet_number: u8, reach: Reach, reaper: Reaper) -> Result<Self> {
        let site = Arc::new(Site::found(id)?);
        let v4 = match reach {
            Reach::Straight => [10, 99, subnet_number],
            Reach::ByTheBridge => [10, 100, 0],
        };
        let subnet = Subnet { v4, v6: [0xfd99, subnet_number.into(), 0, 0], reach };
        let taken = if reach == Reach::ByTheBridge { ROUTER_NUMBER } else { 0 };
        let switch = Segment::create(Namespace::create(&site, "switch")?, subnet, taken)?;
        Ok(Self {
            title: title.to_owned(),
            site,
            subnet_number,
            switch: Arc::new(switch),
            hosts: Mutex::default(),
            nats: Mutex::default(),
            nats_made: AtomicU8::new(0),
            errors_tolerated: AtomicBool::new(false),
            reaper: Some(reaper),
        })
    }

    /// Adds a host and joins it to the switch: `eth0` with an address in `10.99.N.0/24` and one in
    /// `fd99:N::/64`, MTU 1500.
    ///
    /// # Errors
    /// When the name is taken or has other signs than a-z and 0-9.
    pub fn host(&self, name: &str) -> Result<Host> {
        self.keep(Host::create(&self.site, &self.switch, name, Gateway::Nothing)?)
    }

    /// Adds a NAT router, joined to the switch, for hosts to be put behind it.
    ///
    /// # Errors
    /// As [`host`](Self::host).
    pub fn nat(&self, name: &str) -> Result<Nat> {
        let number = self.nats_made.fetch_add(1, Ordering::Relaxed);
        let v6 = [0xfd98, self.subnet_number.into(), number.into(), 0];
        let inner = Subnet { v4: [192, 168, number], v6, reach: Reach::Straight };
        let nat = Nat::create(&self.site, &self.switch, name, inner)?;
        self.keep((*nat).clone())?;
        lock(&self.nats).push(nat.clone());
        Ok(nat)
    }

    /// Adds a host behind a NAT router: it has private addresses, and reaches others by the router only.
    ///
    /// # Errors
    /// As [`host`](Self::host).
    pub fn host_behind(&self, nat: &Nat, name: &str) -> Result<Host> {
        self.keep(Host::create(&self.site, nat.inside(), name, nat.gateway())?)
    }

    /// Tells hosts the hardware addresses of each other for good. The kernel keeps what it has found out by itself for all
    /// namespaces in one table of 1,024 entries: too few for more than thirty hosts that all talk with each other.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn introduce(&self, hosts: &[Host]) -> Result<()> {
        let macs = hosts.iter().map(|host| host.mac(UNDERLAY)).collect::<Result<Vec<_>>>()?;
        for (index, host) in hosts.iter().enumerate() {
            let mut lines = String::new();
            for (other, mac) in
                hosts.iter().zip(&macs).enumerate().filter(|(at, _)| *at != index).map(|(_, it)| it)
            {
                for address in [IpAddr::from(other.ip()), other.ip6().into()] {
                    lines += &format!("neigh replace {address} lladdr {mac} dev {UNDERLAY} nud permanent\n");
                }
            }
            host.ip_batch(&lines)?;
        }
        Ok(())
    }

    /// Gives a host of a crowd all addresses of an IPv4 network, written with its prefix length, that is nobody else's.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn stand_for(&self, host: &Host, network: &str) -> Result<()> {
        host.segment().lead(network, host, host.ip())
    }

    /// Drops everything between two hosts, ARP and neighbour discovery as well.
    ///
    /// # Errors
    /// When they are not on the same switch: for a host behind a NAT router, cut the router.
    pub fn cut(&self, one: &Host, other: &Host) -> Result<()> {
        let ports = (one.port(), other.port());
        common_switch(one, other)?.change_faults(|faults| {
            faults.cuts.insert(ports, Cut::Everything);
            faults.cuts.insert((ports.1, ports.0), Cut::Everything);
        })
    }

    /// Drops IP traffic from one host to another, in this direction only. ARP and neighbour discovery pass,
    /// as the other direction could not do without.
    ///
    /// # Errors
    /// As [`cut`](Self::cut).
    pub fn cut_one_way(&self, from: &Host, to: &Host) -> Result<()> {
        let ports = (from.port(), to.port());
        common_switch(from, to)?.change_faults(|faults| {
            faults.cuts.insert(ports, Cut::Traffic);
        })
    }

    /// Ends cuts between two hosts, in both directions.
    ///
    /// # Errors
    /// As [`cut`](Self::cut).
    pub fn heal(&self, one: &Host, other: &Host) -> Result<()> {
        let ports = (one.port(), other.port());
        common_switch(one, other)?.change_faults(|faults| {
            faults.cuts.remove(&ports);
            faults.cuts.remove(&(ports.1, ports.0));
        })
    }

    /// Splits hosts into parts that reach only their own members: cuts each pair of hosts in different parts.
    ///
    /// # Errors
    /// As [`cut`](Self::cut).
    pub fn partition(&self, parts: &[&[&Host]]) -> Result<()> {
        for (index, part) in parts.iter().enumerate() {
            for other in parts[index + 1..].iter().flat_map(|part| part.iter()) {
                part.iter().try_for_each(|host| self.cut(host, other))?;
            }
        }
        Ok(())
    }

    /// Drops all that comes from and goes to a host, while its link stays up.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn isolate(&self, host: &Host) -> Result<()> {
        host.segment().change_faults(|faults| {
            faults.isolated.insert(host.port());
        })
    }

    /// Ends [`isolate`](Self::isolate).
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn restore(&self, host: &Host) -> Result<()> {
        host.segment().change_faults(|faults| {
            faults.isolated.remove(&host.port());
        })
    }

    /// Drops this share of a host's frames by chance, in each direction. 0 ends it.
    ///
    /// # Errors
    /// When `percent` is not between 0 and 100.
    pub fn loss(&self, host: &Host, percent: f64) -> Result<()> {
        lose(host, &Direction::BOTH, Traffic::Everything, percent)
    }

    /// The same in one direction only.
    ///
    /// # Errors
    /// When `percent` is not between 0 and 100.
    pub fn loss_one_way(&self, host: &Host, direction: Direction, percent: f64) -> Result<()> {
        lose(host, &[direction], Traffic::Everything, percent)
    }

    /// Drops this share of a host's packets of one protocol by chance, in each direction. 0 ends it.
    ///
    /// # Errors
    /// When `percent` is not between 0 and 100.
    pub fn loss_of(&self, host: &Host, protocol: Protocol, percent: f64) -> Result<()> {
        lose(host, &Direction::BOTH, Traffic::Only(protocol), percent)
    }

    /// Ends all cuts, isolations, losses and blocked ports, on all switches. Rates, wires, MTUs and pulled
    /// cables stay.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn heal_everything(&self) -> Result<()> {
        self.switch.change_faults(|faults| *faults = Faults::default())?;
        let nats = lock(&self.nats);
        nats.iter().try_for_each(|nat| nat.inside().change_faults(|faults| *faults = Faults::default()))
    }

    /// Limits a host's link to a rate in each direction, written as for `tc`: `"10mbit"`. A tenth of a second
    /// of it is queued, the rest dropped. One queue is at the host's own `eth0`, and shows in its
    /// [`network_state`](Namespace::network_state).
    ///
    /// # Errors
    /// When the rate cannot be read.
    pub fn rate(&self, host: &Host, rate: &str) -> Result<()> {
        host.segment().set_rate(host.port(), host, Some(rate.parse()?))
    }

    /// Ends [`rate`](Self::rate).
    ///
    /// # Errors
    /// When `tc` cannot be run.
    pub fn unlimited(&self, host: &Host) -> Result<()> {
        host.segment().set_rate(host.port(), host, None)
    }

    /// Pulls a host's cable: its `eth0` loses the carrier.
    ///
    /// # Errors
    /// When the port is gone.
    pub fn unplug(&self, host: &Host) -> Result<()> {
        host.segment().set_carrier(host.port(), false)
    }

    /// Plugs it in again, and waits until the link is up.
    ///
    /// # Errors
    /// When it does not come up, for example because the host's `eth0` is switched off.
    pub fn plug(&self, host: &Host) -> Result<()> {
        host.segment().set_carrier(host.port(), true)
    }

    /// Lets no frame with more than `mtu` bytes behind its Ethernet header pass to or from a host, without a
    /// word to anybody: a black hole. The host's own MTU is set by [`Host::set_mtu`]. From now on no host of
    /// the switch sends super-frames.
    ///
    /// # Errors
    /// When the kernel does not take the value.
    pub fn path_mtu(&self, host: &Host, mtu: u16) -> Result<()> {
        host.segment().set_mtu(host.port(), mtu)
    }

    /// Puts a bad wire between a host and its switch, or changes the one that is there.
    ///
    /// # Errors
    /// When the kernel refuses one of its parts.
    pub fn wire(&self, host: &Host, chaos: Chaos) -> Result<()> {
        host.segment().put_wire(host.port(), host, chaos)
    }

    /// Replaces the bad wire by the good cable; frames in it are lost.
    ///
    /// # Errors
    /// When there is none.
    pub fn unwire(&self, host: &Host) -> Result<()> {
        host.segment().remove_wire(host.port())
    }

    /// What a host's wire has done so far.
    ///
    /// # Errors
    /// When there is none.
    pub fn wire_counts(&self, host: &Host) -> Result<ChaosCounts> {
        host.segment().wire_counts(host.port())
    }

    /// Records what passes a host's `eth0`, in both directions, beginning now.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn capture(&self, host: &Host) -> Result<Capture> {
        host.capture(UNDERLAY)
    }

    /// Records what passes a host's cable, at the end of the switch: frames that the host's kernel has opened, and takes in
    /// again by the interface that they came by, are not among them.
    ///
    /// # Errors
    /// When the cable is gone.
    pub fn capture_wire(&self, host: &Host) -> Result<Capture> {
        host.segment().capture(host.port())
    }

    /// Errors and panics in the routers' logs do not fail this test.
    pub fn tolerate_errors(&self) {
        self.errors_tolerated.store(true, Ordering::Relaxed);
    }

    /// The programs that run in the lab now, by process id; the test's own process is not among them.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        sweep::processes(self.site.id())
    }

    fn keep(&self, host: Host) -> Result<Host> {
        lock(&self.hosts).push(host.clone());
        Ok(host)
    }

    /// Lines in logs and outputs that must not be there.
    fn alarms(&self) -> Vec<String> {
        let outputs = std::fs::read_dir(self.site.output_directory());
        let outputs = outputs.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let files: Vec<PathBuf> = lock(&self.hosts).iter().map(router::log_file).chain(outputs).collect();
        router::alarming_lines(&files)
    }

    /// What a failed test should say: nothing when all is well.
    fn take_down(&mut self) -> Vec<String> {
        let id = self.site.id();
        sweep::stop_processes(id, STOP_GRACE);
        self.switch.remove_wires();
        lock(&self.nats).iter().for_each(|nat| nat.inside().remove_wires());
        lock(&self.hosts).iter().for_each(Host::print_log_tail);
        let mut complaints =
            if self.errors_tolerated.load(Ordering::Relaxed) { Vec::new() } else { self.alarms() };
        if let Err(error) = sweep::remove(id) {
            complaints.push(format!("{error:#}"));
        }
        drop(self.reaper.take());
        complaints
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let complaints = self.take_down();
        if complaints.is_empty() {
            return;
        }
        let mut text = format!("the lab {:?} ends badly:\n{}", self.title, complaints.join("\n"));
        if let Some(failure) = self.site.last_failure() {
            text.push_str("\nThe last command that failed before: ");
            text.push_str(&failure);
        }
        if std::thread::panicking() {
            eprintln!("{text}");
        } else {
            panic!("{text}");
        }
    }
}

fn lose(host: &Host, directions: &[Direction], traffic: Traffic, percent: f64) -> Result<()> {
    let share = Share::from_percent(percent).with_context(|| format!("{percent} is no percentage"))?;
    host.segment().change_faults(|faults| {
        faults.loss.extend(directions.iter().map(|direction| ((host.port(), *direction, traffic), share)));
    })
}

fn common_switch<'a>(one: &'a Host, other: &Host) -> Result<&'a Arc<Segment>> {
    if !Arc::ptr_eq(one.segment(), other.segment()) {
        bail!("{} and {} are not on the same switch", one.label(), other.label());
    }
    Ok(one.segment())
}
