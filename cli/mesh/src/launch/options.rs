//! From the words of the command line, and of the file, to the router's configuration, with all that is wrong reported
//! together.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use mesh_api::{Capture, Datapath, ErrorKind, Failure};
use mesh_daemon::{
    AddressConfig, BridgeName, Config, ContainerConfig, FoundingRule, HttpConfig, LINKS_MAX, LogFormat,
    LogLevel, MtuSetting, Nickname, Password, PasswordError, PasswordFile, PeerId, PeerTarget, Peers,
    TARGETS_MAX, WORKERS_MAX,
};

use crate::args::{self, LaunchArgs};
use crate::config;
use crate::problems::Problems;

/// Least MTU of the overlay in bytes: what every IPv4 host must take (RFC 791, section 3.1).
const MTU_MIN: u32 = 576;

/// Greatest MTU of the overlay in bytes: 65000 less the 130 by which a frame grows on its way, so that a datagram fits
/// UDP with room to spare.
const MTU_MAX: u32 = 65_000 - 130;

/// Most threads of a data plane unless the user says otherwise: few hosts have more peers that are busy at the same time.
const WORKERS_AUTO_MAX: usize = 4;

/// Greatest port: the one after it belongs to the router too.
const PORT_MAX: u16 = u16::MAX - 1;

/// Longest nickname that is made from a host name, in bytes; the same as of one that is given.
const NICKNAME_LEN_MAX: usize = 64;

/// Where metrics are served unless the user says otherwise.
const HTTP_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6782);

/// All addresses of a network unless the user says otherwise.
const IPAM_RANGE_DEFAULT: &str = "10.32.0.0/12";

/// Fewest bits of an address range that are left for hosts: with fewer there is no address to give away.
const RANGE_LOG2_MIN: u8 = 2;

/// Longest time for which the address of a container that is gone is kept, in seconds: a day.
const ATTACH_GRACE_MAX_SECONDS: u64 = 86_400;

/// Longest life of data keys, in seconds: an hour.
const REKEY_AFTER_MAX_SECONDS: u64 = 3_600;

/// Nickname of a router whose host has no name to take it from.
const NICKNAME_FALLBACK: &str = "mesh";

/// Bits of a file's mode by which its group or others can read it.
const MODE_READ_OTHERS: u32 = 0o044;

/// Everything that a router is launched with.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) log_level: LogLevel,
    pub(super) log_format: LogFormat,
    /// What works, and should be changed.
    pub(super) warnings: Vec<Warning>,
}

/// Something that works, and should be changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Warning {
    /// Others than the owner can read the password file.
    PasswordFileReadable {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// One of the secrets is short enough to be guessed by trying.
    PasswordWeak,
}

/// Why an option's text is no value of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum OptionError {
    #[error("no port number from 1 to {PORT_MAX}")]
    Port,
    #[error("neither 'auto' nor a number of bytes from {MTU_MIN} to {MTU_MAX}")]
    Mtu,
    #[error("neither 'tap' nor 'pcap'")]
    Capture,
    #[error("none of 'auto', 'vxlan', 'ovs' and 'sleeve'")]
    Datapath,
    #[error("neither 'auto' nor a number of threads from 1 to {WORKERS_MAX}")]
    Workers,
    #[error("packet capture works with one thread: leave it out, or take --capture tap")]
    WorkersOfPcap,
    #[error("no IPv4 or IPv6 address")]
    Listen,
    #[error("neither 'none' nor an address with a port, as 127.0.0.1:6782 or [::1]:6782")]
    Http,
    #[error("no number of connections from 1 to {LINKS_MAX}")]
    ConnectionLimit,
    #[error("no number of seconds from 1 to {REKEY_AFTER_MAX_SECONDS}")]
    RekeyAfter,
    #[error("no number of seconds from 0 to {ATTACH_GRACE_MAX_SECONDS}")]
    AttachGrace,
    #[error("no network, as 10.1.0.0/16 or fd00:1::/48")]
    Subnet,
    #[error("an address within its network has bits that are not in {0}")]
    SubnetBits(IpNet),
    #[error("it does not lie in the range {0}")]
    SubnetOutside(IpNet),
    #[error("too small for a network: it needs a prefix that leaves at least {RANGE_LOG2_MIN} bits")]
    RangeSmall,
    #[error("none of consensus, consensus=N with N from 1 to {LINKS_MAX}, seed=ID,... and observer")]
    Founding,
    #[error("seed=ID,... takes identities of 32 hexadecimal digits, as 'mesh status -o json' shows them")]
    Seeds,
}

