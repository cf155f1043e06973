//! The loop of a native actor.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use relay_proto::{CallError, ServiceName, call::RpcCode};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    inbox::{Envelope, Inbox},
    router::Router,
    service::{Handled, Service},
    supervisor::{Exit, Incarnation},
};

/// One life of a [`Service`].
pub(crate) struct Native {
    pub service: Box<dyn Service>,
    /// How many [`Handled::Aside`] may run at once.
    pub concurrency: usize,
    /// Where health checks are told to.
    pub router: Router,
    pub name: ServiceName,
    /// How often the service is asked whether it is well.
    pub health: Duration,
}

impl Incarnation for Native {
    fn run(self: Box<Self>, inbox: Inbox, stop: CancellationToken) -> BoxFuture<'static, Exit> {
        Box::pin(serve(*self, inbox, stop))
    }
}

#[expect(clippy::large_enum_variant, reason = "made and taken apart at once, never kept")]
enum Next {
    Stop,
    Failed(String),
    Message(Option<Envelope>),
    AsideEnded,
    Check,
}

async fn serve(mut actor: Native, mut inbox: Inbox, stop: CancellationToken) -> Exit {
    let mut aside = Aside::default();
    let mut checks = tokio::time::interval(actor.health.max(Duration::from_millis(1)));
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut checking = JoinSet::new();
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => Next::Stop,
            reason = actor.service.failed() => Next::Failed(reason),
            Some(_) = aside.works.join_next(), if !aside.works.is_empty() => Next::AsideEnded,
            _ = checks.tick(), if checking.is_empty() => Next::Check,
            Some(_) = checking.join_next(), if !checking.is_empty() => Next::AsideEnded,
            envelope = inbox.next(), if aside.works.len() < actor.concurrency => Next::Message(envelope),
        };
        let handled = match next {
            Next::Stop | Next::Message(None) => break,
            Next::Failed(reason) => {
                aside.give_up().await;
                return Exit::Crashed(reason);
            }
            Next::AsideEnded => continue,
            Next::Check => {
                checking.spawn(check(&actor));
                continue;
            }
            Next::Message(Some(envelope)) => handle(&mut actor, envelope, &inbox, &mut aside),
        };
        if let Err(crash) = handled.await {
            aside.give_up().await;
            return Exit::Crashed(crash);
        }
    }
    // What still waits in the inbox is refused by the supervisor, or served by the next life.
    aside.finish().await;
    actor.service.stop().await;
    Exit::Stopped
}

/// Work beside later messages; it ends with the actor.
#[derive(Default)]
struct Aside {
    works: JoinSet<()>,
    /// The service that the work was of has failed.
    failed: CancellationToken,
}

impl Aside {
    async fn finish(&mut self) {
        while self.works.join_next().await.is_some() {}
    }

    /// Tells every caller that no answer will come: what was asked may or may not have been done.
    async fn give_up(&mut self) {
        self.failed.cancel();
        self.finish().await;
    }
}

/// Asks the service whether it is well, and tells the router.
fn check(actor: &Native) -> impl Future<Output = ()> + Send + 'static {
    let (checked, patience) = (actor.service.check(), actor.health);
    let (router, name) = (actor.router.clone(), actor.name.clone());
    async move {
        let health = timeout(patience, checked).await;
        router.note_health(&name, health.unwrap_or_else(|_| Err("no answer in time".to_owned())));
    }
}

/// Handles one message; `Err` when the handler panicked.
async fn handle(
    actor: &mut Native,
    envelope: Envelope,
    inbox: &Inbox,
    aside: &mut Aside,
) -> Result<(), String> {
    let started = Instant::now();
    let (request, mut answer) = envelope.open();
    let handling = AssertUnwindSafe(actor.service.handle(request)).catch_unwind();
    let handled = tokio::select! {
        biased;
        handled = handling => handled,
        () = answer.abandoned() => return Ok(()),
    };
    match handled {
        Ok(Handled::Now(result)) => {
            inbox.observe(started, &result);
            answer.send(result);
        }
        Ok(Handled::Aside(work)) => {
            let (counters, failed) = (inbox.counters(), aside.failed.clone());
            aside.works.spawn(async move {
                let result = tokio::select! {
                    biased;
                    result = AssertUnwindSafe(work).catch_unwind() => {
                        result.unwrap_or_else(|_| Err(crashed()))
                    }
                    () = failed.cancelled() => Err(ended()),
                    () = answer.abandoned() => return,
                };
                counters.observe(started, &result);
                answer.send(result);
            });
        }
        Err(panic) => {
            let result = Err(crashed());
            inbox.observe(started, &result);
            answer.send(result);
            return Err(panic_text(panic.as_ref()));
        }
    }
    Ok(())
}

fn crashed() -> CallError {
    CallError::internal("the service crashed while it handled this call")
}

fn ended() -> CallError {
    let message = "the program behind the service ended before it answered";
    CallError::new(RpcCode::NodeUnreachable, message)
}

/// What a panic said; for the log only.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}
