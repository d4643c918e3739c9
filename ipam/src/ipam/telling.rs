//! Telling all that one knows, however much it is: cut into messages, and put together again.
//!
//! Owns what is there of the tellings of others that have not wholly come. What a telling means is `gossip`'s.

use std::collections::BTreeMap;

use mesh_wire::PeerId;

use crate::message::{Part, Tell};
use crate::range::Range;
use crate::state::Life;
use crate::view::{PART_ENTRIES_MAX, View};

/// Tellings that are incomplete, one a peer. When one more begins, the one that began first is dropped: it is asked for again.
const UNFINISHED_MAX: usize = 8;

/// The tellings of other peers of which parts are missing.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    tellings: BTreeMap<PeerId, Telling>,
    begun: u64,
}

#[derive(Debug)]
struct Telling {
    incarnation: u64,
    number: u64,
    /// Grows from telling to telling.
    begun: u64,
    parts: BTreeMap<u16, Tell>,
}

impl Unfinished {
    /// Takes in what `from` tells in its present life. Returns the telling once it is complete; news, and what is told in one
    /// part, are so at once. Of two tellings of a peer the later counts.
    pub(crate) fn complete(&mut self, from: PeerId, life: Life, tell: Tell) -> Option<Tell> {
        let Some(part) = tell.part.filter(|part| part.count > 1) else { return Some(tell) };
        let is_same =
            |telling: &Telling| (telling.incarnation, telling.number) == (life.incarnation, part.number);
        if self.tellings.get(&from).is_none_or(|telling| !is_same(telling)) {
            self.begin(
                from,
                Telling {
                    incarnation: life.incarnation,
                    number: part.number,
                    begun: self.begun,
                    parts: BTreeMap::new(),
                },
            );
        }
        let telling = self.tellings.get_mut(&from)?;
        telling.parts.insert(part.index, tell);
        if telling.parts.len() < part.count.into() {
            return None;
        }
        let parts = self.tellings.remove(&from)?.parts;
        parts.into_values().reduce(|mut whole, part| {
            whole.view.append(part.view);
            whole.inactive.extend(part.inactive);
            whole
        })
    }

    fn begin(&mut self, from: PeerId, telling: Telling) {
        self.begun += 1;
        self.tellings.insert(from, telling);
        if self.tellings.len() > UNFINISHED_MAX
            && let Some(oldest) = self.tellings.iter().min_by_key(|(_, t)| t.begun).map(|(peer, _)| *peer)
        {
            self.tellings.remove(&oldest);
        }
    }

    /// Forgets peers that can no longer be reached.
    pub(crate) fn retain(&mut self, keep: impl Fn(PeerId) -> bool) {
        self.tellings.retain(|peer, _| keep(*peer));
    }
}

/// What is to be told, in parts that fit into a message each. With a number it is all that this peer knows, else it is news.
pub(crate) fn parts(
    view: View,
    inactive: &[Range],
    whole: Option<u64>,
) -> Vec<(Option<Part>, View, Vec<Range>)> {
    let views = view.parts();
    let lists: Vec<Vec<Range>> = inactive.chunks(PART_ENTRIES_MAX).map(<[Range]>::to_vec).collect();
    let count = views.len().max(lists.len()).max(1);
    let mut views = views.into_iter();
    let mut lists = lists.into_iter();
    let part = |index: usize| {
        let short = |n: usize| u16::try_from(n).expect("a view's limits keep its parts below a hundred");
        whole.map(|number| Part { number, index: short(index), count: short(count) })
    };
    (0..count)
        .map(|index| (part(index), views.next().unwrap_or_default(), lists.next().unwrap_or_default()))
        .collect()
}
