//! That README beside these tests names scenarios that are there, and none of the rows of a host is missing in it.

use std::collections::BTreeSet;
use std::env;
use std::process::Command;

use anyhow::{Result, ensure};

const README: &str = include_str!("../../README.md");

/// The rows of the study of Weave Net about a host's containers, what it tells, and its firewall.
const ROWS: [std::ops::RangeInclusive<u16>; 2] = [113..=133, 231..=273];

#[test]
fn each_scenario_that_the_readme_names_is_there() -> Result<()> {
    let listed = Command::new(env::current_exe()?).args(["--list", "--format", "terse"]).output()?;
    let listed = String::from_utf8(listed.stdout)?;
    let scenarios: BTreeSet<_> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let named = README.split('`').skip(1).step_by(2).filter(|word| word.contains("::"));
    for name in named {
        let is_there = match name.strip_suffix("::") {
            Some(_) => scenarios.iter().any(|scenario| scenario.starts_with(name)),
            None => scenarios.contains(name),
        };
        ensure!(is_there, "README names {name}, which is not there");
    }
    Ok(())
}

#[test]
fn no_row_of_a_host_is_missing() -> Result<()> {
    let first_cells = README.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    let in_tables = first_cells.flat_map(|cell| cell.split(',').map(str::trim));
    let left_out = README.split("What does not apply:").skip(1).flat_map(|text| text.split([' ', '\n']));
    let numbers: BTreeSet<u16> = in_tables.chain(left_out).filter_map(|word| word.parse().ok()).collect();
    for row in ROWS.into_iter().flatten() {
        ensure!(numbers.contains(&row), "row {row} is not in the README");
    }
    Ok(())
}
