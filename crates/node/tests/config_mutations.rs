//! Damaged configuration files: a problem with a place, never a panic.
//!
//! Bounded and the same each time; `make fuzz` goes further. `RELAY_MUTATIONS` sets the number of inputs.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod entry;

use std::{fs, path::Path};

#[test]
fn damaged_files() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut samples: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    samples.push(relay_node::config::sample(true).into_bytes());

    let rounds = std::env::var("RELAY_MUTATIONS").ok().and_then(|text| text.parse().ok());
    let mut random = 0x5eed_u64;
    let mut below = |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize % limit.max(1)
    };
    let pieces = [
        "[",
        "]]",
        "\"",
        "=",
        "#",
        "\n",
        "'''",
        "1979-05-27",
        "0x",
        "-",
        ".",
        "{",
        "\u{1f980}",
        "nan",
    ];
    for _ in 0..rounds.unwrap_or(1_000) / 2 {
        let mut bytes = samples[below(samples.len())].clone();
        for _ in 0..=below(3) {
            let at = below(bytes.len() + 1);
            let end = (at + below(20)).min(bytes.len());
            match below(3) {
                0 => drop(bytes.drain(at..end)),
                1 if at < bytes.len() => bytes[at] = below(128) as u8,
                _ => drop(bytes.splice(at..end, pieces[below(pieces.len())].bytes())),
            }
        }
        if std::panic::catch_unwind(|| entry::config(&bytes)).is_err() {
            panic!("{}", String::from_utf8_lossy(&bytes));
        }
    }
}
