//! A moderation service behind a webhook: asked, believed within bounds, never a way into private networks.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod support;

use std::{
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use relay_client::{Request, social::Social};
use relay_node::config::load_text;
use relay_proto::polycentric::{Draft, Event, EventWriter, ProcessId, SystemKey, content};
use serde_json::{Value, json};
use sha2::Sha256;
use support::{House, key};

const SECRET: [u8; 32] = [7; 32];

/// What the service was sent.
type Asked = Arc<Mutex<Vec<(HeaderMap, String)>>>;

/// A service that fails once, then approves what is fine and hides what is foul.
async fn judge(
    State(asked): State<Asked>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, String) {
    let first = {
        let mut asked = asked.lock().unwrap();
        asked.push((headers, body.clone()));
        asked.len() == 1
    };
    if first {
        return (StatusCode::SERVICE_UNAVAILABLE, String::new());
    }
    let body: Value = serde_json::from_str(&body).unwrap();
    let mut verdicts = vec![json!({"seq": 999_999, "approve": true})];
    for item in body["data"]["items"].as_array().unwrap() {
        let Some(text) = item["text"].as_str() else { continue };
        let tags = json!([["hate", 0], ["sexual", 0], ["violence", 0]]);
        verdicts.push(json!({"seq": item["seq"], "approve": text == "fine", "tags": tags}));
    }
    (StatusCode::OK, json!({ "items": verdicts }).to_string())
}

fn secret_file(dir: &std::path::Path) -> String {
    let file = dir.join("secret");
    std::fs::write(&file, format!("whsec_{}\n", STANDARD.encode(SECRET))).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file.display().to_string()
}

fn config(url: &str, secret_file: &str, more: &str) -> String {
    format!(
        "[social]\nmoderation = \"strong\"\nmoderation_url = \"{url}\"\n\
         moderation_secret_file = \"{secret_file}\"\n{more}"
    )
}

/// Three events of one device: a fine post, a foul one, and a picture.
fn written(n: u8) -> Vec<Event> {
    let mut writer = EventWriter::new(ProcessId::from_bytes([n; 16]));
    let mut write = |draft| writer.write(&key(n), draft, 1_700_000_000_000).unwrap();
    vec![
        write(Draft::post("fine", None)),
        write(Draft::post("foul", None)),
        write(Draft::element(content::AVATAR, vec![1], 5)),
    ]
}

#[tokio::test]
async fn what_waits_is_shown_to_the_service_and_its_verdicts_hold() {
    let asked = Asked::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/judge", listener.local_addr().unwrap());
    let app = Router::new().route("/judge", post(judge)).with_state(asked.clone());
    let service = tokio::spawn(async move { axum::serve(listener, app).await });
    let dir = tempfile::tempdir().unwrap();
    let config = config(&url, &secret_file(dir.path()), "moderation_private = true\n");
    let house = House::open(&config).await;
    let client = house.client().build().unwrap();
    Social(&client).upload(&written(1)).await.unwrap();
    house.until("verdicts", |node| node.social.stats().judged.load(Relaxed) == 2).await;

    let system = SystemKey::from(key(1).node_id());
    let feed = Social(&client).feed(system, content::POST, None, 10).await.unwrap();
    let clocks: Vec<u64> = feed.iter().map(Event::clock).collect();
    assert_eq!(clocks, [1], "only what was approved is shown");
    // What the service says nothing about waits for a person.
    let queue: Value = house.operator().call(Request::get("/v1/social/waiting")).await.unwrap();
    assert_eq!(queue["items"][0]["clock"], 3, "{queue}");
    assert_eq!(queue["items"].as_array().unwrap().len(), 1);
    assert_eq!(house.node.social.stats().judge_failed.load(Relaxed), 1);

    let asked = asked.lock().unwrap().clone();
    let header = |n: usize, name: &str| asked[n].0[name].to_str().unwrap().to_owned();
    assert_eq!(header(0, "webhook-id"), header(1, "webhook-id"), "a repetition is known as one");
    for (n, (_, body)) in asked.iter().enumerate() {
        let mut mac = Hmac::<Sha256>::new_from_slice(&SECRET).unwrap();
        let signed =
            format!("{}.{}.{body}", header(n, "webhook-id"), header(n, "webhook-timestamp"));
        mac.update(signed.as_bytes());
        let wanted = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        assert_eq!(header(n, "webhook-signature"), wanted);
    }
    house.close().await;
    service.abort();
}

#[tokio::test]
async fn a_name_of_a_private_address_is_never_called() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(&config(&url, &secret_file(dir.path()), "")).await;
    let client = house.client().build().unwrap();
    Social(&client).upload(&written(1)).await.unwrap();
    house.until("a refusal", |node| node.social.stats().judge_failed.load(Relaxed) >= 1).await;
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    let queue: Value = house.operator().call(Request::get("/v1/social/waiting")).await.unwrap();
    assert_eq!(queue["items"].as_array().unwrap().len(), 3, "nothing is lost");
    house.close().await;
}

#[test]
fn settings_that_cannot_work_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let secret = secret_file(dir.path());
    let problems = |text: &str| load_text("test.toml", text).err().map(|error| error.to_string());
    for (url, more, told) in [
        ("https://127.0.0.1/", "", "not a public address"),
        ("http://judge.example.com/", "", "https://"),
        ("https://a:b@judge.example.com/", "", "logs"),
    ] {
        let found = problems(&config(url, &secret, more)).unwrap_or_default();
        assert!(found.contains(told), "{url}: {found}");
    }
    let off = config("https://judge.example.com/", &secret, "").replace("strong", "off");
    assert!(problems(&off).unwrap_or_default().contains("nothing waits"));
    let unsigned =
        "[social]\nmoderation = \"lazy\"\nmoderation_url = \"https://judge.example.com/\"\n";
    assert!(problems(unsigned).unwrap_or_default().contains("moderation_secret_file"));
    assert_eq!(problems(&config("https://judge.example.com/", &secret, "")), None);
}
