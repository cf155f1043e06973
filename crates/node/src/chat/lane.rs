//! Messages on their way to other homes, in the order sent.
//!
//! A device's messages that cannot go straight to a line of this relay wait in its lane. One task works a lane off: it
//! finds out where they belong and sends what waits for one home as one request, so that the order stays and a slow
//! way costs one round trip for many.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use ahash::RandomState;
use dashmap::DashMap;
use relay_core::conversations::PendingAnswer;
use relay_proto::{
    Code, NodeId, Problem, RelayId,
    auth::DeviceId,
    conv::{Answer, Caller, Request, request::Send},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::afar::Home;
use crate::{
    homes::wire::{Carried, lost, problem_of},
    node::Node,
};

/// Messages of a device that may wait.
const MAX_WAITING: usize = 1_024;
/// Requests that are sent at once, and their bytes: well below what a link takes as one message.
const MAX_BATCH: usize = 128;
const MAX_BYTES: usize = 512 << 10;
/// When to come back to a lane that is full, milliseconds.
const FULL_RETRY_MS: u64 = 1_000;

type Key = (NodeId, DeviceId);
type Waiting = (Caller, Send, oneshot::Sender<Result<Answer, Problem>>);

/// Every lane in which something waits.
#[derive(Debug, Default)]
pub(super) struct Lanes(DashMap<Key, Arc<Mutex<VecDeque<Waiting>>>, RandomState>);

/// What relays ask each other of conversations: requests as their doors took them, in order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Requests {
    pub requests: Vec<Request>,
}

/// One outcome for each request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcomes {
    pub outcomes: Vec<Outcome>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Answer(Answer),
    Problem(Map<String, Value>),
}

impl From<Result<Answer, Problem>> for Outcome {
    fn from(result: Result<Answer, Problem>) -> Self {
        match result {
            Ok(answer) => Self::Answer(answer),
            Err(problem) => Self::Problem(problem.members()),
        }
    }
}

impl Node {
    /// Sends a message to wherever it belongs, after those that the device sent before.
    pub(super) fn send_in_order(self: &Arc<Self>, caller: Caller, send: Send) -> PendingAnswer {
        let key = (caller.user, caller.device.clone());
        let lanes = &self.afar.lanes.0;
        let is_here = self.noted_place(caller.user, &send.conv_id) == Some(Home::Here);
        if is_here && !lanes.contains_key(&key) {
            return self.conversations.serve(caller, Request::Send(send));
        }
        let (tell, told) = oneshot::channel();
        let mut starts = false;
        {
            // Whoever ends a lane holds this entry as well.
            let lane = lanes.entry(key.clone()).or_insert_with(|| {
                starts = true;
                Arc::default()
            });
            let mut waiting = lane.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() >= MAX_WAITING {
                let problem = Problem::rate_limited("too many messages wait", FULL_RETRY_MS)
                    .with("retry_after_s", FULL_RETRY_MS.div_ceil(1_000));
                return Box::pin(std::future::ready(Err(problem)));
            }
            waiting.push_back((caller, send, tell));
        }
        if starts {
            let node = self.clone();
            self.tasks.spawn(async move { node.work_off(key).await });
        }
        Box::pin(async move {
            let stopping = |_| Problem::new(Code::HomeUnreachable, "the relay is stopping");
            told.await.map_err(stopping)?
        })
    }

    async fn work_off(self: Arc<Self>, key: Key) {
        while let Some((caller, send, tell)) = self.next_waiting(&key) {
            let placed = self.stop.run_until_cancelled(self.place_of(&caller, &send.conv_id)).await;
            match placed {
                None => {}
                Some(Err(problem)) => drop(tell.send(Err(problem))),
                Some(Ok(Home::Here)) => {
                    // It has its place in the line when this returns; the answer comes later.
                    let answer = self.conversations.serve(caller, Request::Send(send));
                    self.tasks.spawn(async move { drop(tell.send(answer.await)) });
                }
                Some(Ok(Home::At(home))) => {
                    self.send_run(&key, &home, (caller, send, tell)).await;
                }
            }
        }
    }

    /// Sends a message and those behind it that are for the same home.
    async fn send_run(&self, key: &Key, home: &RelayId, first: Waiting) {
        let (caller, send, tell) = first;
        let mut bytes = send.env.len();
        let (mut requests, mut tells) = (vec![Request::Send(send)], vec![tell]);
        let there = Home::At(home.clone());
        while requests.len() < MAX_BATCH {
            let next = self.next_waiting_if(key, |other, send| {
                bytes += send.env.len();
                bytes <= MAX_BYTES
                    && other.grant == caller.grant
                    && self.noted_place(other.user, &send.conv_id).as_ref() == Some(&there)
            });
            let Some((_, send, tell)) = next else { break };
            requests.push(Request::Send(send));
            tells.push(tell);
        }
        match self.ask_in_order(home, &caller, requests).await {
            Ok(outcomes) => {
                for (tell, outcome) in tells.into_iter().zip(outcomes) {
                    let _ = tell.send(outcome);
                }
            }
            Err(problem) => {
                for tell in tells {
                    let _ = tell.send(Err(problem.clone()));
                }
            }
        }
    }

    /// The first that waits; where nothing does the lane ends.
    fn next_waiting(&self, key: &Key) -> Option<Waiting> {
        let mut found = None;
        self.afar.lanes.0.remove_if(key, |_, lane| {
            found = lane.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            found.is_none()
        });
        found
    }

    /// The first that waits, if it is one of these.
    fn next_waiting_if(
        &self,
        key: &Key,
        is_one: impl FnOnce(&Caller, &Send) -> bool,
    ) -> Option<Waiting> {
        let lane = self.afar.lanes.0.get(key)?;
        let mut waiting = lane.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.front().filter(|(caller, send, _)| is_one(caller, send))?;
        waiting.pop_front()
    }

    /// Asks a home several things; one outcome for each.
    ///
    /// # Errors
    /// `home_unreachable`, `timeout`: whether it was done is not known, and it may be asked again.
    pub(super) async fn ask_in_order(
        &self,
        home: &RelayId,
        caller: &Caller,
        requests: Vec<Request>,
    ) -> Result<Vec<Result<Answer, Problem>>, Problem> {
        let count = requests.len();
        let carried = Carried::post_value("/v1/homes/requests", &Requests { requests })?;
        let Outcomes { outcomes } =
            self.ask_for(home, &carried, Some(self.grant_of(caller)?)).await?;
        if outcomes.len() != count {
            return Err(lost());
        }
        let outcomes = outcomes.into_iter().map(|outcome| match outcome {
            Outcome::Answer(answer) => Ok(answer),
            Outcome::Problem(members) => Err(problem_of(members)),
        });
        Ok(outcomes.collect())
    }
}
