//! Publishing, and the state that publishing and reading share.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use relay_proto::{Code, Event, EventError, EventId, Namespace, Problem, RawEvent, event::Class};
use relay_store::{Appended, Clock, Committed, Store, StoreError};
use tokio::sync::oneshot;

use super::{
    admit::{Gate, check, check_expiration},
    ephemeral::Ephemerals,
    verify::{Lane, Verifier},
};
use crate::{failure::store_problem, fanout::Fanout};

/// Settings of the domain.
#[derive(Debug, Clone)]
pub struct EventsConfig {
    /// How long ephemeral events can be asked for, milliseconds, at most 60 000; 0: not at all.
    pub ephemeral_replay_ms: u64,
    /// Threads that verify signatures, at least 1.
    pub verify_threads: usize,
}

/// What a publisher is told of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub id: EventId,
    pub status: PublishStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishStatus {
    Stored {
        seq: u64,
        latest: bool,
    },
    Duplicate {
        seq: u64,
        latest: bool,
    },
    /// Ephemeral: sent to those who listen, not stored.
    Relayed,
}

/// Counters, for metrics.
#[derive(Debug, Default)]
pub struct EventsStats {
    pub stored: AtomicU64,
    pub duplicates: AtomicU64,
    pub relayed: AtomicU64,
    pub refused: AtomicU64,
    pub bad_signatures: AtomicU64,
}

/// The domain. Shared by all doors.
#[derive(Debug)]
pub struct Events {
    pub(super) shared: Arc<Shared>,
    verifier: Verifier,
}

/// What the verification threads need as well.
#[derive(Debug)]
pub(super) struct Shared {
    pub store: Store,
    pub fanout: Arc<Fanout>,
    pub gate: Arc<dyn Gate>,
    pub clock: Arc<dyn Clock>,
    pub ephemerals: Mutex<Ephemerals>,
    /// Every namespace that holds an event.
    pub namespaces: RwLock<BTreeSet<Namespace>>,
    /// The namespaces of all events up to this `seq` are in `namespaces`.
    pub noted_seq: AtomicU64,
    pub stats: EventsStats,
}

/// One event on its way: decided already, or at the store.
enum Step {
    Done(Result<Published, Problem>),
    /// Refused by policy; a stored one is answered as a duplicate all the same.
    Refused(EventId, Problem),
    /// The next of those handed to the writer.
    AtStore(EventId),
}

type Outcome = Result<Published, Problem>;

impl Events {
    /// Starts the domain over an open store.
    ///
    /// # Errors
    /// Where the namespaces cannot be read or threads cannot be started.
    pub async fn start(
        config: &EventsConfig,
        store: Store,
        fanout: Arc<Fanout>,
        gate: Arc<dyn Gate>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let noted_seq = AtomicU64::new(store.committed_seq());
        let namespaces = store.namespaces().await?.into_iter().map(|info| info.name).collect();
        let verifier = Verifier::start(config.verify_threads)
            .map_err(|error| StoreError::Database(error.to_string()))?;
        let shared = Shared {
            store,
            fanout,
            gate,
            clock,
            ephemerals: Mutex::new(Ephemerals::new(config.ephemeral_replay_ms.min(60_000))),
            namespaces: RwLock::new(namespaces),
            noted_seq,
            stats: EventsStats::default(),
        };
        Ok(Self { shared: Arc::new(shared), verifier })
    }

    pub fn stats(&self) -> &EventsStats {
        &self.shared.stats
    }

    /// Jobs that wait for verification.
    pub fn waiting(&self) -> usize {
        self.verifier.waiting()
    }

    /// Notes new namespaces; called with every commit before its answers leave.
    pub fn committed(&self, events: &[Committed]) {
        self.shared.note_namespaces(events);
    }

    /// A lane for a new publisher: what it publishes is stored in the order of its calls.
    pub fn lane(&self) -> Lane {
        self.verifier.lane()
    }

    /// Publishes events; the outcomes are in their order. One bad event does not stop the others.
    ///
    /// Dropping the future does not undo what was already handed over.
    pub async fn publish(&self, lane: Lane, raws: Vec<RawEvent>) -> Vec<Outcome> {
        let (tell, told) = oneshot::channel();
        let count = raws.len();
        let shared = self.shared.clone();
        let queued =
            self.verifier.check(lane, raws, move |verified| shared.admit(verified, tell)).await;
        let steps = if queued { told.await.ok() } else { None };
        let Some(steps) = steps else {
            return vec![Err(closed()); count];
        };
        self.shared.finish(steps).await
    }
}

impl Shared {
    /// Runs on a verification thread: decides what needs no store and hands on the rest.
    fn admit(
        self: Arc<Self>,
        verified: Vec<Result<Event, EventError>>,
        tell: oneshot::Sender<Vec<Step>>,
    ) {
        let now_ns = self.clock.wall_ns();
        let mut events = Vec::with_capacity(verified.len());
        let steps: Vec<Step> = verified
            .into_iter()
            .map(|event| match event {
                Ok(event) => self.admit_one(event, now_ns, &mut events),
                Err(error) => {
                    if matches!(error, EventError::BadSignature) {
                        self.stats.bad_signatures.fetch_add(1, Ordering::Relaxed);
                    }
                    Step::Done(Err(error.into()))
                }
            })
            .collect();
        if events.is_empty() {
            let _ = tell.send(steps);
            return;
        }
        let shared = self.clone();
        let handed = events.clone();
        self.store.submit(events, now_ns, move |appended| {
            let _ = tell.send(shared.join(steps, &handed, appended, now_ns));
        });
    }

