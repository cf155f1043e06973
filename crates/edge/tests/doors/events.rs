//! Publishing and asking (`events.md`).

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    event, event_at, forged, ids_of, now_ns,
    support::{House, key},
    text,
};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../proto/tests/vectors/events.json")).unwrap()
}

#[tokio::test]
async fn the_reference_vectors_are_judged_alike_at_the_door() {
    let (house, vectors) = (House::open("").await, vectors());
    let mut refused = Vec::new();
    for case in vectors["invalid"].as_array().unwrap() {
        let body = case["event"].to_string();
        let answer = house.raw("POST", "/v1/events", &[], &body).await;
        assert_eq!(answer.code(), case["code"].as_str().unwrap(), "{}", case["name"]);
        refused.push(body);
    }
    for case in vectors["raw_bodies"].as_array().unwrap() {
        let body = case["body"].as_str().unwrap();
        let answer = house.raw("POST", "/v1/events", &[], body).await;
        assert_eq!(answer.code(), case["code"].as_str().unwrap(), "{}", case["name"]);
    }
    let batch = house.raw("POST", "/v1/events", &[], &format!("[{}]", refused.join(","))).await;
    let results = batch.json()["results"].clone();
    assert_eq!(results.as_array().unwrap().len(), refused.len());
    assert!(results.as_array().unwrap().iter().all(|r| r["code"] == "invalid_request"));
    assert_eq!(house.count("history").await, 0, "something refused was stored");

    let mut stored = 0;
    let mut seen = std::collections::HashSet::new();
    for list in ["valid", "sshsig"] {
        for case in vectors[list].as_array().unwrap() {
            let (name, given) = (&case["name"], &case["event"]);
            let answer = house.raw("POST", "/v1/events", &[], &given.to_string()).await;
            // The same event may be there natively and with an SSH signature: it has one id.
            let known = !seen.insert(given["id"].as_str().unwrap().to_owned());
            let expected = match name.as_str().unwrap() {
                "largest time" => 400,
                "ephemeral" => 202,
                _ if known => 200,
                _ => 201,
            };
            assert_eq!(answer.status, expected, "{name}: {}", answer.body);
            if expected == 201 {
                stored += 1;
                let id = given["id"].as_str().unwrap();
                assert_eq!(house.get(&format!("/v1/events/{id}")).await.json(), *given, "{name}");
                let again = house.raw("POST", "/v1/events", &[], &given.to_string()).await;
                assert_eq!((again.status, &again.json()["status"]), (200, &json!("duplicate")));
                assert_eq!(again.json()["seq"], answer.json()["seq"], "{name}");
            }
        }
    }
    assert_eq!(house.count("history").await, stored);
    house.close().await;
}

fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    if items.len() <= 1 {
        return vec![items.to_vec()];
    }
    let mut all = Vec::new();
    for (at, &first) in items.iter().enumerate() {
        let rest: Vec<usize> =
            items.iter().copied().enumerate().filter(|(i, _)| *i != at).map(|(_, x)| x).collect();
        all.extend(permutations(&rest).into_iter().map(|mut tail| {
            tail.insert(0, first);
            tail
        }));
    }
    all
}

#[tokio::test]
async fn the_latest_is_the_same_in_every_order_of_arrival() {
    let house = House::open("").await;
    let (alice, base) = (key(1), now_ns());
    for (number, order) in permutations(&[0, 1, 2, 3]).into_iter().enumerate() {
        let d = format!("site/{number}");
        // Two of them have the same time: then the greater id wins.
        let versions: Vec<_> = [0, 1, 2, 2]
            .iter()
            .zip(["a", "b", "c", "d"])
            .map(|(age, content)| event_at(&alice, 30_001, &[&["d", &d]], content, base + age))
            .collect();
        let winner = versions.iter().max_by_key(|e| (e.created_at_ns(), e.id())).unwrap().id();
        let mut best = None;
        for at in order {
            let version = &versions[at];
            let rank = (version.created_at_ns(), version.id());
            let latest = best.is_none_or(|best| rank > best);
            if latest {
                best = Some(rank);
            }
            let answer = house.publish(version).await;
            assert_eq!(answer.json()["latest"], latest, "{}", answer.body);
        }
        let d = d.replace('/', "%2F");
        let path = format!("/v1/events/address/30001/{}/{d}", alice.node_id());
        assert_eq!(house.get(&path).await.json()["id"], winner.to_string());
        assert_eq!(house.ids(&format!("tag.d={d}")).await, [winner.to_string()]);
        assert_eq!(house.count(&format!("tag.d={d}")).await, 1);
        assert_eq!(house.count(&format!("tag.d={d}&history")).await, 4);
        let history = ids_of(&house.get(&format!("{path}/history")).await.json());
        let mut newest_first = versions.clone();
        newest_first.sort_by_key(|e| std::cmp::Reverse((e.created_at_ns(), e.id())));
        assert_eq!(history.len(), 4);
        assert_eq!(
            history[2..],
            [newest_first[2].id().to_string(), newest_first[3].id().to_string()]
        );
    }
    house.close().await;
}

