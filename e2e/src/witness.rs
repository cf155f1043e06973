//! Writes down what was asked and answered, for the checker.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use relay_sim::{Ask, Entry, History, Outcome, Restart, check};

/// Shared by all clients of one test. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Witness {
    began: Instant,
    history: Arc<Mutex<History>>,
    /// Numbers of keys, in the order in which they were met.
    owners: Arc<Mutex<HashMap<String, u32>>>,
}

/// How precisely the end of a lease is seen from outside: timers and busy cores included.
const SLACK: Duration = Duration::from_millis(50);

impl Default for Witness {
    fn default() -> Self {
        let history = History { slack_ns: SLACK.as_nanos() as u64, ..History::default() };
        Self {
            began: Instant::now(),
            history: Arc::new(Mutex::new(history)),
            owners: Arc::default(),
        }
    }
}

impl Witness {
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// The number of a key.
    pub fn owner(&self, key: &str) -> u32 {
        let mut owners = self.owners.lock().unwrap();
        let next = owners.len() as u32;
        *owners.entry(key.to_owned()).or_insert(next)
    }

    pub fn note(&self, client: u32, resource: &str, call: u64, ask: Ask, outcome: Outcome) {
        let entry =
            Entry { client, resource: resource.to_owned(), call, ret: self.now(), ask, outcome };
        self.history.lock().unwrap().entries.push(entry);
    }

    /// The relay is back after it went down at `down`.
    pub fn restarted(&self, down: u64) {
        let up = self.now();
        self.history.lock().unwrap().restarts.push(Restart { down, up });
    }

    pub fn len(&self) -> usize {
        self.history.lock().unwrap().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// # Panics
    /// With the story, if the history can not be explained, or a token was given twice.
    pub fn judge(&self, context: &str) {
        let history = self.history.lock().unwrap();
        check(&history).expect_linearizable(context);
    }
}
