//! What a script may use, and the watch on it.

use std::{
    cell::Cell,
    fmt,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};

/// What one service of a script may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptLimits {
    /// Bytes of its machine, code and values together. Default 64 MiB.
    pub memory: usize,
    /// Bytes of stack; deeper recursion throws. Default 256 KiB, at most 1 MiB.
    pub stack: usize,
    /// Processor time of one message, and of loading. Default 1 s.
    pub cpu: Duration,
    /// Time of one message with all it waits for; the caller's deadline may be nearer.
    /// Default 60 s.
    pub wall: Duration,
    /// Bytes of state as JSON. Default 4 MiB. It is written whole whenever it changed.
    pub state: usize,
    /// Bytes of one result as JSON. Default 1 MiB.
    pub result: usize,
    /// Bytes of source. Default 1 MiB.
    pub source: usize,
    /// Calls, publications and locks of one message under way at once. Default 64.
    pub operations: usize,
    /// Timers of one service. Default 1000.
    pub timers: usize,
    /// Log lines of one message, each cut at 4 KiB. Default 100.
    pub log_lines: u32,
}

impl Default for ScriptLimits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            stack: 256 << 10,
            cpu: Duration::from_secs(1),
            wall: Duration::from_secs(60),
            state: 4 << 20,
            result: 1 << 20,
            source: 1 << 20,
            operations: 64,
            timers: 1000,
            log_lines: 100,
        }
    }
}

/// The limit a message ran against; its machine is built anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Cpu(Duration),
    Wall,
    Memory(usize),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(limit) => {
                write!(f, "it used more than {} ms of processor time", limit.as_millis())
            }
            Self::Wall => f.write_str("it ran on past the end of its time"),
            Self::Memory(limit) => write!(f, "it used more than {} MiB of memory", limit >> 20),
        }
    }
}

/// Watches the time of the message that runs. Real clocks: the machine cannot be paused.
#[derive(Debug)]
pub(super) struct Budget {
    cpu: Duration,
    /// Processor time the message used in earlier slices.
    used: Cell<Duration>,
    /// The thread's processor time when this slice began.
    slice: Cell<Duration>,
    wall: Cell<Option<Instant>>,
    exceeded: Cell<Option<Limit>>,
}

impl Budget {
    pub const fn new(cpu: Duration) -> Self {
        Self {
            cpu,
            used: Cell::new(Duration::ZERO),
            slice: Cell::new(Duration::ZERO),
            wall: Cell::new(None),
            exceeded: Cell::new(None),
        }
    }

    /// A new message, to end by `wall`.
    pub fn message(&self, wall: Instant) {
        self.used.set(Duration::ZERO);
        self.wall.set(Some(wall));
        self.exceeded.set(None);
    }

    pub fn begin_slice(&self) {
        self.slice.set(thread_time());
    }

    pub fn end_slice(&self) {
        self.used.set(self.used.get() + thread_time().saturating_sub(self.slice.get()));
    }

    /// Whether the message must stop now; remembers why.
    pub fn is_spent(&self) -> bool {
        if self.exceeded.get().is_none() {
            let used = self.used.get() + thread_time().saturating_sub(self.slice.get());
            if used > self.cpu {
                self.exceeded.set(Some(Limit::Cpu(self.cpu)));
            } else if self.wall.get().is_some_and(|wall| Instant::now() > wall) {
                self.exceeded.set(Some(Limit::Wall));
            }
        }
        self.exceeded.get().is_some()
    }

    pub const fn exceeded(&self) -> Option<Limit> {
        self.exceeded.get()
    }
}

/// Processor time of this thread: what other threads use is not the script's fault.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
