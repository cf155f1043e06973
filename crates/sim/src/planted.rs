//! Bugs on purpose: each is one that lock services have had, or could have.

/// A bug to plant into a simulated relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Renew and release work on whatever lease there is.
    TokenNotChecked,
    /// Renew asks for the owner only: an old grant of the same owner renews the new one.
    RenewByOwnerOnly,
    /// Expiry is judged by the wall clock.
    WallClock,
    /// Leases end a little before their time.
    FastClock,
    /// Leases go on after their time.
    SlowClock,
    /// The counter of tokens is rebuilt from the locks that are held.
    TokenFromHeldOnly,
    /// Answers leave before the commit.
    AnswerBeforeCommit,
    /// The last commits may be lost in a crash (a store that does not sync).
    NotSynced,
    /// That a lease expired is told, but not stored.
    ExpiryNotStored,
    /// A renewal to a longer lease is told, but not stored.
    LongerLeaseNotStored,
    /// After a restart nobody holds anything.
    RestartFrees,
    /// `request_id` is not looked at.
    RequestIdIgnored,
    /// Inspect is served from a copy that lags.
    LaggingInspect,
    /// A fenced write needs the last token, expired or not.
    FenceWithoutExpiry,
    /// A repeated release is refused.
    ReleaseNotIdempotent,
}

impl Bug {
    pub const ALL: [Self; 15] = [
        Self::TokenNotChecked,
        Self::RenewByOwnerOnly,
        Self::WallClock,
        Self::FastClock,
        Self::SlowClock,
        Self::TokenFromHeldOnly,
        Self::AnswerBeforeCommit,
        Self::NotSynced,
        Self::ExpiryNotStored,
        Self::LongerLeaseNotStored,
        Self::RestartFrees,
        Self::RequestIdIgnored,
        Self::LaggingInspect,
        Self::FenceWithoutExpiry,
        Self::ReleaseNotIdempotent,
    ];
}
