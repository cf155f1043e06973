//! One simulated connection.

use std::{collections::VecDeque, time::Duration};

use crate::rng::Rng;

/// What a connection is like.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// The least and most that a message takes on its way; messages of one direction keep their order.
    pub delay: (Duration, Duration),
    /// Bytes per millisecond; messages queue behind each other.
    pub rate: u64,
}

impl Line {
    /// A home's line: 20 ms away, 15 Mbit/s.
    pub const HOME: Self =
        Self { delay: (Duration::from_millis(15), Duration::from_millis(40)), rate: 1_875 };
    /// Within one data centre.
    pub const NEAR: Self =
        Self { delay: (Duration::from_micros(50), Duration::from_millis(1)), rate: 100_000 };
}

/// The two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Spoke,
    Hub,
}

impl End {
    pub const BOTH: [Self; 2] = [Self::Spoke, Self::Hub];

    pub const fn other(self) -> Self {
        match self {
            Self::Spoke => Self::Hub,
            Self::Hub => Self::Spoke,
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Spoke => 0,
            Self::Hub => 1,
        }
    }
}

#[derive(Debug, Default)]
struct Direction {
    /// Messages under way and when they arrive.
    queue: VecDeque<(Duration, Vec<u8>)>,
    /// When the line is free again.
    busy: Duration,
    /// Nothing arrives any more, and nobody is told.
    dead: bool,
    /// Nothing arrives before this; it is kept and comes then.
    held: Duration,
}

/// Both directions of one connection.
#[derive(Debug)]
pub struct Wire {
    line: Line,
    /// What each end sends.
    from: [Direction; 2],
    /// When each end learns that the connection was reset.
    reset: Option<Duration>,
}

impl Wire {
    pub fn new(line: Line) -> Self {
        Self { line, from: Default::default(), reset: None }
    }

    /// Whether the socket of `end` takes another message: no more than one waits for the line.
    pub fn is_writable(&self, now: Duration, end: End) -> bool {
        let direction = &self.from[end.index()];
        direction.busy <= now + Duration::from_millis(10)
    }

    pub fn send(&mut self, now: Duration, end: End, bytes: Vec<u8>, rng: &mut Rng) {
        let (least, most) = self.line.delay;
        let delay = rng.range(least.as_micros() as u64, most.as_micros() as u64 + 1);
        let direction = &mut self.from[end.index()];
        let time = Duration::from_micros(bytes.len() as u64 * 1_000 / self.line.rate.max(1));
        direction.busy = direction.busy.max(now) + time;
        let earliest = direction.queue.back().map_or(Duration::ZERO, |(at, _)| *at);
        let at = (direction.busy + Duration::from_micros(delay)).max(earliest);
        direction.queue.push_back((at, bytes));
    }

    /// The next message for `end`, if it has arrived.
    pub fn receive(&mut self, now: Duration, end: End) -> Option<Vec<u8>> {
        let direction = &mut self.from[end.other().index()];
        if direction.dead || now < direction.held {
            return None;
        }
        let arrived = direction.queue.front().is_some_and(|(at, _)| *at <= now);
        if arrived { direction.queue.pop_front().map(|(_, bytes)| bytes) } else { None }
    }

    /// When something happens next.
    pub fn next(&self) -> Option<Duration> {
        let arrivals =
            self.from.iter().filter(|direction| !direction.dead).filter_map(|direction| {
                direction.queue.front().map(|(at, _)| (*at).max(direction.held))
            });
        arrivals.chain(self.reset).min()
    }

    /// When `end` may write again, where it may not now.
    pub fn writable_at(&self, end: End) -> Duration {
        self.from[end.index()].busy.saturating_sub(Duration::from_millis(10))
    }

    /// Resets the connection: both ends learn of it, what is under way is lost.
    pub fn reset(&mut self, now: Duration) {
        self.reset.get_or_insert(now);
        self.from.iter_mut().for_each(|direction| direction.dead = true);
    }

    pub fn is_reset(&self, now: Duration) -> bool {
        self.reset.is_some_and(|at| at <= now)
    }

    /// What `end` sends is lost from here on, and nobody learns of it.
    pub fn kill(&mut self, end: End) {
        self.from[end.index()].dead = true;
    }

    /// What `end` sends arrives only from `until` on, all of it.
    pub fn hold(&mut self, end: End, until: Duration) {
        let direction = &mut self.from[end.index()];
        direction.held = direction.held.max(until);
    }
}
