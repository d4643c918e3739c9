//! Nothing is left of a lab, however its test ends; and a test with a bad end fails.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_lab::{Chaos, Lab, eventually, secs};

/// The value names the directory in which the victim tells that it is ready.
const VICTIM_VARIABLE: &str = "LAB_TEST_VICTIM";

/// What a lab has put into the world.
struct Furniture {
    /// What the names of its namespaces and of its directory begin with.
    mark: String,
    processes: Vec<u32>,
}

impl Furniture {
    fn is_gone(&self) -> bool {
        self.traces().is_empty() && !self.processes.iter().any(|process| lives(*process))
    }

    fn traces(&self) -> Vec<PathBuf> {
        traces_of(&self.mark)
    }
}

fn traces_of(mark: &str) -> Vec<PathBuf> {
    let names = |directory: PathBuf| {
        let entries =
            fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(mark)))
    };
    names("/run/netns".into()).chain(names(std::env::temp_dir())).collect()
}

fn lives(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// A lab with everything that can be left over: a daemon that left its parent, one in a namespace without a
/// name, one that ignores SIGTERM, a wire, a NAT router.
fn furnish(lab: &Lab) -> Result<Furniture> {
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    lab.nat("home")?;
    b.container("c")?;
    lab.wire(&a, Chaos::default())?;
    a.run(["sh", "-c", "setsid sleep 600 & setsid unshare --net sleep 600 & trap '' TERM"])?;
    a.run(["sh", "-c", "(trap '' TERM; while true; do sleep 1; done) &"])?;
    eventually(secs(5), || lab.processes().len() >= 4)?;
    a.ping(b.ip())?;
    let mark = a.name().strip_suffix("-a").context("a name ends with its label")?.to_owned();
    Ok(Furniture { mark, processes: lab.processes() })
}

#[test]
fn nothing_is_left_after_a_drop() -> Result<()> {
    let lab = Lab::new("drop")?;
    let furniture = furnish(&lab)?;
    assert!(furniture.traces().len() >= 6);

    drop(lab);
    assert!(furniture.is_gone());
    Ok(())
}

#[test]
fn nothing_is_left_after_a_panic() -> Result<()> {
    let mut furniture = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::new("panic").unwrap();
        furniture = Some(furnish(&lab).unwrap());
        panic!("as wanted");
    }));

    assert_eq!(outcome.unwrap_err().downcast_ref::<&str>(), Some(&"as wanted"));
    assert!(furniture.unwrap().is_gone());
    Ok(())
}

#[test]
fn nothing_is_left_after_a_kill() -> Result<()> {
    let (victim, furniture) = ready_victim()?;
    kill(victim)?;

    eventually(secs(10), || furniture.is_gone())
}

#[test]
fn the_next_lab_removes_what_a_killed_watcher_could_not() -> Result<()> {
    let (victim, furniture) = ready_victim()?;
    let watcher = watcher_of(victim.id())?;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(watcher.cast_signed()).context("a pid")?,
        rustix::process::Signal::KILL,
    )?;
    kill(victim)?;
    assert!(!furniture.traces().is_empty());

    let _lab = Lab::new("next")?;
    assert!(furniture.is_gone());
    Ok(())
}

/// Not a test by itself: the process that the two tests above kill.
#[test]
fn victim() -> Result<()> {
    let Some(directory) = std::env::var_os(VICTIM_VARIABLE) else { return Ok(()) };
    let lab = Lab::new("victim")?;
    let furniture = furnish(&lab)?;
    let words = furniture.processes.iter().map(u32::to_string);
    let words: Vec<_> = std::iter::once(furniture.mark).chain(words).collect();
    let file = Path::new(&directory).join("ready");
    fs::write(file.with_extension("part"), words.join(" "))?;
    fs::rename(file.with_extension("part"), file)?;
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

/// Starts this executable once more, and waits until its lab stands.
fn ready_victim() -> Result<(Child, Furniture)> {
    let directory = tempfile::tempdir()?;
    let victim = Command::new(std::env::current_exe()?)
        .args(["--exact", "victim", "--nocapture"])
        .env(VICTIM_VARIABLE, directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let ready = directory.path().join("ready");
    let text = eventually(secs(20), || fs::read_to_string(&ready))?;
    let mut words = text.split(' ');
    let mark = words.next().context("an empty file")?.to_owned();
    let processes = words.map(str::parse).collect::<Result<_, _>>()?;
    Ok((victim, Furniture { mark, processes }))
}

fn kill(mut victim: Child) -> Result<()> {
    victim.kill()?;
    victim.wait()?;
    Ok(())
}

/// The watcher is the child whose command line names the lab.
fn watcher_of(pid: u32) -> Result<u32> {
    let children =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_watcher = |child: &u32| {
        let words = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        words.contains("mesh-lab-reaper") && words.contains(&format!("\0{pid}-"))
    };
    children.into_iter().find(is_watcher).context("no watcher runs")
}

#[test]
fn a_router_that_logs_an_error_fails_the_test_unless_that_is_tolerated() -> Result<()> {
    for (line, tolerated, fails) in [
        ("2026-01-02T03:04:05Z ERROR mesh: broken", false, true),
        ("thread 'x' panicked at y.rs:1:2:", false, true),
        ("2026-01-02T03:04:05Z ERROR mesh: broken", true, false),
        ("2026-01-02T03:04:05Z  WARN mesh: odd", false, false),
    ] {
        let lab = Lab::new("errors")?;
        let a = lab.host("a")?;
        fs::create_dir_all(a.state_dir())?;
        fs::write(a.state_dir().join("mesh.log"), line)?;
        if tolerated {
            lab.tolerate_errors();
        }
        let ended = catch_unwind(AssertUnwindSafe(|| drop(lab)));
        assert_eq!(ended.is_err(), fails, "{line}");
    }
    Ok(())
}

#[test]
fn labs_of_one_process_do_not_touch_each_other() -> Result<()> {
    let labs = (0..4).map(|number| Lab::new(&format!("many{number}"))).collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = labs
            .iter()
            .map(|lab| {
                scope.spawn(move || -> Result<()> {
                    let (a, b) = (lab.host("a")?, lab.host("b")?);
                    a.ping(b.ip())?;
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })?;
    let mut labs = labs.into_iter();
    drop(labs.next());
    for lab in labs {
        let c = lab.host("c")?;
        c.ping(c.ip())?;
    }
    Ok(())
}
