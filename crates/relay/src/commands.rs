//! One file a group of commands.

pub mod about;
pub mod access;
pub mod api;
pub mod config;
pub mod context;
pub mod doctor;
pub mod event;
pub mod keys;
pub mod lock;
pub mod serve;
pub mod session;
pub mod social;
pub mod store;
