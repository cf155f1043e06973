//! One service of a script at work: messages, timers, events and new versions, one at a time, each
//! with its changes stored as one or not at all.

use std::{pin::pin, sync::Arc};

use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{FuturesOrdered, FuturesUnordered},
};
use relay_proto::{CallError, Caller, ServiceName};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{OwnedMutexGuard, mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Kit,
    error::{ScriptError, ScriptFault},
    events::{self, Deliveries, Delivery, Verdict},
    failure::Failure,
    operations::{Held, Outside},
    state::{Commit, StateError, Stored},
    timers,
    vm::{Description, Settled, Source, Vm},
};
use crate::{
    inbox::{Answer, Envelope, Inbox},
    journal::LogLevel,
    service::{Reply, Request},
    supervisor::Exit,
};

/// A new version of the script, and where to say whether it was taken.
pub(super) struct Reload {
    pub source: Arc<Source>,
    pub answer: oneshot::Sender<Result<(), ScriptError>>,
}

/// What was handled and waits for its commit.
struct Settlement {
    stored: Result<(), StateError>,
    answer: Option<(Answer, Reply)>,
}

/// One thing to run in the machine.
struct Job<'a> {
    kind: &'a str,
    name: &'a str,
    /// JSON text.
    argument: &'a str,
    caller: &'a Caller,
    idempotency_key: Option<&'a str>,
    deadline: Instant,
}

/// What a job that ended well changed.
struct Done {
    result: String,
    state: Option<Arc<str>>,
    timers: timers::Changes,
}

/// Changes under way to the store at once; further messages wait.
const MAX_UNSETTLED: usize = 256;

pub(super) struct Machine {
    kit: Arc<Kit>,
    name: ServiceName,
    source: Arc<Source>,
    vm: Vm,
    description: Description,
    /// As it will be stored when all under way is.
    kept: Stored,
    unsettled: FuturesOrdered<BoxFuture<'static, Settlement>>,
    outside: Outside,
    events: Deliveries,
    /// Why this machine cannot go on; a new one starts from what is stored.
    broken: Option<String>,
}

enum Next {
    Stop,
    Settled(Settlement),
    Reload(Reload),
    Timer,
    Event(Delivery),
    Message(Envelope),
}

impl Machine {
    /// Loads the service's state and the script, and runs its `start`.
    pub async fn start(
        kit: Arc<Kit>,
        name: ServiceName,
        source: Arc<Source>,
    ) -> Result<Self, ScriptError> {
        let kept = kit.store.load(&name).await.map_err(|error| {
            ScriptError::new(ScriptFault::State, &source.file, error.to_string())
        })?;
        let (vm, description, state) = build(&kit, &name, &source, &kept)?;
        let outside =
            Outside { host: kit.host.clone(), service: name.clone(), held: Held::default() };
        let unsettled = FuturesOrdered::new();
        let events = Deliveries::new();
        let mut machine = Self {
            kit,
            name,
            source,
            vm,
            description,
            kept,
            unsettled,
            outside,
            events,
            broken: None,
        };
        machine.take_over(state).await?;
        Ok(machine)
    }

    /// Serves until told to stop, or until the state cannot be kept.
    pub async fn serve(
        mut self,
        mut inbox: Inbox,
        mut reloads: OwnedMutexGuard<mpsc::Receiver<Reload>>,
        stop: CancellationToken,
        current: impl Fn(&Arc<Source>),
    ) -> Exit {
        loop {
            let crashed = match self.next(&mut inbox, &mut reloads, &stop).await {
                None | Some(Next::Stop) => {
                    return match self.settle_all().await {
                        Ok(()) => Exit::Stopped,
                        Err(error) => Exit::Crashed(error.to_string()),
                    };
                }
                Some(Next::Settled(settlement)) => self.settle(settlement),
                Some(Next::Reload(Reload { source, answer })) => {
                    let result = self.reload(source).await;
                    if result.is_ok() {
                        current(&self.source);
                    }
                    let _ = answer.send(result);
                    Ok(())
                }
                Some(Next::Timer) => self.timer().await,
                Some(Next::Event(delivery)) => self.event(delivery).await,
                Some(Next::Message(envelope)) => self.message(envelope, &inbox).await,
            };
            if let Err(error) = crashed {
                return Exit::Crashed(error.to_string());
            }
            if let Some(reason) = self.broken.take() {
                return Exit::Crashed(reason);
            }
        }
    }

