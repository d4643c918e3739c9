//! A host of the lab: a namespace with one interface, `eth0`, to a switch.
//!
//! Owns the host's addresses and link. Running `mesh` on it is in [`router`](crate::router).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;

use crate::container::Container;
use crate::faults::{Direction, Port, Protocol};
use crate::id::check_name;
use crate::namespace::Namespace;
use crate::segment::{Segment, UNDERLAY};
use crate::site::{Site, lock};

/// A host. It has all methods of its [`Namespace`]. Clones are the same host.
#[derive(Debug, Clone)]
pub struct Host {
    core: Arc<Core>,
}

#[derive(Debug)]
struct Core {
    namespace: Namespace,
    segment: Arc<Segment>,
    port: Port,
    /// By which both addresses end.
    number: Mutex<u16>,
    gateway: Gateway,
    settings: Mutex<Settings>,
}

/// How `mesh` is started on a host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// The binary; `None` stands for that of the whole test.
    pub(crate) binary: Option<PathBuf>,
    /// By how much its clocks are ahead of the machine's; whole seconds count.
    pub(crate) clocks_ahead: Duration,
}

/// By which way a host reaches what is not on its switch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Gateway {
    Nothing,
    Via(Ipv4Addr, Ipv6Addr),
}

impl Gateway {
    fn routes(self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Via(ip, ip6) => {
                format!("route replace default via {ip}\nroute replace default via {ip6} dev {UNDERLAY}\n")
            }
        }
    }
}

impl Host {
    /// Makes a host and plugs it into the segment.
    pub(crate) fn create(
        site: &Arc<Site>,
        segment: &Arc<Segment>,
        name: &str,
        gateway: Gateway,
    ) -> Result<Self> {
        check_name(name)?;
        let number = segment.take_number()?;
        let namespace = Namespace::create(site, name)?;
        // A link that goes down and up shall bring its addresses back, as a network manager does.
        namespace.set_sysctl("net.ipv6.conf.all.keep_addr_on_down", "1")?;
        std::fs::create_dir_all(site.directory().join(name))?;
        let port = segment.plug_in(&namespace, number)?;
        let number = Mutex::new(number);
        let (segment, settings) = (Arc::clone(segment), Mutex::default());
        let core = Core { namespace, segment, port, number, gateway, settings };
        let host = Self { core: Arc::new(core) };
        host.set_gateway()?;
        Ok(host)
    }

    /// The name that the test gave it.
    #[must_use]
    pub fn label(&self) -> &str {
        self.core.namespace.label()
    }

