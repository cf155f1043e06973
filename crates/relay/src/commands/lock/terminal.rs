//! Lends the terminal to the command of `lock run`: it lives in a process group of its own, and a
//! group in the background that reads the terminal or hears Ctrl-C would be stopped.

use std::io::IsTerminal;

use nix::{
    sys::signal::{SigSet, Signal},
    unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp},
};

/// The terminal is the command's while this lives.
#[derive(Debug)]
pub struct Lent;

impl Lent {
    /// Lends it, where stdin is a terminal and we are in front.
    pub fn to(group: Pid) -> Option<Self> {
        let stdin = std::io::stdin();
        let ours = stdin.is_terminal() && tcgetpgrp(&stdin) == Ok(getpgrp());
        (ours && give(group)).then_some(Self)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        give(getpgrp());
    }
}

/// Whoever gives the terminal away from the background is stopped by SIGTTOU unless it is blocked.
fn give(group: Pid) -> bool {
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGTTOU);
    let Ok(before) = blocked.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK) else {
        return false;
    };
    let given = tcsetpgrp(std::io::stdin(), group).is_ok();
    // Restoring the mask that was there a moment ago has no way to fail.
    let _ = before.thread_set_mask();
    given
}