/// Why there is no password where one was promised.
#[derive(Debug, thiserror::Error)]
enum PasswordVariableError {
    #[error("the password is not UTF-8")]
    NotUtf8,
    #[error(transparent)]
    Password(#[from] PasswordError),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PasswordFileReadable { path, mode } => {
                let path = path.display();
                write!(
                    f,
                    "the password file {path} can be read by others (mode {mode:04o}): chmod 600 {path}"
                )
            }
            Self::PasswordWeak => f.write_str(
                "the password is short enough to be guessed; 'mesh secret generate' makes one that is not",
            ),
        }
    }
}

/// Parses the options of `launch`; `password` is the value of `MESH_PASSWORD`.
pub(super) fn settings(given: config::Settings, password: Option<OsString>) -> Result<Settings, Failure> {
    let config::Settings { mut args, directory, origins, problems } = given;
    // Each takes the place of the other; the one that was said in the nearer place holds.
    if origins.outranks("resume", "peers") {
        args.peers.clear();
    } else if origins.outranks("peers", "resume") {
        args.resume = false;
    }
    let (args, mut problems) = (&args, problems.with_origins(origins));
    let mut warnings = Vec::new();
    let nickname = match &args.nickname {
        Some(text) => check(&mut problems, "--nickname", text, text.parse()),
        None => Some(host_nickname()),
    };
    let port = check(&mut problems, "--port", &args.port, parse_port(&args.port));
    let listen = match &args.listen {
        Some(text) => check(&mut problems, "--listen", text, parse_listen(text)).map(Some),
        None => Some(None),
    };
    let http = http(args, &mut problems);
    let mtu = check(&mut problems, "--mtu", &args.mtu, parse_mtu(&args.mtu));
    let capture = check(&mut problems, "--capture", &args.capture, parse_capture(&args.capture));
    let datapath = check(&mut problems, "--datapath", &args.datapath, parse_datapath(&args.datapath));
    let workers =
        check(&mut problems, "--workers", &args.workers, parse_workers(&args.workers, capture.as_ref()));
    let bridge =
        check(&mut problems, "--bridge", &args.bridge.bridge, args.bridge.bridge.parse::<BridgeName>());
    let connection_limit =
        check(&mut problems, "--conn-limit", &args.conn_limit, parse_connection_limit(&args.conn_limit));
    let rekey_after =
        check(&mut problems, "--rekey-after", &args.rekey_after, parse_rekey_after(&args.rekey_after));
    let trusted_subnets = all(&mut problems, "--trusted-subnets", &args.trusted_subnets, parse_subnet);
    let allowed = all(&mut problems, "--allow-peers", &args.allow_peers, str::parse::<PeerId>);
    let ipam = ipam(args, &mut problems);
    let dns = args.dns.config(&mut problems);
    let peers = peers(args, &mut problems);
    let attach_grace =
        check(&mut problems, "--attach-grace", &args.attach_grace, parse_attach_grace(&args.attach_grace));
    let mut path = |option, path: &Path| {
        let absolute = std::path::absolute(directory.join(path));
        problems.check_option(option, &path.to_string_lossy(), absolute)
    };
    let run_dir = path("--run-dir", &args.router.run_dir.run_dir);
    let state_dir = path("--state-dir", &args.state_dir.state_dir);
    let password_file = args.password_file.as_ref().map(|file| path("--password-file", file));
    let mut socket = |option, text: &str| match text {
        "none" => Some(None),
        text => path(option, Path::new(text)).map(Some),
    };
    let docker_socket = socket("--docker-socket", &args.docker_socket);
    let podman_socket = socket("--podman-socket", &args.podman_socket);
    let secrets = match (password_file.iter().flatten().next(), password) {
        (Some(path), _) => secrets_of_file(path, &mut problems, &mut warnings),
        (None, Some(value)) => password_of_environment(value, &mut problems).map(|password| vec![password]),
        (None, None) => Some(Vec::new()),
    };
    if secrets.iter().flatten().any(Password::is_weak) {
        warnings.push(Warning::PasswordWeak);
    }
    if problems.any() {
        return Err(refuse(problems));
    }
    let options = (nickname, port, listen, mtu, bridge, connection_limit);
    let (Some(nickname), Some(port), Some(listen), Some(mtu), Some(bridge), Some(connection_limit)) = options
    else {
        return Err(refuse(problems));
    };
    let (Some(capture), Some(datapath), Some(workers)) = (capture, datapath, workers) else {
        return Err(refuse(problems));
    };
    let lists = (peers, secrets, trusted_subnets, allowed, ipam, http);
    let (Some(peers), Some(secrets), Some(trusted_subnets), Some(allowed), Some(ipam), Some(http)) = lists
    else {
        return Err(refuse(problems));
    };
    let (Some(rekey_after), Some(run_dir), Some(state_dir), Some(dns)) =
        (rekey_after, run_dir, state_dir, dns)
    else {
        return Err(refuse(problems));
    };
    let containers = (docker_socket, podman_socket, attach_grace);
    let (Some(docker_socket), Some(podman_socket), Some(grace)) = containers else {
        return Err(refuse(problems));
    };
    Ok(Settings {
        config: Config {
            run_dir,
            state_dir,
            nickname,
            port,
            listen,
            secrets,
            password_file: password_file.flatten(),
            allowed: if allowed.is_empty() { None } else { Some(BTreeSet::from_iter(allowed)) },
            trusted_subnets,
            mtu,
            capture,
            datapath,
            workers,
            bridge,
            discovery: !args.no_discovery,
            connection_limit,
            rekey_after,
            peers,
            ipam,
            http,
            dns,
            containers: ContainerConfig { docker_socket, podman_socket, grace },
        },
        log_level: log_level(args.log_level),
        log_format: log_format(args.log_format),
        warnings,
    })
}

