//! Calls as messages and messages as calls.

use std::{sync::Arc, time::Duration};

use relay_proto::{
    Call, CallError, Caller, NodeAddress, NodeId, Problem, RelayId, ServiceName,
    address::Address,
    call::{DEFAULT_TIMEOUT, Json, MAX_TIMEOUT, RpcCode, RpcRequest, RpcResponse, rpc},
    error::Code,
    link::{Message, MessageType, NodeRef, NodeType},
    route::{DEFAULT_TTL, Header},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    link::Answered,
    local::{Answer, Hop},
};

/// What a request says beside the JSON-RPC request: its `data`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct RequestData {
    /// The key the caller proved to the node it came in at, on that node's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<NodeId>,
    /// The service that calls, on its node's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// Semver range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub streaming: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub timing: bool,
    /// Finds the way without calling.
    #[serde(default, skip_serializing_if = "is_false")]
    pub explain: bool,
    /// No answer is wanted beyond that it was taken.
    #[serde(default, skip_serializing_if = "is_false")]
    pub notify: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// A request on its way through this relay.
#[derive(Debug, Clone)]
pub(super) struct Routed {
    pub kind: Kind,
    /// The node it is for; `None` while no instance is chosen.
    pub to: Option<NodeAddress>,
    pub header: Header,
    /// What is left of the caller's patience when it came in.
    pub patience: Duration,
    pub idempotency_key: Option<String>,
    pub trace: Option<String>,
    pub priority: Option<u8>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Call {
        service: ServiceName,
        method: String,
        /// The JSON-RPC request, passed on as it is.
        request: Json,
        /// As [`RequestData`] reads it; kept as text for the next hop.
        data: Arc<RequestData>,
    },
    /// A [`crate::local::Forward`], passed on as it is.
    Forward { data: Json },
}

impl Routed {
    /// A call made on this node.
    pub fn call(call: &Call, caller: &Caller) -> Self {
        let data = RequestData {
            key: caller.key,
            service: caller.service.clone(),
            version: call.version.clone(),
            streaming: call.streaming,
            timing: call.timing,
            explain: false,
            notify: false,
        };
        let request = rpc::encode_request(Some(1), call.method.as_str(), call.args.as_deref());
        Self {
            kind: Kind::Call {
                service: call.to.service.clone(),
                method: call.method.as_str().to_owned(),
                request: RawValue::from_string(request)
                    .unwrap_or_else(|_| RawValue::NULL.to_owned()),
                data: Arc::new(data),
            },
            to: call.to.node.clone(),
            header: Header { source: None, path: Vec::new(), ttl: DEFAULT_TTL },
            patience: call.timeout.min(MAX_TIMEOUT),
            idempotency_key: call.idempotency_key.clone(),
            trace: call.trace.clone(),
            priority: None,
        }
    }

    /// The same, with nothing to be answered.
    pub fn without_answer(self) -> Self {
        self.with_data(|data| data.notify = true)
    }

    /// The same, to find the way only.
    pub fn explaining(self) -> Self {
        self.with_data(|data| data.explain = true)
    }

    fn with_data(mut self, change: impl FnOnce(&mut RequestData)) -> Self {
        if let Kind::Call { data, .. } = &mut self.kind {
            change(Arc::make_mut(data));
        }
        self
    }

    /// A request for the home `home`.
    pub fn forward(home: RelayId, data: Json, patience: Duration) -> Self {
        Self {
            kind: Kind::Forward { data },
            to: Some(NodeAddress { relay: home, hub: None }),
            header: Header { source: None, path: Vec::new(), ttl: DEFAULT_TTL },
            patience,
            idempotency_key: None,
            trace: None,
            priority: None,
        }
    }

    /// Reads a request or forward as it came over a link.
    ///
    /// # Errors
    /// Invalid request or params, naming the member that is wrong.
    pub fn read(message: Message) -> Result<Self, CallError> {
        let patience = patience(&message);
        let to = message.destination_node.map(|node| NodeAddress {
            hub: node.main_relay.filter(|hub| *hub != node.id),
            relay: node.id,
        });
        let header = Header {
            source: message.source_node,
            path: message.routing_path,
            ttl: message.ttl.unwrap_or(DEFAULT_TTL),
        };
        let kind = if message.message_type == MessageType::Forward {
            let data = message.data.ok_or_else(|| missing("data"))?;
            Kind::Forward { data }
        } else {
            let request = message.jsonrpc_request.ok_or_else(|| missing("jsonrpc_request"))?;
            let service = message.server_name.ok_or_else(|| missing("server_name"))?;
            let service = service.parse().map_err(|error| invalid("server_name", error))?;
            let data = match &message.data {
                Some(data) => read(data).map_err(|error| invalid("data", error))?,
                None => RequestData::default(),
            };
            let method = message.method.unwrap_or_default();
            Kind::Call { service, method, request, data: Arc::new(data) }
        };
        if let Some(key) = &message.idempotency_key {
            relay_proto::call::check_idempotency_key(key)?;
        }
        Ok(Self {
            kind,
            to,
            header,
            patience,
            idempotency_key: message.idempotency_key,
            trace: message.trace,
            priority: message.priority,
        })
    }

