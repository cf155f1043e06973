//! `conv.*`, `presence.*` and `inbox.*` frames (`gateway.md` 2.1, 15): the ones belong to a conversation's home, the
//! others to the user's.

use futures_util::FutureExt;
use relay_core::conversations::PendingAnswer;
use relay_node::chat::Home;
use relay_proto::{
    Problem,
    conv::{Answer, Caller, Request},
    frame::{Frame, encode, encode_error},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{connection::Connection, requests::Reply};
use crate::{
    chat::{ContactsBody, InboxAck},
    homes::{Carried, Tail},
    subscriptions::INBOX,
};

#[derive(Deserialize)]
struct InboxSubscribe {
    from_seq: Option<u64>,
}

/// Serves a frame about what lies at the home of the user; `None` where it is not one.
pub(super) async fn of_user(
    on: &mut Connection,
    frame: &Frame<'_>,
) -> Option<Result<Reply, Problem>> {
    let path = match &*frame.t {
        "presence.watch" => "/v1/presence/watch",
        "presence.unwatch" => "/v1/presence/unwatch",
        "inbox.subscribe" => "/v1/homes/inbox",
        "inbox.ack" => "/v1/inbox/ack",
        _ => return None,
    };
    Some(serve_of_user(on, frame, path).await)
}

async fn serve_of_user(
    on: &mut Connection,
    frame: &Frame<'_>,
    path: &'static str,
) -> Result<Reply, Problem> {
    let caller = on.chat_caller()?;
    let id = frame.id.as_deref().map(str::to_owned);
    let home = match on.node.is_alone() {
        true => Home::Here,
        false => on.node.home_of_caller(caller.user).await?,
    };
    match (&*frame.t, home) {
        ("inbox.subscribe", Home::Here) => {
            let InboxSubscribe { from_seq } = frame.body()?;
            on.subscriptions.feeds().subscribe_inbox(caller, from_seq, id);
            Ok(Reply::None)
        }
        ("inbox.subscribe", Home::At(home)) => {
            let InboxSubscribe { from_seq } = frame.body()?;
            let from = from_seq.map(|seq| format!("?from_seq={seq}")).unwrap_or_default();
            let asked = Carried::get(format!("{path}{from}"));
            let tail = Tail::new(on.node.clone(), home, asked, on.asker());
            on.subscriptions.follow(INBOX.to_owned(), id, tail).await?;
            Ok(Reply::None)
        }
        ("inbox.ack", Home::Here) => {
            let InboxAck { seq } = frame.body()?;
            let node = on.node.clone();
            Ok(Reply::Later(Box::pin(async move {
                let acked = node.inboxes.ack(&caller, seq).await;
                acked.err().map(|problem| encode_error(id.as_deref(), &problem))
            })))
        }
        (t, Home::Here) => watch(on, frame, caller, t == "presence.watch"),
        (t, Home::At(home)) => {
            let carried = Carried::post(path, frame.body)?;
            let (node, grant) = (on.node.clone(), on.node.grant_of(&caller)?);
            let is_silent = t == "inbox.ack";
            Ok(Reply::Later(Box::pin(async move {
                match node.ask_for::<Value>(&home, &carried, Some(grant)).await {
                    Ok(_) if is_silent => None,
                    Ok(answer) => {
                        let body = json!({ "watching": answer["watching"] });
                        Some(encode("presence.watching", id.as_deref(), &body))
                    }
                    Err(problem) => Some(encode_error(id.as_deref(), &problem)),
                }
            })))
        }
    }
}

/// Serves a frame about conversations; `None` where it is not one.
pub(super) fn handle(on: &mut Connection, frame: &Frame<'_>) -> Option<Result<Reply, Problem>> {
    let serve: fn(&mut Connection, &Frame<'_>, Caller) -> Result<Reply, Problem> = match &*frame.t {
        "conv.subscribe" => |on, frame, caller| {
            let id = frame.id.as_deref().map(str::to_owned);
            on.subscriptions.feeds().subscribe(caller, frame.body()?, id)?;
            Ok(Reply::None)
        },
        "conv.send" => |on, frame, caller| {
            let request = Request::Send(frame.body()?);
            Ok(answered("conv.acked", frame, on.node.chat(caller, request)))
        },
        "conv.commit" => |on, frame, caller| {
            let request = Request::Commit(frame.body()?);
            Ok(answered("conv.acked", frame, on.node.chat(caller, request)))
        },
        "conv.rejoin_request" => |on, frame, caller| {
            let request = Request::Rejoin(frame.body()?);
            Ok(answered("conv.rejoin_requested", frame, on.node.chat(caller, request)))
        },
        "conv.ack" => |on, frame, caller| {
            let request = Request::Ack(frame.body()?);
            Ok(silent(frame, on.node.chat(caller, request)))
        },
        _ => return None,
    };
    Some(on.chat_caller().and_then(|caller| serve(on, frame, caller)))
}

fn answered(t: &'static str, frame: &Frame<'_>, answer: PendingAnswer) -> Reply {
    let id = frame.id.as_deref().map(str::to_owned);
    Reply::Later(
        answer
            .map(move |answer| {
                Some(match answer {
                    Ok(Answer::Acked(acked)) => encode(t, id.as_deref(), &acked),
                    Ok(other) => encode(t, id.as_deref(), &other.to_json()),
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
                node.contacts_changed(&caller.user);
                encode("presence.watching", id.as_deref(), &json!({ "watching": watching }))
            }
            Err(problem) => encode_error(id.as_deref(), &problem),
        })
    })))
}
