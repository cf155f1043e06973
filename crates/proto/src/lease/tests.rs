//! The rules of `locks.md`, one by one.

use super::*;
use crate::{Code, NodeId, Problem};

const MS: u64 = 1_000_000;
/// An arbitrary wall clock at the start of each test.
const WALL: u64 = 1_700_000_000_000_000_000;

fn key(number: u8) -> NodeId {
    let mut bytes = [number; 32];
    bytes[31] = 0x10;
    NodeId::from_bytes(bytes).unwrap()
}

fn resource(name: &str) -> Resource {
    name.parse().unwrap()
}

/// A table with a clock, where every ticket is alive unless it is in `gone`.
struct Bench {
    table: LeaseTable,
    at_ms: u64,
    tickets: u64,
    gone: Vec<Ticket>,
    rows: Vec<LeaseRow>,
    answers: Vec<(Ticket, Result<LeaseAnswer, LeaseRefusal>)>,
}

impl Bench {
    fn new() -> Self {
        Self::with(LeaseLimits::default())
    }

    fn with(limits: LeaseLimits) -> Self {
        let table = LeaseTable::new(limits);
        Self { table, at_ms: 0, tickets: 0, gone: vec![], rows: vec![], answers: vec![] }
    }

    fn now(&self) -> Now {
        Now { mono_ns: self.at_ms * MS, wall_ns: WALL + self.at_ms * MS }
    }

    /// Sends an operation; its answer may come later.
    fn send(&mut self, op: LeaseOp) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let (now, gone) = (self.now(), self.gone.clone());
        let mut out = Applied::default();
        self.table.apply(now, ticket, op, &|t| !gone.contains(&t), &mut out);
        self.keep(out);
        ticket
    }

    fn call(&mut self, op: LeaseOp) -> Result<LeaseAnswer, LeaseRefusal> {
        let ticket = self.send(op);
        self.answer(ticket).expect("answered at once")
    }

    fn answer(&mut self, ticket: Ticket) -> Option<Result<LeaseAnswer, LeaseRefusal>> {
        let place = self.answers.iter().position(|(t, _)| *t == ticket)?;
        Some(self.answers.remove(place).1)
    }

    /// Moves the clock and ends what is due.
    fn pass(&mut self, ms: u64) {
        self.at_ms += ms;
        let (now, gone) = (self.now(), self.gone.clone());
        let mut out = Applied::default();
        assert!(!self.table.expire(now, &|t| !gone.contains(&t), usize::MAX, &mut out));
        self.keep(out);
    }

    fn keep(&mut self, out: Applied) {
        self.rows.extend(out.rows);
        self.answers.extend(out.answers);
    }

    fn acquire(&mut self, owner: u8, name: &str) -> Result<u64, LeaseRefusal> {
        let op = acquire(owner, name);
        token(self.call(LeaseOp::Acquire(op)))
    }

    fn wait(&mut self, owner: u8, name: &str, wait_ms: u64) -> Ticket {
        self.send(LeaseOp::Acquire(Acquire { wait_ms, ..acquire(owner, name) }))
    }

    fn renew(&mut self, owner: u8, name: &str, token: u64, lease_ms: u64) -> Answered {
        let (ns, resource) = (Default::default(), resource(name));
        self.call(LeaseOp::Renew(Renew { ns, resource, owner: key(owner), token, lease_ms }))
    }

    fn release(&mut self, owner: u8, name: &str, token: u64) -> Answered {
        let (ns, resource) = (Default::default(), resource(name));
        self.call(LeaseOp::Release(Release { ns, resource, owner: key(owner), token }))
    }

    fn break_lease(&mut self, name: &str, token: u64) -> Answered {
        let (ns, resource) = (Default::default(), resource(name));
        let (reason, by) = ("stuck".into(), key(99));
        self.call(LeaseOp::Break(Break { ns, resource, token, reason, by }))
    }

    fn inspect(&mut self, name: &str) -> LockState {
        let (ns, resource) = (Default::default(), resource(name));
        match self.call(LeaseOp::Inspect { ns, resource }) {
            Ok(LeaseAnswer::State(state)) => state,
            other => panic!("{other:?}"),
        }
    }

    fn list(&mut self, prefix: &str, after: Option<Resource>, limit: usize) -> LockList {
        let (ns, prefix) = (Default::default(), prefix.to_owned());
        match self.call(LeaseOp::List { ns, prefix, after, limit }) {
            Ok(LeaseAnswer::List(list)) => list,
            other => panic!("{other:?}"),
        }
    }

    fn fence(&mut self, owner: u8, name: &str, token: u64) -> bool {
        let mut out = Applied::default();
        let (now, name) = (self.now(), resource(name));
        let fence = (&Default::default(), &name, token);
        let holds = self.table.check_fence(now, fence, &key(owner), &|_| true, &mut out);
        self.keep(out);
        holds
    }

    fn actions(&self) -> Vec<LeaseAction> {
        self.rows.iter().map(|row| row.action).collect()
    }

    /// A crash after the last commit: the table comes back from its rows.
    fn restart(&mut self) {
        let limits = LeaseLimits::default();
        let rows = self.rows.clone();
        // A new boot: the monotonic clock starts anywhere.
        self.at_ms = 7;
        self.table = LeaseTable::restore(limits, self.now(), Snapshot::default(), rows);
    }
}

