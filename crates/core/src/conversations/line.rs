//! The line before one conversation: what changes it waits here, and everybody hears of it in this order.
//!
//! Whoever finds the line idle starts the one task that works it off: messages that wait together are one
//! transaction, everything else is one of its own. A line lives as long as somebody waits in it or follows it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::Ordering},
};

use relay_proto::{
    Problem,
    conv::{ConvId, LogEntry},
    frame::encode,
};
use relay_store::{
    Store, StoreError,
    chat::{CommitBundle, CommitOutcome, GovernOutcome, Governing, NewMessage, PostBatch, Posted},
};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::{ConversationStats, Map, follow::Followed};
use crate::{failure::store_problem, feed::Feed, inbox::Inboxes, news::Place};

/// Jobs that may wait in one line; beyond it they are refused as `rate_limited`.
const MAX_WAITING: usize = 8_192;
/// Messages of one transaction.
const MAX_BATCH: usize = 256;
/// When to come back to a line that is full, milliseconds.
const FULL_RETRY_MS: u64 = 1_000;

/// Every line in use.
#[derive(Debug)]
pub(super) struct Lines {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    inboxes: Arc<Inboxes>,
    stats: Arc<ConversationStats>,
    lines: Map<ConvId, Weak<Line>>,
    /// Those that work lines off, and what else runs behind answers.
    tasks: TaskTracker,
}

/// One conversation in use.
#[derive(Debug)]
pub(super) struct Line {
    conv: ConvId,
    shared: Weak<Shared>,
    queue: Mutex<Queue>,
    pub feed: Feed,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// A task works the line off.
    running: bool,
}

/// A message's fate and the conversation's home.
pub(super) type PostAnswer = Result<(Posted, String), Problem>;

#[derive(Debug)]
pub(super) enum Job {
    Post(NewMessage, oneshot::Sender<PostAnswer>),
    Commit(Box<CommitBundle>, oneshot::Sender<Result<CommitOutcome, StoreError>>),
    Govern(Governing, oneshot::Sender<Result<GovernOutcome, StoreError>>),
}

impl Job {
    pub fn post(message: NewMessage) -> (Self, oneshot::Receiver<PostAnswer>) {
        let (reply, answer) = oneshot::channel();
        (Self::Post(message, reply), answer)
    }

    pub fn commit(
        bundle: CommitBundle,
    ) -> (Self, oneshot::Receiver<Result<CommitOutcome, StoreError>>) {
        let (reply, answer) = oneshot::channel();
        (Self::Commit(Box::new(bundle), reply), answer)
    }

    pub fn govern(
        change: Governing,
    ) -> (Self, oneshot::Receiver<Result<GovernOutcome, StoreError>>) {
        let (reply, answer) = oneshot::channel();
        (Self::Govern(change, reply), answer)
    }
}

impl Lines {
    pub fn new(store: Store, inboxes: Arc<Inboxes>, stats: Arc<ConversationStats>) -> Self {
        let lines = Map::default();
        let tasks = TaskTracker::new();
        Self { shared: Arc::new(Shared { store, inboxes, stats, lines, tasks }) }
    }

    /// Runs behind an answer; [`Self::close`] waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.tasks.spawn(task);
    }

    /// Waits until every line is worked off; nothing may enter any more.
    pub async fn close(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// The line of a conversation, whether or not there is such a conversation.
    pub fn of(&self, conv: &ConvId) -> Arc<Line> {
        let mut slot = self.shared.lines.entry(conv.clone()).or_default();
        if let Some(line) = slot.upgrade() {
            return line;
        }
        let line = Arc::new(Line {
            conv: conv.clone(),
            shared: Arc::downgrade(&self.shared),
            queue: Mutex::default(),
            feed: Feed::default(),
        });
        *slot = Arc::downgrade(&line);
        line
    }
}

impl Followed for Line {
    fn feed(&self) -> &Feed {
        &self.feed
    }
}

impl Line {
    /// Takes a place in the line.
    ///
    /// # Errors
    /// `rate_limited` where too many wait.
    pub fn enter<T>(
        self: Arc<Self>,
        lines: &Lines,
        (job, answer): (Job, oneshot::Receiver<T>),
    ) -> Result<oneshot::Receiver<T>, Problem> {
        let mut queue = self.lock();
        if queue.jobs.len() >= MAX_WAITING {
            let message = "too many messages wait for this conversation";
            return Err(Problem::rate_limited(message, FULL_RETRY_MS)
                .with("retry_after_s", FULL_RETRY_MS.div_ceil(1_000)));
        }
        queue.jobs.push_back(job);
        if !std::mem::replace(&mut queue.running, true) {
            let shared = lines.shared.clone();
            let tasks = shared.tasks.clone();
            tasks.spawn(self.clone().work_off(shared));
        }
        drop(queue);
        Ok(answer)
    }

