//! What commands answer that have to do with names.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Name service in short, as `status` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSummaryDocument {
    /// The domain of all names, with its final dot.
    pub domain: String,
    /// Where this host's name servers listen; nowhere with `--no-dns`.
    pub listen: Vec<SocketAddr>,
    /// Whom they ask about other names.
    pub upstream: Vec<SocketAddr>,
    /// How long an answer may be kept, in seconds.
    pub ttl: u32,
    /// How many names there are, each counted with each of its addresses.
    #[serde(default)]
    pub names: u64,
    /// Queries since the start, by what became of them; what never happened is absent.
    #[serde(default)]
    pub queries: BTreeMap<String, u64>,
}

/// `status dns`: name service, with all names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsDocument {
    /// The overview.
    #[serde(flatten)]
    pub summary: DnsSummaryDocument,
    /// The names, in order.
    pub entries: Vec<DnsEntryDocument>,
}

/// `dns list`: a name with an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsEntryDocument {
    /// The name, with its final dot.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// The port of the service behind it; `null` when none was given.
    #[serde(default)]
    pub port: Option<u16>,
    /// Whose it is: a container, or `external` for a name that a user has added.
    pub container: String,
    /// The peer that says so.
    pub origin_peer_id: String,
}

/// `dns lookup`: the addresses of a name. `dns add`, `dns remove`: those that the name has got, or has no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsNameDocument {
    /// The name, with its final dot.
    pub name: String,
    /// Its addresses, in order.
    pub addresses: Vec<IpAddr>,
}
