//! What is asked of a verified event before it is stored.

use std::fmt;

use relay_proto::{
    Event, Problem,
    event::{MAX_AHEAD_NS, reserved, rotation_of},
};

/// Who may publish; whoever joins the domains puts policy, rates and quotas behind it. Called for every event, so it must cost little and never block.
pub trait Gate: Send + Sync + fmt::Debug {
    /// Whether the author may publish this event now. Takes from the author's and the tenant's rate and quota.
    ///
    /// # Errors
    /// `forbidden`, `rate_limited`, `quota_exceeded`.
    fn admit(&self, event: &Event, now_ns: u64) -> Result<(), Problem>;

    /// The event turned out to be stored already: gives back what [`Self::admit`] took.
    fn give_back(&self, event: &Event, now_ns: u64);
}

/// The rules that need no policy.
pub(super) fn check(event: &Event, now_ns: u64) -> Result<(), Problem> {
    if event.created_at_ns() > now_ns.saturating_add(MAX_AHEAD_NS) {
        return Err(Problem::invalid(
            "created_at_ns lies more than 15 minutes ahead of the relay's clock",
        ));
    }
    if event.kind() == reserved::HTTP_AUTH {
        return Err(Problem::invalid("kind 27235 signs HTTP requests and cannot be published"));
    }
    rotation_of(event)?;
    Ok(())
}

/// Whether the event's `expiration` still lies ahead. Asked after looking for a duplicate.
pub(super) fn check_expiration(event: &Event, now_ns: u64) -> Result<(), Problem> {
    match event.expires_at_s() {
        Some(at) if at <= now_ns / 1_000_000_000 => {
            Err(Problem::invalid("expiration must lie ahead of the relay's clock"))
        }
        _ => Ok(()),
    }
}
