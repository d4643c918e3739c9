//! The peers that the user told this router to connect to: on disk first, then told to the node.
//!
//! Owns the list and its file, which people may read and edit while no router runs. Does not dial.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_api::{ErrorKind, Failure, Response, TargetListDocument};
use mesh_node::Input;
use mesh_topology::Target;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tracing::info;

use crate::control::Answer;
use crate::pipe::Inputs;
use crate::{Error, PeerTarget, PeerTargetError, store};

/// Peers that a router can be told to connect to. One more is refused.
pub const TARGETS_MAX: usize = 1024;

/// First and last line of the file. Without both it is no whole list.
const FIRST_LINE: &str = "# mesh targets, version 1";
const LAST_LINE: &str = "# end";

/// Longest file that is read, in bytes: [`TARGETS_MAX`] lines of the longest host names.
const FILE_LEN_MAX: u64 = TARGETS_MAX as u64 * 264;

/// The list, while a router runs.
#[derive(Clone)]
pub(crate) struct Targets {
    path: PathBuf,
    /// What the file holds. Locked while a change is under way, so that file and node see changes in one order.
    list: Arc<Mutex<Vec<PeerTarget>>>,
    inputs: Inputs,
}

impl Targets {
    /// The list that the file at `path` holds already.
    pub(crate) fn new(path: PathBuf, list: Vec<PeerTarget>, inputs: Inputs) -> Self {
        Self { path, list: Arc::new(Mutex::new(list)), inputs }
    }

    /// Adds targets, or puts them in the place of all others, and answers.
    pub(crate) fn connect(&self, texts: Vec<String>, replace: bool, answer: Answer) {
        self.change(answer, move |list| {
            let added = parse(&texts)?;
            let kept = if replace { &[] } else { list };
            let new = joined(kept.iter().chain(&added).cloned());
            if new.len() > TARGETS_MAX {
                let message =
                    format!("{} peers are more than a router connects to ({TARGETS_MAX})", new.len());
                return Err(Failure::new(ErrorKind::Refused, message)
                    .with_hint("one peer that is in is enough: the others are found through it"));
            }
            let targets = added.iter().map(target).collect();
            Ok((new, Input::Connect { targets, replace }))
        });
    }

    /// Removes targets, all or, when one is not known, none; and answers.
    pub(crate) fn forget(&self, texts: Vec<String>, answer: Answer) {
        self.change(answer, move |list| {
            let gone = parse(&texts)?;
            let unknown: Vec<_> =
                gone.iter().filter(|target| !list.contains(target)).map(ToString::to_string).collect();
            if !unknown.is_empty() {
                let message = format!("this router was not told to connect to {}", unknown.join(", "));
                return Err(Failure::new(ErrorKind::Unknown, message).with_hint(
                    "name a peer as it was named before; `mesh status targets` shows how. Nothing was forgotten",
                ));
            }
            let new = list.iter().filter(|target| !gone.contains(target)).cloned().collect();
            Ok((new, Input::Forget { targets: gone.iter().map(target).collect() }))
        });
    }

    /// Waits for a change under way; none begins while the guard lives.
    pub(crate) async fn finish(&self) -> OwnedMutexGuard<Vec<PeerTarget>> {
        Arc::clone(&self.list).lock_owned().await
    }

    fn change(
        &self,
        answer: Answer,
        change: impl FnOnce(&[PeerTarget]) -> Result<(Vec<PeerTarget>, Input), Failure> + Send + 'static,
    ) {
        let Self { path, list, inputs } = self.clone();
        tokio::spawn(async move {
            let mut list = list.lock().await;
            let (new, input) = match change(&list) {
                Ok(changed) => changed,
                Err(failure) => return answer.send(failure.into()),
            };
            let document = TargetListDocument { targets: new.iter().map(ToString::to_string).collect() };
            let to_write = new.clone();
            let written = tokio::task::spawn_blocking(move || save(&path, &to_write)).await;
            match written {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return answer.send(error.failure().into()),
                Err(_panicked) => {
                    let failure = Failure::new(ErrorKind::Internal, "the list of targets was not written");
                    return answer.send(failure.into());
                }
            }
            *list = new;
            info!(targets = ?document.targets, "the targets have changed");
            // Nobody listens any more when the router stops; the next life reads the file.
            let _told = inputs.send((input, None)).await;
            answer.send(Response::document(&document));
        });
    }
}

