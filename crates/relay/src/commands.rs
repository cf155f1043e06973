//! One file a group of commands.

pub mod event;
pub mod keys;
pub mod lock;
pub mod serve;
