//! One file a group of commands.

pub mod about;
pub mod access;
pub mod actors;
pub mod api;
mod attached;
pub mod call;
pub mod config;
pub mod context;
pub mod debug;
pub mod doctor;
pub mod event;
pub mod expose;
pub mod init;
pub mod keys;
pub mod lock;
mod node_flags;
pub mod operate;
pub mod run;
pub mod serve;
pub mod services;
pub mod session;
pub mod social;
pub mod store;
