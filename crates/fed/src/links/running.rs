//! One link at work: its task (`driver`), which alone touches the socket, and the handle that everybody else
//! holds.
//!
//! Between them stands the session of `relay_proto` behind a short mutex. Whoever wants something sent puts it
//! into the session and wakes the task; while the task writes one batch the next gathers, so that many
//! messages share one packet when there are many, and none waits when there are few.

mod driver;
mod end;
mod exchange;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture, task::AtomicWaker};
use relay_proto::link::{
    Message, MessageType,
    session::{SendError, Session},
};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::task::TaskTracker;

use super::stream::pump;
use crate::link::{Answered, ByteStream, Lane, Link, LinkError, LinkEvents, LinkStats, Peer};
use exchange::{Abandon, Asking};

pub(super) use driver::{Driver, Opening};
pub use end::End;

type Waiter = oneshot::Sender<Result<Answered, LinkError>>;

/// What the task and the handles share.
pub(super) struct Shared {
    id: u64,
    peer: Peer,
    since_ms: u64,
    started: Instant,
    inner: Mutex<Inner>,
    task: AtomicWaker,
    /// Streams being sent; they end with the link.
    pumps: TaskTracker,
    events: Arc<dyn LinkEvents>,
    /// Whether [`LinkEvents::up`] was told, and [`LinkEvents::down`].
    told: Mutex<Told>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Up,
    Down,
}

/// The session, and who waits for what in it.
pub(super) struct Inner {
    pub session: Session<Waiter, Arc<Abandon>>,
    pub readers: HashMap<u64, Waker>,
    pub writers: HashMap<u64, Waker>,
    /// Work for requests of this link, on its way to the link's task.
    work: Vec<BoxFuture<'static, ()>>,
    /// Set by whoever wants the link closed, with the reason.
    closing: Option<String>,
    /// When draining must have ended.
    drain_until: Option<Duration>,
    closed: bool,
}

impl Inner {
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Those to be woken for what has changed in the session's streams.
    fn stream_wakers(&mut self, wakers: &mut Vec<Waker>) {
        for id in self.session.readable() {
            wakers.extend(self.readers.remove(&id));
        }
        for id in self.session.writable() {
            wakers.extend(self.writers.remove(&id));
        }
    }
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code under this lock leaves half a change behind when it panics.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to send, or something to be timed.
    pub fn wake(&self) {
        self.task.wake();
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether the stream that this side sends ended early; else the caller is woken when it does.
    pub fn is_stopped(&self, stream: u64, cx: &Context<'_>) -> bool {
        let mut inner = self.lock();
        if inner.closed || !inner.session.is_sending(stream) {
            return true;
        }
        inner.writers.insert(stream, cx.waker().clone());
        false
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link as the rest of the program holds it.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// Tells the application that the link is up.
    pub(super) fn tell_up(&self) {
        let mut told = self.0.told();
        if *told == Told::Nothing {
            *told = Told::Up;
            let link: Arc<dyn Link> = Arc::new(self.clone());
            self.0.events.up(link);
        }
    }

    /// Tells the application that this link is being left for another that is up, as if the other
    /// side had asked.
    pub(super) fn tell_moving(&self) {
        if *self.0.told() == Told::Up {
            let link: Arc<dyn Link> = Arc::new(self.clone());
            self.0.events.message(&link, Message::new(MessageType::Goaway));
        }
    }

    fn tell_down(&self, reason: &str) {
        let mut told = self.0.told();
        if std::mem::replace(&mut *told, Told::Down) == Told::Up {
            let link: Arc<dyn Link> = Arc::new(self.clone());
            self.0.events.down(&link, reason);
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.0.id).field("peer", &self.0.peer.relay).finish()
    }
}

const fn link_error(error: SendError) -> LinkError {
    match error {
        SendError::Full => LinkError::Full,
        SendError::TooLarge => LinkError::TooLarge,
        SendError::Draining => LinkError::Closed { sent: false },
    }
}

impl Link for Handle {
    fn id(&self) -> u64 {
        self.0.id
    }

    fn peer(&self) -> &Peer {
        &self.0.peer
    }

    fn stats(&self) -> LinkStats {
        let inner = self.0.lock();
        let counts = inner.session.counts();
        LinkStats {
            since_ms: self.0.since_ms,
            rtt: inner.session.rtt(),
            messages_in: counts.messages_in,
            messages_out: counts.messages_out,
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            queued: inner.session.queued() as u64,
            draining: inner.session.is_told_to_move(),
        }
    }

    fn send(&self, lane: Lane, message: Message) -> Result<(), LinkError> {
        let mut inner = self.0.lock();
        if inner.closed {
            return Err(LinkError::Closed { sent: false });
        }
        inner.session.send(lane, &message).map_err(link_error)?;
        drop(inner);
        self.0.wake();
        Ok(())
    }

    fn request(
        &self,
        message: Message,
        body: Option<ByteStream>,
    ) -> BoxFuture<'static, Result<Answered, LinkError>> {
        let (waiter, answer) = oneshot::channel();
        let now = self.0.now();
        let queued = {
            let mut inner = self.0.lock();
            if inner.closed {
                return std::future::ready(Err(LinkError::Closed { sent: false })).boxed();
            }
            inner.session.request(now, message, body.is_some(), waiter)
        };
        let (id, stream) = match queued {
            Ok(queued) => queued,
            Err((error, _)) => return std::future::ready(Err(link_error(error))).boxed(),
        };
        self.0.wake();
        if let (Some(stream), Some(body)) = (stream, body) {
            self.0.pumps.spawn(pump(Arc::clone(&self.0), stream, body));
        }
        Box::pin(Asking { shared: Arc::clone(&self.0), id: Some(id), answer })
    }

    fn run(&self, work: BoxFuture<'static, ()>) {
        let mut inner = self.0.lock();
        if !inner.closed {
            inner.work.push(work);
            drop(inner);
            self.0.wake();
        }
    }

    fn drain(&self, reason: &str, within: Duration, reconnect_after: Duration) {
        let now = self.0.now();
        let mut inner = self.0.lock();
        inner.session.drain(reason, reconnect_after);
        inner.drain_until = Some(now + within);
        drop(inner);
        self.0.wake();
    }

    fn close(&self, reason: &str) {
        self.0.lock().closing.get_or_insert_with(|| reason.to_owned());
        self.0.wake();
    }
}
