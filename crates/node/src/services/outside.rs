//! What scripts reach: this node's events and locks under a key of their own, and calls.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use rand_core::{OsRng, RngCore};
use relay_actors::{
    LogLevel, Router,
    script::{Host, HostEvent, LockGrant, LockRequest},
};
use relay_core::{
    events::{Events, Lane, Question},
    locks::Locks,
    policy::{Op, Policy, Principal, quota::Quotas},
};
use relay_proto::{
    Call, CallError, Caller, Code, EventLimits, Filter, Namespace, Position, Problem, RelayId,
    ServiceName, SigningKey,
    call::Json,
    event::{Draft, Tags, parse_event},
    lease::{Acquire, Release, Resource},
};
use relay_store::{Clock, Order};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::sync::watch;

use super::{
    far::{Asked, Far},
    follow::Following,
};
use crate::gate::Reader;

/// Events that one read of a subscription takes from the store.
const PAGE: usize = 64;

/// The outside of all scripts of a node.
#[derive(Clone)]
pub(crate) struct Outside {
    pub router: Router,
    pub events: Arc<Events>,
    pub locks: Arc<Locks>,
    pub policy: Arc<Policy>,
    pub quotas: Arc<Quotas>,
    pub clock: Arc<dyn Clock>,
    pub event_limits: EventLimits,
    /// The relay's own key, from which those of services are made.
    pub key: SigningKey,
    /// What all scripts publish is stored in the order of their calls.
    pub lane: Lane,
    /// Where another relay is the home.
    pub far: Far,
    /// The newest `seq`.
    pub committed: watch::Receiver<u64>,
}

/// What a script publishes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    kind: u16,
    #[serde(default)]
    content: String,
    #[serde(default)]
    tags: Tags,
    namespace: Option<Namespace>,
}

/// The key of one service of scripts: made from the relay's, so that there is nothing to keep, and
/// different from it, so that rules can tell them apart and a script is no administrator.
pub(crate) fn service_key(relay: &SigningKey, service: &ServiceName) -> SigningKey {
    let mut hasher = blake3::Hasher::new_derive_key("relay v1 signing key of a script's service");
    hasher.update(&*relay.seed());
    hasher.update(service.as_str().as_bytes());
    SigningKey::from_seed(*hasher.finalize().as_bytes())
}

impl Outside {
    fn key(&self, service: &ServiceName) -> SigningKey {
        service_key(&self.key, service)
    }

    async fn publish_as(&self, service: ServiceName, draft: Json) -> Result<Json, Problem> {
        let asked: Published = read(draft.get())?;
        let mut tags = asked.tags;
        if let Some(namespace) = asked.namespace {
            tags.push(["ns", namespace.as_str()]);
        }
        let created_at_ns = self.clock.wall_ns();
        let draft = Draft { kind: asked.kind, created_at_ns, tags, content: asked.content };
        let key = self.key(&service);
        let event = draft.sign(&key)?;
        let raw = parse_event(event.json(), &self.event_limits)?;
        if let Some(home) = self.far.home(raw.namespace()) {
            let _: Value = self
                .far
                .ask(
                    home,
                    &key,
                    self.now_ms(),
                    Asked {
                        operation: "event.publish",
                        path: "/v1/events",
                        body: read(std::str::from_utf8(event.json()).unwrap_or_default())?,
                        wait: Duration::ZERO,
                    },
                )
                .await?;
            return for_script(event.json());
        }
        let outcome = self.events.publish(self.lane, vec![raw]).await.pop();
        outcome.unwrap_or_else(|| Err(Problem::new(Code::InternalError, "no outcome")))?;
        for_script(event.json())
    }

    async fn acquire_as(
        &self,
        service: ServiceName,
        asked: LockRequest,
    ) -> Result<LockGrant, Problem> {
        let (ns, key) = (Namespace::default(), self.key(&service));
        if let Some(home) = self.far.home(&ns) {
            return self.acquire_far(home, &key, &service, &asked).await;
        }
        let owner = key.node_id();
        self.policy.check(&Principal::Key(owner), &ns, Op::Lock)?;
        self.quotas.check_locks(ns.tenant(), self.locks.held_by(ns.tenant()))?;
        let acquire = Acquire {
            ns,
            resource: resource(&asked.resource)?,
            owner,
            lease_ms: asked.lease_ms,
            wait_ms: asked.wait_ms,
            request_id: None,
            meta: serde_json::to_string(&serde_json::json!({ "service": service }))
                .ok()
                .map(Into::into),
        };
        let grant = self.locks.acquire(acquire).await?;
        let expires_at_ms = grant.expires_wall_ns / 1_000_000;
        Ok(LockGrant { token: grant.token, expires_at_ms })
    }