    /// The message for the next hop on the way to `to`, which has `left` of the caller's patience.
    pub fn message(&self, to: Option<&NodeAddress>, left: Duration) -> Message {
        let mut message = Message::new(MessageType::Request);
        match &self.kind {
            Kind::Call { service, method, request, data } => {
                message.server_name = Some(service.as_str().to_owned());
                message.method = Some(method.clone());
                message.jsonrpc_request = Some(request.clone());
                message.data = to_json(&**data);
            }
            Kind::Forward { data } => {
                message.message_type = MessageType::Forward;
                message.data = Some(data.clone());
            }
        }
        message.source_node = self.header.source.clone();
        message.destination_node = to.map(|to| NodeRef {
            // The hub knows which it is; who reads this wants the id.
            node_type: if to.hub.is_some() { NodeType::Home } else { NodeType::Main },
            id: to.relay.clone(),
            main_relay: to.hub.clone(),
        });
        message.routing_path = self.header.path.clone();
        message.ttl = Some(self.header.ttl.saturating_sub(1));
        message.timeout_seconds = u32::try_from(left.as_secs().max(1)).ok();
        message.deadline_ms = u64::try_from(left.as_millis().max(1)).ok();
        message.idempotency_key = self.idempotency_key.clone();
        message.trace = self.trace.clone();
        message.priority = self.priority;
        message
    }

    /// Who calls, by the identity its links proved; `None` for this node.
    pub fn caller(&self, takes_keys_of: impl Fn(&NodeRef) -> bool) -> Caller {
        let Some(source) = &self.header.source else { return Caller::local() };
        let hub = source.main_relay.clone().filter(|hub| *hub != source.id);
        let mut caller = Caller::remote(NodeAddress { relay: source.id.clone(), hub });
        if let Kind::Call { data, .. } = &self.kind {
            caller.service = data.service.clone();
            caller.key = data.key.filter(|_| takes_keys_of(source));
        }
        caller
    }

    /// The call for the service here.
    ///
    /// # Errors
    /// As for a call that comes in by any other door.
    pub fn local_call(&self, left: Duration) -> Result<Call, CallError> {
        let Kind::Call { service, request, data, .. } = &self.kind else {
            return Err(CallError::internal("a forward is no call"));
        };
        let request = read_rpc(request)?;
        let method = request.method.parse().map_err(|error| {
            CallError::new(RpcCode::MethodNotFound, format!("{error}")).not_started()
        })?;
        let to = Address { service: service.clone(), node: None };
        let mut call = Call::new(to, method, request.params);
        call.version = data.version.clone();
        call.timeout = left;
        call.idempotency_key = self.idempotency_key.clone();
        call.streaming = data.streaming;
        call.trace = self.trace.clone();
        call.timing = data.timing;
        Ok(call)
    }

    pub fn data(&self) -> Option<&RequestData> {
        match &self.kind {
            Kind::Call { data, .. } => Some(data),
            Kind::Forward { .. } => None,
        }
    }

    /// The name the caller used, for error texts.
    pub fn target(&self) -> String {
        let node = self.to.as_ref().map(ToString::to_string);
        match (&self.kind, node) {
            (Kind::Call { service, .. }, Some(node)) => format!("{service}@{node}"),
            (Kind::Call { service, .. }, None) => service.to_string(),
            (Kind::Forward { .. }, node) => node.unwrap_or_default(),
        }
    }
}

fn patience(message: &Message) -> Duration {
    let ms = message.deadline_ms.map(Duration::from_millis);
    let seconds = message.timeout_seconds.map(|seconds| Duration::from_secs(seconds.into()));
    // Both may be there; the finer one was shrunk on the way.
    ms.or(seconds).unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT)
}

fn read_rpc(request: &Json) -> Result<RpcRequest, CallError> {
    match rpc::Incoming::parse(request.get().as_bytes()) {
        Ok(rpc::Incoming::Single(Ok(request))) => Ok(request),
        Ok(rpc::Incoming::Single(Err(refusal))) | Err(refusal) => Err(refusal
            .result
            .err()
            .unwrap_or_else(|| CallError::internal("an unreadable request"))
            .not_started()),
        Ok(rpc::Incoming::Batch(_)) => {
            let message =
                "a message carries one request; batches are taken apart where they come in";
            Err(CallError::new(RpcCode::InvalidRequest, message).not_started())
        }
    }
}

fn missing(member: &str) -> CallError {
    let message = format!("the message has no {member}");
    CallError::new(RpcCode::InvalidRequest, message).not_started()
}

fn invalid(member: &str, error: impl std::fmt::Display) -> CallError {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text).to_owned();
    CallError::new(RpcCode::InvalidRequest, format!("{member}: {text}")).not_started()
}

/// The `data` of the response to a call.
#[derive(Serialize, Deserialize)]
struct ResponseData {
    jsonrpc_response: Json,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hops: Vec<Hop>,
}

