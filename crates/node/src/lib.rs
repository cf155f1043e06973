//! Is it mine? The door, configuration, start, supervision, drain and stop of a relay.

pub mod config;
