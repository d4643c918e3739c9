//! What happened, as one number: two runs are the same exactly if their traces are.

use std::fmt::{self, Write as _};

use mesh_wire::Moment;

/// Takes the lines of a trace, for people.
pub type Sink = Box<dyn FnMut(&str)>;

/// A running hash (FNV-1a, 64 bits) over a line for each event, with the bytes that it carried.
pub struct Trace {
    hash: Fnv,
    sink: Option<Sink>,
    line: String,
    is_silent: bool,
    /// Events so far.
    pub(crate) events: u64,
}

struct Fnv(u64);

impl Trace {
    /// An empty trace. Each line also goes to `sink`, if there is one.
    #[must_use]
    pub fn new(sink: Option<Sink>) -> Self {
        Self { hash: Fnv(0xcbf2_9ce4_8422_2325), sink, line: String::new(), is_silent: false, events: 0 }
    }

    /// A trace that only counts.
    pub(crate) fn silent() -> Self {
        Self { is_silent: true, ..Self::new(None) }
    }

    /// The hash of all events so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash.0
    }

    pub(crate) fn record(&mut self, now: Moment, event: fmt::Arguments<'_>, bytes: &[u8]) {
        self.events += 1;
        if self.is_silent {
            return;
        }
        self.hash.absorb(&now.since_origin().as_nanos().to_le_bytes());
        self.hash.absorb(bytes);
        self.line.clear();
        self.line.write_fmt(event).expect("writing to a String cannot fail");
        self.hash.absorb(self.line.as_bytes());
        if let Some(sink) = &mut self.sink {
            let text = format!("{:11.6} {}", now.since_origin().as_secs_f64(), self.line);
            sink(&text);
        }
    }
}

impl Fnv {
    fn absorb(&mut self, bytes: &[u8]) {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        self.0 = bytes.iter().fold(self.0, step);
    }
}
