//! What is acknowledged survives: kill -9 under load, a full disk, a second process, damaged data.
//!
//! `RELAY_ROUNDS` sets how often the relay is killed on each store: 20, and 200 in a soak (docs/campaigns.md has
//! the last results).

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use relay_proto::{
    SigningKey,
    event::{Draft, Tags},
};
use relay_testkit::{Database, Postgres};
use serde_json::Value;
use support::{PATIENCE, RELAY, base};

/// A relay process on a data directory.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    /// Starts it; what it says instead of starting, if it does not.
    fn start(home: &Path, data: &Path) -> Result<Self, String> {
        Self::launch(serve(base(home), data))
    }

    /// As [`Self::start`], where no file may grow above `kib`.
    fn start_limited(home: &Path, data: &Path, kib: u64) -> Result<Self, String> {
        let mut command = base(home);
        // Ignored signals stay ignored over exec: the write fails instead of the process.
        let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(script).arg(RELAY);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.current_dir(home);
        command = shell;
        Self::launch(serve(command, data))
    }

    fn launch(mut command: Command) -> Result<Self, String> {
        let mut child = command.stderr(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut url, mut said) = (None, String::new());
        for line in lines.by_ref().map_while(Result::ok) {
            said += &format!("{line}\n");
            url = url.or_else(|| {
                line.split_whitespace()
                    .find(|word| word.starts_with("http://127"))
                    .map(str::to_owned)
            });
            if line.starts_with("ready") {
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Self { child, url: url.unwrap() });
            }
        }
        let ended = child.wait().unwrap();
        assert!(!ended.success());
        assert!(!said.contains("panicked"), "{said}");
        Err(said)
    }

    /// Asks it to stop; then its write-ahead log is settled into the database.
    fn stop(mut self) {
        use nix::{
            sys::signal::{Signal, kill},
            unistd::Pid,
        };
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(mut command: Command, data: &Path) -> Command {
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "text", "--data-dir"]);
    command.arg(data);
    command
}

struct Room {
    home: tempfile::TempDir,
    data: PathBuf,
    /// Where the events lie, if not in the data directory.
    database: Option<Database>,
}

impl Room {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        Self { home, data, database: None }
    }

    fn on_postgres() -> Self {
        let room = Self { database: Some(Postgres::shared().database()), ..Self::new() };
        let database = room.database.as_ref().unwrap();
        fs::write(room.url_file(), database.url()).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(room.url_file(), private).unwrap();
        room
    }

    fn url_file(&self) -> PathBuf {
        self.home.path().join("database-url")
    }

    fn start(&self) -> Process {
        let mut command = serve(base(self.home.path()), &self.data);
        if self.database.is_some() {
            command.args(["--store", "postgres", "--database-url-file"]).arg(self.url_file());
        }
        Process::launch(command).unwrap()
    }

    fn database(&self) -> PathBuf {
        self.data.join("relay.db")
    }
}

fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

fn batch(author: &SigningKey, number: &AtomicU64, count: usize) -> String {
    let events = (0..count).map(|_| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let content = format!("{number} {}", "x".repeat(600));
        let draft = Draft { kind: 1, created_at_ns: now, tags: Tags::new(), content };
        String::from_utf8(draft.sign(author).unwrap().json().to_vec()).unwrap()
    });
    format!("[{}]", events.collect::<Vec<_>>().join(","))
}

/// Publishes until told to stop or no answer comes; notes what was acknowledged.
async fn write(
    url: String,
    author: u8,
    number: Arc<AtomicU64>,
    acked: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
) {
    let (http, author) = (http(), SigningKey::from_seed([author; 32]));
    while !stop.load(Ordering::Relaxed) {
        let body = batch(&author, &number, 10);
        let Ok(answer) = http.post(format!("{url}/v1/events")).body(body).send().await else {
            return;
        };
        let Ok(answer) = answer.bytes().await else { return };
        let Ok(answer) = serde_json::from_slice::<Value>(&answer) else { return };
        let stored = answer["results"].as_array().into_iter().flatten();
        let stored = stored.filter(|result| result["status"] == "stored");
        acked.lock().unwrap().extend(stored.map(|r| r["id"].as_str().unwrap().to_owned()));
    }
}

