//! The connection to one relay, and how one request goes.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use relay_proto::{Code, NodeId, Problem, RelayId};
pub use reqwest::Method;
use reqwest::{
    Response, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::{auth::Credentials, endpoint::Endpoint, error::Error, session, signer::Signer};

/// A relay, as one caller sees it. Cloning is cheap and shares the connections.
///
/// The process must have a TLS provider installed before the first client is built:
/// `rustls::crypto::ring::default_provider().install_default()`.
///
/// ```no_run
/// # async fn example() -> Result<(), relay_client::Error> {
/// use relay_client::{Client, keys};
///
/// let key = keys::generate()?;
/// let client = Client::builder("https://relay.example.com")?.key(key).build()?;
/// println!("{}", client.info().await?);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    http: reqwest::Client,
    pub(crate) endpoint: Endpoint,
    pub(crate) credentials: Credentials,
    /// Signs events; may be there although requests are authenticated by a token.
    signer: Option<Arc<Signer>>,
    pub(crate) timeout: Duration,
    /// Our leave for the relay to speak for us at other homes, made when it first asks for one.
    grant: Mutex<Option<Arc<str>>>,
}

/// Settings of a [`Client`].
#[derive(Debug)]
pub struct ClientBuilder {
    endpoint: Endpoint,
    credentials: Credentials,
    signer: Option<Arc<Signer>>,
    timeout: Duration,
    user_agent: String,
}

impl ClientBuilder {
    /// Signs requests and events with this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Signer>) -> Self {
        let key = Arc::new(key.into());
        self.signer = Some(key.clone());
        self.credentials = Credentials::Key(key);
        self
    }

    /// Authenticates requests with a bearer token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credentials = Credentials::token(token);
        self
    }

    /// Signs events with this key, and leaves alone how requests are authenticated.
    #[must_use]
    pub fn signer(mut self, key: impl Into<Signer>) -> Self {
        self.signer = Some(Arc::new(key.into()));
        self
    }

    /// The deadline of one operation; 10 s by default. Waiting for a lock adds to it, a stream
    /// counts it for connecting only.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What the relay's log calls this program.
    #[must_use]
    pub fn user_agent(mut self, name: impl Into<String>) -> Self {
        self.user_agent = name.into();
        self
    }

    /// Makes the client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Address`] where the transport cannot be set up.
    pub fn build(self) -> Result<Client, Error> {
        let mut http = reqwest::Client::builder()
            .user_agent(self.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE);
        #[cfg(unix)]
        if let Endpoint::Unix(path) = &self.endpoint {
            http = http.unix_socket(path.clone());
        }
        let http = http.build().map_err(|error| {
            Error::Address(format!("cannot set up a client: {}", chain(&error)))
        })?;
        Ok(Client {
            inner: Arc::new(Inner {
                http,
                endpoint: self.endpoint,
                credentials: self.credentials,
                signer: self.signer,
                timeout: self.timeout,
                grant: Mutex::default(),
            }),
        })
    }
}

/// Carries a grant where no session does.
pub(crate) const GRANT_HEADER: &str = "relay-grant";
/// What requests without a session call their device in grants.
const GRANT_DEVICE: &str = "relay-client";
/// Finds dead peers of long waits in bounded time.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// The deadline of one operation unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// So much of a body leaves between two words of its progress.
const PIECE: usize = 64 << 10;
/// No answer of a relay to one request is larger; a page of the largest events has room.
const MAX_ANSWER: usize = 192 << 20;

