//! The domain of signed events: publishing and reading (`events.md`).
//!
//! Publishing goes: shape (edge) → id and signature (on the CPU threads, many at once) → clock, policy,
//! rates → the store's writer → the answer. Nothing is answered before it is durable.

mod admit;
mod ephemeral;
mod publish;
mod read;
mod verify;

pub use admit::Gate;
pub use publish::{Events, EventsConfig, EventsStats, PublishStatus, Published};
pub use read::{MAX_LIMIT, Question, check_filters};
pub use verify::Lane;
