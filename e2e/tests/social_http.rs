//! The social layer as caches and browsers see it: entity tags, lifetimes, origins, and nginx as a proxy before it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking")]

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost::Message;
use relay_e2e::{Backend, Relay, on_both, until};
use relay_proto::{
    SigningKey,
    polycentric::{
        CountLwwElementReferences, CountReferences, Draft, Event, EventWriter, Events, ProcessId,
        QueryIndexResponse, QueryReferencesRequest, QueryReferencesRequestEvents,
        QueryReferencesResponse, Ranges, RangesForProcess, RangesForSystem, Reference,
        RepeatedUInt64, SystemKey, content, encode_param, opinion,
    },
};
use reqwest::{Response, header::HeaderMap};

/// Somebody with one device, who speaks the protocol's HTTP.
struct Author {
    key: SigningKey,
    writer: EventWriter,
    now_ms: u64,
}

impl Author {
    fn new(n: u8) -> Self {
        Self {
            key: SigningKey::from_seed([n; 32]),
            writer: EventWriter::new(ProcessId::from_bytes([n; 16])),
            now_ms: 1_700_000_000_000,
        }
    }

    fn write(&mut self, draft: Draft) -> Event {
        self.now_ms += 1;
        self.writer.write(&self.key, draft, self.now_ms).unwrap()
    }

    fn system(&self) -> String {
        let system = SystemKey::from(self.key.node_id());
        encode_param(&system.to_message().encode_to_vec())
    }

    /// The clocks `low` to `high` of this device, as a parameter.
    fn ranges(&self, low: u64, high: u64) -> String {
        let ranges: Ranges = (low..=high).collect();
        let of = RangesForProcess {
            process: Some(self.writer.process().to_message()),
            ranges: ranges.to_wire(),
        };
        encode_param(&RangesForSystem { ranges_for_processes: vec![of] }.encode_to_vec())
    }
}

async fn post(base: &str, events: &[Event]) -> Response {
    let body = Events { events: events.iter().map(Event::to_signed).collect() }.encode_to_vec();
    let client = relay_e2e::relay::reqwest_client();
    client.post(format!("{base}/events")).body(body).send().await.unwrap()
}

