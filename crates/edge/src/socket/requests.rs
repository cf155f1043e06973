//! What a frame asks for, by its type.

use futures_util::future::BoxFuture;
use relay_proto::{
    Problem,
    frame::{Frame, encode, encode_error},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{chat, connection::Connection, rpc, session};
use crate::{
    homes::{self, Carried, Tail},
    locks,
    subscriptions::{Subscribe, WatchLock},
};

/// How a request is answered.
pub(super) enum Reply {
    /// Not at all, or by frames of its own.
    None,
    Now(String),
    /// And then the socket is closed.
    Last(String),
    /// When it is done, if there is anything to tell; others go on meanwhile.
    Later(BoxFuture<'static, Option<String>>),
}

/// Serves one frame.
///
/// # Errors
/// What the `error` frame says.
pub(super) async fn handle(on: &mut Connection, frame: &Frame<'_>) -> Result<Reply, Problem> {
    match &*frame.t {
        "ping" => Ok(Reply::Now(encode("pong", frame.id.as_deref(), &serde_json::json!({})))),
        "pong" => Ok(Reply::None),
        "session.start" => session::start(on, frame).await,
        "session.resume" => session::resume(on, frame).await,
        "stream.subscribe" => {
            let asked: Subscribe = frame.body()?;
            if let Some(home) = homes::home_of_filters(&on.node, &asked.filters)? {
                let carried = Carried::post("/v1/events/stream", frame.body)?;
                let tail = Tail::new(on.node.clone(), home, carried, on.asker());
                let id = frame.id.as_deref().map(str::to_owned);
                on.subscriptions.follow(asked.sub, id, tail).await?;
                return Ok(Reply::None);
            }
            let reader = on.node.reader(on.principal);
            on.subscriptions.subscribe(reader, asked).await?;
            Ok(Reply::None)
        }
        "stream.unsubscribe" => {
            on.subscriptions.unsubscribe(frame.body()?).await?;
            Ok(Reply::None)
        }
        "rpc.call" | "rpc.notify" | "rpc.cancel" => rpc::handle(on, frame).await,
        "lock.acquire" => later(on, frame, "lock.acquired", |node, who, body| async move {
            locks::acquire(&node, &who, body).await
        }),
        "lock.renew" => later(on, frame, "lock.renewed", |node, who, body| async move {
            locks::renew(&node, &who, body).await
        }),
        "lock.release" => later(on, frame, "lock.released", |node, who, body| async move {
            locks::release(&node, &who, body).await
        }),
        "lock.break" => later(on, frame, "lock.released", |node, who, body| async move {
            locks::break_lease(&node, &who, body).await
        }),
        "lock.inspect" => later(on, frame, "lock.state", |node, who, body| async move {
            locks::inspect(&node, &who, body).await
        }),
        "lock.watch" => {
            locks::need_key(&on.principal)?;
            let asked: WatchLock = frame.body()?;
            if let Some((home, carried)) =
                homes::lock_frame(&on.node, &on.asker(), "lock.watch", frame.body)?
            {
                let name = asked.name();
                let tail = Tail::new(on.node.clone(), home, carried, on.asker());
                let id = frame.id.as_deref().map(str::to_owned);
                on.subscriptions.follow(name, id, tail).await?;
                return Ok(Reply::None);
            }
            let reader = on.node.reader(on.principal);
            on.subscriptions.watch_lock(&reader, asked).await?;
            Ok(Reply::None)
        }
        "social.watch" => {
            on.social.watch(&on.node, frame.body()?)?;
            Ok(Reply::Now(encode("social.watching", frame.id.as_deref(), &serde_json::json!({}))))
        }
        other => {
            if let Some(reply) = chat::handle(on, frame) {
                return reply;
            }
            if let Some(reply) = chat::of_user(on, frame).await {
                return reply;
            }
            let area = other.split('.').next().unwrap_or_default();
            if matches!(area, "conv" | "presence" | "rpc" | "inbox" | "session") {
                locks::need_key(&on.principal)?;
            }
            Err(Problem::invalid(format!("unknown frame type '{other}'")))
        }
    }
}

/// A request of somebody with a key, answered when it is done.
fn later<B, T, F, Fut>(
    on: &Connection,
    frame: &Frame<'_>,
    t: &'static str,
    run: F,
) -> Result<Reply, Problem>
where
    B: DeserializeOwned + Send + 'static,
    T: Serialize + Send + 'static,
    F: FnOnce(std::sync::Arc<relay_node::Node>, relay_core::policy::Principal, B) -> Fut
        + Send
        + 'static,
    Fut: Future<Output = Result<T, Problem>> + Send + 'static,
{
    locks::need_key(&on.principal)?;
    let body: B = frame.body()?;
    let id = frame.id.as_deref().map(str::to_owned);
    let asker = on.asker();
    if let Some((home, carried)) = homes::lock_frame(&on.node, &asker, &frame.t, frame.body)? {
        let node = on.node.clone();
        return Ok(Reply::Later(Box::pin(async move {
            Some(match homes::answer_frame(&node, &home, &carried, &asker).await {
                Ok(answer) => encode(t, id.as_deref(), &answer),
                Err(problem) => encode_error(id.as_deref(), &problem),
            })
        })));
    }
    let (node, who) = (on.node.clone(), on.principal);
    Ok(Reply::Later(Box::pin(async move {
        Some(match run(node, who, body).await {
            Ok(answer) => encode(t, id.as_deref(), &answer),
            Err(problem) => encode_error(id.as_deref(), &problem),
        })
    })))
}