/// One request, before it is signed and sent.
#[derive(Debug, Clone)]
pub struct Request {
    /// The HTTP method.
    pub method: Method,
    /// The path, beginning with `/`.
    pub path: String,
    /// Query parameters, not yet encoded.
    pub query: Vec<(String, String)>,
    /// More headers: name in lower case, and value.
    pub headers: Vec<(&'static str, String)>,
    /// What to send.
    pub body: Option<Body>,
    /// Told how many bytes of the body have left.
    pub sent: Option<watch::Sender<u64>>,
    /// Added to the client's deadline: how long the relay may take on purpose.
    pub patience: Duration,
    /// Whether a request whose answer was lost may be sent again.
    pub repeatable: bool,
    /// Whether to authenticate; publishing needs nothing but the event's signature.
    pub signed: bool,
}

/// Bytes to send and their media type.
#[derive(Debug, Clone)]
pub struct Body {
    /// The `Content-Type`.
    pub media_type: &'static str,
    /// The body as it is sent.
    pub bytes: bytes::Bytes,
}

impl Request {
    /// A request without body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        let repeatable = method == Method::GET;
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            sent: None,
            patience: Duration::ZERO,
            repeatable,
            signed: true,
        }
    }

    /// A GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// A POST of a JSON object.
    pub fn post(path: impl Into<String>, body: &Value) -> Self {
        Self::new(Method::POST, path).json(body)
    }

    /// Adds a JSON body.
    #[must_use]
    pub fn json(mut self, body: &Value) -> Self {
        let bytes = body.to_string().into();
        self.body = Some(Body { media_type: "application/json", bytes });
        self
    }

    /// Adds one query parameter, where there is a value.
    #[must_use]
    pub fn query(mut self, name: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.query.push((name.to_owned(), value.to_string()));
        }
        self
    }
}

/// A body that leaves in pieces, and tells after each how much has left.
fn told(bytes: bytes::Bytes, sent: watch::Sender<u64>) -> reqwest::Body {
    let pieces = futures_util::stream::unfold((bytes, 0), move |(mut left, gone)| {
        sent.send_replace(gone);
        let piece = left.split_to(left.len().min(PIECE));
        let gone = gone + piece.len() as u64;
        let next = (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), (left, gone)));
        std::future::ready(next)
    });
    reqwest::Body::wrap_stream(pieces)
}

