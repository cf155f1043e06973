//! `rpc.call`, `rpc.notify` and `rpc.cancel` on a socket; answered by `rpc.result`, `rpc.stream` and
//! `rpc.error` under the same id.

use std::collections::HashMap;

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use relay_actors::BodyStream;
use relay_proto::{
    Call, CallError, Problem,
    call::{Incoming, Json, check_idempotency_key},
    frame::{Frame, encode},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio_util::sync::CancellationToken;

use super::{connection::Connection, requests::Reply};
use crate::{calls, locks};

/// Calls of one connection under way at once; one more is refused.
const MAX_CALLS: usize = 256;

/// The calls of one connection.
#[derive(Default)]
pub(super) struct Calls {
    running: FuturesUnordered<BoxFuture<'static, Step>>,
    /// By the id of their frame.
    cancels: HashMap<String, CancellationToken>,
}

/// What a call under way came to.
enum Step {
    /// Its last frame.
    Last(String, String),
    /// A frame, and where the next piece comes from.
    More { id: String, frame: String, stream: BodyStream, seq: u64 },
    /// Its caller cancelled it; no answer.
    Cancelled(String),
}

/// The body of `rpc.call` and `rpc.notify`.
#[derive(Deserialize)]
struct CallBody {
    /// As in JSON-RPC, in either form.
    method: Option<String>,
    params: Option<Json>,
    /// Instead of `method`: JSON-RPC requests that are run beside each other.
    batch: Option<Box<RawValue>>,
    timeout_ms: Option<u64>,
    version: Option<String>,
    idempotency_key: Option<String>,
    trace: Option<String>,
    /// Whether the result may come in pieces.
    #[serde(default)]
    stream: bool,
}

#[derive(Deserialize)]
struct CancelBody {
    /// The id of the `rpc.call` frame.
    call: String,
}

impl Calls {
    /// The next frame to send; `None` while no call is under way.
    ///
    /// # Cancel safety
    /// No frame is lost.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            match self.running.next().await? {
                Step::Last(id, frame) => {
                    self.cancels.remove(&id);
                    return Some(frame);
                }
                Step::More { id, frame, stream, seq } => {
                    let cancel = self.cancels.entry(id.clone()).or_default().clone();
                    self.running.push(Box::pin(next_piece(id, stream, seq, cancel)));
                    return Some(frame);
                }
                Step::Cancelled(id) => {
                    self.cancels.remove(&id);
                }
            }
        }
    }

    fn begin(&mut self, id: &str) -> Result<CancellationToken, Problem> {
        if self.cancels.contains_key(id) {
            return Err(Problem::invalid(format!("a call with the id '{id}' is under way")));
        }
        if self.cancels.len() >= MAX_CALLS {
            let message = format!("at most {MAX_CALLS} calls under way on one connection");
            return Err(Problem::new(relay_proto::Code::LimitExceeded, message));
        }
        let cancel = CancellationToken::new();
        self.cancels.insert(id.to_owned(), cancel.clone());
        Ok(cancel)
    }
}

/// Serves a frame of this area.
pub(super) async fn handle(on: &mut Connection, frame: &Frame<'_>) -> Result<Reply, Problem> {
    locks::need_key(&on.principal)?;
    match &*frame.t {
        "rpc.call" => call(on, frame),
        "rpc.notify" => notify(on, frame).await,
        "rpc.cancel" => {
            let CancelBody { call } = frame.body()?;
            if let Some(cancel) = on.calls.cancels.get(&call) {
                cancel.cancel();
            }
            Ok(Reply::None)
        }
        other => Err(Problem::invalid(format!("unknown frame type '{other}'"))),
    }
}

fn call(on: &mut Connection, frame: &Frame<'_>) -> Result<Reply, Problem> {
    let id = frame.id.as_deref().ok_or_else(|| Problem::invalid("rpc.call needs an id"))?;
    let body: CallBody = frame.body()?;
    let cancel = on.calls.begin(id)?;
    let (node, id) = (on.node.clone(), id.to_owned());
    let caller = calls::caller_of(&node, &on.principal);
    let step: BoxFuture<'static, Step> = Box::pin(async move {
        let running = async {
            if let Some(batch) = &body.batch {
                return match Incoming::parse(batch.get().as_bytes()) {
                    Ok(Incoming::Batch(entries)) => {
                        let answers = calls::http::batch(&node, &caller, entries).await;
                        Step::Last(id.clone(), result(&id, &json!({ "batch": answers })))
                    }
                    _ => {
                        let error =
                            CallError::invalid_params("batch is a list of 1 to 100 requests");
                        Step::Last(id.clone(), failure(&id, &error))
                    }
                };
            }
            let outcome = match body.call() {
                Ok(call) => node.call(call, caller, None).await,
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) => Step::Last(id.clone(), failure(&id, &error)),
                Ok(reply) => match reply.stream {
                    None => Step::Last(id.clone(), result(&id, &json!({ "result": reply.value }))),
                    Some(stream) => {
                        let body = json!({ "result": reply.value, "stream": true });
                        let frame = result(&id, &body);
                        Step::More { id: id.clone(), frame, stream, seq: 0 }
                    }
                },
            }
        };
        match cancel.run_until_cancelled(running).await {
            Some(step) => step,
            None => Step::Cancelled(id),
        }
    });
    on.calls.running.push(step);
    Ok(Reply::None)
}

/// A message without an answer; the frame is only answered where it has an id, when it was handed over.
async fn notify(on: &mut Connection, frame: &Frame<'_>) -> Result<Reply, Problem> {
    let body: CallBody = frame.body()?;
    let call = body.call().map_err(Problem::from)?;
    let caller = calls::caller_of(&on.node, &on.principal);
    let router = on.node.services.router.clone();
    let Some(id) = frame.id.as_deref().map(str::to_owned) else {
        let _ = router.send(call, caller).await;
        return Ok(Reply::None);
    };
    Ok(Reply::Later(Box::pin(async move {
        Some(match router.send(call, caller).await {
            Ok(()) => result(&id, &json!({})),
            Err(error) => failure(&id, &error),
        })
    })))
}

impl CallBody {
    fn call(self) -> Result<Call, CallError> {
        let method = self.method.ok_or_else(|| CallError::invalid_params("method is missing"))?;
        let mut call = Call::from_rpc(&method, self.params)?;
        if let Some(ms) = self.timeout_ms {
            calls::set_timeout(&mut call, ms)?;
        }
        if let Some(key) = self.idempotency_key {
            check_idempotency_key(&key)?;
            call.idempotency_key = Some(key);
        }
        call.version = self.version.or(call.version);
        call.trace = self.trace;
        call.streaming = self.stream;
        Ok(call)
    }
}

async fn next_piece(
    id: String,
    mut stream: BodyStream,
    seq: u64,
    cancel: CancellationToken,
) -> Step {
    match cancel.run_until_cancelled(stream.next()).await {
        None => Step::Cancelled(id),
        Some(Some(Ok(bytes))) => {
            let frame = encode("rpc.stream", Some(&id), &calls::piece(seq, bytes));
            Step::More { id, frame, stream, seq: seq + 1 }
        }
        Some(Some(Err(error))) => {
            let frame = failure(&id, &error);
            Step::Last(id, frame)
        }
        Some(None) => {
            let frame = encode("rpc.stream", Some(&id), &calls::last_piece(seq));
            Step::Last(id, frame)
        }
    }
}

fn result(id: &str, body: &impl serde::Serialize) -> String {
    encode("rpc.result", Some(id), body)
}

fn failure(id: &str, error: &CallError) -> String {
    encode("rpc.error", Some(id), &calls::error_body(error))
}
