//! Single requests of the relay, and how its answers are read.

use base64::{Engine, engine::general_purpose::STANDARD};
use relay_client::{Client, Error as RelayError, Request};
use relay_proto::{Code, NodeId, Problem};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    core::{InboxEntry, Refused},
    error::Result,
};

/// One KeyPackage of each device of a user: device, base64.
pub(crate) async fn fetch_packages(
    client: &Client,
    user: &NodeId,
) -> std::result::Result<Vec<(String, String)>, RelayError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        devices: Vec<Device>,
    }
    #[derive(Deserialize)]
    struct Device {
        device_id: String,
        #[serde(default)]
        keypackages: Vec<String>,
    }
    let body = json!({ "user_id": user, "count": 1, "per_device": true });
    let answer: Answer = client.call(Request::post("/v1/keypackages/fetch", &body)).await?;
    let devices = answer.devices.into_iter();
    Ok(devices
        .filter_map(|device| {
            let package = device.keypackages.into_iter().next()?;
            Some((device.device_id, package))
        })
        .collect())
}

/// The caller's devices that have handed in KeyPackages, and how many each has left.
pub(crate) async fn pool(client: &Client) -> std::result::Result<Vec<(String, u64)>, RelayError> {
    #[derive(Deserialize)]
    struct Answer {
        devices: Vec<Device>,
    }
    #[derive(Deserialize)]
    struct Device {
        device_id: String,
        available: u64,
    }
    let answer: Answer = client.call(Request::get("/v1/keypackages/pool")).await?;
    Ok(answer.devices.into_iter().map(|device| (device.device_id, device.available)).collect())
}

/// A page of the device's inbox.
pub(crate) async fn inbox(
    client: &Client,
    from_seq: u64,
) -> std::result::Result<Vec<InboxEntry>, RelayError> {
    #[derive(Deserialize)]
    struct Answer {
        items: Vec<InboxEntry>,
    }
    let request = Request::get("/v1/inbox/events").query("from_seq", Some(from_seq));
    let answer: Answer = client.call(request).await?;
    Ok(answer.items)
}

/// The published GroupInfo: its epoch and the sealed bytes in base64.
pub(crate) async fn group_info(
    client: &Client,
    conv_id: &str,
) -> std::result::Result<(u64, String), RelayError> {
    #[derive(Deserialize)]
    struct Answer {
        epoch: u64,
        group_info: String,
    }
    let request =
        Request::get("/v1/conversations/group_info").query("conv_id", Some(conv_id.to_owned()));
    let answer: Answer = client.call(request).await?;
    Ok((answer.epoch, answer.group_info))
}

/// Has the members asked to let this device in again; gives how many.
pub(crate) async fn ask_rejoin(
    client: &Client,
    conv_id: &str,
) -> std::result::Result<u64, RelayError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        asked: u64,
    }
    let body = json!({ "conv_id": conv_id });
    let request = Request::post("/v1/conversations/rejoin_request", &body);
    client.call::<Answer>(request).await.map(|answer| answer.asked)
}

/// The user's vault: its version and bytes.
pub(crate) async fn vault(client: &Client) -> Result<(u64, Vec<u8>)> {
    #[derive(Deserialize)]
    struct Answer {
        version: u64,
        blob: String,
    }
    let answer: Answer = client.call(Request::get("/v1/vault")).await?;
    Ok((answer.version, relay_proto::mls::decode_base64(&answer.blob)?))
}

/// Replaces the vault, where it still has this version.
pub(crate) async fn set_vault(client: &Client, version: u64, blob: &[u8]) -> Result<()> {
    let body = json!({ "version": version, "blob": STANDARD.encode(blob) });
    let mut request = Request::post("/v1/vault", &body);
    request.method = reqwest_put();
    let _: Value = client.call(request).await?;
    Ok(())
}

fn reqwest_put() -> relay_client::client::Method {
    relay_client::client::Method::PUT
}

/// The relay's refusal, where it was one; any other error means that nobody knows.
pub(crate) fn refused(error: &RelayError) -> Option<Refused> {
    error.problem().map(of_problem)
}

/// A refusal that came as a frame.
pub(crate) fn of_frame(body: &str) -> Refused {
    let mut members: Map<String, Value> = serde_json::from_str(body).unwrap_or_default();
    let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    let code = text(members.remove("code")).and_then(|code| Code::parse(&code));
    let message = text(members.remove("message")).unwrap_or_default();
    let code = code.unwrap_or(Code::InternalError);
    of_problem(&Problem { code, message, extra: members })
}

fn of_problem(problem: &Problem) -> Refused {
    let extra = |name: &str| problem.extra.get(name);
    Refused {
        code: problem.code,
        reason: extra("reason").and_then(Value::as_str).map(str::to_owned),
        message: problem.message.clone(),
        retry_after_ms: extra("retry_after_ms").and_then(Value::as_u64),
    }
}
