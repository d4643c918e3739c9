//! The grammar of the command line. Values that can be wrong in more ways than one stay text here, so that whoever
//! parses them can report all that is wrong together.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Seconds that a command waits unless told otherwise.
const TIMEOUT_DEFAULT_SECONDS: &str = "15";

/// Longest wait, in seconds: a day.
const TIMEOUT_MAX_SECONDS: f64 = 86_400.0;

/// Joins the containers of many hosts into one network.
#[derive(Debug, Parser)]
#[command(
    name = "mesh",
    bin_name = "mesh",
    version,
    disable_help_subcommand = true,
    max_term_width = 110,
    long_about = "Joins the containers of many hosts into one layer-2 network.\n\n\
        Each host runs one router, started by 'mesh launch'. Every other command asks the router of this host.",
    after_help = "Examples:\n  \
        mesh launch                                on the first host\n  \
        mesh launch host1                          on each other host, naming one that is in\n  \
        mesh attach netns:web                      gives a container an address in the network\n  \
        mesh status connections                    shows the neighbours\n\n\
        Exit status: 0 done; 1 refused or failed; 2 wrong command line; 3 no router is running here;\n\
        4 not known; 5 timed out."
)]
pub(crate) struct Cli {
    /// What to print: text for people, or one JSON document for programs
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "human",
        env = "MESH_OUTPUT",
        hide_env_values = true
    )]
    pub(crate) output: Output,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Text for people.
    Human,
    /// One JSON document.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the router of this host, in the background unless told otherwise
    Launch(Box<LaunchArgs>),
    /// End the router; containers, their addresses and the bridge stay
    Stop(StopArgs),
    /// End the router and remove all that it made on this host
    Reset(ResetArgs),
    /// Connect to further peers, now and after each restart
    Connect(ConnectArgs),
    /// Connect to peers no more; connections that exist stay
    Forget(ForgetArgs),
    /// Give a container an interface and addresses in the network
    Attach(AttachArgs),
    /// Take a container out of the network
    Detach(DetachArgs),
    /// Show what is attached, with its addresses and names
    Ps(PsArgs),
    /// Give this host itself an address in the network
    Expose(ExposeArgs),
    /// Take this host's addresses in the network away
    Hide(HideArgs),
    /// Give addresses to what is no container, look them up, take them back
    Ipam(IpamArgs),
    /// Give names, take them back, and look them up
    Dns(crate::dns::DnsArgs),
    /// Wait until the network's address range is founded
    #[command(after_help = "Example:\n  mesh prime --timeout 60")]
    Prime(PrimeArgs),
    /// Take over the address space of peers that are gone for good
    Rmpeer(RmpeerArgs),
    /// Show the router, its peers and its connections
    Status(StatusArgs),
    /// Print all that the router tells, as one JSON document without secrets
    Report(ReportArgs),
    /// Write what crosses the network as a pcap file
    Capture(CaptureArgs),
    /// Show peers, rates, losses and round trips, live, until q is pressed
    Top(TopArgs),
    /// Check this host and its router, and say what to do
    Doctor(DoctorArgs),
    /// Make secrets for a network
    Secret(SecretArgs),
    /// Check the configuration file
    Config(ConfigArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  mesh completion bash > /etc/bash_completion.d/mesh")]
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    #[command(after_help = "Example:\n  mesh man /usr/local/share/man/man1")]
    Man {
        /// Where to
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print the version
    Version,
}

/// How to find the router, and how long to wait for it.
#[derive(Debug, Clone, Args)]
pub(crate) struct RouterArgs {
    #[command(flatten)]
    pub(crate) run_dir: RunDirArgs,

    #[command(flatten)]
    pub(crate) timeout: TimeoutArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RunDirArgs {
    /// Directory of the router's control socket and pid file
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/mesh",
        env = "MESH_RUN_DIR",
        hide_env_values = true
    )]
    pub(crate) run_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct StateDirArgs {
    /// Directory of the router's identity, targets and log
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/mesh",
        env = "MESH_STATE_DIR",
        hide_env_values = true
    )]
    pub(crate) state_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct BridgeArgs {
    /// Name of the router's bridge on this host, at most 11 bytes
    #[arg(long, value_name = "NAME", default_value = "mesh0", env = "MESH_BRIDGE", hide_env_values = true)]
    pub(crate) bridge: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TimeoutArgs {
    /// Longest wait for the router, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = TIMEOUT_DEFAULT_SECONDS,
        value_parser = parse_timeout,
        env = "MESH_TIMEOUT",
        hide_env_values = true
    )]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each PEER is HOST[:PORT], where HOST is a name, an IPv4 address or an IPv6 address in brackets; the port is 6783 unless \
