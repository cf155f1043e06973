//! Many runs as one, in the order of time.

use std::collections::{BinaryHeap, VecDeque};

use relay_proto::Position;
use rusqlite::{Connection, OptionalExtension};

use super::runs::{Chosen, Run, Window, window};
use crate::{
    error::Result,
    event::{EventQuery, Order},
};

/// The runs of all parts as one, each event once.
pub(super) struct Merge<'a> {
    conn: &'a Connection,
    lanes: Vec<Lane>,
    heap: BinaryHeap<Entry>,
    chunk: usize,
    last: Option<(u64, u64)>,
    /// The lane of the last entry: its next is not in the heap yet.
    taken: Option<usize>,
    descending: bool,
}

struct Lane {
    /// Where to read on when nothing is ahead; `None` where all was read.
    more: Option<Run>,
    window: Window,
    ahead: VecDeque<(u64, u64)>,
    /// The last place taken.
    last: Option<(u64, u64)>,
}

/// Greatest first: the time and seq, negated for ascending walks.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry(i128, usize, (u64, u64));

impl<'a> Merge<'a> {
    pub fn open(
        conn: &'a Connection,
        query: &EventQuery,
        parts: &[Chosen],
        wanted: usize,
    ) -> Result<Self> {
        let descending = query.order == Order::TimeDescending;
        let from = match query.from {
            Some(Position::AfterTime(ns, seq) | Position::BeforeTime(ns, seq)) => Some((ns, seq)),
            _ => None,
        };
        let total: usize = parts.iter().map(|part| part.runs.len()).sum();
        let stored = |part: &Chosen| part.runs.iter().filter(|run| run.is_stored()).count();
        let stored: usize = parts.iter().map(stored).sum();
        let chunk = (wanted * 2 / stored.max(1)).clamp(wanted.min(16), wanted);
        let mut merge = Self {
            conn,
            lanes: Vec::with_capacity(total),
            heap: BinaryHeap::with_capacity(total),
            chunk,
            last: None,
            taken: None,
            descending,
        };
        for part in parts {
            let window = window(&part.filter, query.order);
            for run in &part.runs {
                let ahead = run.read(conn, from, window, chunk)?;
                let more = (ahead.len() == chunk).then(|| run.clone());
                merge.lanes.push(Lane { more, window, ahead, last: from });
            }
            if !part.seqs.is_empty() {
                let ahead = merge.found_by_id(&part.seqs, from)?;
                merge.lanes.push(Lane { more: None, window, ahead, last: from });
            }
        }
        for lane in 0..merge.lanes.len() {
            merge.push(lane)?;
        }
        Ok(merge)
    }

    fn found_by_id(&self, seqs: &[u64], from: Option<(u64, u64)>) -> Result<VecDeque<(u64, u64)>> {
        let mut found = Vec::with_capacity(seqs.len());
        let mut time =
            self.conn.prepare_cached("SELECT created_at_ns FROM events WHERE seq = ?1")?;
        for &seq in seqs {
            let at: Option<i64> = time.query_row([seq as i64], |row| row.get(0)).optional()?;
            found.extend(at.map(|at| (at as u64, seq)));
        }
        found.sort_unstable();
        if self.descending {
            found.reverse();
            found.retain(|at| from.is_none_or(|from| *at < from));
        } else {
            found.retain(|at| from.is_none_or(|from| *at > from));
        }
        found.dedup();
        Ok(found.into())
    }

    /// Puts the next entry of a lane into the heap, reading on where nothing is ahead.
    fn push(&mut self, index: usize) -> Result<()> {
        let lane = &mut self.lanes[index];
        if lane.ahead.is_empty()
            && let Some(run) = &lane.more
        {
            lane.ahead = run.read(self.conn, lane.last, lane.window, self.chunk)?;
            if lane.ahead.len() < self.chunk {
                lane.more = None;
            }
        }
        if let Some(at) = lane.ahead.pop_front() {
            lane.last = Some(at);
            let rank = i128::from(at.0) << 64 | i128::from(at.1);
            self.heap.push(Entry(if self.descending { rank } else { -rank }, index, at));
        }
        Ok(())
    }

    /// Up to `count` further events, in order.
    pub fn take(&mut self, count: usize) -> Result<Vec<u64>> {
        let mut seqs = Vec::with_capacity(count);
        while seqs.len() < count
            && let Some((_, seq)) = self.next()?
        {
            seqs.push(seq);
        }
        Ok(seqs)
    }

    fn next(&mut self) -> Result<Option<(u64, u64)>> {
        loop {
            // Only when more is wanted: the last of a page need not be followed by anything.
            if let Some(lane) = self.taken.take() {
                self.push(lane)?;
            }
            let Some(Entry(_, lane, at)) = self.heap.pop() else { return Ok(None) };
            self.taken = Some(lane);
            if self.last.replace(at) != Some(at) {
                return Ok(Some(at));
            }
        }
    }
}
