//! One file a group of commands.

pub mod about;
pub mod access;
pub mod actors;
pub mod api;
mod attached;
pub mod ca;
pub mod call;
#[cfg(feature = "chat")]
pub mod chat;
pub mod config;
pub mod context;
pub mod debug;
#[cfg(feature = "chat")]
pub mod device;
pub mod directory;
pub mod doctor;
pub mod event;
pub mod expose;
pub mod hubs;
pub mod init;
pub mod join;
pub mod keys;
pub mod lock;
mod node_flags;
pub mod operate;
#[cfg(feature = "chat")]
pub mod presence;
pub mod run;
pub mod serve;
pub mod services;
pub mod session;
pub mod social;
pub mod store;
pub mod topology;
#[cfg(feature = "tui")]
pub mod tui;
pub mod user;
