//! `POST /v1/inbox`, where frames come in without a socket, and the device's own inbox (`gateway.md` 7, 15).

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
};
use relay_node::Node;
use relay_proto::{
    Problem,
    conv::{self, Answer},
    frame::Frame,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{caller, caller_and_body, parse};
use crate::{
    params::Params,
    reply::{Reply, no_store},
};

/// The body of `inbox.ack`.
#[derive(Deserialize)]
pub(crate) struct InboxAck {
    pub seq: u64,
}

/// One `conv.send`, `conv.commit` or `conv.ack`.
pub(super) async fn post(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, bytes) = caller_and_body(&node, request).await?;
    let malformed = || Problem::invalid("malformed json");
    let text = std::str::from_utf8(&bytes).map_err(|_| malformed())?;
    let frame = Frame::parse(text).map_err(|fault| {
        // A version that is not ours is like any other fault here.
        Problem::invalid(fault.problem.message)
    })?;
    let request = match &*frame.t {
        "conv.send" => conv::Request::Send(frame.body()?),
        "conv.commit" => conv::Request::Commit(frame.body()?),
        "conv.ack" => conv::Request::Ack(frame.body()?),
        _ => return Err(Problem::invalid("the inbox takes conv.send and conv.ack").into()),
    };
    let answer = match node.chat(caller, request).await? {
        Answer::Acked(acked) => {
            let mut answer = json!({
                "status": "ok",
                "seq": acked.seq,
                "conv_home": acked.conv_home,
                "origin_gateway": acked.origin_gateway,
            });
            if let Some(epoch) = acked.epoch {
                answer["epoch"] = epoch.into();
            }
            answer
        }
        _ => json!({ "status": "ok" }),
    };
    Ok(no_store(StatusCode::OK, &answer))
}

/// `POST /v1/inbox/ack {seq}`: as the frame `inbox.ack`.
pub(super) async fn ack(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, bytes) = caller_and_body(&node, request).await?;
    let InboxAck { seq } = parse(&bytes)?;
    node.inboxes.ack(&caller, seq).await?;
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok" })))
}

/// `GET /v1/inbox/events?from_seq=`: a page of the device's inbox.
pub(super) async fn events(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = caller(&node, &parts).await?;
    let from_seq = Params::parse(parts.uri.query())?.parsed("from_seq")?;
    let page = node.inboxes.page(&caller, from_seq).await?;
    let bodies: Result<Vec<Value>, _> =
        page.frames.iter().map(|(_, frame)| serde_json::from_slice(frame)).collect();
    let items: Vec<Value> = bodies
        .map_err(|_| Problem::new(relay_proto::Code::InternalError, "an entry is damaged"))?
        .into_iter()
        .map(|mut frame| frame["body"].take())
        .collect();
    let answer = json!({ "items": items, "latest_seq": page.latest_seq, "more": page.more });
    Ok(no_store(StatusCode::OK, &answer))
}
