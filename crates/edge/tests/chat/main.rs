//! The chat gateway through the public doors of a whole relay.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod afar_blobs;
mod afar_contacts;
mod afar_push;
mod afar_sessions;
mod afar_sizes;
mod blobs;
mod bundle;
mod churn;
mod conversations;
mod cuts;
mod homes;
mod key_packages;
mod lists;
mod person;
mod presence;
mod proxy;
mod push;
mod retention;
mod rooms;
mod silence;
mod sse;
#[path = "../support/mod.rs"]
mod support;

/// No rate gets into the way of tests that are not about rates.
pub const FREE: &str = "[chat]
sends_per_min = 0
frames_per_sec = 0
user_frames_per_sec = 0
auth_per_ip_per_min = 0
auth_per_user_per_min = 0
dm_creates_per_min = 0
room_creates_per_min = 0
invites_per_min = 0
removes_per_min = 0
kp_fetches_per_min = 0
kp_target_fetches_per_min = 0
kp_publishes_per_min = 0
conns_per_user = 0
conns_per_device = 0
";