    /// Its IPv4 address on the underlay.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.core.segment.subnet.ip(*lock(&self.core.number))
    }

    /// Its IPv6 address on the underlay.
    #[must_use]
    pub fn ip6(&self) -> Ipv6Addr {
        self.core.segment.subnet.ip6(*lock(&self.core.number))
    }

    /// Makes a container on this host: a namespace without any interface but loopback.
    ///
    /// # Errors
    /// When the name is taken or has other signs than a-z and 0-9.
    pub fn container(&self, name: &str) -> Result<Container> {
        check_name(name)?;
        let label = format!("{}-{name}", self.label());
        Ok(Container::new(Namespace::create(self.core.namespace.site(), &label)?))
    }

    /// Gives the host other addresses, both of IPv4 and IPv6, that nobody had before; and takes the old ones
    /// away. [`ip`](Self::ip) and [`ip6`](Self::ip6) tell the new ones from now on.
    ///
    /// # Errors
    /// When all numbers of the switch are taken.
    pub fn change_address(&self) -> Result<()> {
        let (segment, mut number) = (&self.core.segment, lock(&self.core.number));
        let new = segment.take_number()?;
        let remove = segment.subnet.remove_addresses(*number, UNDERLAY);
        let add = segment.subnet.add_addresses(new, UNDERLAY);
        self.ip_batch(&format!("{remove}{add}"))?;
        *number = new;
        drop(number);
        self.set_gateway()
    }

    /// Gives the host further addresses of both families, that nobody had before, and tells them.
    /// [`ip`](Self::ip) and [`ip6`](Self::ip6) stay.
    ///
    /// # Errors
    /// When all numbers of the switch are taken.
    pub fn add_addresses(&self) -> Result<(Ipv4Addr, Ipv6Addr)> {
        let segment = &self.core.segment;
        let number = segment.take_number()?;
        self.ip_batch(&segment.subnet.add_addresses(number, UNDERLAY))?;
        Ok((segment.subnet.ip(number), segment.subnet.ip6(number)))
    }

    /// Takes the host's IPv4 addresses away: it has IPv6 alone.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn remove_ipv4(&self) -> Result<()> {
        self.run(["ip", "-4", "address", "flush", "dev", UNDERLAY])?;
        Ok(())
    }

    /// Switches IPv6 off on all of the host's interfaces, those to come included.
    ///
    /// # Errors
    /// When the kernel has no IPv6 at all.
    pub fn switch_ipv6_off(&self) -> Result<()> {
        ["all", "default"].iter().try_for_each(|interfaces| {
            self.set_sysctl(&format!("net.ipv6.conf.{interfaces}.disable_ipv6"), "1")
        })
    }

    /// What `mesh` on this host finds in `/etc/hosts` from now on, also if it runs already and was started after the
    /// first call. An empty list leaves all names without an address.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_names(&self, names: &[(&str, IpAddr)]) -> Result<()> {
        let lines: String = names.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        // Written in place, since running programs have this very file mounted.
        Ok(std::fs::write(self.names_file(), lines)?)
    }

    /// Starts `mesh` on this host with monotonic clocks that are so much ahead of the machine's, as if the host had
    /// run for longer. Programs that run keep theirs.
    pub fn set_clocks_ahead(&self, by: Duration) {
        lock(&self.core.settings).clocks_ahead = by;
    }

    /// Sets the MTU of the host's `eth0`, in bytes. Longer frames from others are dropped in silence, too.
    ///
    /// # Errors
    /// When the kernel does not take the value.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        self.ip_batch(&format!("link set {UNDERLAY} mtu {mtu}\n"))?;
        Ok(())
    }

    /// Switches `eth0` off, as its administrator would.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn link_down(&self) -> Result<()> {
        self.ip_batch(&format!("link set {UNDERLAY} down\n"))?;
        Ok(())
    }

    /// Switches `eth0` on again, with its addresses and routes.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn link_up(&self) -> Result<()> {
        self.ip_batch(&format!("link set {UNDERLAY} up\n"))?;
        self.set_gateway()
    }

    /// Makes the switch drop all UDP datagrams from and to this host that have this port at either end.
    /// Fragments after the first have no port and pass.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn drop_udp(&self, port: u16) -> Result<()> {
        self.block(Protocol::Udp, port, &Direction::BOTH)
    }

    /// The same for TCP.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn drop_tcp(&self, port: u16) -> Result<()> {
        self.block(Protocol::Tcp, port, &Direction::BOTH)
    }

    /// Ends [`drop_udp`](Self::drop_udp).
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn allow_udp(&self, port: u16) -> Result<()> {
        self.unblock(Protocol::Udp, port)
    }

    /// Ends [`drop_tcp`](Self::drop_tcp).
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn allow_tcp(&self, port: u16) -> Result<()> {
        self.unblock(Protocol::Tcp, port)
    }

    /// Makes the switch drop what has this port at either end, in the given directions.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn block(&self, protocol: Protocol, port: u16, directions: &[Direction]) -> Result<()> {
        let blocked = directions.iter().map(|direction| (self.core.port, *direction, protocol, port));
        self.core.segment.change_faults(|faults| faults.blocked.extend(blocked))
    }

    /// Ends [`block`](Self::block), in both directions.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn unblock(&self, protocol: Protocol, port: u16) -> Result<()> {
        let ours = |entry: &(Port, Direction, Protocol, u16)| {
            (entry.0, entry.2, entry.3) == (self.core.port, protocol, port)
        };
        self.core.segment.change_faults(|faults| faults.blocked.retain(|entry| !ours(entry)))
    }

    pub(crate) fn settings(&self) -> &Mutex<Settings> {
        &self.core.settings
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.core.segment
    }

    pub(crate) fn port(&self) -> Port {
        self.core.port
    }

    /// The kernel forgets routes of a link that goes down.
    fn set_gateway(&self) -> Result<()> {
        let routes = self.core.gateway.routes();
        if !routes.is_empty() {
            self.ip_batch(&routes)?;
        }
        Ok(())
    }
}

impl Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.core.namespace
    }
}
