//! What runs here: actors, their supervisors, scripts and bridges.
//!
//! - [`Router`]: one `ask` and one `send` for services here and anywhere ([`Remote`])
//! - [`Supervisor`]: keeps actors running, with back-off, until they give up
//! - [`Service`]: what a native actor is; [`bridge`] makes local programs into one
//! - `script` (feature): `.rl` files, each service in a sandboxed JavaScript machine of its own
//!
//! Nothing here knows links: what lives on another node goes to the [`Remote`] that `node` hands in.

pub mod backoff;
pub mod bridge;
mod inbox;
mod journal;
mod native;
mod results;
mod router;
#[cfg(feature = "script")]
pub mod script;
mod service;
mod supervisor;

pub use backoff::{Random, RestartPolicy};
pub use inbox::{Envelope, Inbox};
pub use journal::{Journal, LogLevel, LogLine, WallClock};
#[cfg(feature = "script")]
pub use results::SqliteResults;
pub use results::{KeptResult, ResultKey, ResultLimits, ResultStore, ResultStoreError};
pub use router::{ActorStatus, Life, NODE, PING, Remote, Router, RouterConfig};
pub use service::{BodyStream, Handled, Reply, Request, Service, ServiceInfo, Visibility};
pub use supervisor::{ActorSpec, Exit, Factory, Incarnation, StartError, Supervisor};
