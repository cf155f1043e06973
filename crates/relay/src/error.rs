//! Failures as people and scripts see them: four parts, an exit code, and a JSON form.

use std::{fmt::Write, io};

use relay_client::Error;
use relay_proto::{CallError, Code, call::RpcCode};
use serde_json::{Map, Value, json};

use crate::explain;

/// Exit codes of every command (`cli.md`, Exit codes).
pub mod exit {
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const NOT_FOUND: u8 = 3;
    pub const NOT_ALLOWED: u8 = 4;
    pub const TAKEN: u8 = 5;
    pub const LOST: u8 = 6;
    pub const UNREACHABLE: u8 = 7;
    pub const TIMEOUT: u8 = 8;
    pub const SLOW_DOWN: u8 = 9;
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// What failed, with the object's name.
    pub what: String,
    /// Lines of facts.
    pub facts: Vec<String>,
    /// The stable code.
    pub code: Option<&'static str>,
    pub request_id: Option<Box<str>>,
    /// What to try: a command, and what it is for.
    pub tries: Vec<(String, String)>,
    pub exit: u8,
    /// The relay's extra members.
    pub extra: Box<Map<String, Value>>,
    /// Nothing is to be said: the reader of our output went away, or all was said already.
    pub silent: bool,
}

pub type Outcome = Result<u8, Failure>;

impl Failure {
    pub fn new(exit: u8, what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            facts: Vec::new(),
            code: None,
            request_id: None,
            tries: Vec::new(),
            exit,
            extra: Box::default(),
            silent: false,
        }
    }

    /// A usage or configuration error: nothing was sent.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(exit::USAGE, what)
    }

    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(exit::FAILED, what)
    }

    #[must_use]
    pub fn fact(mut self, line: impl Into<String>) -> Self {
        self.facts.push(line.into());
        self
    }

    #[must_use]
    pub fn hint(mut self, command: impl Into<String>, why: impl Into<String>) -> Self {
        self.tries.push((command.into(), why.into()));
        self
    }

    /// The failure of an operation on a named object: `Failure::of(error, "event 3f2a…")`.
    pub fn of(error: Error, object: &str) -> Self {
        let exit = exit_of(&error);
        let mut failure = Self::new(exit, format!("{object}: {error}"));
        match error {
            Error::Refused { problem, request_id } => {
                failure.what = format!("{object}: {}", problem.message);
                failure.code = Some(problem.code.as_str());
                failure.request_id = request_id.map(String::into_boxed_str);
                failure.extra = Box::new(problem.extra);
                failure.tries = explain::of(problem.code.as_str())
                    .map(|entry| vec![(entry.first_cure.into(), String::new())])
                    .unwrap_or_default();
                // The cure of a missing event helps nobody who asked for something else.
                let of_events = ["event ", "address ", "the query"];
                if problem.code == Code::NotFound
                    && !of_events.iter().any(|start| object.starts_with(start))
                {
                    failure.tries = vec![("relay explain not_found".into(), String::new())];
                }
            }
            Error::Call(error) => {
                failure.what = format!("{object}: {}", error.message);
                failure.code = error.code.stable().map(Code::as_str);
                let CallError { code, data, .. } = *error;
                let texts = data.iter().filter_map(|(name, value)| Some((name, value.as_str()?)));
                failure.facts = texts.map(|(name, text)| format!("{name:<8} {text}")).collect();
                failure.facts.insert(0, format!("number   {}", code.number()));
                failure.extra = Box::new(data);
                failure.extra.insert("rpc_code".into(), code.number().into());
                failure.tries = match code {
                    RpcCode::ServiceNotFound => {
                        vec![("relay services".into(), "what there is".into())]
                    }
                    RpcCode::Timeout => vec![("--timeout 60s".into(), "wait longer".into())],
                    _ => Vec::new(),
                };
            }
            Error::Unreachable { url, cause } => {
                failure.what = format!("{object}: cannot reach {url}");
                failure.facts.push(cause);
                failure.code = Some("unreachable");
                failure = failure
                    .hint(format!("relay check relay --url {url}"), "is it up?")
                    .hint("relay context ls", "is it the right one?");
            }
            Error::Timeout { .. } => {
                failure.code = Some("timeout");
                failure = failure.hint("--timeout 60s", "wait longer");
            }
            Error::NoKey => {
                failure = failure
                    .hint("relay keys gen", "make a key")
                    .hint("--key ~/.ssh/id_ed25519", "use one that is there");
            }
            _ => {}
        }
        failure
    }

    /// Prints the failure on stderr.
    pub fn report(&self, as_json: bool) {
        if self.silent {
            return;
        }
        let text = if as_json { self.json() } else { self.text() };
        // A closed stderr leaves nobody to tell.
        let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
    }

    fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.what);
        for fact in &self.facts {
            let _ = writeln!(text, "  {fact}");
        }
        if let Some(code) = self.code {
            let request = self.request_id.as_deref().map(|id| format!("   request {id}"));
            let _ = writeln!(text, "  code     {code}{}", request.unwrap_or_default());
        }
        let width =
            self.tries.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
        for (index, (command, why)) in self.tries.iter().enumerate() {
            let label = if index == 0 { "try" } else { "" };
            let why = if why.is_empty() { String::new() } else { format!("   ({why})") };
            let _ = writeln!(text, "  {label:<8} {command:<width$}{why}");
        }
        text.lines().fold(String::new(), |all, line| all + line.trim_end() + "\n")
    }

    fn json(&self) -> String {
        let mut error = Map::clone(&self.extra);
        let code = self.code.unwrap_or(if self.exit == exit::USAGE { "usage" } else { "failed" });
        error.insert("code".into(), code.into());
        error.insert("message".into(), self.what.as_str().into());
        error.insert("exit".into(), self.exit.into());
        if let Some((command, _)) = self.tries.first() {
            error.insert("hint".into(), command.as_str().into());
        }
        if let Some(id) = &self.request_id {
            error.insert("request_id".into(), id.to_string().into());
        }
        format!("{}\n", json!({ "error": error }))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let mut failure = Self::failed(error.to_string());
        failure.silent = error.kind() == io::ErrorKind::BrokenPipe;
        failure
    }
}

