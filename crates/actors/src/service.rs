//! What a service is to everything around it.

use std::{fmt, pin::Pin};

use bytes::Bytes;
use futures_util::{Stream, future::BoxFuture};
use relay_proto::{
    CallError, Caller, ServiceName,
    address::Method,
    call::{Hop, Json},
};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, value::RawValue};
use tokio::time::Instant;

/// Bytes that come in pieces: the body of a request, or a result that does not fit in one.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, CallError>> + Send>>;

/// One message to a service.
pub struct Request {
    pub method: Method,
    pub args: Option<Json>,
    /// The caller's proven identity.
    pub caller: Caller,
    /// When the caller stops waiting. A service that calls on hands on what is left.
    pub deadline: Instant,
    /// Where the caller may repeat the call. The router answers repeats; a service that keeps
    /// results beyond a restart may want it.
    pub idempotency_key: Option<String>,
    /// Whether the caller takes [`Reply::stream`].
    pub streaming: bool,
    /// A body beside the arguments, where the caller sent one.
    pub body: Option<BodyStream>,
    /// W3C traceparent.
    pub trace: Option<String>,
}

impl Request {
    /// The arguments as a `T`.
    ///
    /// # Errors
    /// Invalid params, naming the member that is wrong.
    pub fn args<'a, T: Deserialize<'a>>(&'a self) -> Result<T, CallError> {
        let text = self.args.as_deref().map_or("null", RawValue::get);
        serde_json::from_str(text).map_err(|error| {
            let text = error.to_string();
            CallError::invalid_params(text.split(" at line ").next().unwrap_or(&text))
        })
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("caller", &self.caller)
            .finish_non_exhaustive()
    }
}

/// The result of a call.
pub struct Reply {
    pub value: Json,
    /// More of the result, in pieces; only for callers that said they take it.
    pub stream: Option<BodyStream>,
    /// How long the message waited in the mailbox, microseconds.
    pub queued_us: u64,
    /// Where the time went, nearest first; only for calls that asked for it.
    pub hops: Vec<Hop>,
}

impl Reply {
    /// A result in one piece.
    ///
    /// # Errors
    /// Internal, for a value that is no JSON (a map whose keys are no texts).
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, CallError> {
        let value = serde_json::value::to_raw_value(value)
            .map_err(|_| CallError::internal("the result cannot be written as JSON"))?;
        Ok(value.into())
    }

    pub fn null() -> Self {
        RawValue::NULL.to_owned().into()
    }
}

impl From<Json> for Reply {
    fn from(value: Json) -> Self {
        Self { value, stream: None, queued_us: 0, hops: Vec::new() }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("value", &self.value.get())
            .field("stream", &self.stream.is_some())
            .finish()
    }
}

/// How a service answers: now, or by work that needs nothing of the service itself.
pub enum Handled {
    Now(Result<Reply, CallError>),
    /// Runs beside later messages, at most [`crate::ActorSpec::concurrency`] at once. For
    /// bridges, which only pass on what another program does.
    Aside(BoxFuture<'static, Result<Reply, CallError>>),
}

impl fmt::Debug for Handled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(result) => f.debug_tuple("Now").field(result).finish(),
            Self::Aside(_) => f.write_str("Aside"),
        }
    }
}

/// A native actor: handles one message at a time.
pub trait Service: Send {
    /// Handles one message.
    ///
    /// The future is dropped at its next await when the caller is gone or the deadline passed: leave the
    /// state whole at every await. A panic answers this message with an internal error and
    /// restarts the actor.
    fn handle(&mut self, request: Request) -> BoxFuture<'_, Handled>;

    /// Resolves, with the reason, when the service can serve no more and must be restarted.
    ///
    /// # Cancel safety
    /// Is dropped and asked for again around every message.
    fn failed(&mut self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }

    /// Looks whether the program behind the service is well; asked now and then, and told to
    /// the registry.
    fn check(&self) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Ends the service in an orderly way.
    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Whether other nodes see a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Registered with the hub.
    Public,
    /// Only for callers on this node; to others it does not exist.
    #[default]
    Private,
}

/// What the registry says of a service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceInfo {
    #[serde(rename = "service_name")]
    pub name: ServiceName,
    #[serde(serialize_with = "version_text")]
    pub version: semver::Version,
    /// Empty where any method may be asked for (bridges).
    pub methods: Vec<String>,
    pub metadata: Map<String, Value>,
    pub visibility: Visibility,
}

impl ServiceInfo {
    /// A private service of version 1.0.0 that names no methods.
    pub fn new(name: ServiceName) -> Self {
        Self {
            name,
            version: semver::Version::new(1, 0, 0),
            methods: Vec::new(),
            metadata: Map::new(),
            visibility: Visibility::Private,
        }
    }

    #[must_use]
    pub const fn public(mut self) -> Self {
        self.visibility = Visibility::Public;
        self
    }
}

fn version_text<S: Serializer>(version: &semver::Version, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(version)
}
