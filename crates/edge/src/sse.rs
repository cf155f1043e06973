//! Server-sent events: `/v1/events/stream`, `/v1/lock-watch`, `/v1/sse`.
//!
//! One task feeds one answer. The data of each event is the frame that a socket would have got, its `id` the
//! cursor, so that a browser that reconnects (`Last-Event-ID`) goes on where it was.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::{BufMut, Bytes, BytesMut};
use relay_core::{fanout::Item, policy::Op};
use relay_node::{Node, Place, Reader, chat::TailAsked};
use relay_proto::{
    Code, Namespace, NodeId, Position, Problem, conv, frame::encode, lease::Resource,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    auth::{self, Caller},
    body, chat,
    feeds::SubscribeConversation,
    held::{self, Held},
    homes::{self, FromRelay},
    params::Params,
    reply::Reply,
    socket::retry_advice_ms,
    stall::STUCK,
    subscriptions::{Sent, Subscribe, Subscriptions, WatchLock},
};

/// After so long without an event a comment is sent, for proxies and for clients that watch the clock.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Events are joined up to this many bytes before they are handed on.
const CHUNK: usize = 32 << 10;
/// Chunks between the task and the connection.
const CHUNKS: usize = 2;

/// `GET /v1/events/stream`: the filters of `GET /v1/events`, then `after` and `live` as `stream.subscribe`
/// has them. `Last-Event-ID`, or `cursor`, resumes.
pub(crate) async fn events(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = auth::caller(&node, &parts, &[]).await?;
    let params = Params::parse(parts.uri.query())?;
    let asked = Subscribe {
        sub: "events".into(),
        filters: vec![params.filter()?],
        after: resume(&parts.headers, &params),
        live: params.get("live").map(|_| params.switch("live")).transpose()?,
        history: params.switch("history")?,
    };
    let (reader, held) = (node.reader(caller.principal), Held::of(&node, &caller));
    let place = place(&node, &parts, &caller)?;
    open(node, Asked::Events(reader, asked), held, place).await
}

/// As [`events`], for other relays: what `stream.subscribe` has is the body.
pub(crate) async fn forwarded_events(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    let caller = auth::caller(&node, &parts, &bytes).await?;
    let mut asked: Subscribe = body::parse(&bytes)?;
    if let Some(home) = homes::home_of_filters(&node, &asked.filters)? {
        return Err(homes::loops(&node, &home).into());
    }
    if let Some(cursor) = resume(&parts.headers, &Params::default()) {
        asked.after = Some(cursor);
    }
    let (reader, held) = (node.reader(caller.principal), Held::of(&node, &caller));
    open(node, Asked::Events(reader, asked), held, Place::default()).await
}

/// `GET /v1/lock-watch?ns=&resource=`: the present state of the lock, if one is named, then its changes.
pub(crate) async fn lock_watch(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = auth::caller(&node, &parts, &[]).await?;
    let params = Params::parse(parts.uri.query())?;
    let ns: Namespace = params.parsed("ns")?.unwrap_or_default();
    node.check(&caller.principal, &ns, Op::Read)?;
    let resource = params.parsed("resource")?;
    let (reader, held) = (node.reader(caller.principal), Held::of(&node, &caller));
    let place = place(&node, &parts, &caller)?;
    open(node, Asked::Lock { reader, ns, resource }, held, place).await
}

/// `GET /v1/sse?conv_id=&from_seq=&after_seq=&presence=`: the frames of one conversation (`gateway.md` 7).
pub(crate) async fn conversation(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = auth::caller(&node, &parts, &[]).await?;
    let who = chat::caller_of(&node, &parts, &caller)?;
    let params = Params::parse(parts.uri.query())?;
    let last = parts.headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let from_seq = params.parsed("from_seq")?;
    let asked = SubscribeConversation {
        conv_id: chat::conv_id(&params)?,
        after_seq: params.parsed("after_seq")?.or(last.filter(|_| from_seq.is_none())),
        from_seq,
        notify: false,
    };
    asked.start()?;
    let presence = params.switch("presence")?;
    let (held, place) = (Held::of(&node, &caller), place(&node, &parts, &caller)?);
    let opened = open(node, Asked::Conversation { who, asked, presence }, held, place).await;
    opened.map_err(|crate::reply::Refused(mut problem)| {
        if problem.code == Code::ReplayWindowExceeded {
            problem.message = "requested history has been pruned".into();
        }
        problem.into()
    })
}

