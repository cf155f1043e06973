//! JSON-RPC 2.0 on the wire, read strictly: what is wrong is answered with the number for it.

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::{CallError, Json, RpcCode};

/// The most requests in one batch.
pub const MAX_BATCH: usize = 100;
/// The longest `id` that is echoed, in bytes of JSON text.
pub const MAX_ID: usize = 256;

/// The `id` of a request: a string, a number or `null`, kept as the text it came as.
#[derive(Debug, Clone)]
pub struct RpcId(Json);

impl RpcId {
    fn read(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        let scalar = matches!(text.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9' | b'n'));
        (scalar && text.len() <= MAX_ID).then(|| Self(raw.to_owned()))
    }

    pub fn number(number: u64) -> Self {
        Self(raw_text(&number))
    }

    /// The JSON text.
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for RpcId {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

/// One request or, without `id`, one notification.
#[derive(Debug, Clone)]
pub struct RpcRequest {
    /// `None`: a notification, never answered.
    pub id: Option<RpcId>,
    pub method: String,
    /// An object or an array.
    pub params: Option<Json>,
}

/// What came in: each entry a request, or the response that refuses it.
#[derive(Debug)]
pub enum Incoming {
    Single(Result<RpcRequest, RpcResponse>),
    Batch(Vec<Result<RpcRequest, RpcResponse>>),
}

impl Incoming {
    /// Reads a body or frame.
    ///
    /// # Errors
    /// The one response to a body that is no JSON (−32700), an empty or too long batch (−32600).
    pub fn parse(text: &[u8]) -> Result<Self, RpcResponse> {
        let refuse = |code, message: &str| RpcResponse::refusal(CallError::new(code, message));
        let raw: &RawValue = serde_json::from_slice(text)
            .map_err(|_| refuse(RpcCode::Parse, "the request is not JSON"))?;
        if !raw.get().starts_with('[') {
            return Ok(Self::Single(read_request(raw)));
        }
        let entries: Vec<&RawValue> = serde_json::from_str(raw.get())
            .map_err(|_| refuse(RpcCode::Parse, "the request is not JSON"))?;
        if entries.is_empty() {
            return Err(refuse(RpcCode::InvalidRequest, "a batch is not empty"));
        }
        if entries.len() > MAX_BATCH {
            return Err(refuse(RpcCode::InvalidRequest, "a batch has at most 100 requests"));
        }
        Ok(Self::Batch(entries.into_iter().map(read_request).collect()))
    }
}

fn read_request(raw: &RawValue) -> Result<RpcRequest, RpcResponse> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        #[serde(borrow)]
        jsonrpc: Option<&'a RawValue>,
        method: Option<Value>,
        #[serde(borrow)]
        params: Option<&'a RawValue>,
        #[serde(borrow, default, deserialize_with = "present")]
        id: Option<&'a RawValue>,
    }
    let refuse = |id: Option<RpcId>, message: &str| RpcResponse {
        id,
        result: Err(CallError::new(RpcCode::InvalidRequest, message)),
    };
    let wire: Wire<'_> = serde_json::from_str(raw.get())
        .map_err(|_| refuse(None, "a request is an object without repeated members"))?;
    let id = match wire.id.map(RpcId::read) {
        None => None,
        Some(Some(id)) => Some(id),
        Some(None) => return Err(refuse(None, "id is a short string, a number or null")),
    };
    if wire.jsonrpc.map(RawValue::get) != Some(r#""2.0""#) {
        return Err(refuse(id, "jsonrpc is \"2.0\""));
    }
    let Some(Value::String(method)) = wire.method else {
        return Err(refuse(id, "method is a string"));
    };
    if !wire.params.is_none_or(is_structured) {
        return Err(refuse(id, "params is an object or an array"));
    }
    Ok(RpcRequest { id, method, params: wire.params.map(RawValue::to_owned) })
}

/// A member that is there, be it `null`.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&'a RawValue>::deserialize(from).map(Some)
}

/// Whether JSON text is an object or an array.
pub fn is_structured(raw: &RawValue) -> bool {
    raw.get().starts_with(['{', '['])
}

/// One response.
#[derive(Debug, Clone)]
pub struct RpcResponse {
    /// `None` is written as `null`: the request's id could not be read.
    pub id: Option<RpcId>,
    pub result: Result<Json, CallError>,
}

impl RpcResponse {
    /// The response to something that has no readable id.
    pub const fn refusal(error: CallError) -> Self {
        Self { id: None, result: Err(error) }
    }

    /// Reads a response of another program.
    ///
    /// # Errors
    /// [`RpcCode::Internal`] when it is none: the other program does not speak JSON-RPC.
    pub fn parse(text: &[u8]) -> Result<Self, CallError> {
        #[derive(Deserialize)]
        struct WireError {
            code: i64,
            #[serde(default)]
            message: String,
            data: Option<Value>,
        }
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow, default, deserialize_with = "present")]
            id: Option<&'a RawValue>,
            #[serde(borrow, default, deserialize_with = "present")]
            result: Option<&'a RawValue>,
            error: Option<WireError>,
        }
        let fault = || CallError::internal("the service did not answer with a JSON-RPC response");
        let wire: Wire<'_> = serde_json::from_slice(text).map_err(|_| fault())?;
        let result = match (wire.result, wire.error) {
            (_, Some(error)) => Err(CallError::from_wire(error.code, error.message, error.data)),
            (Some(result), None) => Ok(result.to_owned()),
            (None, None) => return Err(fault()),
        };
        Ok(Self { id: wire.id.and_then(RpcId::read), result })
    }
}

