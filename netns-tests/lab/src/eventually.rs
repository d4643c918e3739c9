//! Waiting for a condition, with a deadline and a word on what was seen last.
//!
//! Owns the only polling loops that tests need. Knows nothing of networks.

use std::fmt::Display;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Deadlines are so many times as long: `MESH_PATIENCE`, for machines on which everything takes longer, such as one whose CPU
/// is emulated.
static PATIENCE: LazyLock<u32> = LazyLock::new(|| {
    let given = std::env::var("MESH_PATIENCE").ok().and_then(|times| times.parse().ok());
    given.filter(|times| (1..=PATIENCE_MAX).contains(times)).unwrap_or(1)
});

/// See [`patience`].
const PATIENCE_MAX: u32 = 100;

/// What a look returns: whether the awaited thing was seen, and if not, what was seen in its place.
pub trait Sight {
    /// What is handed to the test once the condition holds.
    type Seen;

    /// The awaited thing, or words for what is there instead.
    fn verdict(self) -> Result<Self::Seen, String>;
}

impl Sight for bool {
    type Seen = ();

    fn verdict(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("the condition is false".to_owned()) }
    }
}

impl<T> Sight for Option<T> {
    type Seen = T;

    fn verdict(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

/// Not for a `bool` inside: whether `Ok(false)` was seen or not would be anybody's guess.
impl<T, E: Display> Sight for Result<T, E> {
    type Seen = T;

    fn verdict(self) -> Result<T, String> {
        assert_ne!(
            std::any::type_name::<T>(),
            "bool",
            "a look gives a bool or a Result, not one in the other"
        );
        self.map_err(|error| format!("{error:#}"))
    }
}

/// How many times as long as elsewhere things may take on this machine: 1 unless the environment says otherwise.
#[must_use]
pub fn patience() -> u32 {
    *PATIENCE
}

/// Looks again and again until `look` sees what it wants: `true`, `Ok` or `Some`.
///
/// # Errors
/// When `within` has passed, [`patience`] times. The error tells the last thing seen. A look that itself takes long is not
/// interrupted.
pub fn eventually<S: Sight>(within: Duration, mut look: impl FnMut() -> S) -> Result<S::Seen> {
    let start = Instant::now();
    let within = within * patience();
    let mut looks = 0_u32;
    loop {
        looks += 1;
        let last = match look().verdict() {
            Ok(seen) => return Ok(seen),
            Err(last) => last,
        };
        if start.elapsed() >= within {
            bail!("did not happen within {within:?} ({looks} looks); last seen: {last}");
        }
        sleep(LOOK_EVERY);
    }
}

/// Looks again and again for all of `span`, and wants to see the same at each look.
///
/// # Errors
/// At the first look that does not see it, with what was seen instead.
pub fn always<S: Sight>(span: Duration, mut look: impl FnMut() -> S) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < span {
        if let Err(seen) = look().verdict() {
            bail!("held for {:?} only, not for {span:?}; then seen: {seen}", start.elapsed());
        }
        sleep(LOOK_EVERY);
    }
    Ok(())
}

/// So many seconds.
#[must_use]
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many milliseconds.
#[must_use]
pub const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_was_seen_as_soon_as_it_is_there() {
        let mut looks = 0;
        let seen = eventually(secs(5), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });

        assert_eq!(seen.unwrap(), 3);
    }

    #[test]
    fn an_error_tells_what_was_seen_last() {
        let error = eventually(millis(30), || Err::<(), _>("the cat is out")).unwrap_err();

        assert!(error.to_string().contains("last seen: the cat is out"), "{error}");
    }

    #[test]
    #[should_panic(expected = "not one in the other")]
    fn a_bool_in_a_result_is_refused_because_false_would_count_as_seen() {
        eventually(millis(30), || Ok::<_, anyhow::Error>(false)).ok();
    }

    #[test]
    fn always_ends_at_the_first_exception() {
        let mut looks = 0;
        let verdict = always(secs(5), || {
            looks += 1;
            looks < 3
        });

        assert!(verdict.is_err());
        assert_eq!(looks, 3);
        assert!(always(millis(30), || true).is_ok());
    }
}
