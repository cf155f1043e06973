//! `relay`: what a person types and sees. Wiring only; what another program would want is in the
//! client crate.

mod app;
mod checks;
mod cli;
mod commands;
mod complete;
mod contexts;
mod error;
mod explain;
mod files;
mod ids;
mod output;
mod progress;
mod prompt;
mod seed_args;
mod serve;
mod times;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Only one provider is compiled in, so that a second installation is the only way to fail.
    let _ = rustls::crypto::ring::default_provider().install_default();
    complete::answer_shell();
    ExitCode::from(cli::run(std::env::args_os().collect()))
}
