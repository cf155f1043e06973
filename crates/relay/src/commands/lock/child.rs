//! The first thing that runs in the child of `lock run`: it arranges to die with its parent, and
//! becomes the command. A process of its own does this, because between `fork` and `exec` only
//! unsafe code could.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use clap::Args;

use super::run::{CANNOT_RUN, NOT_FOUND, WRAPPER_FAILED};
use crate::error::{Failure, Outcome};

#[derive(Debug, Args)]
pub struct Child {
    /// The process that has to be there
    parent: i32,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Child {
    pub fn run(self) -> Outcome {
        die_with_parent(self.parent)?;
        let Some((program, args)) = self.command.split_first() else {
            return Err(Failure::new(WRAPPER_FAILED, "no command"));
        };
        // Returns only where it fails.
        let error = Command::new(program).args(args).exec();
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => NOT_FOUND,
            _ => CANNOT_RUN,
        };
        Err(Failure::new(code, format!("cannot run {}: {error}", program.display())))
    }
}

#[cfg(target_os = "linux")]
fn die_with_parent(parent: i32) -> Result<(), Failure> {
    let failed = |error: nix::Error| Failure::new(WRAPPER_FAILED, format!("prctl: {error}"));
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(failed)?;
    // It may have died before the request took effect.
    if nix::unistd::getppid().as_raw() != parent {
        return Err(Failure::new(WRAPPER_FAILED, "the wrapper is gone"));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: i32) -> Result<(), Failure> {
    Ok(())
}
