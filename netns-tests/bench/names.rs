//! How many questions about local names a core answers, how soon, and what the names take in memory: mesh's name server beside
//! dnsmasq and unbound, each with the same names.
//!
//! Owns the measurement. All subjects run at the same time, each with one thread on one CPU, and are asked in turn, round by
//! round, by a dnsperf on another CPU; so whatever else the machine does meets them alike. What a subject answers in a second of
//! its own CPU is independent of who else has the CPU meanwhile. mesh's is the server and the names of a router without the
//! router, as an example of `mesh-dns`, with its limits for each client off: a router answers one address 5,000 times a second.
//!
//! ```text
//! cargo xtask bench       or, alone, as root:
//! cargo build --release -p mesh-dns --example serve && cargo bench -p mesh-netns-tests --bench names [-- --quick]
//! ```
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use mesh_lab::{Cmd, Host, Lab, Process, eventually, secs};

/// Names that each subject has, all with one address.
const NAMES: u32 = 100_000;

/// Names that are asked for: mesh's last hundred come otherwise.
const ASKED: u32 = NAMES - 100;

/// Questions of one run through the list; dnsperf begins anew at its end.
const QUESTIONS: u32 = 200_000;

/// Queries a second at which latency is measured: a fifth of what a core is to answer, so that none waits for another.
const LATENCY_RATE: u32 = 20_000;

/// A subject must have read all names by then.
const READY_MAX: std::time::Duration = secs(60);

/// Clock ticks of `/proc/PID/stat` in a second (sysconf(_SC_CLK_TCK), 100 on all of Linux).
const TICKS: f64 = 100.0;

struct Effort {
    rounds: usize,
    seconds: u32,
}

/// A name server that runs.
struct Subject {
    name: &'static str,
    port: u16,
    process: Process,
    resident_kib: u64,
    runs: Vec<Run>,
}

/// What came of asking one subject once.
struct Run {
    a_second: f64,
    a_cpu_second: f64,
    p50_us: f64,
    p99_us: f64,
    lost: u64,
}

fn main() -> Result<()> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let effort = if quick { Effort { rounds: 1, seconds: 2 } } else { Effort { rounds: 5, seconds: 5 } };
    let lab = Lab::new("bench-names")?;
    let host = lab.host("h1")?;
    let files = tempfile::tempdir()?;
    let questions = files.path().join("questions");
    fs::write(&questions, self::questions())?;

    let mut subjects = Vec::new();
    for start in [mesh, dnsmasq, unbound] {
        let mut subject = start(&host, files.path())?;
        eventually(READY_MAX, || answers(&host, &subject)).context(subject.name)?;
        subject.resident_kib = resident_kib(subject.process.pid())?;
        subjects.push(subject);
    }
    for round in 1..=effort.rounds {
        for subject in &mut subjects {
            eprintln!("bench: {}, round {round} of {}", subject.name, effort.rounds);
            let run = measure(&host, subject, &questions, &effort)?;
            subject.runs.push(run);
        }
    }
    let table = table(&subjects, &effort)?;
    println!("\n{table}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench/names.md");
    fs::create_dir_all(file.parent().context("it has a parent")?)?;
    fs::write(&file, table)?;
    Ok(())
}

fn mesh(host: &Host, _files: &Path) -> Result<Subject> {
    let program = example()?;
    // It ends with its input.
    let hold = "sleep 100000 | exec \"$0\" \"$@\"";
    let command = pinned(host, 0, "sh").args(["-c", hold]).arg(&program);
    let shell = command.args(["127.0.0.1:5301", &NAMES.to_string(), "unlimited"]).spawn()?;
    Ok(Subject::new("mesh", 5301, shell))
}

fn dnsmasq(host: &Host, files: &Path) -> Result<Subject> {
    let hosts = files.join("hosts");
    fs::write(&hosts, lines(|number, address| format!("{address} name-{number}.mesh.internal\n")))?;
    let process = pinned(host, 0, "dnsmasq")
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"])
        .args(["--pid-file=", "--bind-interfaces", "--listen-address=127.0.0.1", "--port=5302"])
        .args(["--local-ttl=1", "--local=/mesh.internal/"])
        .arg(format!("--addn-hosts={}", hosts.display()))
        .spawn()?;
    Ok(Subject::new("dnsmasq", 5302, process))
}

fn unbound(host: &Host, files: &Path) -> Result<Subject> {
    let conf = files.join("unbound.conf");
    let head = "server:\n interface: 127.0.0.1@5303\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n\
                directory: \"/\"\n num-threads: 1\n use-syslog: no\n verbosity: 0\n module-config: \"iterator\"\n\
                local-zone: \"mesh.internal.\" static\n";
    let data =
        lines(|number, address| format!(" local-data: \"name-{number}.mesh.internal. 1 A {address}\"\n"));
    fs::write(&conf, format!("{head}{data}"))?;
    let process = pinned(host, 0, "unbound").args(["-d", "-p", "-c"]).arg(&conf).spawn()?;
    Ok(Subject::new("unbound", 5303, process))
}

impl Subject {
    const fn new(name: &'static str, port: u16, process: Process) -> Self {
        Self { name, port, process, resident_kib: 0, runs: Vec::new() }
    }

