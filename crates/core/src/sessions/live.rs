//! Sessions in memory: quick to find, and able to tell their holders that they are over.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use quick_cache::sync::Cache;
use relay_proto::{
    NodeId,
    auth::{DeviceId, SessionId, TokenHash},
};
use relay_store::{Clock, SessionRow, Store};
use tokio::sync::watch;

use super::SessionError;

/// Tokens whose session is remembered. About 300 bytes each.
const CAPACITY: usize = 50_000;
/// How long `last_seen_at_ms` may lag.
const SEEN_LAG_MS: u64 = 20_000;
/// A wait for expiry looks at the clock at least this often, since the clock may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// One session that is in use, shared by everybody who holds it.
#[derive(Debug)]
pub struct LiveSession {
    id: SessionId,
    user: NodeId,
    device: DeviceId,
    state: watch::Sender<State>,
    /// When it was last used, and what of that the store knows already.
    seen_ms: AtomicU64,
    kept_ms: AtomicU64,
    checked_ms: AtomicU64,
}

#[derive(Debug, Clone)]
struct State {
    token: TokenHash,
    previous: Option<(TokenHash, u64)>,
    generation: u64,
    expires_at_ms: u64,
    /// The user's leave for this relay to speak for the device at other homes.
    grant: Option<Arc<str>>,
    ended: bool,
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Ended by its user, the limit, or an operator.
    Revoked,
    /// Not resumed in time.
    Expired,
}

impl LiveSession {
    fn new(row: &SessionRow, now_ms: u64) -> Self {
        Self {
            id: row.id,
            user: row.user,
            device: row.device.clone(),
            state: watch::Sender::new(State::of(row)),
            seen_ms: AtomicU64::new(row.last_seen_at_ms),
            kept_ms: AtomicU64::new(row.last_seen_at_ms),
            checked_ms: AtomicU64::new(now_ms),
        }
    }

    pub fn id(&self) -> SessionId {
        self.id
    }

    pub fn user(&self) -> NodeId {
        self.user
    }

    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// The grant that the session was started or resumed with. Whoever uses it checks it.
    pub fn grant(&self) -> Option<Arc<str>> {
        self.state.borrow().grant.clone()
    }

    /// Unix milliseconds; moves with each resume.
    pub fn expires_at_ms(&self) -> u64 {
        self.state.borrow().expires_at_ms
    }

    /// Whether the session still stands, for holders that ask instead of waiting.
    pub fn is_over(&self, now_ms: u64) -> Option<Over> {
        let state = self.state.borrow();
        if state.ended {
            Some(Over::Revoked)
        } else {
            (state.expires_at_ms <= now_ms).then_some(Over::Expired)
        }
    }

    /// Waits until the session is over. Sockets and streams close then.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn over(&self, clock: &dyn Clock) -> Over {
        let mut changes = self.state.subscribe();
        loop {
            let now_ms = clock.wall_ns() / 1_000_000;
            if let Some(over) = self.is_over(now_ms) {
                return over;
            }
            let rest = Duration::from_millis(self.expires_at_ms().saturating_sub(now_ms));
            tokio::select! {
                // The sender lives in `self`, so this fails never.
                _ = changes.changed() => {}
                () = tokio::time::sleep(rest.min(LONGEST_SLEEP)) => {}
            }
        }
    }

    /// Whether `token` opens the session now; notes its use.
    pub(super) fn admit(&self, token: &TokenHash, now_ms: u64) -> Result<(), SessionError> {
        if let Some(over) = self.is_over(now_ms) {
            return Err(match over {
                Over::Revoked => SessionError::Ended,
                Over::Expired => SessionError::Unknown,
            });
        }
        let state = self.state.borrow();
        let opens = state.token == *token
            || state.previous.is_some_and(|(hash, until_ms)| hash == *token && now_ms < until_ms);
        if !opens {
            return Err(SessionError::Unknown);
        }
        self.seen_ms.fetch_max(now_ms, Ordering::Relaxed);
        Ok(())
    }

    /// Takes over what a transaction made of the session, unless something newer is known.
    fn update(&self, row: &SessionRow, now_ms: u64) {
        self.checked_ms.fetch_max(now_ms, Ordering::Relaxed);
        self.state.send_if_modified(|state| {
            let newer = row.generation > state.generation;
            if newer {
                *state = State { ended: state.ended, ..State::of(row) };
            }
            newer
        });
    }

    fn end(&self) {
        self.state.send_modify(|state| state.ended = true);
    }
}

