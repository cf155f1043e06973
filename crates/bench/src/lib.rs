//! Load for a relay, and the same load for the programs that it is compared with.
//!
//! - [`scenario`]: the loads; [`report`]: what they found
//! - [`load`], [`publish`], [`relay`]: signed events made ahead, and how they are sent
//! - [`ws`], [`http`]: clients that cost next to nothing, as they share the server's cores
//! - [`throttle`]: a slow line
//! - [`server`], [`proc`]: starting servers, and what the kernel says about them
//! - `peer` (feature `peers`): nostr-rs-relay, etcd, Redis, PostgreSQL, NATS

pub mod hist;
pub mod http;
pub mod load;
#[cfg(feature = "peers")]
pub mod peer;
pub mod proc;
pub mod publish;
pub mod relay;
pub mod report;
pub mod scenario;
pub mod server;
pub mod throttle;
pub mod ws;
