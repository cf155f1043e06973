//! Does the checker bite? Every planted bug must be found, by name.

use relay_sim::{Bug, Verdict, check, world};

/// Every bug shows within so many seeds; the checker finds most at once.
const SEEDS: u64 = 400;

#[test]
fn every_planted_bug_is_caught() {
    let missed: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| caught_at(*bug).is_none()).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

fn caught_at(bug: Bug) -> Option<u64> {
    (0..SEEDS).find(|seed| {
        let history = world::run(*seed, 60, Some(bug));
        let caught = matches!(check(&history), Verdict::Violation(_));
        if caught {
            println!("{bug:?}: caught at seed {seed}");
        }
        caught
    })
}
