//! Random histories of a few hosts, with an oracle: no address twice, nothing forgotten, nothing lost for ever, and all
//! agreed after quiet. `MESH_IPAM_HISTORIES` sets how many; the seed of a failure is in its message.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cluster::Cluster;
use super::{say, setting};
use crate::founding::Founding;
use crate::interface::Request;
use crate::mutant::{Mutant, Mutants};

/// How many histories are tried when nothing else is said.
const HISTORIES: u64 = 120;

const RANGES: [&str; 4] = ["10.0.0.0/29", "10.0.0.0/28", "10.0.0.0/27", "fd00::/122"];

fn founding(kind: u64, count: u8, number: u8) -> Founding {
    match kind {
        0 if number == 0 => Founding::Alone,
        0 => Founding::Told { others: 1 },
        1 => Founding::Consensus { voters: count.into() },
        2 => Founding::Seeds((1..=count.min(3)).map(super::laws::peer).collect()),
        _ if number + 1 == count && count > 2 => Founding::Observer,
        _ => Founding::Consensus { voters: usize::from(count) - usize::from(count > 2) },
    }
}

fn histories() -> u64 {
    setting("MESH_IPAM_HISTORIES", HISTORIES)
}

struct History {
    cluster: Cluster,
    idents: u64,
    /// A dead host that nobody has retired yet.
    deceased: Option<usize>,
    leaver: Option<usize>,
}

