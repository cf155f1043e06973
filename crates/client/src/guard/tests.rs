//! The cases T03, T04 and T05 of lock clients, and what goes with them, against a relay of paper.

use std::collections::VecDeque;

use serde_json::Map;

use super::*;
use crate::{ManualClock, keys};

const LEASE: Duration = Duration::from_secs(30);

/// Answers from a script, each after the clock has moved by what the answer took.
#[derive(Debug)]
struct Script {
    clock: ManualClock,
    owner: NodeId,
    answers: Mutex<VecDeque<(Duration, Result<(), Code>)>>,
    renewals: watch::Sender<usize>,
}

impl Script {
    fn new(
        clock: &ManualClock,
        answers: impl IntoIterator<Item = (Duration, Result<(), Code>)>,
    ) -> Arc<Self> {
        Arc::new(Self {
            clock: clock.clone(),
            owner: keys::generate().unwrap().node_id(),
            answers: Mutex::new(answers.into_iter().collect()),
            renewals: watch::Sender::new(0),
        })
    }

    fn answer(&self) -> BoxFuture<'_, Result<LockGrant, Error>> {
        let next = self.answers.lock().unwrap().pop_front();
        Box::pin(async move {
            // With the script at its end the line is dead.
            let Some((took, answer)) = next else { return std::future::pending().await };
            self.clock.advance(took);
            answer.map_err(|code| Error::refused(Problem::new(code, "scripted")))?;
            Ok(LockGrant {
                resource: "db/main".into(),
                owner: self.owner,
                fencing_token: 17,
                lease_ms: 30_000,
                lease_expires_at_ns: "0".into(),
                now_ns: None,
                more: Map::new(),
            })
        })
    }

    /// Waits until that many renewals were sent.
    async fn renewed(&self, times: usize) {
        let mut renewals = self.renewals.subscribe();
        renewals.wait_for(|count| *count >= times).await.unwrap();
    }
}

impl LockCalls for Script {
    fn acquire<'a>(&'a self, _: &'a LockRequest) -> BoxFuture<'a, Result<LockGrant, Error>> {
        self.answer()
    }

    fn renew<'a>(&'a self, _: &'a Grip<'a>) -> BoxFuture<'a, Result<LockGrant, Error>> {
        Box::pin(async move {
            let answer = self.answer().await;
            self.renewals.send_modify(|count| *count += 1);
            answer
        })
    }

    fn release<'a>(&'a self, _: &'a Grip<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn acquire(script: &Arc<Script>) -> Result<LockGuard, Error> {
    let options = LockOptions { margin: None, clock: Arc::new(script.clock.clone()) };
    LockGuard::acquire_with(script.clone(), LockRequest::new("db/main").unwrap(), options).await
}

/// T03: a holder that was stopped for longer than its lease sees the loss before it can write.
#[tokio::test]
async fn t03_a_paused_holder_is_told_before_its_code_goes_on() {
    let clock = ManualClock::default();
    let script = Script::new(&clock, [(secs(0), Ok(()))]);
    let lock = acquire(&script).await.unwrap();
    clock.advance(secs(26));
    assert!(lock.is_held(), "the margin is a tenth of the lease");
    // No task of ours runs between the pause and the question.
    clock.advance(secs(1));
    assert!(!lock.is_held());
    assert_eq!(lock.lost().await, Loss::TimedOut { last_error: None });
}

/// T04: the lease counts from when the request was sent, so a late grant is no grant.
#[tokio::test]
async fn t04_a_grant_that_arrives_after_its_lease_is_not_held() {
    let clock = ManualClock::default();
    let late = secs(31);
    let script = Script::new(&clock, [(late, Ok(())), (secs(0), Err(Code::LeaseExpired))]);
    assert!(matches!(acquire(&script).await, Err(Error::LeaseOver)));
}

/// T04, with a relay that began to count late because the caller had queued.
#[tokio::test]
async fn t04_a_grant_after_waiting_is_confirmed_and_counts_from_there() {
    let clock = ManualClock::default();
    let script = Script::new(&clock, [(secs(120), Ok(())), (secs(2), Ok(()))]);
    let lock = acquire(&script).await.unwrap();
    assert!(lock.is_held());
    // Sent at 120 s: held until 120 + 30 - 3.
    clock.advance(secs(24));
    assert!(lock.is_held());
    clock.advance(secs(1));
    assert!(!lock.is_held());
}

/// T04, where even the confirmation is late.
#[tokio::test]
async fn t04_a_confirmation_that_arrives_late_is_not_trusted_either() {
    let clock = ManualClock::default();
    let script = Script::new(&clock, [(secs(31), Ok(())), (secs(27), Ok(()))]);
    assert!(matches!(acquire(&script).await, Err(Error::LeaseOver)));
}

/// T05: the clock counts a suspend, and so does the guard; a renewal that succeeds afterwards
/// does not revive what was told to be lost.
#[tokio::test]
async fn t05_a_suspend_counts() {
    let clock = ManualClock::default();
    let script = Script::new(&clock, [(secs(0), Ok(())), (LEASE * 2, Ok(()))]);
    let lock = acquire(&script).await.unwrap();
    clock.advance(secs(10));
    // The renewal is sent, and the machine sleeps for two leases before the answer is read.
    assert_eq!(lock.lost().await, Loss::TimedOut { last_error: None });
    assert!(!lock.is_held());
}

#[tokio::test]
async fn renewals_at_a_third_carry_the_lock_on() {
    let clock = ManualClock::default();
    let script = Script::new(&clock, [(); 5].map(|()| (secs(0), Ok(()))));
    let lock = acquire(&script).await.unwrap();
    for round in 1..=4 {
        clock.advance(secs(10));
        script.renewed(round).await;
    }
    assert!(lock.is_held());
    lock.release().await.unwrap();
}

#[tokio::test]
async fn a_refused_renewal_is_a_loss_at_once() {
    let clock = ManualClock::default();
    let script = Script::new(&clock, [(secs(0), Ok(())), (secs(0), Err(Code::StaleToken))]);
    let lock = acquire(&script).await.unwrap();
    clock.advance(secs(10));
    assert!(
        matches!(lock.lost().await, Loss::Refused(problem) if problem.code == Code::StaleToken)
    );
    assert!(!lock.is_held());
}

#[tokio::test]
async fn a_failed_renewal_is_tried_again() {
    let clock = ManualClock::default();
    let script = Script::new(
        &clock,
        [(secs(0), Ok(())), (secs(0), Err(Code::HomeUnreachable)), (secs(0), Ok(()))],
    );
    let lock = acquire(&script).await.unwrap();
    clock.advance(secs(10));
    script.renewed(1).await;
    // The back-off is at most a sixth of the lease.
    clock.advance(secs(5));
    script.renewed(2).await;
    clock.advance(secs(20));
    assert!(lock.is_held());
}
