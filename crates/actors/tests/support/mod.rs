//! A node for scripts: a real supervisor and router, and a host whose clock, events and locks the
//! test holds in its hand.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    collections::{HashMap, hash_map::Entry},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use relay_actors::{
    Random, Router, RouterConfig, Supervisor,
    script::{
        Host, HostEvent, LockGrant, LockRequest, LogLevel, MemoryStore, ScriptError, ScriptHost,
        ScriptLimits, StateStore,
    },
};
use relay_proto::{
    Call, CallError, Caller, ServiceName,
    call::{Json, RpcCode},
};
use serde_json::{Value, json, value::RawValue};
use tokio::sync::watch;

pub const START_MS: u64 = 1_700_000_000_000;

pub struct FakeHost {
    router: Router,
    now: watch::Sender<u64>,
    events: watch::Sender<Vec<(Value, u64)>>,
    pub locks: Mutex<HashMap<String, u64>>,
    pub grants: AtomicU64,
    pub logs: watch::Sender<Vec<(LogLevel, String)>>,
    pub notified: Mutex<Vec<String>>,
}

impl FakeHost {
    pub fn advance(&self, ms: u64) {
        self.now.send_modify(|now| *now += ms);
    }

    /// Puts an event into the log all subscriptions read.
    pub fn emit(&self, event: Value) {
        self.events.send_modify(|events| {
            let cursor = events.len() as u64 + 1;
            events.push((event, cursor));
        });
    }

    /// Every event so far.
    pub fn events(&self) -> Vec<Value> {
        self.events.borrow().iter().map(|(event, _)| event.clone()).collect()
    }

    pub async fn until_events(&self, fits: impl Fn(&[Value]) -> bool) {
        let mut events = self.events.subscribe();
        let all = |events: &Vec<(Value, u64)>| {
            fits(&events.iter().map(|(event, _)| event.clone()).collect::<Vec<_>>())
        };
        events.wait_for(|events| all(events)).await.unwrap();
    }

    pub async fn until_logged(&self, text: &str) {
        let mut logs = self.logs.subscribe();
        logs.wait_for(|logs| logs.iter().any(|(_, line)| line.contains(text))).await.unwrap();
    }
}

fn kinds_fit(filter: &Value, event: &Value) -> bool {
    filter["kinds"].as_array().is_none_or(|kinds| kinds.contains(&event["kind"]))
}

