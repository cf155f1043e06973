#![no_main]

#[path = "../../crates/node/tests/entry/mod.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::config(bytes));
