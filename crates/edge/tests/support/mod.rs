//! A relay on loopback, and plain ways to talk to it.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

pub mod pair;
pub mod shears;
pub mod sse;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use relay_client::{Client, ClientBuilder};
use relay_edge::Doors;
use relay_node::{Node, config::load_text};
use relay_proto::SigningKey;
use relay_store::SystemClock;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite};

/// No answer takes so long; a test that waits longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A relay with its doors open.
pub struct House {
    pub node: Arc<Node>,
    doors: Doors,
    dir: tempfile::TempDir,
}

impl House {
    /// Opens a relay with `config` (TOML) over what a test needs.
    pub async fn open(config: &str) -> Self {
        Self::open_in(tempfile::tempdir().unwrap(), config).await
    }

    /// A relay of this name.
    pub async fn open_as(id: &str, config: &str) -> Self {
        Self::open_named(tempfile::tempdir().unwrap(), id, config).await
    }

    /// Stops the relay and starts it again on the same data.
    pub async fn reopen(self, config: &str) -> Self {
        self.reopen_as("gw_local", config).await
    }

    /// [`Self::reopen`] for a relay of this name.
    pub async fn reopen_as(self, id: &str, config: &str) -> Self {
        let Self { node, doors, dir } = self;
        stop(node, doors).await;
        Self::open_named(dir, id, config).await
    }

    /// [`Self::reopen_as`], where it listened before.
    pub async fn reopen_at_address(self, id: &str, config: &str) -> Self {
        let Self { node, doors, dir } = self;
        let address = doors.http[0];
        stop(node, doors).await;
        Self::open_at(dir, id, config, address).await
    }

    pub async fn close(self) {
        stop(self.node, self.doors).await;
    }

    async fn open_in(dir: tempfile::TempDir, config: &str) -> Self {
        Self::open_named(dir, "gw_local", config).await
    }

    async fn open_named(dir: tempfile::TempDir, id: &str, config: &str) -> Self {
        Self::open_at(dir, id, config, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    async fn open_at(dir: tempfile::TempDir, id: &str, config: &str, at: SocketAddr) -> Self {
        // The second install of a process says no; the first one holds.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = format!(
            "[node]\nid = \"{id}\"\ndata_dir = {:?}\n[listen]\nhttp = [\"{at}\"]\nsocket = {:?}\n",
            dir.path().display().to_string(),
            dir.path().join("relay.sock").display().to_string(),
        );
        let loaded = load_text("test.toml", &format!("{base}{config}")).unwrap();
        let node = Node::start(loaded.config, Arc::new(SystemClock)).await.unwrap();
        let doors = Doors::open(node.clone()).await.unwrap();
        Self { node, doors, dir }
    }

    /// Waits until something holds.
    pub async fn until(&self, what: &str, holds: impl Fn(&Node) -> bool) {
        let wait = async {
            while !holds(&self.node) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("no {what}"));
    }

    pub fn address(&self) -> SocketAddr {
        self.doors.http[0]
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub fn client(&self) -> ClientBuilder {
        Client::builder(&self.url()).unwrap()
    }

    /// A client on the local socket.
    pub fn operator(&self) -> Client {
        let path = self.dir.path().join("relay.sock");
        Client::builder(&format!("unix:{}", path.display())).unwrap().build().unwrap()
    }

    /// One request on a connection of its own.
    pub async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Raw {
        self.send(method, path, headers, body).await
    }

    /// As [`Self::raw`], borrowing nothing.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> impl Future<Output = Raw> + use<> {
        let (addr, request) = self.request(method, path, headers, body);
        async move {
            let exchange = async {
                let (mut from, mut to) = TcpStream::connect(addr).await.unwrap().into_split();
                // A body that is refused is not read: the answer counts, however the connection ends.
                let asking = to.write_all(request.as_bytes());
                let mut answer = Vec::new();
                let reading = async { while let Ok(1..) = from.read_buf(&mut answer).await {} };
                let _ = tokio::join!(asking, reading);
                Raw::parse(std::str::from_utf8(&answer).unwrap())
            };
            tokio::time::timeout(PATIENCE, exchange).await.unwrap()
        }
    }

    /// As [`Self::send`], to a relay that may stop meanwhile.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> impl Future<Output = Option<Raw>> + Send + use<> {
        let (addr, request) = self.request(method, path, headers, body);
        async move {
            let exchange = async {
                let mut stream = TcpStream::connect(addr).await.ok()?;
                stream.write_all(request.as_bytes()).await.ok()?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.ok()?;
                answer.contains("\r\n\r\n").then(|| Raw::parse(&answer))
            };
            tokio::time::timeout(PATIENCE, exchange).await.unwrap()
        }
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (SocketAddr, String) {
        let addr = self.doors.http[0];
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(body);
        (addr, request)
    }

    pub async fn socket(&self, headers: &[(&'static str, String)]) -> Socket {
        self.try_socket(headers).await.unwrap()
    }

    /// A socket, or the status that it was refused with.
    pub async fn try_socket(&self, headers: &[(&'static str, String)]) -> Result<Socket, u16> {
        use tungstenite::client::IntoClientRequest;
        let url = format!("ws://{}/v1/ws", self.doors.http[0]);
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, _)) => Ok(Socket(socket)),
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Stops a relay; idle connections must not hold it up until the drain's time is over.
async fn stop(node: Arc<Node>, doors: Doors) {
    let all = async {
        doors.close(2 * PATIENCE).await;
        node.close(2 * PATIENCE).await;
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("something holds on"));
}

/// An answer as it came.
#[derive(Debug)]
pub struct Raw {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Raw {
    fn parse(answer: &str) -> Self {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Self { status, headers, body: body.to_owned() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A WebSocket that speaks frames.
pub struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    pub async fn send(&mut self, text: &str) {
        self.0.send(tungstenite::Message::text(text)).await.unwrap();
    }

    /// A frame that may be refused before it is read.
    pub async fn send_in_vain(&mut self, text: &str) {
        let _ = self.0.send(tungstenite::Message::text(text)).await;
    }

    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.0.send(tungstenite::Message::binary(bytes.to_vec())).await.unwrap();
    }

    /// The next frame.
    pub async fn next(&mut self) -> Value {
        loop {
            match self.message().await {
                tungstenite::Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                tungstenite::Message::Ping(_) => {}
                other => panic!("no frame but {other:?}"),
            }
        }
    }

    /// The code that the relay closes with.
    pub async fn close_code(&mut self) -> u16 {
        match self.message().await {
            tungstenite::Message::Close(Some(frame)) => frame.code.into(),
            other => panic!("not closed but {other:?}"),
        }
    }

    /// The next frame, or code and reason of the relay's close.
    pub async fn frame_or_close(&mut self) -> Result<Value, (u16, String)> {
        loop {
            match self.message().await {
                tungstenite::Message::Text(text) => return Ok(serde_json::from_str(&text).unwrap()),
                tungstenite::Message::Close(Some(frame)) => {
                    return Err((frame.code.into(), frame.reason.to_string()));
                }
                tungstenite::Message::Ping(_) => {}
                other => panic!("no frame but {other:?}"),
            }
        }
    }

    async fn message(&mut self) -> tungstenite::Message {
        tokio::time::timeout(PATIENCE, self.0.next()).await.unwrap().unwrap().unwrap()
    }
}

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_seed([n; 32])
}

/// The code that a call was refused with.
pub fn code_of<T: std::fmt::Debug>(outcome: Result<T, relay_client::Error>) -> String {
    let error = outcome.unwrap_err();
    error.problem().map(|problem| problem.code.to_string()).unwrap_or_else(|| error.to_string())
}
