//! `/v1/attach`: a program on this machine serves calls, or has a script or a bridge run, for as long
//! as it stays connected. Only on the local socket, and only for the relay's operator.
//!
//! Frames of the program: `service.register`, `service.script`, `service.withdraw`, and its answers
//! `service.result` and `service.error`. Frames of the relay: `service.registered` or `error`,
//! `service.call` and `service.cancel`, `service.log`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    extract::{
        Request, State, WebSocketUpgrade,
        ws::{Message, WebSocket, rejection::WebSocketUpgradeRejection},
    },
    response::IntoResponse,
};
use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered, SelectAll},
};
use relay_actors::{
    Journal, Reply as CallReply, ServiceInfo, Visibility,
    bridge::{ChannelBridge, Passed},
    script::LoadOptions,
};
use relay_node::{Node, ServiceSpec, Way, services::script_problem};
use relay_proto::{
    CallError, Code, Problem, ServiceName,
    call::Json,
    frame::{Frame, encode, encode_error},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    auth::{self, Proof},
    reply::{Refused, Reply},
    stall::STUCK,
};

/// Longest frame: a script, a call's arguments or its result.
const MAX_FRAME: usize = 16 << 20;
/// Services of one connection.
const MAX_SERVICES: usize = 64;
/// A program that sends nothing is asked for a sign of life, and taken for gone after three.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const MAX_UNANSWERED: u32 = 3;

/// `GET /v1/attach`.
pub(crate) async fn upgrade(
    State(node): State<Arc<Node>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    let who = auth::caller(&node, &parts, &[]).await?;
    if !matches!(who.proof, Proof::LocalSocket) {
        let message = "programs attach on the relay's local socket, as its operator";
        return Err(Problem::forbidden(message).into());
    }
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => {
            let problem = Problem::invalid(format!("this path is a WebSocket: {rejection}"));
            return Ok(Refused(problem).into_response());
        }
    };
    let token = node.tasks.token();
    let upgrade = upgrade.max_message_size(MAX_FRAME).max_frame_size(MAX_FRAME);
    Ok(upgrade.on_upgrade(move |socket| async move {
        Box::pin(Attached::new(node, socket).run()).await;
        drop(token);
    }))
}

#[derive(Deserialize)]
struct Register {
    service_name: ServiceName,
    version: Option<String>,
    #[serde(default)]
    methods: Vec<String>,
    #[serde(default = "public")]
    visibility: Visibility,
    #[serde(default)]
    metadata: Map<String, Value>,
    /// Where the relay itself reaches the program; else its calls come as `service.call`.
    http: Option<String>,
    proxy: Option<String>,
    health: Option<String>,
    allow: Option<Vec<String>>,
    /// Whether to send its log.
    #[serde(default)]
    log: bool,
}

const fn public() -> Visibility {
    Visibility::Public
}

#[derive(Deserialize)]
struct Script {
    /// The name it goes by in errors; one of a name runs at a time.
    file: String,
    text: String,
    /// Only this one of its services.
    service: Option<ServiceName>,
    #[serde(default)]
    log: bool,
}

#[derive(Deserialize)]
struct Withdraw {
    service_name: ServiceName,
}

#[derive(Deserialize)]
struct ResultBody {
    result: Json,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: i64,
    #[serde(default)]
    message: String,
    data: Option<Value>,
}

type Answer = Result<CallReply, CallError>;

/// One connected program.
struct Attached {
    node: Arc<Node>,
    socket: WebSocket,
    services: Vec<ServiceName>,
    script: Option<String>,
    /// Calls on their way to the program.
    passed: SelectAll<BoxStream<'static, (ServiceName, Passed)>>,
    /// Its log lines, as frames.
    logs: SelectAll<BoxStream<'static, String>>,
    followed: Vec<ServiceName>,
    /// Calls that the program has, by id.
    open: HashMap<String, oneshot::Sender<Answer>>,
    /// Each waits for an answer or for its caller to go; gives the id, and whether it is to be cancelled.
    waiting: FuturesUnordered<BoxFuture<'static, (String, bool)>>,
    /// Services that end when their calls under way have their answers; gives the frame that says so.
    ending: FuturesUnordered<BoxFuture<'static, String>>,
    last_id: u64,
}

/// The connection is over.
struct Over;

impl Attached {
    fn new(node: Arc<Node>, socket: WebSocket) -> Self {
        Self {
            node,
            socket,
            services: Vec::new(),
            script: None,
            passed: SelectAll::new(),
            logs: SelectAll::new(),
            followed: Vec::new(),
            open: HashMap::new(),
            waiting: FuturesUnordered::new(),
            ending: FuturesUnordered::new(),
            last_id: 0,
        }
    }

