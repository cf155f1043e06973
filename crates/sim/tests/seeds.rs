//! Histories of the lease table under many seeds; thousands in a soak.

use relay_sim::{check, world};

/// Rounds of a normal test; `RELAY_SOAK_ROUNDS` multiplies them.
fn seeds(normal: u64) -> u64 {
    let factor = std::env::var("RELAY_SOAK_ROUNDS").ok().and_then(|text| text.parse().ok());
    normal * factor.unwrap_or(1)
}

/// L01, L02, D01, D05, D08, T01, T02 as far as the pure rules carry them: random operations of
/// clients that share keys, with crashes at any point between apply and commit, pauses and
/// steps of the wall clock.
#[test]
fn l01_simulated_histories_are_linearizable() {
    for seed in 0..seeds(800) {
        let history = world::run(seed, 40, None);
        check(&history).expect_linearizable(&format!("seed {seed}"));
    }
}

#[test]
fn long_histories_are_linearizable() {
    for seed in 0..seeds(10) {
        let history = world::run(seed, 600, None);
        check(&history).expect_linearizable(&format!("seed {seed}"));
    }
}

#[test]
fn a_seed_names_one_run() {
    assert_eq!(world::run(7, 50, None).entries, world::run(7, 50, None).entries);
}
