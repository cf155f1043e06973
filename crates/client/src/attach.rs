//! Serving calls from a program on the relay's own machine, for as long as it stays connected.
//!
//! Works on the relay's local socket only ([`Client::builder`] with `unix:PATH`), for its operator.

use std::{collections::VecDeque, fmt, time::Duration};

use futures_util::{SinkExt, StreamExt};
use relay_proto::{
    CallError, Caller, Code, Problem, ServiceName,
    address::Method,
    call::Json,
    frame::{Frame, encode},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    client::Client,
    error::Error,
    socket::{PING_EVERY, SILENCE, Socket},
};

/// A service that a program offers.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceOffer {
    /// Its name.
    pub service_name: ServiceName,
    /// Semver; `1.0.0` where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Empty where any method may be asked for.
    pub methods: Vec<String>,
    /// `public` or `private`.
    pub visibility: &'static str,
    /// The URL of a JSON-RPC endpoint that the relay calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// The base URL of an HTTP server that the relay passes requests to itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// A path that the relay's health checks ask, with `http` or `proxy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Whether to be sent the service's log.
    pub log: bool,
}

/// A connection over which a program serves calls. Dropping it withdraws its services.
pub struct Attachment {
    socket: Socket,
    /// What came while an answer was waited for.
    early: VecDeque<Served>,
    last_id: u64,
    url: String,
    timeout: Duration,
}

/// What comes over an [`Attachment`].
#[derive(Debug)]
pub enum Served {
    /// A call of a service that was offered without URL; to be answered under its id.
    Call(Box<PassedCall>),
    /// Nobody waits for the call of this id any more.
    Cancel(String),
    /// A line of a service's log.
    Log(ServiceLog),
}

/// A call to serve.
#[derive(Debug, Deserialize)]
pub struct PassedCall {
    /// Names the call in its answer.
    #[serde(skip)]
    pub id: String,
    /// Which of the offered services.
    pub service_name: ServiceName,
    /// The method.
    pub method: Method,
    /// The arguments as JSON text.
    pub args: Option<Json>,
    /// Who calls, as proven on the way in.
    pub caller: Caller,
    /// What is left of the caller's time.
    pub timeout_ms: u64,
    /// Where the caller may repeat the call; the relay answers repeats.
    pub idempotency_key: Option<String>,
    /// W3C traceparent.
    pub trace: Option<String>,
}

/// A line of a service's log.
#[derive(Debug, Deserialize)]
pub struct ServiceLog {
    /// Whose.
    pub service_name: ServiceName,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The line.
    pub message: String,
}

impl Client {
    /// Attaches this program to the relay on this machine.
    ///
    /// # Errors
    /// `forbidden` where it is not the relay's operator on the local socket; any [`Error`] of the transport.
    pub async fn attach(&self) -> Result<Attachment, Error> {
        let socket = self.socket("/v1/attach").await?;
        Ok(Attachment {
            socket,
            early: VecDeque::new(),
            last_id: 0,
            url: self.address(),
            timeout: self.inner.timeout,
        })
    }
}

impl Attachment {
    /// Offers a service from now on.
    ///
    /// # Errors
    /// `conflict` for a name that is taken, `invalid_request`; any [`Error`] of the transport.
    pub async fn register(&mut self, offer: &ServiceOffer) -> Result<Vec<ServiceName>, Error> {
        self.ask("service.register", offer).await
    }

    /// Has the relay run a script, or a new version of it with the state kept; gives its services.
    ///
    /// # Errors
    /// `invalid_request` with `file` and `line` for a script that cannot be taken: then the old
    /// version goes on. `conflict` where one of this name runs already.
    pub async fn script(
        &mut self,
        file: &str,
        text: &str,
        only: Option<&ServiceName>,
    ) -> Result<Vec<ServiceName>, Error> {
        let body = json!({ "file": file, "text": text, "service": only, "log": true });
        self.ask("service.script", &body).await
    }

