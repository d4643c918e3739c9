//! What a host is made of, and what it configures its router with.

use std::time::Duration;

use mesh_crypto::{Identity, Psk, Rng};
use mesh_names::Names;
use mesh_node::{Config, ConnectionId};
use mesh_topology::Target;
use mesh_wire::BootCount;

use crate::network::PORT;
use crate::scenario::{HostPlan, Secret};
use crate::sleeve::Sleeve;
use crate::world::{Host, HostId, Life, Tally};

impl Host {
    pub(crate) fn new(plan: HostPlan, rng: &mut Rng) -> Self {
        let mut rng = rng.fork();
        let identity = Identity::generate(&mut rng);
        Self {
            plan,
            peer: identity.peer_id(),
            former: Vec::new(),
            secret: identity.secret(),
            boot: BootCount(0),
            restored: false,
            lives: 0,
            rng,
            ahead: Duration::ZERO,
            life: None,
            paused_until: None,
            waiting: Vec::new(),
            noted: (BootCount(0), 0),
            tally: Tally::default(),
        }
    }

    pub(crate) fn config(&self, host: HostId) -> Config {
        let psk = match self.plan.secret {
            Secret::Right => Some(Psk::from_bytes([1; 32])),
            Secret::Wrong => Some(Psk::from_bytes([2; 32])),
            Secret::Missing => None,
        };
        let target = |to: &HostId| Target::Named { host: to.to_string(), port: PORT };
        let names = Names::new(self.peer, self.boot, crate::names::zone()).expect("the domain is short");
        Config {
            identity: Identity::from_secret(&self.secret).expect("it is an identity's secret"),
            boot: self.boot,
            nickname: host.to_string().parse().expect("a letter and digits"),
            port: PORT,
            // No two machines share one, whatever identity they have.
            nonce: (host.0 as u64) << 32 | self.lives,
            secrets: psk.into_iter().collect(),
            network: None,
            allowed: None,
            trusted_subnets: Vec::new(),
            ipam: None,
            names,
            connection_limit: self.plan.connection_limit,
            rekey_after: mesh_node::limits::REKEY_AFTER,
            aes_preferred: self.plan.aes,
            discovery: self.plan.discovery,
            targets: self.plan.targets.iter().map(target).collect(),
        }
    }

    /// Sessions that count.
    pub(crate) fn degree(&self) -> usize {
        self.life.as_ref().map_or(0, |life| life.node.own_record().links.len())
    }

    pub(crate) fn life_numbered(&mut self, number: u64) -> Option<&mut Life> {
        self.life.as_mut().filter(|life| life.number == number)
    }

    pub(crate) fn sleeve(&mut self) -> Option<&mut Sleeve> {
        self.life.as_mut()?.sleeve.as_mut()
    }

    pub(crate) fn stream(&self, id: ConnectionId) -> Option<(u64, usize)> {
        self.life.as_ref()?.streams.get(&id).copied()
    }
}
