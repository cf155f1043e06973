//! Who is logged in (`gateway.md` 3 and 4): challenges, proofs, sessions, operators' tokens.
//!
//! A session is found by the hash of its token. Those in use are kept in memory as
//! [`LiveSession`]s, one for each session however many sockets hold it; when a session ends, every
//! holder hears of it through [`LiveSession::over`]. What decides is always one transaction of
//! the store; memory follows it before the caller hears of it.

mod challenges;
mod ending;
mod live;
mod operators;
mod starting;
mod sweep;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use relay_proto::{
    Code, NodeId, Problem,
    auth::{AuthToken, ReplayGuard, RequestError, ResumeToken, SessionToken, SignedRequest},
};
use relay_store::{Clock, Store, StoreError};

use self::{challenges::Challenges, live::LiveSessions};
pub use self::{
    ending::{Revocation, RevokeTarget, SessionList, SessionView},
    live::{LiveSession, Over},
    operators::{CreatedToken, NewToken, TokenView},
    starting::{Start, Started, Verify},
};
use crate::{
    failure::store_problem,
    limits::{Exceeded, Windows},
};

/// Settings, with the defaults of `gateway.md`.
#[derive(Debug, Clone)]
pub struct SessionsConfig {
    /// The relay's id, bound into every proof.
    pub gateway_id: String,
    /// How long an `at_` token is good, milliseconds.
    pub auth_token_ttl_ms: u64,
    /// The longest life a signed token may claim, milliseconds.
    pub signed_token_max_ttl_ms: u64,
    /// How long a session lives without a resume, milliseconds.
    pub session_ttl_ms: u64,
    /// How long the former session token stays good after a resume, milliseconds.
    pub grace_ms: u64,
    /// No session lives longer, milliseconds.
    pub max_age_ms: u64,
    /// Sessions of one user; beyond it the least recently used ends.
    pub sessions_per_user: u32,
    /// Sessions of one device.
    pub sessions_per_device: u32,
    /// Requests to unauthenticated endpoints from one address in a minute.
    pub auth_per_ip_per_min: u32,
    /// The same for one claimed user.
    pub auth_per_user_per_min: u32,
    /// For development: a text that is no proof starts a session for the user that it names.
    pub insecure_dev_auth: bool,
    /// How long a session found in the store may be trusted from memory, milliseconds; `None`
    /// where this process alone ends sessions.
    pub recheck_after_ms: Option<u64>,
}

impl Default for SessionsConfig {
    fn default() -> Self {
        const SECOND: u64 = 1_000;
        const DAY: u64 = 86_400 * SECOND;
        Self {
            gateway_id: "gw_local".into(),
            auth_token_ttl_ms: 600 * SECOND,
            signed_token_max_ttl_ms: 30 * DAY,
            session_ttl_ms: 3_600 * SECOND,
            grace_ms: 120 * SECOND,
            max_age_ms: 30 * DAY,
            sessions_per_user: 100,
            sessions_per_device: 10,
            auth_per_ip_per_min: 600,
            auth_per_user_per_min: 60,
            insecure_dev_auth: false,
            recheck_after_ms: None,
        }
    }
}

/// Why somebody is not let in. Clients learn the code and one text for all causes of it.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The proof does not hold: why, for the audit log.
    #[error("proof refused: {0}")]
    Proof(&'static str),
    #[error("invalid session_token")]
    Unknown,
    #[error("session revoked")]
    Ended,
    #[error("resume token invalid or expired")]
    Resume,
    #[error("{0}")]
    Invalid(&'static str),
    #[error(transparent)]
    Limit(#[from] Exceeded),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Proof(_) => Self::unauthorized("invalid auth_token"),
            SessionError::Unknown | SessionError::Ended => Self::unauthorized(error.to_string()),
            SessionError::Resume => Self::new(Code::ResumeFailed, error.to_string()),
            SessionError::Invalid(message) => Self::invalid(message),
            SessionError::Limit(exceeded) => exceeded.into(),
            SessionError::Store(error) => store_problem(&error),
        }
    }
}

