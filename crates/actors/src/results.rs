//! First results, kept for callers that repeat a call under the same idempotency key.
//!
//! A repeat while the first call runs waits for it; a repeat afterwards gets its result. Refusals
//! before the start are not kept: the call had no effect and may be tried again.
//!
//! With a [`ResultStore`] a key is noted before its call starts and its result before the caller has
//! it, so that a restart of this node runs no call twice. A call that a restart interrupted may
//! have had its effect or not: its repeats are told that nobody knows.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use relay_proto::{
    Call, CallError, Caller, ServiceName,
    call::{Json, RpcCode},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

#[cfg(feature = "script")]
mod sqlite;

#[cfg(feature = "script")]
pub use sqlite::SqliteResults;

/// What is kept at most.
#[derive(Debug, Clone)]
pub struct ResultLimits {
    /// Default 10 000. With this many calls running, one more is refused as overloaded.
    pub entries: usize,
    /// Bytes of results. Default 16 MiB; the oldest go first.
    pub bytes: usize,
    /// How long a result is kept at least, room permitting; never below twice the call's
    /// timeout. Default 10 minutes.
    pub keep: Duration,
}

impl Default for ResultLimits {
    fn default() -> Self {
        Self { entries: 10_000, bytes: 16 << 20, keep: Duration::from_secs(600) }
    }
}

/// Whose key it is: two callers may use the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResultKey {
    caller: String,
    service: ServiceName,
    key: String,
}

impl ResultKey {
    pub(crate) fn new(caller: &Caller, call: &Call, key: &str) -> Self {
        let who = match (&caller.key, &caller.node, &caller.service) {
            (Some(key), ..) => key.to_string(),
            // Without its hub: a caller whose hub died repeats its calls through another one.
            (None, node, service) => format!(
                "{}/{}",
                node.as_ref().map(|node| node.relay.as_str()).unwrap_or_default(),
                service.as_ref().map_or("", ServiceName::as_str),
            ),
        };
        Self { caller: who, service: call.to.service.clone(), key: key.to_owned() }
    }
}

/// A key as it is stored.
#[derive(Debug, Clone)]
pub struct KeptResult {
    pub key: ResultKey,
    /// Of method and arguments: a key names one call.
    pub fingerprint: u64,
    /// Unix milliseconds.
    pub expires_at_ms: u64,
    /// `None` from the start of the call to its end.
    pub outcome: Option<Result<Json, CallError>>,
}

/// Why results cannot be kept or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("results of calls cannot be stored: {0}")]
pub struct ResultStoreError(pub String);

/// Where results outlive this process.
pub trait ResultStore: Send + Sync + 'static {
    /// What was stored and has not expired at `now_ms`, oldest first; the rest is deleted.
    fn load(&self, now_ms: u64) -> BoxFuture<'static, Result<Vec<KeptResult>, ResultStoreError>>;

    /// Stores one, in the place of what there was of its key. `Ok` when it is durable.
    fn put(&self, kept: KeptResult) -> BoxFuture<'static, Result<(), ResultStoreError>>;

    /// Deletes some; nobody waits for it.
    fn forget(&self, keys: Vec<ResultKey>);
}

pub(crate) type Outcome = Arc<Result<Json, CallError>>;

/// What the store says to a call with a key.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The first: run it and [`Results::finish`].
    First(watch::Sender<Option<Outcome>>),
    /// A repeat: wait for the first.
    Repeat(watch::Receiver<Option<Outcome>>),
}

pub(crate) struct Results {
    limits: ResultLimits,
    kept: Mutex<Kept>,
    store: OnceLock<Arc<dyn ResultStore>>,
}

#[derive(Debug, Default)]
struct Kept {
    by_key: HashMap<ResultKey, Slot>,
    /// Finished ones, oldest first, with the serial of the slot they mean.
    finished: VecDeque<(ResultKey, u64)>,
    bytes: usize,
    serial: u64,
}

#[derive(Debug)]
struct Slot {
    serial: u64,
    fingerprint: u64,
    outcome: watch::Receiver<Option<Outcome>>,
    /// Zero while it runs.
    bytes: usize,
    /// `None` while it runs.
    expires: Option<Instant>,
}

