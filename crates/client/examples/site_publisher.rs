//! Publishes a site: files become immutable objects named by their hash, a manifest lists them, and
//! the addressable event `current` points to the manifest.
//!
//! The pointer is an event, so that readers verify the publisher's signature and need not trust the
//! relay or the object store; it is fenced, so that of two publishers only the one that holds the
//! lock can move it; and its history is the history of the site.
//!
//! `cargo run -p relay-client --example site_publisher -- http://127.0.0.1:8080`

use std::{collections::BTreeMap, time::Duration};

use object_store::{ObjectStore, PutPayload, local::LocalFileSystem, path::Path};
use relay_client::{
    Client, LockGuard, LockOptions, LockRequest, keys,
    locks::new_request_id,
    proto::{
        Code, NodeId,
        event::{Draft, Tags},
    },
};
use serde::{Deserialize, Serialize};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

const CURRENT: u16 = 30_001;

/// Which object each page of the site is.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Manifest {
    pages: BTreeMap<String, String>,
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8080".into());
    let folder = std::env::temp_dir().join(new_request_id()?);
    std::fs::create_dir(&folder)?;
    let objects = LocalFileSystem::new_with_prefix(&folder)?;
    let publisher = Client::builder(&url)?.key(keys::generate()?).build()?;
    let author = publisher.signer()?.node_id();
    let site = format!("site/{}", &author.to_string()[8..24]);

    let mut request = LockRequest::new(&site)?;
    request.wait = Duration::from_secs(10);
    let lock = LockGuard::acquire(&publisher, request, LockOptions::default()).await?;
    for edition in ["first", "second"] {
        let pages = BTreeMap::from([
            ("index.html".to_owned(), format!("<h1>{edition} edition</h1>")),
            ("about.html".to_owned(), "<p>the same in every edition</p>".to_owned()),
        ]);
        publish(&publisher, &objects, &site, lock.fencing_token(), pages).await?;
        println!("published the {edition} edition of {site}");
    }
    let stale = lock.fencing_token();
    lock.release().await?;

    // A reader needs the publisher's key, and trusts nobody else.
    let reader = Client::builder(&url)?.build()?;
    let index = read_page(&reader, &objects, &author, &site, "index.html").await?;
    assert_eq!(index, "<h1>second edition</h1>");
    let editions = reader.versions(CURRENT, &author, &site, None, None).await?;
    assert_eq!(editions.events.len(), 2, "the history has both");
    // Without the lock nothing can be published any more.
    let late = publish(&publisher, &objects, &site, stale, BTreeMap::new()).await;
    let code = late.err().and_then(|error| error.downcast::<relay_client::Error>().ok()?.code());
    assert_eq!(code, Some(Code::Fenced));
    println!("a reader sees the second edition; a late publisher is refused");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// Stores what is new, then the manifest, and moves the pointer last.
async fn publish(
    client: &Client,
    objects: &LocalFileSystem,
    site: &str,
    token: u64,
    pages: BTreeMap<String, String>,
) -> Result<(), AnyError> {
    let mut manifest = Manifest { pages: BTreeMap::new() };
    for (name, text) in pages {
        manifest.pages.insert(name, store(objects, text.into_bytes()).await?);
    }
    let hash = store(objects, serde_json::to_vec(&manifest)?).await?;
    let mut tags = Tags::new();
    tags.push(["d", site]);
    tags.push(["fence", site, &token.to_string()]);
    let pointer = Draft { kind: CURRENT, tags, content: hash, ..Draft::default() };
    client.publish(&client.sign(&pointer)?).await?;
    Ok(())
}

async fn store(objects: &LocalFileSystem, data: Vec<u8>) -> Result<String, AnyError> {
    let hash = blake3::hash(&data).to_hex().to_string();
    objects.put(&Path::from(hash.clone()), PutPayload::from(data)).await?;
    Ok(hash)
}

/// From the signed pointer to the manifest to the page, checking every hash.
async fn read_page(
    client: &Client,
    objects: &LocalFileSystem,
    author: &NodeId,
    site: &str,
    page: &str,
) -> Result<String, AnyError> {
    let pointer = client.latest(CURRENT, author, site).await?;
    let manifest: Manifest = serde_json::from_slice(&fetch(objects, &pointer.content()).await?)?;
    let hash = manifest.pages.get(page).ok_or("there is no such page")?;
    Ok(String::from_utf8(fetch(objects, hash).await?)?)
}

async fn fetch(objects: &LocalFileSystem, hash: &str) -> Result<Vec<u8>, AnyError> {
    let data = objects.get(&Path::from(hash)).await?.bytes().await?;
    if blake3::hash(&data).to_hex().as_str() == hash {
        Ok(data.to_vec())
    } else {
        Err("damaged".into())
    }
}
