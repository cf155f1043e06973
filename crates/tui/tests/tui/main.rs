//! The screen against a chat that is played: what keys and events do, what is seen, and that nothing hostile gets through.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod colours;
mod desk;
mod hostile;
mod places;
mod played;
mod properties;
mod reading;
mod screens;
mod talking;
