//! What tests share: a PostgreSQL of their own. For `[dev-dependencies]` only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "only tests use it; a panic is the report"
)]

pub mod mls;
mod postgres;

pub use postgres::{Database, Postgres};
