//! Live subscriptions that survive broken connections (`events.md`, Streaming; `common.md`, Cursors).

use std::{borrow::Cow, time::Duration};

use futures_util::{SinkExt, StreamExt};
use relay_proto::{
    Code, Event, Filter, Problem,
    event::{parse_event, verify},
    frame,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    backoff::Backoff,
    client::Client,
    error::Error,
    events::received_limits,
    socket::{PING_EVERY, SILENCE, Socket},
};

/// Where a subscription begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    /// With what arrives from now on.
    #[default]
    Live,
    /// With the first event that the relay has.
    Beginning,
    /// After the event that this cursor came with.
    After(String),
}

/// What to subscribe to.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// An event is delivered where one of them matches; none at all matches everything.
    pub filters: Vec<Filter>,
    /// Where to begin.
    pub start: Start,
    /// Whether to go on with live events after the stored ones.
    pub live: bool,
    /// Superseded versions too.
    pub history: bool,
}

impl Default for Subscription {
    fn default() -> Self {
        Self { filters: Vec::new(), start: Start::Live, live: true, history: false }
    }
}

/// What a subscription delivers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StreamItem {
    /// One verified event. Keep the cursor once the event is dealt with, to go on from there.
    Event {
        /// The position after this event.
        cursor: String,
        /// The event.
        event: Event,
    },
    /// Everything stored was delivered; what follows is live.
    Live {
        /// The position reached.
        cursor: String,
    },
    /// Ephemeral events that did not fit through the connection. Nothing that is stored is ever
    /// left out.
    Gap {
        /// How many.
        dropped: u64,
    },
    /// The connection broke; it is being made again, and nothing will be missing.
    Interrupted {
        /// What happened.
        cause: String,
    },
    /// The connection is back after an interruption.
    Resumed,
}

/// A subscription. After a broken connection it resumes behind the last event delivered, so that
/// nothing stored is missing and nothing comes twice.
///
/// ```no_run
/// # async fn example(client: relay_client::Client) -> Result<(), relay_client::Error> {
/// use relay_client::{EventStream, Start, StreamItem, Subscription};
///
/// let wanted = Subscription { start: Start::Beginning, ..Subscription::default() };
/// let mut stream = EventStream::open(&client, wanted).await?;
/// while let Some(item) = stream.next().await? {
///     if let StreamItem::Event { cursor, event } = item {
///         println!("{cursor} {}", event.content());
///     }
/// }
/// # Ok(()) }
/// ```
pub struct EventStream {
    client: Client,
    subscription: Subscription,
    /// Behind the last item delivered; where to resume.
    cursor: Option<String>,
    socket: Option<Socket>,
    /// When the last frame came, of whatever kind.
    heard: Instant,
    pinged: Instant,
    backoff: Backoff,
    /// When to connect again, while there is no socket.
    retry_at: Instant,
    /// When a grant was made last.
    granted_at: Option<Instant>,
    state: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Flowing,
    /// The connection was lost; its return is still to be told.
    Interrupted,
    Ended,
}

/// The name of the one subscription on the socket.
const SUB: &str = "s";

