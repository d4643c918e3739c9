//! All connections of a node, and when each is due. Owns the table of those times, so that an input costs the same however
//! many connections there are; what is done with a connection is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_wire::Moment;

use crate::connection::Connection;
use crate::interface::ConnectionId;

/// The connections by id. Whatever may have changed one is followed by [`Self::tabulate`] before the table is read.
#[derive(Default)]
pub(crate) struct Connections {
    all: BTreeMap<ConnectionId, Connection>,
    /// The times of those that wait for one.
    times: BTreeMap<ConnectionId, Moment>,
    /// The same, in order of time.
    table: BTreeSet<(Moment, ConnectionId)>,
    /// Those that may have another time than the table says; emptied with each input.
    touched: Vec<ConnectionId>,
}

impl Connections {
    pub(crate) fn get(&self, id: &ConnectionId) -> Option<&Connection> {
        self.all.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &ConnectionId) -> Option<&mut Connection> {
        self.touch(*id);
        self.all.get_mut(id)
    }

    pub(crate) fn contains_key(&self, id: &ConnectionId) -> bool {
        self.all.contains_key(id)
    }

    pub(crate) fn insert(&mut self, id: ConnectionId, connection: Connection) {
        self.touch(id);
        self.all.insert(id, connection);
    }

    pub(crate) fn remove(&mut self, id: &ConnectionId) -> Option<Connection> {
        self.touch(*id);
        self.all.remove(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ConnectionId, &Connection)> {
        self.all.iter()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &ConnectionId> {
        self.all.keys()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Connection> {
        self.all.values()
    }

    /// Takes all of them out.
    pub(crate) fn take(&mut self) -> BTreeMap<ConnectionId, Connection> {
        std::mem::take(self).all
    }

    /// Gives everybody who is waited for that much more time.
    pub(crate) fn excuse(&mut self, late: Duration) {
        self.touched.extend(self.all.keys());
        self.all.values_mut().for_each(|connection| connection.phase.excuse(late));
    }

    /// Brings the table up to date.
    pub(crate) fn tabulate(&mut self) {
        for id in self.touched.drain(..) {
            let time = self.all.get(&id).and_then(Connection::poll_timeout);
            let before = match time {
                Some(time) => self.times.insert(id, time),
                None => self.times.remove(&id),
            };
            if before == time {
                continue;
            }
            if let Some(before) = before {
                self.table.remove(&(before, id));
            }
            if let Some(time) = time {
                self.table.insert((time, id));
            }
        }
    }

    /// When the first is due.
    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        debug_assert!(self.touched.is_empty(), "the table is out of date");
        self.table.first().map(|(time, _)| *time)
    }

    /// Those that are due, in order of their ids.
    pub(crate) fn due(&self, now: Moment) -> BTreeSet<ConnectionId> {
        debug_assert!(self.touched.is_empty(), "the table is out of date");
        self.table.iter().take_while(|(time, _)| *time <= now).map(|(_, id)| *id).collect()
    }

    fn touch(&mut self, id: ConnectionId) {
        if self.touched.last() != Some(&id) {
            self.touched.push(id);
        }
    }
}
