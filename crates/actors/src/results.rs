//! First results, kept for callers that repeat a call under the same idempotency key.
//!
//! A repeat while the first call runs waits for it; a repeat afterwards gets its result. Refusals
//! before the start are not kept: the call had no effect and may be tried again.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use relay_proto::{
    Call, CallError, Caller, ServiceName,
    call::{Json, RpcCode},
};
use tokio::{sync::watch, time::Instant};

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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ResultKey {
    caller: String,
    service: ServiceName,
    key: String,
}

impl ResultKey {
    pub fn new(caller: &Caller, call: &Call, key: &str) -> Self {
        let who = match (&caller.key, &caller.node, &caller.service) {
            (Some(key), ..) => key.to_string(),
            (None, node, service) => format!(
                "{}/{}",
                node.as_ref().map(ToString::to_string).unwrap_or_default(),
                service.as_ref().map_or("", ServiceName::as_str),
            ),
        };
        Self { caller: who, service: call.to.service.clone(), key: key.to_owned() }
    }
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

#[derive(Debug)]
pub(crate) struct Results {
    limits: ResultLimits,
    kept: Mutex<Kept>,
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
    /// Method and arguments: a key names one call.
    fingerprint: u64,
    outcome: watch::Receiver<Option<Outcome>>,
    /// Zero while it runs.
    bytes: usize,
    /// `None` while it runs.
    expires: Option<Instant>,
}

impl Results {
    pub fn new(limits: ResultLimits) -> Self {
        Self { limits, kept: Mutex::default() }
    }

    /// Claims a key for a call.
    ///
    /// # Errors
    /// Invalid params for another call under a used key, overloaded with too many running.
    pub fn claim(&self, key: &ResultKey, call: &Call) -> Result<Claim, CallError> {
        let fingerprint = fingerprint(call);
        let mut kept = self.lock();
        kept.expire(Instant::now());
        kept.make_room(self.limits.entries.saturating_sub(1), self.limits.bytes);
        let full = kept.by_key.len() >= self.limits.entries;
        kept.serial += 1;
        let serial = kept.serial;
        match kept.by_key.entry(key.clone()) {
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

    /// Stores the result of the first call and wakes its repeats.
    pub fn finish(
        &self,
        key: &ResultKey,
        timeout: Duration,
        sender: &watch::Sender<Option<Outcome>>,
        outcome: Outcome,
    ) {
        let keep = !matches!(&*outcome, Err(error) if had_no_effect(error));
        let bytes = outcome_bytes(&outcome);
        let _ = sender.send(Some(outcome));
        let mut kept = self.lock();
        if !keep {
            kept.by_key.remove(key);
            return;
        }
        let Some(slot) = kept.by_key.get_mut(key) else { return };
        slot.bytes = bytes;
        slot.expires = Some(Instant::now() + self.limits.keep.max(timeout * 2));
        let serial = slot.serial;
        kept.bytes += bytes;
        kept.finished.push_back((key.clone(), serial));
        kept.make_room(self.limits.entries, self.limits.bytes);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn expire(&mut self, now: Instant) {
        while let Some((key, _)) = self.finished.front() {
            let live = self.by_key.get(key).and_then(|slot| slot.expires);
            if live.is_some_and(|expires| expires > now) {
                return;
            }
            self.drop_oldest();
        }
    }

    fn make_room(&mut self, entries: usize, bytes: usize) {
        while (self.by_key.len() > entries || self.bytes > bytes) && !self.finished.is_empty() {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((key, serial)) = self.finished.pop_front() else { return };
        if self.by_key.get(&key).is_some_and(|slot| slot.serial == serial) {
            self.bytes -= self.by_key.remove(&key).map_or(0, |slot| slot.bytes);
        }
    }
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

fn fingerprint(call: &Call) -> u64 {
    let mut hasher = DefaultHasher::new();
    call.method.hash(&mut hasher);
    call.args.as_ref().map(|args| args.get()).hash(&mut hasher);
    hasher.finish()
}