type Answered = Result<LeaseAnswer, LeaseRefusal>;

fn acquire(owner: u8, name: &str) -> Acquire {
    Acquire {
        ns: Default::default(),
        resource: resource(name),
        owner: key(owner),
        lease_ms: 1000,
        wait_ms: 0,
        request_id: None,
        meta: None,
    }
}

fn token(answer: Answered) -> Result<u64, LeaseRefusal> {
    match answer? {
        LeaseAnswer::Acquired(grant) | LeaseAnswer::Renewed(grant) => Ok(grant.token),
        other => panic!("no grant: {other:?}"),
    }
}

fn code(refusal: LeaseRefusal) -> Code {
    Problem::from(refusal).code
}

use LeaseAction::{Acquire as Acquired, Break as Broken, Expire, Release as Freed, TakeOver};

#[test]
fn tokens_rise_over_resources_release_expiry_and_restart() {
    let mut b = Bench::new();
    let first = b.acquire(1, "a").unwrap();
    assert_eq!(first, 1);
    let other = b.acquire(1, "b").unwrap();
    b.release(1, "a", first).unwrap();
    let again = b.acquire(1, "a").unwrap();
    b.pass(1000);
    let after_expiry = b.acquire(2, "a").unwrap();
    b.restart();
    b.pass(1000);
    let after_restart = b.acquire(3, "a").unwrap();
    assert!(first < other && other < again && again < after_expiry && after_expiry < after_restart);
}

#[test]
fn held_is_refused_with_owner_and_time() {
    let mut b = Bench::new();
    let fencing_token = b.acquire(1, "a").unwrap();
    b.pass(400);
    let refusal = b.acquire(2, "a").unwrap_err();
    let want = LeaseRefusal::LockHeld { owner: key(1), fencing_token, retry_after_ms: 600 };
    assert_eq!(refusal, want);
    let problem = Problem::from(refusal);
    assert_eq!(problem.code, Code::LockHeld);
    assert_eq!(problem.extra["owner"], key(1).to_string());
    assert_eq!(problem.extra["fencing_token"], fencing_token);
    assert_eq!(problem.extra["retry_after_ms"], 600);
    // The owner too, without the request that took it.
    assert_eq!(code(b.acquire(1, "a").unwrap_err()), Code::LockHeld);
}