    async fn acquire_far(
        &self,
        home: &RelayId,
        key: &SigningKey,
        service: &ServiceName,
        asked: &LockRequest,
    ) -> Result<LockGrant, Problem> {
        #[derive(Deserialize)]
        struct Granted {
            fencing_token: u64,
            lease_ms: u64,
        }
        let body = json!({
            "resource": asked.resource, "lease_ms": asked.lease_ms, "wait_ms": asked.wait_ms,
            // A repeat after a lost answer gets the same grant.
            "request_id": format!("script-{:016x}", OsRng.next_u64()),
            "meta": { "service": service },
        });
        let asked_at_ms = self.now_ms();
        let granted: Granted = self
            .far
            .ask(
                home,
                key,
                asked_at_ms,
                Asked {
                    operation: "lock.change",
                    path: "/v1/locks/acquire",
                    body,
                    wait: Duration::from_millis(asked.wait_ms),
                },
            )
            .await?;
        // By this relay's clock, and counted from the asking: never longer than the home's.
        let expires_at_ms = asked_at_ms + granted.lease_ms;
        Ok(LockGrant { token: granted.fencing_token, expires_at_ms })
    }

    async fn release_as(
        &self,
        service: ServiceName,
        name: String,
        token: u64,
    ) -> Result<(), Problem> {
        let (ns, key) = (Namespace::default(), self.key(&service));
        if let Some(home) = self.far.home(&ns) {
            let asked = Asked {
                operation: "lock.change",
                path: "/v1/locks/release",
                body: json!({ "resource": name, "fencing_token": token }),
                wait: Duration::ZERO,
            };
            let released = self.far.ask(home, &key, self.now_ms(), asked).await;
            return match released {
                Err(problem) if is_lost(problem.code) => Ok(()),
                released => released.map(|_: Value| ()),
            };
        }
        let owner = key.node_id();
        let resource = resource(&name)?;
        match self.locks.release(Release { ns, resource, owner, token }).await {
            Err(problem) if is_lost(problem.code) => Ok(()),
            released => released,
        }
    }

    async fn follow(
        self,
        key: SigningKey,
        filter: Json,
        after: Option<String>,
    ) -> Result<BoxStream<'static, HostEvent>, Problem> {
        let filter = filter_of(&filter)?;
        let mut homes = filter.ns.iter().map(|ns| self.far.home(ns));
        let home = homes.next().flatten().cloned();
        if homes.any(|other| other != home.as_ref()) {
            let message = "these namespaces have several homes: one subscription for each home";
            return Err(Problem::invalid(message));
        }
        if let Some(home) = home {
            return Following::open(self.far, home, key, self.clock, filter, after).await;
        }
        let principal = Principal::Key(key.node_id());
        let reader = Reader { policy: self.policy.clone(), principal };
        let newest = Position::AfterSeq(self.events.committed_seq());
        let cursor = after.unwrap_or_else(|| self.events.cursor(newest));
        let question = Question {
            filters: vec![filter],
            history: false,
            order: Order::Seq,
            limit: PAGE,
            cursor: Some(cursor),
        };
        self.events.check_window(&reader, &question).await?;
        let pages = Pages { committed: self.committed.clone(), outside: self, reader, question };
        let pages = stream::unfold(pages, |mut pages| async move {
            let events = pages.next().await?;
            Some((stream::iter(events), pages))
        });
        Ok(pages.flatten().boxed())
    }
}

/// A subscription that reads page by page, and waits for the next commit at the end.
struct Pages {
    outside: Outside,
    reader: Reader,
    question: Question,
    committed: watch::Receiver<u64>,
}

impl Pages {
    /// The next events; `None` when the subscription cannot go on and must be opened again.
    async fn next(&mut self) -> Option<Vec<HostEvent>> {
        loop {
            // Marked as seen before the page is read: what comes meanwhile wakes the next round.
            self.committed.borrow_and_update();
            let page = self.outside.events.page(&self.reader, self.question.clone()).await;
            let (page, next) = match page {
                Ok(page) => page,
                Err(problem) => {
                    tracing::warn!(%problem, "the subscription of a script broke");
                    return None;
                }
            };
            let more = page.next.is_some();
            let events: Vec<HostEvent> = page
                .events
                .iter()
                .filter_map(|stored| {
                    let cursor = self.outside.events.cursor(Position::AfterSeq(stored.seq));
                    Some(HostEvent { event: for_script(&stored.json).ok()?, cursor })
                })
                .collect();
            self.question.cursor = next.or(self.question.cursor.take());
            if !events.is_empty() {
                return Some(events);
            }
            if !more {
                self.committed.changed().await.ok()?;
            }
        }
    }
}

