//! The task of one link.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered, task::AtomicWaker};
use relay_proto::{
    Problem,
    link::{
        Encoding, Message, MessageType,
        handshake::Offer,
        session::{BATCH, Config, Event, Pace, Session},
    },
};
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep},
};
use tokio_util::task::TaskTracker;

use super::{
    Handle, Inner, Shared, Told, Waiter,
    end::{End, broken},
    exchange::{Abandon, Answerer},
};
use crate::{
    link::{Answered, Link, LinkError, LinkEvents, Peer, Role},
    links::{
        shake::{Shaken, packet, refuse},
        socket::{self, Packet, Socket},
        stream::Reader,
    },
};

/// WebSocket messages taken in one go before the task lets others run.
const READS: usize = 64;

/// RFC 6455, 7.4.1.
const GOING_AWAY: u16 = 1001;

/// A link that is about to run.
pub(in crate::links) struct Opening {
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
pub(in crate::links) struct Driver<S> {
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
        let mut session = Session::new(config, Duration::ZERO);
        session.assume_rtt(shaken.rtt);
        let inner = Inner {
            session,
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
        let goodbye = socket::send(&mut self.socket, packet);
        let _ = tokio::time::timeout(Duration::from_millis(500), goodbye).await;
    }
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