given. One that cannot be reached is tried again, for ever, and its name is looked up again at each try. Without any PEER \
the router waits for others to come. The peers are remembered, with what 'mesh connect' and 'mesh forget' change, \
for --resume.

The password is taken from --password-file or from the variable MESH_PASSWORD, never from the command line. \
Without one anybody may join, and frames travel in clear. A password file has a secret a line; blank lines and lines \
that begin with '#' are passed over. All its secrets, at most 4, are accepted, and the first is used; \
'mesh secret generate --help' tells how to change a network's secret without an outage. A router in the background does \
not have MESH_PASSWORD in its environment; one in the foreground has, so prefer a file there.

Each option has a variable, MESH_ and its name in capitals with '_' for '-', which yields to the option; and a key of the same name in the configuration file, which yields to both: \"peers\" for the PEERs, a list where an option takes several values, true or false where it takes none. Other keys are refused. Relative paths are meant from the file's directory. 'mesh config check' tells all that is wrong with a file.

SIGHUP makes the router read both files again. Secrets, PEERs and --log-level change at once; the log names others that have \
changed, which hold from the next launch on. When something is wrong the log says what, and all stays as it was.

Examples:
  mesh launch
  mesh launch host1 192.0.2.7 [2001:db8::1]:7000
  mesh launch --password-file /etc/mesh/password host1
  mesh launch --password-file /etc/mesh/password --trusted-subnets 10.1.0.0/16,fd00:1::/48 host1
  mesh launch --resume
  mesh launch --foreground --log-level debug")]
pub(crate) struct LaunchArgs {
    /// Peers to connect to
    #[arg(value_name = "PEER")]
    pub(crate) peers: Vec<String>,

    /// Configuration file in TOML [default: /etc/mesh/mesh.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Name that people see, 1 to 64 of letters, digits, '.', '-', '_' [default: this host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) nickname: Option<String>,

    /// TCP port of the control plane, and UDP port of the overlay; the port after it belongs to the router too
    #[arg(long, value_name = "N", default_value = "6783")]
    pub(crate) port: String,

    /// Address of this host to listen on and to dial from [default: all]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,

    /// Address and port for metrics and JSON documents, which anybody who reaches it may read, or 'none'
    /// [default: 127.0.0.1:6782]
    #[arg(long, value_name = "ADDR|none")]
    pub(crate) http: Option<String>,

    /// File with the network's secrets, one a line, each 1 to 1024 bytes; it goes before MESH_PASSWORD
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,

    /// Networks where nobody listens, as 10.1.0.0/16: frames between this host and a peer there travel in clear, if the
    /// peer says the same of this host
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub(crate) trusted_subnets: Vec<String>,

    /// The only peers that may connect, each by its identity of 32 hexadecimal digits, as 'mesh status -o json' shows it on
    /// the peer's host; others are refused though they know the secret [default: all]
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    pub(crate) allow_peers: Vec<String>,

    /// MTU of the overlay in bytes, 576 to 64870 (IPv6 needs 1280), or 'auto': what the host's interfaces allow at first, and then
    /// what the best path to another host is found to take
    #[arg(long, value_name = "auto|N", default_value = "auto")]
    pub(crate) mtu: String,

