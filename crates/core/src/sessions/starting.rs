//! From a challenge or a token to a session, and on with a resume (`gateway.md` 3.1, 3.2, 4.1, 4.2).

use std::sync::Arc;

use relay_proto::{
    NodeId, SigningKey,
    auth::{
        AuthProof, AuthToken, Challenge, ChallengeId, ClientLabel, DeviceId, ResumeToken,
        SessionId, SessionToken, SignedToken, credential_hash, fold_user_id,
        signed_token::Expected,
    },
};
use relay_store::{
    AuthTokenRow, NewSession, Opened, ProofFacts, Resumption, SessionLimits, SessionRow,
};

use super::{LiveSession, SessionError, Sessions, new_auth_token, new_tokens};

/// An answer to a challenge, to be changed into an `at_` token.
#[derive(Debug)]
pub struct Verify<'a> {
    pub challenge: Option<ChallengeId>,
    pub user: NodeId,
    pub device: DeviceId,
    pub signature: Option<[u8; 64]>,
    pub credential: Option<&'a str>,
}

/// A request for a session.
#[derive(Debug)]
pub struct Start<'a> {
    pub auth_token: &'a str,
    pub device: DeviceId,
    pub credential: Option<&'a str>,
    pub label: ClientLabel,
    /// The user's leave for this relay; whoever starts the session sees to it that it is the user's.
    pub grant: Option<String>,
}

/// A session with the tokens that only its holder sees.
#[derive(Debug)]
pub struct Started {
    pub session: Arc<LiveSession>,
    pub session_token: SessionToken,
    pub resume_token: ResumeToken,
    pub expires_at_ms: u64,
}

impl Sessions {
    /// Asks a user to prove that it holds its key. Says the same of users never seen.
    ///
    /// # Errors
    /// [`SessionError::Limit`].
    pub fn challenge(&self, user: NodeId, device: DeviceId) -> Result<Challenge, SessionError> {
        self.count_user(user)?;
        Ok(self.challenges.ask(user, device, self.now_ms()))
    }

    /// Changes a right answer into an `at_` token; returns it with its expiry (unix milliseconds).
    ///
    /// # Errors
    /// [`SessionError::Proof`] for every wrong one, [`SessionError::Limit`], [`SessionError::Store`].
    pub async fn verify(&self, answer: Verify<'_>) -> Result<(AuthToken, u64), SessionError> {
        // Used up before anything is looked at.
        let challenge = answer.challenge.and_then(|id| self.challenges.take(&id));
        self.count_user(answer.user)?;
        let challenge = challenge.ok_or(SessionError::Proof("no such challenge"))?;
        let signature = answer.signature.ok_or(SessionError::Proof("malformed signature"))?;
        if challenge.user != answer.user {
            return Err(SessionError::Proof("another user's challenge"));
        }
        let hash = credential_hash(answer.credential);
        self.check_answer(&challenge, &answer.device, &hash, &signature)?;

        let now_ms = self.now_ms();
        let config = self.config();
        let token = new_auth_token();
        let expires_at_ms = now_ms + config.auth_token_ttl_ms;
        let row = AuthTokenRow {
            token: token.hash(),
            user: answer.user,
            device: answer.device,
            credential: answer.credential.map(|_| hash),
            created_at_ms: now_ms,
            expires_at_ms,
        };
        self.store.insert_auth_token(row).await?;
        Ok((token, expires_at_ms))
    }

    /// Starts a session for whoever the proof proves.
    ///
    /// # Errors
    /// [`SessionError::Proof`] for every proof that does not hold, [`SessionError::Limit`],
    /// [`SessionError::Store`].
    pub async fn start(&self, start: Start<'_>) -> Result<Started, SessionError> {
        let (user, facts) = match AuthProof::parse(start.auth_token) {
            Some(proof) => self.check_proof(&proof, &start).await?,
            None if self.config().insecure_dev_auth => {
                let user = dev_user(start.auth_token);
                tracing::warn!(%user, "insecure_dev_auth: a session was started without any proof");
                (user, ProofFacts::Fresh)
            }
            None => return Err(SessionError::Proof("no proof")),
        };
        let now_ms = self.now_ms();
        let config = self.config();
        let (session_token, resume_token) = new_tokens();
        let token = session_token.hash();
        let expires_at_ms = now_ms + config.session_ttl_ms.min(config.max_age_ms);
        let row = SessionRow {
            id: SessionId::of_first_token(&token),
            user,
            device: start.device,
            client_label: start.label.as_str().to_owned(),
            token,
            previous: None,
            resume: resume_token.hash(),
            generation: 0,
            created_at_ms: now_ms,
            expires_at_ms,
            last_seen_at_ms: now_ms,
            grant: start.grant,
        };
        let new = NewSession {
            row: row.clone(),
            proof: facts,
            credential: start.credential.map(|text| credential_hash(Some(text))),
            limits: SessionLimits {
                per_user: config.sessions_per_user,
                per_device: config.sessions_per_device,
            },
        };
        match self.store.open_session(new).await? {
            Opened::Started { ended } => self.live.end(&ended),
            Opened::ProofRefused => return Err(SessionError::Proof("revoked or expired")),
            Opened::CredentialRefused => {
                return Err(SessionError::Proof("another credential for a known device"));
            }
        }
        let session = self.live.insert(&row, now_ms);
        Ok(Started { session, session_token, resume_token, expires_at_ms })
    }

