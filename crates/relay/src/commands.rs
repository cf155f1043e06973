//! One file a group of commands.

pub mod about;
pub mod access;
pub mod api;
pub mod config;
pub mod context;
pub mod debug;
pub mod doctor;
pub mod event;
pub mod init;
pub mod keys;
pub mod lock;
pub mod operate;
pub mod serve;
pub mod session;
pub mod store;