    /// How frames come from the bridge: 'tap', by a TAP interface; 'pcap', by packet capture on a veth, for hosts without
    /// /dev/net/tun: each frame by itself, which is several times slower
    #[arg(long, value_name = "tap|pcap", default_value = "tap")]
    pub(crate) capture: String,

    /// What carries frames between hosts: 'sleeve', in user space; 'vxlan', in the kernel where it can, by UDP on the port
    /// after --port, and sleeve elsewhere; 'ovs', the same by the kernel's Open vSwitch datapath, which counts each flow;
    /// 'auto', vxlan where this kernel has it. Frames that are encrypted go by VXLAN inside of the kernel's WireGuard, by UDP on
    /// the port two after --port, else inside of its ESP, or by sleeve
    #[arg(long, value_name = "auto|vxlan|ovs|sleeve", default_value = "auto")]
    pub(crate) datapath: String,

    /// Threads that carry frames in user space, 1 to 64, or 'auto': one for each core of this host, up to 4. All that comes
    /// from one peer is the work of one thread; packet capture has one in any case
    #[arg(long, value_name = "auto|N", default_value = "auto")]
    pub(crate) workers: String,

    #[command(flatten)]
    pub(crate) bridge: BridgeArgs,

    /// Connect only to the peers given here, not to those that they know
    #[arg(long)]
    pub(crate) no_discovery: bool,

    /// From so many connections on, keep to a well-connected subset of the peers and reach the others over them; peers
    /// given by name are connected to at first in any case
    #[arg(long, value_name = "N", default_value = "64")]
    pub(crate) conn_limit: String,

    /// Seconds after which the keys of data are replaced, 1 to 3600; on each link as the router says that has dialed the
    /// other
    #[arg(long, value_name = "SECONDS", default_value = "120")]
    pub(crate) rekey_after: String,

    /// All addresses of the network, the same on all hosts, or 'none' where users manage addresses [default: 10.32.0.0/12]
    #[arg(long, value_name = "CIDR|none")]
    pub(crate) ipam_range: Option<String>,

    /// Where 'mesh attach' chooses an address unless it is told otherwise [default: the whole range]
    #[arg(long, value_name = "CIDR")]
    pub(crate) ipam_subnet: Option<String>,

    /// Who founds the network's address range: consensus[=N] for a majority of N peers, or of this host and the PEERs given;
    /// seed=ID,... for peers named by their identities, the same on all hosts; 'observer' for others [default: this host
    /// where no PEER is given, and consensus otherwise]
    #[arg(long, value_name = "RULE")]
    pub(crate) ipam_init: Option<String>,

    #[command(flatten)]
    pub(crate) dns: crate::launch::DnsOptions,

    /// Socket of Docker, or 'none' to leave Docker alone
    #[arg(
        long,
        value_name = "PATH|none",
        default_value = "/var/run/docker.sock",
        env = "MESH_DOCKER_SOCKET",
        hide_env_values = true
    )]
    pub(crate) docker_socket: String,

    /// Socket of Podman, as 'podman system service' makes it, or 'none' to leave Podman alone
    #[arg(
        long,
        value_name = "PATH|none",
        default_value = "/run/podman/podman.sock",
        env = "MESH_PODMAN_SOCKET",
        hide_env_values = true
    )]
    pub(crate) podman_socket: String,

    /// How long the address of a container that is gone is kept for it, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "30",
        env = "MESH_ATTACH_GRACE",
        hide_env_values = true
    )]
    pub(crate) attach_grace: String,

    /// Connect to the peers of the last launch, as 'mesh connect' and 'mesh forget' have changed them
    #[arg(long)]
    pub(crate) resume: bool,

    /// Stay in the foreground and log to standard error
    #[arg(long)]
    pub(crate) foreground: bool,

    /// Set on the process in the background, whose standard output is a pipe to the one that the user started.
    #[arg(long, hide = true)]
    pub(crate) detached: bool,

    /// Set on the process in the background when it finds the value of `MESH_PASSWORD` on its standard input, so that it
    /// does not have it in its environment, where it would stand for as long as the router runs.
    #[arg(long, hide = true, requires = "detached")]
    pub(crate) password_on_stdin: bool,

    /// Least severe level that is logged
    #[arg(long, value_enum, value_name = "L", default_value = "info")]
    pub(crate) log_level: LogLevel,

    /// How log lines are written
    #[arg(long, value_enum, value_name = "F", default_value = "text")]
    pub(crate) log_format: LogFormat,

    #[command(flatten)]
    pub(crate) router: RouterArgs,

    #[command(flatten)]
    pub(crate) state_dir: StateDirArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Containers on this host go on talking to each other over the bridge. After a new 'mesh launch' with the same \