impl State {
    fn of(row: &SessionRow) -> Self {
        Self {
            token: row.token,
            previous: row.previous,
            generation: row.generation,
            expires_at_ms: row.expires_at_ms,
            grant: row.grant.as_deref().map(Arc::from),
            ended: false,
        }
    }
}

/// Every session in use.
#[derive(Debug)]
pub(super) struct LiveSessions {
    /// By token; what falls out of it is found in the store again.
    by_token: Cache<TokenHash, Arc<LiveSession>>,
    /// The one object of each session that somebody holds.
    held: DashMap<SessionId, Weak<LiveSession>>,
    /// Counts endings, so that a load that ran beside one knows that it may have read too early.
    endings: AtomicU64,
}

impl Default for LiveSessions {
    fn default() -> Self {
        Self { by_token: Cache::new(CAPACITY), held: DashMap::new(), endings: AtomicU64::new(0) }
    }
}

impl LiveSessions {
    /// The session of a token, if it is in memory and was checked at or after `since_ms`.
    pub fn find(&self, token: &TokenHash, since_ms: u64) -> Option<Arc<LiveSession>> {
        self.by_token
            .get(token)
            .filter(|session| session.checked_ms.load(Ordering::Relaxed) >= since_ms)
    }

    /// Reads the session of a token from the store.
    pub async fn load(
        &self,
        store: &Store,
        token: &TokenHash,
        now_ms: u64,
    ) -> Result<Arc<LiveSession>, SessionError> {
        loop {
            let endings = self.endings.load(Ordering::Acquire);
            let Some(row) = store.find_session(*token).await? else {
                // Held as the current token of a session that another process ended.
                if let Some((_, session)) = self.by_token.remove(token)
                    && session.state.borrow().token == *token
                {
                    session.end();
                }
                return Err(SessionError::Unknown);
            };
            let session = self.hold(&row, now_ms);
            self.by_token.insert(*token, session.clone());
            // An ending that committed after our read looks for holders only after it counted:
            // either it found what we just put in, or we see its count and read again.
            if self.endings.load(Ordering::Acquire) == endings {
                return Ok(session);
            }
        }
    }

    /// Takes over a session that was just started or resumed.
    pub fn insert(&self, row: &SessionRow, now_ms: u64) -> Arc<LiveSession> {
        let session = self.hold(row, now_ms);
        self.by_token.insert(row.token, session.clone());
        session
    }

    /// Tells the holders of sessions that a transaction ended.
    pub fn end(&self, ended: &[SessionId]) {
        if ended.is_empty() {
            return;
        }
        self.endings.fetch_add(1, Ordering::AcqRel);
        for id in ended {
            if let Some((_, held)) = self.held.remove(id)
                && let Some(session) = held.upgrade()
            {
                session.end();
                let state = session.state.borrow().clone();
                self.by_token.remove(&state.token);
                if let Some((previous, _)) = state.previous {
                    self.by_token.remove(&previous);
                }
            }
        }
    }

    /// The uses that the store should hear of.
    pub fn take_seen(&self) -> Vec<(SessionId, u64)> {
        let mut seen = Vec::new();
        self.held.retain(|id, held| {
            let Some(session) = held.upgrade() else { return false };
            let at_ms = session.seen_ms.load(Ordering::Relaxed);
            let kept_ms = session.kept_ms.load(Ordering::Relaxed);
            if at_ms >= kept_ms.saturating_add(SEEN_LAG_MS) {
                session.kept_ms.store(at_ms, Ordering::Relaxed);
                seen.push((*id, at_ms));
            }
            true
        });
        seen
    }

    /// When a session was last used, where memory knows better than the store.
    pub fn last_seen(&self, id: &SessionId) -> u64 {
        let held = self.held.get(id).and_then(|held| held.upgrade());
        held.map_or(0, |session| session.seen_ms.load(Ordering::Relaxed))
    }

    fn hold(&self, row: &SessionRow, now_ms: u64) -> Arc<LiveSession> {
        let mut slot = self.held.entry(row.id).or_default();
        if let Some(session) = slot.upgrade() {
            session.update(row, now_ms);
            return session;
        }
        let session = Arc::new(LiveSession::new(row, now_ms));
        *slot = Arc::downgrade(&session);
        session
    }
}
