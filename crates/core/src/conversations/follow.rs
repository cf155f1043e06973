//! Following a conversation: replay of any length, then live, at the reader's pace (`gateway.md` 6).

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use relay_proto::{
    Code, NodeId, Problem,
    conv::{Answer, Caller, ConvId, LogEntry, answer::DONE, request::Ack},
    frame::encode,
};
use relay_store::chat::{LogPage, LogQuery};

use super::{Conversations, line::Line, refusal::not_a_member};
use crate::{
    failure::store_problem,
    fanout::{Outbox, SubscriptionId},
};

/// Messages of the first page; the next ones follow the size of the messages.
const FIRST_PAGE: u64 = 32;
const LARGEST_PAGE: u64 = 1_024;
/// A page should have about so many bytes.
const PAGE_BYTES: u64 = 1 << 20;

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With this message.
    From(u64),
    /// Behind what the device has acknowledged.
    Cursor,
}

/// A reader of one conversation. Dropping it ends it.
#[derive(Debug)]
pub struct Following {
    id: SubscriptionId,
    user: NodeId,
    conv: ConvId,
    line: Arc<Line>,
    /// The next message to be read from the store.
    pub next_seq: u64,
    /// Messages asked for at once.
    page: u64,
    /// The end of the log when the reader began.
    pub latest_seq: u64,
}

/// Some messages, encoded.
#[derive(Debug)]
pub struct Page {
    /// `seq` and `conv.event` frame.
    pub frames: Vec<(u64, Bytes)>,
    /// There is more in the store already.
    pub more: bool,
}

impl Conversations {
    /// Begins to follow. From here on the reader hears when it may not read any longer.
    ///
    /// # Errors
    /// `forbidden`, `replay_window_exceeded`.
    pub async fn follow(
        &self,
        caller: &Caller,
        conv: ConvId,
        start: Start,
        id: SubscriptionId,
        outbox: Arc<Outbox>,
    ) -> Result<Following, Problem> {
        let line = self.lines.of(&conv);
        line.feed.enrol(id, caller.user, outbox);
        let mut following = Following {
            id,
            user: caller.user,
            conv: conv.clone(),
            line,
            next_seq: 1,
            page: FIRST_PAGE,
            latest_seq: 0,
        };
        let window = self
            .store
            .log_window(conv, caller.user, caller.device.clone())
            .await
            .map_err(|error| store_problem(&error))?
            .ok_or_else(not_a_member)?;
        following.next_seq = match start {
            Start::From(seq) => seq,
            Start::Cursor => window.next_seq,
        };
        following.latest_seq = window.latest_seq;
        let hidden = if self.config().history_from_join { window.joined_seq } else { 0 };
        let (from, earliest) = (following.next_seq, window.earliest_seq.max(hidden + 1));
        if from < earliest {
            return Err(pruned(from, earliest, window.latest_seq));
        }
        Ok(following)
    }

    /// What comes next in the store for a reader, from `next_seq` on.
    ///
    /// # Errors
    /// `forbidden` where the reader is no member any longer; `replay_window_exceeded` where retention overtook it.
    pub async fn page(&self, request: PageRequest) -> Result<(Page, u64), Problem> {
        let PageRequest { conv, user, from_seq, limit } = request;
        let query =
            LogQuery { conv, user, from_seq, limit, from_join: self.config().history_from_join };
        let page = self.store.read_log(query).await.map_err(|error| store_problem(&error))?;
        let (entries, latest_seq) = match page {
            LogPage::NotMember => return Err(Problem::forbidden("membership revoked")),
            LogPage::Pruned { earliest_seq, latest_seq } => {
                return Err(pruned(from_seq, earliest_seq, latest_seq));
            }
            LogPage::Entries { entries, latest_seq } => (entries, latest_seq),
        };
        let frames: Vec<(u64, Bytes)> =
            entries.iter().map(|entry| (entry.seq, event_frame(entry))).collect();
        self.stats.replayed.fetch_add(frames.len() as u64, Ordering::Relaxed);
        let bytes: u64 = frames.iter().map(|(_, frame)| frame.len() as u64).sum();
        let size = bytes.checked_div(frames.len() as u64);
        let next_limit =
            size.map_or(limit, |size| (PAGE_BYTES / size.max(1)).clamp(4, LARGEST_PAGE));
        let more = frames.last().is_some_and(|(seq, _)| *seq < latest_seq);
        Ok((Page { frames, more }, next_limit))
    }

    pub(super) async fn ack(&self, caller: &Caller, ack: Ack) -> Result<Answer, Problem> {
        let (user, device) = (caller.user, caller.device.clone());
        let moved = self.store.acknowledge(ack.conv_id, user, device, ack.seq, self.now_ms()).await;
        moved.map_err(|error| store_problem(&error))?.ok_or_else(not_a_member)?;
        Ok(DONE)
    }

    /// Where a device has got to in everything its user is in.
    ///
    /// # Errors
    /// The store's.
    pub async fn cursors(&self, caller: &Caller) -> Result<Vec<(ConvId, u64)>, Problem> {
        let cursors = self.store.cursors(caller.user, caller.device.clone()).await;
        cursors.map_err(|error| store_problem(&error))
    }
}

/// A page that a reader wants.
#[derive(Debug, Clone)]
pub struct PageRequest {
    conv: ConvId,
    user: NodeId,
    from_seq: u64,
    limit: u64,
}

impl Following {
    pub fn conv(&self) -> &ConvId {
        &self.conv
    }

    /// The next page to ask for.
    pub fn next_page(&self) -> PageRequest {
        PageRequest {
            conv: self.conv.clone(),
            user: self.user,
            from_seq: self.next_seq,
            limit: self.page,
        }
    }

    /// Notes how long the next page should be.
    pub fn set_page(&mut self, limit: u64) {
        self.page = limit;
    }

    /// Joins the live tail: everything before `next_seq` was read.
    pub fn join(&self) {
        self.line.feed.join(self.id, self.next_seq - 1);
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.line.feed.leave(self.id);
    }
}

/// The frame that every reader of a message gets.
pub fn event_frame(entry: &LogEntry) -> Bytes {
    encode("conv.event", None, entry).into()
}

/// The text is read by older clients.
fn pruned(requested: u64, earliest: u64, latest: u64) -> Problem {
    let message = format!("requested_from_seq={requested} earliest_seq={earliest}");
    Problem::new(Code::ReplayWindowExceeded, message)
        .with("requested_from_seq", requested)
        .with("earliest_seq", earliest)
        .with("latest_seq", latest)
}
