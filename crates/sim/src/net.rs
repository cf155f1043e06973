//! A simulated network around the state machines of `relay_proto::link`: no sockets, no clock, every run
//! named by its seed.
//!
//! - [`wire`]: one connection as TCP gives it (in order, no loss inside), with delay, bandwidth, and the ways
//!   in which connections really fail: reset, silently dead in one direction or both, stalled for a while
//! - [`conversation`]: two sessions over a wire with an application on each side that keeps book
//! - [`hubs`]: a dialer among hubs that come, go and freeze

pub mod conversation;
pub mod hubs;
pub mod wire;
