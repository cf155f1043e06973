//! The member side of the chat: what groups of a size take, how soon a full profile is on the screen, and how long a
//! message of one's own needs to come back.

use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use relay_chat::{
    Chat, Options, Unlock,
    measure::{self, GroupTimes},
    views::{ConversationState, Event, MessageBody},
};
use relay_proto::SigningKey;
use relay_tui::{App, Backend, ChatBackend, Effect, Input, Settings, view};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{Run, chat::FREE};
use crate::{hist::Histogram, report::Row, server::Target};

/// Leaves of the groups.
const GROUPS: [usize; 3] = [50, 250, 1_000];
/// Commits and messages measured in each.
const ROUNDS: usize = 20;
const SCREEN: &str = "screen: 100 conversations, 1000000 messages";
const CONVERSATIONS: usize = 100;
/// Messages of the one conversation that is opened.
const LARGE: u64 = 100_000;
/// All messages together.
const STORED: u64 = 1_000_000;
const ECHO: &str = "echo: room of 50";
const MEMBERS: usize = 50;
const ECHOES: usize = 200;
/// Between two messages, as from somebody who types fast.
const PAUSE: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_secs(60);
/// Beside [`FREE`]: many KeyPackages are handed in and fetched at once.
const NO_LIMITS: &str = "kp_fetches_per_min = 0
kp_target_fetches_per_min = 0
kp_publishes_per_min = 0
";
/// Set for the process that shows the screen: where the profile is.
const PROFILE: &str = "RELAY_BENCH_PROFILE";

pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for leaves in GROUPS {
        let case = format!("group of {leaves}");
        if run.wants(&case) {
            let dir = run.servers.directory("mls")?;
            let path = dir.path().to_owned();
            let measured = tokio::task::spawn_blocking(move || {
                measure::group(&path, leaves, ROUNDS, now_ms())
            });
            rows.extend(of_group(&case, &measured.await??));
        }
    }
    if run.wants(SCREEN) {
        rows.extend(screen(run).await?);
    }
    if run.wants(ECHO) {
        for store in run.servers.stores() {
            rows.push(echo(run, store).await?);
        }
    }
    Ok(rows)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn of_group(case: &str, times: &GroupTimes) -> Vec<Row> {
    let row = |what: &str, all: &[Duration]| {
        let mut latency = Histogram::default();
        all.iter().for_each(|time| latency.record(*time));
        Row {
            server: "member".into(),
            case: format!("{case}: {what}"),
            latency: Some(latency),
            ..Row::default()
        }
    };
    let size = |what: &str, bytes: usize| Row {
        server: "member".into(),
        case: format!("{case}: {what}"),
        value: Some(("KiB", bytes as f64 / 1_024.0)),
        ..Row::default()
    };
    vec![
        row("create", &[times.create]),
        row("add 100 people, build", &times.add),
        row("join by Welcome", &[times.join]),
        row("commit, build", &times.commit),
        row("commit, process", &times.process),
        row("commit, merge the own one", &times.merge),
        row("message, encrypt", &times.send),
        row("message, decrypt", &times.receive),
        size("commit", times.commit_bytes),
        size("Welcome", times.welcome_bytes),
        size("largest bundle as sent", times.bundle_bytes),
    ]
}

// === the screen ===

/// What the process that shows the screen tells.
#[derive(Debug, Serialize, Deserialize)]
struct Shown {
    first_us: u64,
    open_us: u64,
    older_us: u64,
    rss: u64,
}

fn unlock() -> Unlock {
    Unlock::Key([3; 32].into())
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed([n; 32])
}

fn options(profile: &Path, url: &str, n: u8) -> Options {
    Options {
        profile: profile.to_owned(),
        unlock: unlock(),
        user: key(n).into(),
        relay_url: url.to_owned(),
        label: "bench".into(),
        timeout: Duration::from_secs(20),
    }
}