impl History {
    fn new(seed: u64, mutants: Mutants) -> Self {
        let mut rng = mesh_crypto::Rng::from_seed([u8::try_from(seed % 251).unwrap(); 32]);
        let mut draw = |below| (rng.below(below) + seed) % below;
        let count = 2 + u8::try_from(draw(6)).unwrap();
        let (kind, range) = (draw(4), RANGES[usize::try_from(draw(4)).unwrap()]);
        let mut cluster = Cluster::new(count, range, |number| founding(kind, count, number), seed, mutants);
        cluster.slow_disks = true;
        cluster.loss = [0, 5, 30][cluster.below(3)];
        Self { cluster, idents: 0, deceased: None, leaver: None }
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
            self.cluster.check();
            if !self.cluster.findings.is_empty() {
                return;
            }
        }
        self.quiet();
    }

    fn step(&mut self) {
        let host = self.cluster.below(self.cluster.hosts.len());
        match self.cluster.below(100) {
            0..40 => {
                self.idents += 1;
                let ident =
                    format!("c{}", if self.idents.is_multiple_of(4) { self.idents / 2 } else { self.idents });
                self.cluster.allocate(host, &ident);
            }
            40..52 => self.claim(host),
            52..64 => self.release(),
            64..70 => self.part(),
            70..73 => self.cluster.part(vec![0; self.cluster.hosts.len()]),
            73..79 => {
                let torn = self.cluster.below(2) == 0;
                self.cluster.crash(host, torn);
            }
            79..88 => self.cluster.start(host),
            88..90 => self.kill(host),
            90..93 => self.retire(host),
            93 => self.leave(host),
            94 => self.snapshot(host),
            95 => self.quiet(),
            _ => self.cluster.run(Duration::from_secs(20)),
        }
        let pause = self.cluster.rng.below(400);
        self.cluster.run(Duration::from_millis(pause));
    }

    fn claim(&mut self, host: usize) {
        let net = self.cluster.subnet;
        let hosts = net.hosts().count().min(64);
        let nth = self.cluster.below(hosts);
        let address = net.hosts().nth(nth).unwrap();
        self.idents += 1;
        let ident = format!("k{}", self.idents).parse().unwrap();
        let address = ipnet::IpNet::new(address, net.prefix_len()).unwrap();
        self.cluster.request(host, Request::Claim { ident, address }, Duration::from_secs(3));
    }

    fn release(&mut self) {
        let all: Vec<_> = self.cluster.holders.values().cloned().collect();
        if all.is_empty() {
            return;
        }
        let (host, ident) = all[self.cluster.below(all.len())].clone();
        if self.cluster.hosts[host].ipam.is_some() {
            let request = Request::Release { ident: ident.parse().unwrap(), subnet: None };
            self.cluster.request(host, request, Duration::from_secs(3));
        }
    }

    fn part(&mut self) {
        let groups = (0..self.cluster.hosts.len()).map(|_| u8::try_from(self.cluster.rng.below(2)).unwrap());
        let groups = groups.collect();
        self.cluster.part(groups);
    }

    /// One host dies for good between two times of quiet: two at once may take with them all who knew of a newcomer.
    fn kill(&mut self, host: usize) {
        let living = self.cluster.living();
        if self.deceased.is_none() && self.leaver.is_none() && living.len() > 2 && living.contains(&host) {
            self.cluster.kill(host);
            self.deceased = Some(host);
        }
    }

    fn retire(&mut self, host: usize) {
        if let Some(gone) = self.deceased {
            let peer = self.cluster.hosts[gone].id;
            self.cluster.request(host, Request::Retire { peer }, Duration::from_secs(5));
        }
    }

    fn leave(&mut self, host: usize) {
        if self.leaver.is_some() || self.deceased.is_some() || self.cluster.hosts[host].ipam.is_none() {
            return;
        }
        if self.cluster.living().len() > 2 {
            self.leaver = Some(host);
            self.cluster.request(host, Request::HandOver, Duration::from_secs(40));
        }
    }

    fn snapshot(&mut self, host: usize) {
        let at = &mut self.cluster.hosts[host];
        if let Some(ipam) = &at.ipam
            && at.disk.unsynced.is_empty()
        {
            at.disk.snapshot = Some(ipam.snapshot().1);
            at.disk.log.clear();
        }
    }

    /// Heals everything and waits; then all must agree, and nothing may be missing.
    fn quiet(&mut self) {
        let cluster = &mut self.cluster;
        let loss = std::mem::replace(&mut cluster.loss, 0);
        for host in cluster.living() {
            cluster.start(host);
        }
        cluster.part(vec![0; cluster.hosts.len()]);
        cluster.run(Duration::from_secs(25));
        self.deceased = None;
        let living = cluster.living();
        for gone in (0..cluster.hosts.len()).filter(|host| !living.contains(host)).collect::<Vec<_>>() {
            let peer = cluster.hosts[gone].id;
            cluster.request(living[0], Request::Retire { peer }, Duration::from_secs(20));
        }
        cluster.run(Duration::from_secs(75));
        if let Some(leaver) = self.leaver.take() {
            self.finish_leaving(leaver);
        }
        self.agree();
        self.cluster.loss = loss;
    }

    fn finish_leaving(&mut self, leaver: usize) {
        let cluster = &mut self.cluster;
        if cluster.hosts[leaver].ipam.is_some() {
            cluster.request(leaver, Request::HandOver, Duration::from_secs(20));
            cluster.run(Duration::from_secs(25));
            let is_retired =
                cluster.ipam(leaver).state().custody.retired().contains(&cluster.hosts[leaver].id);
            if is_retired {
                cluster.kill(leaver);
                cluster.run(Duration::from_secs(25));
            } else if cluster.ipam(leaver).network_id().is_some()
                && cluster.ipam(leaver).state().custody.is_member()
            {
                cluster.find("a peer could not leave");
            }
        }
    }

    fn agree(&mut self) {
        let cluster = &mut self.cluster;
        cluster.check();
        let living = cluster.living();
        let view = |host: &usize| cluster.ipam(*host).state().custody.view();
        if living.iter().any(|host| cluster.hosts[*host].ipam.is_none()) {
            return;
        }
        let views: Vec<_> = living.iter().map(view).collect();
        if views.windows(2).any(|two| two[0] != two[1]) {
            cluster.find(format!("L3: hosts disagree after quiet: {views:#?}"));
            return;
        }
        let members = living.iter().filter(|host| cluster.ipam(**host).state().custody.is_member()).count();
        if members == 0 {
            return;
        }
        if members < living.len() {
            cluster.find("L4: a living host is not admitted after quiet");
        }
        let active: u128 =
            living.iter().map(|host| cluster.ipam(*host).state().custody.active().count()).sum();
        let all = crate::range::Range::from(cluster.subnet).count();
        if active != all {
            cluster.find(format!("L4: {active} of {all} addresses can be handed out by somebody"));
        }
    }
}

