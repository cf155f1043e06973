//! `conv.*`, `presence.*` and `inbox.*` frames (`gateway.md` 2.1, 15).

use futures_util::FutureExt;
use relay_core::conversations::PendingAnswer;
use relay_proto::{
    Problem,
    conv::{Answer, Caller, Request},
    frame::{Frame, encode, encode_error},
};
use serde::Deserialize;
use serde_json::json;

use super::{connection::Connection, requests::Reply};
use crate::chat::ContactsBody;

#[derive(Deserialize)]
struct InboxSubscribe {
    from_seq: Option<u64>,
}

#[derive(Deserialize)]
struct InboxAck {
    seq: u64,
}

/// Serves a frame of the gateway; `None` where it is not one.
pub(super) fn handle(on: &mut Connection, frame: &Frame<'_>) -> Option<Result<Reply, Problem>> {
    let serve: fn(&mut Connection, &Frame<'_>, Caller) -> Result<Reply, Problem> = match &*frame.t {
        "conv.subscribe" => |on, frame, caller| {
            let id = frame.id.as_deref().map(str::to_owned);
            on.subscriptions.feeds().subscribe(caller, frame.body()?, id)?;
            Ok(Reply::None)
        },
        "conv.send" => |on, frame, caller| {
            let request = Request::Send(frame.body()?);
            Ok(acked(frame, on.node.chat(caller, request)))
        },
        "conv.commit" => |on, frame, caller| {
            let request = Request::Commit(frame.body()?);
            Ok(acked(frame, on.node.chat(caller, request)))
        },
        "conv.ack" => |on, frame, caller| {
            let request = Request::Ack(frame.body()?);
            Ok(silent(frame, on.node.chat(caller, request)))
        },
        "presence.watch" => |on, frame, caller| watch(on, frame, caller, true),
        "presence.unwatch" => |on, frame, caller| watch(on, frame, caller, false),
        "inbox.subscribe" => |on, frame, caller| {
            let asked: InboxSubscribe = frame.body()?;
            let id = frame.id.as_deref().map(str::to_owned);
            on.subscriptions.feeds().subscribe_inbox(caller, asked.from_seq, id);
            Ok(Reply::None)
        },
        "inbox.ack" => |on, frame, caller| {
            let InboxAck { seq } = frame.body()?;
            let (node, id) = (on.node.clone(), frame.id.as_deref().map(str::to_owned));
            Ok(Reply::Later(Box::pin(async move {
                let acked = node.inboxes.ack(&caller, seq).await;
                acked.err().map(|problem| encode_error(id.as_deref(), &problem))
            })))
        },
        _ => return None,
    };
    Some(on.chat_caller().and_then(|caller| serve(on, frame, caller)))
}

fn acked(frame: &Frame<'_>, answer: PendingAnswer) -> Reply {
    let id = frame.id.as_deref().map(str::to_owned);
    Reply::Later(
        answer
            .map(move |answer| {
                Some(match answer {
                    Ok(Answer::Acked(acked)) => encode("conv.acked", id.as_deref(), &acked),
                    Ok(other) => encode("conv.acked", id.as_deref(), &other.to_json()),
                    Err(problem) => encode_error(id.as_deref(), &problem),
                })
            })
            .boxed(),
    )
}

/// Only a refusal is told.
fn silent(frame: &Frame<'_>, answer: PendingAnswer) -> Reply {
    let id = frame.id.as_deref().map(str::to_owned);
    let answer =
        answer.map(move |answer| answer.err().map(|problem| encode_error(id.as_deref(), &problem)));
    Reply::Later(answer.boxed())
}

fn watch(on: &Connection, frame: &Frame<'_>, caller: Caller, add: bool) -> Result<Reply, Problem> {
    let contacts = frame.body::<ContactsBody>()?.users();
    let (node, id) = (on.node.clone(), frame.id.as_deref().map(str::to_owned));
    Ok(Reply::Later(Box::pin(async move {
        Some(match node.presence.watch(&caller, contacts, add).await {
            Ok(watching) => {
                encode("presence.watching", id.as_deref(), &json!({ "watching": watching }))
            }
            Err(problem) => encode_error(id.as_deref(), &problem),
        })
    })))
}