/// The targets in the file at `path`, none when there is no file.
///
/// # Errors
/// [`Error::TargetsDamaged`] for anything but a whole list; the file is left as it is.
pub(crate) fn load(path: &Path) -> Result<Vec<PeerTarget>, Error> {
    let damaged = |line| Error::TargetsDamaged { path: path.to_owned(), line };
    let text = match store::read_text(path, FILE_LEN_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(damaged(1)),
        Err(source) => return Err(Error::File { action: "read", path: path.to_owned(), source }),
    };
    let mut lines = text.lines().enumerate();
    if lines.next().map(|(_, line)| line) != Some(FIRST_LINE) {
        return Err(damaged(1));
    }
    let mut targets = Vec::new();
    for (index, line) in lines {
        if line == LAST_LINE {
            return Ok(joined(targets.into_iter()));
        }
        targets.push(line.parse().map_err(|_no_target: PeerTargetError| damaged(index + 1))?);
        if targets.len() > TARGETS_MAX {
            return Err(damaged(index + 1));
        }
    }
    Err(damaged(text.lines().count() + 1))
}

/// Replaces the file at `path`, durably.
pub(crate) fn save(path: &Path, targets: &[PeerTarget]) -> Result<(), Error> {
    let lines: String = targets.iter().map(|target| format!("{target}\n")).collect();
    store::replace(path, format!("{FIRST_LINE}\n{lines}{LAST_LINE}\n").as_bytes())
}

/// What the node dials for a target.
pub(crate) fn target(peer: &PeerTarget) -> Target {
    Target::Named { host: peer.host().to_owned(), port: peer.port() }
}

/// Each target once, in the order of the first mention.
fn joined(targets: impl Iterator<Item = PeerTarget>) -> Vec<PeerTarget> {
    let mut list: Vec<PeerTarget> = Vec::new();
    for target in targets {
        if !list.contains(&target) {
            list.push(target);
        }
    }
    list
}

