//! Sessions: proving a key once, and a bearer token from then on (`gateway.md`, 3 and 4).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use relay_proto::{
    NodeId, Problem, RelayId,
    auth::{DeviceId, GrantClaims, credential_hash, grant},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    auth::unix_ns,
    client::{Client, Request},
    error::Error,
    signer::Signer,
};

/// A session as the relay gave it. Holds secrets: keep it in a file that only its owner may read.
#[derive(Clone, Serialize, Deserialize)]
pub struct Session {
    /// Whose it is.
    pub user_id: NodeId,
    /// The bearer token of HTTP requests.
    pub session_token: String,
    /// Good once, to get a new session token and a new resume token.
    pub resume_token: String,
    /// Unix milliseconds.
    pub expires_at: u64,
    /// KeyPackages that this device has left in the relay's pool.
    #[serde(default)]
    pub key_packages_left: u64,
    /// What the relay calls itself.
    #[serde(default, rename = "relay", deserialize_with = "relay_name")]
    pub relay_id: Option<String>,
}

/// `{"relay_id":…}`, or a name as it was saved.
fn relay_name<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let value = Option::<Value>::deserialize(deserializer)?.unwrap_or_default();
    let name = value.as_str().or_else(|| value["relay_id"].as_str());
    Ok(name.map(str::to_owned))
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

/// A question that only the holder of the key can answer, once and within a minute.
#[derive(Debug, Deserialize)]
struct Challenge {
    challenge_id: String,
    challenge: String,
    gateway_id: String,
}

impl Client {
    /// Proves this client's key with a challenge and starts a session for `device_id`.
    ///
    /// # Errors
    /// [`Error::NoKey`]; `unauthorized`, `rate_limited`, and any [`Error`] of the transport.
    pub async fn login(&self, device_id: &str, label: Option<&str>) -> Result<Session, Error> {
        let (token, relay) = self.prove(device_id).await?;
        let mut body = json!({ "auth_token": token, "device_id": device_id });
        // So that the relay can ask other homes for us.
        if let Ok(relay) = relay.parse() {
            body["grants"] = json!([make_grant(self.signer()?, relay, device_id)?]);
        }
        if let Some(label) = label {
            body["client_label"] = label.into();
        }
        self.call(unsigned("/v1/session/start", &body)).await
    }

    /// Answers a challenge: gives a short-lived `at_` token for starting sessions of this device, and
    /// the id of the relay.
    ///
    /// # Errors
    /// As [`login`](Self::login).
    async fn prove(&self, device_id: &str) -> Result<(String, String), Error> {
        #[derive(Deserialize)]
        struct Verified {
            auth_token: String,
        }
        let key = self.signer()?;
        let user_id = key.node_id();
        let ask = json!({ "user_id": user_id, "device_id": device_id });
        let challenge: Challenge = self.call(unsigned("/v1/auth/challenge", &ask)).await?;
        let answer = json!({
            "challenge_id": challenge.challenge_id,
            "user_id": user_id,
            "device_id": device_id,
            "sig": URL_SAFE_NO_PAD.encode(answer(key, device_id, &challenge)?),
        });
        let verified: Verified = self.call(unsigned("/v1/auth/verify", &answer)).await?;
        Ok((verified.auth_token, challenge.gateway_id))
    }

    /// Exchanges a resume token for fresh tokens of the same session.
    ///
    /// # Errors
    /// `resume_failed`: prove the key again.
    pub async fn resume(&self, resume_token: &str) -> Result<Session, Error> {
        self.call(unsigned("/v1/session/resume", &json!({ "resume_token": resume_token }))).await
    }

    /// The sessions of the caller.
    ///
    /// # Errors
    /// `unauthorized`, and any [`Error`] of the transport.
    pub async fn sessions(&self) -> Result<Value, Error> {
        self.call(Request::get("/v1/session/list")).await
    }

    /// Ends the session whose token this client shows.
    ///
    /// # Errors
    /// `unauthorized`, and any [`Error`] of the transport.
    pub async fn logout(&self) -> Result<Value, Error> {
        self.call(Request::post("/v1/session/logout", &json!({}))).await
    }

    /// Ends one of the caller's sessions (`by` is `session_id`), or all of a device (`device_id`).
    /// The present one is left alone unless `include_self`.
    ///
    /// # Errors
    /// `unauthorized`, `invalid_request`, and any [`Error`] of the transport.
    pub async fn revoke_session(
        &self,
        by: &str,
        id: &str,
        include_self: bool,
    ) -> Result<Value, Error> {
        let body = json!({ by: id, "include_self": include_self });
        self.call(Request::post("/v1/session/revoke", &body)).await
    }
}

/// A day's leave for the relay `edge` to speak for this device at other homes.
pub(crate) fn make_grant(key: &Signer, edge: RelayId, device_id: &str) -> Result<String, Error> {
    let device = DeviceId::new(device_id)
        .ok_or_else(|| Error::refused(Problem::invalid("a device's name has 1 to 128 bytes")))?;
    let now_ms = unix_ns() / 1_000_000;
    let claims = GrantClaims::new(key.node_id(), device, edge, now_ms, grant::MAX_TTL_MS);
    let payload = claims.payload();
    Ok(grant::join(&payload, &key.sign(&grant::signed_bytes(&payload))?))
}

fn unsigned(path: &str, body: &Value) -> Request {
    Request { signed: false, ..Request::post(path, body) }
}

fn answer(key: &Signer, device_id: &str, challenge: &Challenge) -> Result<[u8; 64], Error> {
    let Challenge { challenge_id, challenge, gateway_id } = challenge;
    let user_id = key.node_id();
    // No device credential goes with a session of the command line or of a tool.
    let credential = hex::encode(credential_hash(None));
    let text = format!(
        "relay-gateway-auth-v1\n{gateway_id}\n{user_id}\n{device_id}\n{challenge_id}\n{challenge}\n{credential}"
    );
    key.sign(text.as_bytes())
}
