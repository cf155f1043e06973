//! What waits to be sent: four lanes of encoded messages, and the streams that share them.
//!
//! Control goes strictly first. Calls, streams and bulk share what is left 8 : 4 : 1 by deficit
//! round robin, counted in bytes; within a lane the messages and each stream take turns, one
//! piece at a time. So the longest that a call can wait behind bulk is one piece.

mod fifo;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use fifo::Fifo;

use super::{Lane, PIECE, STREAM_QUEUE, SendError, WriteOutcome};
use crate::link::{
    codec::{self, Encoding, StreamEnd},
    handshake::Offer,
};

/// The streams that one side may have open at a time; above, opening is refused.
pub(super) const MAX_STREAMS: usize = 4_096;
/// The most that one stream may have under way, in bytes.
pub(super) const MAX_WINDOW: u64 = 4 << 20;
/// The bytes that a lane may send in its turn, times its weight.
const QUANTUM: i64 = 2 * 1024;
/// One stream that this side sends.
#[derive(Debug)]
struct Outgoing {
    lane: Lane,
    queue: VecDeque<u8>,
    end: Option<StreamEnd>,
    /// What may be under way.
    window: u64,
    /// What is under way: sent and not yet taken by the reader.
    unread: u64,
    /// Given back since the window last grew.
    taken: u64,
    /// Whether it stood still only for want of window since the last credit.
    starved: bool,
    /// Whether it stands in its lane's ring.
    ringed: bool,
    /// Its end was sent. It stays for what is under way: that still counts against the budget.
    ended: bool,
    /// Whether the message that opens it is still in the call lane: nothing may overtake that.
    unopened: bool,
}

/// Stands in a ring for the lane's messages; stream ids begin at 1.
const MESSAGES: u64 = 0;

#[derive(Debug, Default)]
struct Queue {
    messages: Fifo,
    /// Who has something to send, in turn: stream ids, and [`MESSAGES`].
    ring: VecDeque<u64>,
    deficit: i64,
}

/// All lanes of one link.
#[derive(Debug)]
pub(super) struct Lanes {
    encoding: Encoding,
    theirs: Offer,
    control: Fifo,
    /// Calls, streams, bulk.
    queues: [Queue; 3],
    turn: usize,
    streams: HashMap<u64, Outgoing>,
    /// Sent on all streams and not yet taken.
    unread: u64,
    /// Streams held back by the budget of the link, to be looked at when some is given back.
    waiting: VecDeque<u64>,
    /// Calls by their place in their lane, and the streams that they open.
    opening: VecDeque<(u64, u64)>,
    next_stream: u64,
    /// Streams that can take more, or were stopped: for the writers to be woken.
    pub writable: Vec<u64>,
}

const WEIGHTS: [i64; 3] = [8, 4, 1];
/// The place of the call lane among them.
const CALLS: usize = 0;

const fn index(lane: Lane) -> usize {
    match lane {
        Lane::Control | Lane::Call => CALLS,
        Lane::Stream => 1,
        Lane::Bulk => 2,
    }
}

impl Lanes {
    /// `first_stream` is odd for the side that dialled, even for the other.
    pub fn new(encoding: Encoding, theirs: Offer, first_stream: u64) -> Self {
        Self {
            encoding,
            theirs,
            control: Fifo::default(),
            queues: Default::default(),
            turn: 0,
            streams: HashMap::new(),
            unread: 0,
            waiting: VecDeque::new(),
            opening: VecDeque::new(),
            next_stream: first_stream,
            writable: Vec::new(),
        }
    }

