//! The task of one socket.

use std::{
    net::IpAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use futures_util::{FutureExt, SinkExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use relay_core::{
    policy::Principal,
    sessions::{LiveSession, Over},
};
use relay_node::{Node, Place};
use relay_proto::{Code, Problem, auth::ClientLabel, conv, frame, frame::Frame};
use tokio::time::{Instant, error::Elapsed};

use super::{pace::Pace, publish::Publishes, requests, retry_advice_ms, rpc::Calls};
use crate::{
    auth::Caller,
    held::{self, Held},
    homes::Speaker,
    social::watch::SocialWatch,
    stall::STUCK,
    subscriptions::{Fetched, Subscriptions},
};

/// Frames handled before the answers are written.
const READ_BATCH: usize = 64;
/// Requests of one connection that may be under way, publishes aside.
const MAX_REQUESTS: usize = 1_024;
/// Time for answers that are under way when the relay stops. Less than the node gives its tasks.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// Time for the last frames to leave.
const FAREWELL: Duration = Duration::from_secs(1);
/// Unanswered pings after which the connection counts as dead.
const MAX_UNANSWERED: u32 = 2;

/// The close code for those who may not (any longer) be here.
const POLICY: u16 = 1008;
/// The close code for those who speak another protocol.
const PROTOCOL: u16 = 1002;

/// The state of one socket.
pub(super) struct Connection {
    pub node: Arc<Node>,
    pub principal: Principal,
    /// The grant that the upgrade or the session came with.
    pub grant: Option<Arc<str>>,
    /// The session that was started here or that the upgrade came with.
    pub held: Held,
    /// Where the client is, for limits.
    pub address: IpAddr,
    /// What the client's sessions are called, unless it says otherwise.
    pub label: ClientLabel,
    /// What the connection counts as.
    pub place: Place,
    pub subscriptions: Subscriptions,
    /// Who the session speaks for.
    speaker: Option<conv::Caller>,
    /// What is told of the social layer.
    pub social: SocialWatch,
    /// Calls of services under way.
    pub calls: Calls,
    socket: WebSocket,
    publishes: Publishes,
    pace: Pace,
    /// Requests that take time; each gives the frame that answers it.
    requests: FuturesUnordered<BoxFuture<'static, Option<String>>>,
    unanswered_pings: u32,
}

/// Who opened the socket.
pub(super) struct Client {
    pub caller: Caller,
    pub grant: Option<Arc<str>>,
    pub address: IpAddr,
    pub label: ClientLabel,
    pub place: Place,
}

/// Why a connection ends.
pub(super) enum End {
    /// The other side is gone.
    Gone,
    Close(u16, String),
}

/// What the task woke up for.
enum Wake {
    Stop,
    Frame(Option<Result<Message, axum::Error>>),
    Published(super::publish::Done),
    Answer(Option<String>),
    Page(Fetched),
    Outbox,
    Social(String),
    Rested,
    Ping,
    SessionOver(Over),
}

impl Connection {
    pub fn new(node: Arc<Node>, socket: WebSocket, client: Client) -> Self {
        node.metrics.connections.fetch_add(1, Ordering::Relaxed);
        let Client { caller, grant, address, label, place } = client;
        let speaker = caller.session().ok();
        let speaker = speaker
            .map(|session| conv::Caller { grant: grant.clone(), ..node.chat_caller(session) });
        let mut this = Self {
            subscriptions: Subscriptions::new(node.clone()),
            held: Held::of(&node, &caller),
            social: SocialWatch::default(),
            node,
            principal: caller.principal,
            grant,
            address,
            label,
            place,
            speaker,
            socket,
            calls: Calls::default(),
            publishes: Publishes::default(),
            pace: Pace::default(),
            requests: FuturesUnordered::new(),
            unanswered_pings: 0,
        };
        this.listen();
        this
    }

    /// Who a frame of the gateway is from.
    pub fn chat_caller(&self) -> Result<conv::Caller, Problem> {
        self.speaker.clone().ok_or_else(|| Problem::unauthorized("start a session first"))
    }

    /// Speaks for another session from now on.
    pub fn speak_for(&mut self, session: Arc<LiveSession>) {
        self.subscriptions.hush();
        self.principal = Principal::Key(session.user());
        self.speaker = Some(self.node.chat_caller(&session));
        self.grant = session.grant();
        self.held = Held::session(&self.node, session);
        self.listen();
    }

    /// Hears of the presence of those whom the speaker may see.
    fn listen(&mut self) {
        if let Some(speaker) = &self.speaker {
            self.subscriptions.listen(speaker);
        }
    }

    /// Who asks here, as other homes will know it.
    pub fn asker(&self) -> Speaker {
        Speaker { principal: self.principal, grant: self.grant.clone() }
    }

    /// Serves the socket until it ends. Boxed, since a future keeps what it is given by value twice.
    pub async fn run(mut self: Box<Self>) {
        let end = match self.serve().await {
            Ok(()) => End::Gone,
            Err(end) => end,
        };
        if let End::Close(code, reason) = end {
            let frame = CloseFrame { code, reason: reason.into() };
            let _ = Box::pin(tokio::time::timeout(FAREWELL, self.farewell(frame))).await;
        }
        Box::pin(self.subscriptions.leave_all()).await;
        self.node.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// The last frames; a connection that did not read learns where its subscriptions can go on.
    async fn farewell(&mut self, frame: CloseFrame) -> Result<(), axum::Error> {
        if frame.reason.as_str() == Code::SlowConsumer.as_str() {
            for sent in self.subscriptions.farewells() {
                self.socket.feed(Message::Text(sent.text)).await?;
            }
        }
        self.socket.send(Message::Close(Some(frame))).await
    }

    /// What is done on a wake-up is on the heap for as long as it takes, so that an idle connection
    /// keeps room for the waiting alone.
    async fn serve(&mut self) -> Result<(), End> {
        let stop = self.node.stop.clone();
        let outbox = self.subscriptions.outbox.clone();
        // Made once: to make and drop them on each wake-up is much of what a small one costs.
        let mut stopped = pin!(stop.cancelled());
        // The first frame of whoever has no session yet is waited for less long.
        let first = if self.held.is_some() { self.ping_interval() } else { self.first_frame() };
        let mut ping = pin!(tokio::time::sleep(first));
        let mut heard_at = Instant::now();
        let mut heard = self.held.is_some();
        loop {
            let wake = tokio::select! {
                biased;
                () = &mut stopped => Wake::Stop,
                over = self.held.over() => Wake::SessionOver(over),
                Some(done) = self.publishes.next_done() => Wake::Published(done),
                Some(answer) = self.requests.next() => Wake::Answer(answer),
                Some(answer) = self.calls.next() => Wake::Answer(Some(answer)),
                () = outbox.filled() => Wake::Outbox,
                frame = self.social.next() => Wake::Social(frame),
                Some(page) = self.subscriptions.next_page() => Wake::Page(page),
                message = self.socket.recv(),
                    if self.publishes.has_room()
                        && self.requests.len() < MAX_REQUESTS
                        && !self.pace.is_resting() =>
                    Wake::Frame(message),
                () = self.pace.rested(), if self.pace.is_resting() => Wake::Rested,
                () = &mut ping => Wake::Ping,
            };
            match wake {
                Wake::SessionOver(over) => {
                    Box::pin(self.feed(held::farewell(over))).await?;
                    return Err(End::Close(POLICY, "session over".into()));
                }
                Wake::Stop => {
                    let _ = Box::pin(tokio::time::timeout(LAST_ANSWERS, self.finish())).await;
                    return Err(End::Close(1012, retry_advice(&self.node)));
                }
                Wake::Frame(message) => {
                    heard_at = Instant::now();
                    if !std::mem::replace(&mut heard, true) {
                        ping.as_mut().reset(heard_at + self.ping_interval());
                        if matches!(message, Some(Ok(Message::Binary(_)))) {
                            return Err(End::Close(PROTOCOL, "frames are text".into()));
                        }
                    }
                    self.unanswered_pings = 0;
                    Box::pin(self.take_frames(message)).await?;
                }
                Wake::Published(done) => Box::pin(self.answer_publishes(done)).await?,
                Wake::Answer(answer) => Box::pin(self.answer_requests(answer)).await?,
                Wake::Rested => {}
                Wake::Outbox => Box::pin(self.drain_outbox()).await?,
                Wake::Social(frame) => {
                    self.feed(frame).await?;
                    self.flush().await?;
                }
                Wake::Page(page) => Box::pin(self.take_page(page)).await?,
                Wake::Ping if !heard => {
                    return Err(End::Close(POLICY, "no frame came".into()));
                }
                Wake::Ping => {
                    let now = Instant::now();
                    let interval = self.ping_interval();
                    let due = heard_at + interval;
                    if now < due {
                        ping.as_mut().reset(due);
                    } else {
                        ping.as_mut().reset(now + interval);
                        Box::pin(self.ping()).await?;
                    }
                }
            }
        }
    }

    fn ping_interval(&self) -> Duration {
        self.node.live().chat.ping_interval
    }

    fn first_frame(&self) -> Duration {
        self.node.live().chat.first_frame_within
    }

    /// The relay stops: what was published and is under way is still answered.
    async fn finish(&mut self) -> Result<(), End> {
        while !self.publishes.is_idle() {
            tokio::select! {
                Some(done) = self.publishes.next_done() => self.answer_publishes(done).await?,
                Some(answer) = self.requests.next() => self.answer_requests(answer).await?,
                else => return Ok(()),
            }
        }
        while let Some(Some(answer)) = self.requests.next().now_or_never() {
            self.answer_requests(answer).await?;
        }
        Ok(())
    }

    /// Handles the frame that came and all others that are here already.
    async fn take_frames(
        &mut self,
        first: Option<Result<Message, axum::Error>>,
    ) -> Result<(), End> {
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(message) = next {
            let message = message.ok_or(End::Gone)?.map_err(broken)?;
            match message {
                Message::Text(text) => self.take_frame(text.as_str()).await?,
                Message::Binary(_) => return Err(End::Close(1003, "frames are text".into())),
                Message::Close(_) => return Err(End::Gone),
                Message::Ping(_) | Message::Pong(_) => {}
            }
            taken += 1;
            let more = taken < READ_BATCH && self.publishes.has_room() && !self.pace.is_resting();
            next = if more { self.socket.recv().now_or_never() } else { None };
        }
        self.publishes.start(&self.node);
        self.flush().await
    }

    async fn take_frame(&mut self, text: &str) -> Result<(), End> {
        let frame = match Frame::parse(text) {
            Ok(frame) => frame,
            Err(fault) => {
                self.pace.count(&self.node, &self.principal);
                return self.feed(frame::encode_error(fault.id.as_deref(), &fault.problem)).await;
            }
        };
        if Pace::counts(&frame.t) {
            self.pace.count(&self.node, &self.principal);
        }
        if frame.t == "event.publish" {
            return match self.publishes.add(&self.node, &frame) {
                Ok(()) => Ok(()),
                Err(problem) => self.refuse(&frame, &problem).await,
            };
        }
        match requests::handle(self, &frame).await {
            Ok(requests::Reply::None) => Ok(()),
            Ok(requests::Reply::Now(answer)) => self.feed(answer).await,
            Ok(requests::Reply::Last(answer)) => {
                self.feed(answer).await?;
                Err(End::Close(POLICY, "not authenticated".into()))
            }
            Ok(requests::Reply::Later(answer)) => {
                self.requests.push(answer);
                Ok(())
            }
            Err(problem) => self.refuse(&frame, &problem).await,
        }
    }

    async fn refuse(&mut self, frame: &Frame<'_>, problem: &Problem) -> Result<(), End> {
        self.feed(frame::encode_error(frame.id.as_deref(), problem)).await
    }

    async fn answer_publishes(&mut self, done: super::publish::Done) -> Result<(), End> {
        let mut next = Some(done);
        while let Some(done) = next {
            for answer in self.publishes.answers(done) {
                self.feed(answer).await?;
            }
            next = self.publishes.next_done().now_or_never().flatten();
        }
        self.publishes.start(&self.node);
        self.flush().await
    }

    async fn answer_requests(&mut self, first: Option<String>) -> Result<(), End> {
        let mut next = Some(first);
        while let Some(answer) = next {
            if let Some(text) = answer {
                self.feed(text).await?;
            }
            next = self.requests.next().now_or_never().flatten();
        }
        self.flush().await
    }

    async fn drain_outbox(&mut self) -> Result<(), End> {
        let mut items = Vec::new();
        loop {
            self.subscriptions.outbox.take(256, &mut items);
            if items.is_empty() {
                return self.flush().await;
            }
            for item in items.drain(..) {
                if let Some(sent) = self.subscriptions.take_item(item) {
                    self.feed(sent.text).await?;
                }
            }
        }
    }

    async fn take_page(&mut self, page: Fetched) -> Result<(), End> {
        for sent in self.subscriptions.take_page(page).await {
            self.feed(sent.text).await?;
        }
        self.flush().await
    }

    async fn ping(&mut self) -> Result<(), End> {
        self.unanswered_pings += 1;
        if self.unanswered_pings > MAX_UNANSWERED {
            return Err(End::Close(1001, "heartbeat timeout".into()));
        }
        // Libraries answer the control frame by themselves; older clients answer the other one.
        self.feed_message(Message::Ping(Vec::new().into())).await?;
        self.feed(r#"{"v":1,"t":"ping"}"#).await?;
        self.flush().await
    }

    /// Queues a text frame; writes when enough is queued.
    pub async fn feed(&mut self, text: impl Into<Utf8Bytes>) -> Result<(), End> {
        self.feed_message(Message::Text(text.into())).await
    }

    async fn feed_message(&mut self, message: Message) -> Result<(), End> {
        let fed = within_patience(self.socket.feed(message)).await;
        self.written(fed)
    }

    async fn flush(&mut self) -> Result<(), End> {
        let flushed = within_patience(self.socket.flush()).await;
        self.written(flushed)
    }

    fn written(&self, outcome: Result<Result<(), axum::Error>, Elapsed>) -> Result<(), End> {
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => {
                self.node.metrics.slow_consumers.fetch_add(1, Ordering::Relaxed);
                Err(End::Close(1011, Code::SlowConsumer.as_str().into()))
            }
        }
    }
}

/// Waits for a write no longer than [`STUCK`]. Nearly all are done at once and need no timer.
async fn within_patience<F: Future + Unpin>(mut write: F) -> Result<F::Output, Elapsed> {
    match (&mut write).now_or_never() {
        Some(written) => Ok(written),
        None => tokio::time::timeout(STUCK, write).await,
    }
}

/// What the socket library could not read.
fn broken(error: axum::Error) -> End {
    let text = error.to_string();
    if text.contains("too long") || text.contains("too big") {
        End::Close(1009, "frame too large".into())
    } else {
        End::Gone
    }
}

fn retry_advice(node: &Node) -> String {
    format!("restarting; retry_after_ms={}", retry_advice_ms(node))
}