    /// Answers a call.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn answer(&mut self, id: &str, result: Result<Json, CallError>) -> Result<(), Error> {
        let text = match result {
            Ok(result) => encode("service.result", Some(id), &json!({ "result": result })),
            Err(error) => {
                let (code, data) = (error.code.number(), error.wire_data());
                let body = json!({ "code": code, "message": error.message, "data": data });
                encode("service.error", Some(id), &body)
            }
        };
        self.send(text).await
    }

    /// What comes next.
    ///
    /// # Errors
    /// The connection ended, or the relay gave no sign of life for 30 s.
    ///
    /// # Cancel safety
    /// May stand in `select!`.
    pub async fn next(&mut self) -> Result<Served, Error> {
        if let Some(served) = self.early.pop_front() {
            return Ok(served);
        }
        loop {
            let text = self.receive().await?;
            if let Some(served) = served(&text) {
                return Ok(served);
            }
        }
    }

    async fn ask(&mut self, t: &str, body: &impl Serialize) -> Result<Vec<ServiceName>, Error> {
        #[derive(Deserialize)]
        struct Registered {
            services: Vec<ServiceName>,
        }
        self.last_id += 1;
        let id = format!("a{}", self.last_id);
        self.send(encode(t, Some(&id), body)).await?;
        let deadline = tokio::time::Instant::now() + self.timeout;
        loop {
            let received = tokio::time::timeout_at(deadline, self.receive()).await;
            let text = received
                .map_err(|_| Error::Timeout { url: self.url.clone(), after: self.timeout })??;
            let Ok(frame) = Frame::parse(&text) else { continue };
            if frame.id.as_deref() == Some(id.as_str()) && !frame.t.starts_with("service.c") {
                return match &*frame.t {
                    "error" => Err(Error::Refused {
                        problem: Box::new(problem(frame.body().unwrap_or_default())),
                        request_id: None,
                    }),
                    _ => frame
                        .body()
                        .map(|Registered { services }| services)
                        .map_err(|problem| self.odd(problem.message)),
                };
            }
            self.early.extend(served(&text));
        }
    }

    async fn send(&mut self, text: String) -> Result<(), Error> {
        let sent = self.socket.send(Message::text(text)).await;
        sent.map_err(|error| self.gone(error.to_string()))
    }

    /// The next text frame; pings meanwhile.
    async fn receive(&mut self) -> Result<String, Error> {
        let mut silence = Duration::ZERO;
        loop {
            match tokio::time::timeout(PING_EVERY, self.socket.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => return Ok(text.to_string()),
                Ok(Some(Ok(Message::Close(_)))) | Ok(None) => {
                    return Err(self.gone("the relay closed the connection".to_owned()));
                }
                Ok(Some(Ok(_))) => silence = Duration::ZERO,
                Ok(Some(Err(error))) => return Err(self.gone(error.to_string())),
                Err(_) => {
                    silence += PING_EVERY;
                    if silence >= SILENCE {
                        return Err(self.gone("no sign of life".to_owned()));
                    }
                    let pinged = self.socket.send(Message::Ping(Vec::new().into())).await;
                    pinged.map_err(|error| self.gone(error.to_string()))?;
                }
            }
        }
    }

    fn gone(&self, cause: String) -> Error {
        Error::Unreachable { url: self.url.clone(), cause }
    }

    fn odd(&self, what: String) -> Error {
        Error::Protocol { url: self.url.clone(), what }
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment").field("url", &self.url).finish_non_exhaustive()
    }
}

fn served(text: &str) -> Option<Served> {
    let frame = Frame::parse(text).ok()?;
    let id = frame.id.as_deref().map(str::to_owned);
    match &*frame.t {
        "service.call" => {
            let call: PassedCall = serde_json::from_str(frame.body).ok()?;
            Some(Served::Call(Box::new(PassedCall { id: id?, ..call })))
        }
        "service.cancel" => Some(Served::Cancel(id?)),
        "service.log" => serde_json::from_str(frame.body).ok().map(Served::Log),
        _ => None,
    }
}

fn problem(mut members: serde_json::Map<String, Value>) -> Problem {
    let mut text = |name: &str| {
        let value = members.remove(name);
        value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let (code, message) = (text("code"), text("message"));
    Problem { code: Code::parse(&code).unwrap_or(Code::InternalError), message, extra: members }
}