#[test]
fn expiry_is_exact_and_told_once() {
    let mut b = Bench::new();
    let token = b.acquire(1, "a").unwrap();
    b.at_ms = 999;
    assert!(b.fence(1, "a", token));
    assert!(b.inspect("a").held.is_some());
    b.at_ms = 1000;
    assert!(!b.fence(1, "a", token));
    assert!(b.inspect("a").held.is_none());
    assert_eq!(code(b.renew(1, "a", token, 1000).unwrap_err()), Code::LeaseExpired);
    assert_eq!(code(b.release(1, "a", token).unwrap_err()), Code::LeaseExpired);
    assert_eq!(b.actions(), [Acquired, Expire], "the expiry that was told is durable");
    // A restart does not bring it back.
    b.restart();
    assert_eq!(code(b.renew(1, "a", token, 1000).unwrap_err()), Code::LeaseExpired);
    assert!(!b.fence(1, "a", token));
}

#[test]
fn stale_tokens_and_other_keys() {
    let mut b = Bench::new();
    let old = b.acquire(1, "a").unwrap();
    b.pass(1000);
    let new = b.acquire(2, "a").unwrap();
    let before = b.inspect("a");
    for refused in [b.renew(1, "a", old, 1000), b.release(1, "a", old)] {
        assert_eq!(code(refused.unwrap_err()), Code::StaleToken);
    }
    for refused in [b.renew(1, "a", new, 1000), b.release(1, "a", new)] {
        assert_eq!(code(refused.unwrap_err()), Code::Forbidden);
    }
    for refused in [b.renew(2, "a", new + 1, 1000), b.release(2, "never", new)] {
        assert_eq!(code(refused.unwrap_err()), Code::StaleToken);
    }
    assert!(!b.fence(1, "a", old) && !b.fence(1, "a", new) && !b.fence(2, "b", new));
    assert!(b.fence(2, "a", new));
    assert_eq!(b.inspect("a"), before);
    let row = b.rows.last().unwrap();
    assert_eq!((row.action, row.owner, row.previous_owner), (TakeOver, key(2), Some(key(1))));
}

#[test]
fn release_is_idempotent_until_somebody_else_holds_it() {
    let mut b = Bench::new();
    let token = b.acquire(1, "a").unwrap();
    b.release(1, "a", token).unwrap();
    b.release(1, "a", token).unwrap();
    b.restart();
    b.release(1, "a", token).unwrap();
    assert_eq!(b.actions(), [Acquired, Freed]);
    assert_eq!(code(b.renew(1, "a", token, 1000).unwrap_err()), Code::StaleToken);
    b.acquire(2, "a").unwrap();
    assert_eq!(code(b.release(1, "a", token).unwrap_err()), Code::StaleToken);
    assert_eq!(b.inspect("a").held.unwrap().owner, key(2));
}

#[test]
fn request_id_makes_acquire_idempotent() {
    let mut b = Bench::new();
    let with_id = |id: &str| Acquire { request_id: Some(id.into()), ..acquire(1, "a") };
    let ask = |b: &mut Bench, id: &str| token(b.call(LeaseOp::Acquire(with_id(id))));
    let first = ask(&mut b, "r1").unwrap();
    b.pass(500);
    assert_eq!(ask(&mut b, "r1"), Ok(first));
    assert_eq!(b.inspect("a").held.unwrap().expires_wall_ns, WALL + 1000 * MS, "no extension");
    assert_eq!(code(ask(&mut b, "r2").unwrap_err()), Code::LockHeld);
    let other = Acquire { owner: key(2), ..with_id("r1") };
    assert_eq!(code(token(b.call(LeaseOp::Acquire(other))).unwrap_err()), Code::LockHeld);
    b.restart();
    assert_eq!(ask(&mut b, "r1"), Ok(first), "also after a restart");
    assert_eq!(b.rows.len(), 1, "no second row");
    b.release(1, "a", first).unwrap();
    assert_eq!(code(ask(&mut b, "r1").unwrap_err()), Code::Conflict);
    b.restart();
    assert_eq!(code(ask(&mut b, "r1").unwrap_err()), Code::Conflict);
    b.pass(600_000);
    let second = ask(&mut b, "r3").unwrap();
    b.release(1, "a", second).unwrap();
    assert!(ask(&mut b, "r1").unwrap() > second, "forgotten after its time");
}