impl Results {
    pub fn new(limits: ResultLimits) -> Self {
        Self { limits, kept: Mutex::default(), store: OnceLock::new() }
    }

    /// Takes over what a store has, and keeps results there from now on.
    pub async fn restore(
        &self,
        store: Arc<dyn ResultStore>,
        now_ms: u64,
    ) -> Result<(), ResultStoreError> {
        let loaded = store.load(now_ms).await?;
        let now = Instant::now();
        {
            let mut kept = self.lock();
            for stored in loaded {
                let left = Duration::from_millis(stored.expires_at_ms.saturating_sub(now_ms));
                kept.take_over(stored, now + left);
            }
        }
        if self.store.set(store).is_err() {
            return Err(ResultStoreError("there is a store already".to_owned()));
        }
        Ok(())
    }

    /// Claims a key for a call.
    ///
    /// # Errors
    /// Invalid params for another call under a used key, overloaded with too many running.
    pub fn claim(&self, key: &ResultKey, call: &Call) -> Result<Claim, CallError> {
        let fingerprint = fingerprint(call);
        let mut gone = Vec::new();
        let claimed = {
            let mut kept = self.lock();
            kept.expire(Instant::now(), &mut gone);
            kept.make_room(self.limits.entries.saturating_sub(1), self.limits.bytes, &mut gone);
            kept.claim(key, fingerprint, self.limits.entries)
        };
        self.forget(gone);
        claimed
    }

    /// Notes that the first call of a key starts.
    ///
    /// # Errors
    /// Overloaded, where that cannot be stored: the call must not start.
    pub async fn begin(
        &self,
        key: &ResultKey,
        timeout: Duration,
        now_ms: u64,
    ) -> Result<(), CallError> {
        let Some(store) = self.store.get() else { return Ok(()) };
        let Some(fingerprint) = self.lock().by_key.get(key).map(|slot| slot.fingerprint) else {
            return Ok(());
        };
        let expires_at_ms = now_ms + self.keep(timeout).as_millis() as u64;
        let begun = KeptResult { key: key.clone(), fingerprint, expires_at_ms, outcome: None };
        store.put(begun).await.map_err(|error| {
            tracing::error!(%error, "a call with an idempotency key is refused");
            CallError::overloaded("calls with idempotency keys cannot be kept now", 1000)
        })
    }

    /// Stores the result of the first call and wakes its repeats.
    pub async fn finish(
        &self,
        key: &ResultKey,
        timeout: Duration,
        sender: &watch::Sender<Option<Outcome>>,
        outcome: Result<Json, CallError>,
        now_ms: u64,
    ) {
        let keep = !matches!(&outcome, Err(error) if had_no_effect(error));
        if keep {
            self.store_outcome(key, timeout, &outcome, now_ms).await;
        }
        let bytes = outcome_bytes(&outcome);
        let mut gone = Vec::new();
        {
            let mut kept = self.lock();
            if keep {
                kept.finished(key, bytes, Instant::now() + self.keep(timeout));
                kept.make_room(self.limits.entries, self.limits.bytes, &mut gone);
            } else {
                kept.by_key.remove(key);
                gone.push(key.clone());
            }
        }
        self.forget(gone);
        let _ = sender.send(Some(Arc::new(outcome)));
    }

    async fn store_outcome(
        &self,
        key: &ResultKey,
        timeout: Duration,
        outcome: &Result<Json, CallError>,
        now_ms: u64,
    ) {
        let fingerprint = self.lock().by_key.get(key).map(|slot| slot.fingerprint);
        let (Some(store), Some(fingerprint)) = (self.store.get(), fingerprint) else { return };
        let expires_at_ms = now_ms + self.keep(timeout).as_millis() as u64;
        let outcome = Some(outcome.clone());
        let kept = KeptResult { key: key.clone(), fingerprint, expires_at_ms, outcome };
        if let Err(error) = store.put(kept).await {
            // The note of its start is stored: after a restart it counts as interrupted.
            tracing::error!(%error, "the result of a call is kept in memory only");
        }
    }

