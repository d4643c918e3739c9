use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn range(first: u128, last: u128) -> Range {
    Range::new(Addr(first), Addr(last)).unwrap()
}

fn members(set: &RangeSet) -> BTreeSet<u128> {
    set.iter().flat_map(|range| range.first.0..=range.last.0).collect()
}

#[test]
fn a_block_is_aligned_greatest_and_last() {
    assert_eq!(range(1, 17).aligned_block(u128::MAX), Some(range(8, 15)));
    assert_eq!(range(0, 31).aligned_block(8), Some(range(24, 31)));
    assert_eq!(range(3, 3).aligned_block(9), Some(range(3, 3)));
    assert_eq!(range(3, 3).aligned_block(0), None);
    let all = range(0, u128::MAX);
    assert_eq!(all.aligned_block(1 << 64), Some(range(u128::MAX - ((1 << 64) - 1), u128::MAX)));
}

#[test]
fn a_subnet_keeps_its_first_and_last_address_for_itself() {
    let hosts = |text: &str| Range::hosts_of(text.parse().unwrap()).to_string();
    assert_eq!(hosts("10.0.0.0/24"), "10.0.0.1-10.0.0.254");
    assert_eq!(hosts("10.0.0.0/30"), "10.0.0.1-10.0.0.2");
    assert_eq!(hosts("10.0.0.0/31"), "10.0.0.0-10.0.0.1");
    assert_eq!(hosts("fd00::/126"), "fd00::1-fd00::2");
}

#[test]
fn a_range_that_ends_before_it_begins_is_not_decoded() {
    let bytes = minicbor::to_vec((Addr(2), Addr(1))).unwrap();
    assert!(minicbor::decode::<Range>(&bytes).is_err());
}

proptest! {
    #[test]
    fn a_set_equals_the_naive_set(steps in prop::collection::vec((any::<bool>(), 0_u128..40, 0_u128..12), 0..60)) {
        let mut set = RangeSet::new();
        let mut naive = BTreeSet::new();
        for (insert, first, more) in steps {
            let range = range(first, first + more);
            if insert {
                set.insert(range);
                naive.extend(first..=first + more);
            } else {
                set.remove(range);
                naive.retain(|addr| !range.contains(Addr(*addr)));
            }
            prop_assert_eq!(members(&set), naive.clone());
            let parts: Vec<Range> = set.iter().collect();
            prop_assert!(parts.windows(2).all(|two| two[0].last.0 + 1 < two[1].first.0));
        }
        prop_assert_eq!(set.count(), naive.len() as u128);
    }

    #[test]
    fn a_block_lies_in_its_range_and_none_twice_as_great_does(first in 0_u128..300, more in 0_u128..300, max in 1_u128..300) {
        let range = range(first, first + more);
        let block = range.aligned_block(max).unwrap();
        let size = block.count();
        prop_assert!(range.covers(block) && size.is_power_of_two() && size <= max && block.first.0.is_multiple_of(size));
        let start = first.next_multiple_of(size * 2);
        prop_assert!(size * 2 > max || start + size * 2 - 1 > first + more);
    }
}
