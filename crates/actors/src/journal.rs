//! The last log lines of each actor, for whoever looks after it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use tokio::sync::watch;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    /// The level a script names; what it does not know is [`Self::Info`].
    #[cfg(feature = "script")]
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "debug" => Self::Debug,
            "warn" => Self::Warn,
            "error" => Self::Error,
            _ => Self::Info,
        }
    }
}

/// Unix milliseconds, handed in so that tests can say what time it is.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl WallClock {
    pub fn new(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_ms))
    }

    /// The system's clock.
    pub fn system() -> Self {
        Self::new(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.map_or(0, |since| since.as_millis() as u64)
        })
    }

    pub fn now_ms(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Counts the lines of this actor from 1.
    pub number: u64,
    /// Unix milliseconds.
    pub at_ms: u64,
    pub level: LogLevel,
    pub message: String,
}

/// Lines that are kept of one actor; the oldest go first.
const MAX_LINES: usize = 200;
/// A longer line is cut.
const MAX_LINE: usize = 4096;

/// The log of one actor. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Journal {
    clock: WallClock,
    lines: Arc<Mutex<VecDeque<LogLine>>>,
    /// The number of the newest line.
    newest: watch::Sender<u64>,
}

impl Journal {
    pub fn new(clock: WallClock) -> Self {
        Self { clock, lines: Arc::default(), newest: watch::Sender::new(0) }
    }

    /// Adds a line.
    pub fn write(&self, level: LogLevel, message: &str) {
        let mut length = 0;
        let fits = |c: &char| {
            length += c.len_utf8();
            length <= MAX_LINE
        };
        let message = message.chars().take_while(fits).collect();
        let at_ms = self.clock.now_ms();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *self.newest.borrow() + 1;
        if lines.len() >= MAX_LINES {
            lines.pop_front();
        }
        lines.push_back(LogLine { number, at_ms, level, message });
        // Told while the lines are held, so that numbers are told in their order.
        self.newest.send_replace(number);
    }

    /// The kept lines after the one numbered `after`; 0 for all.
    pub fn after(&self, after: u64) -> Vec<LogLine> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line.number > after).cloned().collect()
    }

    /// The last `count` of the kept lines.
    pub fn last(&self, count: usize) -> Vec<LogLine> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect()
    }

    /// The number of the newest line, and its changes.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_lines_go_and_long_ones_are_cut() {
        let journal = Journal::new(WallClock::new(|| 7));
        for n in 0..=MAX_LINES {
            journal.write(LogLevel::Info, &format!("line {n}"));
        }
        let all = journal.after(0);
        assert_eq!((all.len(), all[0].message.as_str()), (MAX_LINES, "line 1"));
        assert_eq!(*journal.newest().borrow(), MAX_LINES as u64 + 1);
        journal.write(LogLevel::Error, &"ä".repeat(MAX_LINE));
        let last = journal.last(1);
        assert_eq!((last.len(), last[0].message.len()), (1, MAX_LINE));
        assert_eq!(journal.after(last[0].number), []);
    }
}
