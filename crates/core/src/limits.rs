//! Rate limits in bounded memory; time is handed in.
//!
//! - [`Buckets`]: token buckets, for what may come in bursts (events, frames)
//! - [`Gauges`]: how many there are at a time (connections)
//! - [`Windows`]: fixed windows that begin with the first counted request (`gateway.md` 12)
//!
//! Keys that have been idle are dropped, which changes no answer; when a table is full of busy
//! keys, some of them are forgotten. So a crowd of invented keys costs no memory, and what such
//! a crowd may do together is for the limits above them (tenant, address) to bound.

mod bucket;
mod gauge;
mod table;
mod window;

pub use bucket::{Bucket, Buckets, Rate};
pub use gauge::{Gauges, Permit};
pub use window::Windows;

/// Refused; room is expected after this many milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many at once; try again in {retry_after_ms} ms")]
pub struct Exceeded {
    pub retry_after_ms: u64,
}

impl From<Exceeded> for relay_proto::Problem {
    fn from(exceeded: Exceeded) -> Self {
        // Clients of the older wire read seconds (`gateway.md` 2.2).
        let retry_after_s = exceeded.retry_after_ms.div_ceil(1_000);
        Self::rate_limited(exceeded.to_string(), exceeded.retry_after_ms)
            .with("retry_after_s", retry_after_s)
    }
}
