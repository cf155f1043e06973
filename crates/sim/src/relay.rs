//! A simulated relay process: the lease table in front of a journal that survives crashes.

use std::collections::HashMap;

use relay_proto::{
    Namespace,
    lease::{
        Applied, LeaseAction, LeaseAnswer, LeaseLimits, LeaseOp, LeaseRefusal, LeaseRow,
        LeaseTable, LockState, Now, Resource, Snapshot, Ticket,
    },
};

use crate::planted::Bug;

/// What a client may send.
#[derive(Debug, Clone)]
pub enum Request {
    Lock(LeaseOp),
    /// A fenced write: resource, token, author.
    Fenced(Resource, u64, relay_proto::NodeId),
}

/// What comes back.
#[derive(Debug, Clone)]
pub enum Reply {
    Lock(Result<LeaseAnswer, LeaseRefusal>),
    Fenced { stored: bool },
}

#[derive(Debug)]
pub struct Relay {
    bug: Option<Bug>,
    table: LeaseTable,
    /// What is durable.
    journal: Vec<LeaseRow>,
    /// Applied, not committed.
    batch: Applied,
    replies: Vec<(Ticket, Reply)>,
    /// What a lagging copy shows.
    copy: HashMap<Resource, (u64, LockState)>,
}

/// How long the copy of [`Bug::LaggingInspect`] lags.
const LAG_NS: u64 = 20_000_000;

pub fn limits() -> LeaseLimits {
    LeaseLimits { min_lease_ms: 1, ..LeaseLimits::default() }
}

impl Relay {
    pub fn new(bug: Option<Bug>) -> Self {
        Self {
            bug,
            table: LeaseTable::new(limits()),
            journal: Vec::new(),
            batch: Applied::default(),
            replies: Vec::new(),
            copy: HashMap::new(),
        }
    }

    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Serves one request. Its reply comes out of a later [`Self::commit`].
    pub fn serve(
        &mut self,
        now: Now,
        ticket: Ticket,
        request: Request,
        alive: &dyn Fn(Ticket) -> bool,
    ) {
        let now = self.clock(now);
        match request {
            Request::Lock(op) => {
                let op = self.spoil(op);
                let copied = match &op {
                    LeaseOp::Inspect { resource, .. } if self.has(Bug::LaggingInspect) => {
                        self.copy.get(resource).filter(|(at, _)| now.mono_ns < at + LAG_NS)
                    }
                    _ => None,
                };
                if let Some((_, state)) = copied {
                    let answer = Ok(LeaseAnswer::State(state.clone()));
                    self.replies.push((ticket, Reply::Lock(answer)));
                    return;
                }
                self.table.apply(now, ticket, op, alive, &mut self.batch);
                self.collect(now);
            }
            Request::Fenced(resource, token, author) => {
                let stored = self.fence(now, &resource, token, &author, alive);
                self.collect(now);
                self.replies.push((ticket, Reply::Fenced { stored }));
            }
        }
    }

    /// Ends what is due.
    pub fn sweep(&mut self, now: Now, alive: &dyn Fn(Ticket) -> bool) {
        let now = self.clock(now);
        while self.table.expire(now, alive, 8, &mut self.batch) {}
        self.collect(now);
    }

    /// Makes the batch durable and gives the replies that wait for it.
    pub fn commit(&mut self) -> Vec<(Ticket, Reply)> {
        let bug = self.bug;
        self.journal.extend(self.batch.rows.drain(..).filter(|row| match row.action {
            LeaseAction::Expire => bug != Some(Bug::ExpiryNotStored),
            LeaseAction::Renew => bug != Some(Bug::LongerLeaseNotStored),
            _ => true,
        }));
        self.take_replies()
    }

    /// The replies, committed or not: only [`Bug::AnswerBeforeCommit`] takes them early.
    pub fn take_replies(&mut self) -> Vec<(Ticket, Reply)> {
        std::mem::take(&mut self.replies)
    }

