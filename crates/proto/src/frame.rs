//! The frame of WebSocket, SSE and inbox: `{"v":1,"t":"area.verb","id":…,"body":{…}}`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Code, Problem};

/// The only version there is.
pub const VERSION: u64 = 1;

/// A frame as it came; `body` is read by whoever serves `t`.
#[derive(Debug, Clone)]
pub struct Frame<'a> {
    pub t: Cow<'a, str>,
    pub id: Option<Cow<'a, str>>,
    /// `{}` where the frame had none.
    pub body: &'a str,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    v: Option<&'a RawValue>,
    #[serde(borrow)]
    t: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// Why a frame cannot be served, and the `id` to answer under where it could be read.
#[derive(Debug, Clone)]
pub struct FrameFault {
    pub id: Option<String>,
    pub problem: Problem,
}

impl<'a> Frame<'a> {
    /// Reads one frame.
    ///
    /// # Errors
    /// `unsupported_version`, or `invalid_request` for everything else.
    pub fn parse(text: &'a str) -> Result<Self, FrameFault> {
        let wire: Wire<'a> = serde_json::from_str(text).map_err(|error| {
            let message = if error.is_data() { "not a frame" } else { "malformed json" };
            FrameFault { id: None, problem: Problem::invalid(message) }
        })?;
        let fault = |problem| FrameFault { id: wire.id.clone().map(Cow::into_owned), problem };
        if wire.v.map(RawValue::get) != Some("1") {
            let problem = Problem::new(Code::UnsupportedVersion, "unsupported version");
            return Err(fault(problem));
        }
        let Some(t) = wire.t.clone() else {
            return Err(fault(Problem::invalid("a frame needs a type 't'")));
        };
        let body = wire.body.map_or("{}", RawValue::get);
        if !body.starts_with('{') {
            return Err(fault(Problem::invalid("the body of a frame is an object")));
        }
        Ok(Self { t, id: wire.id, body })
    }

    /// Reads the body as a `T`.
    ///
    /// # Errors
    /// `invalid_request` naming the member that is wrong.
    pub fn body<T: Deserialize<'a>>(&self) -> Result<T, Problem> {
        serde_json::from_str(self.body).map_err(|error| {
            let text = error.to_string();
            Problem::invalid(text.split(" at line ").next().unwrap_or(&text))
        })
    }
}

/// Encodes a frame to send.
pub fn encode<T: Serialize>(t: &str, id: Option<&str>, body: &T) -> String {
    #[derive(Serialize)]
    struct Out<'a, T> {
        v: u64,
        t: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        body: &'a T,
    }
    serde_json::to_string(&Out { v: VERSION, t, id, body }).unwrap_or_else(|_| {
        // Bodies are plain structs and maps with text keys; they always serialise.
        format!(r#"{{"v":1,"t":"error","body":{{"code":"internal_error","message":"{t}"}}}}"#)
    })
}

/// Encodes an `error` frame.
pub fn encode_error(id: Option<&str>, problem: &Problem) -> String {
    encode("error", id, &problem.members())
}
