//! What a call is refused or fails with, as a JSON-RPC error number and our stable code.

use std::fmt;

use serde_json::{Map, Value};

use crate::error::{Code, Problem};

/// The number in a JSON-RPC error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RpcCode {
    /// −32700: the text is no JSON.
    Parse,
    /// −32600: JSON, but no request.
    InvalidRequest,
    /// −32601: the service has no such method.
    MethodNotFound,
    /// −32602.
    InvalidParams,
    /// −32603: the service failed.
    Internal,
    /// −32001.
    ServiceNotFound,
    /// −32002.
    NodeUnreachable,
    /// −32003.
    Timeout,
    /// −32004.
    Forbidden,
    /// −32005, with `retry_after_ms`.
    Overloaded,
    /// −32006.
    Loop,
    /// An error of the service's own.
    Other(i64),
}

impl RpcCode {
    const KNOWN: [(Self, i64); 11] = [
        (Self::Parse, -32700),
        (Self::InvalidRequest, -32600),
        (Self::MethodNotFound, -32601),
        (Self::InvalidParams, -32602),
        (Self::Internal, -32603),
        (Self::ServiceNotFound, -32001),
        (Self::NodeUnreachable, -32002),
        (Self::Timeout, -32003),
        (Self::Forbidden, -32004),
        (Self::Overloaded, -32005),
        (Self::Loop, -32006),
    ];

    pub fn from_number(number: i64) -> Self {
        let known = Self::KNOWN.iter().find(|(_, known)| *known == number);
        known.map_or(Self::Other(number), |(code, _)| *code)
    }

    pub fn number(self) -> i64 {
        match self {
            Self::Other(number) => number,
            known => {
                let found = Self::KNOWN.iter().find(|(code, _)| *code == known);
                found.map_or(-32603, |(_, number)| *number)
            }
        }
    }

    /// The stable code of every interface; a service's own errors have none.
    pub const fn stable(self) -> Option<Code> {
        Some(match self {
            Self::Parse | Self::InvalidRequest | Self::InvalidParams => Code::InvalidRequest,
            Self::MethodNotFound | Self::ServiceNotFound => Code::NotFound,
            Self::Internal => Code::InternalError,
            Self::NodeUnreachable => Code::HomeUnreachable,
            Self::Timeout => Code::Timeout,
            Self::Forbidden => Code::Forbidden,
            Self::Overloaded => Code::RateLimited,
            Self::Loop => Code::LoopDetected,
            Self::Other(_) => return None,
        })
    }
}

/// The member of `data` that says a call did not start.
const NOT_STARTED: &str = "not_started";

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq)]
pub struct CallError {
    pub code: RpcCode,
    pub message: String,
    /// Members of the error's `data` beside our `code`.
    pub data: Map<String, Value>,
}

impl CallError {
    pub fn new(code: RpcCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: Map::new() }
    }

    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(RpcCode::InvalidParams, message)
    }

    pub fn method_not_found(service: impl fmt::Display, method: impl fmt::Display) -> Self {
        Self::new(RpcCode::MethodNotFound, format!("service '{service}' has no method '{method}'"))
    }

    pub fn service_not_found(service: impl fmt::Display) -> Self {
        Self::new(RpcCode::ServiceNotFound, format!("there is no service '{service}'"))
    }

    pub fn unreachable(node: impl fmt::Display) -> Self {
        Self::new(RpcCode::NodeUnreachable, format!("node '{node}' cannot be reached"))
    }

    pub fn timeout() -> Self {
        Self::new(RpcCode::Timeout, "the call was not answered in time")
    }

    /// Refused before it started; `retry_after_ms` says when to try again.
    pub fn overloaded(message: impl Into<String>, retry_after_ms: u64) -> Self {
        Self::new(RpcCode::Overloaded, message).with("retry_after_ms", retry_after_ms)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(RpcCode::Internal, message)
    }

    /// Adds a member to `data`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.data.insert(name.to_owned(), value.into());
        self
    }

    /// Whether the call certainly did not start, so that any caller may send it again.
    pub const fn refused_before_start(&self) -> bool {
        matches!(
            self.code,
            RpcCode::Overloaded | RpcCode::ServiceNotFound | RpcCode::Forbidden | RpcCode::Loop
        )
    }

    /// Says that the call certainly did not start, so that it may be sent to another instance. For
    /// refusals by a relay or router; what a service answers never says so.
    #[must_use]
    pub fn not_started(self) -> Self {
        self.with(NOT_STARTED, true)
    }

    /// Whether [`Self::not_started`] was said.
    pub fn is_not_started(&self) -> bool {
        self.data.get(NOT_STARTED) == Some(&Value::Bool(true))
    }

    /// `data` as it stands on the wire: with our `code`. `null` where there is nothing to say.
    pub fn wire_data(&self) -> Value {
        let mut data = self.data.clone();
        if let Some(code) = self.code.stable() {
            data.insert("code".into(), code.as_str().into());
        }
        if data.is_empty() { Value::Null } else { Value::Object(data) }
    }

    /// Reads an error as another program sent it: any number, any `data`.
    pub fn from_wire(number: i64, message: String, data: Option<Value>) -> Self {
        let code = RpcCode::from_number(number);
        let mut data = match data {
            Some(Value::Object(members)) => members,
            None | Some(Value::Null) => Map::new(),
            Some(other) => Map::from_iter([("value".to_owned(), other)]),
        };
        if code.stable().is_some() {
            data.remove("code");
        }
        Self { code, message, data }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code.number())
    }
}