    /// Dies and comes back from its journal; what was not committed is gone.
    pub fn restart(&mut self, now: Now) {
        self.batch = Applied::default();
        self.replies.clear();
        self.copy.clear();
        if self.has(Bug::NotSynced) {
            self.journal.truncate(self.journal.len().saturating_sub(3));
        }
        let now = self.clock(now);
        let rows = self.journal.iter().cloned();
        let mut table = LeaseTable::restore(limits(), now, Snapshot::default(), rows);
        let mut snapshot = table.snapshot();
        match self.bug {
            Some(Bug::RestartFrees) => {
                for state in &mut snapshot.states {
                    state.ended.get_or_insert(LeaseAction::Expire);
                }
                table = LeaseTable::restore(limits(), now, snapshot, []);
            }
            Some(Bug::TokenFromHeldOnly) => {
                snapshot.states.retain(|state| state.ended.is_none());
                snapshot.last_token = 0;
                table = LeaseTable::restore(limits(), now, snapshot, []);
            }
            _ => {}
        }
        self.table = table;
    }

    /// The journal, replayed, must give the table (D08).
    pub fn check_replay(&self, now: Now) {
        if self.bug.is_some() || !self.batch.rows.is_empty() {
            return;
        }
        let rows = self.journal.iter().cloned();
        let replayed = LeaseTable::restore(limits(), now, Snapshot::default(), rows).snapshot();
        assert_eq!(replayed, self.table.snapshot());
    }

    fn fence(
        &mut self,
        now: Now,
        resource: &Resource,
        token: u64,
        author: &relay_proto::NodeId,
        alive: &dyn Fn(Ticket) -> bool,
    ) -> bool {
        if self.has(Bug::FenceWithoutExpiry) {
            let states = self.table.snapshot().states;
            return states.iter().any(|state| {
                state.resource == *resource
                    && (state.tenure.token, state.tenure.owner) == (token, *author)
            });
        }
        let fence = (&Namespace::default(), resource, token);
        self.table.check_fence(now, fence, author, alive, &mut self.batch)
    }

    /// Turns the answers of the batch into replies.
    fn collect(&mut self, now: Now) {
        for (ticket, answer) in self.batch.answers.drain(..) {
            if let Ok(LeaseAnswer::State(state)) = &answer {
                self.copy.insert(state.resource.clone(), (now.mono_ns, state.clone()));
            }
            self.replies.push((ticket, Reply::Lock(answer)));
        }
    }

    fn clock(&self, now: Now) -> Now {
        let mono_ns = match self.bug {
            Some(Bug::WallClock) => now.wall_ns,
            Some(Bug::FastClock) => now.mono_ns / 4 * 5,
            Some(Bug::SlowClock) => now.mono_ns / 4 * 3,
            _ => now.mono_ns,
        };
        Now { mono_ns, ..now }
    }

    /// Bugs that change what is asked of the rules.
    fn spoil(&self, mut op: LeaseOp) -> LeaseOp {
        let Some(bug) = self.bug else { return op };
        let current = |table: &LeaseTable, resource: &Resource| {
            let states = table.snapshot().states;
            states.into_iter().find(|state| state.resource == *resource)
        };
        match (bug, &mut op) {
            (Bug::TokenNotChecked, LeaseOp::Renew(ask)) => {
                if let Some(state) = current(&self.table, &ask.resource) {
                    (ask.token, ask.owner) = (state.tenure.token, state.tenure.owner);
                }
            }
            (Bug::TokenNotChecked, LeaseOp::Release(ask)) => {
                if let Some(state) = current(&self.table, &ask.resource) {
                    (ask.token, ask.owner) = (state.tenure.token, state.tenure.owner);
                }
            }
            (Bug::RenewByOwnerOnly, LeaseOp::Renew(ask)) => {
                if let Some(state) = current(&self.table, &ask.resource) {
                    ask.token = state.tenure.token;
                }
            }
            (Bug::RequestIdIgnored, LeaseOp::Acquire(ask)) => ask.request_id = None,
            (Bug::ReleaseNotIdempotent, LeaseOp::Release(ask)) => {
                let state = current(&self.table, &ask.resource);
                if state.is_some_and(|state| state.ended == Some(LeaseAction::Release)) {
                    ask.token = u64::MAX;
                }
            }
            _ => {}
        }
        op
    }
}
