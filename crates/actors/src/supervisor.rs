//! Keeps actors running: one task an actor, restarted alone, given up when it only crashes.

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroUsize,
    panic::AssertUnwindSafe,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use relay_proto::{CallError, ServiceName};
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, info_span, warn};

use crate::{
    backoff::{Backoff, Random, RestartPolicy},
    inbox::{Inbox, InboxSlot, Mailbox},
    native::{Native, panic_text},
    router::{Life, Registered, Router},
    service::{Service, ServiceInfo},
};

/// Why an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to.
    Stopped,
    /// For the log and `relay actors`; never sent to a caller.
    Crashed(String),
}

/// One life of an actor: owns the inbox until it exits.
pub trait Incarnation: Send {
    /// Runs until `stop` or a crash. What is left in the inbox stays for the next incarnation.
    fn run(self: Box<Self>, inbox: Inbox, stop: CancellationToken) -> BoxFuture<'static, Exit>;
}

/// Makes the next incarnation; an error counts as a crash.
pub type Factory = Box<dyn FnMut() -> Result<Box<dyn Incarnation>, String> + Send>;

/// How an actor is to run.
#[derive(Debug, Clone)]
pub struct ActorSpec {
    pub info: ServiceInfo,
    /// Messages that wait at most; one more is refused as overloaded. Default 1024.
    pub mailbox: NonZeroUsize,
    /// How many answers of [`crate::Handled::Aside`] may be under way. Default 64.
    pub concurrency: NonZeroUsize,
    pub restarts: RestartPolicy,
    /// How often a native actor's [`Service::check`] is asked. Default 15 s.
    pub health: Duration,
}

impl ActorSpec {
    pub fn new(info: ServiceInfo) -> Self {
        const MAILBOX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);
        const CONCURRENCY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);
        Self {
            info,
            mailbox: MAILBOX,
            concurrency: CONCURRENCY,
            restarts: RestartPolicy::default(),
            health: Duration::from_secs(15),
        }
    }
}

/// Why an actor was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("a service named '{0}' runs here already")]
    NameTaken(ServiceName),
    #[error("the supervisor is shutting down")]
    Stopping,
}

/// Owns the actors of a node.
#[derive(Debug)]
pub struct Supervisor {
    router: Router,
    random: Random,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Drops what did not stop when it was asked to.
    kill: CancellationToken,
    /// By service name: how to stop or restart each actor.
    actors: Mutex<HashMap<ServiceName, Controls>>,
}

#[derive(Debug, Clone)]
struct Controls {
    /// Ends the actor for good.
    stop: CancellationToken,
    /// Ends its present incarnation; a new one follows at once.
    restart: tokio::sync::mpsc::Sender<()>,
    ended: CancellationToken,
}

impl Supervisor {
    pub fn new(router: Router, random: Random) -> Self {
        Self {
            router,
            random,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            actors: Mutex::default(),
        }
    }

    pub const fn router(&self) -> &Router {
        &self.router
    }