impl EventStream {
    /// Connects and subscribes.
    ///
    /// # Errors
    /// The relay cannot be reached or refuses.
    pub async fn open(client: &Client, subscription: Subscription) -> Result<Self, Error> {
        let now = Instant::now();
        let mut stream = Self {
            client: client.clone(),
            cursor: match &subscription.start {
                Start::Live => None,
                Start::Beginning => Some(String::new()),
                Start::After(cursor) => Some(cursor.clone()),
            },
            subscription,
            socket: None,
            heard: now,
            pinged: now,
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(30)),
            retry_at: now,
            granted_at: None,
            state: Progress::Flowing,
        };
        stream.connect().await?;
        Ok(stream)
    }

    /// The cursor of the last item delivered.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// The next item; `None` once a subscription that is not live has delivered everything.
    ///
    /// # Errors
    /// The relay ended the subscription for good (`forbidden`, `replay_window_exceeded` …), or sent
    /// something that is not in the protocol. Broken connections are no errors: they are made again
    /// for ever, with growing pauses.
    ///
    /// # Cancel safety
    /// May stand in `select!`: an item is delivered or still to come.
    pub async fn next(&mut self) -> Result<Option<StreamItem>, Error> {
        while self.state != Progress::Ended {
            if self.socket.is_none() {
                tokio::time::sleep_until(self.retry_at).await;
                match self.connect().await {
                    Ok(()) => {}
                    Err(error) if is_passing(&error) => {
                        self.retry_at = Instant::now() + self.pause(&error);
                        continue;
                    }
                    Err(error) => return self.end(error),
                }
            }
            if self.state == Progress::Interrupted {
                self.state = Progress::Flowing;
                return Ok(Some(StreamItem::Resumed));
            }
            match self.receive().await {
                Ok(Some(text)) => match self.read(&text) {
                    Ok(Some(item)) => return Ok(Some(item)),
                    Ok(None) => {}
                    Err(error) if is_passing(&error) => return Ok(Some(self.interrupt(&error))),
                    Err(error) if self.grants(&error)? => self.socket = None,
                    Err(error) => return self.end(error),
                },
                Ok(None) => {}
                Err(error) => return Ok(Some(self.interrupt(&error))),
            }
        }
        Ok(None)
    }

    async fn connect(&mut self) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Subscribe<'a> {
            sub: &'a str,
            filters: Cow<'a, [Filter]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            after: Option<&'a str>,
            live: bool,
            history: bool,
        }
        let mut filters = Cow::Borrowed(&self.subscription.filters[..]);
        if filters.is_empty() {
            filters = Cow::Owned(vec![Filter::default()]);
        }
        let subscribe = Subscribe {
            sub: SUB,
            filters,
            after: self.cursor.as_deref(),
            live: self.subscription.live,
            history: self.subscription.history,
        };
        let text = frame::encode("stream.subscribe", Some(SUB), &subscribe);
        let mut socket = self.client.socket("/v1/stream").await?;
        let sent = socket.send(Message::text(text)).await;
        sent.map_err(|error| self.lost(error.to_string()))?;
        self.socket = Some(socket);
        self.heard = Instant::now();
        self.pinged = self.heard;
        Ok(())
    }

    /// Waits for one text frame; `None` where something else came. Pings a quiet relay.
    async fn receive(&mut self) -> Result<Option<String>, Error> {
        let quiet_since = self.heard.max(self.pinged);
        let Some(socket) = &mut self.socket else { return Ok(None) };
        let message = tokio::select! {
            message = socket.next() => message,
            () = tokio::time::sleep_until(quiet_since + PING_EVERY) => {
                if self.heard.elapsed() >= SILENCE {
                    return Err(self.lost(format!("nothing heard for {SILENCE:?}")));
                }
                self.pinged = Instant::now();
                let sent = socket.send(Message::Ping(bytes::Bytes::new())).await;
                return sent.map(|()| None).map_err(|error| self.lost(error.to_string()));
            }
        };
        self.heard = Instant::now();
        match message {
            Some(Ok(Message::Text(text))) => Ok(Some(text.as_str().to_owned())),
            Some(Ok(Message::Close(reason))) => {
                let reason = reason.map(|reason| reason.reason.to_string()).unwrap_or_default();
                Err(self.lost(format!("closed by the relay {reason}").trim_end().to_owned()))
            }
            Some(Ok(_)) => Ok(None),
            Some(Err(error)) => Err(self.lost(error.to_string())),
            None => Err(self.lost("the connection ended".into())),
        }
    }

    fn read(&mut self, text: &str) -> Result<Option<StreamItem>, Error> {
        let frame: Incoming<'_> = serde_json::from_str(text)
            .map_err(|error| self.client.protocol_error(error.to_string()))?;
        let body = frame.body;
        match frame.t.as_ref() {
            "stream.event" => {
                let (Some(cursor), Some(json)) = (body.cursor, body.event) else {
                    return Err(self.client.protocol_error("an event without a cursor".into()));
                };
                let event = parse_event(json.get().as_bytes(), &received_limits())
                    .and_then(verify)
                    .map_err(|error| self.client.protocol_error(error.to_string()))?;
                self.backoff.reset();
                self.cursor = Some(cursor.clone());
                Ok(Some(StreamItem::Event { cursor, event }))
            }
            "stream.live" => {
                self.backoff.reset();
                let cursor = body.cursor.or_else(|| self.cursor.clone()).unwrap_or_default();
                self.cursor = Some(cursor.clone());
                Ok(Some(StreamItem::Live { cursor }))
            }
            "stream.gap" => Ok(Some(StreamItem::Gap { dropped: body.dropped.unwrap_or(0) })),
            "stream.closed" if body.code.as_deref() == Some("done") => {
                self.state = Progress::Ended;
                self.socket = None;
                Ok(None)
            }
            "stream.closed" | "error" => Err(Error::refused(body.problem())),
            _ => Ok(None),
        }
    }

    /// Whether the relay asks for a grant, which the next connection then brings. One that is asked for again at
    /// once was not taken.
    fn grants(&mut self, error: &Error) -> Result<bool, Error> {
        let soon = self.granted_at.is_some_and(|at| at.elapsed() < SILENCE);
        let grants = !soon && self.client.grants_what_is_asked(error)?;
        if grants {
            self.granted_at = Some(Instant::now());
        }
        Ok(grants)
    }

    fn interrupt(&mut self, error: &Error) -> StreamItem {
        self.socket = None;
        self.state = Progress::Interrupted;
        self.retry_at = Instant::now() + self.pause(error);
        StreamItem::Interrupted { cause: error.to_string() }
    }

    fn end(&mut self, error: Error) -> Result<Option<StreamItem>, Error> {
        self.socket = None;
        self.state = Progress::Ended;
        Err(error)
    }

    fn pause(&mut self, error: &Error) -> Duration {
        let pause = self.backoff.next_wait();
        error.retry_after().map_or(pause, |asked| asked.max(pause))
    }

    fn lost(&self, cause: String) -> Error {
        Error::Unreachable { url: self.client.address(), cause }
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream")
            .field("cursor", &self.cursor)
            .field("connected", &self.socket.is_some())
            .finish_non_exhaustive()
    }
}

/// Whether connecting again may help.
fn is_passing(error: &Error) -> bool {
    error.is_transient() || matches!(error.code(), Some(Code::QuotaExceeded))
}

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(borrow)]
    t: Cow<'a, str>,
    #[serde(borrow, default)]
    body: Body<'a>,
}

#[derive(Deserialize, Default)]
struct Body<'a> {
    cursor: Option<String>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    dropped: Option<u64>,
    code: Option<String>,
    message: Option<String>,
    retry_after_ms: Option<u64>,
    earliest: Option<Value>,
    grant_for: Option<Value>,
}

impl Body<'_> {
    fn problem(self) -> Problem {
        let code = self.code.as_deref().and_then(Code::parse).unwrap_or(Code::InternalError);
        let mut extra = Map::new();
        if let Some(ms) = self.retry_after_ms {
            extra.insert("retry_after_ms".into(), ms.into());
        }
        if let Some(earliest) = self.earliest {
            extra.insert("earliest".into(), earliest);
        }
        if let Some(edge) = self.grant_for {
            extra.insert("grant_for".into(), edge);
        }
        let message = self.message.unwrap_or_else(|| "the relay ended the subscription".into());
        Problem { code, message, extra }
    }
}
