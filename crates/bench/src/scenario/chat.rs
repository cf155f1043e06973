//! The chat gateway: acknowledged sends, a full room, idle sockets, catching up, and the same through an edge relay.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use memchr::memmem;
use relay_proto::SigningKey;
use serde_json::json;
use tempfile::TempDir;

use super::{
    Run,
    idle::{most_connections, raise_open_files},
};
use crate::{
    hist::Histogram,
    load::{Frames, Plan, generate, number_at},
    publish::{Answer, Dialect, Pace, Publisher, SILENCE, Tally, drive},
    relay::{self, contains, frame},
    report::Row,
    server::{Store, Target},
    ws::{self, Socket},
};

/// Name, senders, rooms, unanswered messages of each sender, and whether through an edge relay.
const SENDS: [(&str, usize, usize, usize, bool); 5] = [
    ("send: 1 sender", 1, 1, 1, false),
    ("send: 64 senders, 64 rooms", 64, 64, 16, false),
    ("send: 64 senders, one room", 64, 1, 16, false),
    ("send: 1 sender, through an edge", 1, 1, 1, true),
    ("send: 64 senders, 64 rooms, through an edge", 64, 64, 16, true),
];
/// Name, and whether the room is heard through an edge relay.
const ROOMS: [(&str, bool); 2] =
    [("room of 1000, full speed", false), ("room of 1000, full speed, through an edge", true)];
const ROOM_STEADY: &str = "room of 1000, 100 messages/s";
const IDLE: &str = "idle: sockets with 10 subscriptions";
const CATCH_UP: &str = "catch up: 100000 messages";

const MEMBERS: usize = 1_000;
/// Users of the room; each has many connections, which costs a relay the same.
const LISTENERS: usize = 40;
const FULL_SPEED: usize = 4_000;
const WINDOW: usize = 64;
/// Fewer where a process may not have as many files open.
const CONNECTIONS: usize = 20_000;
const AT_ONCE: usize = 100;
const SUBSCRIPTIONS: usize = 10;
const BEHIND: usize = 100_000;
/// Characters of a message, as the seeds have it.
const ENV: usize = 512;
/// Frames shorter than this are answers, not messages.
const EVENT_BYTES: usize = 400;

/// No rate gets into the way, and no session ends by itself.
pub(super) const FREE: &str = "[chat]
session_ttl = \"24h\"
sends_per_min = 0
frames_per_sec = 0
user_frames_per_sec = 0
auth_per_ip_per_min = 0
auth_per_user_per_min = 0
room_creates_per_min = 0
invites_per_min = 0
conns_per_user = 0
conns_per_device = 0
conns_per_address = 0
sessions_per_user = 10000
sessions_per_device = 1000
max_members = 2000
";

/// A relay, or a home with an edge before it; `at` is where clients go.
struct Scene {
    at: Target,
    /// Where the conversations are.
    home: Option<Target>,
    _dir: TempDir,
}

impl Scene {
    async fn open(run: &Run, store: Store, through_edge: bool) -> anyhow::Result<Self> {
        let dir = run.servers.directory("chat")?;
        if !through_edge {
            let at = start(run, &dir, "home-b", store, FREE).await?;
            return Ok(Self { at, home: None, _dir: dir });
        }
        let psk = dir.path().join("psk");
        crate::server::write_secret(&psk, "between a hub and its spoke")?;
        let hub = format!("[hub]\npsk_file = {psk:?}\n{FREE}");
        let home = start(run, &dir, "home-b", store, &hub).await?;
        let edge = format!(
            "[federation]\nconnect = \"ws://{}\"\npsk_file = {psk:?}\n{FREE}user_home = \"home-b\"\n",
            home.addr
        );
        let at = start(run, &dir, "edge-a", Store::Sqlite, &edge).await?;
        let home = Some(home);
        Ok(Self { at, home, _dir: dir })
    }

    fn name(&self) -> String {
        self.home.as_ref().map_or(&self.at, |home| home).name.clone()
    }
}

