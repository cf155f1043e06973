//! What one lock may do, as a sequential state machine.
//!
//! Between two operations nothing happens but time. The model does not know the moment at which
//! the relay served an operation, only that it lies between call and return; so the end of a
//! lease is an interval. Expiry may be seen only after its earliest possible end, and a lease
//! may be seen as held only before its latest possible one.

use crate::history::{Ask, Entry, Outcome, Restart};

/// The state of one lock: its last grant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct State(Option<Last>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Last {
    owner: u32,
    token: Token,
    request: Option<u64>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Token {
    Known(u64),
    /// Of a grant whose answer was lost: greater than this.
    Above(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Held {
        /// The lease has not ended before this.
        earliest: u64,
        /// It has ended after this, if the relay was not restarted.
        latest: u64,
        /// The longest length it was ever given, in nanoseconds: what a restart may give it again.
        lease: u64,
        /// When the grant was called: only later restarts matter.
        since: u64,
    },
    Released,
    Expired,
    Broken,
}

/// What the model needs to know about time beside the state.
#[derive(Debug, Clone, Copy)]
pub struct Clock<'a> {
    /// No operation served from here on was served before this: the latest call so far.
    pub floor: u64,
    pub restarts: &'a [Restart],
    pub slack_ns: u64,
}

impl State {
    /// The states in which the lock may be after `entry`; empty if this can not have happened.
    pub fn step(&self, entry: &Entry, clock: Clock<'_>) -> Vec<Self> {
        let moment = Moment { entry, clock };
        if entry.outcome == Outcome::Nothing {
            return vec![self.clone()];
        }
        match &entry.ask {
            Ask::Acquire { owner, lease_ms, request } => {
                self.acquire(&moment, *owner, ns(*lease_ms), *request)
            }
            Ask::Renew { owner, token, lease_ms } => {
                self.renew(&moment, *owner, *token, ns(*lease_ms))
            }
            Ask::Release { owner, token } => self.release(&moment, *owner, *token),
            Ask::Break { token } => self.break_lease(&moment, *token),
            Ask::Inspect => self.inspect(&moment),
            Ask::Fenced { owner, token } => self.fenced(&moment, *owner, *token),
        }
    }

    fn acquire(&self, at: &Moment<'_>, owner: u32, lease: u64, request: Option<u64>) -> Vec<Self> {
        let held = self.held(at);
        let same_request =
            |last: &Last| request.is_some() && last.request == request && last.owner == owner;
        match at.entry.outcome {
            Outcome::Granted { token } => {
                let mut next = Vec::new();
                if let Some(last) = held.filter(|last| same_request(last))
                    && let Some(known) = last.token.resolve(token)
                {
                    next.push(Self(Some(Last { token: known, ..last.clone() })));
                }
                if self.may_be_free(at) && self.0.as_ref().is_none_or(|l| l.token.below(token)) {
                    next.push(Self::granted(at, owner, Token::Known(token), lease, request));
                }
                next
            }
            Outcome::Held { owner: holder } => {
                // The owner's own request would have had its grant again.
                let fits = held.is_some_and(|last| last.owner == holder && !same_request(last));
                self.stay(fits)
            }
            Outcome::Conflict => {
                self.stay(!held.is_some_and(|last| same_request(last) && !self.may_be_free(at)))
            }
            Outcome::Unknown => {
                let mut next = vec![self.clone()];
                if self.may_be_free(at) {
                    let above = self.0.as_ref().map_or(0, |last| last.token.least());
                    next.push(Self::granted(at, owner, Token::Above(above), lease, request));
                }
                next
            }
            _ => Vec::new(),
        }
    }

    fn renew(&self, at: &Moment<'_>, owner: u32, token: u64, lease: u64) -> Vec<Self> {
        let renewed = || {
            let last = self.held(at).filter(|last| last.owner == owner)?;
            let known = last.token.resolve(token)?;
            let Phase::Held { earliest, latest, lease: before, since } = last.phase else {
                return None;
            };
            let phase = Phase::Held {
                earliest: earliest.max(at.served_from() + lease),
                latest: latest.max(at.served_until() + lease),
                lease: before.max(lease),
                since,
            };
            Some(Self(Some(Last { token: known, phase, ..last.clone() })))
        };
        match at.entry.outcome {
            Outcome::Done => renewed().into_iter().collect(),
            Outcome::Unknown => std::iter::once(self.clone()).chain(renewed()).collect(),
            _ => self.refused(at, Some(owner), token, |phase| phase == Phase::Released),
        }
    }

    fn release(&self, at: &Moment<'_>, owner: u32, token: u64) -> Vec<Self> {
        let mine = |last: &Last| last.owner == owner && last.token.resolve(token).is_some();
        let ended = |last: &Last| {
            let token = Token::Known(token);
            Self(Some(Last { token, phase: Phase::Released, ..last.clone() }))
        };
        let freed = self.held(at).filter(|last| mine(last)).map(ended);
        match at.entry.outcome {
            Outcome::Done => {
                let again = self.0.as_ref().filter(|last| last.phase == Phase::Released);
                freed.or(again.filter(|last| mine(last)).map(ended)).into_iter().collect()
            }
            Outcome::Unknown => std::iter::once(self.clone()).chain(freed).collect(),
            _ => self.refused(at, Some(owner), token, |_| false),
        }
    }

