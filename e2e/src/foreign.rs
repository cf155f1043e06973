//! A home that is no Relay: a program that speaks `+json` and only the messages that
//! `docs/federation.md` asks of it.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::{SinkExt, StreamExt};
use hmac::{Hmac, Mac};
use relay_proto::SigningKey;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

use crate::federation::PSK;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Why there is no link, or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gone {
    /// No connection, or it broke.
    Broken,
    /// The WebSocket's close code; 1005 for none.
    Closed(u16),
    /// The hub said so: the `code` of its `error`, and the close code behind it.
    Refused(String, u16),
}

impl From<tungstenite::Error> for Gone {
    fn from(_: tungstenite::Error) -> Self {
        Self::Broken
    }
}

/// A connection of such a program to a hub.
#[derive(Debug)]
pub struct Foreign {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    key: SigningKey,
    pub relay: String,
}

impl Foreign {
    /// A connection on which nothing was said.
    ///
    /// # Errors
    /// [`Gone::Broken`].
    pub async fn connect(hub: SocketAddr, relay: &str, seed: [u8; 32]) -> Result<Self, Gone> {
        let mut request = format!("ws://{hub}/federate").into_client_request()?;
        let json = "relay.link.v1+json".parse().map_err(|_| Gone::Broken)?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", json);
        let (socket, _) = connect_async(request).await?;
        Ok(Self { socket, key: SigningKey::from_seed(seed), relay: relay.into() })
    }

    /// A link, by the pre-shared key of the test.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn link(hub: SocketAddr, relay: &str, seed: [u8; 32]) -> Result<Self, Gone> {
        let mut foreign = Self::connect(hub, relay, seed).await?;
        let theirs = foreign.greet().await?;
        let auth = foreign.auth_psk(&theirs, PSK);
        foreign.say(&auth).await?;
        match foreign.hear().await? {
            welcome if welcome["type"] == "welcome" => Ok(foreign),
            _ => Err(Gone::Broken),
        }
    }

    /// Says `hello`; the hub's.
    ///
    /// # Errors
    /// Why there was none.
    pub async fn greet(&mut self) -> Result<Value, Gone> {
        let hello = self.hello();
        self.say(&hello).await?;
        self.hear().await
    }

    /// The first message.
    pub fn hello(&self) -> Value {
        json!({"type": "hello", "data": {
            "v": 1, "relay_id": self.relay, "node_type": "home", "key": self.key.node_id(),
            "nonce": URL_SAFE_NO_PAD.encode([5; 32]), "version": "foreign 1", "features": [],
        }})
    }

    /// The `auth` that answers a hub's `hello`, with a join token.
    pub fn auth_token(&self, theirs: &Value, token: &str) -> Value {
        self.auth(theirs, "token", |_| token.to_owned())
    }

    /// The `auth` with a key that is shared with the hub.
    pub fn auth_psk(&self, theirs: &Value, psk: &str) -> Value {
        self.auth(theirs, "psk", |signed| {
            let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(psk.as_bytes()).unwrap();
            mac.update(signed);
            hex::encode(mac.finalize().into_bytes())
        })
    }

    fn auth(&self, theirs: &Value, method: &str, proof: impl Fn(&[u8]) -> String) -> Value {
        let text = |name: &str| theirs["data"][name].as_str().unwrap_or_default().to_owned();
        let signed = format!(
            "relay-link-v1\ninitiator\n{}\n{}\n{}\n{}\n{}\n{}",
            self.relay,
            self.key.node_id(),
            text("relay_id"),
            text("key"),
            URL_SAFE_NO_PAD.encode([5; 32]),
            text("nonce"),
        );
        json!({"type": "auth", "data": {
            "sig": hex::encode(self.key.sign(signed.as_bytes())),
            "method": method,
            "proof": proof(signed.as_bytes()),
        }})
    }

    /// Registers one service with a method `echo`.
    ///
    /// # Errors
    /// Why it was not.
    pub async fn register(&mut self, service: &str) -> Result<(), Gone> {
        let registration = json!({"type": "registration", "message_id": "r",
            "source_node": {"type": "home", "id": self.relay},
            "data": {"full": true, "services": [{"service_name": service, "version": "1.0.0",
                "methods": ["echo"], "metadata": {}, "visibility": "public", "is_healthy": true}]}});
        self.say(&registration).await?;
        match self.hear().await? {
            answer if answer["type"] == "response" && answer["correlation_id"] == "r" => Ok(()),
            other => Err(Gone::Refused(other["data"]["code"].to_string(), 0)),
        }
    }

    /// Answers calls of `echo`, and shows life, until the link ends.
    pub async fn serve(&mut self, heartbeat: Duration) -> Gone {
        let mut beats = tokio::time::interval(heartbeat);
        loop {
            let heard = tokio::select! {
                heard = self.next() => heard,
                _ = beats.tick() => {
                    let beat = json!({"type": "heartbeat", "data": {"load": {"in_flight": 0}}});
                    match self.say(&beat).await {
                        Ok(()) => continue,
                        Err(gone) => return gone,
                    }
                }
            };
            let said = match heard {
                Ok(request) if request["type"] == "request" => {
                    let rpc = &request["jsonrpc_request"];
                    let answer = json!({"type": "response", "correlation_id": request["message_id"],
                        "data": {"jsonrpc_response":
                            {"jsonrpc": "2.0", "id": rpc["id"], "result": rpc["params"]}}});
                    self.say(&answer).await
                }
                Ok(_) => Ok(()),
                Err(gone) => return gone,
            };
            if let Err(gone) = said {
                return gone;
            }
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// [`Gone::Broken`].
    pub async fn say(&mut self, message: &Value) -> Result<(), Gone> {
        self.say_text(message.to_string()).await
    }

    /// Sends whatever it is.
    ///
    /// # Errors
    /// [`Gone::Broken`].
    pub async fn say_text(&mut self, text: String) -> Result<(), Gone> {
        Ok(self.socket.send(Message::text(text)).await?)
    }

    /// The next message.
    ///
    /// # Errors
    /// How the link ended.
    ///
    /// # Panics
    /// Where there is none in time.
    pub async fn hear(&mut self) -> Result<Value, Gone> {
        tokio::time::timeout(ANSWER, self.next()).await.expect("a message of the hub")
    }

    /// How a link ends that is at its end: what was said before is passed over.
    ///
    /// # Panics
    /// Where it goes on.
    pub async fn ending(&mut self) -> Gone {
        let mut refusal = None;
        loop {
            match self.hear().await {
                Ok(message) if message["type"] == "error" => {
                    refusal = message["data"]["code"].as_str().map(str::to_owned);
                }
                Ok(_) => {}
                Err(Gone::Closed(code)) if refusal.is_some() => {
                    return Gone::Refused(refusal.unwrap_or_default(), code);
                }
                Err(gone) => return gone,
            }
        }
    }

    async fn next(&mut self) -> Result<Value, Gone> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map_err(|_| Gone::Broken);
                }
                Some(Ok(Message::Close(frame))) => {
                    return Err(Gone::Closed(frame.map_or(1005, |frame| frame.code.into())));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Gone::Broken),
            }
        }
    }
}