impl Serialize for RpcResponse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct WireError<'a> {
            code: i64,
            message: &'a str,
            #[serde(skip_serializing_if = "Value::is_null")]
            data: Value,
        }
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("jsonrpc", "2.0")?;
        map.serialize_entry("id", &self.id.as_ref().map(|id| &*id.0))?;
        match &self.result {
            Ok(result) => map.serialize_entry("result", result)?,
            Err(error) => map.serialize_entry(
                "error",
                &WireError {
                    code: error.code.number(),
                    message: &error.message,
                    data: error.wire_data(),
                },
            )?,
        }
        map.end()
    }
}

/// Encodes a request to send to another program.
pub fn encode_request(id: Option<u64>, method: &str, params: Option<&RawValue>) -> String {
    #[derive(Serialize)]
    struct Out<'a> {
        jsonrpc: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        method: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        params: Option<&'a RawValue>,
    }
    raw_text(&Out { jsonrpc: "2.0", id, method, params }).get().to_owned()
}

/// Plain structs with text keys always serialise; `null` is never seen.
fn raw_text<T: Serialize>(value: &T) -> Json {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(text: &str) -> Result<RpcRequest, RpcResponse> {
        match Incoming::parse(text.as_bytes()) {
            Ok(Incoming::Single(entry)) => entry,
            Ok(Incoming::Batch(_)) => panic!("no batch"),
            Err(response) => Err(response),
        }
    }

    fn refused(text: &str) -> (i64, String) {
        let response = single(text).unwrap_err();
        let id = serde_json::to_value(&response).unwrap()["id"].to_string();
        (response.result.unwrap_err().code.number(), id)
    }

    #[test]
    fn requests_and_notifications() {
        let request = single(r#"{"jsonrpc":"2.0","method":"a.b","params":[1],"id":"x"}"#).unwrap();
        assert_eq!(request.method, "a.b");
        assert_eq!(request.id.unwrap().get(), "\"x\"");
        assert_eq!(request.params.unwrap().get(), "[1]");
        assert!(single(r#"{"jsonrpc":"2.0","method":"a"}"#).unwrap().id.is_none());
        let null = single(r#"{"jsonrpc":"2.0","method":"a","id":null}"#).unwrap();
        assert_eq!(null.id.unwrap().get(), "null", "a null id is a request, not a notification");
        assert_eq!(
            single(r#"{"jsonrpc":"2.0","method":"a","id":1.50}"#).unwrap().id.unwrap().get(),
            "1.50"
        );
    }

    #[test]
    fn faults_get_their_number_and_the_id_where_it_could_be_read() {
        for (text, code, id) in [
            ("{", -32700, "null"),
            ("", -32700, "null"),
            ("{} x", -32700, "null"),
            ("[]", -32600, "null"),
            ("3", -32600, "null"),
            ("{}", -32600, "null"),
            (r#"{"jsonrpc":"1.0","method":"a","id":7}"#, -32600, "7"),
            (r#"{"jsonrpc":2.0,"method":"a","id":7}"#, -32600, "7"),
            (r#"{"jsonrpc":"2.0","method":1,"id":7}"#, -32600, "7"),
            (r#"{"jsonrpc":"2.0","id":7}"#, -32600, "7"),
            (r#"{"jsonrpc":"2.0","method":"a","params":"p","id":7}"#, -32600, "7"),
            (r#"{"jsonrpc":"2.0","method":"a","id":{}}"#, -32600, "null"),
            (r#"{"jsonrpc":"2.0","method":"a","id":true}"#, -32600, "null"),
            (r#"{"jsonrpc":"2.0","method":"a","method":"b","id":7}"#, -32600, "null"),
        ] {
            assert_eq!(refused(text), (code, id.to_owned()), "{text}");
        }
    }

    #[test]
    fn each_entry_of_a_batch_stands_alone() {
        let text = br#"[{"jsonrpc":"2.0","method":"a","id":1},3,{"jsonrpc":"2.0","method":"b"}]"#;
        let Ok(Incoming::Batch(entries)) = Incoming::parse(text) else { panic!("a batch") };
        let good: Vec<bool> = entries.iter().map(Result::is_ok).collect();
        assert_eq!(good, [true, false, true]);
        let long = format!("[{}]", vec!["1"; MAX_BATCH + 1].join(","));
        assert!(Incoming::parse(long.as_bytes()).is_err());
    }

    #[test]
    fn responses_stand_on_the_wire_as_specified() {
        let response = RpcResponse {
            id: Some(RpcId::number(1)),
            result: Err(CallError::service_not_found("blog")),
        };
        let text = serde_json::to_string(&response).unwrap();
        assert_eq!(
            text,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"there is no service 'blog'","data":{"code":"not_found"}}}"#
        );
        let back = RpcResponse::parse(text.as_bytes()).unwrap();
        assert_eq!(back.result.unwrap_err(), CallError::service_not_found("blog"));
        let null = RpcResponse::parse(br#"{"jsonrpc":"2.0","id":1,"result":null}"#).unwrap();
        assert_eq!(null.result.unwrap().get(), "null");
        assert!(RpcResponse::parse(b"hello").is_err());
        assert_eq!(encode_request(Some(1), "m", None), r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#);
    }
}
