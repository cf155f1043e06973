//! One link at work: its task, which alone touches the socket, and the handle that everybody else holds.
//!
//! Between them stands the session of `relay_proto` behind a short mutex. Whoever wants something sent puts it
//! into the session and wakes the task; while the task writes one batch the next gathers, so that many
//! messages share one packet when there are many, and none waits when there are few.

use std::{
    collections::HashMap,
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered, task::AtomicWaker,
};
use relay_proto::{
    Code, Problem,
    link::{
        Encoding, Message, MessageType,
        handshake::{Offer, error_message},
        session::{BATCH, Config, Death, Event, Pace, SendError, Session, SessionError},
    },
};
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep},
};
use tokio_tungstenite::tungstenite::{self, error::CapacityError};
use tokio_util::task::TaskTracker;

use super::{
    shake::{Shaken, packet, refuse},
    socket::{Packet, Socket},
    stream::{Reader, pump},
};
use crate::link::{
    Answered, Answering, ByteStream, Lane, Link, LinkError, LinkEvents, LinkStats, Peer, Role,
};

/// WebSocket messages taken in one go before the task lets others run.
const READS: usize = 64;

/// RFC 6455, 7.4.1.
const GOING_AWAY: u16 = 1001;

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

    fn drain(&self, reason: &str, within: Duration) {
        let now = self.0.now();
        let mut inner = self.0.lock();
        inner.session.drain(reason, within);
        inner.drain_until = Some(now + within);
        drop(inner);
        self.0.wake();
    }

    fn close(&self, reason: &str) {
        self.0.lock().closing.get_or_insert_with(|| reason.to_owned());
        self.0.wake();
    }
}

/// Waits for an answer; dropped before, the other side is told that nobody waits.
struct Asking {
    shared: Arc<Shared>,
    id: Option<u64>,
    answer: oneshot::Receiver<Result<Answered, LinkError>>,
}

impl Future for Asking {
    type Output = Result<Answered, LinkError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(self.answer.poll_unpin(cx));
        self.id = None;
        // The session ends every request before it goes.
        Poll::Ready(answer.unwrap_or(Err(LinkError::Closed { sent: true })))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shared.lock().session.cancel(id);
            self.shared.wake();
        }
    }
}

/// Learns that nobody waits for an answer any more.
#[derive(Debug, Default)]
pub(super) struct Abandon {
    done: AtomicBool,
    waker: AtomicWaker,
}

