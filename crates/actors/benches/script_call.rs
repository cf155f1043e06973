//! What a call of a script costs over one of a native actor: a counter, asked through the router.
//!
//! `one` waits for each answer before it asks again; `many` keeps 64 calls under way. The script
//! counter's every call changes its state; with SQLite each answer waits until it is on the disk.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on says so")]

use std::{hint::black_box, num::NonZeroUsize, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::{
    future::{BoxFuture, join_all},
    stream::BoxStream,
};
use relay_actors::{
    ActorSpec, Handled, Random, Reply, Request, Router, RouterConfig, Service, ServiceInfo,
    Supervisor,
    script::{
        Host, HostEvent, LockGrant, LockRequest, LogLevel, MemoryStore, ScriptHost, ScriptLimits,
        SqliteState, StateStore,
    },
};
use relay_proto::{Call, CallError, Caller, ServiceName, call::Json};
use serde::Deserialize;
use serde_json::value::RawValue;

const COUNTER: &str = r#"
export default service("counter", {
    state: { count: 0 },
    methods: {
        add(ctx, { by }) { ctx.state.count += by; return { count: ctx.state.count }; },
        get(ctx) { return { count: ctx.state.count }; },
    },
});
"#;

struct Native {
    count: u64,
}

impl Service for Native {
    fn handle(&mut self, request: Request) -> BoxFuture<'_, Handled> {
        #[derive(Deserialize)]
        struct Add {
            by: u64,
        }
        let result = request.args::<Add>().and_then(|add| {
            self.count += add.by;
            Reply::json(&serde_json::json!({ "count": self.count }))
        });
        Box::pin(std::future::ready(Handled::Now(result)))
    }
}

/// A host with nothing outside.
struct Alone;

fn nothing<T: Send + 'static>() -> BoxFuture<'static, Result<T, CallError>> {
    Box::pin(std::future::ready(Err(CallError::service_not_found("anything"))))
}

impl Host for Alone {
    fn call(&self, _: Call, _: Caller) -> BoxFuture<'static, Result<Json, CallError>> {
        nothing()
    }
    fn notify(&self, _: Call, _: Caller) -> BoxFuture<'static, Result<(), CallError>> {
        nothing()
    }
    fn publish(&self, _: &ServiceName, _: Json) -> BoxFuture<'static, Result<Json, CallError>> {
        nothing()
    }
    fn subscribe(
        &self,
        _: &ServiceName,
        _: Json,
        _: Option<String>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, HostEvent>, CallError>> {
        nothing()
    }
    fn acquire(
        &self,
        _: &ServiceName,
        _: LockRequest,
    ) -> BoxFuture<'static, Result<LockGrant, CallError>> {
        nothing()
    }
    fn release(
        &self,
        _: &ServiceName,
        _: String,
        _: u64,
    ) -> BoxFuture<'static, Result<(), CallError>> {
        nothing()
    }
    fn now_ms(&self) -> u64 {
        0
    }
    fn random(&self) -> u64 {
        0
    }
    fn log(&self, _: &ServiceName, _: LogLevel, _: &str) {}
}

fn call(method: &str) -> Call {
    let args = RawValue::from_string(r#"{"by":1}"#.to_owned()).unwrap();
    Call::new("counter".parse().unwrap(), method.parse().unwrap(), Some(args))
}

fn supervisor() -> Supervisor {
    let router = Router::new(RouterConfig::new("bench".parse().unwrap()));
    Supervisor::new(router, Random::new(|| 0.5))
}

fn measure(criterion: &mut Criterion, name: &str, method: &'static str, router: &Router) {
    let runtime = tokio::runtime::Handle::current();
    let one = call(method);
    let ask = || router.ask(one.clone(), Caller::local());
    let mut group = criterion.benchmark_group(name);
    group.bench_function("one", |bencher| {
        bencher.iter(|| runtime.block_on(async { black_box(ask().await.unwrap()) }));
    });
    group.throughput(Throughput::Elements(64));
    group.bench_function("many", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                for answer in join_all((0..64).map(|_| ask())).await {
                    black_box(answer.unwrap());
                }
            });
        });
    });
    group.finish();
}

fn script(store: Arc<dyn StateStore>) -> (Arc<Supervisor>, ScriptHost) {
    let supervisor = Arc::new(supervisor());
    let threads = NonZeroUsize::MIN;
    let limits = ScriptLimits::default();
    let host =
        ScriptHost::new(supervisor.clone(), store, Arc::new(Alone), limits, threads).unwrap();
    (supervisor, host)
}

fn benches(criterion: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();

    let native = supervisor();
    let spec = ActorSpec::new(ServiceInfo::new("counter".parse().unwrap()));
    native.start(spec, || Ok(Native { count: 0 })).unwrap();
    measure(criterion, "native", "add", native.router());

    let (memory, host) = script(Arc::new(MemoryStore::default()));
    runtime.block_on(host.load("counter.rl", COUNTER)).unwrap();
    measure(criterion, "script_read", "get", memory.router());
    measure(criterion, "script_memory", "add", memory.router());

    let dir = tempfile::tempdir().unwrap();
    let (sqlite, host) = script(Arc::new(SqliteState::open(&dir.path().join("s.db")).unwrap()));
    runtime.block_on(host.load("counter.rl", COUNTER)).unwrap();
    measure(criterion, "script_sqlite", "add", sqlite.router());
}

criterion_group!(calls, benches);
criterion_main!(calls);