/// How addresses are managed; the inner `None` when users do.
fn ipam(args: &LaunchArgs, problems: &mut Problems) -> Option<Option<AddressConfig>> {
    let (subnet, init) = (args.ipam_subnet.as_deref(), args.ipam_init.as_deref());
    if args.ipam_range.as_deref() == Some("none") {
        if subnet.is_some() || init.is_some() {
            let message = "--ipam-range none leaves nothing for --ipam-subnet and --ipam-init".to_owned();
            problems.add(ErrorKind::Usage, message);
            return None;
        }
        return Some(None);
    }
    let range_text = args.ipam_range.as_deref().unwrap_or(IPAM_RANGE_DEFAULT);
    let range = check(problems, "--ipam-range", range_text, parse_range(range_text));
    let subnet = match subnet {
        Some(text) => check(problems, "--ipam-subnet", text, parse_subnet(text)).map(Some),
        None => Some(None),
    };
    let founding = match init {
        Some(text) => check(problems, "--ipam-init", text, parse_founding(text)),
        None => Some(FoundingRule::ByPeers),
    };
    let (range, subnet, founding) = (range?, subnet?, founding?);
    let default_subnet = subnet.unwrap_or(range);
    if !range.contains(&default_subnet) {
        let outside = Err::<(), _>(OptionError::SubnetOutside(range));
        check(problems, "--ipam-subnet", &default_subnet.to_string(), outside)?;
    }
    let range_is_given = args.ipam_range.is_some();
    Some(Some(AddressConfig { range, range_is_given, default_subnet, founding }))
}

