//! What was asked and answered, and when.

use std::fmt;

/// A recorded run: operations of many clients on many resources.
///
/// Times are nanoseconds of one clock of the observer, who sits with the clients.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub entries: Vec<Entry>,
    /// A lease held before a restart may run its full length again after it.
    pub restarts: Vec<Restart>,
    /// How much later than its end a lease may still be seen, beside what the history itself
    /// leaves open: the precision of the observer's clock and of the relay's.
    pub slack_ns: u64,
}

/// The relay went down and came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Restart {
    pub down: u64,
    /// When it was seen to answer again: not before it had read its locks.
    pub up: u64,
}

/// One operation, from call to return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub client: u32,
    pub resource: String,
    pub call: u64,
    /// When the answer came. Where the outcome is unknown: the latest time at which the request
    /// can have had its effect (the end of the process that had it).
    pub ret: u64,
    pub ask: Ask,
    pub outcome: Outcome,
}

/// What was asked. Owners are numbers given by the observer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    Acquire {
        owner: u32,
        lease_ms: u64,
        request: Option<u64>,
    },
    Renew {
        owner: u32,
        token: u64,
        lease_ms: u64,
    },
    Release {
        owner: u32,
        token: u64,
    },
    Break {
        token: u64,
    },
    Inspect,
    /// A write that is only stored if the owner holds the lock with this token.
    Fenced {
        owner: u32,
        token: u64,
    },
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Acquired.
    Granted {
        token: u64,
    },
    /// Renewed, released, broken, written.
    Done,
    Held {
        owner: u32,
    },
    Expired,
    Stale,
    Forbidden,
    Conflict,
    /// A fenced write was refused.
    Fenced,
    /// Inspected: held.
    Seen {
        owner: u32,
        token: u64,
    },
    /// Inspected: free.
    SeenFree {
        last_token: u64,
    },
    /// No answer came: it may have had its effect or not.
    Unknown,
    /// Refused with nothing changed and nothing said about the lock.
    Nothing,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        write!(
            f,
            "{:>12.3} .. {:>12.3} ms  client {:<3} {}  {:?} -> {:?}",
            ms(self.call),
            ms(self.ret),
            self.client,
            self.resource,
            self.ask,
            self.outcome
        )
    }
}
