//! The newest events in memory, to let subscriptions join without a gap.

use std::{cell::OnceCell, collections::VecDeque, rc::Rc};

use bytes::Bytes;
use relay_proto::{Cursor, Event, Position};

/// Events kept.
const MAX_EVENTS: usize = 16_384;
/// Bytes of their JSON kept; with the frames made of it at most twice as many.
const MAX_BYTES: usize = 16 << 20;

/// An event with the part of its frame that all receivers share.
#[derive(Debug)]
pub(super) struct Live {
    /// 0 for ephemeral events.
    pub seq: u64,
    pub event: Event,
    /// False where a later version of its coordinate was already known when it came.
    pub latest: bool,
    /// The `seq` that a reader has reached with it.
    position: u64,
    /// `"cursor":"…","event":{…}}}`: the end of its `stream.event` frame.
    tail: Bytes,
    /// The whole frame for those whose frames begin like the first one's: mostly all call their subscription the same.
    frame: OnceCell<(Bytes, Bytes)>,
}

impl Live {
    /// `position` is the `seq` that a reader has reached with it.
    pub fn new(log: u32, seq: u64, position: u64, latest: bool, event: Event) -> Self {
        let cursor = Cursor { log, position: Position::AfterSeq(position) }.encode();
        let json = event.json();
        let mut tail = Vec::with_capacity(json.len() + cursor.len() + 32);
        tail.extend_from_slice(b"\"cursor\":\"");
        tail.extend_from_slice(cursor.as_bytes());
        tail.extend_from_slice(b"\",\"event\":");
        tail.extend_from_slice(json);
        tail.extend_from_slice(b"}}");
        Self { seq, event, latest, position, tail: tail.into(), frame: OnceCell::new() }
    }

    /// The whole frame for a subscription whose frames begin with `head`.
    pub fn frame(&self, head: &Bytes) -> Bytes {
        let (first, frame) = self.frame.get_or_init(|| (head.clone(), self.build(head)));
        if first == head { frame.clone() } else { self.build(head) }
    }

    fn build(&self, head: &[u8]) -> Bytes {
        let mut frame = Vec::with_capacity(head.len() + self.tail.len());
        frame.extend_from_slice(head);
        frame.extend_from_slice(&self.tail);
        frame.into()
    }
}

/// The newest events in `seq` order.
#[derive(Debug, Default)]
pub(super) struct Recent {
    events: VecDeque<Rc<Live>>,
    bytes: usize,
    /// Everything after this `seq` is here.
    complete_after: u64,
    /// The newest `seq` seen.
    last: u64,
}

impl Recent {
    pub fn starting_after(seq: u64) -> Self {
        Self { complete_after: seq, last: seq, ..Self::default() }
    }

    pub fn last(&self) -> u64 {
        self.last
    }

    pub fn push(&mut self, live: Rc<Live>) {
        self.last = live.seq;
        self.bytes += live.tail.len();
        self.events.push_back(live);
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            let Some(old) = self.events.pop_front() else { break };
            self.bytes -= old.tail.len();
            self.complete_after = old.seq;
        }
    }

    /// What came after `seq`, or nothing if some of it is forgotten.
    pub fn after(&self, seq: u64) -> Option<impl Iterator<Item = &Rc<Live>>> {
        if seq < self.complete_after {
            return None;
        }
        let start = self.events.partition_point(|live| live.seq <= seq);
        Some(self.events.range(start..))
    }

    /// Commits were missed: nothing before `seq` can be told any more.
    pub fn forget_before(&mut self, seq: u64) {
        self.events.clear();
        self.bytes = 0;
        self.complete_after = seq;
        self.last = self.last.max(seq);
    }
}

/// Ephemeral events within their window, for those who join (`events.md`, Kinds).
#[derive(Debug, Default)]
pub(super) struct RecentEphemerals {
    window_ns: u64,
    events: VecDeque<(u64, Rc<Live>)>,
    bytes: usize,
}

impl RecentEphemerals {
    /// `window_ms` 0 keeps nothing.
    pub fn new(window_ms: u64) -> Self {
        Self { window_ns: window_ms * 1_000_000, ..Self::default() }
    }

    pub fn push(&mut self, now_ns: u64, live: Rc<Live>) {
        if self.window_ns == 0 {
            return;
        }
        self.forget(now_ns);
        self.bytes += live.tail.len();
        self.events.push_back((now_ns, live));
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            self.pop();
        }
    }

    /// What is within the window and came no earlier than the stored event `after`, oldest first.
    pub fn since(&mut self, now_ns: u64, after: u64) -> impl Iterator<Item = &Rc<Live>> {
        self.forget(now_ns);
        self.events.iter().map(|(_, live)| live).filter(move |live| live.position >= after)
    }

    fn forget(&mut self, now_ns: u64) {
        let window_ns = self.window_ns;
        let gone = |at: u64| at.saturating_add(window_ns) < now_ns;
        while self.events.front().is_some_and(|(at, _)| gone(*at)) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((_, live)) = self.events.pop_front() {
            self.bytes -= live.tail.len();
        }
    }
}