/// Where metrics are served; the inner `None` when nowhere.
fn http(args: &LaunchArgs, problems: &mut Problems) -> Option<Option<HttpConfig>> {
    match args.http.as_deref() {
        Some("none") => Some(None),
        Some(text) => {
            let address = check(problems, "--http", text, parse_http(text))?;
            Some(Some(HttpConfig { address, address_is_given: true }))
        }
        None => Some(Some(HttpConfig { address: HTTP_DEFAULT, address_is_given: false })),
    }
}

/// The peers of the command line, or those of the last life.
fn peers(args: &LaunchArgs, problems: &mut Problems) -> Option<Peers> {
    let named = all(problems, "PEER", &args.peers, str::parse::<PeerTarget>)?;
    if args.resume && !named.is_empty() {
        let message = "--resume takes the peers of the last launch: give no PEER with it".to_owned();
        problems.add(ErrorKind::Usage, message);
        return None;
    }
    if named.len() > TARGETS_MAX {
        let message = format!("{} peers are more than a router connects to ({TARGETS_MAX})", named.len());
        problems.add(ErrorKind::Usage, message);
        return None;
    }
    Some(if args.resume { Peers::Resumed } else { Peers::Named(named) })
}

fn refuse(problems: Problems) -> Failure {
    problems.into_failure("'mesh launch --help' explains the options")
}

fn check<T, E: fmt::Display>(
    problems: &mut Problems,
    option: &str,
    text: &str,
    result: Result<T, E>,
) -> Option<T> {
    problems.check_option(option, text, result)
}

/// The values of an option that takes several; all that are wrong are reported.
fn all<T, E: fmt::Display>(
    problems: &mut Problems,
    option: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, E>,
) -> Option<Vec<T>> {
    let values: Vec<_> = texts.iter().map(|text| check(problems, option, text, parse(text))).collect();
    values.into_iter().collect()
}

fn parse_port(text: &str) -> Result<u16, OptionError> {
    match parse_number(text) {
        Some(port @ 1..) if port <= u32::from(PORT_MAX) => {
            u16::try_from(port).map_err(|_too_great| OptionError::Port)
        }
        Some(_) | None => Err(OptionError::Port),
    }
}

fn parse_capture(text: &str) -> Result<Capture, OptionError> {
    match text {
        "tap" => Ok(Capture::Tap),
        "pcap" => Ok(Capture::Pcap),
        _ => Err(OptionError::Capture),
    }
}

fn parse_datapath(text: &str) -> Result<Datapath, OptionError> {
    match text {
        "auto" => Ok(Datapath::Auto),
        "vxlan" => Ok(Datapath::Vxlan),
        "ovs" => Ok(Datapath::Ovs),
        "sleeve" => Ok(Datapath::Sleeve),
        _ => Err(OptionError::Datapath),
    }
}

fn parse_mtu(text: &str) -> Result<MtuSetting, OptionError> {
    match (text, parse_number(text)) {
        ("auto", _) => Ok(MtuSetting::Auto),
        (_, Some(mtu @ MTU_MIN..=MTU_MAX)) => Ok(MtuSetting::Fixed(mtu)),
        (_, Some(_) | None) => Err(OptionError::Mtu),
    }
}

/// How many threads there are to be; with packet capture one, whatever the host has.
fn parse_workers(text: &str, capture: Option<&Capture>) -> Result<usize, OptionError> {
    let is_pcap = capture == Some(&Capture::Pcap);
    let number = parse_number(text).and_then(|workers| usize::try_from(workers).ok());
    match (text, number) {
        ("auto", _) if is_pcap => Ok(1),
        ("auto", _) => Ok(std::thread::available_parallelism().map_or(1, NonZero::get).min(WORKERS_AUTO_MAX)),
        (_, Some(2..)) if is_pcap => Err(OptionError::WorkersOfPcap),
        (_, Some(workers @ 1..=WORKERS_MAX)) => Ok(workers),
        (_, Some(_) | None) => Err(OptionError::Workers),
    }
}

fn parse_connection_limit(text: &str) -> Result<usize, OptionError> {
    let limit = parse_number(text).and_then(|limit| usize::try_from(limit).ok());
    limit.filter(|limit| (1..=LINKS_MAX).contains(limit)).ok_or(OptionError::ConnectionLimit)
}

