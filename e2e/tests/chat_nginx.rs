//! A conversation behind nginx, which ends every connection now and then, as content delivery networks do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking")]

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use relay_client::{Client, Request};
use relay_e2e::{
    Backend, Relay,
    relay::{Setup, reqwest_client},
    until,
};
use relay_proto::SigningKey;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

const MESSAGES: u64 = 1_500;

/// nginx before a relay. Ended when dropped.
struct Proxy {
    process: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Proxy {
    async fn before(relay: &Relay) -> Self {
        let dir = tempfile::Builder::new().prefix("relay-nginx.").tempdir().unwrap();
        let address = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let place = dir.path().display();
        // As docs/chat-relay.md has it, but for the connections' lives: old workers end them after a moment.
        let config = format!(
            "daemon off; worker_processes 1; worker_shutdown_timeout 200ms; pid {place}/pid; error_log {place}/error.log;
             events {{ worker_connections 256; }}
             http {{
               access_log off;
               client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;
               fastcgi_temp_path {place}/fastcgi; uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
               map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
               server {{
                 listen {address};
                 location /v1/ {{
                   proxy_pass {origin};
                   proxy_http_version 1.1;
                   proxy_set_header Upgrade $http_upgrade;
                   proxy_set_header Connection $connection_upgrade;
                   proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                   proxy_buffering off;
                   proxy_request_buffering off;
                   proxy_read_timeout 120s;
                 }}
               }}
             }}",
            origin = relay.url(),
        );
        let file = dir.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        let process = Command::new("nginx")
            .arg("-p")
            .arg(dir.path())
            .arg("-c")
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed by tools/install-deps.sh");
        let info = format!("http://{address}/v1/info");
        let client = reqwest_client();
        until("nginx answers", Duration::from_secs(20), || async {
            client.get(&info).send().await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        Self { process, address: address.to_string(), _dir: dir }
    }

    /// New workers take over, and the old ones end what they have.
    fn cut(&self) {
        kill(Pid::from_raw(self.process.id() as i32), Signal::SIGHUP).unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Asked, it ends its workers, too.
        let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

/// A device that comes back with its resume token whenever it is cut off.
struct Device {
    address: String,
    resume: String,
    comings: u64,
}

impl Device {
    async fn login(proxy: &Proxy, key: &SigningKey) -> Self {
        let url = format!("http://{}", proxy.address);
        let client = Client::builder(&url).unwrap().key(key.clone()).build().unwrap();
        let session = client.login("d", None).await.unwrap();
        let resume = session.resume_token.to_string();
        Self { address: proxy.address.clone(), resume, comings: 0 }
    }

    /// Sends `first` on a new connection, and what `on` says for each frame, until the connection ends or `on` says
    /// so with an empty text.
    async fn until_cut(&mut self, first: String, mut on: impl FnMut(Value) -> Option<String>) {
        let request = format!("ws://{}/v1/ws", self.address).into_client_request().unwrap();
        let Ok((mut socket, _)) = tokio_tungstenite::connect_async(request).await else { return };
        let hello = frame("session.resume", json!({ "resume_token": self.resume }));
        if socket.send(Message::text(hello)).await.is_err() {
            return;
        }
        self.comings += 1;
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else { continue };
            let told: Value = serde_json::from_str(&text).unwrap();
            let answer = match told["t"].as_str() {
                Some("session.ready") => {
                    self.resume = told["body"]["resume_token"].as_str().unwrap().to_owned();
                    Some(first.clone())
                }
                _ => on(told),
            };
            let Some(answer) = answer else { continue };
            if answer.is_empty() || socket.send(Message::text(answer)).await.is_err() {
                return;
            }
        }
    }
}

fn frame(t: &str, body: Value) -> String {
    json!({ "v": 1, "t": t, "id": "x", "body": body }).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nginx_cuts_goes_on_where_it_was() {
    let setup = Setup::new(Backend::Sqlite);
    let relay = Relay::with(setup).await;
    let proxy = Proxy::before(&relay).await;
    let (alice, bob) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32]));
    let client = Client::builder(&relay.url()).unwrap().key(alice.clone()).build().unwrap();
    let session = client.login("setup", None).await.unwrap();
    let client =
        Client::builder(&relay.url()).unwrap().token(session.session_token).build().unwrap();
    let room = json!({ "conv_id": "room", "members": [bob.node_id()] });
    let made: Value = client.call(Request::post("/v1/rooms/create", &room)).await.unwrap();
    assert_eq!(made["status"], "ok");
    let mut writer = Device::login(&proxy, &alice).await;
    let mut reader = Device::login(&proxy, &bob).await;
    let send = |n: u64| {
        frame("conv.send", json!({ "conv_id": "room", "msg_id": format!("m{n}"), "env": "e" }))
    };
    let writing = async {
        let mut acked = 0;
        while acked < MESSAGES {
            writer
                .until_cut(send(acked), |told| {
                    if told["t"] != "conv.acked" {
                        return None;
                    }
                    acked += 1;
                    assert_eq!(told["body"]["seq"], acked);
                    Some(if acked < MESSAGES { send(acked) } else { String::new() })
                })
                .await;
        }
        writer.comings
    };
    let reading = async {
        let mut seen = 0;
        while seen < MESSAGES {
            let follow = json!({ "conv_id": "room", "after_seq": seen });
            reader
                .until_cut(frame("conv.subscribe", follow), |told| {
                    if told["t"] == "conv.event" {
                        seen += 1;
                        assert_eq!(told["body"]["seq"], seen, "nothing is lost or repeated");
                    }
                    (seen == MESSAGES).then(String::new)
                })
                .await;
        }
        reader.comings
    };
    let cutting = async {
        loop {
            tokio::time::sleep(Duration::from_millis(700)).await;
            proxy.cut();
        }
    };
    let comings = tokio::select! {
        comings = async { tokio::join!(writing, reading) } => comings,
        () = cutting => unreachable!("it never ends"),
        () = tokio::time::sleep(Duration::from_secs(120)) => panic!("it does not go on"),
    };
    assert!(comings.0 + comings.1 > 2, "nginx cut nothing: {comings:?}");
}
