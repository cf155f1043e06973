//! Who comes in, and how do they speak? HTTP, WebSocket and SSE in front of a [`relay_node::Node`].
//!
//! Doors decode, find out who asks, limit, call the node and encode its answer. They decide nothing.

mod access;
mod acme;
mod attach;
mod auth;
mod body;
mod calls;
mod chat;
mod events;
mod federation;
mod feeds;
mod held;
mod info;
mod locks;
mod openapi;
mod operate;
mod params;
mod peer;
mod reply;
mod routes;
mod server;
mod services;
mod sessions;
mod social;
mod socket;
mod sse;
mod stall;
mod subscriptions;
mod tls;

pub use server::{Doors, OpenError};
