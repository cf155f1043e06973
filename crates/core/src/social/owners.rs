//! What owners of systems and operators do: purge, handles, censorship, moderation.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use ahash::AHashMap;
use relay_proto::{
    Code, Problem,
    polycentric::{
        CHALLENGE_MAX_AGE_MS, ChallengeError, ClaimHandleRequest, EventKey,
        HarborChallengeResponse, HarborValidateRequest, ModerationTag, ProcessId, SystemKey,
        UrlInfo, UrlInfoEventLink, UrlInfoSystemLink, check_challenge, make_challenge,
        message_param,
    },
};
use relay_store::{Censored, ModerationState, SystemUsage, Waiting};

use super::{
    HANDLES_PER_HOUR, Social,
    answers::{failed, refused},
    moderation::Censors,
};

/// Challenges remembered as used. Only good ones get here, so a crowd of forged ones costs nothing; when it is full
/// no purge is taken until the oldest expire.
const MAX_SPENT: usize = 10_000;
/// Longest handle.
const MAX_HANDLE: usize = 64;

/// Used challenges, until they would be too old anyway.
#[derive(Debug, Default)]
pub(super) struct SpentChallenges(Mutex<AHashMap<[u8; 32], u64>>);

impl SpentChallenges {
    /// Uses a challenge up; false where it was used before.
    fn spend(&self, challenge: [u8; 32], now_ms: u64) -> Result<bool, Problem> {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.len() >= MAX_SPENT {
            spent.retain(|_, used_ms| now_ms.saturating_sub(*used_ms) <= 2 * CHALLENGE_MAX_AGE_MS);
        }
        if spent.len() >= MAX_SPENT {
            return Err(Problem::rate_limited("too many purges at once", CHALLENGE_MAX_AGE_MS));
        }
        Ok(spent.insert(challenge, now_ms).is_none())
    }
}

impl Social {
    /// A challenge over 32 random bytes, to be signed by who wants to purge a system.
    pub fn challenge(&self, random: [u8; 32]) -> HarborChallengeResponse {
        make_challenge(&self.secret, random, self.now_ms())
    }

    /// Removes everything of a system whose key signed a challenge.
    ///
    /// # Errors
    /// `invalid_request` for a bad signature, `unauthorized` for a challenge that is not this relay's, too old, or used.
    pub async fn purge(&self, request: &HarborValidateRequest) -> Result<SystemKey, Problem> {
        let now_ms = self.now_ms();
        let checked = check_challenge(&self.secret, request, now_ms);
        let (system, challenge) = checked.map_err(|error| match error {
            ChallengeError::Malformed | ChallengeError::Signature => {
                Problem::invalid(error.to_string())
            }
            ChallengeError::Foreign | ChallengeError::Expired => {
                Problem::unauthorized(error.to_string())
            }
        })?;
        if !self.spent.spend(challenge, now_ms)? {
            return Err(Problem::unauthorized("the challenge was used before"));
        }
        self.purge_system(system).await?;
        Ok(system)
    }