fn place(node: &Node, parts: &Parts, caller: &Caller) -> Result<Place, Problem> {
    // A relay has one link for all its clients, which bounds their streams.
    if parts.extensions.get::<FromRelay>().is_some() {
        return Ok(Place::default());
    }
    let session = caller.session().ok().map(|session| &**session);
    node.connections.enter(&node.live().chat, auth::client_address(node, parts), session)
}

/// Where to go on: what the browser remembers counts more than the URL that it was given at first.
fn resume(headers: &HeaderMap, params: &Params) -> Option<String> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    last.filter(|id| !id.is_empty())
        .or_else(|| params.get("cursor").filter(|cursor| !cursor.is_empty()))
        .or_else(|| params.get("after"))
        .map(str::to_owned)
}

/// Subscribes and begins the answer. All of it happens in a task of its own, so that whoever goes away in
/// the middle leaves nothing behind.
pub(crate) async fn open(node: Arc<Node>, asked: Asked, held: Held, place: Place) -> Reply {
    let (tell, told) = oneshot::channel();
    let (out, body) = mpsc::channel(CHUNKS);
    node.tasks.spawn(Box::pin({
        let node = node.clone();
        async move {
            let mut subscriptions = Subscriptions::new(node.clone());
            let subscribed = asked.subscribe(&node, &mut subscriptions).await;
            let first = match subscribed {
                Ok(first) => first,
                Err(problem) => {
                    subscriptions.leave_all().await;
                    let _ = tell.send(Err(problem));
                    return;
                }
            };
            if tell.send(Ok(())).is_ok() {
                let mut stream = Stream::new(node, subscriptions, held, out);
                first.iter().for_each(|sent| stream.add(sent));
                subscriptions = stream.run().await;
            }
            subscriptions.leave_all().await;
            drop(place);
        }
    }));
    told.await.map_err(|_| Problem::new(Code::HomeUnreachable, "the relay is stopping"))??;
    Ok(answer(body))
}

