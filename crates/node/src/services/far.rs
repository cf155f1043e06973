//! What scripts publish, lock and follow where another relay is the home: forwarded there under a grant of the service's
//! own key, as requests of people are (`federation.md`, Homes).

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use relay_actors::BodyStream;
use relay_fed::{Federation, local::Forward};
use relay_proto::{
    Caller, Code, Namespace, Problem, RelayId, SigningKey,
    auth::{DeviceId, GrantClaims},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::homes::Homes;

/// How long a home may take for what does not wait on purpose.
const PATIENCE: Duration = Duration::from_secs(10);
/// A request whose way broke is sent again, which is safe: its id is the same.
const ATTEMPTS: u32 = 4;
/// Before the second attempt; doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// What scripts are called in grants.
const DEVICE: &str = "script";
/// How long a grant is good; it is made for each request.
const GRANT_MS: u64 = 60_000;

/// The way from a node's scripts to other homes.
#[derive(Clone)]
pub(crate) struct Far {
    pub homes: Arc<Homes>,
    me: RelayId,
    /// Changes when the node joins a hub or leaves one.
    federation: Arc<ArcSwapOption<Federation>>,
}

/// A request as a home's doors read it.
pub(crate) struct Asked<'a> {
    pub operation: &'a str,
    pub path: &'a str,
    pub body: Value,
    /// How long it may wait on purpose.
    pub wait: Duration,
}

impl Far {
    pub fn new(homes: Arc<Homes>, me: RelayId) -> Self {
        Self { homes, me, federation: Arc::default() }
    }

    /// From now on requests go this way.
    pub fn set(&self, federation: Federation) {
        self.federation.store(Some(Arc::new(federation)));
    }

    /// The home of a namespace where it is another relay.
    pub fn home(&self, ns: &Namespace) -> Option<&RelayId> {
        self.homes.of(ns)
    }

    /// Asks a home in the name of `key`.
    ///
    /// # Errors
    /// The home's refusal; `home_unreachable` and `timeout` where there was no answer.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        home: &RelayId,
        key: &SigningKey,
        now_ms: u64,
        asked: Asked<'_>,
    ) -> Result<T, Problem> {
        let wait = asked.wait;
        let forward = self.forward(key, now_ms, asked)?;
        let mut attempt = 1;
        loop {
            let answered = self.once(home, forward.clone(), PATIENCE + wait).await;
            let passes = |problem: &Problem| {
                matches!(problem.code, Code::HomeUnreachable | Code::Timeout | Code::RateLimited)
            };
            match answered {
                Err(problem) if passes(&problem) && attempt < ATTEMPTS => {
                    tokio::time::sleep(PAUSE * (1 << (attempt - 1))).await;
                    attempt += 1;
                }
                answered => return serde_json::from_value(answered?).map_err(|_| unreadable()),
            }
        }
    }

    /// Asks a home for a stream in the name of `key`.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn open(
        &self,
        home: &RelayId,
        key: &SigningKey,
        now_ms: u64,
        asked: Asked<'_>,
    ) -> Result<BodyStream, Problem> {
        let forward = self.forward(key, now_ms, asked)?;
        let federation = self.linked()?;
        let (answer, stream) = federation.forward(home.clone(), forward, None, PATIENCE).await?;
        let answer: Answer = serde_json::from_str(answer.get()).map_err(|_| unreadable())?;
        match (answer.status, stream, answer.body) {
            (200..300, Some(stream), _) => Ok(stream),
            (400.., _, Value::Object(members)) => Err(problem(members)),
            _ => Err(unreadable()),
        }
    }

    fn forward(&self, key: &SigningKey, now_ms: u64, asked: Asked<'_>) -> Result<Forward, Problem> {
        let device = DeviceId::new(DEVICE).ok_or_else(unreadable)?;
        let grant = GrantClaims::new(key.node_id(), device, self.me.clone(), now_ms, GRANT_MS);
        let request = json!({ "method": "POST", "target": asked.path, "body": asked.body });
        let request = serde_json::value::to_raw_value(&request).map_err(|_| unreadable())?;
        Ok(Forward {
            operation: asked.operation.to_owned(),
            request,
            caller: Caller::local(),
            grant: Some(grant.sign(key)),
        })
    }

    fn linked(&self) -> Result<Arc<Federation>, Problem> {
        let unlinked = || Problem::new(Code::HomeUnreachable, "this relay has no links yet");
        self.federation.load_full().ok_or_else(unlinked)
    }

    async fn once(
        &self,
        home: &RelayId,
        forward: Forward,
        patience: Duration,
    ) -> Result<Value, Problem> {
        let federation = self.linked()?;
        let (answer, _) = federation.forward(home.clone(), forward, None, patience).await?;
        let answer: Answer = serde_json::from_str(answer.get()).map_err(|_| unreadable())?;
        match (answer.status, answer.body) {
            (200..300, body) => Ok(body),
            (_, Value::Object(members)) => Err(problem(members)),
            _ => Err(unreadable()),
        }
    }
}

/// A home's answer.
#[derive(Deserialize)]
struct Answer {
    status: u16,
    #[serde(default)]
    body: Value,
}

fn problem(mut members: Map<String, Value>) -> Problem {
    let mut take = |name| members.remove(name)?.as_str().map(str::to_owned);
    let code = take("code").and_then(|code| Code::parse(&code)).unwrap_or(Code::InternalError);
    let message = take("message").unwrap_or_else(|| "the home refused".to_owned());
    for standard in ["type", "title", "status", "detail"] {
        members.remove(standard);
    }
    Problem { code, message, extra: members }
}

fn unreadable() -> Problem {
    Problem::new(Code::InternalError, "the home's answer cannot be read")
}

impl fmt::Debug for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Far").field("homes", &self.homes).finish_non_exhaustive()
    }
}
