//! How a handler failed: what the log, the caller and whoever loads the script are told.

use relay_proto::{CallError, call::RpcCode};
use serde::Deserialize;
use serde_json::Value;

use super::{
    error::{ScriptError, ScriptFault},
    limits::Limit,
    operations::Outside,
    vm::Thrown,
};
use crate::journal::LogLevel;

#[derive(Debug)]
pub(super) enum Failure {
    NoMethod(CallError),
    Thrown(Thrown),
    Limit(Limit),
    Timeout,
    /// The caller does not wait any more.
    Gone,
    /// It waits for a promise that nothing will resolve.
    Stuck,
    Timers(String),
    /// Changes of earlier messages could not be stored.
    State,
}

impl Failure {
    fn text(&self) -> String {
        match self {
            Self::NoMethod(error) => error.message.clone(),
            Self::Thrown(thrown) => thrown.detail.clone(),
            Self::Limit(limit) => format!("stopped: {limit}"),
            Self::Timeout => "its time was over".to_owned(),
            Self::Gone => "its caller went away".to_owned(),
            Self::Stuck => STUCK.to_owned(),
            Self::Timers(reason) => format!("timers: {reason}"),
            Self::State => "the state could not be kept".to_owned(),
        }
    }

    /// Tells the script's log; what a script throws on purpose for its caller is not an error.
    pub fn log(&self, outside: &Outside, what: &str, file: &str) {
        let level = match self {
            Self::NoMethod(_) | Self::Gone => LogLevel::Debug,
            Self::Thrown(thrown) if thrown.rpc.is_some() => LogLevel::Debug,
            _ => LogLevel::Error,
        };
        let place = match self.place(file) {
            Some((line, _)) => format!(" ({file}:{line})"),
            None => String::new(),
        };
        outside.host.log(&outside.service, level, &format!("{what}: {}{place}", self.text()));
    }

    fn place(&self, file: &str) -> Option<(u32, Option<u32>)> {
        match self {
            Self::Thrown(thrown) => thrown.place(file),
            _ => None,
        }
    }

    /// What the caller gets. What went wrong inside is told to callers on this node only.
    pub fn into_call_error(self, file: &str, local: bool) -> CallError {
        let place = self.place(file);
        match self {
            Self::NoMethod(error) => error,
            Self::Thrown(Thrown { rpc: Some(rpc), .. }) => read_rpc(&rpc),
            Self::Thrown(thrown) => {
                let error = CallError::internal("the script failed");
                if !local {
                    return error;
                }
                let error = error.with("detail", thrown.detail).with("file", file);
                match place {
                    Some((line, _)) => error.with("line", line),
                    None => error,
                }
            }
            Self::Limit(Limit::Wall) | Self::Timeout | Self::Gone => CallError::timeout(),
            Self::Limit(limit) => CallError::internal(format!("the script was stopped: {limit}")),
            Self::Stuck => CallError::internal(format!("the script {STUCK}")),
            Self::Timers(reason) => CallError::internal(format!("the script set {reason}")),
            Self::State => CallError::internal("the script's state could not be kept"),
        }
    }

    /// The failure of a version's `start`.
    pub fn into_script_error(self, file: &str, source: &str) -> ScriptError {
        let error = ScriptError::new(ScriptFault::Load, file, format!("start: {}", self.text()));
        match &self {
            Self::Thrown(thrown) => error.at(&thrown.stack, source),
            _ => error,
        }
    }
}

const STUCK: &str = "waits for a promise that nothing resolves";

/// An error the script made for its caller.
fn read_rpc(text: &str) -> CallError {
    #[derive(Deserialize)]
    struct Wire {
        code: i64,
        message: String,
        data: Option<Value>,
    }
    match serde_json::from_str(text) {
        Ok(Wire { code, message, data }) => CallError::from_wire(code, message, data),
        Err(_) => CallError::new(RpcCode::Internal, "the script failed"),
    }
}
