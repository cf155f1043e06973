//! `/v1/ws` and `/v1/stream`: one socket carries every area (`common.md`, The frame).
//!
//! One task serves one socket: it reads frames, collects publishes into batches, keeps the subscriptions, and writes. It never
//! waits for one thing only: what takes time (commits, pages, locks in line) is a future among others.

mod chat;
mod connection;
mod pace;
mod publish;
mod requests;
mod rpc;
mod session;

use std::sync::Arc;

use axum::{
    extract::{Request, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};
use relay_node::Node;
use relay_proto::Problem;

use crate::{
    auth,
    reply::{Refused, Reply},
    sessions,
};
use connection::{Client, Connection};

/// What is read from the system at once. Larger buffers are touched for every idle connection.
const READ_BUFFER: usize = 4 << 10;
/// Frames are joined up to this many bytes before they are written.
const WRITE_BUFFER: usize = 32 << 10;

/// Turns the request into a socket.
pub(crate) async fn upgrade(
    State(node): State<Arc<Node>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: Request,
) -> Reply {
    let (parts, _) = request.into_parts();
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return Ok(not_a_socket(&rejection)),
    };
    check_origin(&node.live().chat.cors_origins, &parts.headers)?;
    let caller = auth::caller(&node, &parts, &[]).await?;
    let address = auth::client_address(&node, &parts);
    let session = caller.session().ok().map(|session| &**session);
    let client = Client {
        place: node.connections.enter(&node.live().chat, address, session)?,
        address,
        label: sessions::label_of(&parts.headers),
        caller,
    };
    let max_frame = node.live().chat.max_frame.0 as usize;
    let token = node.tasks.token();
    let response = upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(max_frame)
        .max_frame_size(max_frame)
        .on_upgrade(move |socket| {
            // A task of its own: the one that waited for the upgrade is larger, and ends here.
            let connection = Box::new(Connection::new(node.clone(), socket, client));
            node.tasks.spawn(connection.run());
            drop(token);
            std::future::ready(())
        });
    Ok(response)
}

/// Browsers say where a page is from; pages of origins that are not listed get no socket.
fn check_origin(listed: &[String], headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    if listed.is_empty() || listed.iter().any(|known| origin == known.as_str()) {
        Ok(())
    } else {
        Err(Problem::forbidden("the origin of this page is not listed"))
    }
}

/// When a client should come back to a relay that stops: spread over the time of the drain.
pub(crate) fn retry_advice_ms(node: &Node) -> u64 {
    let spread_ms = node.live().drain.timeout.as_millis() as u64;
    node.clock.mono_ns() / 1_000 % spread_ms.max(1)
}

fn not_a_socket(rejection: &WebSocketUpgradeRejection) -> Response {
    let mut response =
        Refused(Problem::invalid(format!("this path is a WebSocket: {rejection}"))).into_response();
    *response.status_mut() = http::StatusCode::UPGRADE_REQUIRED;
    response
}
