//! Conversations: their names, what is asked of their home and what it answers (`gateway.md` 1, 5 to 11).
//!
//! Requests and answers are plain values that read and write themselves as JSON: a relay that is not the home
//! of a conversation passes them on as they are.

pub mod answer;
pub mod epoch;
pub mod id;
pub mod log;
pub mod mail;
pub mod request;

pub use answer::Answer;
pub use epoch::{EpochRefusal, Handshake};
pub use id::{ConvId, MsgId, UserRef};
pub use log::{ConvKind, LogEntry, MessageKind, Profile, Role};
pub use mail::{Mail, NumberedMail};
pub use request::{Caller, Request};