impl Client {
    /// Begins a client for the relay at `address`: `https://HOST`, `http://HOST` or `unix:PATH`.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn builder(address: &str) -> Result<ClientBuilder, Error> {
        Ok(ClientBuilder {
            endpoint: address.parse()?,
            credentials: Credentials::Anonymous,
            signer: None,
            timeout: DEFAULT_TIMEOUT,
            user_agent: concat!("relay-client/", env!("CARGO_PKG_VERSION")).into(),
        })
    }

    /// The relay's address.
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// The key that signs events.
    ///
    /// # Errors
    /// [`Error::NoKey`].
    pub fn signer(&self) -> Result<&Signer, Error> {
        self.inner.signer.as_deref().ok_or(Error::NoKey)
    }

    /// The author of this client's events, where it has a key.
    pub fn node_id(&self) -> Option<NodeId> {
        self.inner.signer.as_deref().map(Signer::node_id)
    }

    /// What the relay says of itself: id, key, version, limits (`GET /v1/info`).
    ///
    /// # Errors
    /// Any [`Error`] of the transport.
    pub async fn info(&self) -> Result<Value, Error> {
        self.call(Request { signed: false, ..Request::get("/v1/info") }).await
    }

    /// Asks whether the relay is ready, and notes what the answer tells about the way to it.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Timeout`].
    pub async fn probe(&self) -> Result<Probe, Error> {
        let url = self.inner.endpoint.url("/readyz", &[]);
        let after = self.inner.timeout;
        let begun = std::time::Instant::now();
        let response = tokio::time::timeout(after, self.inner.http.get(url).send())
            .await
            .map_err(|_| Error::Timeout { url: self.address(), after })?
            .map_err(|error| self.unreachable(&error))?;
        let date = response.headers().get(reqwest::header::DATE);
        Ok(Probe {
            ready: response.status().is_success(),
            took: begun.elapsed(),
            date: date.and_then(|date| date.to_str().ok()).map(str::to_owned),
        })
    }

    /// Sends a request and reads the JSON answer. For what this crate has no method for.
    ///
    /// # Errors
    /// Any [`Error`] of the transport, and the relay's refusal.
    pub async fn call<T: DeserializeOwned>(&self, request: Request) -> Result<T, Error> {
        let bytes = self.fetch(request).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.protocol_error(error.to_string()))
    }

    /// Sends a request and returns the body of the answer as it came.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn fetch(&self, request: Request) -> Result<bytes::Bytes, Error> {
        let deadline = self.inner.timeout.saturating_add(request.patience);
        let exchange = async {
            match self.exchange(&request).await {
                Err(error) if request.signed && self.grants_what_is_asked(&error)? => {
                    self.exchange(&request).await
                }
                other => other,
            }
        };
        match tokio::time::timeout(deadline, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Timeout { url: self.address(), after: deadline }),
        }
    }

    /// Whether the relay refused for want of a grant (`federation.md`, Homes), which then is made.
    /// A relay can only ask for one for itself: at any other it is worth nothing.
    pub(crate) fn grants_what_is_asked(&self, error: &Error) -> Result<bool, Error> {
        let Some(signer) = &self.inner.signer else { return Ok(false) };
        let asked = error.problem().filter(|problem| problem.code == Code::Unauthorized);
        let edge = asked.and_then(|problem| problem.extra.get("grant_for")?.as_str());
        let Some(edge) = edge.and_then(|edge| edge.parse::<RelayId>().ok()) else {
            return Ok(false);
        };
        let grant = session::make_grant(signer, edge, GRANT_DEVICE)?;
        *self.inner.grant.lock().unwrap_or_else(PoisonError::into_inner) = Some(grant.into());
        Ok(true)
    }

    /// The grant that a relay asked for last.
    pub(crate) fn grant(&self) -> Option<Arc<str>> {
        self.inner.grant.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends, and once more where the connection broke after it had been made: pooled connections
    /// may have been closed by the other end, and a repeatable request does no harm.
    async fn exchange(&self, request: &Request) -> Result<bytes::Bytes, Error> {
        match self.once(request).await {
            Err(Failure::Broken(_)) if request.repeatable => {
                self.once(request).await.map_err(Failure::into_error)
            }
            other => other.map_err(Failure::into_error),
        }
    }

    async fn once(&self, request: &Request) -> Result<bytes::Bytes, Failure> {
        let url = self.inner.endpoint.url(&request.path, &request.query);
        let mut http = self.inner.http.request(request.method.clone(), url.clone());
        let body = request.body.as_ref().map(|body| &body.bytes[..]);
        if request.signed {
            let header = self.authorization(&request.method, &url, body)?;
            if let Some(value) = header {
                http = http.header(AUTHORIZATION, value);
            }
            if let Some(grant) = self.grant() {
                http = http.header(GRANT_HEADER, &*grant);
            }
        }
        http = http.header(ACCEPT, "application/json");
        for (name, value) in &request.headers {
            http = http.header(*name, value);
        }
        if let Some(body) = &request.body {
            http = http.header(CONTENT_TYPE, body.media_type);
            http = match &request.sent {
                None => http.body(body.bytes.clone()),
                Some(sent) => http
                    .header(CONTENT_LENGTH, body.bytes.len())
                    .body(told(body.bytes.clone(), sent.clone())),
            };
        }
        let response = http.send().await.map_err(|error| self.transport_failure(&error))?;
        if response.status().is_success() {
            return self.read(response).await;
        }
        let refusal = Refusal::of(&response);
        let bytes = self.read(response).await?;
        Err(Failure::Final(self.refusal(refusal, &bytes)))
    }

    /// The response where it is a success, else the refusal in it.
    pub(crate) async fn successful(&self, response: Response) -> Result<Response, Error> {
        if response.status().is_success() {
            return Ok(response);
        }
        let refusal = Refusal::of(&response);
        let after = self.inner.timeout;
        let bytes = tokio::time::timeout(after, self.read(response))
            .await
            .map_err(|_| Error::Timeout { url: self.address(), after })?
            .map_err(Failure::into_error)?;
        Err(self.refusal(refusal, &bytes))
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.inner.http
    }

    /// The refusal of a WebSocket upgrade.
    pub(crate) fn refused_upgrade(&self, status: u16, body: &[u8]) -> Error {
        self.refusal(Refusal { status, request_id: None, retry_after_s: None }, body)
    }

    pub(crate) fn unreachable(&self, error: &reqwest::Error) -> Error {
        Error::Unreachable { url: self.address(), cause: chain(error) }
    }

    pub(crate) fn authorization(
        &self,
        method: &Method,
        url: &Url,
        body: Option<&[u8]>,
    ) -> Result<Option<reqwest::header::HeaderValue>, Error> {
        self.inner.credentials.header(method, url, body)
    }

    async fn read(&self, mut response: Response) -> Result<bytes::Bytes, Failure> {
        let mut whole = bytes::BytesMut::new();
        while let Some(part) =
            response.chunk().await.map_err(|error| self.transport_failure(&error))?
        {
            if whole.len() + part.len() > MAX_ANSWER {
                return Err(Failure::Final(self.protocol_error("answer too large".into())));
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole.freeze())
    }

    fn refusal(&self, refusal: Refusal, body: &[u8]) -> Error {
        let mut members: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let text = |value: Option<Value>| value.and_then(|v| v.as_str().map(str::to_owned));
        let code = text(members.remove("code")).and_then(|code| Code::parse(&code));
        let Some(code) = code.or_else(|| code_of_status(refusal.status)) else {
            return self.protocol_error(format!("status {}", refusal.status));
        };
        let message = text(members.remove("message"))
            .or_else(|| text(members.get("detail").cloned()))
            .unwrap_or_else(|| format!("status {}", refusal.status));
        for standard in ["type", "title", "status", "detail", "instance"] {
            members.remove(standard);
        }
        let request_id = refusal.request_id.or_else(|| text(members.remove("request_id")));
        if let Some(seconds) = refusal.retry_after_s
            && !members.contains_key("retry_after_ms")
        {
            members.insert("retry_after_ms".into(), seconds.saturating_mul(1000).into());
        }
        let problem = Problem { code, message, extra: members };
        Error::Refused { problem: Box::new(problem), request_id }
    }

    fn transport_failure(&self, error: &reqwest::Error) -> Failure {
        let failure = self.unreachable(error);
        if error.is_connect() || error.is_builder() {
            Failure::Final(failure)
        } else {
            Failure::Broken(failure)
        }
    }

    pub(crate) fn protocol_error(&self, what: String) -> Error {
        Error::Protocol { url: self.address(), what }
    }

    pub(crate) fn address(&self) -> String {
        self.inner.endpoint.to_string()
    }
}

/// What one look at a relay showed.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Whether it takes work now.
    pub ready: bool,
    /// From asking to the head of the answer.
    pub took: Duration,
    /// The relay's wall clock as an HTTP date, to the second.
    pub date: Option<String>,
}