#[tokio::test]
async fn replaceable_events_without_d_have_an_address() {
    let house = House::open("").await;
    let alice = key(1);
    let (old, new) = (event(&alice, 10_050, &[], "old"), event(&alice, 10_050, &[], "new"));
    house.publish_all(&[old, new.clone()]).await;
    let path = format!("/v1/events/address/10050/{}/", alice.node_id());
    assert_eq!(house.get(&path).await.json()["id"], new.id().to_string());
    assert_eq!(ids_of(&house.get(&format!("{path}/history")).await.json()).len(), 2);
    house.close().await;
}

#[tokio::test]
async fn pages_hold_everything_once_in_every_order() {
    let house = House::open("[events]\nephemeral_replay = \"60s\"").await;
    let (alice, base) = (key(1), now_ns() - 1_000);
    // Times collide, and do not rise with arrival.
    let stored: Vec<_> =
        (0..25u64).map(|n| event_at(&alice, 1, &[], &n.to_string(), base + n * 7 % 11)).collect();
    house.publish_all(&stored).await;
    let passing: Vec<_> =
        (0..5u64).map(|n| event_at(&alice, 20_001, &[], &n.to_string(), base + n * 3)).collect();
    for event in &passing {
        assert_eq!(house.publish(event).await.status, 202);
    }
    for (order, expected) in [("seq", 25), ("-seq", 25), ("time", 30), ("-time", 30)] {
        for ndjson in [false, true] {
            let accept = if ndjson { "application/x-ndjson" } else { "application/json" };
            let mut seen: Vec<Value> = Vec::new();
            let mut cursor = String::new();
            loop {
                let path = format!("/v1/events?order={order}&limit=4{cursor}");
                let answer = house.raw("GET", &path, &[("accept", accept)], "").await;
                let (page, next): (Vec<Value>, Option<String>) = if ndjson {
                    let lines = answer.body.lines().filter(|line| line.starts_with('{'));
                    let page = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
                    (page, answer.header("relay-cursor").map(str::to_owned))
                } else {
                    let page = answer.json();
                    let next = page["cursor"].as_str().map(str::to_owned);
                    (page["events"].as_array().unwrap().clone(), next)
                };
                assert!(page.len() <= 4, "{order}");
                let end = page.is_empty();
                seen.extend(page);
                match next {
                    Some(next) if order != "seq" || !end => cursor = format!("&cursor={next}"),
                    Some(_) => break,
                    None => {
                        assert_ne!(order, "seq", "the cursor of order=seq is always there");
                        break;
                    }
                }
            }
            let mut ids: Vec<&str> = seen.iter().map(|e| e["id"].as_str().unwrap()).collect();
            let times: Vec<u64> = seen
                .iter()
                .map(|e| e["created_at_ns"].as_str().unwrap().parse().unwrap())
                .collect();
            match order {
                "time" => assert!(times.is_sorted(), "{times:?}"),
                "-time" => assert!(times.iter().rev().is_sorted(), "{times:?}"),
                _ => {
                    let mut arrived: Vec<_> = stored.iter().map(|e| e.id().to_string()).collect();
                    if order == "-seq" {
                        arrived.reverse();
                    }
                    assert_eq!(ids, arrived);
                }
            }
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), expected, "{order}, ndjson {ndjson}");
        }
    }
    assert_eq!(house.count("").await, 30);
    house.close().await;
}