    /// Queues one message that `encode` writes. `urgent` messages are never refused for want of
    /// room: their number is bounded elsewhere.
    pub fn push(
        &mut self,
        lane: Lane,
        urgent: bool,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        let most = self.theirs.max_message_bytes as usize;
        if lane == Lane::Control {
            return push(&mut self.control, urgent, most, encode);
        }
        let queue = &mut self.queues[index(lane)];
        let was_empty = queue.messages.lengths.is_empty();
        push(&mut queue.messages, urgent, most, encode)?;
        if was_empty {
            queue.ring.push_back(MESSAGES);
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.control.lengths.is_empty() && self.queues.iter().all(|queue| queue.ring.is_empty())
    }

    /// Whether a stream has not been sent to its end.
    pub fn has_streams(&self) -> bool {
        self.streams.values().any(|stream| !stream.ended)
    }

    /// Whether bytes are under way that the other side has not taken.
    pub const fn awaits_credit(&self) -> bool {
        self.unread > 0
    }

    /// Bytes that wait.
    pub fn queued(&self) -> usize {
        let streams: usize = self.streams.values().map(|stream| stream.queue.len()).sum();
        let messages: usize = self.queues.iter().map(|queue| queue.messages.queued()).sum();
        self.control.queued() + messages + streams
    }

    /// Appends the next frame to `out`; false where nothing can be sent now.
    pub fn pop(&mut self, out: &mut Vec<u8>) -> bool {
        if !self.control.lengths.is_empty() {
            self.control.pop(out);
            return true;
        }
        if self.queues.iter().all(|queue| queue.ring.is_empty()) {
            return false;
        }
        // Ends: a lane with something to send gains in each round until it is its turn.
        loop {
            let queue = &mut self.queues[self.turn];
            if queue.ring.is_empty() {
                queue.deficit = 0;
            } else if queue.deficit > 0 {
                let before = out.len();
                self.pop_of(self.turn, out);
                let sent = i64::try_from(out.len() - before).unwrap_or(i64::MAX);
                self.queues[self.turn].deficit -= sent;
                if sent > 0 {
                    return true;
                }
                continue;
            }
            self.turn = (self.turn + 1) % 3;
            self.queues[self.turn].deficit += QUANTUM * WEIGHTS[self.turn];
            if self.queues.iter().all(|queue| queue.ring.is_empty()) {
                return false;
            }
        }
    }

    /// One frame of the first in the ring of a lane; nothing where that one has nothing left.
    fn pop_of(&mut self, lane: usize, out: &mut Vec<u8>) {
        let Some(id) = self.queues[lane].ring.pop_front() else { return };
        if id != MESSAGES {
            self.pop_piece(id, out);
            return;
        }
        let queue = &mut self.queues[lane];
        queue.messages.pop(out);
        if !queue.messages.lengths.is_empty() {
            queue.ring.push_back(MESSAGES);
        }
        if lane == CALLS {
            self.release_opened();
        }
    }

    /// Lets go the streams whose opening message has left.
    fn release_opened(&mut self) {
        let left = self.queues[CALLS].messages.popped;
        while let Some((_, stream)) = self.opening.front().copied().filter(|(at, _)| *at <= left) {
            self.opening.pop_front();
            if let Some(opened) = self.streams.get_mut(&stream) {
                opened.unopened = false;
                self.ring(stream);
            }
        }
    }

    fn pop_piece(&mut self, id: u64, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.ringed = false;
        let room = stream.room(self.theirs.budget, self.unread);
        let length = stream.queue.len().min(PIECE).min(usize::try_from(room).unwrap_or(PIECE));
        let ends = length == stream.queue.len() && stream.end.is_some();
        if length == 0 && !ends {
            self.hold(id);
            return;
        }
        let end = stream.end.take_if(|_| ends);
        if stream.queue.as_slices().0.len() < length {
            stream.queue.make_contiguous();
        }
        let bytes = stream.queue.as_slices().0.get(..length).unwrap_or_default();
        codec::encode_piece(id, bytes, end.as_ref(), self.encoding, out);
        stream.queue.drain(..length);
        stream.unread += length as u64;
        self.unread += length as u64;
        if ends {
            stream.ended = true;
            if stream.unread == 0 {
                self.streams.remove(&id);
            }
            return;
        }
        if stream.queue.len() < STREAM_QUEUE / 2 {
            self.writable.push(id);
        }
        self.ring(id);
    }

    /// Puts a stream in its lane's ring if it has something to send and may.
    fn ring(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.ringed || stream.unopened || (stream.queue.is_empty() && stream.end.is_none()) {
            return;
        }
        if stream.queue.is_empty() || stream.room(self.theirs.budget, self.unread) > 0 {
            stream.ringed = true;
            self.queues[index(stream.lane)].ring.push_back(id);
        } else {
            self.hold(id);
        }
    }

    /// Notes why a stream cannot send: its own window, or the budget of the link.
    fn hold(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.queue.is_empty() {
            return;
        }
        if stream.unread >= stream.window {
            stream.starved = true;
        } else if !self.waiting.contains(&id) {
            self.waiting.push_back(id);
        }
    }

    fn release_waiting(&mut self) {
        for _ in 0..self.waiting.len().min(8) {
            if let Some(id) = self.waiting.pop_front() {
                self.ring(id);
            }
        }
    }

    /// Opens a stream that this side sends.
    pub fn open(&mut self, lane: Lane) -> Result<u64, SendError> {
        if self.streams.len() >= MAX_STREAMS {
            return Err(SendError::Full);
        }
        let id = self.next_stream;
        self.next_stream += 2;
        let stream = Outgoing {
            lane,
            queue: VecDeque::new(),
            end: None,
            window: u64::from(self.theirs.credit),
            unread: 0,
            taken: 0,
            starved: false,
            ringed: false,
            ended: false,
            unopened: false,
        };
        self.streams.insert(id, stream);
        Ok(id)
    }

    /// Says that the newest message of the call lane is the one that opens `stream`.
    pub fn opened_by_newest(&mut self, stream: u64) {
        if let Some(opened) = self.streams.get_mut(&stream) {
            opened.unopened = true;
            self.opening.push_back((self.newest_call(), stream));
        }
    }

    /// The place of the newest message in the call lane, since the beginning.
    pub fn newest_call(&self) -> u64 {
        self.queues[CALLS].messages.pushed()
    }

    /// Whether the call at `place` has been given to the socket.
    pub const fn has_left(&self, place: u64) -> bool {
        place <= self.queues[CALLS].messages.popped
    }

    /// Whether the stream still takes bytes.
    pub fn is_open(&self, id: u64) -> bool {
        self.streams.get(&id).is_some_and(Outgoing::is_open)
    }

    /// Queues as much of `bytes` as the stream takes now.
    pub fn write(&mut self, id: u64, bytes: &[u8]) -> WriteOutcome {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open()) else {
            return WriteOutcome::Stopped;
        };
        let took = bytes.len().min(STREAM_QUEUE.saturating_sub(stream.queue.len()));
        stream.queue.extend(bytes.iter().take(took));
        self.ring(id);
        WriteOutcome::Took(took)
    }