    fn admit_one(&self, event: Event, now_ns: u64, events: &mut Vec<Event>) -> Step {
        let id = event.id();
        if let Err(problem) = check(&event, now_ns) {
            return Step::Done(Err(problem));
        }
        let admitted =
            check_expiration(&event, now_ns).and_then(|()| self.gate.admit(&event, now_ns));
        if let Err(problem) = admitted {
            return Step::Refused(id, problem);
        }
        if event.class() == Class::Ephemeral {
            return Step::Done(Ok(self.relay(event, now_ns)));
        }
        events.push(event);
        Step::AtStore(id)
    }

    fn relay(&self, event: Event, now_ns: u64) -> Published {
        let id = event.id();
        let new =
            self.ephemerals.lock().unwrap_or_else(PoisonError::into_inner).push(now_ns, &event);
        if new {
            self.fanout.ephemeral(event, now_ns);
        }
        self.stats.relayed.fetch_add(1, Ordering::Relaxed);
        Published { id, status: PublishStatus::Relayed }
    }

    /// Runs on the writer's thread after the commit: puts the store's answers in their places.
    fn join(
        &self,
        steps: Vec<Step>,
        handed: &[Event],
        appended: Result<Vec<Appended>, StoreError>,
        now_ns: u64,
    ) -> Vec<Step> {
        let mut answers = match &appended {
            Ok(appended) => appended.iter(),
            Err(_) => [].iter(),
        };
        let mut handed = handed.iter();
        let mut place = |step| match step {
            Step::AtStore(id) => {
                let event = handed.next();
                let outcome = match (answers.next(), &appended) {
                    (Some(answer), _) => self.outcome(id, *answer, event, now_ns),
                    (None, Err(error)) => Err(store_problem(error)),
                    (None, Ok(_)) => Err(closed()),
                };
                Step::Done(outcome)
            }
            done => done,
        };
        steps.into_iter().map(&mut place).collect()
    }

    fn outcome(
        &self,
        id: EventId,
        answer: Appended,
        event: Option<&Event>,
        now_ns: u64,
    ) -> Outcome {
        let status = match answer {
            Appended::Stored { seq, latest } => {
                self.stats.stored.fetch_add(1, Ordering::Relaxed);
                PublishStatus::Stored { seq, latest }
            }
            Appended::Duplicate { seq, latest } => {
                self.stats.duplicates.fetch_add(1, Ordering::Relaxed);
                if let Some(event) = event {
                    self.gate.give_back(event, now_ns);
                }
                PublishStatus::Duplicate { seq, latest }
            }
            Appended::Fenced => {
                self.stats.refused.fetch_add(1, Ordering::Relaxed);
                return Err(Problem::new(
                    Code::Fenced,
                    "the author does not hold the lock named by 'fence' with this token",
                ));
            }
        };
        Ok(Published { id, status })
    }

    /// "Already stored" comes before policy: a refused event that is stored is a duplicate.
    async fn finish(&self, steps: Vec<Step>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(steps.len());
        for step in steps {
            outcomes.push(match step {
                Step::Done(outcome) => outcome,
                Step::Refused(id, problem) => match self.duplicate(id).await {
                    Ok(Some(status)) => Ok(Published { id, status }),
                    Ok(None) => {
                        self.stats.refused.fetch_add(1, Ordering::Relaxed);
                        Err(problem)
                    }
                    Err(error) => Err(store_problem(&error)),
                },
                Step::AtStore(_) => Err(closed()),
            });
        }
        outcomes
    }

    /// What is said of an event that is stored already.
    async fn duplicate(&self, id: EventId) -> Result<Option<PublishStatus>, StoreError> {
        let found = self.store.find(vec![id]).await?.into_iter().flatten().next();
        let Some(found) = found else { return Ok(None) };
        let latest = self.is_latest(&found).await?;
        Ok(Some(PublishStatus::Duplicate { seq: found.event.seq, latest }))
    }

    fn note_namespaces(&self, events: &[Committed]) {
        let known = self.namespaces.read().unwrap_or_else(PoisonError::into_inner);
        let mut last: Option<&Namespace> = None;
        let mut new = Vec::new();
        for committed in events {
            let ns = committed.event.namespace();
            if last != Some(ns) && !known.contains(ns) {
                new.push(ns.clone());
            }
            last = Some(ns);
        }
        drop(known);
        if !new.is_empty() {
            self.namespaces.write().unwrap_or_else(PoisonError::into_inner).extend(new);
        }
        if let Some(last) = events.last() {
            self.noted_seq.fetch_max(last.seq, Ordering::Release);
        }
    }
}

fn closed() -> Problem {
    store_problem(&StoreError::Closed)
}
