//! The messages of one lane, encoded, in one buffer.

use std::collections::VecDeque;

/// The bytes of messages that may wait in one lane; above, sending is refused with [`Full`](super::SendError::Full).
pub(super) const LANE_BYTES: usize = 8 << 20;
/// The messages that may wait in one lane, likewise.
pub(super) const LANE_MESSAGES: usize = 65_536;
/// Memory above this is given back when a queue runs empty.
const KEEP: usize = 8 * 1024;

/// Encoded messages in one buffer, first in, first out.
#[derive(Debug, Default)]
pub(super) struct Fifo {
    bytes: Vec<u8>,
    /// Where the first message begins.
    start: usize,
    pub(super) lengths: VecDeque<u32>,
    /// How many were ever taken out.
    pub(super) popped: u64,
}

impl Fifo {
    pub(super) fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> usize {
        let before = self.bytes.len();
        encode(&mut self.bytes);
        let length = self.bytes.len() - before;
        self.lengths.push_back(u32::try_from(length).unwrap_or(u32::MAX));
        length
    }

    /// Takes back what [`Self::push`] put in last.
    pub(super) fn undo(&mut self, length: usize) {
        self.bytes.truncate(self.bytes.len() - length);
        self.lengths.pop_back();
    }

    pub(super) fn pop(&mut self, out: &mut Vec<u8>) -> usize {
        let Some(length) = self.lengths.pop_front() else { return 0 };
        self.popped += 1;
        let end = self.start + length as usize;
        out.extend_from_slice(self.bytes.get(self.start..end).unwrap_or_default());
        self.start = end;
        if self.lengths.is_empty() {
            self.start = 0;
            self.bytes.clear();
            if self.bytes.capacity() > KEEP {
                self.bytes = Vec::new();
                self.lengths = VecDeque::new();
            }
        } else if self.start > 4 * KEEP && self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        length as usize
    }

    /// How many were ever put in.
    pub(super) fn pushed(&self) -> u64 {
        self.popped + self.lengths.len() as u64
    }

    pub(super) fn queued(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn is_full(&self) -> bool {
        self.queued() > LANE_BYTES || self.lengths.len() >= LANE_MESSAGES
    }
}