async fn screen(run: &Run) -> anyhow::Result<Vec<Row>> {
    let dir = run.servers.directory("mls-screen")?;
    let profile = dir.path().join("profile");
    let filled = profile.clone();
    let fill = move || {
        let rest = (STORED - LARGE) / (CONVERSATIONS as u64 - 1);
        let mut sizes = vec![rest; CONVERSATIONS];
        sizes[0] = LARGE;
        measure::fill(&filled, &unlock(), &key(1).into(), &sizes, now_ms())
    };
    tokio::task::spawn_blocking(fill).await??;
    // A process of its own, so that its memory is that of the screen.
    let mut latencies = [Histogram::default(), Histogram::default(), Histogram::default()];
    let mut rss = 0;
    for _ in 0..5 {
        let shown = Command::new(std::env::current_exe()?)
            .arg("mls")
            .env(PROFILE, &profile)
            .output()
            .context("the process that shows the screen")?;
        let error = String::from_utf8_lossy(&shown.stderr);
        ensure!(shown.status.success(), "the screen: {error}");
        let shown: Shown = serde_json::from_slice(&shown.stdout).context("what it tells")?;
        let times = [shown.first_us, shown.open_us, shown.older_us];
        for (latency, us) in latencies.iter_mut().zip(times) {
            latency.record(Duration::from_micros(us));
        }
        rss = rss.max(shown.rss);
    }
    let whats = [
        "first screen, from the opening of the profile",
        "open the chat of 100000",
        "a page further up",
    ];
    let rows = whats.into_iter().zip(latencies).map(|(what, latency)| Row {
        server: "screen".into(),
        case: format!("{SCREEN}: {what}"),
        latency: Some(latency),
        rss: Some(rss),
        ..Row::default()
    });
    Ok(rows.collect())
}

/// Whether this process is the one that shows the screen; then that is done, and nothing else is to be.
///
/// # Errors
/// What the chat says.
pub async fn shown() -> anyhow::Result<bool> {
    let Some(profile) = std::env::var_os(PROFILE) else { return Ok(false) };
    let begun = Instant::now();
    // Nobody listens there: what is seen comes from the disk.
    let chat = Chat::open(options(Path::new(&profile), "http://127.0.0.1:9", 1)).await?;
    let chat = Arc::new(chat);
    let mut desk = Desk::new(ChatBackend::new(chat.clone()))?;
    let first = begun.elapsed();
    let all = chat.conversations()?.into_iter();
    let conv_id = all.max_by_key(|view| view.latest_seq).context("an empty profile")?.conv_id;
    let begun = Instant::now();
    desk.acted(relay_tui::Act::Find { conversation: conv_id })?;
    let open = begun.elapsed();
    let begun = Instant::now();
    desk.press("pgup")?;
    desk.press("pgup")?;
    let older = begun.elapsed();
    let us = |time: Duration| time.as_micros() as u64;
    let rss = crate::proc::Watched::new([std::process::id()]).rss();
    let shown = Shown { first_us: us(first), open_us: us(open), older_us: us(older), rss };
    println!("{}", serde_json::to_string(&shown)?);
    Ok(true)
}

/// Somebody in front of a screen that nobody sees.
struct Desk {
    app: App,
    backend: ChatBackend,
    screen: ratatui::Terminal<ratatui::backend::TestBackend>,
}

impl Desk {
    fn new(backend: ChatBackend) -> anyhow::Result<Self> {
        let size = (120, 40);
        let (app, effects) = App::new(Settings::default(), size, now_ms());
        let screen = ratatui::Terminal::new(ratatui::backend::TestBackend::new(size.0, size.1))?;
        let mut desk = Self { app, backend, screen };
        desk.perform(effects)?;
        Ok(desk)
    }

    fn press(&mut self, key: &str) -> anyhow::Result<()> {
        let key = key.parse().map_err(|_| anyhow::anyhow!("no key {key}"))?;
        let effects = self.app.update(now_ms(), Input::Key(key));
        self.perform(effects)
    }

    fn acted(&mut self, act: relay_tui::Act) -> anyhow::Result<()> {
        self.perform(vec![Effect::Do(act)])
    }

