//! The social layer through the doors of a whole relay: watching, operators, moderation, quotas, mirroring.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod support;

use relay_client::{
    Client, Request,
    social::{Author, AuthorError, Social, now_ms},
};
use relay_proto::{
    SigningKey,
    polycentric::{Draft, Event, Reference, SystemKey, content},
};
use serde_json::{Value, json};
use support::{House, key};

/// Somebody who writes from a directory of their own.
struct Person {
    client: Client,
    key: SigningKey,
    dir: tempfile::TempDir,
}

impl Person {
    fn new(house: &House, n: u8) -> Self {
        let client = house.client().build().unwrap();
        Self { client, key: key(n), dir: tempfile::tempdir().unwrap() }
    }

    fn system(&self) -> SystemKey {
        SystemKey::from(self.key.node_id())
    }

    async fn try_write(&self, draft: Draft) -> Result<Event, AuthorError> {
        let file = self.dir.path().join("device");
        Author::open(&self.client, self.key.clone().into(), file).await?.publish(draft).await
    }

    async fn write(&self, draft: Draft) -> Event {
        self.try_write(draft).await.unwrap()
    }

    async fn post(&self, text: &str) -> Event {
        self.write(Draft::post(text, None)).await
    }

    async fn found(&self, words: &str) -> usize {
        Social(&self.client).search(words, false, 10).await.unwrap().len()
    }
}

async fn admin(house: &House, path: &str, body: Value) -> Value {
    house.operator().call(Request::post(path, &body)).await.unwrap()
}

fn code(error: AuthorError) -> String {
    let AuthorError::Client(error) = error else { panic!("{error}") };
    error.problem().map(|problem| problem.code.to_string()).unwrap_or_else(|| error.to_string())
}

