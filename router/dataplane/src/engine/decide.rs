//! The forwarding decision: one pure function from what a frame's header and envelope say to what happens to it.
//! It owns the rules that end loops; learning, sealing and sending are done by whoever called it.
//!
//! **Why no loop lasts.** A *direct* frame is never sent on. A *relayed unicast* never returns to the neighbour it
//! came from or to its source. A *relayed broadcast* is taken from two neighbours at most: the parent in its source's
//! tree, and the source itself, which may know of a link that is news here. Its number lets
//! [`Duplicates`](super::Duplicates) end it where it comes a second time. Both lose one from their time to live at
//! each link, and so end after at most 15, however much the routers' views differ.

use mesh_wire::sleeve::{Envelope, TimeToLive};
use mesh_wire::{MacAddr, PeerId};

use super::counters::{DropReason, Event};
use super::macs::{Location, Owner};
use super::tables::{LinkId, Tables};

/// How a frame reached this router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// From the local bridge.
    Captured {
        /// What its copies are numbered with if it is flooded; see [`Envelope::Broadcast`].
        sequence: u32,
    },
    /// In an authenticated packet of a neighbour.
    Received {
        /// The neighbour.
        from: LinkId,
        /// How the frame was wrapped.
        envelope: Envelope,
    },
}

/// All of a frame that decides about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// How it came.
    pub arrival: Arrival,
    /// Its sender.
    pub source: MacAddr,
    /// Its receiver.
    pub destination: MacAddr,
    /// Whether it is a message about members of groups; of importance only where it was captured.
    pub tells_of_members: bool,
}

/// What happens to a frame. The parts are independent of each other, and done in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<'t> {
    /// Who is to be remembered as owner of the frame's source MAC.
    pub learn: Option<Owner>,
    /// Whether the frame goes to the local bridge.
    pub inject: bool,
    /// Where else it goes; see [`transmissions`](Self::transmissions).
    forward: Forward<'t>,
    /// Why it goes no further, when it should have.
    pub drop: Option<DropReason>,
    /// What is worth counting besides.
    pub event: Option<Event>,
}

/// One packet to send: a copy of the frame, in this envelope, over this link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmission {
    /// Over which link.
    pub link: LinkId,
    /// Wrapped how.
    pub envelope: Envelope,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Forward<'t> {
    Nowhere,
    Over(Transmission),
    /// In these copies.
    Each(&'t [Transmission]),
    /// To each child except the neighbour that the frame came from.
    Down {
        children: &'t [LinkId],
        except: Option<LinkId>,
        envelope: Envelope,
    },
}

/// What happens to the frame of `key`, whose destination MAC is at `location`.
#[must_use]
pub fn decide<'t>(key: &Key, tables: &'t Tables, location: Location) -> Decision<'t> {
    if !key.source.is_station() {
        return Decision::dropped(DropReason::BadSource);
    }
    if key.destination.is_link_local_control() {
        return Decision::dropped(DropReason::LinkLocalControl);
    }
    match key.arrival {
        Arrival::Captured { sequence } => captured(key, sequence, tables, location),
        Arrival::Received { from, envelope: Envelope::Direct } => direct(tables.neighbour(from)),
        Arrival::Received {
            envelope: Envelope::Unicast { source, .. } | Envelope::Broadcast { source, .. },
            ..
        } if source == tables.me() => Decision::dropped(DropReason::OwnFrame),
        Arrival::Received { from, envelope: Envelope::Unicast { ttl, source, destination } } => {
            if destination == tables.me() {
                arrived(source, tables)
            } else {
                relay(from, ttl, source, destination, tables)
            }
        }
        Arrival::Received { from, envelope: Envelope::Broadcast { ttl, source, digest, sequence } } => {
            let onward = |ttl| Envelope::Broadcast { ttl, source, digest, sequence };
            let event = (digest != tables.digest()).then_some(Event::TopologyDiffers);
            Decision { event, ..broadcast(from, source, ttl.behind_one_link().map(onward), tables) }
        }
    }
}

/// A captured frame comes from a local container: a bridge does not send a frame back to the port that it came
/// from, so that what was just injected is not captured again. Its source is therefore learnt as local, even if
/// it was known at a peer: the newest sighting wins.
fn captured<'t>(key: &Key, sequence: u32, tables: &'t Tables, location: Location) -> Decision<'t> {
    let decision = Decision { learn: Some(Owner::Local), ..Decision::nothing() };
    if key.destination.is_group() {
        return to_group(key, sequence, tables, decision);
    }
    match location {
        Location::Unknown => Decision { forward: flood(sequence, tables), ..decision },
        Location::Known(Owner::Local) => Decision { drop: Some(DropReason::DestinationIsLocal), ..decision },
        Location::Known(Owner::Peer(peer)) => match tables.route(peer) {
            Some(link) => Decision { forward: Forward::Over(towards(peer, link, tables)), ..decision },
            None if tables.knows(peer) => Decision { drop: Some(DropReason::NoRoute), ..decision },
            // The peer has just vanished, and the container may be elsewhere.
            None => Decision { forward: flood(sequence, tables), ..decision },
        },
    }
}