    async fn run(mut self) {
        let Over = self.serve().await;
        // Callers that wait for an answer of the program are told that it is gone, and hold up nothing.
        self.passed.clear();
        self.waiting.clear();
        while self.ending.next().await.is_some() {}
        for name in &self.services {
            self.node.services.end(name).await;
        }
        if let Some(file) = &self.script {
            self.node.services.end_script(file).await;
        }
    }

    async fn serve(&mut self) -> Over {
        let stop = self.node.stop.clone();
        let (mut ping_at, mut unanswered) = (Instant::now() + PING_INTERVAL, 0);
        loop {
            let done = tokio::select! {
                () = stop.cancelled() => return Over,
                message = self.socket.recv() => {
                    (ping_at, unanswered) = (Instant::now() + PING_INTERVAL, 0);
                    match message {
                        Some(Ok(Message::Text(text))) => self.take(&text).await,
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                        _ => Err(Over),
                    }
                }
                Some((service, passed)) = self.passed.next(), if !self.passed.is_empty() => {
                    self.hand_over(&service, passed).await
                }
                Some((id, cancelled)) = self.waiting.next(), if !self.waiting.is_empty() => {
                    self.open.remove(&id);
                    match cancelled {
                        true => self.send(encode("service.cancel", Some(&id), &json!({}))).await,
                        false => Ok(()),
                    }
                }
                Some(frame) = self.ending.next(), if !self.ending.is_empty() => {
                    self.send(frame).await
                }
                Some(frame) = self.logs.next(), if !self.logs.is_empty() => self.send(frame).await,
                () = tokio::time::sleep_until(ping_at) => {
                    (ping_at, unanswered) = (Instant::now() + PING_INTERVAL, unanswered + 1);
                    match unanswered > MAX_UNANSWERED {
                        true => Err(Over),
                        false => self.socket.send(Message::Ping(Vec::new().into())).await.map_err(|_| Over),
                    }
                }
            };
            if done.is_err() {
                return Over;
            }
        }
    }

    async fn send(&mut self, text: String) -> Result<(), Over> {
        let sent = self.socket.send(Message::Text(text.into()));
        // A program that does not read is gone for us.
        tokio::time::timeout(STUCK, sent).await.map_err(|_| Over)?.map_err(|_| Over)
    }

    async fn take(&mut self, text: &str) -> Result<(), Over> {
        let frame = match Frame::parse(text) {
            Ok(frame) => frame,
            Err(fault) => {
                return self.send(encode_error(fault.id.as_deref(), &fault.problem)).await;
            }
        };
        let id = frame.id.as_deref();
        let outcome = match &*frame.t {
            "service.result" | "service.error" => {
                self.answered(&frame);
                return Ok(());
            }
            "service.register" => self.register(&frame).map(|name| json!({ "services": [name] })),
            "service.script" => self.script(&frame).await,
            "service.withdraw" => match self.withdraw(&frame) {
                Ok(()) => return Ok(()),
                Err(problem) => Err(problem),
            },
            other => Err(Problem::invalid(format!("unknown frame type '{other}'"))),
        };
        let answer = match outcome {
            Ok(body) => encode("service.registered", id, &body),
            Err(problem) => encode_error(id, &problem),
        };
        self.send(answer).await
    }

    fn register(&mut self, frame: &Frame<'_>) -> Result<ServiceName, Problem> {
        let asked: Register = frame.body()?;
        if self.services.len() >= MAX_SERVICES {
            let message = format!("at most {MAX_SERVICES} services on one connection");
            return Err(Problem::new(Code::LimitExceeded, message));
        }
        let name = asked.service_name;
        let mut info = ServiceInfo::new(name.clone());
        if let Some(version) = &asked.version {
            info.version = version
                .parse()
                .map_err(|_| Problem::invalid(format!("version '{version}': expected 1.2.0")))?;
        }
        info.methods = asked.methods;
        info.metadata = asked.metadata;
        info.visibility = asked.visibility;
        let way = match (asked.http, asked.proxy) {
            (Some(url), None) => Way::Http(url),
            (None, Some(url)) => Way::Proxy(url),
            (None, None) => Way::Attached(self.channel(&name)),
            (Some(_), Some(_)) => return Err(Problem::invalid("one of http and proxy")),
        };
        let mut spec = ServiceSpec::new(info, way);
        spec.health = asked.health;
        spec.allow = asked.allow;
        self.node.services.start(spec)?;
        self.services.push(name.clone());
        if asked.log {
            self.follow(&name);
        }
        Ok(name)
    }

