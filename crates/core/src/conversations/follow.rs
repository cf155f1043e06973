//! Following a conversation: replay of any length, then live, at the reader's pace (`gateway.md` 6).

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use relay_proto::{
    Code, NodeId, Problem, RelayId,
    conv::{Answer, Caller, ConvId, LogEntry, answer::DONE, request::Ack},
    frame::encode,
};
use relay_store::chat::{LogPage, LogQuery};

use super::{Conversations, line::Line, refusal::not_a_member};
use crate::{
    failure::store_problem,
    fanout::{Outbox, SubscriptionId},
    feed::Feed,
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

/// A log that can be followed live: a conversation's line here, or what comes of it from its home.
pub trait Followed: Send + Sync + fmt::Debug {
    fn feed(&self) -> &Feed;

    /// A reader is gone.
    fn left(&self, id: SubscriptionId) {
        self.feed().leave(id);
    }
}

/// A reader of one conversation. Dropping it ends it.
#[derive(Debug)]
pub struct Following {
    id: SubscriptionId,
    reader: Caller,
    conv: ConvId,
    /// The conversation's home; `None` where it is this relay.
    home: Option<RelayId>,
    log: Arc<dyn Followed>,
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
        self.begin(caller, conv, start, id, line).await
    }

    /// As [`Self::follow`], for the relay that the caller is connected to, which hands on to others.
    ///
    /// # Errors
    /// As [`Self::follow`].
    pub async fn follow_for_relay(
        &self,
        caller: &Caller,
        conv: ConvId,
        start: Start,
        id: SubscriptionId,
        outbox: Arc<Outbox>,
    ) -> Result<Following, Problem> {
        let line = self.lines.of(&conv);
        line.feed.enrol_relay(id, caller.user, outbox);
        self.begin(caller, conv, start, id, line).await
    }

    async fn begin(
        &self,
        caller: &Caller,
        conv: ConvId,
        start: Start,
        id: SubscriptionId,
        line: Arc<Line>,
    ) -> Result<Following, Problem> {
        let mut following = Following::new(id, caller.clone(), conv.clone(), None, line);
        let window = self.window(caller, conv, start).await?;
        (following.next_seq, following.latest_seq) = window;
        Ok(following)
    }

    /// Where a reader begins, and the end of the log.
    ///
    /// # Errors
    /// `forbidden`, `replay_window_exceeded`.
    pub async fn window(
        &self,
        caller: &Caller,
        conv: ConvId,
        start: Start,
    ) -> Result<(u64, u64), Problem> {
        let window = self
            .store
            .log_window(conv, caller.user, caller.device.clone())
            .await
            .map_err(|error| store_problem(&error))?
            .ok_or_else(not_a_member)?;
        let from = match start {
            Start::From(seq) => seq,
            Start::Cursor => window.next_seq,
        };
        let hidden = if self.config().history_from_join { window.joined_seq } else { 0 };
        let earliest = window.earliest_seq.max(hidden + 1);
        if from < earliest {
            return Err(pruned(from, earliest, window.latest_seq));
        }
        Ok((from, window.latest_seq))
    }

    /// Which of these users are no members of a conversation that the caller is in.
    ///
    /// # Errors
    /// `forbidden`.
    pub async fn strangers(
        &self,
        caller: &Caller,
        conv: ConvId,
        mut users: Vec<NodeId>,
    ) -> Result<Vec<NodeId>, Problem> {
        let found = self.store.conversation_members(conv, caller.user).await;
        let (_, members) =
            found.map_err(|error| store_problem(&error))?.ok_or_else(not_a_member)?;
        let members: HashSet<NodeId> = members.into_iter().map(|member| member.user).collect();
        users.retain(|user| !members.contains(user));
        Ok(users)
    }

    /// What comes next in the store for a reader, from `next_seq` on.
    ///
    /// # Errors
    /// `forbidden` where the reader is no member any longer; `replay_window_exceeded` where retention overtook it.
    pub async fn page(&self, request: PageRequest) -> Result<(Page, u64), Problem> {
        let PageRequest { conv, reader, from_seq, limit, .. } = request;
        let user = reader.user;
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
    pub conv: ConvId,
    pub reader: Caller,
    /// The conversation's home; `None` where it is this relay.
    pub home: Option<RelayId>,
    pub from_seq: u64,
    pub limit: u64,
}

impl PageRequest {
    /// For a relay, which asks for a reader of its own.
    pub fn for_reader(reader: Caller, conv: ConvId, from_seq: u64, limit: u64) -> Self {
        Self { conv, reader, home: None, from_seq, limit: limit.clamp(1, LARGEST_PAGE) }
    }
}

impl Following {
    /// A reader that was enrolled in `log` and has not found out yet where it begins.
    pub fn new(
        id: SubscriptionId,
        reader: Caller,
        conv: ConvId,
        home: Option<RelayId>,
        log: Arc<dyn Followed>,
    ) -> Self {
        Self { id, reader, conv, home, log, next_seq: 1, page: FIRST_PAGE, latest_seq: 0 }
    }

    pub fn conv(&self) -> &ConvId {
        &self.conv
    }

    /// The next page to ask for.
    pub fn next_page(&self) -> PageRequest {
        PageRequest {
            conv: self.conv.clone(),
            reader: self.reader.clone(),
            home: self.home.clone(),
            from_seq: self.next_seq,
            limit: self.page,
        }
    }

    /// The next page and the length of the one after it, where the feed still remembers what comes next: neither the store nor
    /// a home far away has to be asked.
    pub fn remembered(&self) -> Option<(Page, u64)> {
        let frames = self.log.feed().remembered(self.id, self.next_seq)?;
        Some((Page { frames, more: false }, self.page))
    }

    /// Notes how long the next page should be.
    pub fn set_page(&mut self, limit: u64) {
        self.page = limit;
    }

    /// Joins the live tail: everything before `next_seq` was read.
    pub fn join(&self) {
        self.log.feed().join(self.id, self.next_seq - 1);
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.log.left(self.id);
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