async fn get(url: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = relay_e2e::relay::reqwest_client().get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

fn references(about: &Event) -> String {
    let request = QueryReferencesRequest {
        reference: Some(Reference::Event(about.pointer()).to_message()),
        request_events: Some(QueryReferencesRequestEvents {
            from_type: Some(content::POST),
            ..Default::default()
        }),
        count_lww_element_references: vec![CountLwwElementReferences {
            value: opinion::LIKE.into(),
            from_type: Some(content::OPINION),
        }],
        count_references: vec![CountReferences { from_type: Some(content::POST) }],
        ..Default::default()
    };
    encode_param(&request.encode_to_vec())
}

async fn counts(url: &str) -> Vec<u64> {
    let body = get(url, &[]).await.bytes().await.unwrap();
    QueryReferencesResponse::decode(body).unwrap().counts
}

on_both! {
    async fn a_tag_holds_until_something_changes(relay: Relay) {
        let (mut alice, mut bob) = (Author::new(1), Author::new(2));
        let first = alice.write(Draft::post("first", None));
        assert_eq!(post(&relay.url(), std::slice::from_ref(&first)).await.status(), 200);
        let feed = format!("{}/query_index?system={}&content_type=3", relay.url(), alice.system());
        let about = format!("{}/query_references?query={}", relay.url(), references(&first));
        for url in [&feed, &about] {
            let answer = get(url, &[]).await;
            assert_eq!(answer.status(), 200);
            let tag = text(answer.headers(), "etag").to_owned();
            assert!(tag.starts_with('"'), "a strong tag: {tag}");
            let control = text(answer.headers(), "cache-control");
            assert!(control.contains("s-maxage=10") && control.contains("stale-while-revalidate"), "{control}");
            assert_eq!(text(answer.headers(), "access-control-allow-origin"), "*");
            assert_eq!(text(answer.headers(), "vary"), "", "the answer is the same for everybody");
            let again = get(url, &[("if-none-match", &tag), ("origin", "https://a.example")]).await;
            assert_eq!(again.status(), 304);
            assert_eq!(text(again.headers(), "access-control-allow-origin"), "*");
            // Somebody else's post changes neither.
            post(&relay.url(), &[bob.write(Draft::post("elsewhere", None))]).await;
            assert_eq!(get(url, &[("if-none-match", &tag)]).await.status(), 304);
            let next = if *url == feed {
                alice.write(Draft::post("next", None))
            } else {
                bob.write(Draft::opinion(Reference::Event(first.pointer()), opinion::LIKE, 5))
            };
            post(&relay.url(), &[next]).await;
            let changed = get(url, &[("if-none-match", &tag)]).await;
            assert_eq!(changed.status(), 200, "{url}");
            assert_ne!(text(changed.headers(), "etag"), tag);
        }
        assert_eq!(counts(&about).await, [1, 0]);
        // What changes an item of an answer changes the answer.
        let reply = bob.write(Draft::post("reply", Some(Reference::Event(first.pointer()))));
        post(&relay.url(), std::slice::from_ref(&reply)).await;
        let tag = text(get(&about, &[]).await.headers(), "etag").to_owned();
        let like = alice.write(Draft::opinion(Reference::Event(reply.pointer()), opinion::LIKE, 9));
        post(&relay.url(), &[like]).await;
        assert_eq!(get(&about, &[("if-none-match", &tag)]).await.status(), 200);
    }

    async fn whole_ranges_are_kept_for_ever_and_broken_ones_are_not(relay: Relay) {
        let mut alice = Author::new(1);
        let posts: Vec<Event> =
            (0..5).map(|n| alice.write(Draft::post(&n.to_string(), None))).collect();
        post(&relay.url(), &posts).await;
        let url = |low, high| {
            let ranges = alice.ranges(low, high);
            format!("{}/events?system={}&ranges={ranges}", relay.url(), alice.system())
        };
        let (whole, beyond) = (url(1, 5), url(1, 9));
        let control = |answer: &Response| text(answer.headers(), "cache-control").to_owned();
        assert!(control(&get(&whole, &[]).await).contains("immutable"));
        assert!(!control(&get(&beyond, &[]).await).contains("immutable"));
        let body = get(&beyond, &[]).await.bytes().await.unwrap();
        assert_eq!(Events::decode(body).unwrap().events.len(), 5);
        let delete = Draft::delete(&posts[2]).unwrap();
        post(&relay.url(), &[alice.write(delete)]).await;
        let answer = get(&whole, &[]).await;
        assert!(!control(&answer).contains("immutable"));
        assert_eq!(Events::decode(answer.bytes().await.unwrap()).unwrap().events.len(), 4);
    }

    async fn bad_requests_change_nothing(relay: Relay) {
        let mut alice = Author::new(1);
        let good = alice.write(Draft::post("good", None));
        let mut bad = alice.write(Draft::post("bad", None)).to_signed();
        bad.signature = vec![0; 64].into();
        let body = Events { events: vec![good.to_signed(), bad] }.encode_to_vec();
        let client = relay_e2e::relay::reqwest_client();
        let events = format!("{}/events", relay.url());
        let refused = client.post(&events).body(body).send().await.unwrap();
        assert_eq!(refused.status(), 400);
        assert_eq!(text(refused.headers(), "access-control-allow-origin"), "*");
        assert!(refused.text().await.unwrap().contains("event 1"));
        let ranges = format!("{}/ranges?system={}", relay.url(), alice.system());
        assert!(get(&ranges, &[]).await.bytes().await.unwrap().is_empty());
        let rubbish = client.post(&events).body(vec![0xff; 40]).send().await.unwrap();
        assert_eq!(rubbish.status(), 400);
        for path in [
            "ranges", "ranges?system=*", "ranges?system=CAE", "query_index?system=CAES",
            "search", "search?search=x&search_type=y", "explore?cursor=AAAA", "explore?limit=-1",
            "query_references?query=CgA", "resolve_claim?query=CAc", "head?system=CAISIHm1",
            "top_string_references?time_range=9y", "explore?moderation_filters=%7B",
        ] {
            let answer = get(&format!("{}/{path}", relay.url()), &[]).await;
            assert_eq!(answer.status(), 400, "{path}");
        }
        assert_eq!(get(&format!("{}/resolve_handle?handle=x", relay.url()), &[]).await.status(), 404);
        // Absurd limits and clocks are answered and bounded.
        assert_eq!(post(&relay.url(), &[good]).await.status(), 200);
        let feed = format!(
            "{}/query_index?system={}&content_type=3&limit=99999999999999999999999&after=18446744073709551615",
            relay.url(), alice.system()
        );
        let page = get(&feed, &[]).await.bytes().await.unwrap();
        assert_eq!(QueryIndexResponse::decode(page).unwrap().events.len(), 1);
        let all = RangesForSystem {
            ranges_for_processes: vec![RangesForProcess {
                process: Some(alice.writer.process().to_message()),
                ranges: vec![relay_proto::polycentric::Range { low: 0, high: i64::MAX as u64 }],
            }],
        };
        let all = encode_param(&all.encode_to_vec());
        let url = format!("{}/events?system={}&ranges={all}", relay.url(), alice.system());
        assert_eq!(get(&url, &[]).await.status(), 200);
    }

    async fn pages_of_any_origin_may_ask(relay: Relay) {
        let client = relay_e2e::relay::reqwest_client();
        for path in ["events", "query_index", "version"] {
            let preflight = client
                .request(reqwest::Method::OPTIONS, format!("{}/{path}", relay.url()))
                .header("origin", "https://any.example")
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "content-type,x-polycentric-user-agent")
                .send()
                .await
                .unwrap();
            assert!(preflight.status().is_success(), "{path}: {}", preflight.status());
            let headers = preflight.headers();
            assert_eq!(text(headers, "access-control-allow-origin"), "*");
            assert!(text(headers, "access-control-allow-headers").contains("x-polycentric-user-agent"));
            assert!(text(headers, "access-control-allow-methods").contains("POST"));
            assert_eq!(text(headers, "access-control-max-age"), "300");
        }
        let version: serde_json::Value =
            get(&format!("{}/version", relay.url()), &[]).await.json().await.unwrap();
        assert!(version["sha"].is_string());
        assert_eq!(get(&format!("{}/health", relay.url()), &[]).await.status(), 200);
    }

    async fn what_was_answered_survives_a_kill(relay: Relay) {
        let mut alice = Author::new(1);
        let posts: Vec<Event> =
            (0..40).map(|n| alice.write(Draft::post(&n.to_string(), None))).collect();
        for batch in posts.chunks(20) {
            assert_eq!(post(&relay.url(), batch).await.status(), 200);
        }
        relay.kill_and_restart().await;
        let url = format!("{}/ranges?system={}", relay.url(), alice.system());
        let held = RangesForSystem::decode(get(&url, &[]).await.bytes().await.unwrap()).unwrap();
        assert_eq!(held.ranges_for_processes[0].ranges.len(), 1);
        assert_eq!(held.ranges_for_processes[0].ranges[0].high, 40);
    }
}

