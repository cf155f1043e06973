//! Hubs that an operator added while this one ran (`relay peers add`), beside those of the configuration.
//!
//! A text file, one URL a line. What is removed (`relay peers rm`) is dialled no more, unless the configuration
//! names it.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::identity::write_secret;

/// More are refused.
const MAX_PEERS: usize = 1_000;

#[derive(Debug)]
pub(super) struct AddedPeers {
    path: PathBuf,
    urls: Mutex<BTreeSet<String>>,
}

impl AddedPeers {
    /// # Errors
    /// Where the file is there and cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let urls = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        Ok(Self { path: path.to_owned(), urls: Mutex::new(urls) })
    }

    pub fn urls(&self) -> Vec<String> {
        self.lock().iter().cloned().collect()
    }

    /// Keeps a peer, durably.
    ///
    /// # Errors
    /// Where it cannot be written: then nothing is changed.
    pub fn add(&self, url: &str) -> io::Result<()> {
        self.change(|urls| urls.insert(url.to_owned()))
    }

    /// Forgets a peer, durably.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn remove(&self, url: &str) -> io::Result<()> {
        self.change(|urls| urls.remove(url))
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) -> io::Result<()> {
        let mut urls = self.lock();
        let mut new = urls.clone();
        if !change(&mut new) {
            return Ok(());
        }
        if new.len() > MAX_PEERS {
            return Err(io::Error::other("too many peers"));
        }
        let text: String = new.iter().map(|url| format!("{url}\n")).collect();
        write_secret(&self.path, text.as_bytes())?;
        *urls = new;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("links.peers");
        let peers = AddedPeers::open(&path).unwrap();
        assert_eq!(peers.urls(), [""; 0]);
        for url in ["wss://b/federate", "wss://a/federate", "wss://b/federate"] {
            peers.add(url).unwrap();
        }
        assert_eq!(
            AddedPeers::open(&path).unwrap().urls(),
            ["wss://a/federate", "wss://b/federate"]
        );
        peers.remove("wss://a/federate").unwrap();
        peers.remove("wss://c/federate").unwrap();
        assert_eq!(AddedPeers::open(&path).unwrap().urls(), ["wss://b/federate"]);
    }
}