/// How one attempt failed.
enum Failure {
    /// Before or after the relay could act on it, for certain.
    Final(Error),
    /// On the way: the relay may or may not have acted.
    Broken(Error),
}

impl Failure {
    fn into_error(self) -> Error {
        let (Self::Final(error) | Self::Broken(error)) = self;
        error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// What the head of a refusal says.
struct Refusal {
    status: u16,
    request_id: Option<String>,
    retry_after_s: Option<u64>,
}

impl Refusal {
    fn of(response: &Response) -> Self {
        let header = |name| {
            let value = response.headers().get(name)?;
            Some(value.to_str().ok()?.to_owned())
        };
        Self {
            status: response.status().as_u16(),
            request_id: header("relay-request-id"),
            retry_after_s: header(RETRY_AFTER.as_str()).and_then(|text| text.parse().ok()),
        }
    }
}

/// The code that a bare status stands for: answers of proxies have no problem body.
const fn code_of_status(status: u16) -> Option<Code> {
    Some(match status {
        400 => Code::InvalidRequest,
        401 => Code::Unauthorized,
        403 => Code::Forbidden,
        404 => Code::NotFound,
        409 => Code::Conflict,
        410 => Code::Gone,
        413 => Code::TooLarge,
        429 => Code::RateLimited,
        500 => Code::InternalError,
        502 | 503 => Code::HomeUnreachable,
        504 => Code::Timeout,
        _ => return None,
    })
}

/// An error with its causes in one line, outermost left out where it says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let part = cause.to_string();
        if !text.ends_with(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        next = cause.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}
