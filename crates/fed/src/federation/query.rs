//! Spokes ask: the registry is not pushed to them, so what a person on a spoke wants to see of the
//! federation its hub tells when asked.

use std::{collections::HashMap, sync::Arc, time::Duration};

use relay_proto::{
    CallError,
    call::{Json, RpcCode},
    link::{Message, MessageType},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Federation, Shared, views::ServiceQuery, wire};
use crate::link::{Answered, Role};

/// What a spoke asks its hub: the `data` of a `service_discovery` message with a `message_id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Query {
    /// [`super::views::RegistryView`], of at most [`MAX_TOLD`] services.
    Services(ServiceQuery),
    /// [`super::views::TopologyView`], with the asker as its only spoke.
    Topology,
    /// [`super::views::PeerView`]s.
    Peers,
    /// [`super::views::HealthView`].
    Health,
}

/// The most services a hub tells a spoke in one answer.
pub const MAX_TOLD: usize = 1000;
/// How long an answer is good.
const FRESH: Duration = Duration::from_secs(1);
/// Answers that are kept; when there are more all are forgotten.
const MAX_KEPT: usize = 64;
/// How long a hub has to answer.
const PATIENCE_MS: u64 = 5_000;

/// Answers of the hub, for a moment.
#[derive(Debug, Default)]
pub(super) struct Asked {
    answers: HashMap<Query, (Duration, Json)>,
}

impl Asked {
    fn fresh(&self, now: Duration, query: &Query) -> Option<Json> {
        let (at, answer) = self.answers.get(query)?;
        (now.saturating_sub(*at) < FRESH).then(|| answer.clone())
    }

    fn keep(&mut self, now: Duration, query: Query, answer: Json) {
        if self.answers.len() >= MAX_KEPT {
            self.answers.clear();
        }
        self.answers.insert(query, (now, answer));
    }
}

impl Federation {
    /// On a spoke: asks its hub. An answer may be a second old.
    ///
    /// # Errors
    /// Unreachable without a hub; what the hub refuses.
    pub async fn ask_hub<T: DeserializeOwned>(&self, query: Query) -> Result<T, CallError> {
        let shared = &self.shared;
        let kept = shared.lock().asked.fresh(shared.now(), &query);
        let answer = match kept {
            Some(answer) => answer,
            None => shared.ask_hub(query).await?,
        };
        wire::read(&answer)
            .map_err(|error| CallError::internal(format!("the hub's answer: {error}")))
    }

    fn answer_query(&self, query: &Query, asker: &relay_proto::RelayId) -> Option<Json> {
        match query {
            Query::Services(query) => {
                let mut view = self.services(query);
                view.truncated |= view.services.len() > MAX_TOLD;
                view.services.truncate(MAX_TOLD);
                wire::to_json(&view)
            }
            Query::Topology => {
                let mut view = self.topology();
                view.spokes.retain(|spoke| spoke.id == *asker);
                view.links.retain(|link| link.from == *asker || link.to == *asker);
                wire::to_json(&view)
            }
            Query::Peers => wire::to_json(&self.peers()),
            Query::Health => wire::to_json(&self.health()),
        }
    }
}

impl Shared {
    async fn ask_hub(self: &Arc<Self>, query: Query) -> Result<Json, CallError> {
        let link = self.lock().up().cloned();
        let link = link.ok_or_else(|| {
            CallError::new(RpcCode::NodeUnreachable, "there is no link to a hub").not_started()
        })?;
        let mut message = Message::new(MessageType::ServiceDiscovery);
        message.message_id = Some("query".into());
        message.deadline_ms = Some(PATIENCE_MS);
        message.data = wire::to_json(&query);
        let answered = link.request(message, None).await.map_err(|error| {
            CallError::new(RpcCode::NodeUnreachable, format!("the hub was not reached: {error}"))
        })?;
        if answered.message.message_type == MessageType::Error {
            return Err(wire::read_error(&answered.message));
        }
        let missing = || CallError::internal("the hub answered nothing");
        let answer = answered.message.data.ok_or_else(missing)?;
        self.lock().asked.keep(self.now(), query, answer.clone());
        Ok(answer)
    }

    /// Answers a spoke's question.
    pub(super) fn answer(
        self: &Arc<Self>,
        asker: &relay_proto::RelayId,
        message: &Message,
    ) -> Answered {
        let query: Option<Query> = message.data.as_ref().and_then(|data| wire::read(data).ok());
        let handle = Federation { shared: self.clone() };
        let data = match (query, self.config.role) {
            (Some(query), Role::Main) => handle.answer_query(&query, asker),
            _ => None,
        };
        let Some(data) = data else {
            self.count(&self.counters.malformed);
            let error = CallError::new(RpcCode::InvalidRequest, "data is no question to a hub");
            return wire::refused(&error);
        };
        let mut message = Message::new(MessageType::Response);
        message.data = Some(data);
        Answered { message, stream: None }
    }
}