impl Abandon {
    fn set(&self) {
        self.done.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.done.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Answers one request of the other side.
struct Answerer {
    shared: Arc<Shared>,
    /// `None` once answered.
    id: Option<Box<str>>,
    abandon: Arc<Abandon>,
}

impl Answerer {
    fn give(&mut self, answer: Answered) {
        let Some(id) = self.id.take() else { return };
        let Answered { message, stream } = answer;
        let opened = self.shared.lock().session.answer(&id, message, stream.is_some());
        self.shared.wake();
        if let (Some(opened), Some(stream)) = (opened, stream) {
            self.shared.pumps.spawn(pump(Arc::clone(&self.shared), opened, stream));
        }
    }
}

impl Answering for Answerer {
    fn answer(mut self: Box<Self>, answer: Answered) {
        self.give(answer);
    }

    fn abandoned(&mut self) -> BoxFuture<'_, ()> {
        let abandon = Arc::clone(&self.abandon);
        Box::pin(std::future::poll_fn(move |cx| abandon.poll(cx)))
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        if self.id.is_some() {
            let problem = Problem::new(Code::InternalError, "the request was dropped unanswered");
            self.give(Answered { message: error_message(&problem), stream: None });
        }
    }
}

/// How a link ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("{0}")]
    Asked(String),
    #[error("everything under way has finished")]
    Drained,
    #[error("what was under way did not finish in time")]
    DrainTimeout,
    #[error(transparent)]
    Dead(#[from] Death),
    #[error("the other side broke the protocol: {0}")]
    Broken(#[from] SessionError),
    #[error("the other side mixed up text and binary messages")]
    WrongKind,
    #[error("the other side closed: {code} {reason}")]
    Closed { code: u16, reason: String },
    #[error("the other side refused: {0}")]
    Refused(Problem),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

impl End {
    /// One word for logs and the metric's label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Asked(_) => "asked",
            Self::Drained => "drained",
            Self::DrainTimeout => "drain_timeout",
            Self::Dead(Death::Silent) => "silent",
            Self::Dead(Death::Stalled) => "stalled",
            Self::Broken(error) => error.reason(),
            Self::WrongKind => "malformed",
            Self::Closed { .. } => "closed",
            Self::Refused(_) => "refused",
            Self::Io(_) => "io",
        }
    }
}

/// A link that is about to run.
pub(super) struct Opening {
    pub shaken: Shaken,
    pub encoding: Encoding,
    pub dialled: bool,
    pub ours: Offer,
    /// Whether silence is to be noticed quickly.
    pub quick: bool,
    /// Unix milliseconds.
    pub since_ms: u64,
}

/// The task of one link.
pub(super) struct Driver<S> {
    socket: S,
    encoding: Encoding,
    handle: Handle,
    /// The same, as the application gets it with each event.
    link: Arc<dyn Link>,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires.
    armed: Duration,
    happened: Vec<Event<Waiter, Arc<Abandon>>>,
    wakers: Vec<Waker>,
    /// Empty between turns; keeps its room.
    new_work: Vec<BoxFuture<'static, ()>>,
    /// The work for requests of this link that is under way.
    work: FuturesUnordered<BoxFuture<'static, ()>>,
    /// Whether bytes may still lie in the socket's own buffer.
    unflushed: bool,
    moving: Option<oneshot::Sender<Duration>>,
}

/// Links are told apart by number within this process.
static NEXT_LINK: AtomicU64 = AtomicU64::new(1);

impl<S: Socket> Driver<S> {
    /// `moving` learns how long to stay away when the other side asks to move.
    pub fn new(
        socket: S,
        opening: Opening,
        events: Arc<dyn LinkEvents>,
        moving: Option<oneshot::Sender<Duration>>,
    ) -> (Self, Handle) {
        let Opening { shaken, encoding, dialled, ours, quick, since_ms } = opening;
        let answers_heartbeats = shaken.answers_heartbeats();
        let pace =
            if quick && answers_heartbeats { Pace::QUICK } else { Pace::relaxed(shaken.heartbeat) };
        let theirs = shaken.peer.offer;
        let config = Config { encoding, dialled, ours, theirs, pace, answers_heartbeats };
        let peer = Peer {
            relay: shaken.peer.relay,
            key: shaken.peer.key,
            role: Role::from(shaken.peer.node_type),
            version: shaken.peer.version,
            features: shaken.peer.features,
            dialled,
        };
        let started = Instant::now();
        let inner = Inner {
            session: Session::new(config, Duration::ZERO),
            readers: HashMap::new(),
            writers: HashMap::new(),
            work: Vec::new(),
            closing: None,
            drain_until: None,
            closed: false,
        };
        let shared = Shared {
            id: NEXT_LINK.fetch_add(1, Ordering::Relaxed),
            peer,
            since_ms,
            started,
            inner: Mutex::new(inner),
            task: AtomicWaker::new(),
            pumps: TaskTracker::new(),
            events,
            told: Mutex::new(Told::Nothing),
        };
        let handle = Handle(Arc::new(shared));
        let driver = Self {
            socket,
            encoding,
            handle: handle.clone(),
            link: Arc::new(handle.clone()),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: Duration::ZERO,
            happened: Vec::new(),
            wakers: Vec::new(),
            new_work: Vec::new(),
            work: FuturesUnordered::new(),
            unflushed: false,
            moving,
        };
        (driver, handle)
    }