directories the router is the same peer as before.")]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Gives the router's address space to another peer first, and waits until that is certain. Then it removes the bridge, the \
containers' interfaces in the network, and the router's identity: a router that is launched afterwards is a new peer. When none is running, what an earlier one left is removed; --state-dir and --bridge say \
where to look then.")]
pub(crate) struct ResetArgs {
    /// Without waiting until its address space is given to a peer; 'mesh rmpeer' on another host recovers it then
    #[arg(long)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) router: RouterArgs,

    #[command(flatten)]
    pub(crate) state_dir: StateDirArgs,

    #[command(flatten)]
    pub(crate) bridge: BridgeArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each PEER is HOST[:PORT], as for 'mesh launch'. It is tried at once, and again until it is reached; this command does \
not wait for it: 'mesh status targets' shows how far it has come. A peer that was named before is tried at once.

Examples:
  mesh connect host2 192.0.2.7:7000
  mesh connect --replace host3               forgets all others that were named")]
pub(crate) struct ConnectArgs {
    /// Peers to connect to
    #[arg(value_name = "PEER", required = true)]
    pub(crate) peers: Vec<String>,

    /// In place of the peers that were named before, not in addition to them
    #[arg(long)]
    pub(crate) replace: bool,

    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each PEER is named as it was named to 'mesh launch' or 'mesh connect'; 'mesh status targets' shows how. When one of them \
was not, nothing is forgotten, and the status is 4. Connections that exist stay; they are not made again when they end.

Example:
  mesh forget host2 192.0.2.7:7000")]
pub(crate) struct ForgetArgs {
    /// Peers to forget
    #[arg(value_name = "PEER", required = true)]
    pub(crate) peers: Vec<String>,

    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SecretArgs {
    #[command(subcommand)]
    pub(crate) command: SecretCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Print a new secret of 256 bits, which nobody can guess
    #[command(after_help = "\
To protect a network, make one secret and give it to every host, in a file that only root can read:

  umask 077; mkdir -p /etc/mesh
  mesh secret generate > /etc/mesh/password      on one host; copy the file to the others
  mesh launch --password-file /etc/mesh/password host1

To change the secret of a running network without an outage, put the new one into the files in three rounds. After each \
round tell every router to read its file again, and go on when all have:

  1. on all hosts, add the new secret as the last line       all accept it now
  2. on all hosts, move it to the first line                 all use it now
  3. on all hosts, remove the old one                        sessions that it opened are opened anew

  kill -HUP \"$(cat /run/mesh/mesh.pid)\"                    read again; the log says what came of it")]
    Generate,
}

#[derive(Debug, Args)]
#[command(after_help = "\
It writes frames as containers send and get them, in clear, whatever carries them between hosts, until it is interrupted or nobody \
reads any more. Frames of TCP may be longer than the MTU, and lack their checksums: so they cross the host.

Examples:
  mesh capture | tcpdump -nr -
  mesh capture --peer host2 -w host2.pcap
  mesh capture --container docker:web --count 100 | tcpdump -nr -")]
pub(crate) struct CaptureArgs {
    /// Only from and to containers of this peer, by its nickname, its id or the beginning of it, as far as their hardware addresses
    /// are known ('mesh status macs')
    #[arg(long, value_name = "P", conflicts_with = "container")]
    pub(crate) peer: Option<String>,