#[test]
fn a_renewal_never_shortens_and_coalesces_rows() {
    let mut b = Bench::new();
    let token = b.acquire(1, "a").unwrap();
    b.pass(100);
    let Ok(LeaseAnswer::Renewed(grant)) = b.renew(1, "a", token, 500) else { panic!() };
    assert_eq!(grant.expires_wall_ns, WALL + 1000 * MS);
    assert_eq!(grant.lease_ms, 500, "what the client may count on from now");
    b.renew(1, "a", token, 1000).unwrap();
    assert_eq!(b.actions(), [Acquired], "memory only");
    b.renew(1, "a", token, 2000).unwrap();
    assert_eq!(b.actions(), [Acquired, LeaseAction::Renew], "a longer lease is durable at once");
    assert_eq!(b.rows[1].lease_ms, 2000);
    for _ in 0..20 {
        b.pass(100);
        b.renew(1, "a", token, 2000).unwrap();
    }
    assert_eq!(b.rows.len(), 2 + 2, "one row for each third of a lease");
    b.pass(1999);
    assert!(b.fence(1, "a", token));
    b.pass(1);
    assert!(!b.fence(1, "a", token));
}

#[test]
fn the_end_of_a_lease_does_not_move_back_with_a_late_reading_of_the_clock() {
    let mut b = Bench::new();
    let Ok(LeaseAnswer::Acquired(grant)) = b.call(LeaseOp::Acquire(acquire(1, "a"))) else {
        panic!()
    };
    let renew = |b: &mut Bench, late_ns: i64| {
        let now = Now { wall_ns: b.now().wall_ns.wrapping_add_signed(late_ns), ..b.now() };
        let (ns, resource) = (Default::default(), resource("a"));
        let ask = Renew { ns, resource, owner: key(1), token: grant.token, lease_ms: 500 };
        let mut out = Applied::default();
        b.table.apply(now, Ticket(999), LeaseOp::Renew(ask), &|_| true, &mut out);
        let Ok(LeaseAnswer::Renewed(grant)) = out.answers.remove(0).1 else { panic!() };
        grant.expires_wall_ns
    };
    assert_eq!(renew(&mut b, -3_000_000), grant.expires_wall_ns);
    assert_eq!(renew(&mut b, 3_000_000), grant.expires_wall_ns);
    // A step of the wall clock is told as it is.
    assert_eq!(renew(&mut b, 60_000_000_000), grant.expires_wall_ns + 60_000_000_000);
    assert_eq!(renew(&mut b, 0), grant.expires_wall_ns);
}

#[test]
fn waiters_get_the_lock_in_order_of_coming() {
    let mut b = Bench::new();
    let token_1 = b.acquire(1, "a").unwrap();
    let (w2, w3, w4) = (b.wait(2, "a", 5000), b.wait(3, "a", 5000), b.wait(4, "a", 200));
    assert_eq!(b.inspect("a").waiting, 3);
    b.pass(200);
    let refusal = b.answer(w4).unwrap().unwrap_err();
    let want =
        LeaseRefusal::LockHeld { owner: key(1), fencing_token: token_1, retry_after_ms: 800 };
    assert_eq!(refusal, want);
    b.release(1, "a", token_1).unwrap();
    let token_2 = token(b.answer(w2).unwrap()).unwrap();
    assert!(token_2 > token_1 && b.answer(w3).is_none());
    assert_eq!(code(b.acquire(5, "a").unwrap_err()), Code::LockHeld, "nobody passes the line");
    b.pass(1000);
    assert_eq!(token(b.answer(w3).unwrap()), Ok(token_2 + 1), "handed over by expiry");
    assert_eq!(b.actions(), [Acquired, Freed, Acquired, Expire, TakeOver]);
    assert_eq!(b.table.waiting(), 0);
}

