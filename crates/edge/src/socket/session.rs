//! `session.start` and `session.resume` on a socket (`gateway.md` 4.1, 4.2).

use relay_core::sessions::Started;
use relay_proto::{
    Code, Problem,
    frame::{Frame, encode, encode_error},
};

use super::{connection::Connection, requests::Reply};
use crate::sessions;

pub(super) async fn start(on: &mut Connection, frame: &Frame<'_>) -> Result<Reply, Problem> {
    if on.held.is_some() {
        return Err(Problem::invalid("this socket has a session already"));
    }
    let asked = frame.body()?;
    on.node.sessions.count_address(on.address)?;
    let started = sessions::start(&on.node, asked, on.label.clone()).await;
    if let Ok(started) = &started
        && let Err(problem) = count(on, started)
    {
        on.node.sessions.logout(&started.session).await?;
        return Ok(Reply::Last(encode_error(frame.id.as_deref(), &problem)));
    }
    Ok(take(on, frame, started).await)
}

pub(super) async fn resume(on: &mut Connection, frame: &Frame<'_>) -> Result<Reply, Problem> {
    let asked = frame.body()?;
    on.node.sessions.count_address(on.address)?;
    let started = sessions::resume(&on.node, asked).await;
    if let Ok(started) = &started
        && let Err(problem) = count(on, started)
    {
        // Its resume token is used up: to refuse now would cost the user the session.
        tracing::debug!(%problem, "a resumed session goes on above the limit");
    }
    Ok(take(on, frame, started).await)
}

/// Counts the socket as one of the session's user and device.
fn count(on: &mut Connection, started: &Started) -> Result<(), Problem> {
    on.node.connections.name(&mut on.place, &on.node.live().chat, &started.session)
}

/// Speaks for the new session from now on; a proof that does not hold ends the socket.
async fn take(on: &mut Connection, frame: &Frame<'_>, started: Result<Started, Problem>) -> Reply {
    let id = frame.id.as_deref();
    match started {
        Ok(started) => {
            on.speak_for(started.session.clone());
            Reply::Now(encode("session.ready", id, &sessions::ready(&on.node, &started).await))
        }
        Err(problem) => {
            on.node.audit.refused(&on.address.to_string(), "authenticate", "socket", &problem);
            let answer = encode_error(id, &problem);
            match problem.code {
                Code::Unauthorized | Code::ResumeFailed => Reply::Last(answer),
                _ => Reply::Now(answer),
            }
        }
    }
}