/// The domain. Shared by all doors.
#[derive(Debug)]
pub struct Sessions {
    store: Store,
    clock: Arc<dyn Clock>,
    config: ArcSwap<SessionsConfig>,
    challenges: Challenges,
    live: LiveSessions,
    by_address: Windows<IpAddr>,
    by_user: Windows<NodeId>,
    /// Signed requests that were used. Each relay process has its own.
    used_requests: Mutex<ReplayGuard>,
}

const MINUTE_MS: u64 = 60_000;
/// Addresses and users whose last minute is remembered.
const LIMITER_KEYS: usize = 100_000;
/// Signed requests remembered until their time is over; about 100 bytes each.
const SIGNED_REQUESTS: usize = 500_000;

impl Sessions {
    pub fn new(store: Store, clock: Arc<dyn Clock>, config: SessionsConfig) -> Self {
        let used_requests = ReplayGuard::new(SIGNED_REQUESTS, clock.wall_ns());
        Self {
            used_requests: Mutex::new(used_requests),
            store,
            clock,
            config: ArcSwap::from_pointee(config),
            challenges: Challenges::default(),
            live: LiveSessions::default(),
            by_address: Windows::new(MINUTE_MS, LIMITER_KEYS),
            by_user: Windows::new(MINUTE_MS, LIMITER_KEYS),
        }
    }

    /// The settings in force now.
    pub fn config(&self) -> Arc<SessionsConfig> {
        self.config.load_full()
    }

    /// Takes over changed settings. They count for what begins from now on.
    pub fn reconfigure(&self, config: SessionsConfig) {
        self.config.store(Arc::new(config));
    }

    /// The session that a token opens.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], [`SessionError::Ended`], [`SessionError::Store`].
    pub async fn authenticate(
        &self,
        token: &SessionToken,
    ) -> Result<Arc<LiveSession>, SessionError> {
        let now_ms = self.now_ms();
        let hash = token.hash();
        let session = match self.live.find(&hash, self.oldest_trusted(now_ms)) {
            Some(session) => session,
            None => self.live.load(&self.store, &hash, now_ms).await?,
        };
        session.admit(&hash, now_ms)?;
        Ok(session)
    }

    /// Uses a signed request up, once its target and body were checked.
    ///
    /// # Errors
    /// [`RequestError::Replayed`], [`RequestError::BeforeStart`], [`RequestError::Busy`].
    pub fn spend(&self, request: &SignedRequest) -> Result<(), RequestError> {
        let mut used = self.used_requests.lock().unwrap_or_else(PoisonError::into_inner);
        used.spend(request, self.clock.wall_ns())
    }

    /// Counts one request to an unauthenticated endpoint.
    ///
    /// # Errors
    /// [`SessionError::Limit`].
    pub fn count_address(&self, address: IpAddr) -> Result<(), SessionError> {
        let limit = self.config.load().auth_per_ip_per_min;
        Ok(self.by_address.count(network_of(address), limit, self.now_ms())?)
    }

    fn count_user(&self, user: NodeId) -> Result<(), SessionError> {
        let limit = self.config.load().auth_per_user_per_min;
        Ok(self.by_user.count(user, limit, self.now_ms())?)
    }

    fn now_ms(&self) -> u64 {
        self.clock.wall_ns() / 1_000_000
    }

    fn oldest_trusted(&self, now_ms: u64) -> u64 {
        self.config.load().recheck_after_ms.map_or(0, |age| now_ms.saturating_sub(age))
    }
}

/// What one subscriber can choose addresses from: an IPv4 address, a /64 of IPv6.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = v6.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        v4 => v4,
    }
}

/// A fresh pair of tokens.
fn new_tokens() -> (SessionToken, ResumeToken) {
    let rng = &mut rand_core::OsRng;
    (SessionToken::generate(rng), ResumeToken::generate(rng))
}

fn new_auth_token() -> AuthToken {
    AuthToken::generate(&mut rand_core::OsRng)
}

#[cfg(test)]
mod tests;