#[test]
fn the_gone_and_the_withdrawn_are_skipped() {
    let mut b = Bench::new();
    let token_1 = b.acquire(1, "a").unwrap();
    let (w2, w3, w4) = (b.wait(2, "a", 5000), b.wait(3, "a", 5000), b.wait(4, "a", 5000));
    b.gone.push(w2);
    let cancelled = b.call(LeaseOp::Cancel(w3));
    assert!(matches!(cancelled, Ok(LeaseAnswer::Cancelled { was_waiting: true })));
    assert_eq!(b.answer(w3), Some(Err(LeaseRefusal::Withdrawn)));
    b.break_lease("a", token_1).unwrap();
    assert_eq!(b.answer(w2).unwrap().unwrap_err(), LeaseRefusal::Withdrawn);
    let token_4 = token(b.answer(w4).unwrap()).unwrap();
    assert_eq!(token_4, token_1 + 1);
    let again = b.call(LeaseOp::Cancel(w4));
    assert!(matches!(again, Ok(LeaseAnswer::Cancelled { was_waiting: false })));
    assert_eq!(b.actions(), [Acquired, Broken, TakeOver]);
    assert_eq!(b.rows[1].reason.as_deref(), Some("stuck"));
    assert_eq!(b.rows[1].by, Some(key(99)));
}

#[test]
fn a_retry_takes_the_place_of_its_earlier_try() {
    let mut b = Bench::new();
    let token_1 = b.acquire(1, "a").unwrap();
    let ask = Acquire { request_id: Some("r".into()), wait_ms: 9000, ..acquire(2, "a") };
    let first = b.send(LeaseOp::Acquire(ask.clone()));
    let behind = b.wait(3, "a", 9000);
    let retry = b.send(LeaseOp::Acquire(ask));
    assert_eq!(code(b.answer(first).unwrap().unwrap_err()), Code::Conflict);
    b.release(1, "a", token_1).unwrap();
    assert!(b.answer(retry).unwrap().is_ok() && b.answer(behind).is_none());
}

#[test]
fn break_ends_the_lease_as_if_it_had_expired() {
    let mut b = Bench::new();
    let token = b.acquire(1, "a").unwrap();
    assert_eq!(code(b.break_lease("a", token + 1).unwrap_err()), Code::StaleToken);
    b.break_lease("a", token).unwrap();
    b.break_lease("a", token).unwrap();
    assert_eq!(code(b.renew(1, "a", token, 1000).unwrap_err()), Code::LeaseExpired);
    assert!(!b.fence(1, "a", token));
    b.acquire(2, "a").unwrap();
    assert_eq!(code(b.break_lease("a", token).unwrap_err()), Code::StaleToken);
}

#[test]
fn bounds_are_checked_before_anything_changes() {
    let mut b = Bench::new();
    let ask = |change: fn(&mut Acquire)| {
        let mut ask = acquire(1, "a");
        change(&mut ask);
        LeaseOp::Acquire(ask)
    };
    let bad = [
        ask(|a| a.lease_ms = 0),
        ask(|a| a.lease_ms = 499),
        ask(|a| a.lease_ms = 3_600_001),
        ask(|a| a.lease_ms = u64::MAX),
        ask(|a| a.wait_ms = 3_600_001),
        ask(|a| a.request_id = Some("".into())),
        ask(|a| a.request_id = Some("x".repeat(129).into())),
        ask(|a| a.meta = Some("1".repeat(4097).into())),
    ];
    for op in bad {
        assert_eq!(code(b.call(op).unwrap_err()), Code::InvalidRequest);
    }
    assert!(b.rows.is_empty());
    assert_eq!(b.acquire(1, "a"), Ok(1));
    assert_eq!(code(b.renew(1, "a", 1, 499).unwrap_err()), Code::InvalidRequest);
}

#[test]
fn resources_are_compared_as_bytes() {
    for bad in ["", "a\0", "a\nb", "\u{7f}", "\u{85}", &"x".repeat(1025)] {
        assert!(bad.parse::<Resource>().is_err(), "{bad:?}");
    }
    let mut b = Bench::new();
    for name in ["a", "A", "é", "e\u{301}", " a", "a/../b", &"x".repeat(1024)] {
        b.acquire(1, name).unwrap();
    }
    assert_eq!(b.table.held(), 7);
}

