//! Sessions and the proofs that start them, in the product's verbs (`gateway.md` 3, 4).
//!
//! Each verb is one durable transaction. Tokens come and go as hashes.

use relay_proto::{
    NodeId,
    auth::{DeviceId, SessionId, TokenHash},
};

use crate::{
    error::Result,
    store::{Store, each},
};

/// A session as it is kept. Times are unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    pub id: SessionId,
    pub user: NodeId,
    pub device: DeviceId,
    pub client_label: String,
    pub token: TokenHash,
    /// The token before the last resume, and until when it is still good.
    pub previous: Option<(TokenHash, u64)>,
    pub resume: TokenHash,
    /// How often the session was resumed.
    pub generation: u64,
    pub created_at_ms: u64,
    pub expires_at_ms: u64,
    pub last_seen_at_ms: u64,
    /// The user's leave for this relay to speak for the device at other homes, as it was signed.
    pub grant: Option<String>,
}

/// A session to be started, with what has to hold for it.
#[derive(Debug, Clone)]
pub struct NewSession {
    pub row: SessionRow,
    pub proof: ProofFacts,
    /// Hash of the device credential that was presented.
    pub credential: Option<[u8; 32]>,
    pub limits: SessionLimits,
}

/// What is known of the proof behind a new session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProofFacts {
    /// A challenge answered just now: may replace the device's credential.
    Fresh,
    /// An `at_` token.
    Minted(TokenHash),
    /// A `sat1` token.
    Signed { jti: String, issued_at_ms: u64 },
}

/// Sessions beyond these end the least recently used ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    pub per_user: u32,
    pub per_device: u32,
}

/// What became of [`Store::open_session`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// Started; these other sessions of the user ended to make room.
    Started { ended: Vec<SessionId> },
    /// The proof is revoked, expired, or another device's.
    ProofRefused,
    /// The device presented another credential than before, without a fresh proof.
    CredentialRefused,
}

/// An `at_` token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthTokenRow {
    pub token: TokenHash,
    pub user: NodeId,
    pub device: DeviceId,
    /// The credential that the proof was bound to.
    pub credential: Option<[u8; 32]>,
    pub created_at_ms: u64,
    pub expires_at_ms: u64,
}

/// The hashes that take the place of a session's tokens.
#[derive(Debug, Clone)]
pub struct Resumption {
    /// The resume token that is used up.
    pub used: TokenHash,
    pub token: TokenHash,
    pub resume: TokenHash,
    pub now_ms: u64,
    /// How long the session lives on without another resume.
    pub ttl_ms: u64,
    /// How long the former token stays good.
    pub grace_ms: u64,
    /// No session lives longer than this.
    pub max_age_ms: u64,
    /// Takes the place of the session's grant, where there is one.
    pub grant: Option<String>,
}

/// Which sessions of a user to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    One(SessionId),
    Device { device: DeviceId, except: Option<SessionId> },
    All { except: Option<SessionId> },
}

impl Store {
    /// Keeps an `at_` token, and the credential that it was bound to as the device's.
    pub async fn insert_auth_token(&self, row: AuthTokenRow) -> Result<()> {
        each!(self, store => store.insert_auth_token(row).await)
    }

    /// The `at_` token with this hash, expired or not.
    pub async fn find_auth_token(&self, token: TokenHash) -> Result<Option<AuthTokenRow>> {
        each!(self, store => store.find_auth_token(token).await)
    }

    /// Starts a session if its proof and credential still hold.
    pub async fn open_session(&self, new: NewSession) -> Result<Opened> {
        each!(self, store => store.open_session(new).await)
    }

    /// Uses a resume token up; of several concurrent uses exactly one gets the session.
    pub async fn resume_session(&self, resumption: Resumption) -> Result<Option<SessionRow>> {
        each!(self, store => store.resume_session(resumption).await)
    }

    /// The session whose current or previous token has this hash, expired or not.
    pub async fn find_session(&self, token: TokenHash) -> Result<Option<SessionRow>> {
        each!(self, store => store.find_session(token).await)
    }

    /// The user's sessions that have not expired.
    pub async fn user_sessions(&self, user: NodeId, now_ms: u64) -> Result<Vec<SessionRow>> {
        each!(self, store => store.user_sessions(user, now_ms).await)
    }

    /// Ends sessions and says which ended.
    pub async fn end_sessions(&self, user: NodeId, which: Ending) -> Result<Vec<SessionId>> {
        each!(self, store => store.end_sessions(user, which).await)
    }

    /// Ends all sessions of the user and makes every proof from up to `now_ms` worthless.
    pub async fn revoke_user(&self, user: NodeId, now_ms: u64) -> Result<Vec<SessionId>> {
        each!(self, store => store.revoke_user(user, now_ms).await)
    }

    /// Makes one signed token worthless, until it would have expired anyway.
    pub async fn revoke_signed_token(
        &self,
        user: NodeId,
        jti: String,
        expires_at_ms: u64,
    ) -> Result<()> {
        each!(self, store => store.revoke_signed_token(user, jti, expires_at_ms).await)
    }

    /// Notes when sessions were last used.
    pub async fn touch_sessions(&self, seen: Vec<(SessionId, u64)>) -> Result<()> {
        each!(self, store => store.touch_sessions(seen).await)
    }

    /// Deletes what expired by `now_ms`; returns the sessions among it.
    pub async fn sweep_sessions(&self, now_ms: u64) -> Result<Vec<SessionId>> {
        each!(self, store => store.sweep_sessions(now_ms).await)
    }
}