    fn keep(&self, timeout: Duration) -> Duration {
        self.limits.keep.max(timeout * 2)
    }

    fn forget(&self, keys: Vec<ResultKey>) {
        if let Some(store) = self.store.get().filter(|_| !keys.is_empty()) {
            store.forget(keys);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Results {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Results").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Kept {
    fn claim(
        &mut self,
        key: &ResultKey,
        fingerprint: u64,
        limit: usize,
    ) -> Result<Claim, CallError> {
        let full = self.by_key.len() >= limit;
        self.serial += 1;
        let serial = self.serial;
        match self.by_key.entry(key.clone()) {
            Entry::Occupied(slot) if slot.get().fingerprint != fingerprint => {
                Err(CallError::invalid_params("this idempotency key was used for another call"))
            }
            Entry::Occupied(slot) => Ok(Claim::Repeat(slot.get().outcome.clone())),
            Entry::Vacant(_) if full => {
                Err(CallError::overloaded("too many calls with idempotency keys run", 1000))
            }
            Entry::Vacant(slot) => {
                let (sender, outcome) = watch::channel(None);
                slot.insert(Slot { serial, fingerprint, outcome, bytes: 0, expires: None });
                Ok(Claim::First(sender))
            }
        }
    }

    /// A result of an earlier life of this node.
    fn take_over(&mut self, stored: KeptResult, expires: Instant) {
        let outcome = stored.outcome.unwrap_or_else(|| Err(interrupted()));
        let bytes = outcome_bytes(&outcome);
        self.serial += 1;
        let slot = Slot {
            serial: self.serial,
            fingerprint: stored.fingerprint,
            outcome: watch::channel(Some(Arc::new(outcome))).1,
            bytes,
            expires: Some(expires),
        };
        self.finished.push_back((stored.key.clone(), self.serial));
        self.bytes += bytes;
        self.by_key.insert(stored.key, slot);
    }

    fn finished(&mut self, key: &ResultKey, bytes: usize, expires: Instant) {
        let Some(slot) = self.by_key.get_mut(key) else { return };
        slot.bytes = bytes;
        slot.expires = Some(expires);
        self.finished.push_back((key.clone(), slot.serial));
        self.bytes += bytes;
    }

    fn expire(&mut self, now: Instant, gone: &mut Vec<ResultKey>) {
        while let Some((key, _)) = self.finished.front() {
            let live = self.by_key.get(key).and_then(|slot| slot.expires);
            if live.is_some_and(|expires| expires > now) {
                return;
            }
            self.drop_oldest(gone);
        }
    }

    fn make_room(&mut self, entries: usize, bytes: usize, gone: &mut Vec<ResultKey>) {
        while (self.by_key.len() > entries || self.bytes > bytes) && !self.finished.is_empty() {
            self.drop_oldest(gone);
        }
    }

    fn drop_oldest(&mut self, gone: &mut Vec<ResultKey>) {
        let Some((key, serial)) = self.finished.pop_front() else { return };
        if self.by_key.get(&key).is_some_and(|slot| slot.serial == serial) {
            self.bytes -= self.by_key.remove(&key).map_or(0, |slot| slot.bytes);
            gone.push(key);
        }
    }
}

/// What repeats of a call are told that a restart of this node cut off.
fn interrupted() -> CallError {
    CallError::internal(
        "the node stopped while the first call of this key ran; whether it took effect is not known",
    )
    .with("outcome", "unknown")
}

fn had_no_effect(error: &CallError) -> bool {
    error.refused_before_start()
        || matches!(error.code, RpcCode::MethodNotFound | RpcCode::InvalidParams)
}

fn outcome_bytes(outcome: &Result<Json, CallError>) -> usize {
    match outcome {
        Ok(value) => value.get().len(),
        Err(error) => error.message.len() + error.wire_data().to_string().len(),
    }
}

/// The same in every build, since it is stored.
fn fingerprint(call: &Call) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(call.method.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(call.args.as_ref().map_or("", |args| args.get()).as_bytes());
    let mut reader = hasher.finalize_xof();
    let mut first = [0; 8];
    reader.fill(&mut first);
    u64::from_le_bytes(first)
}