    /// Starts a native actor; `make` is called for each of its lives.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start<S: Service + 'static>(
        &self,
        spec: ActorSpec,
        mut make: impl FnMut() -> Result<S, String> + Send + 'static,
    ) -> Result<(), StartError> {
        let (concurrency, health) = (spec.concurrency.get(), spec.health);
        let (router, name) = (self.router.clone(), spec.info.name.clone());
        let factory: Factory = Box::new(move || {
            let service = Box::new(make()?);
            let (router, name) = (router.clone(), name.clone());
            let native = Native { service, concurrency, router, name, health };
            Ok(Box::new(native))
        });
        self.start_incarnations(spec, factory)
    }

    /// Starts an actor of any kind.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_incarnations(&self, spec: ActorSpec, factory: Factory) -> Result<(), StartError> {
        if self.stop.is_cancelled() {
            return Err(StartError::Stopping);
        }
        let name = spec.info.name.clone();
        let (mailbox, slot) = Mailbox::new(spec.mailbox.get());
        let registered = self
            .router
            .register(spec.info, mailbox)
            .ok_or_else(|| StartError::NameTaken(name.clone()))?;
        let (restart, restarts) = tokio::sync::mpsc::channel(1);
        let controls =
            Controls { stop: self.stop.child_token(), restart, ended: CancellationToken::new() };
        self.lock().insert(name.clone(), controls.clone());
        let life = Lives {
            factory,
            slot,
            registered,
            backoff: Backoff::new(spec.restarts, self.random.clone()),
            restarts,
            stop: controls.stop.clone(),
        };
        let ended = controls.ended.drop_guard();
        let kill = self.kill.clone();
        let run = async move {
            let _ended = ended;
            let _ = kill.run_until_cancelled(life.run()).await;
        };
        self.tasks.spawn(run.instrument(info_span!("actor", service = %name)));
        Ok(())
    }

    /// Stops one actor and waits for it; `false` when there is none of this name.
    pub async fn stop(&self, name: &ServiceName) -> bool {
        let Some(controls) = self.lock().remove(name) else { return false };
        self.router.unregister(name);
        controls.stop.cancel();
        controls.ended.cancelled().await;
        true
    }

    /// Restarts one actor, also one that was given up; `false` when there is none of this name.
    pub fn restart(&self, name: &ServiceName) -> bool {
        let controls = self.lock().get(name).cloned();
        // A restart that is already asked for is enough.
        controls.is_some_and(|controls| {
            let _ = controls.restart.try_send(());
            true
        })
    }

    /// Asks every actor to stop, waits at most `grace`, then drops those that have not, and
    /// returns whether all ended in time.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.stop.cancel();
        self.tasks.close();
        let all = async {
            self.tasks.wait().await;
            self.router.finish_keyed().await;
        };
        let in_time = timeout(grace, all).await.is_ok();
        if !in_time {
            self.kill.cancel();
            self.tasks.wait().await;
        }
        self.lock().clear();
        self.router.clear();
        in_time
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ServiceName, Controls>> {
        self.actors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lives of one actor, one after the other.
struct Lives {
    factory: Factory,
    slot: InboxSlot,
    registered: Registered,
    backoff: Backoff,
    restarts: tokio::sync::mpsc::Receiver<()>,
    stop: CancellationToken,
}

impl fmt::Debug for Lives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lives").field("backoff", &self.backoff).finish_non_exhaustive()
    }
}

impl Lives {
    async fn run(mut self) {
        while !self.stop.is_cancelled() {
            let started = Instant::now();
            let Some(reason) = self.live().await else { continue };
            let pause = self.backoff.crashed(started, Instant::now());
            warn!(%reason, pause_ms = pause.map(|d| d.as_millis() as u64), "actor crashed");
            self.registered.crashed(reason);
            match pause {
                Some(pause) => self.rest(pause).await,
                None => self.give_up().await,
            }
        }
        self.registered.set(Life::Stopped);
        self.slot.take().await.refuse_all(&CallError::service_not_found("it is stopping"));
    }

    /// One life; the reason where it ended in a crash.
    async fn live(&mut self) -> Option<String> {
        let incarnation = match (self.factory)() {
            Ok(incarnation) => incarnation,
            Err(reason) => return Some(reason),
        };
        self.registered.set(Life::Running);
        let inbox = self.slot.take().await;
        let end = self.stop.child_token();
        let mut life = AssertUnwindSafe(incarnation.run(inbox, end.clone())).catch_unwind();
        let exit = tokio::select! {
            exit = &mut life => exit,
            Some(()) = self.restarts.recv() => {
                end.cancel();
                life.await
            }
        };
        match exit {
            Ok(Exit::Stopped) => None,
            Ok(Exit::Crashed(reason)) => Some(reason),
            Err(panic) => Some(panic_text(panic.as_ref())),
        }
    }

    async fn rest(&mut self, pause: Duration) {
        self.registered.set(Life::Restarting);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stop.cancelled() => {}
            _ = self.restarts.recv() => {}
        }
    }

    /// Refuses everything until somebody restarts it by hand.
    async fn give_up(&mut self) {
        error!("actor given up: it crashes whenever it is started");
        self.registered.set(Life::GaveUp);
        let mut inbox = self.slot.take().await;
        let refusal = CallError::service_not_found(self.registered.name());
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                restart = self.restarts.recv() => {
                    debug!("restarted by hand");
                    if restart.is_some() { return }
                }
                envelope = inbox.next() => match envelope {
                    Some(envelope) => envelope.open().1.send(Err(refusal.clone())),
                    None => return,
                },
            }
        }
    }
}
