//! Address management over real sessions: requests at one router that others have to grant.

use mesh_ipam::{Answer, Founding, Refusal, Request, State, Ticket};

use super::*;
use crate::Addresses;
use crate::interface::AddressOutput;

pub(super) type Answered = (Ticket, Result<Answer, Refusal>);

fn with_addresses(config: Config, founding: Founding) -> Config {
    let me = config.identity.peer_id();
    let range = "10.32.0.0/24".parse().expect("a literal");
    let ipam = mesh_ipam::Config { nickname: config.nickname.clone(), range, founding };
    Config { ipam: Some(Addresses { config: ipam, state: State::new(me) }), ..config }
}

impl Net {
    /// A disk that writes at once, and a client that reads its answers.
    pub(super) fn ipam_output(
        &mut self,
        node: usize,
        output: AddressOutput,
        inputs: &mut VecDeque<(usize, Input)>,
    ) {
        match output {
            AddressOutput::Persist { seq, .. } => {
                inputs.push_back((node, Input::Ipam(mesh_ipam::Input::Persisted(seq))));
            }
            AddressOutput::Answer { ticket, result } => self.answers[node].push((ticket, result)),
        }
    }

    fn allocate(&mut self, node: usize, name: &str) {
        let ticket = Ticket(self.answers[node].len() as u64);
        let ident = name.parse().expect("a name");
        let subnet = "10.32.0.0/24".parse().expect("a literal");
        let deadline = self.now + secs(10);
        let request = Request::Allocate { ident, subnet };
        self.input(node, Input::Ipam(mesh_ipam::Input::Request { ticket, request, deadline }));
    }

    fn address_of(&self, node: usize) -> ipnet::IpNet {
        match &self.answers[node][..] {
            [(_, Ok(Answer::Addresses(addresses)))] => addresses[0],
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn routers_in_a_chain_hand_out_different_addresses_of_one_network() {
    let quiet = |config: Config| Config { discovery: false, ..with_addresses(config, Founding::Alone) };
    let secret = Some([9; 32]);
    let told = |config: Config| {
        let waits = with_addresses(config, Founding::Observer);
        Config { discovery: false, ..waits }
    };
    let mut net = Net::new(vec![
        quiet(config(1, secret, vec![])),
        told(config(2, secret, vec![named(0)])),
        told(config(3, secret, vec![named(1)])),
    ]);
    net.run(secs(2));
    for (a, b) in [(0, 1), (1, 2)] {
        net.alive(a, b);
    }
    net.run(secs(2));
    net.allocate(0, "c1");
    net.run(secs(5));
    net.allocate(2, "c3");
    net.allocate(1, "c2");
    net.run(secs(10));
    let mut addresses: Vec<_> = (0..3).map(|node| net.address_of(node)).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    let networks: BTreeSet<_> = net.joined.iter().map(|joined| joined.last().copied()).collect();
    assert_eq!(networks.len(), 1, "{:?}", net.joined);
    assert!(networks.iter().all(Option::is_some));
}

#[test]
fn what_a_client_wants_without_address_management_is_passed_over() {
    let mut net = Net::new(vec![config(1, None, vec![])]);
    net.allocate(0, "c1");
    net.run(secs(20));
    assert!(net.answers[0].is_empty());
    assert!(net.nodes[0].ipam_status(net.now).is_none());
}