/// nginx as a caching proxy before a relay. Ended when dropped.
struct Proxy {
    process: Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Proxy {
    async fn before(relay: &Relay) -> Self {
        let dir = tempfile::Builder::new().prefix("relay-nginx.").tempdir().unwrap();
        let address = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let place = dir.path().display();
        let config = format!(
            "daemon off; worker_processes 1; pid {place}/pid; error_log {place}/error.log;
             events {{ worker_connections 256; }}
             http {{
               access_log off;
               client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;
               fastcgi_temp_path {place}/fastcgi; uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
               proxy_cache_path {place}/cache keys_zone=relay:4m;
               server {{
                 listen {address};
                 client_max_body_size 32m;
                 location / {{
                   proxy_pass {origin};
                   proxy_cache relay;
                   proxy_cache_revalidate on;
                   proxy_cache_use_stale updating;
                   proxy_cache_background_update on;
                   proxy_cache_lock on;
                   add_header x-cache $upstream_cache_status always;
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
        let url = format!("http://{address}");
        let version = format!("{url}/version");
        let client = relay_e2e::relay::reqwest_client();
        until("nginx answers", Duration::from_secs(20), || async {
            client.get(&version).send().await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        Self { process, url, _dir: dir }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Asked, it ends its workers, too.
        let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_caching_proxy_answers_repeated_reads() {
    const ROUNDS: usize = 60;
    let relay = Relay::start(Backend::Sqlite).await;
    let proxy = Proxy::before(&relay).await;
    let mut alice = Author::new(1);
    let mut events = vec![alice.write(Draft::element(content::USERNAME, "alice", 1))];
    events.extend((0..19).map(|n| alice.write(Draft::post(&n.to_string(), None))));
    // Uploads pass through the same proxy.
    assert_eq!(post(&proxy.url, &events).await.status(), 200);
    let system = alice.system();
    let types = RepeatedUInt64 { numbers: vec![content::USERNAME, content::DESCRIPTION] };
    let types = encode_param(&types.encode_to_vec());
    let reads = [
        format!("head?system={system}"),
        format!("query_latest?system={system}&event_types={types}"),
        format!("query_index?system={system}&content_type=3&limit=10"),
        format!("query_index?system={system}&content_type=12&limit=10"),
        format!("events?system={system}&ranges={}", alice.ranges(1, 20)),
        format!("query_references?query={}", references(&events[1])),
        format!("query_references?query={}", references(&events[2])),
    ];
    let (mut all, mut at_origin) = (0, 0);
    for _ in 0..ROUNDS {
        for read in &reads {
            let answer = get(&format!("{}/{read}", proxy.url), &[]).await;
            assert_eq!(answer.status(), 200, "{read}");
            assert_eq!(text(answer.headers(), "access-control-allow-origin"), "*");
            all += 1;
            if !matches!(text(answer.headers(), "x-cache"), "HIT" | "STALE" | "UPDATING") {
                at_origin += 1;
            }
        }
    }
    println!("{at_origin} of {all} reads reached the origin");
    assert!(at_origin * 20 <= all, "{at_origin} of {all} reads reached the origin");
    // What must be fresh always is.
    let ranges = format!("{}/ranges?system={system}", proxy.url);
    get(&ranges, &[]).await;
    post(&proxy.url, &[alice.write(Draft::post("new", None))]).await;
    let held = RangesForSystem::decode(get(&ranges, &[]).await.bytes().await.unwrap()).unwrap();
    assert_eq!(held.ranges_for_processes[0].ranges[0].high, 21);
    // And a feed is, within its short life.
    let feed = format!("{}/{}", proxy.url, reads[2]);
    until("the new post is served", Duration::from_secs(60), || async {
        let page = get(&feed, &[]).await.bytes().await.unwrap();
        let page = QueryIndexResponse::decode(page).unwrap();
        page.events.iter().any(|event| event.event.windows(3).any(|part| part == b"new"))
    })
    .await;
}
