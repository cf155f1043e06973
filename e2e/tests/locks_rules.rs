//! The rules of locks at a real relay, on both stores (`docs/spec/locks.md`; ids: L05…L12).

use std::time::Duration;

use relay_e2e::{Person, Relay, on_both, person::percent};
use serde_json::{Value, json};

const LEASE: u64 = 500;

async fn lease_passes() {
    tokio::time::sleep(Duration::from_millis(LEASE + 20)).await;
}

on_both! {
    /// Expired means lost, also where nobody else came.
    async fn l05_renew_after_expiry(relay: Relay) {
        let alice = Person::at(&relay, 1);
        let token = alice.acquire("l05", LEASE).await.token();
        assert_eq!(alice.renew("l05", token, LEASE).await.token(), token);
        lease_passes().await;
        alice.renew("l05", token, LEASE).await.assert_code("lease_expired");
        alice.release("l05", token).await.assert_code("lease_expired");
        assert_eq!(alice.publish_fenced("l05", token, "late").await.code(), "fenced");
        let state = alice.inspect("l05").await;
        assert_eq!(state.body["held"], false);
        assert_eq!(state.body["last_token"], token);
    }

    /// The old holder can do nothing to the new one.
    async fn l06_stale_token_after_takeover(relay: Relay) {
        let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
        let old = alice.acquire("l06", LEASE).await.token();
        lease_passes().await;
        let new = bob.acquire("l06", 60_000).await.token();
        assert!(new > old);
        let before = alice.inspect("l06").await.body;
        alice.renew("l06", old, 60_000).await.assert_code("stale_token");
        alice.release("l06", old).await.assert_code("stale_token");
        assert_eq!(alice.publish_fenced("l06", old, "stale").await.code(), "fenced");
        let after = alice.inspect("l06").await.body;
        assert_eq!((&after["owner"], &after["fencing_token"]), (&before["owner"], &json!(new)));
        let ends = |state: &Value| -> u64 {
            state["lease_expires_at_ns"].as_str().unwrap().parse().unwrap()
        };
        // The same moment, computed twice from clocks that were read apart.
        assert!(ends(&after).abs_diff(ends(&before)) < 50_000_000);
    }

    async fn l07_release_repeated(relay: Relay) {
        let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
        let token = alice.acquire("l07", 60_000).await.token();
        for _ in 0..2 {
            let released = alice.release("l07", token).await;
            assert_eq!((released.status, &released.body["status"]), (200, &json!("released")));
        }
        let new = bob.acquire("l07", 60_000).await.token();
        alice.release("l07", token).await.assert_code("stale_token");
        assert_eq!(alice.inspect("l07").await.body["fencing_token"], new);
    }

    /// A retry gives the same grant, also from a relay that was killed in between.
    async fn l08_acquire_repeated_with_the_same_request_id(relay: Relay) {
        let alice = Person::at(&relay, 1);
        let body = json!({"resource": "l08", "lease_ms": 60_000, "request_id": "retry-me"});
        let first = alice.post("/v1/locks/acquire", body.clone()).await;
        let again = alice.post("/v1/locks/acquire", body.clone()).await;
        assert_eq!(again.token(), first.token());
        relay.kill_and_restart().await;
        let after = alice.post("/v1/locks/acquire", body.clone()).await;
        assert_eq!(after.token(), first.token());
        assert_eq!(alice.history("l08").await.len(), 1, "no second row");
        let other = json!({"resource": "l08", "lease_ms": 60_000, "request_id": "other"});
        alice.post("/v1/locks/acquire", other).await.assert_code("lock_held");
        assert_eq!(alice.release("l08", first.token()).await.status, 200);
        alice.post("/v1/locks/acquire", body).await.assert_code("conflict");
    }

    async fn l09_wrong_signer_token_namespace_and_replay(relay: Relay) {
        let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
        let token = alice.acquire("l09", 60_000).await.token();
        bob.renew("l09", token, 60_000).await.assert_code("forbidden");
        bob.release("l09", token).await.assert_code("forbidden");
        assert_eq!(bob.publish_fenced("l09", token, "not mine").await.code(), "fenced");
        alice.renew("l09", token + 1, 60_000).await.assert_code("stale_token");
        let elsewhere = json!({"ns": "other", "resource": "l09", "fencing_token": token});
        alice.post("/v1/locks/release", elsewhere).await.assert_code("stale_token");
        // An owner member, where it is sent, must be the caller.
        let claimed = json!({"resource": "l09b", "lease_ms": 1000, "owner": alice.id()});
        assert_ne!(bob.post("/v1/locks/acquire", claimed).await.status, 200);

        // A captured signed request is good once, before and after the release.
        let (header, body) = alice.signed_acquire("l09c");
        let taken = alice.send_signed(&header, &body).await.token();
        assert_eq!(alice.send_signed(&header, &body).await.status, 401);
        assert_eq!(alice.release("l09c", taken).await.status, 200);
        assert_eq!(alice.send_signed(&header, &body).await.status, 401);
        relay.kill_and_restart().await;
        assert_eq!(alice.send_signed(&header, &body).await.status, 401, "after a restart");
        // Nor can it be bent to another resource.
        let (header, _) = alice.signed_acquire("l09d");
        let bent = json!({"resource": "l09e", "lease_ms": 1000}).to_string();
        assert_eq!(alice.send_signed(&header, &bent).await.status, 401);
    }

    async fn l10_bounds_of_leases_and_names(relay: Relay) {
        // With a session: a signed request can not name a URL as long as the longest resource.
        let (alice, _) = Person::at(&relay, 1).signed_in().await;
        let lease = |lease: &str| format!(r#"{{"resource":"l10","lease_ms":{lease}}}"#);
        let bad = ["0", "-1", "499", "3600001", "9223372036854775808", "1e300", "\"500\"", "null"];
        for text in bad {
            let body = serde_json::from_str(&lease(text)).unwrap();
            let answer = alice.post("/v1/locks/acquire", body).await;
            assert_eq!((answer.status, answer.code()), (400, "invalid_request"), "{text}");
        }
        let long = "x".repeat(1025);
        for name in ["", &long, "a\0b", "a\nb", "\u{7f}"] {
            let body = json!({"resource": name, "lease_ms": 1000});
            let answer = alice.post("/v1/locks/acquire", body).await;
            assert_eq!((answer.status, answer.code()), (400, "invalid_request"), "{name:?}");
        }
        // Compared as bytes: case, composed and decomposed forms, slashes are all different.
        let longest = "x".repeat(1024);
        let names = ["Key", "key", "\u{e9}", "e\u{301}", "a/b", "a%2Fb", "a b", "?", &longest];
        for name in names {
            alice.acquire(name, 60_000).await.token();
        }
        for name in names {
            let state = alice.inspect(name).await;
            assert_eq!(state.body["resource"], *name);
            assert_eq!(state.body["held"], true, "{name}");
        }
        for bad in [json!([]), json!("x"), json!({"lease_ms": 1000}), json!({"resource": 5, "lease_ms": 1000})] {
            assert_eq!(alice.post("/v1/locks/acquire", bad).await.code(), "invalid_request");
        }
    }

    /// A number that every JSON reader holds exactly, also in a raised epoch.
    async fn l11_tokens_are_exact_in_json(relay: Relay) {
        let alice = Person::at(&relay, 1);
        for _ in 0..3 {
            let token = alice.acquire("l11", 60_000).await.token();
            assert!(token < 1 << 53);
            assert_eq!((token as f64) as u64, token);
            assert_eq!(alice.release("l11", token).await.status, 200);
        }
        // All six members of the answer, in the spelling of the specification.
        let grant = alice.acquire("l11", 60_000).await.body;
        for name in ["resource", "owner", "fencing_token", "lease_ms", "lease_expires_at_ns", "now_ns"] {
            assert!(grant.get(name).is_some(), "{name} in {grant}");
        }
        assert!(grant["lease_expires_at_ns"].is_string() && grant["now_ns"].is_string());
    }

    /// What one client was told, another sees.
    async fn l12_inspect_sees_what_others_did(relay: Relay) {
        let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
        for round in 0..20 {
            let token = alice.acquire("l12", 60_000).await.token();
            let seen = bob.inspect("l12").await.body;
            assert_eq!((&seen["held"], &seen["fencing_token"]), (&json!(true), &json!(token)), "{round}");
            let renewed = alice.renew("l12", token, 120_000).await.body;
            let seen = bob.inspect("l12").await.body;
            let ends = |body: &Value| body["lease_expires_at_ns"].as_str().unwrap().parse::<u64>().unwrap();
            assert!(ends(&seen).abs_diff(ends(&renewed)) < 50_000_000);
            assert_eq!(alice.release("l12", token).await.status, 200);
            assert_eq!(bob.inspect("l12").await.body["held"], false);
        }
    }

    /// Break, history and list: what operators use.
    async fn break_history_and_list(relay: Relay) {
        let (alice, bob) = (Person::at(&relay, 1), Person::at(&relay, 2));
        let admin = Person::admin(&relay);
        let first = alice.acquire("ops/a", 60_000).await.token();
        alice.acquire("ops/b", 60_000).await.token();
        bob.break_lock("ops/a", first).await.assert_code("forbidden");
        assert_eq!(admin.break_lock("ops/a", first).await.status, 200);
        alice.renew("ops/a", first, 60_000).await.assert_code("lease_expired");
        assert_eq!(alice.publish_fenced("ops/a", first, "broken").await.code(), "fenced");
        let second = bob.acquire("ops/a", 60_000).await.token();
        let rows = alice.history("ops/a").await;
        let story: Vec<_> = rows
            .iter()
            .map(|row| (row["action"].as_str().unwrap(), row["fencing_token"].as_u64().unwrap()))
            .collect();
        assert_eq!(story, [("acquire", first), ("break", first), ("take_over", second)]);
        assert_eq!(rows[2]["owner"], bob.id().to_string());
        assert_eq!(rows[2]["previous_owner"], alice.id().to_string());

        let list = alice.get(&format!("/v1/locks?ns=default&prefix={}", percent("ops/"))).await.body;
        let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|item| &item["resource"]).collect();
        assert_eq!(names, ["ops/a", "ops/b"]);
    }
}