fn parse(texts: &[String]) -> Result<Vec<PeerTarget>, Failure> {
    let parse = |text: &String| {
        text.parse().map_err(|error: PeerTargetError| {
            Failure::new(ErrorKind::Invalid, format!("PEER '{}': {error}", text.escape_debug()))
        })
    };
    texts.iter().map(parse).collect::<Result<Vec<_>, _>>().map(|targets| joined(targets.into_iter()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::sync::mpsc;

    use super::*;

    fn peers(texts: &[&str]) -> Vec<PeerTarget> {
        texts.iter().map(|text| text.parse().expect("a peer")).collect()
    }

    fn shown(targets: &[PeerTarget]) -> Vec<String> {
        targets.iter().map(ToString::to_string).collect()
    }

    fn named(texts: &[&str]) -> Vec<Target> {
        peers(texts).iter().map(target).collect()
    }

    #[test]
    fn the_list_is_kept_and_a_missing_file_is_an_empty_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("targets");
        assert_eq!(load(&path).map(|list| list.len()).ok(), Some(0));
        for list in [&["h1", "192.0.2.1:7000", "[2001:db8::1]:1"][..], &[]] {
            save(&path, &peers(list)).expect("written");
            assert_eq!(load(&path).expect("whole"), peers(list));
        }
    }

    #[test]
    fn a_damaged_list_is_refused_with_its_line_and_left_as_it_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("targets");
        save(&path, &peers(&["h1", "h2"])).expect("written");
        let whole = fs::read(&path).expect("the file");
        let cut = whole.len() - LAST_LINE.len() - 2;
        let cases: [(&[u8], usize); 7] = [
            (b"", 1),
            (b"h1:6783\n", 1),
            (b"\xff\xfe", 1),
            (&whole[..cut], 4),
            (&whole[..whole.len() - 2], 4),
            (b"# mesh targets, version 1\nh1\n\n# end\n", 3),
            (b"# mesh targets, version 1\nh1:0\n# end\n", 2),
        ];
        for (damaged, expected) in cases {
            fs::write(&path, damaged).expect("writable");
            match load(&path) {
                Err(Error::TargetsDamaged { line, .. }) => {
                    assert_eq!(line, expected, "{}", damaged.escape_ascii());
                }
                other => panic!("{}: {other:?}", damaged.escape_ascii()),
            }
            assert_eq!(fs::read(&path).expect("the file"), damaged);
        }
    }

    /// One change of a list, with the answer, what the node is told, and what is on disk then.
    struct Changes {
        dir: tempfile::TempDir,
        targets: Targets,
        told: mpsc::Receiver<(Input, Option<crate::pipe::Pipe>)>,
    }

    impl Changes {
        fn new(list: &[&str]) -> Self {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("state").join("targets");
            fs::create_dir(dir.path().join("state")).expect("a directory");
            save(&path, &peers(list)).expect("written");
            let (inputs, told) = mpsc::channel(4);
            Self { targets: Targets::new(path, peers(list), inputs), dir, told }
        }

        async fn ask(&self, ask: impl FnOnce(&Targets, Answer)) -> Result<Vec<String>, Failure> {
            let (answer, answered) = Answer::channel();
            ask(&self.targets, answer);
            match answered.await.expect("an answer") {
                Response::Ok(document) => {
                    let on_disk = shown(&load(&self.targets.path).expect("a whole list"));
                    let told = document["targets"].as_array().expect("a list");
                    assert!(told.iter().map(|target| target.as_str().expect("a text")).eq(&on_disk));
                    Ok(on_disk)
                }
                Response::Error(failure) => Err(failure),
            }
        }
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[tokio::test]
    async fn connect_adds_or_replaces_and_tells_the_node_what_is_on_disk() {
        let mut changes = Changes::new(&["h1"]);
        let list =
            changes.ask(|targets, answer| targets.connect(texts(&["h2", "h1:6783"]), false, answer)).await;
        assert_eq!(list.expect("done"), ["h1:6783", "h2:6783"]);
        match changes.told.try_recv() {
            Ok((Input::Connect { targets, replace: false }, None)) => {
                assert_eq!(targets, named(&["h2", "h1"]));
            }
            _ => panic!("something else, or nothing, was told"),
        }
        let list = changes.ask(|targets, answer| targets.connect(texts(&["h3"]), true, answer)).await;
        assert_eq!(list.expect("done"), ["h3:6783"]);
        assert!(matches!(changes.told.try_recv(), Ok((Input::Connect { replace: true, .. }, None))));
    }

    #[tokio::test]
    async fn forget_takes_all_or_nothing() {
        let mut changes = Changes::new(&["h1", "h2:7000"]);
        let failure = changes
            .ask(|targets, answer| targets.forget(texts(&["h1", "h2", "h3"]), answer))
            .await
            .expect_err("unknown");
        assert_eq!(failure.kind, ErrorKind::Unknown);
        assert!(failure.message.ends_with("h2:6783, h3:6783"), "{}", failure.message);
        assert!(changes.told.try_recv().is_err());
        let list = changes.ask(|targets, answer| targets.forget(texts(&["h1"]), answer)).await;
        assert_eq!(list.expect("done"), ["h2:7000"]);
        assert!(matches!(changes.told.try_recv(), Ok((Input::Forget { .. }, None))));
    }

    #[tokio::test]
    async fn what_cannot_be_written_does_not_happen() {
        let mut changes = Changes::new(&["h1"]);
        fs::remove_dir_all(changes.dir.path().join("state")).expect("removed");
        let failed = changes.ask(|targets, answer| targets.connect(texts(&["h2"]), false, answer)).await;
        assert!(failed.is_err());
        assert!(changes.told.try_recv().is_err());
        assert_eq!(shown(&changes.targets.finish().await), ["h1:6783"]);
    }

    #[tokio::test]
    async fn a_list_has_a_greatest_length() {
        let changes = Changes::new(&["h1"]);
        let many: Vec<_> = (0..TARGETS_MAX).map(|number| format!("n{number}")).collect();
        let failure =
            changes.ask(|targets, answer| targets.connect(many, false, answer)).await.expect_err("too many");
        assert_eq!(failure.kind, ErrorKind::Refused);
    }
}
