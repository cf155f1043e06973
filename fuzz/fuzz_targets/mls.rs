#![no_main]

#[path = "../../crates/proto/tests/entry/mod.rs"]
#[allow(dead_code, reason = "each target uses one of the entries")]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::mls(bytes));
