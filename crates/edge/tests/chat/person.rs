//! Somebody with a session, and what they do with it.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use relay_proto::NodeId;
use serde_json::{Value, json};

use crate::support::{House, PATIENCE, Raw, Socket, key};

#[derive(Debug, Clone)]
pub struct Person {
    pub n: u8,
    pub token: String,
    pub resume: String,
}

impl Person {
    pub async fn login(house: &House, n: u8, device: &str) -> Self {
        let client = house.client().key(key(n)).build().unwrap();
        let session = client.login(device, None).await.unwrap();
        let reveal = |text: &str| text.to_owned();
        Self { n, token: reveal(&session.session_token), resume: reveal(&session.resume_token) }
    }

    /// A session that no other relay can be asked for.
    pub async fn login_without_grant(house: &House, n: u8, device: &str) -> Self {
        let now = house.node.clock.wall_ns() / 1_000_000;
        let claims = json!({
            "v": 1, "sub": id(n), "aud": house.node.identity.relay_id, "dev": device,
            "iat": now, "exp": now + 60_000, "jti": format!("{:022}", now % 1_000_000),
        });
        let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
        let signed = key(n).sign(format!("relay-gateway-token-v1\n{payload}").as_bytes());
        let token = format!("sat1.{payload}.{}", URL_SAFE_NO_PAD.encode(signed));
        let body = json!({ "auth_token": token, "device_id": device }).to_string();
        let session = house.raw("POST", "/v1/session/start", &[], &body).await;
        assert_eq!(session.status, 200, "{}", session.body);
        let text = |name: &str| session.json()[name].as_str().unwrap().to_owned();
        Self { n, token: text("session_token"), resume: text("resume_token") }
    }

    pub fn id(&self) -> NodeId {
        id(self.n)
    }

    pub async fn post(&self, house: &House, path: &str, body: Value) -> Raw {
        let bearer = format!("Bearer {}", self.token);
        house.raw("POST", path, &[("authorization", &bearer)], &body.to_string()).await
    }

    /// A request that must succeed.
    pub async fn ok(&self, house: &House, path: &str, body: Value) -> Value {
        let answer = self.post(house, path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        answer.json()
    }

    /// A request that must be refused: its status, code and message.
    pub async fn refused(&self, house: &House, path: &str, body: Value) -> (u16, String, String) {
        refusal(&self.post(house, path, body).await)
    }

    /// As [`Self::post`], again and again while the way to another home is broken.
    pub async fn insist(&self, house: &House, path: &str, body: Value) -> Raw {
        let asking = async {
            loop {
                let answer = self.post(house, path, body.clone()).await;
                if !is_unreachable(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let asked = tokio::time::timeout(PATIENCE, asking).await;
        asked.unwrap_or_else(|_| panic!("{path}: its home stays out of reach"))
    }

    pub async fn get(&self, house: &House, path: &str) -> Raw {
        let bearer = format!("Bearer {}", self.token);
        house.raw("GET", path, &[("authorization", &bearer)], "").await
    }

    /// A socket that speaks for this person.
    pub async fn socket(&self, house: &House) -> Socket {
        house.socket(&[("authorization", format!("Bearer {}", self.token))]).await
    }

    pub async fn create(&self, house: &House, conv: &str, members: &[&Person]) {
        let members: Vec<NodeId> = members.iter().map(|person| person.id()).collect();
        self.ok(house, "/v1/rooms/create", json!({ "conv_id": conv, "members": members })).await;
    }

    /// Sends over HTTP; returns the message's `seq`.
    pub async fn send(&self, house: &House, conv: &str, msg: &str) -> u64 {
        let frame = json!({
            "v": 1, "t": "conv.send",
            "body": { "conv_id": conv, "msg_id": msg, "env": format!("env of {msg}") },
        });
        self.ok(house, "/v1/inbox", frame).await["seq"].as_u64().unwrap()
    }
}

/// Whether it is to be asked again with the same id.
pub fn is_unreachable(answer: &Raw) -> bool {
    matches!(answer.status, 503 | 504)
        && matches!(answer.code().as_str(), "home_unreachable" | "timeout")
}

/// Waits for news of a user that say this.
pub async fn hears(socket: &mut Socket, about: &Person, status: &str) {
    loop {
        let update = socket.expect("presence.update").await;
        let said = (&update["body"]["user_id"], &update["body"]["status"]);
        if said == (&json!(about.id()), &json!(status)) {
            return;
        }
    }
}

pub fn id(n: u8) -> NodeId {
    key(n).node_id()
}

pub fn refusal(answer: &Raw) -> (u16, String, String) {
    let body = answer.json();
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    (answer.status, text("code"), text("message"))
}

/// A frame.
pub fn frame(t: &str, id: &str, body: Value) -> String {
    json!({ "v": 1, "t": t, "id": id, "body": body }).to_string()
}

impl Socket {
    pub async fn ask(&mut self, t: &str, id: &str, body: Value) {
        self.send(&frame(t, id, body)).await;
    }

    /// The next frame but for pings, which are answered; it must be of this type.
    pub async fn expect(&mut self, t: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["t"] == "ping" && t != "ping" {
                self.send(r#"{"v":1,"t":"pong"}"#).await;
                continue;
            }
            assert_eq!(frame["t"], t, "{frame}");
            return frame;
        }
    }

    /// The answer to a frame with this id; what nobody asked for is passed over.
    pub async fn answer(&mut self, id: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["id"] == id {
                return frame;
            }
        }
    }

    pub async fn follow(&mut self, conv: &str, from_seq: u64) {
        let body = json!({ "conv_id": conv, "from_seq": from_seq, "notify": true });
        self.ask("conv.subscribe", "follow", body).await;
    }

    /// The `seq` of the next message.
    pub async fn seq(&mut self) -> u64 {
        self.expect("conv.event").await["body"]["seq"].as_u64().unwrap()
    }
}
