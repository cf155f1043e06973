//! Sockets and streams end with the session that they speak for (`gateway.md` 4.3).

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use relay_core::sessions::{LiveSession, Over};
use relay_node::Node;
use relay_proto::{Problem, frame::encode_error};

use crate::auth::{Caller, Proof};

/// The session that a socket or stream speaks for, if any.
pub(crate) struct Held {
    /// Done when the session is over; made once, since every wake-up of the holder polls it.
    over: Option<BoxFuture<'static, Over>>,
}

impl Held {
    pub fn none() -> Self {
        Self { over: None }
    }

    pub fn session(node: &Node, session: Arc<LiveSession>) -> Self {
        let clock = node.clock.clone();
        Self { over: Some(async move { session.over(&*clock).await }.boxed()) }
    }

    /// The session that a caller proved itself with.
    pub fn of(node: &Node, caller: &Caller) -> Self {
        match &caller.proof {
            Proof::Session(session) => Self::session(node, session.clone()),
            _ => Self::none(),
        }
    }

    pub fn is_some(&self) -> bool {
        self.over.is_some()
    }

    /// Waits until the session is over; for ever where there is none.
    pub async fn over(&mut self) -> Over {
        match &mut self.over {
            Some(over) => over.await,
            None => std::future::pending().await,
        }
    }
}

/// What a socket or stream is told last when its session is over.
pub(crate) fn farewell(over: Over) -> String {
    encode_error(None, &over_problem(over))
}

/// What a waiting request is told when its session is over.
pub(crate) fn over_problem(over: Over) -> Problem {
    Problem::unauthorized(match over {
        Over::Revoked => "session revoked",
        Over::Expired => "session expired",
    })
}