fn parse_rekey_after(text: &str) -> Result<Duration, OptionError> {
    let seconds = parse_number(text).map(u64::from);
    let seconds = seconds.filter(|seconds| (1..=REKEY_AFTER_MAX_SECONDS).contains(seconds));
    seconds.map(Duration::from_secs).ok_or(OptionError::RekeyAfter)
}

fn parse_attach_grace(text: &str) -> Result<Duration, OptionError> {
    let seconds = parse_number(text).map(u64::from).filter(|seconds| *seconds <= ATTACH_GRACE_MAX_SECONDS);
    seconds.map(Duration::from_secs).ok_or(OptionError::AttachGrace)
}

fn parse_subnet(text: &str) -> Result<IpNet, OptionError> {
    let subnet: IpNet = text.parse().map_err(|_no_network| OptionError::Subnet)?;
    if subnet == subnet.trunc() { Ok(subnet) } else { Err(OptionError::SubnetBits(subnet.trunc())) }
}

fn parse_range(text: &str) -> Result<IpNet, OptionError> {
    let range = parse_subnet(text)?;
    let addresses_log2 = range.max_prefix_len() - range.prefix_len();
    if addresses_log2 >= RANGE_LOG2_MIN { Ok(range) } else { Err(OptionError::RangeSmall) }
}

fn parse_founding(text: &str) -> Result<FoundingRule, OptionError> {
    let (rule, value) = text.split_once('=').map_or((text, None), |(rule, value)| (rule, Some(value)));
    match (rule, value) {
        ("observer", None) => Ok(FoundingRule::Observer),
        ("consensus", None) => Ok(FoundingRule::Consensus(None)),
        ("consensus", Some(number)) => {
            let voters = parse_number(number).and_then(|number| usize::try_from(number).ok());
            let voters = voters.filter(|voters| (1..=LINKS_MAX).contains(voters));
            voters.map(|voters| FoundingRule::Consensus(Some(voters))).ok_or(OptionError::Founding)
        }
        ("seed", Some(ids)) => {
            let seeds: Result<BTreeSet<PeerId>, _> = ids.split(',').map(str::parse).collect();
            seeds.map(FoundingRule::Seeds).map_err(|_no_id| OptionError::Seeds)
        }
        (_, _) => Err(OptionError::Founding),
    }
}

/// Takes digits alone, where the standard library's parser takes a plus sign too.
fn parse_number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn parse_http(text: &str) -> Result<SocketAddr, OptionError> {
    text.parse().ok().filter(|address: &SocketAddr| address.port() != 0).ok_or(OptionError::Http)
}

fn parse_listen(text: &str) -> Result<IpAddr, OptionError> {
    text.parse().map_err(|_no_address| OptionError::Listen)
}

fn secrets_of_file(
    path: &Path,
    problems: &mut Problems,
    warnings: &mut Vec<Warning>,
) -> Option<Vec<Password>> {
    match PasswordFile::read(path) {
        Ok(PasswordFile { secrets, mode }) => {
            if let Some(mode) = mode.filter(|mode| mode & MODE_READ_OTHERS != 0) {
                warnings.push(Warning::PasswordFileReadable { path: path.to_owned(), mode });
            }
            Some(secrets)
        }
        Err(error) => {
            let (_, place) = problems.place("--password-file", &path.to_string_lossy());
            problems.add(ErrorKind::Invalid, format!("{place} '{}': {error}", path.display()));
            None
        }
    }
}

fn password_of_environment(value: OsString, problems: &mut Problems) -> Option<Password> {
    let text = value.into_string().map_err(|_value| PasswordVariableError::NotUtf8);
    match text.and_then(|text| Ok(Password::try_from(text)?)) {
        Ok(password) => Some(password),
        Err(error) => {
            problems.add(ErrorKind::Invalid, format!("MESH_PASSWORD: {error}"));
            None
        }
    }
}