async fn start(
    run: &Run,
    dir: &TempDir,
    id: &str,
    store: Store,
    config: &str,
) -> anyhow::Result<Target> {
    let file = dir.path().join(format!("{id}.toml"));
    std::fs::write(&file, config)?;
    let mut servers = run.servers.clone();
    let named = ["--node-id".to_owned(), id.to_owned()];
    servers.server_args.extend(named);
    servers.server_args.extend(["--config".to_owned(), file.display().to_string()]);
    servers.relay(store).await
}

pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for store in run.servers.stores() {
        for case in SENDS.into_iter().filter(|(name, ..)| run.wants(name)) {
            rows.push(sends(run, store, case).await?);
        }
        for (name, edge) in ROOMS.into_iter().filter(|(name, _)| run.wants(name)) {
            rows.push(room(run, store, name, edge, None).await?);
        }
        if run.wants(ROOM_STEADY) {
            rows.push(room(run, store, ROOM_STEADY, false, Some(100)).await?);
        }
        if run.wants(IDLE) {
            rows.push(idle(run, store).await?);
        }
        if run.wants(CATCH_UP) {
            rows.push(catch_up(run, store).await?);
        }
    }
    Ok(rows)
}

/// Reads `conv.acked`; the frame's `id` is the number of the message.
#[derive(Debug)]
struct Acks;

impl Dialect for Acks {
    fn read(&self, answer: &[u8]) -> Answer {
        if contains(answer, b"\"t\":\"conv.acked\"") {
            memmem::find(answer, b"\"id\":\"")
                .and_then(|at| number_at(answer, at + 6))
                .map_or(Answer::Other, Answer::Stored)
        } else if contains(answer, b"\"t\":\"error\"") {
            Answer::Refused
        } else {
            Answer::Other
        }
    }
}

fn key(purpose: &str, n: usize) -> SigningKey {
    SigningKey::from_seed(Plan::usual().secret(purpose, n))
}

fn room_name(n: usize) -> String {
    format!("room-{n}")
}