/// A captured frame for a group goes to whoever wants it, in copies for each, and down our own tree where that is not known.
fn to_group<'t>(key: &Key, sequence: u32, tables: &'t Tables, decision: Decision<'t>) -> Decision<'t> {
    let (copies, event) = if key.tells_of_members {
        (tables.membership_copies(), Some(Event::MembershipKept))
    } else {
        let copies = tables.group_copies(key.destination);
        (copies, copies.is_some_and(<[_]>::is_empty).then_some(Event::GroupWithoutMembers))
    };
    match copies {
        Some(copies) => Decision { forward: Forward::Each(copies), event, ..decision },
        None => Decision { forward: flood(sequence, tables), ..decision },
    }
}

pub(super) fn towards(peer: PeerId, link: LinkId, tables: &Tables) -> Transmission {
    let envelope = if tables.neighbour(link) == peer {
        Envelope::Direct
    } else {
        Envelope::Unicast { ttl: TimeToLive::MAX, source: tables.me(), destination: peer }
    };
    Transmission { link, envelope }
}

/// Down our own tree, in copies that can be told from others: a child that looks like the end of its branch from here
/// may get another copy by a way that is news here.
fn flood(sequence: u32, tables: &Tables) -> Forward<'_> {
    let Some(tree) = tables.tree(tables.me()) else {
        return Forward::Nowhere;
    };
    let (source, digest) = (tables.me(), tables.digest());
    let envelope = Envelope::Broadcast { ttl: TimeToLive::MAX, source, digest, sequence };
    Forward::Down { children: &tree.children, except: None, envelope }
}

fn direct<'t>(neighbour: PeerId) -> Decision<'t> {
    Decision { learn: Some(Owner::Peer(neighbour)), inject: true, ..Decision::nothing() }
}

/// A relayed frame for this router. Its source is not learnt while the tables do not know that peer: the MAC table
/// holds owners that can be reached, and forgets them with the peer.
fn arrived<'t>(source: PeerId, tables: &Tables) -> Decision<'t> {
    let learn = tables.knows(source).then_some(Owner::Peer(source));
    Decision { learn, inject: true, ..Decision::nothing() }
}

fn relay<'t>(
    from: LinkId,
    ttl: TimeToLive,
    source: PeerId,
    destination: PeerId,
    tables: &Tables,
) -> Decision<'t> {
    let Some(link) = tables.route(destination) else {
        return Decision::dropped(DropReason::NoRoute);
    };
    if link == from {
        return Decision::dropped(DropReason::BackToIngress);
    }
    if tables.neighbour(link) == source {
        return Decision::dropped(DropReason::BackToOrigin);
    }
    let Some(ttl) = ttl.behind_one_link() else {
        return Decision::dropped(DropReason::TimeToLiveExpired);
    };
    let envelope = Envelope::Unicast { ttl, source, destination };
    Decision { forward: Forward::Over(Transmission { link, envelope }), ..Decision::nothing() }
}

/// A broadcast on its way, that leaves in the envelope `onward`; in none if its time to live has run out.
fn broadcast(from: LinkId, source: PeerId, onward: Option<Envelope>, tables: &Tables) -> Decision<'_> {
    let tree = tables.tree(source);
    let parent = tree.and_then(|tree| tree.parent);
    if parent != Some(from) && tables.neighbour(from) != source {
        let reason = if tree.is_some() { DropReason::NotFromParent } else { DropReason::NoTree };
        return Decision::dropped(reason);
    }
    let arrived = arrived(source, tables);
    let children = tree.map_or(&[][..], |tree| &tree.children);
    match onward {
        _ if children.is_empty() => arrived,
        None => Decision { drop: Some(DropReason::TimeToLiveExpired), ..arrived },
        Some(envelope) => {
            Decision { forward: Forward::Down { children, except: Some(from), envelope }, ..arrived }
        }
    }
}

impl<'t> Decision<'t> {
    const fn nothing() -> Self {
        Self { learn: None, inject: false, forward: Forward::Nowhere, drop: None, event: None }
    }

    pub(super) const fn dropped(reason: DropReason) -> Self {
        Self { drop: Some(reason), ..Self::nothing() }
    }

    /// The packets to send.
    pub fn transmissions(&self) -> impl Iterator<Item = Transmission> + use<'t> {
        let (one, each, children, except, envelope): (_, &'t [Transmission], &'t [LinkId], _, _) =
            match self.forward {
                Forward::Nowhere => (None, &[], &[], None, Envelope::Direct),
                Forward::Over(transmission) => (Some(transmission), &[], &[], None, Envelope::Direct),
                Forward::Each(copies) => (None, copies, &[], None, Envelope::Direct),
                Forward::Down { children, except, envelope } => (None, &[], children, except, envelope),
            };
        let down = children.iter().filter(move |link| Some(**link) != except);
        let down = down.map(move |link| Transmission { link: *link, envelope });
        one.into_iter().chain(each.iter().copied()).chain(down)
    }
}

#[cfg(test)]
mod tests;