/// The first finding of some histories, with its seed.
pub(super) fn search(mutants: Mutants, seeds: std::ops::Range<u64>) -> Option<(u64, String)> {
    seeds.into_iter().find_map(|seed| {
        let mut history = History::new(seed, mutants);
        history.run(60);
        history.cluster.findings.first().map(|finding| (seed, finding.clone()))
    })
}

#[test]
fn no_history_leads_to_an_address_given_twice_or_lost() {
    assert_eq!(search(Mutants::default(), 0..histories()), None);
}

/// Five hosts that are to found one network while they start, crash and are parted within milliseconds.
fn found_under_fire(mutants: Mutants, seed: u64) -> Option<String> {
    let mut cluster = Cluster::new(5, "10.0.0.0/26", |_| Founding::Consensus { voters: 5 }, seed, mutants);
    cluster.slow_disks = true;
    for step in 0..80 {
        let host = cluster.below(5);
        match cluster.below(10) {
            0..3 => drop(cluster.allocate(host, &format!("c{step}"))),
            3..5 => {
                let groups = (0..5).map(|_| u8::try_from(cluster.rng.below(2)).unwrap()).collect();
                cluster.part(groups);
            }
            5 => {
                cluster.crash(host, true);
                cluster.start(host);
            }
            _ => {}
        }
        let pause = cluster.rng.below(30_000);
        cluster.run(Duration::from_micros(pause));
    }
    cluster.part(vec![0; 5]);
    cluster.run(Duration::from_secs(30));
    let networks: BTreeSet<_> = (0..5).filter_map(|host| cluster.ipam(host).network_id()).collect();
    if networks.len() > 1 {
        cluster.find(format!("S7: {} networks were founded", networks.len()));
    }
    cluster.check();
    cluster.findings.pop()
}

#[test]
fn one_network_is_founded_whatever_happens_meanwhile() {
    for seed in 0..histories() {
        assert_eq!(found_under_fire(Mutants::default(), seed), None, "seed {seed}");
    }
    for mutant in [Mutant::ForgetVotes, Mutant::QuorumOfOne, Mutant::SpeakBeforeDisk] {
        let found = (0..2_000).find_map(|seed| Some((seed, found_under_fire(Mutants::only(mutant), seed)?)));
        say(format_args!("{mutant:?}: {found:?}"));
        assert!(found.is_some(), "no history finds {mutant:?}");
    }
}

#[test]
fn a_history_finds_each_mistake() {
    for mutant in [
        Mutant::SpeakBeforeDisk,
        Mutant::EveryoneIsHeir,
        Mutant::ForfeitEverything,
        Mutant::VouchWithoutRetired,
        Mutant::GrantKeepsEpoch,
        Mutant::GrantHeld,
        Mutant::KeepIdleOnLoss,
        Mutant::NoCooling,
        Mutant::HandOutEdges,
        Mutant::QuorumOfOne,
        Mutant::NoDeadline,
        Mutant::NoRepair,
        Mutant::AnswerWithoutRoster,
    ] {
        let found = search(Mutants::only(mutant), 0..500);
        say(format_args!("{mutant:?}: {found:.150?}"));
        assert!(found.is_some(), "no history finds {mutant:?}");
    }
}