#[test]
fn lists_page_by_name() {
    let mut b = Bench::new();
    for name in ["db/1", "db/2", "db/3", "dc", "d"] {
        b.acquire(1, name).unwrap();
    }
    b.release(1, "db/2", 2).unwrap();
    let names = |list: &LockList| -> Vec<String> {
        list.items.iter().map(|item| item.resource.to_string()).collect()
    };
    let all = b.list("", None, 100);
    assert_eq!((names(&all).join(" "), all.next), ("d db/1 db/3 dc".to_owned(), None));
    let page = b.list("db/", None, 1);
    assert_eq!(names(&page), ["db/1"]);
    let page = b.list("db/", page.next, 10);
    assert_eq!((names(&page).join(" "), page.next), ("db/3".to_owned(), None));
    b.at_ms = 1000;
    assert!(b.list("", None, 100).items.is_empty());
    assert_eq!(b.actions().iter().filter(|a| **a == Expire).count(), 4, "told, so durable");
}

#[test]
fn a_restart_gives_each_held_lease_its_full_length() {
    let mut b = Bench::new();
    let token = b.acquire(1, "a").unwrap();
    b.renew(1, "a", token, 5000).unwrap();
    b.pass(4900);
    b.restart();
    b.pass(4999);
    assert_eq!(code(b.acquire(2, "a").unwrap_err()), Code::LockHeld);
    b.renew(1, "a", token, 1000).unwrap();
    b.pass(1000);
    b.acquire(2, "a").unwrap();
}

#[test]
fn epochs_raise_every_later_token() {
    let mut b = Bench::new();
    b.acquire(1, "a").unwrap();
    let floor = b.table.raise_epoch().unwrap();
    assert_eq!(floor, 1 << 40);
    let token = b.acquire(1, "b").unwrap();
    assert_eq!(token, (1 << 40) + 1);
    let snapshot = b.table.snapshot();
    let mut later = LeaseTable::restore(LeaseLimits::default(), b.now(), snapshot, []);
    for _ in 2..(1 << 13) {
        later.raise_epoch().unwrap();
    }
    assert_eq!(later.raise_epoch(), Err(TokenOverflow));
    assert!(later.last_token() < 1 << 53);
}

#[test]
fn idle_resources_are_forgotten_but_tokens_still_rise() {
    let mut b = Bench::with(LeaseLimits { max_idle: 10, ..LeaseLimits::default() });
    let kept = b.acquire(1, "kept").unwrap();
    for index in 0..1000 {
        let name = format!("r{index}");
        let token = b.acquire(1, &name).unwrap();
        b.release(1, &name, token).unwrap();
    }
    let snapshot = b.table.snapshot();
    assert!(snapshot.states.len() <= 12, "{}", snapshot.states.len());
    assert_eq!(snapshot.last_token, 1001);
    assert!(b.fence(1, "kept", kept));
    assert_eq!(b.acquire(1, "r0"), Ok(1002));
    assert_eq!(code(b.release(1, "r1", 3).unwrap_err()), Code::StaleToken);
}

#[test]
fn crowds_are_bounded() {
    let mut b = Bench::with(LeaseLimits {
        max_held: 2,
        max_waiters_per_resource: 2,
        max_waiters: 3,
        ..LeaseLimits::default()
    });
    b.acquire(1, "a").unwrap();
    b.acquire(1, "b").unwrap();
    assert_eq!(b.acquire(1, "c"), Err(LeaseRefusal::TooManyHeld));
    for name in ["a", "a", "b"] {
        let ticket = b.wait(2, name, 5000);
        assert!(b.answer(ticket).is_none());
    }
    for name in ["a", "b"] {
        let ticket = b.wait(2, name, 5000);
        assert_eq!(b.answer(ticket).unwrap().unwrap_err(), LeaseRefusal::TooManyWaiting);
    }
}

