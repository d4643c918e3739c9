//! From the words of the command line to the router's configuration, with all that is wrong reported together.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mesh_api::{ErrorKind, Failure};
use mesh_daemon::{
    BridgeName, Config, LogFormat, LogLevel, MtuSetting, Nickname, Password, PasswordError, PeerTarget,
};

use crate::args::{self, LaunchArgs};
use crate::problems::Problems;

/// Least MTU of the overlay in bytes: what every IPv4 host must take (RFC 791, section 3.1).
const MTU_MIN: u32 = 576;

/// Greatest MTU of the overlay in bytes: 65000 less the 130 by which a frame grows on its way, so that a datagram fits
/// UDP with room to spare.
const MTU_MAX: u32 = 65_000 - 130;

/// Greatest port: the one after it belongs to the router too.
const PORT_MAX: u16 = u16::MAX - 1;

/// Longest nickname that is made from a host name, in bytes; the same as of one that is given.
const NICKNAME_LEN_MAX: usize = 64;

/// Nickname of a router whose host has no name to take it from.
const NICKNAME_FALLBACK: &str = "mesh";

/// Most bytes read of a password file: more than any password and its newline.
const PASSWORD_FILE_LEN_MAX: u64 = 4096;

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
}

/// Why an option's text is no value of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum OptionError {
    #[error("no port number from 1 to {PORT_MAX}")]
    Port,
    #[error("neither 'auto' nor a number of bytes from {MTU_MIN} to {MTU_MAX}")]
    Mtu,
    #[error("no IPv4 or IPv6 address")]
    Listen,
}

/// Why there is no password where one was promised.
#[derive(Debug, thiserror::Error)]
enum PasswordSourceError {
    #[error("cannot read it: {0}")]
    File(#[from] io::Error),
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
        }
    }
}

/// Parses the options of `launch`; `password` is the value of `MESH_PASSWORD`.
pub(super) fn settings(args: &LaunchArgs, password: Option<OsString>) -> Result<Settings, Failure> {
    let mut problems = Problems::default();
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
    let mtu = check(&mut problems, "--mtu", &args.mtu, parse_mtu(&args.mtu));
    let bridge =
        check(&mut problems, "--bridge", &args.bridge.bridge, args.bridge.bridge.parse::<BridgeName>());
    let peers: Vec<_> = args
        .peers
        .iter()
        .map(|text| check(&mut problems, "PEER", text, text.parse::<PeerTarget>()))
        .collect();
    let password = match (&args.password_file, password) {
        (Some(path), _) => password_of_file(path, &mut problems, &mut warnings).map(Some),
        (None, Some(value)) => password_of_environment(value, &mut problems).map(Some),
        (None, None) => Some(None),
    };
    let run_dir = absolute("--run-dir", &args.router.run_dir.run_dir, &mut problems);
    let state_dir = absolute("--state-dir", &args.state_dir.state_dir, &mut problems);

    let options = (nickname, port, listen, mtu, bridge);
    let (Some(nickname), Some(port), Some(listen), Some(mtu), Some(bridge)) = options else {
        return Err(refuse(problems));
    };
    let (Some(peers), Some(password)) = (peers.into_iter().collect(), password) else {
        return Err(refuse(problems));
    };
    let (Some(run_dir), Some(state_dir)) = (run_dir, state_dir) else { return Err(refuse(problems)) };
    let discovery = !args.no_discovery;
    Ok(Settings {
        config: Config {
            run_dir,
            state_dir,
            nickname,
            port,
            listen,
            password,
            mtu,
            bridge,
            discovery,
            peers,
        },
        log_level: log_level(args.log_level),
        log_format: log_format(args.log_format),
        warnings,
    })
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
    problems.check(&format!("{option} '{}'", text.escape_debug()), result)
}

fn parse_port(text: &str) -> Result<u16, OptionError> {
    match parse_number(text) {
        Some(port @ 1..) if port <= u32::from(PORT_MAX) => {
            u16::try_from(port).map_err(|_too_great| OptionError::Port)
        }
        Some(_) | None => Err(OptionError::Port),
    }
}

fn parse_mtu(text: &str) -> Result<MtuSetting, OptionError> {
    match (text, parse_number(text)) {
        ("auto", _) => Ok(MtuSetting::Auto),
        (_, Some(mtu @ MTU_MIN..=MTU_MAX)) => Ok(MtuSetting::Fixed(mtu)),
        (_, Some(_) | None) => Err(OptionError::Mtu),
    }
}

/// Takes digits alone, where the standard library's parser takes a plus sign too.
fn parse_number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn parse_listen(text: &str) -> Result<IpAddr, OptionError> {
    text.parse().map_err(|_no_address| OptionError::Listen)
}

/// The absolute form of a directory, since the router leaves the directory that it was started in.
fn absolute(option: &str, path: &Path, problems: &mut Problems) -> Option<PathBuf> {
    problems.check(&format!("{option} '{}'", path.display()), std::path::absolute(path))
}