    /// Ends a stream; what was queued is sent before, unless it failed.
    pub fn end(&mut self, id: u64, end: StreamEnd) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open()) else {
            return;
        };
        if matches!(end, StreamEnd::Failed(_)) {
            stream.queue.clear();
        }
        stream.end = Some(end);
        self.ring(id);
    }

    /// The other side took `bytes` of a stream, or wants no more of it.
    pub fn credit(&mut self, id: u64, bytes: u64, stop: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let bytes = bytes.min(stream.unread);
        stream.unread -= bytes;
        self.unread -= bytes;
        stream.taken += bytes;
        if stop {
            self.unread -= stream.unread;
            self.streams.remove(&id);
            self.writable.push(id);
            self.release_waiting();
            return;
        }
        if stream.ended {
            if stream.unread == 0 {
                self.streams.remove(&id);
            }
            return self.release_waiting();
        }
        // A window that was used up within one turn of its own size is too small for the way.
        if stream.starved && stream.taken >= stream.window {
            stream.window = (stream.window * 2).min(MAX_WINDOW);
            stream.taken = 0;
        }
        stream.starved = false;
        self.ring(id);
        self.release_waiting();
    }
}

impl Outgoing {
    const fn is_open(&self) -> bool {
        self.end.is_none() && !self.ended
    }

    /// What may be sent: within its window, and no more than what the link has left. So one stream
    /// that nobody reads holds at most half of the budget, two a third each, and so on.
    const fn room(&self, budget: u64, all_unread: u64) -> u64 {
        let own = self.window.saturating_sub(self.unread);
        let fair = budget.saturating_sub(all_unread).saturating_sub(self.unread);
        if own < fair { own } else { fair }
    }
}

fn push(
    fifo: &mut Fifo,
    urgent: bool,
    most: usize,
    encode: impl FnOnce(&mut Vec<u8>),
) -> Result<(), SendError> {
    if !urgent && fifo.is_full() {
        return Err(SendError::Full);
    }
    let length = fifo.push(encode);
    if length > most {
        fifo.undo(length);
        return Err(SendError::TooLarge);
    }
    Ok(())
}