    /// The median over all rounds.
    fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        let mut all: Vec<_> = self.runs.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    }
}

/// A program on the first CPU (0) or the last one (1).
fn pinned(host: &Host, end: usize, program: &str) -> Cmd {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpu = if end == 0 { 0 } else { cpus - 1 };
    host.cmd("taskset").args(["-c", &cpu.to_string(), program])
}

/// The example that was built beside this benchmark.
fn example() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let release = here.parent().and_then(Path::parent).context("target/release/deps has parents")?;
    let program = release.join("examples/serve");
    if !program.exists() {
        bail!("{} is not built: cargo build --release -p mesh-dns --example serve", program.display());
    }
    Ok(program)
}

fn lines(line: impl Fn(u32, std::net::Ipv4Addr) -> String) -> String {
    (0..NAMES).map(|number| line(number, std::net::Ipv4Addr::from(0x0a20_0001 + number))).collect()
}

/// All names in an order that no cache foresees.
fn questions() -> String {
    (0..QUESTIONS)
        .map(|number| number.wrapping_mul(7_919) % ASKED)
        .map(|number| format!("name-{number}.mesh.internal A\n"))
        .collect()
}

fn answers(host: &Host, subject: &Subject) -> Result<()> {
    let port = subject.port.to_string();
    let dig = ["dig", "+short", "+time=1", "+tries=1", "@127.0.0.1", "-p", &port, "name-99000.mesh.internal"];
    let answer = host.run(dig)?.stdout;
    ensure!(answer.trim() == "10.33.130.185", "{answer}");
    Ok(())
}

fn measure(host: &Host, subject: &Subject, questions: &Path, effort: &Effort) -> Result<Run> {
    let (port, seconds) = (subject.port.to_string(), effort.seconds.to_string());
    let dnsperf = |more: &[&str]| {
        let command = pinned(host, 1, "dnsperf").args(["-s", "127.0.0.1", "-p", &port, "-l", &seconds]);
        Ok::<_, anyhow::Error>(
            command.args(["-c", "4", "-T", "1", "-d"]).arg(questions).args(more).run()?.stdout,
        )
    };
    let before = cpu_seconds(subject.process.pid())?;
    let full = dnsperf(&["-q", "200"])?;
    let used = cpu_seconds(subject.process.pid())? - before;
    let completed = number(&full, "Queries completed:")?;
    // Each answer is a line of its own, its time in seconds last.
    let calm = dnsperf(&["-q", "200", "-Q", &LATENCY_RATE.to_string(), "-v"])?;
    let times = calm.lines().filter_map(|line| line.strip_prefix("> NOERROR ")?.split_whitespace().last());
    let mut times: Vec<f64> = times.filter_map(|time| time.parse().ok()).collect();
    ensure!(times.len() > 1_000, "{} answers were timed", times.len());
    times.sort_by(f64::total_cmp);
    let us = |share: usize| times[times.len() * share / 100] * 1e6;
    Ok(Run {
        a_second: number(&full, "Queries per second:")?,
        a_cpu_second: completed / used,
        p50_us: us(50),
        p99_us: us(99),
        lost: number(&full, "Queries lost:")? as u64 + number(&calm, "Queries lost:")? as u64,
    })
}

/// The number after these words of dnsperf's summary.
fn number(summary: &str, words: &str) -> Result<f64> {
    let line = summary.lines().find_map(|line| line.trim().strip_prefix(words));
    let text = line.and_then(|rest| rest.split_whitespace().next());
    text.with_context(|| format!("no {words} in {summary}"))?.parse().context("a number")
}

/// The process and those that it has started: a shell holds the server of mesh.
fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    std::iter::once(pid).chain(children).collect()
}

/// Time on a CPU so far (proc_pid_stat(5)).
fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut ticks = 0;
    for pid in family(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = stat.rsplit_once(')').context("a name in parentheses")?.1;
        for field in fields.split_whitespace().skip(11).take(2) {
            ticks += field.parse::<u64>()?;
        }
    }
    Ok(ticks as f64 / TICKS)
}

/// Memory of the greatest of its processes, in KiB.
fn resident_kib(pid: u32) -> Result<u64> {
    let of_one = |pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:").map(str::to_owned))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    family(pid).into_iter().filter_map(of_one).max().context("it has ended")
}

fn table(subjects: &[Subject], effort: &Effort) -> Result<String> {
    let mut out = format!(
        "{NAMES} names, {} rounds of {} s, medians; latency at {LATENCY_RATE} queries a second\n\n\
         | | answers a second of its CPU | answers a second | median | p99 | lost | memory |\n|---|---|---|---|---|---|---|\n",
        effort.rounds, effort.seconds,
    );
    for subject in subjects {
        writeln!(
            out,
            "| {} | {:.0} | {:.0} | {:.0} µs | {:.0} µs | {} | {:.0} MB |",
            subject.name,
            subject.median(|run| run.a_cpu_second),
            subject.median(|run| run.a_second),
            subject.median(|run| run.p50_us),
            subject.median(|run| run.p99_us),
            subject.runs.iter().map(|run| run.lost).sum::<u64>(),
            subject.resident_kib as f64 / 1024.0,
        )?;
    }
    Ok(out)
}
