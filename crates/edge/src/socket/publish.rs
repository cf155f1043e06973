//! `event.publish`: frames that are here together go to verification together.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use relay_core::events::Published;
use relay_node::Node;
use relay_proto::{
    Problem, RawEvent,
    event::parse_event,
    frame::{Frame, encode, encode_error},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::events::Receipt;

/// Events of one connection that may be under way; beyond it the socket is not read.
const MAX_IN_FLIGHT: usize = 1_024;

/// What one connection has published and not yet been told about.
#[derive(Default)]
pub(super) struct Publishes {
    /// Read, not yet handed on.
    raws: Vec<RawEvent>,
    ids: Vec<Option<String>>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    in_flight: usize,
}

/// The outcomes of one batch with the ids of their frames.
pub(super) struct Done {
    ids: Vec<Option<String>>,
    outcomes: Vec<Result<Published, Problem>>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    event: &'a RawValue,
}

impl Publishes {
    /// Whether more may be read.
    pub fn has_room(&self) -> bool {
        self.in_flight + self.raws.len() < MAX_IN_FLIGHT
    }

    /// Takes one frame into the next batch.
    pub fn add(&mut self, node: &Node, frame: &Frame<'_>) -> Result<(), Problem> {
        let body: Body<'_> = frame.body()?;
        let raw = parse_event(body.event.get().as_bytes(), &node.event_limits)?;
        self.raws.push(raw);
        self.ids.push(frame.id.as_deref().map(str::to_owned));
        Ok(())
    }

    /// Hands the batch on.
    pub fn start(&mut self, node: &Arc<Node>) {
        if self.raws.is_empty() {
            return;
        }
        let raws = std::mem::take(&mut self.raws);
        let ids = std::mem::take(&mut self.ids);
        self.in_flight += raws.len();
        let events = node.events.clone();
        self.jobs.push(Box::pin(async move {
            let outcomes = events.publish(raws).await;
            Done { ids, outcomes }
        }));
    }

    /// The next batch that is decided; never completes while none is under way.
    pub async fn next_done(&mut self) -> Option<Done> {
        let done = self.jobs.next().await?;
        self.in_flight -= done.ids.len();
        Some(done)
    }

    /// The answers to a batch.
    pub fn answers(&self, done: Done) -> impl Iterator<Item = String> + use<> {
        let ids = VecDeque::from(done.ids);
        ids.into_iter().zip(done.outcomes).map(|(id, outcome)| match outcome {
            Ok(published) => encode("event.ok", id.as_deref(), &Receipt::from(&published)),
            Err(problem) => encode_error(id.as_deref(), &problem),
        })
    }
}
