//! Subscriptions of a service: each yields one event at a time and waits until it was handled.

use std::{sync::Arc, time::Duration};

use futures_util::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};
use relay_proto::{ServiceName, call::Json};
use tokio::sync::oneshot;

use super::host::{Host, HostEvent};
use crate::journal::LogLevel;

/// An event to handle; the subscription goes on when `handled` is told or dropped.
pub(super) struct Delivery {
    pub subscription: String,
    pub event: HostEvent,
    /// From 0.
    pub attempt: u32,
    pub handled: oneshot::Sender<Verdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Go on behind it.
    Done,
    /// Yield it again after a pause.
    Again,
}

/// How often an event is given to its handler before it is passed over.
pub(super) const MAX_ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(super) type Deliveries = SelectAll<BoxStream<'static, Delivery>>;

struct Reading {
    host: Arc<dyn Host>,
    service: ServiceName,
    subscription: String,
    filter: Json,
    after: Option<String>,
    stream: Option<BoxStream<'static, HostEvent>>,
    /// The event under way and how its last attempt ended.
    pending: Option<(HostEvent, u32, oneshot::Receiver<Verdict>)>,
    /// Failures to open the subscription since it last yielded.
    failures: u32,
}

/// Opens a subscription and reads it for ever, opening it again when it breaks. It is open when
/// this returns, so that nothing after the service's start is missed.
pub(super) async fn read(
    host: Arc<dyn Host>,
    service: ServiceName,
    subscription: String,
    filter: Json,
    after: Option<String>,
) -> BoxStream<'static, Delivery> {
    let mut reading = Reading {
        host,
        service,
        subscription,
        filter,
        after,
        stream: None,
        pending: None,
        failures: 0,
    };
    reading.open().await;
    futures_util::stream::unfold(reading, |mut reading| async {
        let delivery = reading.next().await;
        Some((delivery, reading))
    })
    .boxed()
}

impl Reading {
    async fn next(&mut self) -> Delivery {
        if let Some((event, attempt, handled)) = self.pending.take() {
            match handled.await {
                Ok(Verdict::Done) => self.after = Some(event.cursor),
                Ok(Verdict::Again) | Err(_) => {
                    tokio::time::sleep(pause(attempt)).await;
                    return self.deliver(event, attempt + 1);
                }
            }
        }
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => {
                    tokio::time::sleep(pause(self.failures)).await;
                    self.open().await;
                    continue;
                }
            };
            if let Some(event) = stream.next().await {
                self.failures = 0;
                return self.deliver(event, 0);
            }
            self.stream = None;
            self.failed("it ended");
        }
    }

    fn deliver(&mut self, event: HostEvent, attempt: u32) -> Delivery {
        let (handled, verdict) = oneshot::channel();
        self.pending = Some((event.clone(), attempt, verdict));
        Delivery { subscription: self.subscription.clone(), event, attempt, handled }
    }

    async fn open(&mut self) {
        let opening = self.host.subscribe(&self.service, self.filter.clone(), self.after.clone());
        match opening.await {
            Ok(stream) => self.stream = Some(stream),
            Err(error) => self.failed(&error.message),
        }
    }

    fn failed(&mut self, why: &str) {
        let message = format!("subscription '{}': {why}; it is opened again", self.subscription);
        self.host.log(&self.service, LogLevel::Warn, &message);
        self.failures += 1;
    }
}

fn pause(attempt: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << attempt.min(10)).min(LONGEST_PAUSE)
}
