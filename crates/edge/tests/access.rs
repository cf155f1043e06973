//! Who gets in, through the public doors: proofs, sessions, signed requests, operators' tokens,
//! rules, audit.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod support;

use std::sync::atomic::Ordering;

use relay_client::Request;
use relay_proto::{
    auth::{credential_hash, request::sign_request, signed_token::Claims},
    event::Draft,
};
use serde_json::{Value, json};
use support::{House, Raw, code_of, key};

fn base64url(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A `cr1.` proof for `device`.
async fn proof(house: &House, user: u8, device: &str) -> String {
    let key = key(user);
    let ask = json!({ "user_id": key.node_id(), "device_id": device });
    let asked = house.raw("POST", "/v1/auth/challenge", &[], &ask.to_string()).await;
    assert_eq!(asked.status, 200, "{}", asked.body);
    let asked = asked.json();
    let text = [
        "relay-gateway-auth-v1",
        asked["gateway_id"].as_str().unwrap(),
        &key.node_id().to_string(),
        device,
        asked["challenge_id"].as_str().unwrap(),
        asked["challenge"].as_str().unwrap(),
        &hex::encode(credential_hash(None)),
    ]
    .join("\n");
    let id = asked["challenge_id"].as_str().unwrap();
    format!("cr1.{id}.{}", base64url(&key.sign(text.as_bytes())))
}

async fn start(house: &House, user: u8, device: &str) -> Value {
    let body = json!({ "auth_token": proof(house, user, device).await, "device_id": device });
    let started = house.raw("POST", "/v1/session/start", &[], &body.to_string()).await;
    assert_eq!(started.status, 200, "{}", started.body);
    assert_eq!(started.header("cache-control"), Some("no-store"));
    started.json()
}

fn bearer(session: &Value) -> (&'static str, String) {
    ("authorization", format!("Bearer {}", session["session_token"].as_str().unwrap()))
}

async fn get_as(house: &House, session: &Value, path: &str) -> Raw {
    let (name, value) = bearer(session);
    house.raw("GET", path, &[(name, &value)], "").await
}

async fn post_as(house: &House, session: &Value, path: &str, body: Value) -> Raw {
    let (name, value) = bearer(session);
    house.raw("POST", path, &[(name, &value)], &body.to_string()).await
}

#[tokio::test]
async fn the_sdk_logs_in_lists_and_logs_out() {
    let house = House::open("").await;
    let keyed = house.client().key(key(1)).build().unwrap();
    let session = keyed.login("d_laptop1", Some("cli")).await.unwrap();
    let client = house.client().token(session.session_token.clone()).build().unwrap();
    let list = client.sessions().await.unwrap();
    assert_eq!(list["sessions"][0]["client_label"], "cli");
    assert!(!list.to_string().contains("\"st_") && !list.to_string().contains("\"rt_"));
    let who: Value = client.call(Request::get("/v1/whoami")).await.unwrap();
    assert_eq!((&who["via"], &who["device_id"]), (&json!("session"), &json!("d_laptop1")));
    assert_eq!(who["key"], key(1).node_id().to_string());
    client.logout().await.unwrap();
    assert_eq!(code_of(client.sessions().await), "unauthorized");
    assert_eq!(code_of(client.resume(&session.resume_token).await), "resume_failed");
    house.close().await;
}

#[tokio::test]
async fn a_key_signs_each_request_and_each_is_good_once() {
    let house = House::open("").await;
    let client = house.client().key(key(1)).build().unwrap();
    for _ in 0..2 {
        let who: Value =
            client.call(Request::get("/v1/whoami").query("ns", Some("default"))).await.unwrap();
        assert_eq!(who["via"], "signed_request");
    }
    let test = json!({ "op": "write" });
    let why: Value = client.call(Request::post("/v1/acl/test", &test)).await.unwrap();
    assert_eq!(why["allowed"], true);

    let (now, path) = (relay_client::unix_ns(), "/v1/acl/test");
    let url = format!("{}{path}", house.url());
    let body = test.to_string();
    let sign = |method, url: &str, body: &str, at| {
        sign_request(&key(1), method, url, body.as_bytes(), at, "n").unwrap()
    };
    let send = |header: String, body: String| {
        let house = &house;
        async move { house.raw("POST", path, &[("authorization", &header)], &body).await.status }
    };
    let good = sign("POST", &url, &body, now);
    assert_eq!(send(good.clone(), body.clone()).await, 200);
    assert_eq!(send(good, body.clone()).await, 401, "used before");
    for wrong in [
        sign("GET", &url, &body, now),
        sign("POST", "http://relay.example/v1/acl/test", &body, now),
        sign("POST", &format!("{url}?x=1"), &body, now),
        sign("POST", &url, "{}", now),
        sign("POST", &url, &body, now - 61_000_000_000),
        "Relay AAAA".into(),
        "Basic AAAA".into(),
        "Bearer".into(),
    ] {
        assert_eq!(send(wrong, body.clone()).await, 401);
    }
    house.close().await;
}

#[tokio::test]
async fn every_wrong_proof_gets_the_same_answer() {
    let house = House::open("").await;
    let right = proof(&house, 1, "d").await;
    let claims = Claims {
        v: 1,
        sub: key(1).node_id(),
        aud: "gw_other".into(),
        dev: relay_proto::auth::DeviceId::new("d").unwrap(),
        iat: 1,
        exp: 2,
        jti: "j".into(),
        crd: None,
    };
    let wrong = [
        key(1).node_id().to_string(),
        "alice".into(),
        format!("at_{}", "A".repeat(43)),
        format!("cr1.ch_{}.{}", "A".repeat(22), "A".repeat(86)),
        claims.sign(&key(1)),
    ];
    let mut answers = Vec::new();
    for auth_token in wrong {
        let body = json!({ "auth_token": auth_token, "device_id": "d" }).to_string();
        let refused = house.raw("POST", "/v1/session/start", &[], &body).await;
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        assert_eq!(refused.header("cache-control"), Some("no-store"));
        // All but the id of the request, which tells nothing.
        let mut said: Value = serde_json::from_str(&refused.body).unwrap();
        said.as_object_mut().unwrap().remove("request_id");
        answers.push((refused.status, said));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.0 == 401), "{answers:?}");

    let body = json!({ "auth_token": format!("Bearer {right}"), "device_id": "d" }).to_string();
    let started = house.raw("POST", "/v1/session/start", &[], &body).await;
    assert_eq!(started.status, 200, "the right one is none the worse");
    house.close().await;
}