fn host_nickname() -> Nickname {
    // A host without a readable name still has a router.
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    nickname_from(name.trim())
}

/// A nickname from any text: other characters become `-`, and what is too long is cut.
fn nickname_from(name: &str) -> Nickname {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
    let clean: String = name.chars().map(allowed).take(NICKNAME_LEN_MAX).collect();
    let nickname = if clean.is_empty() { NICKNAME_FALLBACK } else { &clean };
    nickname.parse().expect("it has 1 to 64 of the characters that a nickname has")
}

const fn log_level(level: args::LogLevel) -> LogLevel {
    match level {
        args::LogLevel::Error => LogLevel::Error,
        args::LogLevel::Warn => LogLevel::Warn,
        args::LogLevel::Info => LogLevel::Info,
        args::LogLevel::Debug => LogLevel::Debug,
        args::LogLevel::Trace => LogLevel::Trace,
    }
}

const fn log_format(format: args::LogFormat) -> LogFormat {
    match format {
        args::LogFormat::Text => LogFormat::Text,
        args::LogFormat::Json => LogFormat::Json,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn parse(line: &[&str], password: Option<&str>) -> Result<Settings, Failure> {
        // A file of this machine has no part in it.
        let words = ["mesh", "launch", "--config=/dev/null"].iter().chain(line).map(OsString::from);
        let call = config::Call { words: words.collect(), directory: "/".into() };
        settings(call.settings()?, password.map(OsString::from))
    }

    #[test]
    fn no_options_give_the_defaults_of_the_contract() {
        let config = parse(&[], None).unwrap().config;
        assert_eq!(config.run_dir, Path::new("/run/mesh"));
        assert_eq!(config.state_dir, Path::new("/var/lib/mesh"));
        assert_eq!(config.port, mesh_daemon::CONTROL_PORT);
        assert_eq!(config.mtu, MtuSetting::Auto);
        assert_eq!(config.bridge.to_string(), "mesh0");
        assert_eq!((config.listen, config.discovery), (None, true));
        assert_eq!(config.http.map(|http| http.address), Some("127.0.0.1:6782".parse().unwrap()));
        assert_eq!(parse(&["--http=none"], None).unwrap().config.http, None);
        assert_eq!(config.connection_limit, mesh_daemon::CONNECTION_LIMIT);
        assert_eq!((config.peers, config.allowed), (Peers::Named(vec![]), None));
        assert!(config.secrets.is_empty() && config.trusted_subnets.is_empty());
    }

    #[test]
    fn each_option_arrives() {
        let line = [
            "--nickname=h1",
            "--port=7000",
            "--listen=::1",
            "--mtu=9000",
            "--workers=64",
            "--bridge=br7",
            "--no-discovery",
            "--conn-limit=8",
            "--rekey-after=1",
            "--trusted-subnets=10.1.0.0/16,fd00:1::/48",
            "--allow-peers=abcdef0102030405060708090a0b0c0d",
            "--run-dir=relative",
            "h2",
            "[2001:db8::1]:7001",
        ];
        let config = parse(&line, Some("secret")).unwrap().config;
        assert_eq!(config.nickname.as_str(), "h1");
        assert_eq!(config.port, 7000);
        assert_eq!(config.listen, Some("::1".parse().unwrap()));
        assert_eq!(config.mtu, MtuSetting::Fixed(9000));
        assert_eq!((config.workers, config.bridge.to_string().as_str()), (64, "br7"));
        assert_eq!((config.discovery, config.secrets.len(), config.connection_limit), (false, 1, 8));
        assert_eq!(config.rekey_after, Duration::from_secs(1));
        let subnets: Vec<_> = config.trusted_subnets.iter().map(ToString::to_string).collect();
        assert_eq!(subnets, ["10.1.0.0/16", "fd00:1::/48"]);
        let allowed: Vec<_> = config.allowed.iter().flatten().map(|id| format!("{id:x}")).collect();
        assert_eq!(allowed, ["abcdef0102030405060708090a0b0c0d"]);
        assert!(config.run_dir.is_absolute());
        let Peers::Named(peers) = config.peers else { panic!("they were named") };
        let peers: Vec<_> = peers.iter().map(ToString::to_string).collect();
        assert_eq!(peers, ["h2:6783", "[2001:db8::1]:7001"]);
    }

    #[test]
    fn threads_are_as_many_as_the_host_has_cores_for_or_as_the_user_says_and_packet_capture_has_one() {
        let workers = |line: &[&str]| parse(line, None).map(|settings| settings.config.workers);
        assert!((1..=WORKERS_AUTO_MAX).contains(&workers(&[]).unwrap()));
        assert_eq!(workers(&["--capture=pcap"]).unwrap(), 1);
        assert_eq!(workers(&["--capture=pcap", "--workers=1"]).unwrap(), 1);
        for line in [&["--capture=pcap", "--workers=2"][..], &["--workers=0"], &["--workers=many"]] {
            assert_eq!(workers(line).err().unwrap().kind, ErrorKind::Usage, "{line:?}");
        }
    }

    #[test]
    fn address_management_has_the_defaults_of_the_contract_and_can_be_switched_off() {
        let ipam = |line: &[&str]| parse(line, None).map(|settings| settings.config.ipam);
        let default = ipam(&[]).unwrap().unwrap();
        assert_eq!(default.range, "10.32.0.0/12".parse().unwrap());
        assert_eq!((default.default_subnet, default.range_is_given), (default.range, false));
        assert_eq!(default.founding, FoundingRule::ByPeers);
        let given =
            ipam(&["--ipam-range=fd00::/48", "--ipam-subnet=fd00:0:0:7::/64", "--ipam-init=consensus=3"]);
        let given = given.unwrap().unwrap();
        assert_eq!(given.default_subnet, "fd00:0:0:7::/64".parse().unwrap());
        assert_eq!((given.range_is_given, given.founding), (true, FoundingRule::Consensus(Some(3))));
        assert_eq!(ipam(&["--ipam-range=none"]).unwrap(), None);
        for line in [
            &["--ipam-range=none", "--ipam-subnet=10.32.0.0/16"][..],
            &["--ipam-range=10.32.0.1/12"],
            &["--ipam-range=10.32.0.0/31"],
            &["--ipam-subnet=10.64.0.0/16"],
            &["--ipam-subnet=fd00::/64"],
            &["--ipam-init=consensus=0"],
            &["--ipam-init=seed=abcdef010203"],
            &["--ipam-init=seed"],
            &["--ipam-init=observer=1"],
        ] {
            assert_eq!(ipam(line).err().unwrap().kind, ErrorKind::Usage, "{line:?}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_reported_together() {
        let line = [
            "--nickname=a b",
            "--port=65535",
            "--listen=here",
            "--http=6782",
            "--mtu=575",
            "--workers=65",
            "--bridge=twelve-bytes",
            "--conn-limit=0",
            "--rekey-after=0",
            "--trusted-subnets=10.1.0.0/16,10.1.2.3/16",
            "--allow-peers=abcdef010203",
            "--password-file=/nonexistent/password",
            "h1:0",
            "ok",
            "a..b",
        ];
        let failure = parse(&line, None).err().unwrap();
        assert_eq!(failure.kind, ErrorKind::Usage);
        assert!(failure.message.contains("bits that are not in 10.1.0.0/16"), "{}", failure.message);
        let starts: Vec<_> = failure.message.lines().map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(
            starts,
            [
                "--nickname 'a b'",
                "--port '65535'",
                "--listen 'here'",
                "--http '6782'",
                "--mtu '575'",
                "--workers '65'",
                "--bridge 'twelve-bytes'",
                "--conn-limit '0'",
                "--rekey-after '0'",
                "--trusted-subnets '10.1.2.3/16'",
                "--allow-peers 'abcdef010203'",
                "PEER 'h1:0'",
                "PEER 'a..b'",
                "--password-file '/nonexistent/password'",
            ]
        );
    }

    #[test]
    fn numbers_are_digits_in_their_bounds() {
        for text in ["", "0", "-1", "+7000", "65535", "99999999999", "7000 ", "x"] {
            assert_eq!(parse_port(text), Err(OptionError::Port), "{text:?}");
        }
        assert_eq!((parse_port("1"), parse_port("65534")), (Ok(1), Ok(65_534)));
        for text in ["", "575", "64871", "Auto", "+1400", "1400b"] {
            assert_eq!(parse_mtu(text), Err(OptionError::Mtu), "{text:?}");
        }
        for text in ["", "0", "-1", "10001", "many"] {
            assert_eq!(parse_connection_limit(text), Err(OptionError::ConnectionLimit), "{text:?}");
        }
        assert_eq!(parse_connection_limit("10000"), Ok(10_000));
        assert_eq!(parse_mtu("576"), Ok(MtuSetting::Fixed(576)));
        assert_eq!(parse_mtu("64870"), Ok(MtuSetting::Fixed(64_870)));
    }

    #[test]
    fn a_nickname_can_be_made_of_any_host_name() {
        assert_eq!(nickname_from("host-1.example").as_str(), "host-1.example");
        assert_eq!(nickname_from("häst (none)").as_str(), "h-st--none-");
        assert_eq!(nickname_from("").as_str(), "mesh");
        assert_eq!(nickname_from(&"x".repeat(100)).as_str().len(), 64);
    }

    /// Launches with a password file of these contents and permissions.
    fn with_file(contents: &[u8], mode: u32) -> Result<Settings, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), contents).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        parse(&["--password-file", file.path().to_str().unwrap()], Some(""))
    }

    #[test]
    fn a_password_file_goes_before_the_environment_and_warns_when_others_can_read_it() {
        let settings = with_file(b"a long enough secret\nand another one\n", 0o600).unwrap();
        assert_eq!((settings.config.secrets.len(), settings.warnings), (2, vec![]));
        assert!(settings.config.password_file.unwrap().is_absolute());
        for mode in [0o644, 0o640, 0o604] {
            let warnings = with_file(b"a long enough secret", mode).unwrap().warnings;
            assert!(
                matches!(warnings[..], [Warning::PasswordFileReadable { mode: told, .. }] if told == mode)
            );
        }
    }

    #[test]
    fn a_password_file_that_cannot_be_used_is_refused_and_not_shown() {
        let (long, longer) = ("swordfish".repeat(114), "swordfish".repeat(2_000));
        for bad in ["", "\n", "# swordfish\r\n", &long, &longer, "mesh1.swordfish"] {
            let failure = with_file(bad.as_bytes(), 0o600).err().unwrap();
            assert_eq!(failure.kind, ErrorKind::Invalid);
            assert!(!failure.message.contains("swordfish"), "{}", failure.message);
        }
        assert_eq!(with_file(b"\xff", 0o600).err().unwrap().kind, ErrorKind::Invalid);
    }

    #[test]
    fn a_password_that_can_be_guessed_is_warned_of() {
        assert_eq!(parse(&[], Some("swordfish")).unwrap().warnings, [Warning::PasswordWeak]);
        assert_eq!(parse(&[], Some("correct horse battery")).unwrap().warnings, []);
    }

    #[test]
    fn an_empty_password_in_the_environment_is_refused_rather_than_ignored() {
        let failure = parse(&[], Some("")).err().unwrap();
        assert!(failure.message.starts_with("MESH_PASSWORD: the password is empty"), "{}", failure.message);
    }

    #[test]
    fn the_peers_of_the_last_launch_and_those_of_this_one_exclude_each_other() {
        assert_eq!(parse(&["--resume"], None).unwrap().config.peers, Peers::Resumed);
        let failure = parse(&["--resume", "h1"], None).err().unwrap();
        assert_eq!(failure.kind, ErrorKind::Usage);
        let many: Vec<_> = (0..=TARGETS_MAX).map(|number| format!("h{number}")).collect();
        let failure = parse(&many.iter().map(String::as_str).collect::<Vec<_>>(), None).err().unwrap();
        assert_eq!(failure.kind, ErrorKind::Usage);
    }
}
