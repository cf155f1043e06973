//! Tests with real processes: a harness that starts relays and does to them what the world does.
//!
//! - [`relay`]: a relay process, killed, stopped, restarted at will
//! - [`postgres`]: databases in a private PostgreSQL
//! - [`shim`]: a disk that fails or forgets, clocks that step
//! - [`proxy`]: a link that is slow, stuck or cut
//! - [`federation`]: hubs, spokes and the services behind them
//! - [`foreign`]: a home that is no Relay and speaks only what the specification asks of it
//! - [`person`]: somebody with a key who uses the lock API over plain HTTP
//! - [`witness`]: writes down what happened, for the checker of `relay-sim`

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "only tests use this")]

pub mod federation;
pub mod foreign;
pub mod person;
pub mod postgres;
pub mod proxy;
pub mod relay;
pub mod shim;
pub mod witness;

use std::{future::Future, time::Duration};

pub use person::Person;
pub use relay::{Backend, Relay};
pub use witness::Witness;

/// How much longer than usual: 1, or what `RELAY_ROUNDS` asks for in a soak.
pub fn rounds(usual: usize) -> usize {
    std::env::var("RELAY_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within `limit`.
pub async fn until<F: Future<Output = bool>>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> F,
) {
    let give_up = tokio::time::Instant::now() + limit;
    while !condition().await {
        assert!(tokio::time::Instant::now() < give_up, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One test for each store: `on_both! { async fn l05_…(relay: Relay) { … } }`.
#[macro_export]
macro_rules! on_both {
    ($($(#[$meta:meta])* async fn $name:ident($relay:ident: Relay) $body:block)*) => {
        mod sqlite {
            $($(#[$meta])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::bodies::$name($crate::Relay::start($crate::Backend::Sqlite).await).await;
            })*
        }
        mod postgres {
            $($(#[$meta])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::bodies::$name($crate::Relay::start($crate::Backend::Postgres).await).await;
            })*
        }
        #[cfg(test)]
        mod bodies {
            use super::*;
            $(#[allow(unused_mut)]
            pub async fn $name(mut $relay: Relay) $body)*
        }
    };
}