#[test]
fn a_crowd_of_expiries_is_swept_in_batches() {
    let mut b = Bench::new();
    for index in 0..1000 {
        b.acquire(1, &format!("r{index}")).unwrap();
    }
    assert_eq!(b.table.next_deadline(), Some(1000 * MS));
    b.at_ms = 1000;
    let mut out = Applied::default();
    assert!(b.table.expire(b.now(), &|_| true, 128, &mut out));
    assert_eq!(out.rows.len(), 128);
    // A lease that the sweep has not reached is over all the same.
    assert_eq!(b.acquire(2, "r999"), Ok(1001));
    while b.table.expire(b.now(), &|_| true, 128, &mut out) {}
    assert_eq!(b.table.held(), 1);
    assert_eq!(out.rows.len(), 999);
}

#[test]
fn deadlines_of_past_leases_and_waits_are_swept() {
    let mut b = Bench::new();
    let ask = |owner: u8| Acquire { wait_ms: 60_000, ..acquire(owner, "hot") };
    b.send(LeaseOp::Acquire(ask(0)));
    for round in 1..20_000u64 {
        b.send(LeaseOp::Acquire(ask((round % 200) as u8)));
        b.release(((round - 1) % 200) as u8, "hot", round).unwrap();
        b.answers.clear();
        b.rows.clear();
    }
    assert_eq!(b.table.last_token(), 20_000);
    assert!(b.table.due_entries() < 2000, "{}", b.table.due_entries());
}

#[test]
fn the_wall_clock_is_for_people_only() {
    let mut b = Bench::new();
    let token = b.acquire(1, "a").unwrap();
    let hour = 3_600_000 * MS;
    for wall_ns in [WALL + hour, WALL - hour, 0, u64::MAX] {
        let now = Now { mono_ns: 999 * MS, wall_ns };
        let name = resource("a");
        let fence = (&Default::default(), &name, token);
        let mut out = Applied::default();
        assert!(b.table.check_fence(now, fence, &key(1), &|_| true, &mut out));
    }
    // A monotonic clock that went back counts as standing still.
    b.at_ms = 1000;
    assert!(b.inspect("a").held.is_none());
    b.at_ms = 0;
    assert!(b.inspect("a").held.is_none());
}

#[test]
fn shapes_on_the_wire() {
    let mut b = Bench::new();
    let meta = Some(r#"{"host":"x"}"#.into());
    let Ok(LeaseAnswer::Acquired(grant)) =
        b.call(LeaseOp::Acquire(Acquire { meta, ..acquire(1, "a") }))
    else {
        panic!()
    };
    let owner = key(1).to_string();
    assert_eq!(
        serde_json::to_value(&grant).unwrap(),
        serde_json::json!({"resource": "a", "owner": owner, "fencing_token": 1, "lease_ms": 1000,
            "lease_expires_at_ns": "1700000001000000000", "now_ns": "1700000000000000000"})
    );
    assert_eq!(
        serde_json::to_value(b.inspect("a")).unwrap(),
        serde_json::json!({"ns": "default", "resource": "a", "held": true, "owner": owner,
            "fencing_token": 1, "lease_expires_at_ns": "1700000001000000000", "waiting": 0,
            "meta": {"host": "x"}})
    );
    assert_eq!(
        serde_json::to_value(b.rows[0].change()).unwrap(),
        serde_json::json!({"ns": "default", "resource": "a", "state": "held", "owner": owner,
            "fencing_token": 1, "lease_expires_at_ns": "1700000001000000000",
            "reason": "acquire"})
    );
    b.release(1, "a", 1).unwrap();
    assert_eq!(
        serde_json::to_value(b.inspect("a")).unwrap(),
        serde_json::json!({"ns": "default", "resource": "a", "held": false, "last_token": 1})
    );
    assert_eq!(
        serde_json::to_value(b.rows[1].change()).unwrap(),
        serde_json::json!({"ns": "default", "resource": "a", "state": "free",
            "fencing_token": 1, "reason": "release"})
    );
}
