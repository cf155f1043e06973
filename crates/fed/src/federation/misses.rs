//! What a spoke was just told does not exist: so that a program that asks for it in a loop does not
//! cost its hub a message each time.

use std::{collections::HashMap, time::Duration};

use relay_proto::CallError;

/// How long a refusal holds.
const HOLDS: Duration = Duration::from_secs(1);
/// So many times in that time the hub is asked all the same: what is new is found at once.
const ASKED: u32 = 16;
/// Names that are remembered; when there are more all are forgotten.
const MAX_NAMES: usize = 1024;

#[derive(Debug)]
struct Miss {
    since: Duration,
    times: u32,
    error: CallError,
}

/// Refusals by target.
#[derive(Debug, Default)]
pub(super) struct Misses {
    by_target: HashMap<String, Miss>,
}

impl Misses {
    /// The refusal to give without asking, where the hub has just given it often.
    pub fn known(&self, now: Duration, target: &str) -> Option<CallError> {
        let miss = self.by_target.get(target)?;
        let holds = now.saturating_sub(miss.since) < HOLDS && miss.times >= ASKED;
        holds.then(|| miss.error.clone())
    }

    /// Notes that the hub refused.
    pub fn missed(&mut self, now: Duration, target: String, error: CallError) {
        if self.by_target.len() >= MAX_NAMES && !self.by_target.contains_key(&target) {
            self.by_target.clear();
        }
        let miss = self.by_target.entry(target);
        let miss = miss.or_insert(Miss { since: now, times: 0, error });
        if now.saturating_sub(miss.since) >= HOLDS {
            miss.since = now;
            miss.times = 0;
        }
        miss.times += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hub_is_asked_sixteen_times_a_second_at_most() {
        let mut misses = Misses::default();
        let error = CallError::service_not_found("x");
        let mut asked = 0;
        for n in 0..3000 {
            let now = Duration::from_millis(n);
            if misses.known(now, "x").is_none() {
                asked += 1;
                misses.missed(now, "x".into(), error.clone());
            }
        }
        assert_eq!(asked, 3 * ASKED);
        assert!(misses.known(Duration::from_millis(3000), "y").is_none());
        for n in 0..5000 {
            misses.missed(Duration::ZERO, n.to_string(), error.clone());
        }
        assert!(misses.by_target.len() <= MAX_NAMES);
    }
}
