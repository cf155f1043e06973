//! `relay tui`: the chat in a terminal.
//!
//! - [`App`]: what is on the screen and what keys, answers and events do to it; values in, [`Effect`]s out
//! - [`view`]: draws an [`App`]; reads it and nothing else
//! - [`Backend`]: what the screen asks and does; [`relay_chat::Chat`] behind it, or a fake
//! - [`config`]: `tui.toml`; [`keys`]: which key does what; [`theme`]: which colours there are
//! - [`run()`]: the loop that ties them to a terminal
//!
//! ```text
//!   terminal ── keys ──► App::update ── Effect ──► run ── Question, Act ──► Backend
//!      ▲                   │    ▲                   │                         │
//!      └──── view::draw ◄──┘    └──── answers, events ◄────────────────────────┘
//! ```
//!
//! Only `run` and `terminal` touch the outside. Whatever was written by somebody else goes through [`text::clean`] before it is
//! shown.

pub mod app;
pub mod backend;
pub mod commands;
pub mod config;
pub mod editor;
pub mod keys;
mod run;
mod terminal;
pub mod text;
pub mod theme;
pub mod view;

pub use app::{App, Effect, Input};
pub use backend::{Act, Answer, Backend, ChatBackend, Done, Found, Place, Question};
pub use config::Settings;
pub use run::{Error, run};