impl std::error::Error for CallError {}

/// For the doors that speak problems rather than JSON-RPC.
impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let number = error.code.number();
        let code = error.code.stable().unwrap_or(Code::InternalError);
        Self { code, message: error.message, extra: error.data }.with("rpc_code", number)
    }
}

/// What has no number of its own keeps its code in `data`, under the number of a server's error.
impl From<Problem> for CallError {
    fn from(problem: Problem) -> Self {
        let code = match problem.code {
            Code::NotFound => RpcCode::ServiceNotFound,
            Code::HomeUnreachable => RpcCode::NodeUnreachable,
            Code::Timeout => RpcCode::Timeout,
            Code::Forbidden | Code::Unauthorized => RpcCode::Forbidden,
            Code::RateLimited | Code::QuotaExceeded => RpcCode::Overloaded,
            Code::LoopDetected => RpcCode::Loop,
            Code::InternalError => RpcCode::Internal,
            Code::InvalidRequest
            | Code::TooLarge
            | Code::LimitExceeded
            | Code::UnsupportedVersion => RpcCode::InvalidParams,
            _ => RpcCode::Other(SERVER_ERROR),
        };
        let mut data = problem.extra;
        if code.stable().is_none() {
            data.insert("code".into(), problem.code.as_str().into());
        }
        Self { code, message: problem.message, data }
    }
}

/// The first of the numbers that JSON-RPC leaves to servers.
const SERVER_ERROR: i64 = -32000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_codes_agree() {
        for (code, number) in RpcCode::KNOWN {
            assert_eq!(code.number(), number);
            assert_eq!(RpcCode::from_number(number), code);
            assert!(code.stable().is_some());
        }
        assert_eq!(RpcCode::from_number(7), RpcCode::Other(7));
        assert_eq!(RpcCode::Other(7).number(), 7);
    }

    #[test]
    fn a_problem_without_a_number_keeps_its_code() {
        let held = Problem::new(Code::LockHeld, "held").with("owner", "x");
        let error = CallError::from(held);
        assert_eq!(error.code.number(), SERVER_ERROR);
        assert_eq!(error.wire_data(), serde_json::json!({"code": "lock_held", "owner": "x"}));
        let wrong = CallError::from(Problem::invalid("kind"));
        assert_eq!(wrong.wire_data(), serde_json::json!({"code": "invalid_request"}));
    }

    #[test]
    fn data_carries_our_code_and_survives_the_wire() {
        let error = CallError::overloaded("full", 250);
        let data = error.wire_data();
        assert_eq!(data, serde_json::json!({"code": "rate_limited", "retry_after_ms": 250}));
        let back = CallError::from_wire(error.code.number(), error.message.clone(), Some(data));
        assert_eq!(back, error);
        assert_eq!(CallError::from_wire(1, "x".into(), None).wire_data(), Value::Null);
    }
}
