//! What a link is to everything above it.
//!
//! The state machines behind it are `relay_proto::link`, without sockets or clocks; what moves their bytes is
//! `links`. Routing and registry see a link only through [`Link`] and [`LinkEvents`], so they
//! are tested over links in memory.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, future::BoxFuture};
use relay_proto::{
    CallError, NodeId, RelayId,
    call::Json,
    link::{Message, NodeType},
};
use serde::Serialize;

pub use relay_proto::link::session::Lane;

/// Bytes that come in pieces, taken at the reader's pace: credit is given when a piece is taken.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, CallError>> + Send>>;

/// The role of a relay in the federation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A hub: publicly reachable, keeps the registry.
    Main,
    /// A spoke: dials out to its hub.
    Home,
}

impl From<NodeType> for Role {
    fn from(node_type: NodeType) -> Self {
        match node_type {
            NodeType::Main => Self::Main,
            NodeType::Home => Self::Home,
        }
    }
}

/// Who is on the other side, as the handshake proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub relay: RelayId,
    pub key: NodeId,
    pub role: Role,
    /// The version of its program.
    pub version: String,
    /// What it said it can do beyond the protocol's first version. With
    /// [`FEATURE_STANDBY`](relay_proto::link::handshake::FEATURE_STANDBY) the link is a spare: it counts
    /// as attached from its first registration on, not before.
    pub features: Vec<String>,
    /// Whether this side dialled.
    pub dialled: bool,
}

/// Why a message did not leave, or a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The link ended. `sent` says whether the message may have arrived.
    #[error("the link ended")]
    Closed { sent: bool },
    /// The queue of this lane is full; nothing was sent.
    #[error("too much waits for this link")]
    Full,
    /// Above what the other side said it takes; nothing was sent.
    #[error("the message is longer than the other side takes")]
    TooLarge,
    #[error("no answer came in time")]
    Timeout,
}

/// How a link is doing, for people and for choosing among instances.
#[derive(Debug, Clone, Serialize)]
pub struct LinkStats {
    /// Unix milliseconds.
    pub since_ms: u64,
    /// Smoothed round trip; `None` before the first answer.
    pub rtt: Option<Duration>,
    pub messages_in: u64,
    pub messages_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Bytes that wait to be sent, all lanes.
    pub queued: u64,
    /// The other side asked to move.
    pub draining: bool,
}

/// One link. Dropping a handle does not close it.
pub trait Link: Send + Sync + fmt::Debug {
    /// Unique within this process, rising.
    fn id(&self) -> u64;

    fn peer(&self) -> &Peer;

    fn stats(&self) -> LinkStats;

    /// Queues a message; never waits.
    ///
    /// # Errors
    /// [`LinkError`]; nothing was sent.
    fn send(&self, lane: Lane, message: Message) -> Result<(), LinkError>;

    /// Sends a request, with a body where there is one, and waits for the `response` or `error`
    /// message that answers it. The message's own deadline bounds the wait. Dropping the future cancels at the other side.
    ///
    /// # Errors
    /// [`LinkError`].
    fn request(
        &self,
        message: Message,
        body: Option<ByteStream>,
    ) -> BoxFuture<'static, Result<Answered, LinkError>>;

    /// Does the work for a request of this link beside the link's own, in its task: no other task has to be
    /// woken for it. The work ends with the link, and must not block.
    fn run(&self, work: BoxFuture<'static, ()>) {
        drop(tokio::spawn(work));
    }

    /// Asks the other side to move, lets what is under way finish within `within`, and closes. Where it comes back
    /// to this one, it is asked to do so at a random moment within `reconnect_after` of the end.
    fn drain(&self, reason: &str, within: Duration, reconnect_after: Duration);

    /// Closes now.
    fn close(&self, reason: &str);
}

/// The answer to a request.
pub struct Answered {
    pub message: Message,
    /// More of the result, in pieces.
    pub stream: Option<ByteStream>,
}

impl fmt::Debug for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answered")
            .field("message", &self.message)
            .field("stream", &self.stream.is_some())
            .finish()
    }
}

/// Answers one request. Dropped unanswered, the other side gets an internal error.
pub trait Answering: Send {
    fn answer(self: Box<Self>, answer: Answered);

    /// Resolves when nobody waits for the answer any more.
    fn abandoned(&mut self) -> BoxFuture<'_, ()>;
}

/// What links tell. Called from a link's own task: must be quick and never block.
pub trait LinkEvents: Send + Sync {
    /// A link is up: authenticated, welcomed, ready. A spoke uses the first that it is told of until that ends
    /// or is left (`goaway`); others are spares. A fallback that comes up while the first hub may still answer is
    /// told later.
    fn up(&self, link: Arc<dyn Link>);

    /// A message that wants no answer through [`Answering`]: registration, heartbeat, discovery,
    /// goaway. A goaway also comes when this side leaves the link for a better one that is up already.
    fn message(&self, link: &Arc<dyn Link>, message: Message);

    /// A request or forward that wants an answer.
    fn request(
        &self,
        link: &Arc<dyn Link>,
        message: Message,
        body: Option<ByteStream>,
        answering: Box<dyn Answering>,
    );

    /// What the next heartbeat says: load, health of services. `None` says nothing.
    fn load(&self) -> Option<Json> {
        None
    }

    /// A link ended. `reason` is for people and for the metric's label.
    fn down(&self, link: &Arc<dyn Link>, reason: &str);
}