/// How many of the events with these ids are there.
async fn found(url: &str, ids: &[String]) -> usize {
    let http = http();
    let mut found = 0;
    for ids in ids.chunks(100) {
        let url = format!("{url}/v1/events?limit=100&ids={}", ids.join(","));
        let page: Value =
            serde_json::from_slice(&http.get(url).send().await.unwrap().bytes().await.unwrap())
                .unwrap();
        found += page["events"].as_array().unwrap_or_else(|| panic!("{page}")).len();
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_nothing_acknowledged() {
    kill_in_rounds(&Room::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_nothing_acknowledged_on_postgresql() {
    kill_in_rounds(&Room::on_postgres()).await;
}

async fn kill_in_rounds(room: &Room) {
    let rounds: u64 = std::env::var("RELAY_ROUNDS").ok().map_or(20, |text| text.parse().unwrap());
    let number = Arc::new(AtomicU64::new(0));
    let mut all = 0;
    let mut process = room.start();
    for round in 0..rounds {
        let acked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (1..=4)
            .map(|author| {
                let url = process.url.clone();
                tokio::spawn(write(url, author, number.clone(), acked.clone(), stop.clone()))
            })
            .collect();
        // Not before something was acknowledged, and then at another moment each time.
        while acked.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(round * 37 % 150)).await;
        process.kill();
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        process = room.start();
        let acked = std::mem::take(&mut *acked.lock().unwrap());
        assert_eq!(found(&process.url, &acked).await, acked.len(), "round {round}");
        all += acked.len();
    }
    let count: Value = http()
        .get(format!("{}/v1/events/count", process.url))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert!(count["count"].as_u64().unwrap() >= all as u64);
    println!("{rounds} rounds, {all} acknowledged events, all there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_clearly_and_loses_nothing() {
    let room = Room::new();
    let process = Process::start_limited(room.home.path(), &room.data, 4_096).unwrap();
    let (http, author, number) = (http(), SigningKey::from_seed([1; 32]), AtomicU64::new(0));
    let mut acked = Vec::new();
    let refused = loop {
        assert!(acked.len() < 20_000, "the limit is never reached");
        let body = batch(&author, &number, 100);
        let answer =
            http.post(format!("{}/v1/events", process.url)).body(body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let results = answer["results"].as_array().unwrap().clone();
        let stored = results.iter().filter(|result| result["status"] == "stored");
        acked.extend(stored.map(|result| result["id"].as_str().unwrap().to_owned()));
        if let Some(refused) = results.into_iter().find(|result| result["status"] == "error") {
            break refused;
        }
    };
    let code = refused["code"].as_str().unwrap();
    assert!(["home_unreachable", "internal_error"].contains(&code), "{refused}");
    assert_eq!(found(&process.url, &acked).await, acked.len(), "it can still be read");
    process.kill();
    let process = room.start();
    assert_eq!(found(&process.url, &acked).await, acked.len());
    let body = batch(&author, &number, 1);
    let answer = http.post(format!("{}/v1/events", process.url)).body(body).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["results"][0]["status"], "stored", "with room again it goes on: {answer}");
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_turned_away() {
    let room = Room::new();
    let first = room.start();
    let said = Process::start(room.home.path(), &room.data).err().unwrap();
    assert!(said.contains("in use") || said.contains("another"), "{said}");
    let answer = http().get(format!("{}/readyz", first.url)).send().await.unwrap();
    assert!(answer.status().is_success(), "the first goes on");
}

#[test]
fn damaged_and_newer_data_are_refused_with_words() {
    let room = Room::new();
    room.start().stop();
    let database = room.database();
    let whole = fs::read(&database).unwrap();
    // The version of the schema, as SQLite keeps it in its header.
    let mut newer = whole.clone();
    newer[60..64].copy_from_slice(&i32::MAX.to_be_bytes());
    fs::write(&database, &newer).unwrap();
    let said = Process::start(room.home.path(), &room.data).err().unwrap();
    assert!(said.contains("newer"), "{said}");

    let mut file = fs::OpenOptions::new().read(true).write(true).open(&database).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&[0x5a; 4_096]).unwrap();
    drop(file);
    let said = Process::start(room.home.path(), &room.data).err().unwrap();
    assert!(
        said.contains("not a database") || said.contains("damaged") || said.contains("corrupt"),
        "{said}"
    );
    let mut kept = Vec::new();
    fs::File::open(&database).unwrap().read_to_end(&mut kept).unwrap();
    assert_eq!(&kept[..16], &[0x5a; 16], "what cannot be read is left as it is");
}
