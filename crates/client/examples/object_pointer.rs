//! Many writers, one pointer, on an object store without conditional writes.
//!
//! Data objects are immutable and named by their hash, so that writing them never hurts. Only the
//! small pointer object changes; it is read, changed and written under a lock. The fencing token
//! goes into the pointer's gate, so that a writer that was stopped for too long is refused instead
//! of undoing what others wrote.
//!
//! `cargo run -p relay-client --example object_pointer -- http://127.0.0.1:8080`

use std::{sync::Arc, time::Duration};

use object_store::{ObjectStore, PutPayload, local::LocalFileSystem, path::Path};
use relay_client::{
    Client, FenceGate, FenceMode, LockGuard, LockOptions, LockRequest, keys, locks::new_request_id,
};
use serde::{Deserialize, Serialize};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

const WRITERS: u64 = 6;
const ROUNDS: u64 = 5;

/// What the pointer object holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Pointer {
    version: u64,
    /// The hash of the data object, which is its name.
    data: String,
}

/// A store with a fence in front of its pointer.
struct Site {
    objects: LocalFileSystem,
    gate: FenceGate,
    resource: String,
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8080".into());
    let name = new_request_id()?.to_lowercase();
    let folder = std::env::temp_dir().join(&name);
    std::fs::create_dir(&folder)?;
    let site = Arc::new(Site {
        objects: LocalFileSystem::new_with_prefix(&folder)?,
        gate: FenceGate::new(FenceMode::PerWrite),
        resource: format!("pointer/{name}"),
    });
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let client = Client::builder(&url)?.key(keys::generate()?).build()?;
        writers.spawn(write_rounds(client, site.clone()));
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    let pointer = site.read().await?;
    assert_eq!(pointer.version, WRITERS * ROUNDS, "no update was lost");
    let data = site.objects.get(&data_path(&pointer.data)).await?.bytes().await?;
    assert_eq!(blake3::hash(&data).to_hex().as_str(), pointer.data);
    println!("{WRITERS} writers, {} updates, none lost", pointer.version);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

async fn write_rounds(client: Client, site: Arc<Site>) -> Result<(), AnyError> {
    for _ in 0..ROUNDS {
        let mut request = LockRequest::new(&site.resource)?;
        request.lease = Duration::from_secs(5);
        request.wait = Duration::from_secs(60);
        let lock = LockGuard::acquire(&client, request, LockOptions::default()).await?;
        let version = site.read().await?.version + 1;
        let data = format!("content of version {version}").into_bytes();
        let hash = blake3::hash(&data).to_hex().to_string();
        site.objects.put(&data_path(&hash), PutPayload::from(data)).await?;
        site.point_to(Pointer { version, data: hash }, lock.fencing_token()).await?;
        lock.release().await?;
    }
    Ok(())
}

impl Site {
    async fn read(&self) -> Result<Pointer, AnyError> {
        match self.objects.get(&Path::from("current.json")).await {
            Ok(found) => Ok(serde_json::from_slice(&found.bytes().await?)?),
            Err(object_store::Error::NotFound { .. }) => Ok(Pointer::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// The only way to move the pointer: past the gate.
    async fn point_to(&self, pointer: Pointer, token: u64) -> Result<(), AnyError> {
        self.gate.admit(&self.resource, token)?;
        let text = serde_json::to_vec(&pointer)?;
        self.objects.put(&Path::from("current.json"), PutPayload::from(text)).await?;
        Ok(())
    }
}

fn data_path(hash: &str) -> Path {
    Path::from(format!("data/{hash}"))
}