    /// Continues a session with new tokens; the resume token is used up. A grant takes the place of the one before.
    ///
    /// # Errors
    /// [`SessionError::Resume`] for every token that continues nothing, [`SessionError::Store`].
    pub async fn resume(
        &self,
        resume_token: &str,
        grant: Option<String>,
    ) -> Result<Started, SessionError> {
        let used = ResumeToken::parse(resume_token).ok_or(SessionError::Resume)?;
        let now_ms = self.now_ms();
        let config = self.config();
        let (session_token, resume_token) = new_tokens();
        let resumption = Resumption {
            used: used.hash(),
            token: session_token.hash(),
            resume: resume_token.hash(),
            now_ms,
            ttl_ms: config.session_ttl_ms,
            grace_ms: config.grace_ms,
            max_age_ms: config.max_age_ms,
            grant,
        };
        let row = self.store.resume_session(resumption).await?.ok_or(SessionError::Resume)?;
        let session = self.live.insert(&row, now_ms);
        let expires_at_ms = row.expires_at_ms;
        Ok(Started { session, session_token, resume_token, expires_at_ms })
    }

    /// Whom the proof proves, as far as can be told without a transaction.
    async fn check_proof(
        &self,
        proof: &AuthProof,
        start: &Start<'_>,
    ) -> Result<(NodeId, ProofFacts), SessionError> {
        let hash = credential_hash(start.credential);
        match proof {
            AuthProof::Answer { challenge, signature } => {
                let challenge = self
                    .challenges
                    .take(challenge)
                    .ok_or(SessionError::Proof("no such challenge"))?;
                self.count_user(challenge.user)?;
                self.check_answer(&challenge, &start.device, &hash, signature)?;
                Ok((challenge.user, ProofFacts::Fresh))
            }
            AuthProof::Minted(token) => {
                let found = self.store.find_auth_token(token.hash()).await?;
                let found = found.ok_or(SessionError::Proof("no such at_ token"))?;
                self.count_user(found.user)?;
                let bound = found.credential.filter(|_| start.credential.is_some());
                if bound.is_some_and(|bound| bound != hash) {
                    return Err(SessionError::Proof("bound to another credential"));
                }
                Ok((found.user, ProofFacts::Minted(found.token)))
            }
            AuthProof::Signed(token) => self.check_signed(token, start, &hash),
        }
    }

    fn check_answer(
        &self,
        challenge: &Challenge,
        device: &DeviceId,
        credential: &[u8; 32],
        signature: &[u8; 64],
    ) -> Result<(), SessionError> {
        if challenge.device != *device {
            return Err(SessionError::Proof("another device's challenge"));
        }
        let config = self.config();
        if challenge.is_answered(&config.gateway_id, credential, signature, self.now_ms()) {
            Ok(())
        } else {
            Err(SessionError::Proof("wrong or late answer"))
        }
    }

    fn check_signed(
        &self,
        token: &SignedToken,
        start: &Start<'_>,
        credential: &[u8; 32],
    ) -> Result<(NodeId, ProofFacts), SessionError> {
        let config = self.config();
        let expected = Expected {
            gateway_id: &config.gateway_id,
            device: &start.device,
            credential_hash: credential,
            max_ttl_ms: config.signed_token_max_ttl_ms,
            now_ms: self.now_ms(),
        };
        let claims = token.check(&expected).map_err(|error| {
            tracing::debug!(%error, "signed token refused");
            SessionError::Proof("signed token refused")
        })?;
        self.count_user(claims.sub)?;
        let facts = ProofFacts::Signed { jti: claims.jti.clone(), issued_at_ms: claims.iat };
        Ok((claims.sub, facts))
    }
}

/// Whom a text names in development mode: the key that it is, else one made from the text, so that
/// the same text is always the same user.
fn dev_user(text: &str) -> NodeId {
    let text = text.strip_prefix("Bearer ").unwrap_or(text);
    fold_user_id(text).unwrap_or_else(|_| {
        let seed = blake3::hash(format!("relay-dev-user-v1\n{text}").as_bytes());
        SigningKey::from_seed(*seed.as_bytes()).node_id()
    })
}
