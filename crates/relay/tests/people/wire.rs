//! A line to a relay that is watched and cut: what is asked about attachments is noted, and a transfer is stopped where a test
//! wants it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

/// Where the next transfer of an attachment stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// When so many bytes of it have gone to the relay.
    Sent(usize),
    /// When so many bytes of it have come from the relay.
    Received(usize),
    /// When the relay has all of it and answers.
    Answer,
}

#[derive(Debug, Default)]
struct State {
    cut: Option<Cut>,
    /// Bytes of attachments that have passed since [`Wire::cut`].
    sent: usize,
    received: usize,
    /// Method and range of each request about an attachment.
    asked: Vec<String>,
}

/// The line; it lasts as long as the runtime of the test.
#[derive(Debug, Clone)]
pub struct Wire {
    pub url: String,
    state: Arc<Mutex<State>>,
    stopped: Arc<Notify>,
}

impl Wire {
    /// To a relay at `url`, also after it was started again there.
    pub async fn to(url: &str) -> Self {
        let relay: SocketAddr = url.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            state: Arc::default(),
            stopped: Arc::default(),
        };
        let taking = wire.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(taking.clone().pass(client, relay));
            }
        });
        wire
    }

    /// Stops the next transfer there. One transfer is stopped once.
    pub fn cut(&self, cut: Cut) {
        let mut state = self.state.lock().unwrap();
        (state.cut, state.sent, state.received) = (Some(cut), 0, 0);
    }

    /// Waits until a transfer was stopped.
    pub async fn stopped(&self) {
        super::person::within("a transfer that stops", self.stopped.notified()).await;
    }

    /// What was asked about attachments so far, and forgets it.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    async fn pass(self, client: TcpStream, relay: SocketAddr) {
        // A relay that is away is away for the client too.
        let Ok(relay) = TcpStream::connect(relay).await else { return };
        let (from_client, to_client) = client.into_split();
        let (from_relay, to_relay) = relay.into_split();
        let about = Arc::new(Mutex::new(None));
        // Either end, or a cut, ends both.
        tokio::select! {
            () = self.clone().there(from_client, to_relay, about.clone()) => {}
            () = self.clone().back(from_relay, to_client, about) => {}
        }
    }

    async fn there(
        self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        about: Arc<Mutex<Option<&'static str>>>,
    ) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut bytes).await {
            if let Some(method) = self.note(&bytes[..n]) {
                *about.lock().unwrap() = Some(method);
            }
            if to.write_all(&bytes[..n]).await.is_err() {
                return;
            }
            let method = *about.lock().unwrap();
            if self.is_over(method, n, 0) {
                // The line hangs until the relay is gone.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn back(
        self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        about: Arc<Mutex<Option<&'static str>>>,
    ) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut bytes).await {
            let method = *about.lock().unwrap();
            if self.is_over(method, 0, n) {
                // Nothing more comes through; the line ends with the relay.
                while let Ok(1..) = from.read(&mut bytes).await {}
                return;
            }
            if to.write_all(&bytes[..n]).await.is_err() {
                return;
            }
        }
    }

    /// Notes a request about an attachment; gives its method.
    fn note(&self, bytes: &[u8]) -> Option<&'static str> {
        let methods = ["PUT", "GET"];
        let method = methods
            .into_iter()
            .find(|method| bytes.starts_with(format!("{method} /v1/blobs/").as_bytes()))?;
        let head = String::from_utf8_lossy(bytes);
        let head = head.split("\r\n\r\n").next().unwrap_or_default();
        let range = head.lines().find_map(|line| line.strip_prefix("range: "));
        let asked = [method].into_iter().chain(range).collect::<Vec<_>>().join(" ");
        self.state.lock().unwrap().asked.push(asked);
        Some(method)
    }

    /// Counts what passes of a transfer, and tells whether this is where it stops.
    fn is_over(&self, method: Option<&str>, sent: usize, received: usize) -> bool {
        let mut state = self.state.lock().unwrap();
        match method {
            Some("PUT") => state.sent += sent,
            Some("GET") => state.received += received,
            _ => return false,
        }
        let over = match state.cut {
            Some(Cut::Sent(most)) => state.sent >= most,
            Some(Cut::Received(most)) => state.received >= most,
            Some(Cut::Answer) => method == Some("PUT") && received > 0,
            None => false,
        };
        if over {
            state.cut = None;
            self.stopped.notify_one();
        }
        over
    }
}