#[tokio::test]
async fn a_socket_is_told_of_what_it_watches() {
    let house = House::open("").await;
    let (alice, bob) = (Person::new(&house, 1), Person::new(&house, 2));
    let mut socket = house.socket(&[]).await;
    let watch = json!({"v": 1, "t": "social.watch", "id": "w", "body":
        {"systems": [alice.key.node_id()], "topics": ["/birds"]}});
    socket.send(&watch.to_string()).await;
    assert_eq!(socket.next().await["t"], "social.watching");
    bob.post("nobody waits for this").await;
    let post = alice.post("news").await;
    let told = socket.next().await;
    assert_eq!(told["t"], "social.changed");
    assert_eq!(told["body"]["system"], alice.key.node_id().to_string());
    assert_eq!(told["body"]["clock"], post.clock());
    let topic = Reference::Bytes("/birds".into());
    bob.write(Draft::post("a swift", Some(topic))).await;
    let told = socket.next().await;
    assert_eq!(told["body"]["system"], bob.key.node_id().to_string());
    // An empty watch ends it.
    socket.send(r#"{"v":1,"t":"social.watch","body":{}}"#).await;
    assert_eq!(socket.next().await["t"], "social.watching");
    alice.post("unheard").await;
    socket.send(r#"{"v":1,"t":"ping","body":{}}"#).await;
    assert_eq!(socket.next().await["t"], "pong");
    house.close().await;
}

#[tokio::test]
async fn operators_hide_refuse_and_purge() {
    let house = House::open("").await;
    let (alice, bob) = (Person::new(&house, 1), Person::new(&house, 2));
    alice.post("a heron").await;
    let second = bob.post("another heron").await;
    assert_eq!(bob.found("heron").await, 2);
    let system = json!({"system": alice.key.node_id()});
    admin(&house, "/v1/social/censor", system.clone()).await;
    assert_eq!(bob.found("heron").await, 1);
    assert_eq!(Social(&bob.client).explore(10).await.unwrap().len(), 1);
    // Who asks for her is answered, and she can still write.
    alice.post("a third heron").await;
    let feed = Social(&bob.client).feed(alice.system(), content::POST, None, 10).await.unwrap();
    assert_eq!(feed.len(), 2);
    let refuse = json!({"system": alice.key.node_id(), "refuse": true});
    admin(&house, "/v1/social/censor", refuse).await;
    alice.post("refused").await;
    let feed = Social(&bob.client).feed(alice.system(), content::POST, None, 10).await.unwrap();
    assert_eq!(feed.len(), 2);
    let ranges = Social(&bob.client).ranges(alice.system()).await.unwrap();
    assert_eq!(ranges[0].1.count(), 3, "held in name, so that nobody sends it again");
    let listed: Value = house.operator().call(Request::get("/v1/social/censored")).await.unwrap();
    assert_eq!(listed["items"][0]["refused"], true);
    admin(&house, "/v1/social/uncensor", system.clone()).await;
    assert_eq!(bob.found("heron").await, 3);

    let event = json!({
        "system": bob.key.node_id(),
        "process": hex::encode(second.process().as_bytes()),
        "clock": second.clock(),
    });
    admin(&house, "/v1/social/censor", event).await;
    assert_eq!(bob.found("heron").await, 2);
    admin(&house, "/v1/social/purge", system).await;
    assert_eq!(bob.found("heron").await, 0);
    assert!(Social(&bob.client).ranges(alice.system()).await.unwrap().is_empty());

    let stranger = house.raw("POST", "/v1/social/purge", &[], "{}").await;
    assert_eq!((stranger.status, stranger.code()), (401, "unauthorized".into()));
    let stranger = house.raw("POST", "/censor?censorship_type=refuse_storage", &[], "x").await;
    assert_eq!(stranger.status, 401);
    house.close().await;
}

#[tokio::test]
async fn the_protocols_own_censor_takes_an_admin_token() {
    use prost::Message;
    use relay_proto::polycentric::{UrlInfo, UrlInfoSystemLink, encode_param};
    let house = House::open("").await;
    let alice = Person::new(&house, 1);
    alice.post("a heron").await;
    let token = admin(&house, "/v1/tokens", json!({"for": "admin"})).await;
    let token = token["token"].as_str().unwrap_or_else(|| panic!("{token}")).to_owned();
    let link = UrlInfoSystemLink { system: Some(alice.system().to_message()), servers: vec![] };
    let link = UrlInfo { url_type: UrlInfo::SYSTEM, body: link.encode_to_vec().into() };
    let url = format!("https://app.example/{}", encode_param(&link.encode_to_vec()));
    let path = "/censor?censorship_type=do_not_recommend";
    let done = house.raw("POST", path, &[("authorization", &token)], &url).await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!(alice.found("heron").await, 0);
    let bad = house.raw("POST", path, &[("authorization", &token)], "https://app.example/x").await;
    assert_eq!(bad.status, 400);
    house.close().await;
}

#[tokio::test]
async fn strong_moderation_shows_what_was_approved() {
    let config = "[social]\nmoderation = \"strong\"\n\
                  [[social.rule]]\nword = \"Grr\"\ntag = \"hate\"\nlevel = 3\n\
                  [[social.rule]]\nword = \"ouch\"\ntag = \"violence\"\nlevel = 0\n\
                  [[social.rule]]\nword = \"x-rated\"\ntag = \"sexual\"\nlevel = 3\n";
    let house = House::open(config).await;
    let alice = Person::new(&house, 1);
    alice.post("a mild heron").await;
    alice.post("grr, a heron").await;
    let avatar = Draft::element(content::AVATAR, vec![1, 2, 3], now_ms());
    alice.write(avatar).await;
    let feed = Social(&alice.client).feed(alice.system(), content::POST, None, 10).await.unwrap();
    assert_eq!(feed.len(), 1, "the usual filters hide the other");
    let queue: Value = house.operator().call(Request::get("/v1/social/waiting")).await.unwrap();
    let items = queue["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "rules do not judge pictures: {queue}");
    let tags = json!([["hate", 0], ["violence", 0], ["sexual", 0]]);
    let body = json!({"seq": items[0]["seq"], "approve": true, "tags": tags});
    admin(&house, "/v1/social/moderate", body).await;
    let queue: Value = house.operator().call(Request::get("/v1/social/waiting")).await.unwrap();
    assert!(queue["items"].as_array().unwrap().is_empty());
    let shown =
        Social(&alice.client).feed(alice.system(), content::AVATAR, None, 10).await.unwrap();
    assert_eq!(shown.len(), 1);
    house.close().await;
}

#[tokio::test]
async fn quotas_refuse_whole_uploads_and_change_nothing() {
    let house = House::open("[social]\nidentity_bytes = \"700B\"\n").await;
    let alice = Person::new(&house, 1);
    alice.post("fits").await;
    let refused = alice.try_write(Draft::post(&"long ".repeat(200), None)).await.unwrap_err();
    assert_eq!(code(refused), "quota_exceeded");
    assert_eq!(Social(&alice.client).ranges(alice.system()).await.unwrap()[0].1.count(), 1);
    house.close().await;

    let config =
        "[social]\naddress_events_per_sec = 1\nidentity_events_per_sec = 1000\nburst = 20\n";
    let house = House::open(config).await;
    let bob = Person::new(&house, 2);
    let mut refused = None;
    for n in 0..30 {
        if let Err(error) = bob.try_write(Draft::post(&n.to_string(), None)).await {
            refused = Some(code(error));
            break;
        }
    }
    assert_eq!(refused.as_deref(), Some("rate_limited"));
    house.close().await;
}

#[tokio::test]
async fn one_identity_may_have_a_quota_of_its_own() {
    let config =
        "[social]\nidentity_bytes = \"700B\"\nidentity_events_per_sec = 1000\nburst = 20\n";
    let house = House::open(config).await;
    let (alice, bob) = (Person::new(&house, 1), Person::new(&house, 2));
    let long = || Draft::post(&"long ".repeat(200), None);
    let operator = house.operator();
    let ask =
        async |path: &str, body: Value| operator.call::<Value>(Request::post(path, &body)).await;
    let set = async |limits: Value| {
        let mut body = limits;
        body["system"] = alice.key.node_id().to_string().into();
        ask("/v1/social/quotas/set", body).await
    };
    let limit = async || {
        let usage = operator.call::<Value>(Request::get("/v1/social/usage")).await.unwrap();
        let of_alice = usage["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["system"] == alice.key.node_id().to_string());
        of_alice.unwrap()["bytes_limit"].clone()
    };
    assert_eq!(code(alice.try_write(long()).await.unwrap_err()), "quota_exceeded");
    set(json!({ "bytes": 5_000 })).await.unwrap();
    alice.write(long()).await;
    assert_eq!(limit().await, 5_000);
    assert_eq!(
        code(bob.try_write(long()).await.unwrap_err()),
        "quota_exceeded",
        "others as before"
    );
    assert_eq!(
        code(alice.try_write(Draft::post(&"long ".repeat(2_000), None)).await.unwrap_err()),
        "quota_exceeded"
    );
    // Without a limit of bytes, but slow.
    set(json!({ "bytes": 0, "events_per_sec": 1 })).await.unwrap();
    assert_eq!(limit().await, Value::Null);
    let mut refused = None;
    for n in 0..2_000 {
        if let Err(error) = alice.try_write(Draft::post(&n.to_string(), None)).await {
            refused = Some(code(error));
            break;
        }
    }
    assert_eq!(refused.as_deref(), Some("rate_limited"));
    let quotas: Value = operator.call(Request::get("/v1/social/quotas")).await.unwrap();
    assert_eq!(
        (&quotas["items"][0]["bytes"], &quotas["items"][0]["events_per_sec"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(quotas["items"].as_array().unwrap().len(), 1);

    let house = house.reopen(config).await;
    let operator = house.operator();
    let quotas: Value = operator.call(Request::get("/v1/social/quotas")).await.unwrap();
    assert_eq!(quotas["items"][0]["system"], alice.key.node_id().to_string());
    let body = json!({ "system": alice.key.node_id() });
    let remove = || Request::post("/v1/social/quotas/remove", &body);
    operator.call::<Value>(remove()).await.unwrap();
    assert!(operator.call::<Value>(remove()).await.is_err(), "there is none");
    let nothing = Request::post("/v1/social/quotas/set", &json!({ "system": alice.key.node_id() }));
    assert!(operator.call::<Value>(nothing).await.is_err(), "a quota limits something");
    let stranger = house.client().key(key(1)).build().unwrap();
    for request in [Request::get("/v1/social/quotas"), remove()] {
        assert!(stranger.call::<Value>(request).await.is_err(), "for operators only");
    }
    let again = Person { client: house.client().build().unwrap(), ..alice };
    assert_eq!(code(again.try_write(long()).await.unwrap_err()), "quota_exceeded");
    house.close().await;
}

#[tokio::test]
async fn a_relay_fills_itself_from_another() {
    let source = House::open("").await;
    let alice = Person::new(&source, 1);
    for n in 0..45 {
        alice.post(&format!("heron {n}")).await;
    }
    let config = format!(
        "[social]\nfollow = [\"{} {}/\"]\nfollow_every = \"1s\"\n",
        alice.key.node_id(),
        source.url()
    );
    let copy = House::open(&config).await;
    let there = copy.client().build().unwrap();
    let system = alice.system();
    let held = async |count: u64| {
        let wait = async {
            loop {
                let ranges = Social(&there).ranges(system).await.unwrap();
                if ranges.iter().map(|(_, ranges)| ranges.count()).sum::<u64>() == count {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), wait).await.unwrap();
    };
    held(45).await;
    let post = alice.post("to be deleted").await;
    alice.write(Draft::delete(&post).unwrap()).await;
    held(47).await;
    let found = Social(&there).event(&post.key()).await.unwrap();
    assert!(found.is_none());
    copy.until("a look at what is followed", |node| {
        node.mirrors.state().iter().all(|mirror| mirror.missing == 0 && mirror.held == 47)
    })
    .await;
    let servers = copy.raw("GET", "/v1/social/servers", &[], "").await.json();
    assert_eq!(servers["items"][0]["error"], Value::Null, "{servers}");
    source.close().await;
    copy.close().await;
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let house = House::open("[social]\nenabled = false\n").await;
    assert_eq!(house.raw("GET", "/version", &[], "").await.status, 404);
    let mut socket = house.socket(&[]).await;
    let watch = json!({"v": 1, "t": "social.watch", "body": {"systems": [key(1).node_id()]}});
    socket.send(&watch.to_string()).await;
    assert_eq!(socket.next().await["body"]["code"], "not_found");
    house.close().await;
}