#[tokio::test]
async fn a_session_starts_and_goes_on_by_a_bare_body_and_by_a_whole_frame() {
    let house = House::open("").await;
    let bare = start(&house, 1, "d").await;
    let body = json!({ "auth_token": proof(&house, 1, "d").await, "device_id": "d" });
    let frame = json!({ "v": 1, "t": "session.start", "id": "q", "body": body }).to_string();
    let framed = house.raw("POST", "/v1/session/start", &[], &frame).await;
    assert_eq!(framed.status, 200, "{}", framed.body);
    for started in [bare, framed.json()] {
        let resume = json!({ "resume_token": started["resume_token"] });
        let resume = json!({ "v": 1, "t": "session.resume", "body": resume }).to_string();
        let resumed = house.raw("POST", "/v1/session/resume", &[], &resume).await;
        assert_eq!(resumed.status, 200, "{}", resumed.body);
    }
    let other = json!({ "v": 2, "t": "session.start", "body": body }).to_string();
    let refused = house.raw("POST", "/v1/session/start", &[], &other).await;
    assert_eq!((refused.status, refused.code().as_str()), (400, "unsupported_version"));
    house.close().await;
}

#[tokio::test]
async fn malformed_bodies_are_told_apart_from_wrong_proofs() {
    let house = House::open("").await;
    for (path, body) in [
        ("/v1/session/start", "{"),
        ("/v1/session/start", "[]"),
        ("/v1/session/start", r#"{"auth_token":1,"device_id":"d"}"#),
        ("/v1/session/start", r#"{"auth_token":"","device_id":"d"}"#),
        ("/v1/session/start", r#"{"auth_token":"x","device_id":""}"#),
        ("/v1/session/start", r#"{"auth_token":"x","device_id":"d","client_label":"X"}"#),
        ("/v1/session/start", r#"{"auth_token":"x","device_id":"d","client_label":"st_a"}"#),
        ("/v1/session/resume", "{}"),
        ("/v1/session/resume", r#"{"resume_token":7}"#),
        ("/v1/auth/challenge", r#"{"user_id":"alice","device_id":"d"}"#),
    ] {
        let refused = house.raw("POST", path, &[], body).await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "invalid_request"), "{body}");
    }
    house.close().await;
}

#[tokio::test]
async fn the_older_form_of_a_user_is_folded() {
    let house = House::open("").await;
    let user = key(1).node_id();
    let body = json!({ "user_id": base64url(user.as_bytes()), "device_id": "d" }).to_string();
    let asked = house.raw("POST", "/v1/auth/challenge", &[], &body).await.json();
    assert_eq!(
        (asked["alg"].as_str(), asked["gateway_id"].as_str()),
        (Some("ed25519"), Some("gw_local"))
    );
    house.close().await;
}

#[tokio::test]
async fn sessions_are_ended_by_their_user_alone() {
    let house = House::open("").await;
    let (a, b, other) =
        (start(&house, 1, "a").await, start(&house, 1, "b").await, start(&house, 2, "c").await);
    let both = json!({ "session_id": "x", "device_id": "y" });
    for malformed in [json!({}), both, json!({ "device_id": "b", "include_self": 1 })] {
        assert_eq!(post_as(&house, &a, "/v1/session/revoke", malformed).await.status, 400);
    }
    for id in [&other["session_id"], &json!("sid_nonsense")] {
        let done = post_as(&house, &a, "/v1/session/revoke", json!({ "session_id": id })).await;
        assert_eq!(done.json(), json!({ "status": "ok", "revoked": 0, "revoked_session_ids": [] }));
    }
    let me = json!({ "session_id": a["session_id"] });
    let refused = post_as(&house, &a, "/v1/session/revoke", me).await;
    assert!(refused.body.contains("refusing to revoke current session without include_self"));
    let done = post_as(&house, &a, "/v1/session/revoke", json!({ "device_id": "b" })).await.json();
    assert_eq!(done["revoked_session_ids"], json!([b["session_id"]]));
    assert_eq!(get_as(&house, &b, "/v1/session/list").await.status, 401);
    let all = post_as(&house, &a, "/v1/session/logout_all", json!({ "include_self": true })).await;
    assert_eq!(all.json(), json!({ "status": "ok", "invalidated": 1, "kept_current": false }));
    assert_eq!(get_as(&house, &a, "/v1/session/list").await.status, 401);
    assert_eq!(get_as(&house, &other, "/v1/session/list").await.status, 200);
    house.close().await;
}

#[tokio::test]
async fn a_socket_starts_a_session_and_is_closed_when_it_ends() {
    let house = House::open("").await;
    let mut socket = house.socket(&[]).await;
    socket.send(r#"{"v":1,"t":"conv.subscribe","id":"0","body":{}}"#).await;
    assert_eq!(socket.next().await["body"]["code"], "unauthorized");
    let auth_token = proof(&house, 1, "d").await;
    let body = json!({ "auth_token": auth_token, "device_id": "d" });
    let frame = json!({ "v": 1, "t": "session.start", "id": "1", "body": body }).to_string();
    socket.send(&frame).await;
    let ready = socket.next().await;
    assert_eq!((&ready["t"], &ready["id"]), (&json!("session.ready"), &json!("1")));
    assert_eq!(ready["body"]["user_id"], key(1).node_id().to_string());
    socket.send(&frame.replace("\"1\"", "\"2\"")).await;
    assert_eq!(socket.next().await["body"]["code"], "invalid_request", "a second start");

    let resource = json!({ "resource": "r", "lease_ms": 5000 });
    let lock = json!({ "v": 1, "t": "lock.acquire", "id": "3", "body": resource }).to_string();
    socket.send(&lock).await;
    assert_eq!(socket.next().await["body"]["owner"], key(1).node_id().to_string());

    let over_http = start(&house, 1, "e").await;
    let mut bearer_socket = house.socket(&[bearer(&over_http)]).await;
    let which = json!({ "session_id": ready["body"]["session_id"] });
    assert_eq!(post_as(&house, &over_http, "/v1/session/revoke", which).await.json()["revoked"], 1);
    let last = socket.next().await;
    assert_eq!(last["body"]["message"], "session revoked");
    assert_eq!(socket.close_code().await, 1008);

    bearer_socket.send(r#"{"v":1,"t":"ping","id":"p"}"#).await;
    assert_eq!(bearer_socket.next().await["t"], "pong", "the other one goes on");
    post_as(&house, &over_http, "/v1/session/logout", json!({})).await;
    assert_eq!(bearer_socket.next().await["body"]["code"], "unauthorized");
    assert_eq!(bearer_socket.close_code().await, 1008);
    house.close().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_session() {
    let house = House::open("").await;
    let session = start(&house, 1, "d").await;
    let (name, value) = bearer(&session);
    let stream = tokio::spawn(house.send("GET", "/v1/events/stream", &[(name, &value)], ""));
    house.until("a stream", |node| node.metrics.sse_streams.load(Ordering::Relaxed) == 1).await;
    post_as(&house, &session, "/v1/session/logout", json!({})).await;
    let whole = stream.await.unwrap();
    assert_eq!(whole.status, 200);
    assert!(whole.body.contains("session revoked"), "{}", whole.body);
    house.close().await;
}

#[tokio::test]
async fn a_socket_resumes_once_and_a_wrong_proof_closes_it() {
    let house = House::open("").await;
    let session = start(&house, 1, "d").await;
    let body = json!({ "resume_token": session["resume_token"] });
    let resume = json!({ "v": 1, "t": "session.resume", "id": "1", "body": body }).to_string();
    let mut socket = house.socket(&[]).await;
    socket.send(&resume).await;
    let ready = socket.next().await;
    assert_eq!(ready["body"]["session_id"], session["session_id"], "no session is added");
    assert_ne!(ready["body"]["resume_token"], session["resume_token"]);
    assert_eq!(get_as(&house, &session, "/v1/session/list").await.status, 200, "grace");

    let mut again = house.socket(&[]).await;
    again.send(&resume).await;
    assert_eq!(again.next().await["body"]["code"], "resume_failed");
    assert_eq!(again.close_code().await, 1008);

    let mut wrong = house.socket(&[]).await;
    let body = json!({ "auth_token": "alice", "device_id": "d" });
    wrong.send(&json!({ "v": 1, "t": "session.start", "body": body }).to_string()).await;
    assert_eq!(wrong.next().await["body"]["code"], "unauthorized");
    assert_eq!(wrong.close_code().await, 1008);
    house.close().await;
}

#[tokio::test]
async fn doors_without_a_proof_are_limited() {
    let house = House::open("[chat]\nauth_per_ip_per_min = 5\n").await;
    let resume = json!({ "resume_token": "rt_x" }).to_string();
    for _ in 0..5 {
        assert_eq!(house.raw("POST", "/v1/session/resume", &[], &resume).await.status, 401);
    }
    let refused = house.raw("POST", "/v1/session/resume", &[], &resume).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() <= 60);
    assert!(refused.json()["retry_after_s"].is_u64());
    let guess = [("authorization", "Bearer st_guess")];
    assert_eq!(house.raw("GET", "/v1/whoami", &guess, "").await.status, 429, "guessing counts");
    assert_eq!(house.raw("GET", "/v1/whoami", &[], "").await.status, 200);
    house.close().await;
}

#[tokio::test]
async fn connections_of_a_device_are_limited_and_their_places_come_back() {
    let house = House::open("[chat]\nconns_per_device = 1\n").await;
    let session = start(&house, 1, "d").await;
    let (name, value) = bearer(&session);
    let first = house.socket(&[(name, value.clone())]).await;
    assert!(house.try_socket(&[(name, value.clone())]).await.is_err());
    let stream = house.raw("GET", "/v1/events/stream", &[(name, &value)], "").await;
    assert_eq!(stream.code(), "limit_exceeded", "streams count as well");

    let mut second = house.socket(&[]).await;
    let body = json!({ "auth_token": proof(&house, 1, "d").await, "device_id": "d" });
    second.send(&json!({ "v": 1, "t": "session.start", "body": body }).to_string()).await;
    assert_eq!(second.next().await["body"]["code"], "limit_exceeded");
    assert_eq!(second.close_code().await, 1008);
    let list = get_as(&house, &session, "/v1/session/list").await.json();
    assert_eq!(list["sessions"].as_array().unwrap().len(), 1, "no session is left behind");

    let other = start(&house, 1, "e").await;
    house.socket(&[bearer(&other)]).await;
    drop(first);
    let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while house.try_socket(&[(name, value.clone())]).await.is_err() {
        assert!(tokio::time::Instant::now() < patience, "the place never comes back");
    }
    house.close().await;
}

#[tokio::test]
async fn above_a_rate_a_socket_is_slowed_and_http_refused() {
    let house = House::open("[quota]\nkey_events_per_sec = 20\nkey_burst = 1\n").await;
    let event = |nonce: u64| {
        let draft = Draft { kind: 1, created_at_ns: nonce, ..Draft::default() };
        String::from_utf8(draft.sign(&key(1)).unwrap().json().to_vec()).unwrap()
    };
    let mut socket = house.socket(&[]).await;
    for nonce in 1..=4 {
        let event = event(nonce);
        let frame =
            format!(r#"{{"v":1,"t":"event.publish","id":"{nonce}","body":{{"event":{event}}}}}"#);
        socket.send(&frame).await;
    }
    for _ in 1..=4 {
        let answer = socket.next().await;
        assert_eq!(answer["t"], "event.ok", "{answer}");
    }
    let batch = format!("[{},{}]", event(5), event(6));
    let answer = house.raw("POST", "/v1/events", &[], &batch).await.json();
    assert_eq!(answer["results"][1]["code"], "rate_limited", "{answer}");
    house.close().await;
}

#[tokio::test]
async fn pages_of_unlisted_origins_get_no_socket() {
    let house = House::open("[chat]\ncors_origins = [\"https://app.example\"]\n").await;
    let from = |origin: &str| vec![("origin", origin.to_owned())];
    assert_eq!(house.try_socket(&from("https://evil.example")).await.err(), Some(403));
    assert!(house.try_socket(&from("https://app.example")).await.is_ok());
    assert!(house.try_socket(&[]).await.is_ok());
    house.close().await;
}

#[tokio::test]
async fn an_operator_hands_out_tokens_and_takes_them_back() {
    let house = House::open("").await;
    let operator = house.operator();
    let make = |body: Value| {
        let operator = operator.clone();
        async move { operator.call::<Value>(Request::post("/v1/tokens", &body)).await }
    };
    let admin = make(json!({ "for": "admin", "expires_ms": 60_000 })).await.unwrap();
    let metrics = make(json!({ "for": "metrics" })).await.unwrap();
    let spoke = make(json!({ "for": "spoke", "pattern": "*.home", "uses": 1 })).await.unwrap();
    assert!(spoke["join_code"].as_str().unwrap().starts_with("relay-join-v1."));
    assert_eq!(code_of(make(json!({ "for": "admin", "uses": 0 })).await), "invalid_request");

    let with = |token: &Value, path: &'static str| {
        let (house, header) = (&house, format!("Bearer {}", token["token"].as_str().unwrap()));
        async move {
            // As through a proxy, so that being on this machine opens nothing.
            let headers = [("authorization", header.as_str()), ("x-forwarded-for", "192.0.2.1")];
            house.raw("GET", path, &headers, "").await
        }
    };
    assert_eq!(with(&admin, "/v1/tokens").await.status, 200);
    assert_eq!(with(&admin, "/metrics").await.status, 200);
    assert_eq!(with(&metrics, "/metrics").await.status, 200);
    assert_eq!(with(&metrics, "/v1/tokens").await.status, 401);
    assert_eq!(with(&spoke, "/v1/whoami").await.status, 401, "opens a link, not a door");
    let stranger = house.raw("GET", "/metrics", &[("x-forwarded-for", "192.0.2.1")], "").await;
    assert_eq!(stranger.status, 401);

    let list = with(&admin, "/v1/tokens").await;
    assert!(!list.body.contains("ot_"));
    assert_eq!(list.json()["items"].as_array().unwrap().len(), 3);
    let delete = |id: &Value| {
        let path = format!("/v1/tokens/{}", id.as_str().unwrap());
        let operator = operator.clone();
        async move {
            let request = Request::new(http::Method::DELETE, path);
            operator.call::<Value>(request).await
        }
    };
    delete(&admin["id"]).await.unwrap();
    assert_eq!(code_of(delete(&admin["id"]).await), "not_found");
    assert_eq!(with(&admin, "/v1/tokens").await.status, 401);
    house.close().await;
}

#[tokio::test]
async fn rules_are_set_tested_and_audited() {
    let house = House::open("").await;
    let operator = house.operator();
    let publish = |user: u8, nonce: u64| {
        let draft = Draft { kind: 1, created_at_ns: nonce, ..Draft::default() };
        let event = draft.sign(&key(user)).unwrap();
        let house = &house;
        async move {
            let body = String::from_utf8(event.json().to_vec()).unwrap();
            house.raw("POST", "/v1/events", &[], &body).await.status
        }
    };
    assert_eq!(publish(2, 1).await, 201, "a fresh relay is open");
    let rules = json!({
        "rules": [{ "ns": "default", "who": ["@team"], "allow": ["read", "write"] }],
        "groups": { "team": [key(1).node_id()] },
    });
    let put = |body: &Value| Request::new(http::Method::PUT, "/v1/acl").json(body);
    let set: Value = operator.call(put(&rules)).await.unwrap();
    assert_eq!(publish(1, 2).await, 201);
    assert_eq!(publish(2, 3).await, 403);
    assert_eq!(house.raw("GET", "/v1/events", &[], "").await.status, 200);

    let test = json!({ "who": key(1).node_id(), "ns": "default", "op": "write" });
    let why: Value = operator.call(Request::post("/v1/acl/test", &test)).await.unwrap();
    assert_eq!(why["rule"]["source"]["id"], set["event_id"]);
    let shown: Value = operator.call(Request::get("/v1/acl")).await.unwrap();
    assert!(shown["rules"].as_array().unwrap().iter().any(|rule| rule["who"] == json!(["@team"])));

    let stranger = house.client().key(key(2)).build().unwrap();
    for request in [
        Request::get("/v1/acl"),
        put(&rules),
        Request::post("/v1/acl/test", &test),
        Request::get("/v1/audit"),
        Request::get("/v1/quota"),
        Request::get("/v1/tokens"),
        Request::post("/v1/tokens", &json!({ "for": "admin" })),
        Request::post("/v1/users/revoke_tokens", &json!({ "user_id": key(1).node_id() })),
    ] {
        assert_eq!(code_of(stranger.call::<Value>(request).await), "forbidden");
    }
    assert_eq!(house.raw("GET", "/v1/audit", &[], "").await.status, 401);

    let audit: Value =
        operator.call(Request::get("/v1/audit").query("limit", Some(1000))).await.unwrap();
    let items = audit["items"].as_array().unwrap();
    let has = |actor: &str, action: &str, outcome: &str| {
        items.iter().any(|item| {
            item["actor"] == actor && item["action"] == action && item["outcome"] == outcome
        })
    };
    let stranger = key(2).node_id().to_string();
    assert!(has("operator", "acl.set", "ok"));
    assert!(has(&stranger, "event.write", "forbidden"));
    assert!(has(&stranger, "admin", "forbidden"));
    let first: Value =
        operator.call(Request::get("/v1/audit").query("limit", Some(1))).await.unwrap();
    let next = Request::get("/v1/audit").query("limit", Some(1));
    let next = next.query("cursor", first["cursor"].as_str());
    let second: Value = operator.call(next).await.unwrap();
    assert_eq!(second["items"][0]["id"], items[1]["id"]);
    house.close().await;
}

#[tokio::test]
async fn quotas_are_told_and_kept_over_a_restart() {
    let config = "[quota]\nevents_per_day = 3\n";
    let house = House::open(config).await;
    let publish = |house: &House, nonce: u64| {
        let draft = Draft { kind: 1, created_at_ns: nonce, ..Draft::default() };
        let body = String::from_utf8(draft.sign(&key(1)).unwrap().json().to_vec()).unwrap();
        let send = house.send("POST", "/v1/events", &[], &body);
        async move { send.await.status }
    };
    for nonce in 1..=3 {
        assert_eq!(publish(&house, nonce).await, 201);
    }
    let house = house.reopen(config).await;
    assert_eq!(publish(&house, 4).await, 429);
    let told: Value = house.operator().call(Request::get("/v1/quota")).await.unwrap();
    let tenant = &told["tenants"][0];
    assert_eq!((&tenant["tenant"], &tenant["events"]), (&json!("default"), &json!(3)));
    assert_eq!(tenant["limits"]["events_per_day"], 3);
    assert!(tenant["bytes"].as_u64().unwrap() > 500);
    house.close().await;
}

#[tokio::test]
async fn an_operator_ends_everything_of_a_user() {
    let house = House::open("").await;
    let session = start(&house, 1, "d").await;
    let body = json!({ "user_id": key(1).node_id() });
    let done: Value =
        house.operator().call(Request::post("/v1/users/revoke_tokens", &body)).await.unwrap();
    assert_eq!(done["invalidated"], 1);
    assert_eq!(get_as(&house, &session, "/v1/session/list").await.status, 401);
    house.close().await;
}

#[tokio::test]
async fn one_signed_token_is_revoked_by_its_owner() {
    let house = House::open("").await;
    let now_ms = relay_client::unix_ns() / 1_000_000;
    let claims = Claims {
        v: 1,
        sub: key(1).node_id(),
        aud: "gw_local".into(),
        dev: relay_proto::auth::DeviceId::new("d").unwrap(),
        iat: now_ms,
        exp: now_ms + 60_000,
        jti: "job".into(),
        crd: None,
    };
    let token = claims.sign(&key(1));
    let body = json!({ "auth_token": token, "device_id": "d" }).to_string();
    let started = house.raw("POST", "/v1/session/start", &[], &body).await;
    assert_eq!(started.status, 200, "{}", started.body);
    let revoke = json!({ "auth_token": token });
    let other = start(&house, 2, "x").await;
    assert_eq!(post_as(&house, &other, "/v1/auth/revoke", revoke.clone()).await.status, 401);
    let session = started.json();
    assert_eq!(post_as(&house, &session, "/v1/auth/revoke", revoke).await.status, 200);
    assert_eq!(house.raw("POST", "/v1/session/start", &[], &body).await.status, 401);
    house.close().await;
}
