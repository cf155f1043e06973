//! The configuration as an entry point for foreign text: shared by `config_mutations.rs` and `fuzz/`.

use relay_node::config::load_text;

/// A configuration: it loads, or every problem has a place and a text; never a panic.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match load_text("fuzz.toml", text) {
        Ok(loaded) => assert!(loaded.lines().len() > 40),
        Err(problems) => {
            assert!(!problems.0.is_empty());
            assert!(problems.0.iter().all(|problem| !problem.message.is_empty()));
        }
    }
}
