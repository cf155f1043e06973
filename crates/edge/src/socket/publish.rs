//! `event.publish`: frames that are here together go to verification together.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use relay_core::events::{Lane, Published};
use relay_node::Node;
use relay_proto::{
    Code, Problem, RawEvent,
    event::parse_event,
    frame::{Frame, encode, encode_error},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use crate::{events::Receipt, homes};

/// Events of one connection that may be under way; beyond it the socket is not read.
const MAX_IN_FLIGHT: usize = 1_024;

/// Who would have to wait longer for a rate is told so instead.
const LONGEST_WAIT_MS: u64 = 60_000;

/// What one connection has published and not yet been told about.
pub(super) struct Publishes {
    /// Read, not yet handed on.
    raws: Vec<RawEvent>,
    ids: Vec<Option<String>>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    in_flight: usize,
    /// What is sent on one socket is stored in the order sent.
    lane: Option<Lane>,
    /// Something waits for a rate: the socket is not read meanwhile.
    slowed: Arc<AtomicBool>,
    /// One batch at a time goes to other homes, so that these too get them in the order sent.
    turn: Arc<Semaphore>,
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

impl Default for Publishes {
    fn default() -> Self {
        Self {
            raws: Vec::new(),
            ids: Vec::new(),
            jobs: FuturesUnordered::new(),
            in_flight: 0,
            lane: None,
            slowed: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Publishes {
    /// Whether more may be read.
    pub fn has_room(&self) -> bool {
        self.in_flight + self.raws.len() < MAX_IN_FLIGHT && !self.slowed.load(Ordering::Relaxed)
    }

    /// Takes one frame into the next batch.
    pub fn add(&mut self, node: &Node, frame: &Frame<'_>) -> Result<(), Problem> {
        let body: Body<'_> = frame.body()?;
        let raw = parse_event(body.event.get().as_bytes(), &node.event_limits())?;
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
        let lane = *self.lane.get_or_insert_with(|| node.events.lane());
        let (node, slowed) = (node.clone(), self.slowed.clone());
        let turn = (!node.homes.all_here()).then(|| self.turn.clone());
        self.jobs.push(Box::pin(async move {
            let _turn = match &turn {
                Some(turn) => turn.acquire().await.ok(),
                None => None,
            };
            let outcomes = if node.quotas.has_rates() {
                publish_at_rate(&node, lane, raws, &slowed).await
            } else {
                homes::publish(&node, lane, raws, false).await
            };
            Done { ids, outcomes }
        }));
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.raws.is_empty()
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

/// On a socket, publishing above a rate is slowed by not reading, never refused.
async fn publish_at_rate(
    node: &Arc<Node>,
    lane: Lane,
    raws: Vec<RawEvent>,
    slowed: &AtomicBool,
) -> Vec<Result<Published, Problem>> {
    let mut outcomes = homes::publish(node, lane, raws.clone(), false).await;
    for (outcome, raw) in outcomes.iter_mut().zip(raws) {
        while let Some(wait) = wait_of(outcome) {
            slowed.store(true, Ordering::Relaxed);
            tokio::time::sleep(wait).await;
            let again = homes::publish(node, lane, vec![raw.clone()], false).await.pop();
            if let Some(next) = again {
                *outcome = next;
            }
        }
    }
    slowed.store(false, Ordering::Relaxed);
    outcomes
}

/// How long to wait before an event may pass, if only its rate was too high.
fn wait_of(outcome: &Result<Published, Problem>) -> Option<Duration> {
    let problem = outcome.as_ref().err().filter(|problem| problem.code == Code::RateLimited)?;
    let wait_ms = problem.extra.get("retry_after_ms")?.as_u64()?;
    (wait_ms <= LONGEST_WAIT_MS).then(|| Duration::from_millis(wait_ms.max(1)))
}
