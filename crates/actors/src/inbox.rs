//! The bounded mailbox: [`Mailbox`] is the router's end, [`Inbox`] the actor's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use relay_proto::CallError;
use tokio::{
    sync::{Mutex, OwnedMutexGuard, mpsc, oneshot},
    time::Instant,
};

use crate::service::{Reply, Request};

/// A message in a mailbox, and the way back for its answer.
#[derive(Debug)]
pub struct Envelope {
    pub request: Request,
    /// When it was put in.
    since: Instant,
    /// `None` for a `send`.
    reply: Option<oneshot::Sender<Result<Reply, CallError>>>,
}

impl Envelope {
    /// Takes the request out of the envelope.
    pub fn open(self) -> (Request, Answer) {
        let (deadline, queued) = (self.request.deadline, self.since.elapsed());
        (self.request, Answer { deadline, queued, reply: self.reply })
    }

    fn is_stale(&self) -> bool {
        self.request.deadline <= Instant::now()
            || self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

/// The way back to a caller.
#[derive(Debug)]
pub struct Answer {
    deadline: Instant,
    /// How long the message waited.
    queued: Duration,
    reply: Option<oneshot::Sender<Result<Reply, CallError>>>,
}

impl Answer {
    pub fn send(self, mut result: Result<Reply, CallError>) {
        if let Some(reply) = self.reply {
            if let Ok(reply) = &mut result {
                reply.queued_us = self.queued.as_micros() as u64;
            }
            // A caller that has gone takes no answer.
            let _ = reply.send(result);
        }
    }

    /// Waits until nobody waits for the answer any more: the caller is gone, or its deadline passed.
    pub async fn abandoned(&mut self) {
        match &mut self.reply {
            // The asking side keeps the deadline and drops its end.
            Some(reply) => reply.closed().await,
            None => tokio::time::sleep_until(self.deadline).await,
        }
    }
}

/// Counts of one actor since it was first started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Messages answered, well or not.
    pub handled: AtomicU64,
    /// Messages answered with an internal error.
    pub failed: AtomicU64,
    /// Messages refused because the mailbox was full.
    pub overloaded: AtomicU64,
    /// Messages dropped unread because nobody waited for them any more.
    pub expired: AtomicU64,
    /// A moving average of the time one message takes, in microseconds.
    pub mean_us: AtomicU32,
}

impl Counters {
    pub fn observe(&self, since: Instant, result: &Result<Reply, CallError>) {
        let took = u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX);
        let mean = self.mean_us.load(Relaxed);
        self.mean_us.store(mean - mean / 8 + took / 8, Relaxed);
        self.handled.fetch_add(1, Relaxed);
        if matches!(result, Err(error) if error.code == relay_proto::call::RpcCode::Internal) {
            self.failed.fetch_add(1, Relaxed);
        }
    }
}

/// The router's end.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    sender: mpsc::Sender<Envelope>,
    pub counters: Arc<Counters>,
}

impl Mailbox {
    /// A mailbox of `capacity` messages, and what the actor reads it with.
    pub fn new(capacity: usize) -> (Self, InboxSlot) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let counters = Arc::new(Counters::default());
        let slot =
            InboxSlot { receiver: Arc::new(Mutex::new(receiver)), counters: counters.clone() };
        (Self { sender, counters }, slot)
    }

    /// Puts a message in; the receiver yields the answer. A full mailbox refuses at once.
    pub fn ask(
        &self,
        request: Request,
    ) -> Result<oneshot::Receiver<Result<Reply, CallError>>, CallError> {
        let (reply, answer) = oneshot::channel();
        self.put(Envelope { request, since: Instant::now(), reply: Some(reply) })?;
        Ok(answer)
    }

    /// Puts in a message that has no answer.
    pub fn send(&self, request: Request) -> Result<(), CallError> {
        self.put(Envelope { request, since: Instant::now(), reply: None })
    }

    pub fn waiting(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }

    fn put(&self, envelope: Envelope) -> Result<(), CallError> {
        self.sender.try_send(envelope).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.counters.overloaded.fetch_add(1, Relaxed);
                CallError::overloaded("the service's mailbox is full", self.retry_after_ms())
                    .not_started()
            }
            mpsc::error::TrySendError::Closed(envelope) => {
                CallError::service_not_found(&envelope.request.method)
            }
        })
    }

    /// The time in which about half of a full mailbox is worked off.
    fn retry_after_ms(&self) -> u64 {
        let mean = u64::from(self.counters.mean_us.load(Relaxed));
        let half = self.sender.max_capacity() as u64 / 2;
        (mean.saturating_mul(half) / 1000).clamp(10, 10_000)
    }
}

/// Where the receiving end waits between an actor's incarnations, so that a crash loses only the
/// message that caused it.
#[derive(Debug, Clone)]
pub(crate) struct InboxSlot {
    receiver: Arc<Mutex<mpsc::Receiver<Envelope>>>,
    counters: Arc<Counters>,
}

impl InboxSlot {
    pub async fn take(&self) -> Inbox {
        let receiver = self.receiver.clone().lock_owned().await;
        Inbox { receiver, counters: self.counters.clone() }
    }
}

/// The actor's end of its mailbox, held by one incarnation at a time.
#[derive(Debug)]
pub struct Inbox {
    receiver: OwnedMutexGuard<mpsc::Receiver<Envelope>>,
    counters: Arc<Counters>,
}

impl Inbox {
    /// The next message somebody still waits for; `None` when the actor is no longer reachable.
    ///
    /// # Cancel safety
    /// No message is lost.
    pub async fn next(&mut self) -> Option<Envelope> {
        loop {
            let envelope = self.receiver.recv().await?;
            if !envelope.is_stale() {
                return Some(envelope);
            }
            self.counters.expired.fetch_add(1, Relaxed);
        }
    }

    /// Closes the mailbox and refuses what is in it with `error`.
    pub fn refuse_all(&mut self, error: &CallError) {
        self.receiver.close();
        while let Ok(envelope) = self.receiver.try_recv() {
            envelope.open().1.send(Err(error.clone()));
        }
    }

    /// Counts one answered message.
    pub fn observe(&self, since: Instant, result: &Result<Reply, CallError>) {
        self.counters.observe(since, result);
    }

    pub(crate) fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }
}
