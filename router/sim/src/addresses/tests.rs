use super::*;

#[test]
fn no_address_is_given_twice_or_lost_whatever_breaks() {
    let mut deaths = 0;
    for seed in 0..24 {
        let nodes = 2 + usize::try_from(seed % 5).unwrap();
        match run_addresses(seed, nodes, Duration::from_secs(20), None) {
            Ok(outcome) => deaths += outcome.tally.deaths,
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(deaths > 20, "{deaths} deaths at a disk");
}

#[test]
fn a_peer_that_is_gone_for_good_leaves_its_addresses_to_the_others() {
    let scenario = Scenario::quiet(1, 4, crate::Shape::Star);
    let range: IpNet = "10.0.0.0/24".parse().unwrap();
    let mut world = World::new(&scenario, None);
    world.manage_addresses(4, range, 1, 0);
    world.run_for(Duration::from_secs(3)).unwrap();
    let ask = |world: &mut World, host: usize, ident: &str| {
        let request = Request::Allocate { ident: ident.parse().unwrap(), subnet: range };
        world.ask_addresses(HostId(host), request, Duration::from_secs(5)).unwrap();
        world.run_for(Duration::from_secs(1)).unwrap();
    };
    (0..4).for_each(|host| ask(&mut world, host, "first"));
    let gone = HostId(3);
    world.now_let(&Fault::Crash { host: gone, how: Crash::PowerCut }).unwrap();
    world.run_for(Duration::from_secs(30)).unwrap();
    let peer = world.peer(gone);
    for host in [HostId(1), HostId(2)] {
        world.ask_addresses(host, Request::Retire { peer }, Duration::from_secs(20)).unwrap();
    }
    world.run_for(Duration::from_secs(20)).unwrap();
    for n in 0..70 {
        ask(&mut world, n % 3, &format!("more{n}"));
    }
    assert_eq!(world.wrong(), None);
    assert_eq!(world.address_difference(), None);
    assert_eq!(world.oracle().tally.given, 74);
}
