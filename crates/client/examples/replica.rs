//! A replica with one writer: it follows a stream into a file of its own, and another process takes
//! over when it dies, exactly where it stopped.
//!
//! The lock decides who writes. The fence in front of the file decides again: a writer that was
//! stopped and does not know yet that it lost the lock is refused there. Data and cursor are
//! replaced together, so that an event is applied once.
//!
//! `cargo run -p relay-client --example replica -- http://127.0.0.1:8080`

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use relay_client::{
    Client, EventStream, FenceGate, FenceMode, LockGuard, LockOptions, LockRequest, Start,
    StreamItem, Subscription, keys,
    locks::new_request_id,
    proto::{
        Filter, NodeId,
        event::{Draft, Tags},
    },
};
use serde::{Deserialize, Serialize};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

const SETTING: u16 = 30_078;
const SETTINGS: usize = 10;
const CHANGES: usize = 100;

/// The replica: the latest value of each setting, and how far the stream was followed.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Replica {
    cursor: Option<String>,
    applied: usize,
    settings: BTreeMap<String, String>,
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8080".into());
    let folder = std::env::temp_dir().join(new_request_id()?);
    std::fs::create_dir(&folder)?;
    let source = Client::builder(&url)?.key(keys::generate()?).build()?;
    let author = source.signer()?.node_id();
    // Stands for the storage, which both writers reach.
    let gate = Arc::new(FenceGate::open(FenceMode::PerLease, folder.join("fence.json"))?);
    let file = folder.join("replica.json");
    let resource = format!("replica/{}", &author.to_string()[8..24]);

    let start = |name: &'static str| {
        let client = Client::builder(&url)?.key(keys::generate()?).build()?;
        let writer = Writer {
            name,
            client,
            author,
            resource: resource.clone(),
            file: file.clone(),
            gate: gate.clone(),
        };
        Ok::<_, AnyError>(tokio::spawn(writer.run()))
    };
    let (first, second) = (start("first")?, start("second")?);
    publish(&source, 0..CHANGES / 2).await?;
    wait_for(&file, CHANGES / 2).await?;
    // The one that writes dies without a word; its lease runs out, and the other goes on.
    first.abort();
    publish(&source, CHANGES / 2..CHANGES).await?;
    wait_for(&file, CHANGES).await?;
    second.abort();

    let replica = read(&file)?;
    assert_eq!(replica.applied, CHANGES, "every change was applied once");
    for setting in 0..SETTINGS {
        let latest = CHANGES - SETTINGS + setting;
        assert_eq!(replica.settings[&setting.to_string()], latest.to_string());
    }
    println!("{CHANGES} changes applied once each, across a change of writers");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

async fn publish(source: &Client, numbers: std::ops::Range<usize>) -> Result<(), AnyError> {
    for number in numbers {
        let mut tags = Tags::new();
        tags.push(["d", &(number % SETTINGS).to_string()]);
        let change = Draft { kind: SETTING, tags, content: number.to_string(), ..Draft::default() };
        source.publish(&source.sign(&change)?).await?;
    }
    Ok(())
}

struct Writer {
    name: &'static str,
    client: Client,
    author: NodeId,
    resource: String,
    file: PathBuf,
    gate: Arc<FenceGate>,
}

impl Writer {
    /// Waits for the lock, and follows the stream for as long as it is held.
    async fn run(self) -> Result<(), AnyError> {
        loop {
            let mut request = LockRequest::new(&self.resource)?;
            request.lease = Duration::from_secs(2);
            request.wait = Duration::from_secs(60);
            let lock = LockGuard::acquire(&self.client, request, LockOptions::default()).await?;
            println!("{} writes, token {}", self.name, lock.fencing_token());
            tokio::select! {
                followed = self.follow(&lock) => followed?,
                loss = lock.lost() => println!("{} stops: {loss}", self.name),
            }
        }
    }

    async fn follow(&self, lock: &LockGuard) -> Result<(), AnyError> {
        let mut replica = read(&self.file)?;
        let filter =
            Filter { kinds: vec![SETTING], authors: vec![self.author], ..Filter::default() };
        let wanted = Subscription {
            filters: vec![filter],
            start: replica.cursor.clone().map_or(Start::Beginning, Start::After),
            // Every version, also those that were replaced by the time we read.
            history: true,
            ..Subscription::default()
        };
        let mut stream = EventStream::open(&self.client, wanted).await?;
        while let Some(item) = stream.next().await? {
            let StreamItem::Event { cursor, event } = item else { continue };
            replica.settings.insert(event.d().to_owned(), event.content());
            replica.applied += 1;
            replica.cursor = Some(cursor);
            self.write(&replica, lock.fencing_token())?;
        }
        Ok(())
    }

    /// The storage's side: refuses who was overtaken, and replaces the file as a whole.
    fn write(&self, replica: &Replica, token: u64) -> Result<(), AnyError> {
        self.gate.admit(&self.resource, token)?;
        let new = self.file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(replica)?)?;
        std::fs::rename(new, &self.file)?;
        Ok(())
    }
}

fn read(file: &Path) -> Result<Replica, AnyError> {
    match std::fs::read(file) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Replica::default()),
        Err(error) => Err(error.into()),
    }
}

async fn wait_for(file: &Path, applied: usize) -> Result<(), AnyError> {
    let reached = async {
        while read(file)?.applied < applied {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(60), reached).await?
}