    async fn next(
        &mut self,
        inbox: &mut Inbox,
        reloads: &mut mpsc::Receiver<Reload>,
        stop: &CancellationToken,
    ) -> Option<Next> {
        let due = timers::first(&self.kept.timers).map(|(_, timer)| timer.due_ms);
        let room = self.unsettled.len() < MAX_UNSETTLED;
        let due_timer = async {
            match due {
                Some(due) => self.kit.host.sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => Some(Next::Stop),
            Some(settlement) = self.unsettled.next(), if !self.unsettled.is_empty() => {
                Some(Next::Settled(settlement))
            }
            Some(reload) = reloads.recv() => Some(Next::Reload(reload)),
            () = due_timer, if room => Some(Next::Timer),
            Some(delivery) = self.events.next(), if room && !self.events.is_empty() => {
                Some(Next::Event(delivery))
            }
            envelope = inbox.next(), if room => envelope.map(Next::Message),
        }
    }

    async fn message(&mut self, envelope: Envelope, inbox: &Inbox) -> Result<(), StateError> {
        let started = Instant::now();
        let (request, mut answer) = envelope.open();
        let result = self.method(&request, &mut answer).await;
        let local = request.caller.is_local();
        let result = result.map_err(|failure| {
            failure.log(&self.outside, request.method.as_str(), &self.source.file);
            failure.into_call_error(&self.source.file, local)
        });
        let (done, reply) = match result {
            Ok(mut done) => {
                let value = RawValue::from_string(std::mem::take(&mut done.result));
                let reply = value.map(Reply::from).map_err(|_| CallError::internal("no JSON"));
                (Some(done), reply)
            }
            Err(error) => (None, Err(error)),
        };
        inbox.observe(started, &reply);
        match (done, reply) {
            (Some(done), Ok(reply)) => self.commit(done, None, Some((answer, reply))),
            (_, reply) => answer.send(reply),
        }
        Ok(())
    }

    async fn method(&mut self, request: &Request, answer: &mut Answer) -> Result<Done, Failure> {
        let method = request.method.as_str();
        if !self.description.methods.iter().any(|known| known == method) {
            return Err(Failure::NoMethod(CallError::method_not_found(&self.name, method)));
        }
        let job = Job {
            kind: "method",
            name: method,
            // Handlers take their arguments apart; without any there is an empty object to do so with.
            argument: request.args.as_deref().map_or("{}", RawValue::get),
            caller: &request.caller,
            idempotency_key: request.idempotency_key.as_deref(),
            deadline: request.deadline,
        };
        self.run(job, Some(answer)).await
    }

    /// Runs the timer that is due first.
    async fn timer(&mut self) -> Result<(), StateError> {
        let Some((name, timer)) = timers::first(&self.kept.timers) else { return Ok(()) };
        let (name, timer) = (name.to_owned(), timer.clone());
        let result = self.run_own("timer", &name, &timer.payload).await;
        let now_ms = self.kit.host.now_ms();
        let (mut done, after) = match result {
            Ok(done) => (done, timers::succeeded(&timer, now_ms)),
            Err(failure) => {
                failure.log(&self.outside, &format!("timer {name}"), &self.source.file);
                (Done::nothing(), timers::failed(&timer, now_ms))
            }
        };
        // What the handler says about its own timer comes last and holds.
        done.timers.insert(0, (name, after));
        self.commit(done, None, None);
        Ok(())
    }

    async fn event(&mut self, delivery: Delivery) -> Result<(), StateError> {
        let Delivery { subscription, event, attempt, handled } = delivery;
        let done = match self.run_own("event", &subscription, event.event.get()).await {
            Ok(done) => done,
            Err(failure) => {
                failure.log(&self.outside, &format!("event of {subscription}"), &self.source.file);
                if attempt + 1 < events::MAX_ATTEMPTS {
                    let _ = handled.send(Verdict::Again);
                    return Ok(());
                }
                let passed = format!("an event of '{subscription}' is passed over");
                self.kit.host.log(&self.name, LogLevel::Error, &passed);
                Done::nothing()
            }
        };
        self.commit(done, Some((subscription, event.cursor)), None);
        let _ = handled.send(Verdict::Done);
        Ok(())
    }

    /// Runs a handler that nobody outside called.
    async fn run_own(&mut self, kind: &str, name: &str, argument: &str) -> Result<Done, Failure> {
        let deadline = Instant::now() + self.source.limits.wall;
        let caller = Caller::local();
        let job = Job { kind, name, argument, caller: &caller, idempotency_key: None, deadline };
        self.run(job, None).await
    }

    /// Runs one handler to its end, whatever end that is; the machine is whole afterwards.
    async fn run(&mut self, job: Job<'_>, answer: Option<&mut Answer>) -> Result<Done, Failure> {
        let result = self.run_to_end(&job, answer).await;
        let result = result.and_then(|settled| self.read(settled));
        if result.is_err() {
            self.outside.release_all().await;
        }
        let spoilt = match &result {
            // A chain of promises that ran out of memory breaks silently, and looks stuck; timers
            // are refused when the machine already holds the new state.
            Err(Failure::Limit(_) | Failure::Stuck | Failure::Timers(_)) => true,
            Err(Failure::Timeout | Failure::Gone) => self.vm.abandon().is_err(),
            _ => false,
        };
        if spoilt && let Err(error) = self.rebuild() {
            self.broken = Some(error.to_string());
        }
        result
    }

    async fn run_to_end(
        &mut self,
        job: &Job<'_>,
        answer: Option<&mut Answer>,
    ) -> Result<Settled, Failure> {
        let deadline = job.deadline.min(Instant::now() + self.source.limits.wall);
        let meta = self.meta(job, deadline);
        let mut ended = pin!(ended(answer, deadline));
        let mut operations = FuturesUnordered::new();
        let left = deadline.saturating_duration_since(Instant::now());
        let wall = std::time::Instant::now() + left;
        let mut entered = self.vm.begin(job.kind, job.name, job.argument, &meta, wall);
        loop {
            entered.map_err(Failure::Limit)?;
            if let Some(settled) = self.vm.settled() {
                return Ok(settled);
            }
            let wanted = self.vm.wanted();
            if !wanted.is_empty() {
                // Nothing leaves this machine that rests on changes which may still be lost.
                if let Err(error) = self.settle_all().await {
                    self.broken = Some(error.to_string());
                    return Err(Failure::State);
                }
            }
            for operation in wanted {
                operations.push(self.outside.start(operation, job.caller, deadline));
            }
            if operations.is_empty() {
                return Err(Failure::Stuck);
            }
            tokio::select! {
                Some(resolved) = operations.next() => {
                    entered = self.vm.resolve(resolved.id, resolved.good, &resolved.text);
                }
                failure = &mut ended => return Err(failure),
            }
        }
    }

    /// What the handler is told about its message.
    fn meta(&self, job: &Job<'_>, deadline: Instant) -> String {
        #[derive(Serialize)]
        struct Meta<'a> {
            service: &'a ServiceName,
            caller: Who<'a>,
            deadline_ms: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            idempotency_key: Option<&'a str>,
        }
        #[derive(Serialize)]
        struct Who<'a> {
            local: bool,
            #[serde(flatten)]
            caller: &'a Caller,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let meta = Meta {
            service: &self.name,
            caller: Who { local: job.caller.is_local(), caller: job.caller },
            deadline_ms: self.kit.host.now_ms() + left.as_millis() as u64,
            idempotency_key: job.idempotency_key,
        };
        serde_json::to_string(&meta).unwrap_or_else(|_| "{}".to_owned())
    }

    fn read(&self, settled: Settled) -> Result<Done, Failure> {
        match settled {
            Settled::Thrown(thrown) => Err(Failure::Thrown(thrown)),
            Settled::Done { result, state, timers } => {
                let timers = match timers {
                    Some(text) => timers::wanted(&text).map_err(Failure::Timers)?,
                    None => timers::Changes::new(),
                };
                let limit = self.source.limits.timers;
                let is_new = |name: &str| !self.kept.timers.contains_key(name);
                let new = timers.iter().filter(|(name, timer)| timer.is_some() && is_new(name));
                if self.kept.timers.len() + new.count() > limit {
                    return Err(Failure::Timers(format!("more than {limit} timers")));
                }
                Ok(Done { result, state: state.map(Arc::from), timers })
            }
        }
    }

    /// Hands what a message changed to the store; the answer follows when it is kept. What only
    /// read answers in the same order, since it may have read what is not kept yet.
    fn commit(
        &mut self,
        done: Done,
        cursor: Option<(String, String)>,
        answer: Option<(Answer, Reply)>,
    ) {
        if done.state.is_none() && done.timers.is_empty() && cursor.is_none() {
            match answer {
                Some((answer, reply)) if self.unsettled.is_empty() => answer.send(Ok(reply)),
                None => {}
                answer => {
                    let settlement = Settlement { stored: Ok(()), answer };
                    self.unsettled.push_back(Box::pin(std::future::ready(settlement)));
                }
            }
            return;
        }
        let commit = Commit {
            service: self.name.clone(),
            on_revision: self.kept.revision,
            state_version: self.description.state_version,
            state: done.state,
            timers: done.timers,
            cursor,
        };
        self.kept.apply(&commit);
        let storing = self.kit.store.commit(commit);
        self.unsettled
            .push_back(Box::pin(async move { Settlement { stored: storing.await, answer } }));
    }

    fn settle(&mut self, settlement: Settlement) -> Result<(), StateError> {
        let Settlement { stored, answer } = settlement;
        if let Some((answer, reply)) = answer {
            let lost = |_: &StateError| CallError::internal("the change could not be kept");
            answer.send(stored.as_ref().map(|()| reply).map_err(lost));
        }
        stored
    }

    async fn settle_all(&mut self) -> Result<(), StateError> {
        while let Some(settlement) = self.unsettled.next().await {
            self.settle(settlement)?;
        }
        Ok(())
    }

    /// Takes a new version of the script with the state kept, or stays with the old one.
    async fn reload(&mut self, source: Arc<Source>) -> Result<(), ScriptError> {
        let fault = |error: StateError| {
            ScriptError::new(ScriptFault::State, &source.file, error.to_string())
        };
        self.settle_all().await.map_err(fault)?;
        let (vm, description, state) = build(&self.kit, &self.name, &source, &self.kept)?;
        let old = (
            std::mem::replace(&mut self.vm, vm),
            std::mem::replace(&mut self.description, description),
            std::mem::replace(&mut self.source, source),
        );
        let taken = self.take_over(state).await;
        if taken.is_err() {
            (self.vm, self.description, self.source) = old;
            self.broken = None;
        }
        taken
    }

    /// Runs the version's `start`, then keeps the state it begins with and its timers.
    async fn take_over(&mut self, state: String) -> Result<(), ScriptError> {
        let mut done = Done::nothing();
        if self.description.start {
            done = self.run_own("start", "start", "null").await.map_err(|failure| {
                failure.into_script_error(&self.source.file, &self.source.text)
            })?;
        }
        if done.state.is_none() && self.kept.state.as_deref() != Some(state.as_str()) {
            done.state = Some(state.into());
        }
        let now_ms = self.kit.host.now_ms();
        let mut declared = timers::declare(&self.kept.timers, &self.description.timers, now_ms);
        declared.append(&mut done.timers);
        done.timers = declared;
        self.commit(done, None, None);
        self.settle_all().await.map_err(|error| {
            ScriptError::new(ScriptFault::State, &self.source.file, error.to_string())
        })?;
        self.subscribe().await;
        Ok(())
    }

    async fn subscribe(&mut self) {
        self.events = Deliveries::new();
        for subscription in &self.description.on {
            let reading = events::read(
                self.kit.host.clone(),
                self.name.clone(),
                subscription.name.clone(),
                subscription.filter.clone(),
                self.kept.cursors.get(&subscription.name).cloned(),
            );
            self.events.push(reading.await);
        }
    }

    /// A fresh machine with the state kept, after a limit stopped the old one.
    fn rebuild(&mut self) -> Result<(), ScriptError> {
        (self.vm, ..) = build(&self.kit, &self.name, &self.source, &self.kept)?;
        Ok(())
    }
}

impl Done {
    const fn nothing() -> Self {
        Self { result: String::new(), state: None, timers: timers::Changes::new() }
    }
}

/// Resolves when nobody waits for the message any more, with the reason.
async fn ended(answer: Option<&mut Answer>, deadline: Instant) -> Failure {
    match answer {
        Some(answer) => tokio::select! {
            () = answer.abandoned() => Failure::Gone,
            () = sleep_until(deadline) => Failure::Timeout,
        },
        None => {
            sleep_until(deadline).await;
            Failure::Timeout
        }
    }
}

/// A machine with the script and the kept state in it.
fn build(
    kit: &Kit,
    name: &ServiceName,
    source: &Source,
    kept: &Stored,
) -> Result<(Vm, Description, String), ScriptError> {
    let vm = Vm::load(source, name, kit.host.clone())?;
    let state = vm.bind(source, name.as_str(), kept.state.as_deref(), kept.state_version)?;
    let description = vm.services.iter().find(|each| each.name == name.as_str()).cloned();
    let description = description.ok_or_else(|| {
        ScriptError::new(ScriptFault::Definition, &source.file, format!("no service '{name}'"))
    })?;
    Ok((vm, description, state))
}