    fn break_lease(&self, at: &Moment<'_>, token: u64) -> Vec<Self> {
        let ended = |last: &Last| {
            let known = last.token.resolve(token)?;
            Some(Self(Some(Last { token: known, phase: Phase::Broken, ..last.clone() })))
        };
        let broken = self.held(at).and_then(ended);
        match at.entry.outcome {
            Outcome::Done => {
                let again = self.0.as_ref().filter(|last| last.phase == Phase::Broken);
                broken.or(again.and_then(ended)).into_iter().collect()
            }
            Outcome::Unknown => std::iter::once(self.clone()).chain(broken).collect(),
            _ => self.refused(at, None, token, |phase| phase == Phase::Released),
        }
    }

    fn inspect(&self, at: &Moment<'_>) -> Vec<Self> {
        match at.entry.outcome {
            Outcome::Seen { owner, token } => {
                let seen = |last: &Last| {
                    let known = last.token.resolve(token)?;
                    Some(Self(Some(Last { token: known, ..last.clone() })))
                };
                let held = self.held(at).filter(|last| last.owner == owner);
                held.and_then(seen).into_iter().collect()
            }
            Outcome::SeenFree { last_token } => {
                let fits = match &self.0 {
                    None => last_token == 0,
                    Some(last) => last.token.resolve(last_token).is_some(),
                };
                if fits && self.may_be_free(at) { vec![self.ended(last_token)] } else { vec![] }
            }
            Outcome::Unknown => vec![self.clone()],
            _ => Vec::new(),
        }
    }

    fn fenced(&self, at: &Moment<'_>, owner: u32, token: u64) -> Vec<Self> {
        let holds = self.held(at).filter(|last| last.owner == owner);
        let holds = holds.and_then(|last| Some((last, last.token.resolve(token)?)));
        match at.entry.outcome {
            Outcome::Done => holds
                .map(|(last, token)| Self(Some(Last { token, ..last.clone() })))
                .into_iter()
                .collect(),
            Outcome::Fenced => match &self.0 {
                Some(last) if last.owner == owner && last.token == Token::Known(token) => {
                    if self.may_be_free(at) { vec![self.ended(token)] } else { vec![] }
                }
                _ => vec![self.clone()],
            },
            Outcome::Unknown => vec![self.clone()],
            _ => Vec::new(),
        }
    }

    /// A renew, release or break that was refused.
    fn refused(
        &self,
        at: &Moment<'_>,
        owner: Option<u32>,
        token: u64,
        stale_in: impl Fn(Phase) -> bool,
    ) -> Vec<Self> {
        let current = self.0.as_ref().filter(|last| last.token.resolve(token).is_some());
        let mine = current.filter(|last| owner.is_none_or(|owner| owner == last.owner));
        match at.entry.outcome {
            Outcome::Expired => {
                let over = mine.is_some_and(|last| last.phase != Phase::Released);
                if over && self.may_be_free(at) { vec![self.ended(token)] } else { vec![] }
            }
            Outcome::Stale => {
                let stale = mine.is_some_and(|last| stale_in(last.phase));
                let other = current.is_none_or(|last| last.token != Token::Known(token));
                self.stay(stale || other)
            }
            Outcome::Forbidden => self.stay(current.is_some() && mine.is_none()),
            _ => Vec::new(),
        }
    }

    fn granted(
        at: &Moment<'_>,
        owner: u32,
        token: Token,
        lease: u64,
        request: Option<u64>,
    ) -> Self {
        let phase = Phase::Held {
            earliest: at.served_from() + lease,
            latest: at.served_until() + lease,
            lease,
            since: at.entry.call,
        };
        Self(Some(Last { owner, token, request, phase }))
    }

    fn stay(&self, fits: bool) -> Vec<Self> {
        if fits { vec![self.clone()] } else { vec![] }
    }

    /// The holder, if there may be one at this moment.
    fn held(&self, at: &Moment<'_>) -> Option<&Last> {
        let last = self.0.as_ref()?;
        let Phase::Held { latest, lease, since, .. } = last.phase else { return None };
        let again = |restart: &&Restart| since <= restart.up && restart.down <= at.entry.ret;
        let restart = at.clock.restarts.iter().rfind(again);
        let latest = restart.map_or(latest, |restart| latest.max(restart.up + lease));
        (at.served_from() <= latest.saturating_add(at.clock.slack_ns)).then_some(last)
    }

    /// Whether there may be no holder at this moment.
    fn may_be_free(&self, at: &Moment<'_>) -> bool {
        match self.0.as_ref().map(|last| last.phase) {
            Some(Phase::Held { earliest, .. }) => at.served_until() >= earliest,
            _ => true,
        }
    }

    /// The same, its lease seen to be over.
    fn ended(&self, token: u64) -> Self {
        Self(self.0.as_ref().map(|last| {
            let phase = match last.phase {
                Phase::Held { .. } => Phase::Expired,
                phase => phase,
            };
            Last { token: Token::Known(token), phase, ..last.clone() }
        }))
    }
}

/// An operation in its place in the order.
struct Moment<'a> {
    entry: &'a Entry,
    clock: Clock<'a>,
}

impl Moment<'_> {
    fn served_from(&self) -> u64 {
        self.entry.call.max(self.clock.floor)
    }

    fn served_until(&self) -> u64 {
        self.entry.ret
    }
}

impl Token {
    /// This token, once it is known to be `token`.
    fn resolve(self, token: u64) -> Option<Self> {
        let fits = match self {
            Self::Known(known) => known == token,
            Self::Above(floor) => token > floor,
        };
        fits.then_some(Self::Known(token))
    }

    fn least(self) -> u64 {
        match self {
            Self::Known(known) => known,
            Self::Above(floor) => floor + 1,
        }
    }

    fn below(self, token: u64) -> bool {
        self.least() < token
    }
}

fn ns(ms: u64) -> u64 {
    ms * 1_000_000
}