#[tokio::test]
async fn ephemeral_events_can_be_asked_for_within_their_window_only() {
    let (without, with) =
        tokio::join!(House::open(""), House::open("[events]\nephemeral_replay = \"1s\""));
    let passing = event(&key(1), 20_001, &[], "hello");
    for (house, expected) in [(&without, 0), (&with, 1)] {
        assert_eq!(house.publish(&passing).await.status, 202);
        assert_eq!(house.ids("kinds=20001").await.len(), expected);
        assert_eq!(house.count("kinds=20001").await, expected as u64);
    }
    let fence = forged(&key(1), 20_001, &[&["fence", "db", "1"]], "");
    assert_eq!(with.raw("POST", "/v1/events", &[], &fence).await.code(), "invalid_request");
    let gone = async {
        while with.count("kinds=20001").await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    tokio::join!(without.close(), with.close());
}

#[tokio::test]
async fn an_expired_event_is_in_no_answer() {
    let house = House::open("").await;
    let past = event(&key(1), 1, &[&["expiration", "1000"]], "late");
    assert_eq!(house.publish(&past).await.code(), "invalid_request");
    let at = (now_ns() / 1_000_000_000 + 2).to_string();
    let short = event(&key(1), 1, &[&["expiration", &at]], "short");
    let pointer = event(&key(1), 30_001, &[&["d", "x"], &["expiration", &at]], "short");
    house.publish_all(&[short.clone(), pointer]).await;
    assert_eq!(house.get(&format!("/v1/events/{}", short.id())).await.status, 200);
    let over = async {
        while now_ns() / 1_000_000_000 < at.parse().unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    over.await;
    assert_eq!(house.get(&format!("/v1/events/{}", short.id())).await.status, 404);
    let address = format!("/v1/events/address/30001/{}/x", key(1).node_id());
    assert_eq!(house.get(&address).await.status, 404);
    assert_eq!(house.count("history").await, 0);
    assert!(house.ids("order=seq&history").await.is_empty());
    let mut socket = house.socket(&[]).await;
    socket
        .send(r#"{"v":1,"t":"stream.subscribe","body":{"sub":"s","after":"","live":true}}"#)
        .await;
    assert_eq!(socket.next().await["t"], "stream.live", "nothing comes before it");
    drop(socket);
    // And it is removed, not only hidden.
    let gone = async {
        while house.node.store.namespaces().await.unwrap().iter().any(|ns| ns.events > 0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    house.close().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_read() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let house = House::open("").await;
    let address = house.url().replace("http://", "");
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let head =
        format!("POST /v1/events HTTP/1.1\r\nhost: {address}\r\ncontent-length: 9000000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 64];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut answer));
    let length = read.await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 413"), "not one byte of the body was sent: {answer}");

    let long = forged(&key(1), 1, &[], &"x".repeat(70_000));
    assert_eq!(house.raw("POST", "/v1/events", &[], &long).await.code(), "too_large");
    let many = vec!["{}"; 1_001].join(",");
    let answer = house.raw("POST", "/v1/events", &[], &format!("[{many}]")).await;
    assert_eq!(answer.code(), "too_large");
    assert_eq!(house.count("").await, 0);
    house.close().await;
}

#[tokio::test]
async fn unknown_members_are_ignored_and_garbage_is_not() {
    let house = House::open("").await;
    let event = event(&key(1), 1, &[], "hello");
    let with_more = text(&event).replacen('{', r#"{"more":[1,{"a":null}],"#, 1);
    assert_eq!(house.raw("POST", "/v1/events", &[], &with_more).await.status, 201);
    let kept = house.get(&format!("/v1/events/{}", event.id())).await;
    assert_eq!(kept.body, text(&event), "what is unknown is not kept");
    let trailing = format!("{} x", text(&event));
    assert_eq!(house.raw("POST", "/v1/events", &[], &trailing).await.code(), "invalid_request");
    let answer = house.raw("POST", "/v1/events", &[], &format!("[{}] ]", text(&event))).await;
    assert_eq!(answer.code(), "invalid_request");
    house.close().await;
}

#[tokio::test]
async fn text_search_is_said_to_be_absent() {
    let house = House::open("").await;
    for path in ["/v1/events?q=x", "/v1/events/count?q=x", "/v1/events/stream?q=x"] {
        let answer = house.get(path).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_request".into()), "{path}");
        assert!(answer.json()["message"].as_str().unwrap().contains("search"));
    }
    let features = house.get("/v1/info").await.json()["features"].clone();
    assert!(!features.as_array().unwrap().contains(&json!("search")));
    house.close().await;
}
