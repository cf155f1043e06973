//! Listing and ending sessions (`gateway.md` 4.3).

use relay_proto::{
    NodeId,
    auth::{DeviceId, SessionId, SignedToken},
};
use relay_store::Ending;
use serde::Serialize;

use super::{LiveSession, SessionError, Sessions};

/// A session as its user sees it; never a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionView {
    pub session_id: String,
    pub device_id: DeviceId,
    pub expires_at_ms: u64,
    pub is_current: bool,
    pub created_at_ms: u64,
    /// May lag 30 s.
    pub last_seen_at_ms: u64,
    pub client_label: String,
}

/// A user's sessions, the current one first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionList {
    pub sessions: Vec<SessionView>,
    pub current_session_id: String,
}

/// What to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevokeTarget {
    Session(SessionId),
    Device(DeviceId),
}

/// What ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Revocation {
    pub revoked: usize,
    /// Sorted.
    pub revoked_session_ids: Vec<String>,
}

impl Sessions {
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn list(&self, current: &LiveSession) -> Result<SessionList, SessionError> {
        let rows = self.store.user_sessions(current.user(), self.now_ms()).await?;
        let mut sessions: Vec<_> = rows
            .into_iter()
            .map(|row| SessionView {
                is_current: row.id == current.id(),
                session_id: row.id.to_string(),
                device_id: row.device,
                expires_at_ms: row.expires_at_ms,
                created_at_ms: row.created_at_ms,
                last_seen_at_ms: row.last_seen_at_ms.max(self.live.last_seen(&row.id)),
                client_label: row.client_label,
            })
            .collect();
        sessions.sort_by(|a, b| {
            let key = |view: &SessionView| (!view.is_current, view.device_id.clone());
            key(a).cmp(&key(b)).then_with(|| a.session_id.cmp(&b.session_id))
        });
        Ok(SessionList { sessions, current_session_id: current.id().to_string() })
    }

    /// Ends the session.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn logout(&self, current: &LiveSession) -> Result<(), SessionError> {
        self.end(current.user(), Ending::One(current.id())).await.map(|_| ())
    }

    /// Ends the user's other sessions; with `include_self` all of them, and every proof made so
    /// far starts no session any more. Returns how many ended.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn logout_all(
        &self,
        current: &LiveSession,
        include_self: bool,
    ) -> Result<usize, SessionError> {
        if include_self {
            return self.revoke_user(current.user()).await;
        }
        let which = Ending::All { except: Some(current.id()) };
        Ok(self.end(current.user(), which).await?.len())
    }

    /// Ends one session, or those of a device; another user's are not found.
    ///
    /// # Errors
    /// [`SessionError::Invalid`] where the current session is named without `include_self`,
    /// [`SessionError::Store`].
    pub async fn revoke(
        &self,
        current: &LiveSession,
        target: RevokeTarget,
        include_self: bool,
    ) -> Result<Revocation, SessionError> {
        let which = match target {
            RevokeTarget::Session(id) if id == current.id() && !include_self => {
                return Err(SessionError::Invalid(
                    "refusing to revoke current session without include_self",
                ));
            }
            RevokeTarget::Session(id) => Ending::One(id),
            RevokeTarget::Device(device) => {
                Ending::Device { device, except: (!include_self).then_some(current.id()) }
            }
        };
        let ended = self.end(current.user(), which).await?;
        let mut revoked_session_ids: Vec<_> = ended.iter().map(ToString::to_string).collect();
        revoked_session_ids.sort();
        Ok(Revocation { revoked: ended.len(), revoked_session_ids })
    }

    /// Ends everything of a user: sessions, `at_` tokens, and signed tokens made up to now.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn revoke_user(&self, user: NodeId) -> Result<usize, SessionError> {
        let ended = self.store.revoke_user(user, self.now_ms()).await?;
        self.live.end(&ended);
        Ok(ended.len())
    }

    /// Makes one signed token worthless. Sessions that it started go on.
    ///
    /// # Errors
    /// [`SessionError::Proof`] where it is not the user's own, [`SessionError::Store`].
    pub async fn revoke_signed_token(
        &self,
        user: NodeId,
        token: &SignedToken,
    ) -> Result<(), SessionError> {
        let claims = token.claims_of(&user).ok_or(SessionError::Proof("not the user's token"))?;
        self.store.revoke_signed_token(user, claims.jti.clone(), claims.exp).await?;
        Ok(())
    }

    async fn end(&self, user: NodeId, which: Ending) -> Result<Vec<SessionId>, SessionError> {
        let ended = self.store.end_sessions(user, which).await?;
        self.live.end(&ended);
        Ok(ended)
    }
}