impl Host for Outside {
    fn call(&self, call: Call, caller: Caller) -> BoxFuture<'static, Result<Json, CallError>> {
        let router = self.router.clone();
        Box::pin(async move { router.ask(call, caller).await.map(|reply| reply.value) })
    }

    fn notify(&self, call: Call, caller: Caller) -> BoxFuture<'static, Result<(), CallError>> {
        let router = self.router.clone();
        Box::pin(async move { router.send(call, caller).await })
    }

    fn publish(
        &self,
        service: &ServiceName,
        draft: Json,
    ) -> BoxFuture<'static, Result<Json, CallError>> {
        let (outside, service) = (self.clone(), service.clone());
        Box::pin(async move { Ok(outside.publish_as(service, draft).await?) })
    }

    fn subscribe(
        &self,
        service: &ServiceName,
        filter: Json,
        after: Option<String>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, HostEvent>, CallError>> {
        let (outside, key) = (self.clone(), self.key(service));
        Box::pin(async move { Ok(outside.follow(key, filter, after).await?) })
    }

    fn acquire(
        &self,
        service: &ServiceName,
        request: LockRequest,
    ) -> BoxFuture<'static, Result<LockGrant, CallError>> {
        let (outside, service) = (self.clone(), service.clone());
        Box::pin(async move { Ok(outside.acquire_as(service, request).await?) })
    }

    fn release(
        &self,
        service: &ServiceName,
        resource: String,
        token: u64,
    ) -> BoxFuture<'static, Result<(), CallError>> {
        let (outside, service) = (self.clone(), service.clone());
        Box::pin(async move { Ok(outside.release_as(service, resource, token).await?) })
    }

    fn now_ms(&self) -> u64 {
        self.clock.wall_ns() / 1_000_000
    }

    fn random(&self) -> u64 {
        OsRng.next_u64()
    }

    fn log(&self, service: &ServiceName, level: LogLevel, message: &str) {
        self.router.log(service, level, message);
        match level {
            LogLevel::Debug => tracing::debug!(%service, "{message}"),
            LogLevel::Info => tracing::info!(%service, "{message}"),
            LogLevel::Warn => tracing::warn!(%service, "{message}"),
            LogLevel::Error => tracing::error!(%service, "{message}"),
        }
    }
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").field("router", &self.router).finish_non_exhaustive()
    }
}

/// Whether a lock that cannot be given back is somebody else's, or nobody's, by now.
const fn is_lost(code: Code) -> bool {
    matches!(code, Code::LeaseExpired | Code::StaleToken | Code::Forbidden | Code::NotFound)
}

fn resource(text: &str) -> Result<Resource, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("{error}")))
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| {
        let text = error.to_string();
        Problem::invalid(text.split(" at line ").next().unwrap_or(&text))
    })
}

/// A filter as scripts write it: the API's, and `namespace` for a single one.
fn filter_of(text: &RawValue) -> Result<Filter, Problem> {
    let mut value: Value = read(text.get())?;
    if let Some(members) = value.as_object_mut()
        && let Some(namespace) = members.remove("namespace")
    {
        members.insert("ns".to_owned(), Value::Array(vec![namespace]));
    }
    serde_json::from_value(value).map_err(|error| Problem::invalid(format!("filter: {error}")))
}

/// An event as scripts see it: the API's members, with `author` and `namespace` beside them.
pub(super) fn for_script(json: &[u8]) -> Result<Json, Problem> {
    let broken = |_| Problem::new(Code::InternalError, "an event is damaged");
    let mut event: Value = serde_json::from_slice(json).map_err(broken)?;
    event["author"] = event["pubkey"].clone();
    let namespace = event["tags"].as_array().into_iter().flatten().find(|tag| tag[0] == "ns");
    let namespace = namespace.and_then(|tag| tag[1].as_str()).map(str::to_owned);
    event["namespace"] = namespace.unwrap_or_else(|| Namespace::default().to_string()).into();
    serde_json::value::to_raw_value(&event).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_a_key_of_its_own_that_stays() {
        let relay = SigningKey::from_seed([7; 32]);
        let key = |name: &str| service_key(&relay, &name.parse().unwrap()).node_id();
        assert_eq!(key("blog"), key("blog"));
        assert_ne!(key("blog"), key("shop"));
        assert_ne!(key("blog"), relay.node_id());
    }

    #[test]
    fn filters_and_events_look_as_the_guide_says() {
        let filter = RawValue::from_string(r#"{"kinds":[1],"namespace":"a/b"}"#.into()).unwrap();
        let filter = filter_of(&filter).unwrap();
        assert_eq!((filter.kinds, filter.ns), (vec![1], vec!["a/b".parse().unwrap()]));
        let event = br#"{"pubkey":"ed25519:x","tags":[["t","1"],["ns","a/b"]]}"#;
        let event: Value = serde_json::from_str(for_script(event).unwrap().get()).unwrap();
        assert_eq!((&event["author"], &event["namespace"]), (&"ed25519:x".into(), &"a/b".into()));
    }
}
