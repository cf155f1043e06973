//! Streams that come in: kept until the reader takes them, within what this side offered.

use std::collections::{HashMap, VecDeque};

use super::{ReadOutcome, SessionError, lanes::MAX_STREAMS};
use crate::link::{
    codec::{Credit, StreamEnd, StreamPiece},
    handshake::Offer,
};

/// Credit is given back when this much was taken, and for less after [`super::CREDIT_DELAY`].
const CREDIT_BATCH: u64 = 64 * 1024;

#[derive(Debug, Default)]
struct Incoming {
    queue: VecDeque<Vec<u8>>,
    end: Option<StreamEnd>,
    /// In the queue.
    queued: u64,
    /// Taken by the reader and not yet given back.
    owed: u64,
    /// Whether it stands in `due`.
    due: bool,
    /// Nobody reads on.
    stopped: bool,
}

/// All streams that come in on one link.
#[derive(Debug)]
pub(super) struct Inflow {
    ours: Offer,
    streams: HashMap<u64, Incoming>,
    /// In all queues.
    queued: u64,
    /// The newest stream that the other side opened; ids rise and never return.
    newest: u64,
    /// Odd or even: which ids are the other side's.
    parity: u64,
    /// Streams whose credit is to be given back now.
    due: VecDeque<u64>,
    /// What ended streams still owed.
    last: VecDeque<Credit>,
    /// Streams that owe less than a batch.
    small: Vec<u64>,
    /// Streams with something new for their readers.
    pub readable: Vec<u64>,
}

impl Inflow {
    /// `parity` is 1 where the other side dialled, else 0.
    pub fn new(ours: Offer, parity: u64) -> Self {
        Self {
            ours,
            streams: HashMap::new(),
            queued: 0,
            newest: 0,
            parity,
            due: VecDeque::new(),
            last: VecDeque::new(),
            small: Vec::new(),
            readable: Vec::new(),
        }
    }

    /// Whether a stream has not come to its end.
    pub fn has_streams(&self) -> bool {
        self.streams.values().any(|stream| stream.end.is_none())
    }

    pub fn has_credit_due(&self) -> bool {
        !self.due.is_empty() || !self.last.is_empty()
    }

    pub fn has_small_credit(&self) -> bool {
        !self.small.is_empty()
    }

    /// A message of the other side opens the stream `id`.
    pub fn open(&mut self, id: u64) -> Result<(), SessionError> {
        if id % 2 != self.parity || id <= self.newest || self.streams.len() >= MAX_STREAMS {
            return Err(SessionError::Stream(id));
        }
        self.newest = id;
        self.streams.insert(id, Incoming::default());
        Ok(())
    }

    /// Takes what came. Pieces of a stream that was stopped here are thrown away: they were under way.
    pub fn receive(&mut self, piece: StreamPiece) -> Result<(), SessionError> {
        let id = piece.stream_id;
        let Some(stream) = self.streams.get_mut(&id) else {
            let was_open = id % 2 == self.parity && id <= self.newest;
            return if was_open { Ok(()) } else { Err(SessionError::Stream(id)) };
        };
        if stream.stopped {
            if piece.end.is_some() {
                self.streams.remove(&id);
            }
            return Ok(());
        }
        let length = piece.bytes.len() as u64;
        if self.queued + length > self.ours.budget || stream.end.is_some() {
            return Err(SessionError::Credit(id));
        }
        if length > 0 {
            stream.queue.push_back(piece.bytes);
            stream.queued += length;
            self.queued += length;
        }
        stream.end = piece.end;
        self.readable.push(id);
        Ok(())
    }

    /// Gives the reader the next bytes; they count as taken.
    pub fn read(&mut self, id: u64) -> ReadOutcome {
        let Some(stream) = self.streams.get_mut(&id) else { return ReadOutcome::End };
        if let Some(bytes) = stream.queue.pop_front() {
            let length = bytes.len() as u64;
            stream.queued -= length;
            self.queued -= length;
            stream.owed += length;
            if !stream.due {
                if stream.owed >= CREDIT_BATCH {
                    stream.due = true;
                    self.due.push_back(id);
                } else if stream.owed == length {
                    self.small.push(id);
                }
            }
            return ReadOutcome::Bytes(bytes);
        }
        match stream.end.take() {
            None => ReadOutcome::Nothing,
            Some(end) => {
                let owed = self.streams.remove(&id).map_or(0, |stream| stream.owed);
                if owed > 0 {
                    self.last.push_back(Credit { stream_id: id, bytes: owed, stop: false });
                }
                match end {
                    StreamEnd::Finished => ReadOutcome::End,
                    StreamEnd::Failed(why) => ReadOutcome::Failed(why),
                }
            }
        }
    }

    /// Nobody reads on: what is queued is thrown away, and the sender is told.
    pub fn stop(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        self.queued -= stream.queued;
        stream.stopped = true;
        stream.queued = 0;
        stream.queue = VecDeque::new();
        if !stream.due {
            stream.due = true;
            self.due.push_back(id);
        }
    }

    /// Makes small credits due too.
    pub fn flush_small(&mut self) {
        for id in std::mem::take(&mut self.small) {
            if let Some(stream) = self.streams.get_mut(&id).filter(|s| !s.due && s.owed > 0) {
                stream.due = true;
                self.due.push_back(id);
            }
        }
    }

    /// The next credit to send.
    pub fn pop_credit(&mut self) -> Option<Credit> {
        if let Some(credit) = self.last.pop_front() {
            return Some(credit);
        }
        while let Some(id) = self.due.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.due = false;
            let credit = Credit {
                stream_id: id,
                bytes: std::mem::take(&mut stream.owed),
                stop: stream.stopped,
            };
            if stream.stopped {
                // The sender forgets the stream; what is still under way is below `newest`.
                self.streams.remove(&id);
            }
            return Some(credit);
        }
        None
    }
}
