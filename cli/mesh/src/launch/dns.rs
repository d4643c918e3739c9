//! The options of `launch` that have to do with names.

use std::net::{IpAddr, SocketAddr};

use clap::Args;
use mesh_api::ErrorKind;
use mesh_daemon::{DnsConfig, DnsListen, DomainName, DomainNameError, ServerConfig};

use crate::problems::Problems;

/// The port of a name server.
const PORT: u16 = 53;

/// Longest time that an answer may be kept, in seconds: a day. Names change at once, so more helps nobody.
const TTL_MAX_SECONDS: u32 = 86_400;

/// Labels by which a domain is known that belongs to multicast DNS (RFC 6762, section 3).
const MULTICAST_DOMAIN: &[u8] = b"local";

#[derive(Debug, Args)]
pub(crate) struct DnsOptions {
    /// No name server on this host; its containers' names are known to others all the same
    #[arg(long)]
    pub(crate) no_dns: bool,

    /// Domain of all names, the same on all hosts
    #[arg(long, value_name = "DOMAIN", default_value = "mesh.internal.")]
    pub(crate) dns_domain: String,

    /// Where the name server listens; an IPv4 address that no interface has is put on the bridge, for this host alone
    /// [default: 169.254.32.53:53, and docker0's address if there is one]
    #[arg(long, value_name = "ADDR:PORT,...", value_delimiter = ',')]
    pub(crate) dns_listen: Vec<String>,

    /// Servers that are asked about other names, each an address, with a port where it is not 53 [default: those of
    /// /etc/resolv.conf]
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',')]
    pub(crate) dns_upstream: Vec<String>,

    /// How long resolvers may keep an answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "1")]
    pub(crate) dns_ttl: String,
}

/// Why an option's text is no value of it.
#[derive(Debug, thiserror::Error)]
enum DnsOptionError {
    #[error("no address with a port, as 169.254.32.53:53 or [fd00::53]:53")]
    Address,
    #[error("it means all addresses of the host, also those that strangers reach: name one")]
    Unspecified,
    #[error("no number of seconds up to {TTL_MAX_SECONDS}")]
    Ttl,
    #[error(transparent)]
    Domain(#[from] DomainNameError),
    #[error("names in .local are left to multicast DNS by many resolvers; choose another, as mesh.internal")]
    Multicast,
}

impl DnsOptions {
    /// How names are answered for.
    pub(super) fn config(&self, problems: &mut Problems) -> Option<DnsConfig> {
        let domain = problems.check_option("--dns-domain", &self.dns_domain, domain(&self.dns_domain));
        let ttl = problems.check_option("--dns-ttl", &self.dns_ttl, ttl(&self.dns_ttl));
        let mut addresses = |option, texts: &[String]| {
            let parse = |text: &String| problems.check_option(option, text, address(text));
            texts.iter().map(parse).collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>()
        };
        let listen = addresses("--dns-listen", &self.dns_listen);
        let upstream = addresses("--dns-upstream", &self.dns_upstream);
        if self.no_dns && !(self.dns_listen.is_empty() && self.dns_upstream.is_empty()) {
            let message = "--no-dns leaves nothing for --dns-listen and --dns-upstream".to_owned();
            problems.add(ErrorKind::Usage, message);
            return None;
        }
        let (listen, upstream) = (listen?, upstream?);
        let server = ServerConfig {
            listen: if listen.is_empty() { DnsListen::Usual } else { DnsListen::At(listen) },
            upstream: (!upstream.is_empty()).then_some(upstream),
        };
        Some(DnsConfig { domain: domain?, ttl_seconds: ttl?, server: (!self.no_dns).then_some(server) })
    }
}

fn domain(text: &str) -> Result<DomainName, DnsOptionError> {
    let domain = DomainName::host(text)?;
    if domain.labels().last() == Some(MULTICAST_DOMAIN) { Err(DnsOptionError::Multicast) } else { Ok(domain) }
}

fn ttl(text: &str) -> Result<u32, DnsOptionError> {
    let digits_only = text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = text.parse().ok().filter(|seconds| digits_only && *seconds <= TTL_MAX_SECONDS);
    seconds.ok_or(DnsOptionError::Ttl)
}

fn address(text: &str) -> Result<SocketAddr, DnsOptionError> {
    let with_port = |address: IpAddr| SocketAddr::new(address, PORT);
    let address: SocketAddr = text
        .parse()
        .or_else(|_no_port| text.parse().map(with_port))
        .map_err(|_no_address| DnsOptionError::Address)?;
    if address.ip().is_unspecified() { Err(DnsOptionError::Unspecified) } else { Ok(address) }
}
