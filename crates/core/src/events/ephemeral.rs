//! The bounded replay of ephemeral events, in memory.

use std::collections::VecDeque;

use relay_proto::Event;

/// Events kept at most, whatever the window.
const MAX_EVENTS: usize = 10_000;
/// Bytes of JSON kept at most.
const MAX_BYTES: usize = 16 << 20;

/// Ephemeral events of the last moments.
#[derive(Debug, Default)]
pub(super) struct Ephemerals {
    window_ns: u64,
    events: VecDeque<(u64, Kept)>,
    bytes: usize,
    pushed: u64,
}

/// An event within its window.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub event: Event,
    /// Stands for the `seq` that the event has not: larger than any, in order of arrival.
    pub number: u64,
}

/// What the numbers of ephemeral events begin with: far beyond every `seq`, and no negative number in a
/// database.
const FIRST_NUMBER: u64 = 1 << 62;

impl Ephemerals {
    /// `window_ms` 0 keeps nothing.
    pub fn new(window_ms: u64) -> Self {
        Self { window_ns: window_ms * 1_000_000, ..Self::default() }
    }

    /// Keeps an event; false where the same event is here already.
    pub fn push(&mut self, now_ns: u64, event: &Event) -> bool {
        if self.window_ns == 0 {
            return true;
        }
        self.forget(now_ns);
        if self.events.iter().any(|(_, known)| known.event.id() == event.id()) {
            return false;
        }
        self.bytes += event.json().len();
        let kept = Kept { event: event.clone(), number: FIRST_NUMBER + self.pushed };
        self.pushed += 1;
        self.events.push_back((now_ns, kept));
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            self.pop();
        }
        true
    }

    /// What is within the window, oldest first.
    pub fn recent(&mut self, now_ns: u64) -> impl DoubleEndedIterator<Item = &Kept> {
        self.forget(now_ns);
        self.events.iter().map(|(_, kept)| kept)
    }

    fn forget(&mut self, now_ns: u64) {
        let window_ns = self.window_ns;
        let gone = |at: u64| at.saturating_add(window_ns) < now_ns;
        while self.events.front().is_some_and(|(at, _)| gone(*at)) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((_, kept)) = self.events.pop_front() {
            self.bytes -= kept.event.json().len();
        }
    }
}