    /// Removes everything of a system, for its owner or an operator.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn purge_system(&self, system: SystemKey) -> Result<(), Problem> {
        let report = self.store.social_purge(system).await.map_err(failed)?;
        self.stats.purged.fetch_add(1, Relaxed);
        self.committed(&report);
        Ok(())
    }

    /// Gives a system a handle.
    ///
    /// # Errors
    /// `invalid_request` for a bad name, `conflict` for one that is taken, `forbidden` for systems without events here.
    pub async fn claim_handle(
        &self,
        request: &ClaimHandleRequest,
        address: IpAddr,
    ) -> Result<(), Problem> {
        if !self.config.handles {
            return Err(Problem::forbidden("this relay gives no handles"));
        }
        let system = SystemKey::required(request.system.as_ref()).map_err(refused)?;
        let handle = &request.handle;
        let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if handle.is_empty() || handle.len() > MAX_HANDLE || !handle.chars().all(is_good) {
            let message = format!("a handle has 1 to {MAX_HANDLE} characters of A-Z a-z 0-9 - _");
            return Err(Problem::invalid(message));
        }
        self.handles_by_address.count(address, HANDLES_PER_HOUR, self.now_ms())?;
        if self.store.social_heads(system).await.map_err(failed)?.is_empty() {
            return Err(Problem::forbidden("only identities with events here have handles"));
        }
        let claimed = self.store.social_claim_handle(system, handle.clone()).await;
        let (ours, report) = claimed.map_err(failed)?;
        if !ours {
            return Err(Problem::new(Code::Conflict, "another identity has this handle"));
        }
        self.committed(&report);
        Ok(())
    }

    /// Whose handle it is.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn resolve_handle(&self, handle: &str) -> Result<SystemKey, Problem> {
        let found = self.store.social_handle(handle.to_owned()).await.map_err(failed)?;
        found.ok_or_else(|| Problem::not_found("nobody has this handle"))
    }

    /// What the last segment of a link names.
    ///
    /// # Errors
    /// `invalid_request` for a link that is none, or to something else.
    pub fn parse_link(url: &str) -> Result<Censored, Problem> {
        let path = url.trim().split(['?', '#']).next().unwrap_or_default();
        let segment = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default();
        let link: UrlInfo = message_param(segment).map_err(refused)?;
        let decode_failed = |_| Problem::invalid("the link's body cannot be decoded");
        match link.url_type {
            UrlInfo::SYSTEM => {
                let link: UrlInfoSystemLink =
                    relay_proto::polycentric::decode_message(link.body).map_err(decode_failed)?;
                let system = SystemKey::required(link.system.as_ref()).map_err(refused)?;
                Ok(Censored::System(system))
            }
            UrlInfo::EVENT => {
                let link: UrlInfoEventLink =
                    relay_proto::polycentric::decode_message(link.body).map_err(decode_failed)?;
                Ok(Censored::Event(EventKey {
                    system: SystemKey::required(link.system.as_ref()).map_err(refused)?,
                    process: ProcessId::required(link.process.as_ref()).map_err(refused)?,
                    clock: link.logical_clock,
                }))
            }
            _ => Err(Problem::invalid("the link is neither to a profile nor to an event")),
        }
    }

    /// Hides a system or an event; with `refuse` it is not stored any more, either.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn censor(&self, what: Censored, refuse: bool) -> Result<(), Problem> {
        let report = self.store.social_censor(what, refuse).await.map_err(failed)?;
        self.reload_censors().await?;
        self.committed(&report);
        Ok(())
    }

    /// Takes a censorship back.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn uncensor(&self, what: Censored) -> Result<(), Problem> {
        let (there, report) = self.store.social_uncensor(what).await.map_err(failed)?;
        if !there {
            return Err(Problem::not_found("that is not censored"));
        }
        self.reload_censors().await?;
        self.committed(&report);
        Ok(())
    }

    /// Everything that is censored, with whether it is refused.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn censored(&self) -> Result<Vec<(Censored, bool)>, Problem> {
        self.store.social_censored().await.map_err(failed)
    }

    async fn reload_censors(&self) -> Result<(), Problem> {
        let list = self.store.social_censored().await.map_err(failed)?;
        self.censors.store(Arc::new(Censors::of(list)));
        Ok(())
    }

    /// Events that wait for approval, oldest first.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn waiting(&self, after: u64, limit: usize) -> Result<Vec<Waiting>, Problem> {
        self.store.social_waiting(after, limit.clamp(1, 100)).await.map_err(failed)
    }

    /// What one identity holds, or those that hold most.
    ///
    /// # Errors
    /// `not_found` for one that holds nothing.
    pub async fn usage(
        &self,
        system: Option<SystemKey>,
        limit: usize,
    ) -> Result<Vec<SystemUsage>, Problem> {
        let found = self.store.social_usage(system, limit).await.map_err(failed)?;
        if system.is_some() && found.is_empty() {
            return Err(Problem::not_found("this identity has nothing here"));
        }
        Ok(found)
    }

    /// Systems, events, and events that wait for a verdict.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn totals(&self) -> Result<(u64, u64, u64), Problem> {
        self.store.social_totals().await.map_err(failed)
    }

    /// Approves or hides an event, with what it is like.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn moderate(
        &self,
        seq: u64,
        state: ModerationState,
        tags: Vec<ModerationTag>,
    ) -> Result<(), Problem> {
        let (there, report) = self.store.social_moderate(seq, state, tags).await.map_err(failed)?;
        if !there {
            return Err(Problem::not_found("no such event"));
        }
        self.committed(&report);
        Ok(())
    }
}
