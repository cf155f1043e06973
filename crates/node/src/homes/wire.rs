//! A request on its way to its home, and the answer on its way back: what one relay writes and the other reads.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use relay_actors::BodyStream;
use relay_proto::{Code, Problem, RelayId, call::Json};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, value::RawValue};

use crate::node::Node;

/// How long a home may take for what does not wait on purpose.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// A body up to this size goes in the message of its request; a longer one in pieces, so that it holds up nothing else
/// on its way, and may be longer than a message.
pub const MAX_INLINE: usize = 64 << 10;
/// The most of an answer that is read as a whole.
const MAX_ANSWER: usize = 8 << 20;

/// A request as its door took it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Carried {
    pub method: String,
    /// Path and query.
    pub target: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Json>,
}

/// An answer as the home's door gave it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// Absent where there is none, or it comes in pieces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Json>,
}

impl Carried {
    pub fn get(target: impl Into<String>) -> Self {
        let (method, target) = ("GET".to_owned(), target.into());
        Self { method, target, headers: Vec::new(), body: None }
    }

    /// # Errors
    /// `invalid_request` where the body is no JSON.
    pub fn post(target: impl Into<String>, body: &str) -> Result<Self, Problem> {
        let body = RawValue::from_string(body.to_owned())
            .map_err(|_| Problem::invalid("malformed json"))?;
        let (method, target) = ("POST".to_owned(), target.into());
        Ok(Self { method, target, headers: Vec::new(), body: Some(body) })
    }

    /// # Errors
    /// `invalid_request` where the body cannot be written.
    pub fn post_value(target: impl Into<String>, body: &impl Serialize) -> Result<Self, Problem> {
        let text = serde_json::to_string(body)
            .map_err(|_| Problem::invalid("the request cannot be written as JSON"))?;
        Self::post(target, &text)
    }

    /// What it asks for, for logs and for relays that take only some.
    pub fn operation(&self) -> &'static str {
        let is_post = self.method == "POST";
        let path = self.target.split('?').next().unwrap_or_default();
        match (path.split('/').nth(2), is_post) {
            (Some("events"), true) if !path.ends_with("/stream") => "event.publish",
            (Some("events"), _) => "event.read",
            (Some("locks" | "lock-watch" | "lock-history"), true) => "lock.change",
            (Some("locks" | "lock-watch" | "lock-history"), _) => "lock.read",
            _ => "chat",
        }
    }

    /// How long the home may take.
    pub fn patience(&self) -> Duration {
        #[derive(Deserialize)]
        struct Waiting {
            #[serde(default)]
            wait_ms: u64,
        }
        let waiting = self.body.as_ref().filter(|_| self.operation() == "lock.change");
        let waiting: Option<Waiting> =
            waiting.and_then(|body| serde_json::from_str(body.get()).ok());
        PATIENCE.saturating_add(Duration::from_millis(waiting.map_or(0, |body| body.wait_ms)))
    }
}

/// How much longer a home may take for so many bytes over a slow line.
pub fn time_for(bytes: u64) -> Duration {
    Duration::from_secs(bytes / (32 << 10))
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Node {
    /// Asks a home and gives its answer as it is.
    ///
    /// # Errors
    /// As [`Node::forward`]: where there was none.
    pub async fn ask(
        &self,
        home: &RelayId,
        carried: &Carried,
        grant: Option<String>,
    ) -> Result<(Answer, Option<BodyStream>), Problem> {
        match &carried.body {
            Some(body) if body.get().len() > MAX_INLINE => {
                let bytes = Bytes::copy_from_slice(body.get().as_bytes());
                let whole = futures_util::stream::once(std::future::ready(Ok(bytes)));
                let Carried { method, target, headers, .. } = carried;
                let (method, target, headers) = (method.clone(), target.clone(), headers.clone());
                let head = Carried { method, target, headers, body: None };
                let patience = carried.patience().saturating_add(time_for(body.get().len() as u64));
                self.ask_with(home, &head, whole.boxed(), grant, patience).await
            }
            _ => self.ask_at(home, carried, None, grant, carried.patience()).await,
        }
    }

    /// As [`Self::ask`], with a body that comes in pieces.
    ///
    /// # Errors
    /// As [`Node::forward`].
    pub async fn ask_with(
        &self,
        home: &RelayId,
        carried: &Carried,
        body: BodyStream,
        grant: Option<String>,
        patience: Duration,
    ) -> Result<(Answer, Option<BodyStream>), Problem> {
        self.ask_at(home, carried, Some(body), grant, patience).await
    }

    async fn ask_at(
        &self,
        home: &RelayId,
        carried: &Carried,
        body: Option<BodyStream>,
        grant: Option<String>,
        patience: Duration,
    ) -> Result<(Answer, Option<BodyStream>), Problem> {
        let request = serde_json::value::to_raw_value(carried).map_err(|_| lost())?;
        let asked = self.forward(home, carried.operation(), request, body, grant, patience);
        let (answer, stream) = asked.await?;
        Ok((serde_json::from_str(answer.get()).map_err(|_| lost())?, stream))
    }

    /// Asks a home and reads its answer.
    ///
    /// # Errors
    /// What the home refused it with, or as [`Self::ask`].
    pub async fn ask_for<T: DeserializeOwned>(
        &self,
        home: &RelayId,
        carried: &Carried,
        grant: Option<String>,
    ) -> Result<T, Problem> {
        let (answer, stream) = self.ask(home, carried, grant).await?;
        let success = answer.is_success();
        let bytes = whole(answer.body, stream).await?;
        if !success {
            return Err(problem_of(serde_json::from_slice(&bytes).unwrap_or_default()));
        }
        serde_json::from_slice(&bytes).map_err(|_| lost())
    }
}

async fn whole(body: Option<Json>, stream: Option<BodyStream>) -> Result<Bytes, Problem> {
    let Some(mut stream) = stream else {
        return Ok(body
            .map(|body| String::from(Box::<str>::from(body)).into())
            .unwrap_or_default());
    };
    let mut bytes = BytesMut::new();
    while let Some(piece) = stream.next().await {
        // The way broke in the middle of the answer: it may be asked for again.
        let piece = piece.map_err(|error| Problem::new(Code::HomeUnreachable, error.message))?;
        if bytes.len() + piece.len() > MAX_ANSWER {
            return Err(lost());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

/// The answer of a home that makes no sense.
pub fn lost() -> Problem {
    Problem::new(Code::InternalError, "the home's answer cannot be read")
}

/// The problem of a home in its members.
pub fn problem_of(mut members: Map<String, Value>) -> Problem {
    let mut take = |name| members.remove(name)?.as_str().map(str::to_owned);
    let code = take("code").and_then(|code| Code::parse(&code)).unwrap_or(Code::InternalError);
    let message = take("message").unwrap_or_else(|| "the home refused".to_owned());
    for standard in ["type", "title", "status", "detail", "id"] {
        members.remove(standard);
    }
    Problem { code, message, extra: members }
}