    async fn work_off(self: Arc<Self>, shared: Arc<Shared>) {
        while let Some(work) = self.next() {
            match work {
                Work::Posts(posts) => self.post(&shared, posts).await,
                Work::Commit(bundle, reply) => {
                    let outcome = self.commit(&shared, *bundle).await;
                    let _ = reply.send(outcome);
                }
                Work::Govern(change, reply) => {
                    let outcome = shared.store.govern(change).await;
                    if let Ok(GovernOutcome::Done { removed }) = &outcome {
                        self.feed.expel(removed);
                    }
                    let _ = reply.send(outcome);
                }
            }
        }
    }

    fn next(&self) -> Option<Work> {
        let mut queue = self.lock();
        let mut posts = Vec::new();
        while posts.len() < MAX_BATCH
            && let Some(job) = queue.jobs.pop_front()
        {
            match job {
                Job::Post(message, reply) => posts.push((message, reply)),
                other if !posts.is_empty() => {
                    queue.jobs.push_front(other);
                    break;
                }
                Job::Commit(bundle, reply) => return Some(Work::Commit(bundle, reply)),
                Job::Govern(change, reply) => return Some(Work::Govern(change, reply)),
            }
        }
        if posts.is_empty() {
            queue.running = false;
            // A burst must not cost an idle conversation memory.
            queue.jobs = VecDeque::new();
            return None;
        }
        Some(Work::Posts(posts))
    }

    async fn post(&self, shared: &Shared, posts: Vec<(NewMessage, oneshot::Sender<PostAnswer>)>) {
        let (messages, replies): (Vec<NewMessage>, Vec<_>) = posts.into_iter().unzip();
        let messages: Arc<[NewMessage]> = messages.into();
        let batch = PostBatch { conv: self.conv.clone(), messages: messages.clone() };
        match shared.store.post_messages(batch).await {
            Ok((outcomes, conversation)) => {
                let home = conversation.map(|conversation| conversation.home).unwrap_or_default();
                for (message, posted) in messages.iter().zip(&outcomes) {
                    self.tell(shared, message, posted, &home);
                }
                for (posted, reply) in outcomes.into_iter().zip(replies) {
                    let _ = reply.send(Ok((posted, home.clone())));
                }
            }
            Err(error) => {
                let problem = store_problem(&error);
                for reply in replies {
                    let _ = reply.send(Err(problem.clone()));
                }
            }
        }
    }

    async fn commit(
        &self,
        shared: &Shared,
        bundle: CommitBundle,
    ) -> Result<CommitOutcome, StoreError> {
        let message = bundle.message.clone();
        let outcome = shared.store.commit_bundle(bundle).await?;
        if let CommitOutcome::Stored { seq, epoch, removed, delivered, home, .. } = &outcome {
            // Those who are removed may still see the commit that removed them.
            let kind = Some(relay_proto::conv::MessageKind::Commit);
            let posted = Posted::Stored { seq: *seq, kind, epoch: Some(epoch - 1) };
            self.tell(shared, &message, &posted, home);
            self.feed.expel(removed);
            for post in delivered {
                shared.inboxes.publish(post);
            }
        }
        Ok(outcome)
    }

    /// Hands a stored message to those who follow.
    fn tell(&self, shared: &Shared, message: &NewMessage, posted: &Posted, home: &str) {
        let Posted::Stored { seq, kind, epoch } = posted else { return };
        shared.inboxes.news().note(|| Place::Conversation(self.conv.clone()));
        if !self.feed.has_followers() {
            return self.feed.skip_to(*seq);
        }
        let entry = LogEntry {
            conv_id: self.conv.clone(),
            seq: *seq,
            msg_id: message.msg_id.clone(),
            env: message.env.to_string(),
            sender_device_id: message.device.clone(),
            sender_user_id: message.sender,
            conv_home: home.to_owned(),
            origin_gateway: message.origin.to_string(),
            ts_ms: message.at_ms,
            kind: *kind,
            epoch: epoch.filter(|_| kind.is_some()),
        };
        let frame = encode("conv.event", None, &entry).into();
        let (delivered, lagged) = self.feed.publish(*seq, &frame);
        shared.stats.delivered.fetch_add(delivered, Ordering::Relaxed);
        shared.stats.lagged.fetch_add(lagged, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        // Whole between any two of its statements.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.lines.remove_if(&self.conv, |_, line| line.strong_count() == 0);
        }
    }
}

/// What is done next.
enum Work {
    Posts(Vec<(NewMessage, oneshot::Sender<PostAnswer>)>),
    Commit(Box<CommitBundle>, oneshot::Sender<Result<CommitOutcome, StoreError>>),
    Govern(Governing, oneshot::Sender<Result<GovernOutcome, StoreError>>),
}
