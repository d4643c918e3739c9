//! The status page, in a real browser, and `mesh top`, in a real terminal. With `MESH_PICTURES=DIRECTORY` both are left there
//! to be looked at: `page.png`, and `top.ansi` with its colours.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Host, Lab, Output, eventually, secs};

use crate::support::{READY, all_ping, chain, launch, mesh_binary, status, words};

/// A browser without a screen, where one is installed.
fn browser() -> Option<PathBuf> {
    ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
}

/// Where pictures are to be left.
fn pictures() -> Option<PathBuf> {
    std::env::var_os("MESH_PICTURES").map(PathBuf::from)
}

/// Has a browser on the host open the page, and returns what it looks like as a document after a while, or leaves a picture.
fn open(host: &Host, browser: &Path, profile: &Path, picture: Option<&Path>) -> Result<String> {
    let result = match picture {
        None => "--dump-dom".to_owned(),
        Some(picture) => format!("--screenshot={}", picture.display()),
    };
    let profile = format!("--user-data-dir={}", profile.display());
    let options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--virtual-time-budget=6000",
        "--window-size=1280,1500",
        "--hide-scrollbars",
    ];
    let command = host.cmd("timeout").arg("60").arg(browser).arg(profile).args(options).arg(result);
    Ok(command.arg("http://127.0.0.1:6782/").run()?.stdout)
}

#[test]
fn the_page_shows_peers_links_and_rates_in_a_browser() -> Result<()> {
    let (_lab, [one, two, three]) = chain("page", Some("a long enough secret"))?;
    all_ping(&[&one, &two, &three])?;
    // Nothing of it comes from elsewhere, and the browser is told so.
    let page = one.host.run(["curl", "-si", "http://127.0.0.1:6782/"])?.stdout;
    ensure!(
        page.contains("Content-Security-Policy: default-src 'none'")
            && !page.contains("http://")
            && !page.contains("https://"),
        "{page}"
    );
    let Some(browser) = browser() else {
        println!("skipped: the part with a browser, since chromium is not installed");
        return Ok(());
    };
    let profile = tempfile::tempdir()?;
    eventually(secs(120), || {
        let document = open(&one.host, &browser, profile.path(), None)?;
        for name in ["h1", "h2", "h3"] {
            ensure!(document.contains(&format!(">{name}</text>")), "{name} is not drawn: {document}");
            ensure!(document.contains(&format!("<td>{name}</td>")), "{name} is in no table: {document}");
        }
        ensure!(document.matches("class=\"own\"").count() == 2, "two links of its own: {document}");
        ensure!(document.contains(">live</p>") && document.contains("sleeve out"), "{document}");
        ensure!(document.contains(">dropped</td>"), "what was dropped is not told: {document}");
        Ok(())
    })?;
    if let Some(directory) = pictures() {
        open(&one.host, &browser, profile.path(), Some(&directory.join("page.png")))?;
    }
    Ok(())
}

#[test]
fn top_lives_in_a_terminal_and_leaves_it_as_it_was() -> Result<()> {
    let (_lab, [one, two, three]) = chain("top", None)?;
    all_ping(&[&one, &two, &three])?;
    let host = &one.host;
    let refused = host.mesh_cmd(["top"])?.outcome()?;
    ensure!(refused.code() == Some(1) && refused.stderr.contains("terminal"), "{refused:?}");
    let terminal = Terminal::with_top(host, (120, 24))?;
    let (tmux, screen) = (|arguments: &[&str]| terminal.tmux(arguments), || terminal.screen());
    let result = eventually(READY, || {
        let screen = screen()?;
        ensure!(["h2", "h3", "PEER", "q quits"].iter().all(|word| screen.contains(word)), "{screen}");
        ensure!(!screen.contains("before"), "it has a screen of its own: {screen}");
        if let Some(directory) = pictures() {
            terminal.leave_picture(&directory.join("top.ansi"))?;
        }
        Ok(())
    })
    .and_then(|()| {
        tmux(&["send-keys", "q"])?;
        eventually(READY, || {
            let screen = screen()?;
            ensure!(
                screen.contains("before") && screen.contains("ended with 0") && !screen.contains("PEER"),
                "{screen}"
            );
            let cursor = tmux(&["display-message", "-p", "#{cursor_flag}"])?.stdout;
            ensure!(cursor.trim() == "1", "the cursor is hidden");
            Ok(())
        })
    });
    terminal.close()?;
    result.context("in tmux")
}

/// `mesh top` in a terminal of tmux's, of so many columns and rows.
struct Terminal<'h> {
    host: &'h Host,
    directory: tempfile::TempDir,
}

impl<'h> Terminal<'h> {
    fn with_top(host: &'h Host, (columns, rows): (u32, u32)) -> Result<Self> {
        let terminal = Self { host, directory: tempfile::tempdir()? };
        let (binary, run_dir) = (mesh_binary()?, host.run_dir());
        let top = format!("{} top --run-dir {}", binary.display(), run_dir.display());
        let script = terminal.directory.path().join("script");
        fs::write(&script, format!("echo before; {top}; echo ended with $?\nexec sleep 60\n"))?;
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let shell = format!("sh {}", script.display());
        terminal.tmux(&["new-session", "-d", "-x", &columns, "-y", &rows, &shell])?;
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<Output> {
        let socket = self.directory.path().join("tmux");
        self.host.cmd("tmux").arg("-f").arg("/dev/null").arg("-S").arg(socket).args(arguments).run()
    }

    fn screen(&self) -> Result<String> {
        Ok(self.tmux(&["capture-pane", "-p"])?.stdout)
    }

    fn leave_picture(&self, file: &Path) -> Result<()> {
        Ok(fs::write(file, self.tmux(&["capture-pane", "-e", "-p"])?.stdout)?)
    }

    fn close(self) -> Result<()> {
        self.tmux(&["kill-server"]).map(drop)
    }
}

/// Whether all of it can be read is for people to see: asked only where pictures are wanted.
#[test]
fn thirty_hosts_fit_on_the_page_and_in_a_terminal() -> Result<()> {
    const HOSTS: u64 = 30;

    let (Some(directory), Some(browser)) = (pictures(), browser()) else {
        println!("not asked: MESH_PICTURES is not set, or chromium is not installed");
        return Ok(());
    };
    let lab = Lab::new("thirty")?;
    let hosts = (1..=HOSTS).map(|number| lab.host(&format!("host{number}"))).collect::<Result<Vec<_>>>()?;
    lab.introduce(&hosts)?;
    for (number, host) in hosts.iter().enumerate() {
        let peers = if number == 0 { Vec::new() } else { vec![hosts[0].ip().to_string()] };
        launch(host, &[words(["--ipam-range", "10.40.0.0/16"]).as_slice(), &peers].concat(), None)?;
        let container = host.container("c")?;
        host.mesh(["attach", &container.spec(), "--name", &format!("service{number}"), "--timeout", "60"])?;
    }
    eventually(secs(60), || {
        let found = status(&hosts[0])?;
        ensure!(
            (found.peers, found.connections.established) == (HOSTS, HOSTS - 1),
            "{:?}",
            found.connections
        );
        Ok(())
    })?;
    let profile = tempfile::tempdir()?;
    open(&hosts[0], &browser, profile.path(), Some(&directory.join("page30.png")))?;
    let terminal = Terminal::with_top(&hosts[0], (120, 32))?;
    let shown = eventually(READY, || {
        let screen = terminal.screen()?;
        ensure!(screen.contains("host2") && screen.contains("more"), "{screen}");
        terminal.leave_picture(&directory.join("top30.ansi"))
    });
    terminal.close()?;
    shown
}
