//! Commands that have to do with names: each is one request to the router.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use mesh_api::{
    Command, DnsDocument, DnsEntryDocument, DnsNameDocument, DnsSummaryDocument, Failure, StatusDocument,
};
use serde_json::json;

use crate::args::{Output, RouterArgs};
use crate::control::connect;
use crate::problems::Problems;
use crate::table::{Cell, Table};
use crate::{address, output};

/// Advice for what a name is given to.
const ADD_HINT: &str = "ADDR is an IPv4 or IPv6 address; CONTAINER is netns:NAME, netns:/path or pid:N";

/// The port of name servers, the only one that resolvers ask.
const PORT: u16 = 53;

#[derive(Debug, Args)]
pub(crate) struct DnsArgs {
    #[command(subcommand)]
    pub(crate) command: DnsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DnsCommand {
    /// Give a name to addresses, or one more name to a container of this host
    #[command(after_help = "\
A NAME of a single label lies in the network's domain. What is added is remembered across restarts; a name of a container \
lasts until that is detached. With a port, questions for SRV records of the name are answered with it and the name.

Examples:
  mesh dns add db 192.0.2.9 192.0.2.10
  mesh dns add db:5432 192.0.2.9
  mesh dns add www --container netns:web")]
    Add {
        /// The name, with the port of the service behind it if it has one
        #[arg(value_name = "NAME[:PORT]")]
        name: String,

        /// Its addresses
        #[arg(value_name = "ADDR", required_unless_present = "container")]
        addresses: Vec<String>,

        /// The container whose addresses it has
        #[arg(long, value_name = "CONTAINER", conflicts_with = "addresses")]
        container: Option<String>,

        #[command(flatten)]
        router: RouterArgs,
    },
    /// Take back a name that was added on this host
    #[command(after_help = "Example:\n  mesh dns remove db 192.0.2.9")]
    Remove {
        /// The name, at one port or at all that it has
        #[arg(value_name = "NAME[:PORT]")]
        name: String,

        /// At these addresses [default: all]
        #[arg(value_name = "ADDR")]
        addresses: Vec<String>,

        #[command(flatten)]
        router: RouterArgs,
    },
    /// Print the addresses of a name, one a line; the status is 4 when there are none
    #[command(after_help = "Example:\n  mesh dns lookup web")]
    Lookup {
        /// The name
        name: String,

        #[command(flatten)]
        router: RouterArgs,
    },
    /// Print all names of the network
    List {
        #[command(flatten)]
        router: RouterArgs,
    },
    /// Print the options by which 'docker run' tells a container of the name server
    #[command(after_help = "Example:\n  docker run $(mesh dns args) ...")]
    Args {
        #[command(flatten)]
        router: RouterArgs,
    },
}

/// Runs `mesh dns`.
pub(crate) fn dns(command: &DnsCommand, output: Output) -> Result<(), Failure> {
    match command {
        DnsCommand::Add { name, addresses, container, router } => {
            let mut problems = Problems::default();
            let parsed = parse(addresses, &mut problems);
            let container = match container {
                Some(text) => address::container(text, &mut problems).map(Some),
                None => Some(None),
            };
            let (Some(addresses), Some(container)) = (parsed, container) else {
                return Err(problems.into_failure(ADD_HINT));
            };
            change(router, output, Command::DnsAdd { name: name.clone(), addresses, container })
        }
        DnsCommand::Remove { name, addresses, router } => {
            let mut problems = Problems::default();
            let Some(addresses) = parse(addresses, &mut problems) else {
                return Err(problems.into_failure(ADD_HINT));
            };
            change(router, output, Command::DnsRemove { name: name.clone(), addresses })
        }
        DnsCommand::Lookup { name, router } => {
            change(router, output, Command::DnsLookup { name: name.clone() })
        }
        DnsCommand::List { router } => {
            let document: DnsDocument = connect(router)?.call(Command::Dns)?;
            match output {
                Output::Human => output::print(&entries(&document.entries, output::colour())),
                Output::Json => output::print_json(&document.entries),
            }
        }
        DnsCommand::Args { router } => {
            let status: StatusDocument = connect(router)?.call(Command::Status)?;
            let args = status.dns.as_ref().map(docker_args).unwrap_or_default();
            match output {
                Output::Human if args.is_empty() => Ok(()),
                Output::Human => output::print(&format!("{}\n", args.join(" "))),
                Output::Json => output::print_json(&json!({ "args": args })),
            }
        }
    }
}

/// `status dns`, for people.
pub(crate) fn view(document: &DnsDocument, colour: bool) -> String {
    let DnsDocument { summary, entries: names } = document;
    let list = |addresses: &[std::net::SocketAddr]| {
        let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
    };
    let mut overview = Table::new(["Domain", &summary.domain]);
    overview.push([Cell::new("Listens on"), Cell::new(list(&summary.listen))]);
    overview.push([Cell::new("Asks"), Cell::new(list(&summary.upstream))]);
    overview.push([Cell::new("Time to live"), Cell::new(format!("{} s", summary.ttl))]);
    let queries: Vec<_> = summary.queries.iter().map(|(what, count)| format!("{what} {count}")).collect();
    if !queries.is_empty() {
        overview.push([Cell::new("Queries"), Cell::new(queries.join(", "))]);
    }
    format!("{}\n{}", overview.render(colour), entries(names, colour))
}

/// Name service in one line, as `mesh.internal., 12 names, on 169.254.32.53:53`.
pub(crate) fn overview(summary: &DnsSummaryDocument) -> String {
    let listen: Vec<_> = summary.listen.iter().map(ToString::to_string).collect();
    let listen = if listen.is_empty() { "no server".to_owned() } else { format!("on {}", listen.join(", ")) };
    format!("{}, {} names, {listen}", summary.domain, summary.names)
}

fn entries(entries: &[DnsEntryDocument], colour: bool) -> String {
    let mut table = Table::new(["NAME", "ADDRESS", "PORT", "CONTAINER", "PEER"]);
    for entry in entries {
        table.push([
            Cell::new(&entry.name),
            Cell::new(entry.address.to_string()),
            Cell::new(entry.port.map_or_else(|| "-".to_owned(), |port| port.to_string())),
            Cell::new(&entry.container),
            Cell::new(&entry.origin_peer_id),
        ]);
    }
    table.render(colour)
}

/// Containers that are not on Docker's bridge reach the first server; it is the one for those that are attached.
fn docker_args(summary: &DnsSummaryDocument) -> Vec<String> {
    let Some(server) = summary.listen.iter().find(|server| server.port() == PORT) else { return Vec::new() };
    let options = ["--dns".to_owned(), server.ip().to_string(), "--dns-search".to_owned()];
    options.into_iter().chain([summary.domain.clone()]).collect()
}

fn parse(texts: &[String], problems: &mut Problems) -> Option<Vec<IpAddr>> {
    let parse = |text: &String| {
        let parsed = text.parse::<IpAddr>().map_err(|_no_address| "no address, as 192.0.2.9 or 2001:db8::9");
        problems.check(&format!("ADDR '{}'", text.escape_debug()), parsed)
    };
    texts.iter().map(parse).collect::<Vec<_>>().into_iter().collect()
}

fn change(router: &RouterArgs, output: Output, command: Command) -> Result<(), Failure> {
    let document: DnsNameDocument = connect(router)?.call(command)?;
    match output {
        Output::Human => output::print(
            &document.addresses.iter().map(|address| format!("{address}\n")).collect::<String>(),
        ),
        Output::Json => output::print_json(&document),
    }
}
