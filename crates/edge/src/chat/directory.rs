//! KeyPackages and vaults over HTTP (`gateway.md` 10, 15).

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use relay_core::key_packages::{HandIn, HandedIn, encode_package};
use relay_node::Node;
use relay_proto::{
    Problem,
    auth::DeviceId,
    conv::{Caller, Profile, UserRef},
    mls::decode_base64,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{caller, caller_and_body, parse};
use crate::reply::{Reply, no_store};

#[derive(Deserialize)]
struct PublishBody {
    device_id: DeviceId,
    /// The older name; either may be used.
    #[serde(default)]
    keypackages: Vec<String>,
    #[serde(default)]
    key_packages: Vec<String>,
    last_resort: Option<String>,
    #[serde(default)]
    profile: Profile,
}

#[derive(Deserialize)]
struct RotateBody {
    device_id: DeviceId,
    #[serde(default)]
    revoke: bool,
    #[serde(default)]
    replacement: Option<Vec<String>>,
    last_resort: Option<String>,
    #[serde(default)]
    profile: Profile,
}

#[derive(Deserialize)]
struct FetchBody {
    user_id: UserRef,
    count: u64,
    #[serde(default)]
    per_device: bool,
}

#[derive(Deserialize)]
struct VaultBody {
    version: u64,
    blob: String,
}

pub(super) async fn publish(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, bytes) = caller_and_body(&node, request).await?;
    let asked: PublishBody = parse(&bytes)?;
    own_device(&caller, &asked.device_id)?;
    let given = HandIn {
        packages: [asked.keypackages, asked.key_packages].concat(),
        last_resort: asked.last_resort,
        profile: asked.profile,
        revoke: false,
    };
    let handed = node.key_packages.publish(&caller, given).await?;
    Ok(no_store(StatusCode::OK, &handed_in(&node, &handed)))
}

pub(super) async fn rotate(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, bytes) = caller_and_body(&node, request).await?;
    let asked: RotateBody = parse(&bytes)?;
    own_device(&caller, &asked.device_id)?;
    let given = HandIn {
        packages: asked.replacement.unwrap_or_default(),
        last_resort: asked.last_resort,
        profile: asked.profile,
        revoke: asked.revoke,
    };
    let handed = node.key_packages.publish(&caller, given).await?;
    Ok(no_store(StatusCode::OK, &handed_in(&node, &handed)))
}

pub(super) async fn fetch(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (caller, bytes) = caller_and_body(&node, request).await?;
    let asked: FetchBody = parse(&bytes)?;
    let UserRef(user) = asked.user_id;
    let fetched = node.key_packages.fetch(&caller, user, asked.count, asked.per_device).await?;
    let encode = |packages: &[Vec<u8>]| -> Vec<String> {
        packages.iter().map(|bytes| encode_package(bytes)).collect()
    };
    let mut answer = json!({
        "keypackages": encode(&fetched.packages),
        "served_by": node.identity.relay_id,
        "user_home_gateway": node.identity.relay_id,
        "last_resort_used": fetched.last_resort_used,
    });
    if asked.per_device {
        let devices = fetched.devices.iter().map(
            |device| json!({ "device_id": device.device, "keypackages": encode(&device.packages) }),
        );
        answer["devices"] = devices.collect();
    }
    Ok(no_store(StatusCode::OK, &answer))
}

pub(super) async fn pool(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = caller(&node, &parts).await?;
    let pool = node.key_packages.pool(caller.user).await?;
    let devices: Vec<Value> = pool
        .into_iter()
        .map(|row| {
            json!({ "device_id": row.device, "available": row.available, "last_resort": row.last_resort })
        })
        .collect();
    Ok(no_store(StatusCode::OK, &json!({ "devices": devices })))
}

pub(super) async fn vault(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, _) = request.into_parts();
    let caller = caller(&node, &parts).await?;
    let (version, blob) = node.attachments.vault(caller.user).await?;
    let answer = json!({ "version": version, "blob": STANDARD.encode(blob) });
    Ok(no_store(StatusCode::OK, &answer))
}

pub(super) async fn set_vault(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, body) = request.into_parts();
    let caller = caller(&node, &parts).await?;
    // A full vault in base64, and its version.
    let bytes = crate::body::read(&parts.headers, body, (3 << 20) / 2).await?;
    let asked: VaultBody = parse(&bytes)?;
    let blob =
        decode_base64(&asked.blob).map_err(|error| Problem::invalid(format!("blob: {error}")))?;
    let version = node.attachments.set_vault(caller.user, asked.version, blob).await?;
    Ok(no_store(StatusCode::OK, &json!({ "status": "ok", "version": version })))
}

/// Devices speak for themselves alone.
pub(super) fn own_device(caller: &Caller, named: &DeviceId) -> Result<(), Problem> {
    if caller.device == *named {
        return Ok(());
    }
    Err(Problem::unauthorized("device_id is not that of the session"))
}

fn handed_in(node: &Node, handed: &HandedIn) -> Value {
    let mut answer = json!({
        "status": "ok",
        "served_by": node.identity.relay_id,
        "user_home_gateway": node.identity.relay_id,
        "available": handed.available,
    });
    if !handed.refused.is_empty() {
        let refused = handed
            .refused
            .iter()
            .map(|(index, why)| json!({ "index": index, "reason": why.to_string() }));
        answer["refused"] = refused.collect();
    }
    if let Some(why) = handed.last_resort_refused {
        answer["last_resort_refused"] = why.to_string().into();
    }
    answer
}
