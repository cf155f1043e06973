//! Replay, then live, with nothing missing and nothing twice, whatever the connection does: readers that
//! leave and come back at random while others publish.

use serde_json::json;

use crate::{
    event,
    streams::subscribe,
    support::{House, key, sse::Sse},
};

const EVENTS: usize = 600;

/// Small and repeatable.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

async fn publish(house: &House, publisher: u8, seed: u64) {
    let mut random = Random(seed);
    let mut sent = 0;
    while sent < EVENTS / 3 {
        let count = (1 + random.below(8) as usize).min(EVENTS / 3 - sent);
        let events: Vec<_> =
            (0..count).map(|n| event(&key(publisher), 1, &[], &format!("{}", sent + n))).collect();
        house.publish_all(&events).await;
        sent += count;
    }
}

/// Reads everything, over connections that last a random while.
async fn read(house: &House, seed: u64) -> Vec<String> {
    let mut random = Random(seed);
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    while seen.len() < EVENTS {
        let stay = 1 + random.below(120) as usize;
        let until = (seen.len() + stay).min(EVENTS);
        if random.below(2) == 0 {
            let mut socket = house.socket(&[]).await;
            subscribe(&mut socket, json!({ "sub": "s", "after": cursor })).await;
            while seen.len() < until {
                let frame = socket.frame("stream.event").await;
                cursor = frame["body"]["cursor"].as_str().unwrap().to_owned();
                seen.push(frame["body"]["event"]["id"].as_str().unwrap().to_owned());
            }
        } else {
            let path = format!("/v1/events/stream?after={cursor}");
            let mut stream = Sse::open(house, &path, "").await;
            while seen.len() < until {
                let told = stream.next().await.unwrap();
                cursor = told.id.unwrap_or(cursor);
                if told.event == "stream.event" {
                    seen.push(told.data["body"]["event"]["id"].as_str().unwrap().to_owned());
                }
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_come_and_go_see_the_log_as_it_is() {
    for seed in [1, 2] {
        let house = House::open("").await;
        let (a, b, c, x, y, z) = tokio::join!(
            publish(&house, 1, seed * 11),
            publish(&house, 2, seed * 13),
            publish(&house, 3, seed * 17),
            read(&house, seed * 19),
            read(&house, seed * 23),
            read(&house, seed * 29),
        );
        let ((), (), ()) = (a, b, c);
        let log = house.ids("order=seq&limit=1000").await;
        assert_eq!(log.len(), EVENTS);
        for seen in [x, y, z] {
            assert_eq!(seen, log, "seed {seed}");
        }
        house.close().await;
    }
}
