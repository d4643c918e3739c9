use std::time::Duration;

use super::*;
use crate::faults::{Crash, Fault};
use crate::scenario::{Scenario, Shape, rng_from};

#[test]
fn every_router_answers_as_the_model_does_whatever_broke() {
    let mut crashes = 0;
    for seed in 0..4 {
        match run_names(seed, 8, Duration::from_secs(30), None) {
            Ok(outcome) => crashes += outcome.tally.crashes,
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(crashes > 0, "nothing broke");
}

#[test]
fn the_model_finds_a_name_that_is_missing_and_one_that_is_stale() {
    let mut world = World::new(&Scenario::quiet(1, 3, Shape::Everybody), None);
    world.run_for(Duration::from_secs(5)).unwrap();
    let container: ContainerId = "c".parse().unwrap();
    let entry =
        Entry::new("a.mesh.internal", "10.0.0.1".parse().unwrap(), container.clone(), Some(80)).unwrap();
    world.name(HostId(0), container, [entry].into()).unwrap();
    let lacks = world.entry_difference();
    assert!(matches!(lacks, Some(WrongName::Entries { host: HostId(1), stale, .. }) if stale.is_empty()));
    assert!(world.answer_difference(&mut rng_from(1)).is_some());
    world.run_for(Duration::from_secs(1)).unwrap();
    assert_eq!(world.entry_difference(), None);
    assert_eq!(world.answer_difference(&mut rng_from(1)), None);
    world.now_let(&Fault::Crash { host: HostId(0), how: Crash::PowerCut }).unwrap();
    let shows = world.entry_difference();
    assert!(matches!(shows, Some(WrongName::Entries { missing, .. }) if missing.is_empty()));
    world.run_for(Duration::from_secs(15)).unwrap();
    assert_eq!(world.entry_difference(), None);
}

#[test]
fn whoever_missed_that_names_went_does_not_show_them_when_their_router_starts_anew() {
    let mut world = World::new(&Scenario::quiet(1, 4, Shape::Everybody), None);
    world.run_for(Duration::from_secs(5)).unwrap();
    let container: ContainerId = "c".parse().unwrap();
    let entry = Entry::new("a.mesh.internal", "10.0.0.1".parse().unwrap(), container.clone(), None).unwrap();
    world.name(HostId(0), container.clone(), [entry].into()).unwrap();
    world.run_for(Duration::from_secs(1)).unwrap();
    world.now_let(&Fault::Partition(vec![false, false, false, true])).unwrap();
    world.run_for(Duration::from_secs(15)).unwrap();
    world.name(HostId(0), container, BTreeSet::new()).unwrap();
    world.now_let(&Fault::Crash { host: HostId(0), how: Crash::Killed }).unwrap();
    world.run_for(Duration::from_secs(15)).unwrap();
    world.now_let(&Fault::Calm).unwrap();
    world.run_for(Duration::from_secs(15)).unwrap();
    assert_eq!(world.entry_difference(), None);
}
