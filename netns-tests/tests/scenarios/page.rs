//! The status page, in a real browser, and `mesh top`, in a real terminal. With `MESH_PICTURES=DIRECTORY` both are left there
//! to be looked at: `page.png`, and `top.ansi` with its colours.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Host, eventually, secs};

use crate::support::{READY, all_ping, chain, mesh_binary};

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
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("tmux");
    let tmux = |arguments: &[&str]| {
        host.cmd("tmux").arg("-f").arg("/dev/null").arg("-S").arg(&socket).args(arguments).run()
    };
    let run_dir = host.run_dir();
    let binary = mesh_binary()?;
    let shell =
        format!("echo before; {} top --run-dir {}; echo ended with $?", binary.display(), run_dir.display());
    let script = directory.path().join("script");
    fs::write(&script, format!("{shell}\nexec sleep 60\n"))?;
    tmux(&["new-session", "-d", "-x", "120", "-y", "24", &format!("sh {}", script.display())])?;
    let screen = || -> Result<String> { Ok(tmux(&["capture-pane", "-p"])?.stdout) };
    let result = eventually(READY, || {
        let screen = screen()?;
        ensure!(["h2", "h3", "PEER", "q quits"].iter().all(|word| screen.contains(word)), "{screen}");
        ensure!(!screen.contains("before"), "it has a screen of its own: {screen}");
        if let Some(directory) = pictures() {
            fs::write(directory.join("top.ansi"), tmux(&["capture-pane", "-e", "-p"])?.stdout)?;
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
    tmux(&["kill-server"])?;
    result.context("in tmux")
}