/// The response to a call answered here.
pub(super) fn answered(answer: Answer) -> Answered {
    let response = RpcResponse { id: Some(rpc::RpcId::number(1)), result: Ok(answer.value) };
    let data = to_json(&response).and_then(|jsonrpc_response| {
        to_json(&ResponseData { jsonrpc_response, hops: answer.hops })
    });
    let mut message = Message::new(MessageType::Response);
    message.data = data;
    Answered { message, stream: answer.stream }
}

/// The response to a forward answered here.
pub(super) fn forwarded(result: Json, stream: Option<crate::link::ByteStream>) -> Answered {
    #[derive(Serialize)]
    struct Data {
        result: Json,
    }
    let mut message = Message::new(MessageType::Response);
    message.data = to_json(&Data { result });
    Answered { message, stream }
}

/// The `error` message for a refusal or failure.
pub(super) fn refused(error: &CallError) -> Answered {
    let mut members = error.data.clone();
    if let Some(code) = error.code.stable() {
        members.insert("code".into(), code.as_str().into());
    }
    members.insert("message".into(), error.message.as_str().into());
    members.insert("rpc_code".into(), error.code.number().into());
    error_message(members)
}

/// The `error` message for a problem of a home.
pub(super) fn refused_forward(problem: &Problem) -> Answered {
    error_message(problem.members())
}

fn error_message(members: Map<String, Value>) -> Answered {
    let mut message = Message::new(MessageType::Error);
    message.data = to_json(&members);
    Answered { message, stream: None }
}

/// Reads the answer to a call.
///
/// # Errors
/// What the service or a relay on the way answered.
pub(super) fn read_answer(answered: Answered) -> Result<Answer, CallError> {
    let Answered { message, stream } = answered;
    if message.message_type == MessageType::Error {
        return Err(read_error(&message));
    }
    let data: ResponseData = message
        .data
        .as_ref()
        .and_then(|data| read(data).ok())
        .ok_or_else(|| CallError::internal("the node answered without a jsonrpc_response"))?;
    let response = RpcResponse::parse(data.jsonrpc_response.get().as_bytes())?;
    Ok(Answer { value: response.result?, stream, hops: data.hops })
}

/// Reads the answer to a forward.
///
/// # Errors
/// What the home or a relay on the way answered.
pub(super) fn read_forwarded(
    answered: Answered,
) -> Result<(Json, Option<crate::link::ByteStream>), Problem> {
    #[derive(Deserialize)]
    struct Data {
        result: Json,
    }
    let Answered { message, stream } = answered;
    if message.message_type == MessageType::Error {
        return Err(read_problem(&message));
    }
    let data: Option<Data> = message.data.as_ref().and_then(|data| read(data).ok());
    let data = data
        .ok_or_else(|| Problem::new(Code::InternalError, "the home answered without a result"))?;
    Ok((data.result, stream))
}

/// The error that an `error` message names.
pub(super) fn read_error(message: &Message) -> CallError {
    let mut members = members(message);
    let text = take_text(&mut members, "message").unwrap_or_else(|| "failed".to_owned());
    let code = take_text(&mut members, "code");
    let number = members.remove("rpc_code").and_then(|number| number.as_i64());
    match (number, code.and_then(|code| Code::parse(&code))) {
        (Some(number), _) => {
            CallError { code: RpcCode::from_number(number), message: text, data: members }
        }
        (None, Some(code)) => Problem { code, message: text, extra: members }.into(),
        (None, None) => CallError { code: RpcCode::Internal, message: text, data: members },
    }
}

fn read_problem(message: &Message) -> Problem {
    let mut members = members(message);
    let message = take_text(&mut members, "message").unwrap_or_else(|| "failed".to_owned());
    let code = take_text(&mut members, "code").and_then(|code| Code::parse(&code));
    members.remove("rpc_code");
    Problem { code: code.unwrap_or(Code::InternalError), message, extra: members }
}

fn members(message: &Message) -> Map<String, Value> {
    message.data.as_ref().and_then(|data| read(data).ok()).unwrap_or_default()
}

fn take_text(members: &mut Map<String, Value>, name: &str) -> Option<String> {
    match members.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// Adds what this relay spent to an answer that passes.
pub(super) fn add_hop(answered: &mut Answered, hop: Hop) {
    let data = answered.message.data.take();
    let mut parsed: Option<ResponseData> = data.as_ref().and_then(|data| read(data).ok());
    if let Some(parsed) = &mut parsed {
        parsed.hops.insert(0, hop);
    }
    answered.message.data = parsed.as_ref().and_then(to_json).or(data);
}

/// Plain structs with text keys always serialise.
pub(super) fn to_json<T: Serialize>(value: &T) -> Option<Json> {
    serde_json::value::to_raw_value(value).ok()
}

pub(super) fn read<T: DeserializeOwned>(json: &RawValue) -> Result<T, serde_json::Error> {
    serde_json::from_str(json.get())
}