fn password_of_file(path: &Path, problems: &mut Problems, warnings: &mut Vec<Warning>) -> Option<Password> {
    match read_password(path) {
        Ok((password, mode)) => {
            if let Some(mode) = mode.filter(|mode| mode & MODE_READ_OTHERS != 0) {
                warnings.push(Warning::PasswordFileReadable { path: path.to_owned(), mode });
            }
            Some(password)
        }
        Err(error) => {
            problems.add(ErrorKind::Invalid, format!("--password-file '{}': {error}", path.display()));
            None
        }
    }
}

fn password_of_environment(value: OsString, problems: &mut Problems) -> Option<Password> {
    let text = value.into_string().map_err(|_value| PasswordSourceError::NotUtf8);
    match text.and_then(|text| Ok(Password::try_from(text)?)) {
        Ok(password) => Some(password),
        Err(error) => {
            problems.add(ErrorKind::Invalid, format!("MESH_PASSWORD: {error}"));
            None
        }
    }
}

/// The password in a file without its last newline, and the permissions of the file if it is a regular one.
fn read_password(path: &Path) -> Result<(Password, Option<u32>), PasswordSourceError> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mode = metadata.is_file().then(|| metadata.mode() & 0o7777);
    // Room for all of it from the start, so that growing leaves no copies in memory.
    let mut text = String::with_capacity(PASSWORD_FILE_LEN_MAX as usize + 1);
    match file.take(PASSWORD_FILE_LEN_MAX).read_to_string(&mut text) {
        Ok(_length) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(PasswordSourceError::NotUtf8),
        Err(error) => return Err(error.into()),
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok((Password::try_from(text)?, mode))
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

    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(line: &[&str], password: Option<&str>) -> Result<Settings, Failure> {
        let cli = Cli::try_parse_from(["mesh", "launch"].iter().chain(line)).unwrap();
        let Command::Launch(args) = cli.command else { panic!("launch is launch") };
        settings(&args, password.map(OsString::from))
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
        assert!(config.password.is_none() && config.peers.is_empty());
    }

    #[test]
    fn each_option_arrives() {
        let line = [
            "--nickname=h1",
            "--port=7000",
            "--listen=::1",
            "--mtu=9000",
            "--bridge=br7",
            "--no-discovery",
            "--run-dir=relative",
            "h2",
            "[2001:db8::1]:7001",
        ];
        let config = parse(&line, Some("secret")).unwrap().config;
        assert_eq!(config.nickname.as_str(), "h1");
        assert_eq!(config.port, 7000);
        assert_eq!(config.listen, Some("::1".parse().unwrap()));
        assert_eq!(config.mtu, MtuSetting::Fixed(9000));
        assert_eq!(config.bridge.to_string(), "br7");
        assert!(!config.discovery && config.password.is_some());
        assert!(config.run_dir.is_absolute());
        let peers: Vec<_> = config.peers.iter().map(ToString::to_string).collect();
        assert_eq!(peers, ["h2:6783", "[2001:db8::1]:7001"]);
    }

    #[test]
    fn all_that_is_wrong_is_reported_together() {
        let line = [
            "--nickname=a b",
            "--port=65535",
            "--listen=here",
            "--mtu=575",
            "--bridge=twelve-bytes",
            "--password-file=/nonexistent/password",
            "h1:0",
            "ok",
            "a..b",
        ];
        let failure = parse(&line, None).err().unwrap();
        assert_eq!(failure.kind, ErrorKind::Usage);
        let starts: Vec<_> = failure.message.lines().map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(
            starts,
            [
                "--nickname 'a b'",
                "--port '65535'",
                "--listen 'here'",
                "--mtu '575'",
                "--bridge 'twelve-bytes'",
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
        let settings = with_file(b"secret\n", 0o600).unwrap();
        assert!(settings.config.password.is_some() && settings.warnings.is_empty());
        for mode in [0o644, 0o640, 0o604] {
            let warnings = with_file(b"secret", mode).unwrap().warnings;
            assert!(
                matches!(warnings[..], [Warning::PasswordFileReadable { mode: told, .. }] if told == mode)
            );
        }
    }

    #[test]
    fn a_password_is_1_to_1024_bytes_without_its_last_newline() {
        for good in [&[b'x'; 1024][..], &[&[b'x'; 1024][..], b"\r\n"].concat(), b"\n\n", b" "] {
            assert!(with_file(good, 0o600).is_ok(), "{}", good.escape_ascii());
        }
        for bad in [&b""[..], b"\n", b"\r\n", &[b'x'; 1025], &[b'x'; 10_000], b"\xff"] {
            let failure = with_file(bad, 0o600).err().unwrap();
            assert_eq!(failure.kind, ErrorKind::Invalid);
            assert!(!failure.message.contains("xx"), "{}", failure.message);
        }
    }

    #[test]
    fn an_empty_password_in_the_environment_is_refused_rather_than_ignored() {
        let failure = parse(&[], Some("")).err().unwrap();
        assert_eq!(failure.message, "MESH_PASSWORD: the password is empty");
    }
}
