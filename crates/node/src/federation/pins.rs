//! Which relay has which key, as it was when it first came (`federation.md`, Links).
//!
//! A text file, one line a binding: `relay NAME KEY` for relays that came here, `url URL KEY` for hubs that
//! were dialled. Lines are only added; of two about one name the later counts, so that an operator
//! may add one, or take one out while the relay is stopped.

use std::{
    collections::HashMap,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use relay_proto::{NodeId, RelayId};

/// The bindings of a node.
#[derive(Debug)]
pub(super) struct Pins {
    path: PathBuf,
    /// By kind and name; as many as there are lines in the file.
    known: Mutex<HashMap<(Kind, String), NodeId>>,
    /// One writer at a time.
    writing: Arc<Mutex<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Relay,
    Url,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Url => "url",
        }
    }
}

impl Pins {
    /// # Errors
    /// Where the file is there and cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let known = text.lines().filter_map(read_line).collect();
        Ok(Self { path: path.to_owned(), known: Mutex::new(known), writing: Arc::default() })
    }

    /// The key that a relay is bound to.
    pub fn of_relay(&self, relay: &RelayId) -> Option<NodeId> {
        self.find(Kind::Relay, relay.as_str())
    }

    /// The key that the hub at a URL is bound to.
    pub fn of_url(&self, url: &str) -> Option<NodeId> {
        self.find(Kind::Url, url)
    }

    /// Binds a relay to its key, durably; a binding that there is stays.
    ///
    /// # Errors
    /// Where it cannot be written: then it is not bound.
    pub async fn bind_relay(&self, relay: &RelayId, key: NodeId) -> io::Result<()> {
        self.bind(Kind::Relay, relay.as_str(), key).await
    }

    /// Binds the hub at a URL to its key.
    ///
    /// # Errors
    /// As [`Self::bind_relay`].
    pub async fn bind_url(&self, url: &str, key: NodeId) -> io::Result<()> {
        self.bind(Kind::Url, url, key).await
    }

    async fn bind(&self, kind: Kind, name: &str, key: NodeId) -> io::Result<()> {
        if self.find(kind, name).is_some() {
            return Ok(());
        }
        let (path, writing) = (self.path.clone(), self.writing.clone());
        let line = format!("{} {name} {key}\n", kind.word());
        let written = tokio::task::spawn_blocking(move || {
            let _one = writing.lock().unwrap_or_else(PoisonError::into_inner);
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
            file.write_all(line.as_bytes())?;
            file.sync_data()
        });
        written.await.map_err(io::Error::other)??;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry((kind, name.to_owned())).or_insert(key);
        Ok(())
    }

    fn find(&self, kind: Kind, name: &str) -> Option<NodeId> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(kind, name.to_owned())).copied()
    }
}

fn read_line(line: &str) -> Option<((Kind, String), NodeId)> {
    let mut words = line.split_whitespace();
    let kind = match words.next()? {
        "relay" => Kind::Relay,
        "url" => Kind::Url,
        _ => return None,
    };
    Some(((kind, words.next()?.to_owned()), words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use relay_proto::SigningKey;

    use super::*;

    #[tokio::test]
    async fn a_binding_stays_and_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("links.pins");
        let (one, two) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32]));
        let relay: RelayId = "alice.home".parse().unwrap();
        let pins = Pins::open(&path).unwrap();
        assert_eq!(pins.of_relay(&relay), None);
        pins.bind_relay(&relay, one.node_id()).await.unwrap();
        pins.bind_relay(&relay, two.node_id()).await.unwrap();
        pins.bind_url("wss://hub/federate", two.node_id()).await.unwrap();
        for pins in [pins, Pins::open(&path).unwrap()] {
            assert_eq!(pins.of_relay(&relay), Some(one.node_id()));
            assert_eq!(pins.of_url("wss://hub/federate"), Some(two.node_id()));
            assert_eq!(pins.of_url("alice.home"), None);
        }
    }
}