impl Host for FakeHost {
    fn call(&self, call: Call, caller: Caller) -> BoxFuture<'static, Result<Json, CallError>> {
        let router = self.router.clone();
        Box::pin(async move { router.ask(call, caller).await.map(|reply| reply.value) })
    }

    fn notify(&self, call: Call, caller: Caller) -> BoxFuture<'static, Result<(), CallError>> {
        self.notified.lock().unwrap().push(call.to.to_string());
        let router = self.router.clone();
        Box::pin(async move { router.send(call, caller).await })
    }

    fn publish(
        &self,
        service: &ServiceName,
        draft: Json,
    ) -> BoxFuture<'static, Result<Json, CallError>> {
        let mut event: Value = serde_json::from_str(draft.get()).unwrap();
        event["author"] = service.as_str().into();
        self.emit(event.clone());
        let json = RawValue::from_string(event.to_string()).unwrap();
        Box::pin(std::future::ready(Ok(json)))
    }

    fn subscribe(
        &self,
        _: &ServiceName,
        filter: Json,
        after: Option<String>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, HostEvent>, CallError>> {
        let filter: Value = serde_json::from_str(filter.get()).unwrap();
        let after = match after {
            Some(cursor) => cursor.parse().unwrap(),
            None => self.events.borrow().len() as u64,
        };
        let events = self.events.subscribe();
        let stream = stream::unfold((events, after), move |(mut events, after)| {
            let filter = filter.clone();
            async move {
                let next = |events: &Vec<(Value, u64)>| {
                    let fits = |(event, cursor): &&(Value, u64)| {
                        *cursor > after && kinds_fit(&filter, event)
                    };
                    events.iter().find(fits).cloned()
                };
                let (event, cursor) =
                    next(&*events.wait_for(|events| next(events).is_some()).await.ok()?)?;
                let event = RawValue::from_string(event.to_string()).unwrap();
                let item = HostEvent { event, cursor: cursor.to_string() };
                Some((item, (events, cursor)))
            }
        });
        Box::pin(std::future::ready(Ok(stream.boxed())))
    }

    fn acquire(
        &self,
        _: &ServiceName,
        request: LockRequest,
    ) -> BoxFuture<'static, Result<LockGrant, CallError>> {
        let mut locks = self.locks.lock().unwrap();
        let result = match locks.entry(request.resource) {
            Entry::Occupied(_) => {
                Err(CallError::new(RpcCode::Other(1), "held").with("code", "lock_held"))
            }
            Entry::Vacant(free) => {
                let token = *free.insert(self.grants.fetch_add(1, SeqCst) + 1);
                Ok(LockGrant { token, expires_at_ms: self.now_ms() + request.lease_ms })
            }
        };
        Box::pin(std::future::ready(result))
    }

    fn release(
        &self,
        _: &ServiceName,
        resource: String,
        token: u64,
    ) -> BoxFuture<'static, Result<(), CallError>> {
        let mut locks = self.locks.lock().unwrap();
        if locks.get(&resource) == Some(&token) {
            locks.remove(&resource);
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn now_ms(&self) -> u64 {
        *self.now.borrow()
    }

    fn sleep_until(&self, due_ms: u64) -> BoxFuture<'static, ()> {
        let mut now = self.now.subscribe();
        Box::pin(async move {
            let _ = now.wait_for(|now| *now >= due_ms).await;
        })
    }

    fn random(&self) -> u64 {
        0x1234_5678_9abc_def0
    }

    fn log(&self, _: &ServiceName, level: LogLevel, message: &str) {
        self.logs.send_modify(|logs| logs.push((level, message.to_owned())));
    }
}

/// A node that runs scripts.
pub struct Node {
    pub supervisor: Arc<Supervisor>,
    pub scripts: Arc<ScriptHost>,
    pub host: Arc<FakeHost>,
}

impl Node {
    pub fn new() -> Self {
        Self::with(Arc::new(MemoryStore::default()), ScriptLimits::default())
    }

    pub fn with(store: Arc<dyn StateStore>, limits: ScriptLimits) -> Self {
        let router = Router::new(RouterConfig::new("home-a".parse().unwrap()));
        let supervisor = Arc::new(Supervisor::new(router.clone(), Random::new(|| 0.0)));
        let host = Arc::new(FakeHost {
            router,
            now: watch::Sender::new(START_MS),
            events: watch::Sender::new(Vec::new()),
            locks: Mutex::default(),
            grants: AtomicU64::new(0),
            logs: watch::Sender::new(Vec::new()),
            notified: Mutex::default(),
        });
        let threads = NonZeroUsize::MIN;
        let scripts =
            ScriptHost::new(supervisor.clone(), store, host.clone(), limits, threads).unwrap();
        Self { supervisor, scripts: Arc::new(scripts), host }
    }

    pub async fn load(&self, text: &str) -> Result<Vec<ServiceName>, ScriptError> {
        self.scripts.load("test.rl", text).await
    }

    pub async fn call(&self, to: &str, method: &str, args: Value) -> Result<Value, CallError> {
        self.call_as(Caller::local(), to, method, args).await
    }

    pub async fn call_as(
        &self,
        caller: Caller,
        to: &str,
        method: &str,
        args: Value,
    ) -> Result<Value, CallError> {
        let args = RawValue::from_string(args.to_string()).unwrap();
        let call = Call::new(to.parse().unwrap(), method.parse().unwrap(), Some(args));
        let reply = self.supervisor.router().ask(call, caller).await?;
        Ok(serde_json::from_str(reply.value.get()).unwrap())
    }

    /// Calls until the answer fits.
    pub async fn until(&self, to: &str, method: &str, wanted: Value) {
        while self.call(to, method, json!({})).await.unwrap() != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}