fn answer(chunks: mpsc::Receiver<Bytes>) -> Response {
    let chunks = futures_util::stream::unfold(chunks, |mut chunks| async move {
        chunks.recv().await.map(|chunk| (Ok::<_, Infallible>(chunk), chunks))
    });
    let mut response = Body::from_stream(chunks).into_response();
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx holds answers back otherwise.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// What is to be followed.
pub(crate) enum Asked {
    Events(Reader, Subscribe),
    Lock {
        reader: Reader,
        ns: Namespace,
        resource: Option<Resource>,
    },
    Conversation {
        who: conv::Caller,
        asked: SubscribeConversation,
        presence: bool,
    },
    /// A conversation, for a relay that hands it on.
    Tail(conv::Caller, TailAsked),
    /// A device's inbox.
    Inbox(conv::Caller, Option<u64>),
    /// What a user who is connected to another relay may know of these.
    Presence(conv::Caller, Option<Vec<NodeId>>),
}

impl Asked {
    /// Begins to follow; gives what is to be told first.
    async fn subscribe(
        self,
        node: &Arc<Node>,
        subscriptions: &mut Subscriptions,
    ) -> Result<Option<Sent>, Problem> {
        let (reader, ns, resource) = match self {
            Self::Events(reader, asked) => {
                subscriptions.subscribe(reader, asked).await?;
                return Ok(None);
            }
            Self::Lock { reader, ns, resource } => (reader, ns, resource),
            Self::Conversation { who, asked, presence } => {
                let start = asked.start()?;
                subscriptions.feeds().open(who.clone(), asked.conv_id, start).await?;
                if presence {
                    subscriptions.listen(&who);
                }
                return Ok(None);
            }
            Self::Tail(who, asked) => {
                return subscriptions.feeds().open_for_relay(who, asked).await;
            }
            Self::Inbox(who, from_seq) => {
                subscriptions.feeds().open_inbox(who, from_seq).await?;
                return Ok(None);
            }
            Self::Presence(who, contacts) => {
                let outbox = subscriptions.outbox.clone();
                let guest = node.listen_elsewhere(who.user, contacts, &outbox).await?;
                subscriptions.keep(guest);
                return Ok(None);
            }
        };
        let name = resource.as_ref().map(ToString::to_string);
        let watch = WatchLock { ns: Some(ns.clone()), resource: name };
        subscriptions.watch_lock(&reader, watch).await?;
        let Some(resource) = resource else { return Ok(None) };
        let state = node.locks.inspect(ns, resource).await?;
        let text = encode("lock.state", None, &state).into();
        Ok(Some(Sent { t: "lock.state", seq: None, text }))
    }
}

/// One open answer.
struct Stream {
    node: Arc<Node>,
    subscriptions: Subscriptions,
    held: Held,
    out: mpsc::Sender<Bytes>,
    /// Events that are ready and not yet handed on.
    buffer: BytesMut,
}

/// The answer is over: the client is gone or stuck, the relay stops, or everything was said.
struct Over;

impl Stream {
    fn new(
        node: Arc<Node>,
        subscriptions: Subscriptions,
        held: Held,
        out: mpsc::Sender<Bytes>,
    ) -> Self {
        node.metrics.sse_streams.fetch_add(1, Ordering::Relaxed);
        Self { node, subscriptions, held, out, buffer: BytesMut::new() }
    }

    async fn run(mut self) -> Subscriptions {
        let Over = self.serve().await;
        self.node.metrics.sse_streams.fetch_sub(1, Ordering::Relaxed);
        self.subscriptions
    }

    async fn serve(&mut self) -> Over {
        let stop = self.node.stop.clone();
        let outbox = self.subscriptions.outbox.clone();
        // Headers and a first byte at once: some clients report "open" only then.
        self.buffer.put_slice(b": relay\n\n");
        let mut items = Vec::new();
        loop {
            let outcome = self.flush().await;
            if outcome.is_err() || self.subscriptions.is_empty() {
                return Over;
            }
            let ping_at = Instant::now() + PING_INTERVAL;
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.say_goodbye();
                    return Over;
                }
                over = self.held.over() => {
                    let text = held::farewell(over);
                    self.buffer.put_slice(format!("event: error\ndata: {text}\n\n").as_bytes());
                    let _ = self.out.try_send(self.buffer.split().freeze());
                    return Over;
                }
                () = self.out.closed() => return Over,
                () = outbox.filled() => self.drain(&mut items).await,
                Some(page) = self.subscriptions.next_page() => {
                    // Who was removed is told before what was said since.
                    if self.drain(&mut items).await.is_err() {
                        return Over;
                    }
                    let frames = self.subscriptions.take_page(page).await;
                    self.add_all(frames).await
                }
                () = tokio::time::sleep_until(ping_at) => {
                    self.buffer.put_slice(b": ping\n\n");
                    Ok(())
                }
            };
            if outcome.is_err() {
                return Over;
            }
        }
    }

    async fn drain(&mut self, items: &mut Vec<Item>) -> Result<(), Over> {
        loop {
            self.subscriptions.outbox.take(256, items);
            if items.is_empty() {
                return Ok(());
            }
            let frames: Vec<Sent> =
                items.drain(..).filter_map(|item| self.subscriptions.take_item(item)).collect();
            self.add_all(frames).await?;
        }
    }

    async fn add_all(&mut self, frames: Vec<Sent>) -> Result<(), Over> {
        for sent in &frames {
            self.add(sent);
            if self.buffer.len() >= CHUNK {
                self.flush().await?;
            }
        }
        Ok(())
    }

    fn add(&mut self, sent: &Sent) {
        if matches!(sent.t, "conv.event" | "inbox.event") {
            let seq = sent.seq.unwrap_or_default();
            self.buffer.put_slice(format!("id: {seq}\n").as_bytes());
        } else if let Some(seq) = sent.seq {
            let cursor = self.node.events.cursor(Position::AfterSeq(seq));
            self.buffer.put_slice(format!("id: {cursor}\n").as_bytes());
        }
        // Frames are compact JSON: they hold no line ends.
        self.buffer.put_slice(format!("event: {}\ndata: ", sent.t).as_bytes());
        self.buffer.put_slice(sent.text.as_bytes());
        self.buffer.put_slice(b"\n\n");
    }

    /// Hands on what is ready, at the reader's pace.
    async fn flush(&mut self) -> Result<(), Over> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        let stop = self.node.stop.clone();
        tokio::select! {
            sent = self.out.send_timeout(chunk, STUCK) => match sent {
                Ok(()) => Ok(()),
                Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(Over),
                Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                    self.node.metrics.slow_consumers.fetch_add(1, Ordering::Relaxed);
                    self.say_farewell();
                    Err(Over)
                }
            },
            () = stop.cancelled() => {
                self.say_goodbye();
                Err(Over)
            }
        }
    }

    /// To a reader who may come back to it: where to go on. What cannot be sent now is not waited for.
    fn say_farewell(&mut self) {
        for sent in self.subscriptions.farewells() {
            self.add(&sent);
        }
        let _ = self.out.try_send(self.buffer.split().freeze());
    }

    /// Spreads the return of clients over the time of the drain.
    fn say_goodbye(&mut self) {
        let advice = format!(": restarting\nretry: {}\n\n", retry_advice_ms(&self.node));
        let _ = self.out.try_send(Bytes::from(advice));
    }
}
