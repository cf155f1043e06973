//! What can go wrong in a chat, by whose move it is.

#![allow(missing_docs, reason = "the text of each variant says what it is")]

use std::path::PathBuf;

use relay_client::Error as RelayError;
use relay_proto::mls::{BindingError, KeyPackageError, MlsError};

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The local state: its file, its keys, its contents.
    #[error(transparent)]
    State(#[from] StateError),
    /// The relay said no, or could not be reached.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// What came from the relay or another member breaks the rules of the protocol.
    #[error(transparent)]
    Hostile(#[from] Hostile),
    /// What was asked for is not possible now.
    #[error("{0}")]
    Refused(Refusal),
    /// The MLS library reports something that has no rule of its own here.
    #[error("the group's state does not allow this: {0}")]
    Mls(String),
    /// A file that is to be sent or saved.
    #[error("{path}: {source}")]
    File {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The engine has stopped.
    #[error("the chat is closed")]
    Closed,
}

/// What is wrong with the local state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    #[error("the key does not open this profile")]
    WrongKey,
    #[error("this profile is protected by a passphrase")]
    NeedsPassphrase,
    #[error("this profile is opened by its key file, not by a passphrase")]
    NeedsKey,
    #[error(
        "the profile is damaged: a value does not verify. Put back a backup, or start a new device with your recovery secret"
    )]
    Damaged,
    #[error("the value is too large")]
    TooLarge,
    #[error("the system gives no random bytes")]
    Random,
    #[error("this profile is open in process {}; close it there first", .0.map_or_else(|| "?".to_owned(), |pid| pid.to_string()))]
    InUse(Option<u32>),
    #[error("this profile belongs to {found}, and the key is that of {given}")]
    OtherUser { found: String, given: String },
    #[error("this profile was made by a newer version of this program (format {0})")]
    Newer(u32),
    #[error("no space is left on the disk; nothing was lost, free some and try again")]
    Full,
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the local state: {0}")]
    Sql(rusqlite::Error),
    #[error("the local state holds something that this version cannot read: {0}")]
    Format(String),
}

impl From<rusqlite::Error> for StateError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                Self::Damaged
            }
            _ => Self::Sql(error),
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::State(error.into())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::State(StateError::Format(error.to_string()))
    }
}

/// A message that no honest member or relay sends. It changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[serde(tag = "why", content = "detail", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Hostile {
    #[error("malformed: {0}")]
    Malformed(String),
    #[error("a device is not who it says it is: {0}")]
    Binding(String),
    #[error("the conversation says that its home is {inside}, the relay says {outside}")]
    WrongHome { inside: String, outside: String },
    #[error("the message belongs to another conversation")]
    OtherGroup,
    #[error("the group does not follow the profile: {0}")]
    Profile(String),
    #[error("a device is in the group twice")]
    TwiceInGroup,
    #[error("a third person was added to a direct message")]
    ThirdInDm,
    #[error("{0} may not do this here")]
    NotAllowed(String),
    #[error("somebody who is no member let themselves in")]
    Stranger,
    #[error("the commit does not verify: {0}")]
    Commit(String),
    #[error("the message does not verify: {0}")]
    Message(String),
    #[error(
        "somebody was let in with keys that have ended by this machine's clock: this device was away for more than four weeks, or the clock is ahead"
    )]
    KeysEnded,
    #[error("the invitation is not from whom the relay says it is")]
    Inviter,
    #[error("the relay left out messages: {expected} was due, {got} came")]
    Gap { expected: u64, got: u64 },
    #[error("the relay sent another message under a number that was taken")]
    Fork,
    #[error("the key package is not one that may be used: {0}")]
    KeyPackage(String),
    #[error("the published group state does not open: {0}")]
    GroupInfo(String),
}

impl From<MlsError> for Error {
    fn from(error: MlsError) -> Self {
        Self::Hostile(Hostile::Malformed(error.to_string()))
    }
}

impl From<KeyPackageError> for Error {
    fn from(error: KeyPackageError) -> Self {
        Self::Hostile(Hostile::KeyPackage(error.to_string()))
    }
}

impl From<BindingError> for Error {
    fn from(error: BindingError) -> Self {
        Self::Hostile(Hostile::Binding(error.to_string()))
    }
}

/// Why something is not possible now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("no such conversation")]
    NoConversation,
    #[error("no such message")]
    NoMessage,
    #[error("more than one conversation fits '{0}'")]
    Ambiguous(String),
    #[error("nobody is called '{0}'; give their key (ed25519:…)")]
    NoPerson(String),
    #[error("this conversation is an invitation; accept it first")]
    NotAccepted,
    #[error("you are not in this conversation any more")]
    NotIn,
    #[error("nothing is sent here: {0}")]
    Stuck(String),
    #[error("only the author may do this")]
    NotYours,
    #[error("only the creator and admins may do this")]
    NotAllowed,
    #[error("a direct message has two people; make a room")]
    Dm,
    #[error("that is yourself")]
    Yourself,
    #[error("{0} does not ask to be let in again")]
    NobodyAsks(String),
    #[error("nothing of this number waits to be sent")]
    NotWaiting,
    #[error("{0}")]
    Invalid(String),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