/// `count` messages to a room, numbered from 0.
fn messages(room: &str, sender: usize, count: usize) -> Frames {
    generate(0..count, |index, out| {
        ws::encode(out, |out| {
            let head = format!(
                r#"{{"v":1,"t":"conv.send","id":"{index}","body":{{"conv_id":"{room}","msg_id":"m{sender}-{index}","env":""#
            );
            out.extend_from_slice(head.as_bytes());
            out.resize(out.len() + ENV, b'A');
            out.extend_from_slice(br#""}}"#);
        });
    })
}

async fn make_room(
    socket: &relay::Session,
    name: &str,
    members: &[SigningKey],
) -> anyhow::Result<()> {
    let members: Vec<String> = members.iter().map(|key| key.node_id().to_string()).collect();
    let body = json!({ "conv_id": name, "members": members });
    socket.post("/v1/rooms/create", &body).await
}

async fn sends(
    run: &Run,
    store: Store,
    (name, senders, rooms, window, edge): (&str, usize, usize, usize, bool),
) -> anyhow::Result<Row> {
    let scene = Scene::open(run, store, edge).await?;
    let keys: Vec<SigningKey> = (0..senders).map(|n| key("sender", n)).collect();
    let mut publishers = Vec::new();
    let each = run.events / senders;
    for (n, own) in keys.iter().enumerate() {
        let session = relay::open_session(scene.at.addr, own).await?;
        if n < rooms {
            let members = if rooms == 1 { &keys[1..] } else { &[] };
            make_room(&session, &room_name(n), members).await?;
        }
        publishers.push(Publisher {
            frames: messages(&room_name(n % rooms), n, each),
            socket: session.socket,
            dialect: Arc::new(Acks),
            next: 0,
        });
    }
    let cpu = scene.at.watched.cpu();
    let tally = drive(&mut publishers, Pace::InFlight(window), each, run.limit).await?;
    row_of(&scene, name, cpu, tally)
}

fn row_of(scene: &Scene, name: &str, cpu: Duration, tally: Tally) -> anyhow::Result<Row> {
    ensure!(tally.refused == 0, "{} messages were refused", tally.refused);
    Ok(Row {
        server: scene.name(),
        case: name.to_owned(),
        operations: tally.stored,
        took: tally.took,
        latency: Some(tally.latency),
        cpu: Some(scene.at.watched.cpu().saturating_sub(cpu)),
        rss: Some(scene.at.watched.rss()),
        ..Row::default()
    })
}

/// Follows a conversation and waits until the replay is complete.
async fn follow(socket: &mut Socket, room: &str) -> anyhow::Result<()> {
    let body = json!({ "conv_id": room, "from_seq": 1, "notify": true });
    socket.send(&frame("conv.subscribe", "f", &body)).await?;
    let refused = socket
        .receive_until(|answer| {
            if contains(answer, b"\"t\":\"conv.subscribed\"") {
                return Some(None);
            }
            let refused = contains(answer, b"\"t\":\"error\"");
            refused.then(|| Some(String::from_utf8_lossy(answer).into_owned()))
        })
        .await?;
    ensure!(refused.is_none(), "following: {}", refused.unwrap_or_default());
    Ok(())
}

fn seq_in(event: &[u8]) -> Option<usize> {
    memmem::find(event, b"\"seq\":").and_then(|at| number_at(event, at + 6))
}

/// A room of a thousand connections: everything that is sent comes to each, in order.
async fn room(
    run: &Run,
    store: Store,
    name: &str,
    edge: bool,
    rate: Option<u32>,
) -> anyhow::Result<Row> {
    raise_open_files(2 * MEMBERS)?;
    let scene = Scene::open(run, store, edge).await?;
    let listeners: Vec<SigningKey> = (0..LISTENERS).map(|n| key("listener", n)).collect();
    // The writer is where the conversation is.
    let home = scene.home.as_ref().unwrap_or(&scene.at);
    let writer = relay::open_session(home.addr, &key("writer", 0)).await?;
    make_room(&writer, "room-0", &listeners).await?;
    let mut sockets = Vec::with_capacity(MEMBERS);
    for n in 0..MEMBERS {
        let session = relay::open_session(scene.at.addr, &listeners[n % LISTENERS]).await;
        let mut socket = session.with_context(|| format!("listener {n}"))?.socket;
        follow(&mut socket, "room-0").await?;
        sockets.push(socket);
    }
    let count = match rate {
        Some(rate) => (run.limit.as_secs_f64() * f64::from(rate)) as usize,
        None => FULL_SPEED,
    };
    let mut publisher = [Publisher {
        frames: messages("room-0", 0, count),
        socket: writer.socket,
        dialect: Arc::new(Acks),
        next: 0,
    }];
    let interval = rate.map(|rate| Duration::from_secs(1) / rate);
    let latency = RefCell::new(Histogram::default());
    let cpu = scene.at.watched.cpu();
    let start = Instant::now();
    let readers = sockets.into_iter().map(|mut socket| {
        let latency = &latency;
        async move {
            let (mut got, mut in_order) = (0, true);
            while got < count {
                let received = socket.receive(|frame| {
                    if frame.len() < EVENT_BYTES {
                        return;
                    }
                    got += 1;
                    // One in 64 is looked at where speed counts.
                    if interval.is_none() && got % 64 != 0 {
                        return;
                    }
                    in_order &= seq_in(frame) == Some(got);
                    if let Some(interval) = interval {
                        let due = start + interval * (got - 1) as u32;
                        latency.borrow_mut().record(due.elapsed());
                    }
                });
                tokio::time::timeout(SILENCE, received)
                    .await
                    .with_context(|| format!("{got} of {count} messages came"))??;
            }
            ensure!(in_order, "messages came out of order");
            anyhow::Ok(())
        }
    });
    let pace = interval.map_or(Pace::InFlight(WINDOW), Pace::Every);
    let publish = drive(&mut publisher, pace, count, run.limit + Duration::from_secs(600));
    let (sent, _) = tokio::try_join!(publish, try_join_all(readers))?;
    ensure!(sent.refused == 0, "{} messages were refused", sent.refused);
    let took = start.elapsed();
    Ok(Row {
        server: scene.name(),
        case: name.to_owned(),
        operations: (count * MEMBERS) as u64,
        took,
        latency: interval.map(|_| latency.into_inner()),
        cpu: Some(scene.at.watched.cpu().saturating_sub(cpu)),
        rss: Some(scene.at.watched.rss()),
        ..Row::default()
    })
}

/// What an authenticated socket with ten quiet subscriptions costs in memory.
async fn idle(run: &Run, store: Store) -> anyhow::Result<Row> {
    let connections = CONNECTIONS.min(most_connections()?);
    raise_open_files(connections)?;
    let scene = Scene::open(run, store, false).await?;
    let users: Vec<SigningKey> = (0..AT_ONCE).map(|n| key("idle", n)).collect();
    let owner = relay::open_session(scene.at.addr, &key("writer", 0)).await?;
    for n in 0..SUBSCRIPTIONS {
        make_room(&owner, &room_name(n), &users).await?;
    }
    let open = |users: &[SigningKey]| {
        let opened: Vec<_> = users
            .iter()
            .map(|user| {
                let (addr, user) = (scene.at.addr, user.clone());
                async move {
                    let mut socket = relay::open_session(addr, &user).await?.socket;
                    for n in 0..SUBSCRIPTIONS {
                        follow(&mut socket, &room_name(n)).await?;
                    }
                    anyhow::Ok(socket)
                }
            })
            .collect();
        try_join_all(opened)
    };
    let mut sockets = open(&users).await?;
    let before = scene.at.watched.rss();
    while sockets.len() < connections {
        sockets.extend(open(&users).await?);
    }
    let after = scene.at.watched.rss();
    let added = (sockets.len() - AT_ONCE) as f64;
    Ok(Row {
        server: scene.name(),
        case: format!("idle: {} sockets with 10 subscriptions", sockets.len()),
        rss: Some(after),
        value: Some(("KiB/connection", after.saturating_sub(before) as f64 / 1024.0 / added)),
        ..Row::default()
    })
}

/// One client reads what it missed.
async fn catch_up(run: &Run, store: Store) -> anyhow::Result<Row> {
    let scene = Scene::open(run, store, false).await?;
    let own = key("writer", 0);
    let session = relay::open_session(scene.at.addr, &own).await?;
    make_room(&session, "room-0", &[]).await?;
    let mut publisher = [Publisher {
        frames: messages("room-0", 0, BEHIND),
        socket: session.socket,
        dialect: Arc::new(Acks),
        next: 0,
    }];
    let filled =
        drive(&mut publisher, Pace::InFlight(256), BEHIND, Duration::from_secs(600)).await?;
    ensure!(filled.stored == BEHIND as u64, "{} of {BEHIND} messages are stored", filled.stored);
    let before = scene.at.watched.anonymous();
    let mut socket = relay::open_session(scene.at.addr, &own).await?.socket;
    let cpu = scene.at.watched.cpu();
    let start = Instant::now();
    let body = json!({ "conv_id": "room-0", "from_seq": 1 });
    socket.send(&frame("conv.subscribe", "f", &body)).await?;
    let (mut got, mut in_order) = (0, true);
    while got < BEHIND {
        let received = socket.receive(|frame| {
            got += 1;
            if got % 64 == 0 {
                in_order &= seq_in(frame) == Some(got);
            }
        });
        tokio::time::timeout(SILENCE, received)
            .await
            .with_context(|| format!("{got} of {BEHIND} messages came"))??;
    }
    ensure!(in_order, "messages came out of order");
    let took = start.elapsed();
    let after = scene.at.watched.anonymous();
    Ok(Row {
        server: scene.name(),
        case: CATCH_UP.to_owned(),
        operations: BEHIND as u64,
        took,
        cpu: Some(scene.at.watched.cpu().saturating_sub(cpu)),
        rss: Some(scene.at.watched.rss()),
        value: Some((
            "MiB more, database pages left out",
            after.saturating_sub(before) as f64 / 1_048_576.0,
        )),
        ..Row::default()
    })
}