    /// Does what the screen asks for until it asks no more, and draws.
    fn perform(&mut self, mut effects: Vec<Effect>) -> anyhow::Result<()> {
        loop {
            for effect in std::mem::take(&mut effects) {
                let input = match effect {
                    Effect::Ask(question) => {
                        let answer = self.backend.answer(&question);
                        Input::Answer(question, answer)
                    }
                    Effect::Do(relay_tui::Act::Find { conversation }) => {
                        let opened = relay_tui::Done::Opened(conversation.clone());
                        Input::Acted(relay_tui::Act::Find { conversation }, Ok(opened))
                    }
                    // What is said to the terminal or the relay is not waited for there either.
                    _ => continue,
                };
                effects.extend(self.app.update(now_ms(), input));
            }
            if effects.is_empty() {
                effects = self.app.settle();
            }
            if effects.is_empty() {
                self.screen.draw(|frame| view::draw(&self.app, frame))?;
                return Ok(());
            }
        }
    }
}

// === the echo ===

async fn echo(run: &Run, store: crate::server::Store) -> anyhow::Result<Row> {
    let dir = run.servers.directory("mls-echo")?;
    let file = dir.path().join("relay.toml");
    std::fs::write(&file, format!("{FREE}{NO_LIMITS}"))?;
    let mut servers = run.servers.clone();
    servers.server_args.extend(["--config".to_owned(), file.display().to_string()]);
    let relay: Target = servers.relay(store).await?;
    let open = |n: u8| {
        let options =
            options(&dir.path().join(n.to_string()), &format!("http://{}", relay.addr), n);
        async move { anyhow::Ok(Chat::open(options).await?) }
    };
    let alice = open(1).await?;
    in_time("a connection", alice.caught_up()).await??;
    let mut users = Vec::new();
    for n in 2..=MEMBERS as u8 {
        // Who was here once can be invited; more is not needed of most.
        let other = open(n).await?;
        in_time("a connection", other.caught_up()).await??;
        users.push(key(n).node_id());
        other.close().await;
    }
    let room = alice.create_room(Some("echo".into()), users).await?;
    in_time("all members", async {
        let mut events = alice.events();
        while alice.members(&room)?.iter().filter(|member| member.devices > 0).count() < MEMBERS {
            heard(&mut events).await?;
        }
        anyhow::Ok(())
    })
    .await??;
    let bob = open(2).await?;
    in_time("an invitation", async {
        let mut events = bob.events();
        let invited = |bob: &Chat| {
            let view = bob.conversation(&room).ok();
            view.is_some_and(|view| matches!(view.state, ConversationState::Invited { .. }))
        };
        while !invited(&bob) {
            heard(&mut events).await?;
        }
        anyhow::Ok(())
    })
    .await??;
    bob.accept(&room).await?;
    let mut latency = Histogram::default();
    let mut events = alice.events();
    let begun = Instant::now();
    for n in 0..ECHOES {
        let text = format!("echo {n}");
        let sent = Instant::now();
        alice.send_text(&room, text.clone(), None).await?;
        in_time("an echo", async {
            loop {
                if let Some(Event::Message { message }) = heard(&mut events).await?
                    && message.seq.is_some()
                    && message.body == (MessageBody::Text { text: text.clone() })
                {
                    return anyhow::Ok(());
                }
            }
        })
        .await??;
        latency.record(sent.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    let took = begun.elapsed();
    alice.close().await;
    bob.close().await;
    Ok(Row {
        server: relay.name.clone(),
        case: ECHO.to_owned(),
        operations: ECHOES as u64,
        took,
        latency: Some(latency),
        ..Row::default()
    })
}

async fn heard(events: &mut Receiver<Event>) -> anyhow::Result<Option<Event>> {
    match events.recv().await {
        Ok(event) => Ok(Some(event)),
        Err(RecvError::Lagged(_)) => Ok(None),
        Err(RecvError::Closed) => anyhow::bail!("the chat is closed"),
    }
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(PATIENCE, future).await.with_context(|| format!("no {what} in time"))
}
