//! `relay serve`: a relay.

use tracing_subscriber::EnvFilter;

use crate::cli::Global;

/// Sets up what is said on stderr besides messages of commands.
pub fn log(global: &Global) {
    let default = match global.verbose {
        0 => "error",
        1 => "info",
        _ => "debug",
    };
    let filter = std::env::var("RELAY_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|_| EnvFilter::new(default));
    // Fails only where a subscriber is there already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}