    /// All that passes the interface of a container of this host, which is named as for 'mesh attach'
    #[arg(long, value_name = "C")]
    pub(crate) container: Option<String>,

    /// Name of the interface inside the container
    #[arg(long, value_name = "NAME", default_value = "ethmesh", env = "MESH_IFNAME", hide_env_values = true)]
    pub(crate) ifname: String,

    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,

    /// End after so many frames
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,

    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
It needs no router: then it says whether one could be launched with the settings of the configuration file and the \
environment. It looks at the kernel, ports, MTU, firewall, clock, name servers, routes, and whether each PEER answers over TCP and \
UDP; and it changes nothing. The status is 1 when a check fails; a warning is none.

Examples:
  mesh doctor
  mesh doctor host2 192.0.2.7:7000           looks at these peers, not at those that the router was told")]
pub(crate) struct DoctorArgs {
    /// Peers that should answer [default: those of the router and of the configuration file]
    #[arg(value_name = "PEER")]
    pub(crate) peers: Vec<String>,

    /// Configuration file [default: /etc/mesh/mesh.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say all that is wrong with a configuration file, each with its line and column
    #[command(after_help = "\
It reads the file as 'mesh launch' does, but for variables and options that would go before it, and asks no router. The \
status is 1 when something is wrong.

A file has the options of 'mesh launch' by their names:

  nickname = \"h1\"
  peers = [\"host2\", \"192.0.2.7:7000\"]
  password-file = \"password\"
  trusted-subnets = [\"10.1.0.0/16\"]
  conn-limit = 32
  no-discovery = true

Examples:
  mesh config check
  mesh config check mesh.toml && systemctl reload mesh")]
    Check {
        /// The file [default: /etc/mesh/mesh.toml]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
CONTAINER is docker:NAME or podman:NAME, where NAME may be an id or the beginning of one; NAME alone, if only one of \
them has it; or a network namespace: netns:NAME (as made by 'ip netns add'), netns:/path or pid:N.
ADDR is A.B.C.D/LEN or an IPv6 address with /LEN, where LEN is that of the whole subnet; or net:CIDR or net:default for an \
address that the router chooses, where one that the container has there already is enough. Without any it is \
net:default. It prints the addresses, one a line. Attaching what is attached already changes nothing, and the same \
container gets the same address again.

What is attached is remembered: when its container is started again, or the router is, it is attached again, with the same \
address and the same MAC. 'mesh detach' ends that, and so does the end of the container itself: its address is free again \
some time after (--attach-grace of 'mesh launch').

Examples:
  mesh attach docker:web
  mesh attach netns:web
  mesh attach netns:web --name web:80 --name www.mesh.internal
  mesh attach netns:web net:10.32.7.0/24
  mesh attach netns:web 10.32.1.1/24
  mesh attach pid:4711 10.32.1.2/24 fd00:32::2/64")]
pub(crate) struct AttachArgs {
    /// The container: docker:NAME, podman:NAME, NAME, netns:NAME, netns:/path or pid:N
    pub(crate) container: String,

    /// Its addresses
    #[arg(value_name = "ADDR")]
    pub(crate) addresses: Vec<String>,

    /// Name of the interface inside the container, at most 15 bytes
    #[arg(long, value_name = "NAME", default_value = "ethmesh", env = "MESH_IFNAME", hide_env_values = true)]
    pub(crate) ifname: String,

    /// A name by which it is found in the network, with the port of the service behind it if one is to be told; may be
    /// given more than once. One of a single label lies in the network's domain
    #[arg(long = "name", value_name = "FQDN[:PORT]")]
    pub(crate) names: Vec<String>,

    /// Do not let the container reach the host's name server
    #[arg(long)]
    pub(crate) no_dns: bool,

    /// Write /etc/netns/NAME/resolv.conf, which 'ip netns exec NAME' shows to programs, so that they ask the name server;
    /// 'mesh detach' removes it. A file of that name that is not of mesh is left alone
    #[arg(long, conflicts_with = "no_dns")]
    pub(crate) resolv_conf: bool,

    /// Do not route the container's multicast into the network
    #[arg(long, env = "MESH_NO_MULTICAST_ROUTE", hide_env_values = true, value_parser = BoolishValueParser::new())]
    pub(crate) no_multicast_route: bool,

    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without an ADDR it takes all addresses and the interface; of a container that is gone it takes the addresses back. net:CIDR \
and net:default stand for the addresses that the container has there. It prints the addresses taken, one a line.

Examples:
  mesh detach netns:web
  mesh detach pid:4711 10.32.1.2/24")]
pub(crate) struct DetachArgs {
    /// The container, as 'mesh attach' names it
    pub(crate) container: String,

    /// The addresses to take [default: all]
    #[arg(value_name = "ADDR")]
    pub(crate) addresses: Vec<String>,

    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The host reaches the containers of the subnet, and they reach it, but for the router's own ports. The host forwards, too: \
containers that route by its address reach the outside, and whoever routes to the subnet by the host reaches the containers. \
What passes so takes on the host's address, unless --no-masquerade says otherwise; within the network nothing is rewritten.

An ADDR is an address with its subnet's length, net:CIDR or net:default; without one, an address of the default subnet is \
chosen. It prints the addresses, one a line. Exposing again changes nothing. What is exposed stays so until `mesh hide`, also \
after a restart.

Examples:
  mesh expose
  mesh expose net:10.32.7.0/24 --name gate
  mesh expose 10.32.1.1/24 --no-masquerade")]
pub(crate) struct ExposeArgs {
    /// The host's addresses
    #[arg(value_name = "ADDR")]
    pub(crate) addresses: Vec<String>,

    /// A name of the host at these addresses, with a port if it has one; repeatable
    #[arg(long = "name", value_name = "FQDN[:PORT]")]
    pub(crate) names: Vec<String>,

    /// Forward packets with the addresses that they have
    #[arg(long)]
    pub(crate) no_masquerade: bool,

    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without an ADDR it takes all. net:CIDR and net:default stand for the addresses that the host has there. It prints the \
addresses taken, one a line; what the host does not have is no error.

Examples:
  mesh hide
  mesh hide 10.32.1.1/24")]
pub(crate) struct HideArgs {
    /// The addresses to take [default: all]
    #[arg(value_name = "ADDR")]
    pub(crate) addresses: Vec<String>,

    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A container that does not run is 'away': it keeps its addresses, and is attached again when it is started. When one that is \
named is not attached, nothing is shown, and the status is 4.

Examples:
  mesh ps
  mesh ps docker:web -o json")]
pub(crate) struct PsArgs {
    /// Only these containers, as 'mesh attach' names them
    #[arg(value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,

    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
For virtual machines, services and other things that mesh does not attach. A holder is any name that you choose; the same \
holder has the same address until it is released. SUBNET is as 10.32.7.0/24, and the default subnet when absent.

Addresses are those of the network's range (--ipam-range of 'mesh launch'). The first and the last of a subnet are not given, and \
what was released goes to others after a minute. Before a network is founded a request waits: for more than half of the hosts \
that were given each other, or not at all on a host that was given none; 'mesh prime' waits for that alone.

'mesh status ipam' says who owns what, what waits for whom, and which addresses are in use twice.

Examples:
  vm=$(mesh ipam allocate vm7)               10.32.0.5/12, and the same again next time
  mesh ipam claim gateway 10.32.7.1/24       this very address, if nobody has it
  mesh ipam lookup vm7; mesh ipam release vm7")]
pub(crate) struct IpamArgs {
    #[command(subcommand)]
    pub(crate) command: IpamCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    /// Give a holder an address, the same again if it has one
    ///
    /// Nobody is asked on the wire whether the address is in use, as 'mesh attach' does: the holder may use it by then, at a MAC
    /// that the router does not know, and would answer itself.
    #[command(after_help = "Example:\n  mesh ipam allocate db 10.32.7.0/24")]
    Allocate {
        #[command(flatten)]
        holder: HolderArgs,
    },
    /// Print the addresses of a holder
    #[command(after_help = "Example:\n  mesh ipam lookup netns:web")]
    Lookup {
        #[command(flatten)]
        holder: HolderArgs,
    },
    /// Take the addresses of a holder back
    #[command(after_help = "Example:\n  mesh ipam release db")]
    Release {
        #[command(flatten)]
        holder: HolderArgs,
    },
    /// Give a holder this very address
    ///
    /// As with 'allocate', nobody is asked on the wire whether the address is in use.
    #[command(after_help = "Example:\n  mesh ipam claim db 10.32.7.9/24")]
    Claim {
        /// The holder: any name, or a container as 'mesh attach' names it
        id: String,

        /// The address, with the length of its subnet's prefix
        cidr: String,

        #[command(flatten)]
        router: RouterArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct HolderArgs {
    /// The holder: any name, or a container as 'mesh attach' names it
    pub(crate) id: String,

    /// Only in this subnet
    pub(crate) subnet: Option<String>,

    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PrimeArgs {
    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each PEER is a peer id, the beginning of one that no other has, at least 4 digits, or a nickname that only one peer bears. It \
must be gone for good: its addresses are handed out again, so a container that still runs there would share its address. \
It can be said on any host, and more than once. It waits until other peers have the space; --timeout ends the wait, not \
what was begun.

Example:
  mesh rmpeer host7")]
pub(crate) struct RmpeerArgs {
    /// The peers that are gone
    #[arg(value_name = "PEER", required = true)]
    pub(crate) peers: Vec<String>,

    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// What to show [default: an overview]
    #[arg(value_enum)]
    pub(crate) view: Option<StatusView>,

    #[command(flatten)]
    pub(crate) router: RouterArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusView {
    /// The peers of the network, and whom each is connected to
    Peers,
    /// The connections of this router
    Connections,
    /// The peers that this router was told to connect to
    Targets,
    /// Which way frames go: to each peer, and from each source of broadcasts
    Routes,
    /// The hardware addresses that this router has learned
    Macs,
    /// Which frames for other hosts the kernel carries itself, and how many
    Flows,
    /// Who owns which part of the network's address range, and what waits
    Ipam,
    /// The name server of this host, and all names
    Dns,
}

/// Why a text is no number of seconds.
#[derive(Debug, thiserror::Error)]
#[error("a number of seconds above 0, at most {TIMEOUT_MAX_SECONDS}")]
struct TimeoutError;

/// Takes digits with an optional fraction; `inf`, `nan`, signs and exponents are no numbers of seconds.
fn parse_timeout(text: &str) -> Result<Duration, TimeoutError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match text.parse::<f64>() {
        Ok(seconds) if plain && seconds > 0.0 && seconds <= TIMEOUT_MAX_SECONDS => {
            Ok(Duration::from_secs_f64(seconds).max(Duration::from_millis(1)))
        }
        Ok(_) | Err(_) => Err(TimeoutError),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_free_of_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_timeout_is_a_plain_number_of_seconds() {
        assert_eq!(parse_timeout("15").unwrap(), Duration::from_secs(15));
        assert_eq!(parse_timeout("0.25").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_timeout("86400").unwrap(), Duration::from_secs(86_400));
        for text in ["", "0", "-1", "+1", "inf", "nan", "1e3", "1s", ".", "86401", "1.2.3"] {
            assert!(parse_timeout(text).is_err(), "{text:?}");
        }
    }
}
