//! Limits and times of address management. Constants of the formats stand with them.

use std::time::Duration;

/// A freed address is given to another holder only after this long: neighbours' ARP caches and DNS answers that name it
/// have expired by then.
pub const COOLING_TIME: Duration = Duration::from_secs(60);

/// Each peer hails a few others this often, spread by ±20 %, to repair what was lost.
pub const HAIL_EVERY: Duration = Duration::from_secs(10);

/// How many others it hails then.
pub const HAIL_FANOUT: usize = 3;

/// What was asked of others is asked again this often, spread by ±20 %: votes, vouchers, answers before a reclaim.
pub const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How many members a newcomer calls at a time.
pub const CALL_FANOUT: usize = 3;

/// A peer that is asked for space has this long to answer before the next is asked.
pub const ASK_TIME_MAX: Duration = Duration::from_millis(600);

/// When all have been asked for space in vain, they are asked again after this long.
pub const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// A peer that was told of no others, and yet sees some, gives them this long to say whether they have a network, before
/// it founds its own.
pub const FOUND_AFTER: Duration = Duration::from_secs(1);

/// A peer that starts again, and knows of others, hands nothing out before one of them has shown that its state is not behind
/// theirs, or for this long: it may have been declared gone, or its state put back or copied. Alone it goes on after that.
pub const LISTEN_TIME_MAX: Duration = Duration::from_secs(1);

/// Neighbouring runs of this peer's are joined, and what was heard of others is written down, this often.
pub const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Requests that wait. One more is refused.
pub const PENDING_MAX: usize = 16_384;

/// A donor gives this many times what was asked, or an eighth of its free addresses if that is more, and never more than
/// half.
pub const GRANT_FACTOR: u64 = 2;

/// See [`GRANT_FACTOR`].
pub const GRANT_SHARE: u128 = 8;