    /// Runs the link to its end and cleans up behind it.
    pub async fn run(mut self) -> End {
        // Each turn is bounded by itself; a budget that many small works share would only cut it short.
        let turns = std::future::poll_fn(|cx| self.poll(cx));
        let end = tokio::task::unconstrained(turns).await;
        self.finish(&end);
        self.say_goodbye(&end).await;
        self.handle.tell_down(end.reason());
        self.handle.0.pumps.close();
        self.handle.0.pumps.wait().await;
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.poll_steps(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    /// One turn: read, see to the clock, write, sleep. An error is the end.
    fn poll_steps(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.handle.0.task.register(cx.waker());
        let more = self.read(cx)?;
        self.check_clock()?;
        self.work(cx);
        self.write(cx)?;
        self.check_drained()?;
        self.arm(cx);
        if more {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// Takes what came; true where there is more.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        for _ in 0..READS {
            let Poll::Ready(received) = self.socket.poll_receive(cx) else { return Ok(false) };
            let received = received.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
            let received = received.map_err(broken)?;
            let bytes = match (received, self.encoding) {
                (Packet::Text(bytes), Encoding::Json) | (Packet::Binary(bytes), Encoding::Cbor) => {
                    bytes
                }
                (Packet::Alive, _) => {
                    let now = self.handle.0.now();
                    self.handle.0.lock().session.heard(now);
                    continue;
                }
                (Packet::Close(GOING_AWAY, _), _)
                    if self.handle.0.lock().session.is_told_to_move() =>
                {
                    return Err(End::Drained);
                }
                (Packet::Close(code, reason), _) => return Err(End::Closed { code, reason }),
                _ => return Err(End::WrongKind),
            };
            let now = self.handle.0.now();
            let taken = {
                let mut inner = self.handle.0.lock();
                let taken = inner.session.receive(now, &bytes, &mut self.happened);
                inner.stream_wakers(&mut self.wakers);
                taken
            };
            self.dispatch()?;
            taken?;
        }
        Ok(true)
    }

    /// Hands on what happened, outside the lock.
    fn dispatch(&mut self) -> Result<(), End> {
        self.wakers.drain(..).for_each(Waker::wake);
        if self.happened.is_empty() {
            return Ok(());
        }
        let (shared, link) = (&self.handle.0, &self.link);
        let mut refused = None;
        for event in self.happened.drain(..) {
            match event {
                Event::Message(message) => {
                    if let Some(after) = goaway_delay(&message)
                        && let Some(moving) = self.moving.take()
                    {
                        let _ = moving.send(after);
                    }
                    shared.events.message(link, message);
                }
                Event::Request { id, message, body, token } => {
                    let body = body.map(|id| Reader::stream(shared, id));
                    let shared = Arc::clone(shared);
                    let answerer = Answerer { shared, id: Some(id), abandon: token };
                    self.handle.0.events.request(link, message, body, Box::new(answerer));
                }
                Event::Answered { token, message, stream } => {
                    let stream = stream.map(|id| Reader::stream(shared, id));
                    // Whoever asked may be gone; a stream then stops by being dropped.
                    let _ = token.send(Ok(Answered { message, stream }));
                }
                Event::TimedOut { token, .. } => drop(token.send(Err(LinkError::Timeout))),
                Event::Abandoned(token) => token.set(),
                Event::Refused(problem) => refused = Some(problem),
            }
        }
        refused.map_or(Ok(()), |problem| Err(End::Refused(problem)))
    }

    /// Goes on with the work for requests of this link, as far as it goes now.
    fn work(&mut self, cx: &mut Context<'_>) {
        loop {
            std::mem::swap(&mut self.handle.0.lock().work, &mut self.new_work);
            self.work.extend(self.new_work.drain(..));
            // The set itself sees to it that others get their turn.
            if !matches!(self.work.poll_next_unpin(cx), Poll::Ready(Some(()))) {
                return;
            }
        }
    }

    fn check_clock(&mut self) -> Result<(), End> {
        let now = self.handle.0.now();
        let due = {
            let shared = &self.handle.0;
            let mut inner = shared.lock();
            if let Some(reason) = inner.closing.take() {
                return Err(End::Asked(reason));
            }
            if inner.drain_until.is_some_and(|until| now >= until) {
                return Err(End::DrainTimeout);
            }
            if inner.session.wake_at(now) > now {
                Ok(())
            } else {
                let load = || shared.events.load();
                let due = inner.session.wake(now, load, &mut self.happened);
                inner.stream_wakers(&mut self.wakers);
                due
            }
        };
        self.dispatch()?;
        Ok(due?)
    }

    fn check_drained(&self) -> Result<(), End> {
        let inner = self.handle.0.lock();
        let is_drained =
            inner.drain_until.is_some() && inner.session.is_drained() && !self.unflushed;
        if is_drained { Err(End::Drained) } else { Ok(()) }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        loop {
            if self.unflushed {
                if self.socket.poll_flush(cx)?.is_pending() {
                    return Ok(());
                }
                self.unflushed = false;
                self.handle.0.lock().session.progressed();
            }
            if !self.handle.0.lock().session.has_output()
                || self.socket.poll_ready(cx)?.is_pending()
            {
                return Ok(());
            }
            let mut batch = Vec::new();
            {
                let mut inner = self.handle.0.lock();
                batch.reserve(inner.session.queued().min(BATCH));
                inner.session.transmit(&mut batch);
                inner.stream_wakers(&mut self.wakers);
            }
            self.wakers.drain(..).for_each(Waker::wake);
            if batch.is_empty() {
                return Ok(());
            }
            self.socket.start_send(packet(batch, self.encoding))?;
            self.unflushed = true;
        }
    }

    /// Sleeps until the session wants to be woken.
    fn arm(&mut self, cx: &mut Context<'_>) {
        let now = self.handle.0.now();
        let at = {
            let mut inner = self.handle.0.lock();
            let at = inner.session.wake_at(now);
            inner.drain_until.map_or(at, |until| at.min(until))
        };
        // A timer that fires too early costs less than setting it with each message.
        if at < self.armed || self.timer.is_elapsed() {
            self.armed = at;
            self.timer.as_mut().reset(self.handle.0.started + at);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            // It fired for an earlier plan, or is due again: the next turn looks at the clock.
            if self.armed >= at {
                cx.waker().wake_by_ref();
                return;
            }
            self.armed = at;
            self.timer.as_mut().reset(self.handle.0.started + at);
        }
    }

    /// Ends everything that waits for this link.
    fn finish(&mut self, end: &End) {
        let (requests, answers, wakers, work) = {
            let mut inner = self.handle.0.lock();
            inner.closed = true;
            // Dropped outside the lock: whoever answers takes it.
            let work = std::mem::take(&mut inner.work);
            let (requests, answers) = inner.session.close();
            let readers = inner.readers.drain().map(|(_, waker)| waker).collect::<Vec<_>>();
            let writers = inner.writers.drain().map(|(_, waker)| waker);
            let wakers: Vec<_> = readers.into_iter().chain(writers).collect();
            (requests, answers, wakers, work)
        };
        let peer = &self.handle.0.peer;
        tracing::debug!(peer = %peer.relay, reason = end.reason(), requests = requests.len(), "link ends");
        for (waiter, sent) in requests {
            let _ = waiter.send(Err(LinkError::Closed { sent }));
        }
        answers.iter().for_each(|abandon| abandon.set());
        drop(work);
        self.work.clear();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Tells the other side why, where it still listens.
    async fn say_goodbye(&mut self, end: &End) {
        let close = |code: u16, reason: &str| Packet::Close(code, reason.to_owned());
        let packet = match end {
            End::Broken(error) => {
                return refuse(&mut self.socket, self.encoding, &error.problem()).await;
            }
            End::WrongKind => {
                let problem = Problem::invalid(end.to_string());
                return refuse(&mut self.socket, self.encoding, &problem).await;
            }
            End::Drained | End::DrainTimeout => close(GOING_AWAY, "moved"),
            End::Asked(reason) => close(1000, reason.get(..100).unwrap_or(reason)),
            End::Dead(_) => close(4408, "silent"),
            End::Closed { .. } | End::Refused(_) | End::Io(_) => return,
        };
        let goodbye = super::socket::send(&mut self.socket, packet);
        let _ = tokio::time::timeout(Duration::from_millis(500), goodbye).await;
    }
}

/// What the WebSocket layer found wrong, where the other side is to blame.
fn broken(error: io::Error) -> End {
    let mut source: Option<&(dyn std::error::Error + 'static)> =
        error.get_ref().map(|error| error as _);
    while let Some(inner) = source {
        match inner.downcast_ref::<tungstenite::Error>() {
            Some(tungstenite::Error::Capacity(CapacityError::MessageTooLong { size, .. })) => {
                return End::Broken(SessionError::TooLong(*size));
            }
            Some(tungstenite::Error::Utf8(_)) => return End::WrongKind,
            _ => source = inner.source(),
        }
    }
    End::Io(error)
}

/// Whether a message asks to move, and how long to stay away.
fn goaway_delay(message: &Message) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct Goaway {
        #[serde(default)]
        reconnect_after_ms: u64,
    }
    if message.message_type != MessageType::Goaway {
        return None;
    }
    let read =
        message.data.as_ref().and_then(|data| serde_json::from_str::<Goaway>(data.get()).ok());
    Some(read.map_or(Duration::ZERO, |goaway| Duration::from_millis(goaway.reconnect_after_ms)))
}
