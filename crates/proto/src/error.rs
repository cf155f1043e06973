//! The stable error codes of every interface (`common.md`, Errors).

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A stable, machine-read error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    InvalidRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    Conflict,
    LockHeld,
    StaleToken,
    LeaseExpired,
    Fenced,
    Gone,
    ReplayWindowExceeded,
    TooLarge,
    RateLimited,
    QuotaExceeded,
    LimitExceeded,
    UnsupportedVersion,
    ResumeFailed,
    SlowConsumer,
    HomeUnreachable,
    Timeout,
    LoopDetected,
    InternalError,
}

impl Code {
    /// Every code, in the order of the specification.
    pub const ALL: [Self; 22] = [
        Self::InvalidRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::LockHeld,
        Self::StaleToken,
        Self::LeaseExpired,
        Self::Fenced,
        Self::Gone,
        Self::ReplayWindowExceeded,
        Self::TooLarge,
        Self::RateLimited,
        Self::QuotaExceeded,
        Self::LimitExceeded,
        Self::UnsupportedVersion,
        Self::ResumeFailed,
        Self::SlowConsumer,
        Self::HomeUnreachable,
        Self::Timeout,
        Self::LoopDetected,
        Self::InternalError,
    ];

    /// The text on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::LockHeld => "lock_held",
            Self::StaleToken => "stale_token",
            Self::LeaseExpired => "lease_expired",
            Self::Fenced => "fenced",
            Self::Gone => "gone",
            Self::ReplayWindowExceeded => "replay_window_exceeded",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::QuotaExceeded => "quota_exceeded",
            Self::LimitExceeded => "limit_exceeded",
            Self::UnsupportedVersion => "unsupported_version",
            Self::ResumeFailed => "resume_failed",
            Self::SlowConsumer => "slow_consumer",
            Self::HomeUnreachable => "home_unreachable",
            Self::Timeout => "timeout",
            Self::LoopDetected => "loop_detected",
            Self::InternalError => "internal_error",
        }
    }

    /// The code with this text, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }

    /// The HTTP status that goes with the code.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::LimitExceeded | Self::UnsupportedVersion => 400,
            Self::Unauthorized | Self::ResumeFailed => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict
            | Self::LockHeld
            | Self::StaleToken
            | Self::LeaseExpired
            | Self::Fenced => 409,
            Self::Gone | Self::ReplayWindowExceeded => 410,
            Self::TooLarge => 413,
            Self::RateLimited | Self::QuotaExceeded => 429,
            Self::InternalError => 500,
            Self::HomeUnreachable | Self::SlowConsumer => 503,
            Self::Timeout => 504,
            Self::LoopDetected => 508,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal as a client sees it: code, human text, and extra members by code
/// (`retry_after_ms`, `owner`, `earliest` …).
///
/// The text never holds a secret or an inner error.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Problem {
    pub code: Code,
    pub message: String,
    /// Extra members, flattened beside `code` and `message`.
    pub extra: Map<String, Value>,
}

impl Problem {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), extra: Map::new() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Code::Forbidden, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(Code::Unauthorized, message)
    }

    /// `rate_limited`, to be tried again after `retry_after_ms`.
    pub fn rate_limited(message: impl Into<String>, retry_after_ms: u64) -> Self {
        Self::new(Code::RateLimited, message).with("retry_after_ms", retry_after_ms)
    }

    /// Adds one extra member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// The members `code`, `message` and the extra ones: the body of an `error` frame.
    pub fn members(&self) -> Map<String, Value> {
        let mut members = self.extra.clone();
        members.insert("code".into(), self.code.as_str().into());
        members.insert("message".into(), self.message.as_str().into());
        members
    }
}
