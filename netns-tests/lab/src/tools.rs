//! What the lab needs from the machine: root, a few programs, and the binaries built beside the test.
//!
//! Owns the table of programs and their Debian packages. Runs nothing.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

/// Programs that labs and probes call, with the Debian package that brings each.
const PACKAGES: [(&str, &str); 15] = [
    ("arping", "iputils-arping"),
    ("bridge", "iproute2"),
    ("busybox", "busybox-static"),
    ("containerd", "docker.io"),
    ("docker", "docker.io"),
    ("dockerd", "docker.io"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("socat", "socat"),
    ("ss", "iproute2"),
    ("tc", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("unshare", "util-linux"),
];

/// Fails unless this process may make namespaces and the programs that every lab uses are installed.
pub(crate) fn check_machine() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "a lab makes network namespaces and needs root: run the tests as root, for example with sudo -E"
        );
    }
    for program in ["ip", "nft", "tc"] {
        locate(program)?;
    }
    Ok(())
}

/// The full path of a program on `PATH`. A name with a slash is taken as it is, if there is such a file.
///
/// # Errors
/// When there is no such program; the error names the Debian package that has it, where known.
pub(crate) fn locate(program: &str) -> Result<PathBuf> {
    if program.contains('/') {
        let path = PathBuf::from(program);
        return if path.is_file() { Ok(path) } else { Err(anyhow!("there is no program {program}")) };
    }
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    let found = env::split_paths(&path).chain(sbin).map(|dir| dir.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let package = PACKAGES.iter().find(|(name, _)| *name == program);
        match package {
            Some((_, package)) => {
                anyhow!("the program {program} is missing: install the Debian package {package}")
            }
            None => anyhow!("the program {program} is not on PATH"),
        }
    })
}

/// A binary of this workspace: the file that `variable` names, else `name` in the target directory in which
/// the running test lies.
///
/// # Errors
/// When there is no such file; the error says how to build it.
pub(crate) fn built_binary(name: &str, variable: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("{variable} names {}, which is no file", path.display());
        }
        return path.canonicalize().with_context(|| format!("cannot resolve {}", path.display()));
    }
    let test = env::current_exe().context("cannot tell where the test executable lies")?;
    let path = target_directory(&test).join(name);
    if !path.is_file() {
        bail!("{} is missing: run `cargo build -p {package}`, or set {variable}", path.display());
    }
    Ok(path)
}

/// `target/debug` for a test in `target/debug/deps`, and for an example in `target/debug/examples`.
fn target_directory(executable: &Path) -> &Path {
    let directory = executable.parent().unwrap_or_else(|| Path::new("/"));
    match directory.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => directory.parent().unwrap_or(directory),
        Some(_) | None => directory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_reported_with_its_package() {
        assert!(locate("ip").unwrap().ends_with("ip"));
        let error = locate("no-such-program").unwrap_err().to_string();
        assert!(error.contains("not on PATH"), "{error}");
    }

    #[test]
    fn binaries_are_looked_for_one_level_above_the_test() {
        assert_eq!(target_directory(Path::new("/t/debug/deps/ping-0a1b")), Path::new("/t/debug"));
        assert_eq!(target_directory(Path::new("/t/debug/demo")), Path::new("/t/debug"));
    }

    #[test]
    fn a_missing_binary_is_reported_with_the_way_to_build_it() {
        let error = built_binary("no-such-binary", "MESH_LAB_NO_SUCH", "mesh").unwrap_err().to_string();
        assert!(error.contains("cargo build -p mesh"), "{error}");
    }
}
