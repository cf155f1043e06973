//! The pool of challenges: each is taken once, right answer or wrong.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use ahash::AHashMap;
use relay_proto::{
    NodeId,
    auth::{Challenge, ChallengeId, DeviceId},
};

/// Challenges that may be open; beyond it the oldest go. About 400 bytes each.
const CAPACITY: usize = 50_000;

/// Kept in memory only: after a restart a client asks again.
#[derive(Debug)]
pub(super) struct Challenges(Mutex<Pool>);

#[derive(Debug)]
struct Pool {
    capacity: usize,
    open: AHashMap<ChallengeId, Challenge>,
    /// In the order of asking, which is that of expiry. Answered ones stay until they are due.
    order: VecDeque<(u64, ChallengeId)>,
}

impl Default for Challenges {
    fn default() -> Self {
        Self::new(CAPACITY)
    }
}

impl Challenges {
    fn new(capacity: usize) -> Self {
        Self(Mutex::new(Pool { capacity, open: AHashMap::new(), order: VecDeque::new() }))
    }

    pub fn ask(&self, user: NodeId, device: DeviceId, now_ms: u64) -> Challenge {
        let challenge = Challenge::generate(&mut rand_core::OsRng, user, device, now_ms);
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pool.make_room(now_ms);
        pool.order.push_back((challenge.expires_at_ms, challenge.id));
        pool.open.insert(challenge.id, challenge.clone());
        challenge
    }

    pub fn take(&self, id: &ChallengeId) -> Option<Challenge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).open.remove(id)
    }
}

impl Pool {
    fn make_room(&mut self, now_ms: u64) {
        while let Some((expires_at_ms, id)) = self.order.front() {
            if *expires_at_ms > now_ms && self.order.len() < self.capacity {
                break;
            }
            self.open.remove(id);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use relay_proto::{SigningKey, auth::challenge::CHALLENGE_TTL_MS};

    use super::*;

    fn ask(challenges: &Challenges, now_ms: u64) -> Challenge {
        let user = SigningKey::from_seed([1; 32]).node_id();
        challenges.ask(user, DeviceId::new("d").unwrap(), now_ms)
    }

    #[test]
    fn each_is_taken_once() {
        let challenges = Challenges::default();
        let challenge = ask(&challenges, 0);
        assert!(challenges.take(&challenge.id).is_some());
        assert!(challenges.take(&challenge.id).is_none());
    }

    #[test]
    fn the_pool_is_bounded_and_forgets_the_old() {
        let challenges = Challenges::new(8);
        let first = ask(&challenges, 0);
        for _ in 0..8 {
            ask(&challenges, 0);
        }
        assert!(challenges.take(&first.id).is_none());
        ask(&challenges, CHALLENGE_TTL_MS);
        let pool = challenges.0.lock().unwrap();
        assert_eq!((pool.open.len(), pool.order.len()), (1, 1));
    }
}
