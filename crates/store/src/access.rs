//! Tokens that an operator hands out: to users, admins, metrics readers, spokes.

use relay_proto::auth::TokenHash;
use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    store::{Store, each},
};

/// What a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenPurpose {
    /// An invitation.
    User,
    /// May do everything.
    Admin,
    /// May read metrics.
    Metrics,
    /// Joins as a spoke.
    Spoke,
}

impl TokenPurpose {
    pub const ALL: [Self; 4] = [Self::User, Self::Admin, Self::Metrics, Self::Spoke];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
            Self::Spoke => "spoke",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.as_str() == text)
    }
}

/// A token as it is kept. Times are unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessTokenRow {
    /// Names the token in lists; not secret.
    pub id: String,
    pub token: TokenHash,
    pub purpose: TokenPurpose,
    /// What it is good for within its purpose; `None` is everything.
    pub pattern: Option<String>,
    /// `None` is any number of times.
    pub uses_left: Option<u32>,
    pub created_by: String,
    pub created_at_ms: u64,
    pub expires_at_ms: Option<u64>,
    pub last_used_at_ms: Option<u64>,
}

impl AccessTokenRow {
    pub fn is_usable(&self, now_ms: u64) -> bool {
        self.uses_left != Some(0) && self.expires_at_ms.is_none_or(|at_ms| at_ms > now_ms)
    }
}

impl Store {
    /// The token with this hash, usable or not.
    pub async fn find_access_token(&self, token: TokenHash) -> Result<Option<AccessTokenRow>> {
        each!(self, store => store.find_access_token(token).await)
    }

    pub async fn insert_access_token(&self, row: AccessTokenRow) -> Result<()> {
        each!(self, store => store.insert_access_token(row).await)
    }

    /// Uses the token once, where it has uses left and has not expired.
    pub async fn use_access_token(
        &self,
        token: TokenHash,
        now_ms: u64,
    ) -> Result<Option<AccessTokenRow>> {
        each!(self, store => store.use_access_token(token, now_ms).await)
    }

    /// Every token, newest first.
    pub async fn access_tokens(&self) -> Result<Vec<AccessTokenRow>> {
        each!(self, store => store.access_tokens().await)
    }

    /// Deletes a token; false where there is none of this id.
    pub async fn delete_access_token(&self, id: String) -> Result<bool> {
        each!(self, store => store.delete_access_token(id).await)
    }
}
