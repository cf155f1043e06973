//! Tokens that an operator hands out (`cli.md`, `relay token`).

use rand_core::RngCore;
use relay_proto::auth::OperatorToken;
use relay_store::{AccessTokenRow, TokenPurpose};
use serde::Serialize;

use super::{SessionError, Sessions};

/// What a new token is to be good for.
#[derive(Debug, Clone)]
pub struct NewToken {
    pub purpose: TokenPurpose,
    /// What it is good for within its purpose; `None` is everything.
    pub pattern: Option<String>,
    /// How many times; `None` is any number.
    pub uses: Option<u32>,
    /// Unix milliseconds; `None` is for ever.
    pub expires_at_ms: Option<u64>,
    /// Who made it, for lists.
    pub created_by: String,
}

/// A new token. Its text is seen this once.
#[derive(Debug)]
pub struct CreatedToken {
    pub token: OperatorToken,
    pub view: TokenView,
}

/// A token in a list; never its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenView {
    pub id: String,
    #[serde(rename = "for")]
    pub purpose: TokenPurpose,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uses_left: Option<u32>,
    pub created_by: String,
    pub created_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at_ms: Option<u64>,
}

/// How long `last_used_at_ms` of a token without a count may lag.
const USE_LAG_MS: u64 = 60_000;

impl Sessions {
    /// # Errors
    /// [`SessionError::Invalid`] for a token that could never be used, [`SessionError::Store`].
    pub async fn create_token(&self, new: NewToken) -> Result<CreatedToken, SessionError> {
        let now_ms = self.now_ms();
        if new.uses == Some(0) || new.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            return Err(SessionError::Invalid("the token could never be used"));
        }
        let rng = &mut rand_core::OsRng;
        let token = OperatorToken::generate(rng);
        let row = AccessTokenRow {
            id: format!("tok_{:016x}", rng.next_u64()),
            token: token.hash(),
            purpose: new.purpose,
            pattern: new.pattern,
            uses_left: new.uses,
            created_by: new.created_by,
            created_at_ms: now_ms,
            expires_at_ms: new.expires_at_ms,
            last_used_at_ms: None,
        };
        self.store.insert_access_token(row.clone()).await?;
        Ok(CreatedToken { token, view: row.into() })
    }

    /// Uses a token once, for one of `purposes`.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] where it opens none of them (any more), [`SessionError::Store`].
    pub async fn use_token(
        &self,
        token: &OperatorToken,
        purposes: &[TokenPurpose],
    ) -> Result<TokenView, SessionError> {
        let now_ms = self.now_ms();
        // Asked of a reader first: strangers' guesses never reach the writer.
        let found = self.store.find_access_token(token.hash()).await?;
        let row = found
            .filter(|row| purposes.contains(&row.purpose) && row.is_usable(now_ms))
            .ok_or(SessionError::Unknown)?;
        let noted = row.last_used_at_ms.is_some_and(|at_ms| now_ms < at_ms + USE_LAG_MS);
        if row.uses_left.is_none() && noted {
            return Ok(row.into());
        }
        let used = self.store.use_access_token(token.hash(), now_ms).await?;
        used.map(TokenView::from).ok_or(SessionError::Unknown)
    }

    /// Every token, newest first.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn tokens(&self) -> Result<Vec<TokenView>, SessionError> {
        Ok(self.store.access_tokens().await?.into_iter().map(TokenView::from).collect())
    }

    /// Whether there was a token of this id; it opens nothing any more.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn revoke_token(&self, id: &str) -> Result<bool, SessionError> {
        Ok(self.store.delete_access_token(id.to_owned()).await?)
    }
}

impl From<AccessTokenRow> for TokenView {
    fn from(row: AccessTokenRow) -> Self {
        Self {
            id: row.id,
            purpose: row.purpose,
            pattern: row.pattern,
            uses_left: row.uses_left,
            created_by: row.created_by,
            created_at_ms: row.created_at_ms,
            expires_at_ms: row.expires_at_ms,
            last_used_at_ms: row.last_used_at_ms,
        }
    }
}