    /// The way of a service's calls to this connection.
    fn channel(&mut self, name: &ServiceName) -> ChannelBridge {
        let (bridge, calls) = ChannelBridge::new();
        let name = name.clone();
        let calls = stream::unfold(calls, move |mut calls| {
            let name = name.clone();
            async move { calls.recv().await.map(|passed| ((name, passed), calls)) }
        });
        self.passed.push(calls.boxed());
        bridge
    }

    async fn script(&mut self, frame: &Frame<'_>) -> Result<Value, Problem> {
        let asked: Script = frame.body()?;
        match &self.script {
            Some(file) if *file == asked.file => {}
            Some(_) => return Err(Problem::invalid("one script on one connection")),
            None => {
                self.node.services.claim_script(&asked.file)?;
                self.script = Some(asked.file.clone());
            }
        }
        let options = LoadOptions { limits: None, only: asked.service };
        let loaded = self.node.services.scripts.load_with(&asked.file, &asked.text, options).await;
        let services = loaded.map_err(script_problem)?;
        if asked.log {
            services.iter().for_each(|name| self.follow(name));
        }
        Ok(json!({ "services": services }))
    }

    /// No new calls; the answer comes when those under way have theirs, for which this connection is needed.
    fn withdraw(&mut self, frame: &Frame<'_>) -> Result<(), Problem> {
        let Withdraw { service_name } = frame.body()?;
        let Some(at) = self.services.iter().position(|name| *name == service_name) else {
            return Err(Problem::not_found(format!("no service '{service_name}' of yours")));
        };
        self.services.swap_remove(at);
        let (node, id) = (self.node.clone(), frame.id.as_deref().map(str::to_owned));
        self.ending.push(Box::pin(async move {
            node.services.end(&service_name).await;
            encode("service.registered", id.as_deref(), &json!({ "services": [] }))
        }));
        Ok(())
    }

    /// Sends the log of a service from now on.
    fn follow(&mut self, name: &ServiceName) {
        let Some(journal) = self.node.services.router.journal(name) else { return };
        if self.followed.contains(name) {
            return;
        }
        self.followed.push(name.clone());
        self.logs.push(lines(name.clone(), journal));
    }

    /// Gives a call to the program.
    async fn hand_over(&mut self, service: &ServiceName, passed: Passed) -> Result<(), Over> {
        let Passed { request, mut answer } = passed;
        self.last_id += 1;
        let id = format!("c{}", self.last_id);
        let left = request.deadline.saturating_duration_since(Instant::now());
        let body = json!({
            "service_name": service,
            "method": request.method,
            "args": request.args,
            "caller": request.caller,
            "timeout_ms": left.as_millis() as u64,
            "idempotency_key": request.idempotency_key,
            "trace": request.trace,
        });
        let (reply, mut replied) = oneshot::channel();
        self.open.insert(id.clone(), reply);
        let text = encode("service.call", Some(&id), &body);
        self.waiting.push(Box::pin(async move {
            tokio::select! {
                result = &mut replied => {
                    if let Ok(result) = result {
                        let _ = answer.send(result);
                    }
                    (id, false)
                }
                () = answer.closed() => (id, true),
            }
        }));
        self.send(text).await
    }

    /// The program's answer to a call; a late one finds nobody.
    fn answered(&mut self, frame: &Frame<'_>) {
        let Some(waiting) = frame.id.as_deref().and_then(|id| self.open.remove(id)) else { return };
        let answer = match &*frame.t {
            "service.result" => frame.body().map(|ResultBody { result }| Ok(result.into())),
            _ => frame.body().map(|error: ErrorBody| {
                Err(CallError::from_wire(error.code, error.message, error.data))
            }),
        };
        let broken = |_| Err(CallError::internal("the program's answer cannot be read"));
        let _ = waiting.send(answer.unwrap_or_else(broken));
    }
}

/// The lines of a log as frames, from now on.
fn lines(service: ServiceName, journal: Journal) -> BoxStream<'static, String> {
    let newest = journal.newest();
    let after = *newest.borrow();
    let start = (service, journal, newest, after);
    let batches = stream::unfold(start, |(service, journal, mut newest, mut after)| async move {
        newest.changed().await.ok()?;
        let lines = journal.after(after);
        after = lines.last().map_or(after, |line| line.number);
        let frames: Vec<String> = lines
            .iter()
            .map(|line| {
                let body = json!({
                    "service_name": service,
                    "at_ms": line.at_ms,
                    "level": line.level,
                    "message": line.message,
                });
                encode("service.log", None, &body)
            })
            .collect();
        Some((stream::iter(frames), (service, journal, newest, after)))
    });
    batches.flatten().boxed()
}