/// The exit code that goes with an error.
pub fn exit_of(error: &Error) -> u8 {
    match error {
        Error::Refused { problem, .. } => exit_of_code(problem.code),
        Error::Unreachable { .. } => exit::UNREACHABLE,
        Error::Timeout { .. } => exit::TIMEOUT,
        Error::Call(error) => exit_of_rpc(error.code),
        Error::LeaseOver => exit::LOST,
        Error::NoKey | Error::Key(_) | Error::Address(_) | Error::Event(_) => exit::USAGE,
        _ => exit::FAILED,
    }
}

const fn exit_of_rpc(code: RpcCode) -> u8 {
    match code {
        RpcCode::ServiceNotFound | RpcCode::NodeUnreachable => exit::UNREACHABLE,
        RpcCode::Timeout => exit::TIMEOUT,
        RpcCode::Forbidden => exit::NOT_ALLOWED,
        RpcCode::Overloaded => exit::SLOW_DOWN,
        _ => exit::FAILED,
    }
}

pub const fn exit_of_code(code: Code) -> u8 {
    match code {
        Code::NotFound | Code::Gone | Code::ReplayWindowExceeded => exit::NOT_FOUND,
        Code::Unauthorized | Code::Forbidden | Code::ResumeFailed => exit::NOT_ALLOWED,
        Code::Conflict | Code::LockHeld => exit::TAKEN,
        Code::LeaseExpired | Code::StaleToken | Code::Fenced => exit::LOST,
        Code::HomeUnreachable => exit::UNREACHABLE,
        Code::Timeout => exit::TIMEOUT,
        Code::RateLimited | Code::QuotaExceeded => exit::SLOW_DOWN,
        Code::InvalidRequest
        | Code::TooLarge
        | Code::LimitExceeded
        | Code::UnsupportedVersion
        | Code::SlowConsumer
        | Code::LoopDetected
        | Code::InternalError => exit::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Failure {
        let mut failure = Failure::new(exit::TAKEN, "lock db/main is held by ed25519:3f2a…91c0")
            .fact("taken    41 s ago (12:03:11), lease ends in 19 s, token 17")
            .hint("relay lock acquire db/main --wait 30s", "queue for it")
            .hint("relay lock watch db/main", "see it change");
        failure.code = Some("lock_held");
        failure.request_id = Some("01JQ7Y".into());
        failure
    }

    #[test]
    fn an_error_has_four_parts() {
        let want = "\
error: lock db/main is held by ed25519:3f2a…91c0
  taken    41 s ago (12:03:11), lease ends in 19 s, token 17
  code     lock_held   request 01JQ7Y
  try      relay lock acquire db/main --wait 30s   (queue for it)
           relay lock watch db/main                (see it change)
";
        assert_eq!(held().text(), want);
    }

    #[test]
    fn the_json_form_has_the_same_facts() {
        let value: Value = serde_json::from_str(&held().json()).unwrap();
        assert_eq!(value["error"]["code"], "lock_held");
        assert_eq!(value["error"]["exit"], 5);
        assert_eq!(value["error"]["request_id"], "01JQ7Y");
        assert_eq!(value["error"]["hint"], "relay lock acquire db/main --wait 30s");
    }

    #[test]
    fn every_code_has_an_exit_and_an_explanation() {
        for code in Code::ALL {
            assert!((1..=9).contains(&exit_of_code(code)));
            assert!(explain::of(code.as_str()).is_some(), "{code}");
        }
    }
}
