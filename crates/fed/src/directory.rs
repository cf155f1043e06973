//! The directory: which relay has which key and address (`federation.md`, Homes).
//!
//! Entries come from the configuration, from directory files that operators sign and hand out, and
//! from live peers; the first two bind a relay's name to its key, so that a relay with another
//! key is not linked to.
//!
//! # The directory file
//! ```json
//! {"v":1,"entries":[{"gateway_id":"hub-a","gateway_url":"https://hub-a.example.com","node_id":"ed25519:…",
//!   "expires_at":1767003600000}],"signed_by":"ed25519:…","sig":"…"}
//! ```
//! `expires_at` is in Unix milliseconds. `sig` is 128 hex digits: the Ed25519 signature of `signed_by` over
//! `relay-directory-v1\n` and for each entry, sorted by `gateway_id`, the line
//! `gateway_id gateway_url node_id expires_at\n` with single spaces. No member holds a space.

use std::collections::BTreeMap;

use relay_proto::{NodeId, Problem, RelayId, SigningKey, key::parse_hex};
use serde::{Deserialize, Serialize};

/// The most entries of one file; a longer one is refused.
pub const MAX_ENTRIES: usize = 10_000;
/// The longest URL, in bytes.
pub const MAX_URL: usize = 512;

/// How long a live relay's entry is good for whoever asked, in milliseconds.
pub const LIVE_MS: u64 = 45_000;

/// One relay in the directory; the answer of `GET /v1/gateways/resolve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    pub gateway_id: RelayId,
    pub gateway_url: String,
    pub node_id: NodeId,
    /// Unix milliseconds; afterwards it says nothing.
    pub expires_at: u64,
}

/// A signed directory file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryFile {
    pub v: u8,
    pub entries: Vec<DirectoryEntry>,
    pub signed_by: NodeId,
    sig: String,
}

/// Why a directory file or entry is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    #[error("this is no directory file: {0}")]
    Form(String),
    #[error("the directory file has another version than 1")]
    Version,
    #[error("a directory file has at most {MAX_ENTRIES} entries")]
    TooLong,
    #[error("'{id}': the URL is http:// or https://, of at most {MAX_URL} printable characters")]
    Url { id: RelayId },
    #[error("'{id}' is there twice")]
    Twice { id: RelayId },
    #[error("the signature of the directory file is not right")]
    Signature,
    #[error("the directory file is signed by {signer}, who is not trusted here")]
    Signer { signer: NodeId },
    #[error("'{id}' has the key {known} in the directory, not {claimed}")]
    Key { id: RelayId, known: NodeId, claimed: NodeId },
}

impl DirectoryFile {
    /// Signs entries.
    ///
    /// # Errors
    /// [`DirectoryError::Url`], [`DirectoryError::Twice`], [`DirectoryError::TooLong`].
    pub fn sign(
        mut entries: Vec<DirectoryEntry>,
        key: &SigningKey,
    ) -> Result<Self, DirectoryError> {
        entries.sort_by(|a, b| a.gateway_id.cmp(&b.gateway_id));
        check_entries(&entries)?;
        let sig = hex::encode(key.sign(&signed_bytes(&entries)));
        Ok(Self { v: 1, entries, signed_by: key.node_id(), sig })
    }

    /// Reads a file and checks its signature; whether the signer is trusted is another question.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn parse(text: &str) -> Result<Self, DirectoryError> {
        let file: Self =
            serde_json::from_str(text).map_err(|e| DirectoryError::Form(e.to_string()))?;
        if file.v != 1 {
            return Err(DirectoryError::Version);
        }
        check_entries(&file.entries)?;
        let sig = parse_hex(&file.sig).ok_or(DirectoryError::Signature)?;
        if !file.signed_by.verifies(&signed_bytes(&file.entries), &sig) {
            return Err(DirectoryError::Signature);
        }
        Ok(file)
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        // Plain structs always serialise.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

fn signed_bytes(entries: &[DirectoryEntry]) -> Vec<u8> {
    let mut sorted: Vec<&DirectoryEntry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.gateway_id.cmp(&b.gateway_id));
    let mut bytes = b"relay-directory-v1\n".to_vec();
    for DirectoryEntry { gateway_id, gateway_url, node_id, expires_at } in sorted {
        let line = format!("{gateway_id} {gateway_url} {node_id} {expires_at}\n");
        bytes.extend_from_slice(line.as_bytes());
    }
    bytes
}

fn check_entries(entries: &[DirectoryEntry]) -> Result<(), DirectoryError> {
    if entries.len() > MAX_ENTRIES {
        return Err(DirectoryError::TooLong);
    }
    let mut seen = std::collections::HashSet::with_capacity(entries.len());
    for entry in entries {
        let id = || entry.gateway_id.clone();
        let url = &entry.gateway_url;
        let scheme = url.starts_with("https://") || url.starts_with("http://");
        let printable = url.bytes().all(|b| (0x21..0x7f).contains(&b));
        if !scheme || !printable || url.len() > MAX_URL {
            return Err(DirectoryError::Url { id: id() });
        }
        if !seen.insert(&entry.gateway_id) {
            return Err(DirectoryError::Twice { id: id() });
        }
    }
    Ok(())
}

/// Everything this relay knows of where others are.
#[derive(Debug, Default)]
pub struct Directory {
    /// From the configuration: for good.
    configured: BTreeMap<RelayId, DirectoryEntry>,
    /// From signed files, at most [`MAX_ENTRIES`] in all.
    signed: BTreeMap<RelayId, DirectoryEntry>,
    /// Links that are up, at most as many as there are links.
    live: BTreeMap<RelayId, DirectoryEntry>,
}

impl Directory {
    /// # Errors
    /// [`DirectoryError::Url`], [`DirectoryError::Twice`].
    pub fn new(configured: Vec<DirectoryEntry>) -> Result<Self, DirectoryError> {
        check_entries(&configured)?;
        let configured = configured.into_iter().map(|entry| (entry.gateway_id.clone(), entry));
        Ok(Self { configured: configured.collect(), ..Self::default() })
    }

    /// Takes the entries of a file whose signer is one of `trusted`. Entries that are not expired
    /// keep their key: one with another key refuses the file, which then changes nothing.
    ///
    /// # Errors
    /// [`DirectoryError::Signer`], [`DirectoryError::Key`], [`DirectoryError::TooLong`].
    pub fn add(
        &mut self,
        now_ms: u64,
        file: &DirectoryFile,
        trusted: &[NodeId],
    ) -> Result<(), DirectoryError> {
        if !trusted.contains(&file.signed_by) {
            return Err(DirectoryError::Signer { signer: file.signed_by });
        }
        self.signed.retain(|_, entry| entry.expires_at > now_ms);
        for entry in &file.entries {
            self.check(now_ms, &entry.gateway_id, &entry.node_id)?;
        }
        let new = file.entries.iter().filter(|e| !self.signed.contains_key(&e.gateway_id)).count();
        if self.signed.len() + new > MAX_ENTRIES {
            return Err(DirectoryError::TooLong);
        }
        for entry in &file.entries {
            // Of two files the one that holds longer.
            let known = self.signed.get(&entry.gateway_id).map_or(0, |known| known.expires_at);
            if entry.expires_at > known.max(now_ms) {
                self.signed.insert(entry.gateway_id.clone(), entry.clone());
            }
        }
        Ok(())
    }

    /// Notes where a linked relay is.
    pub fn set_live(&mut self, entry: DirectoryEntry) {
        self.live.insert(entry.gateway_id.clone(), entry);
    }

    /// A link ended.
    pub fn remove_live(&mut self, id: &RelayId) {
        self.live.remove(id);
    }

    /// Where a relay is and which key it has. What is known of a live one is good for a moment.
    pub fn resolve(&self, now_ms: u64, id: &RelayId) -> Option<DirectoryEntry> {
        let live = || {
            let entry = self.live.get(id)?.clone();
            Some(DirectoryEntry { expires_at: now_ms + LIVE_MS, ..entry })
        };
        self.binding(now_ms, id).cloned().or_else(live)
    }

    /// The relay that is bound to a key, or shows it on a live link.
    pub fn by_key(&self, now_ms: u64, key: &NodeId) -> Option<DirectoryEntry> {
        let bound = self.bound(now_ms).find(|entry| entry.node_id == *key);
        bound.or_else(|| self.live.values().find(|entry| entry.node_id == *key)).cloned()
    }

    /// The relay that is bound to a URL, as `fits` says.
    pub fn by_url(&self, now_ms: u64, fits: impl Fn(&str) -> bool) -> Option<DirectoryEntry> {
        self.bound(now_ms).find(|entry| fits(&entry.gateway_url)).cloned()
    }

    fn bound(&self, now_ms: u64) -> impl Iterator<Item = &DirectoryEntry> {
        let names = self.configured.keys().chain(self.signed.keys());
        names.filter_map(move |id| self.binding(now_ms, id))
    }

    /// Refuses a key that is not the one the directory binds a relay's name to.
    ///
    /// # Errors
    /// [`DirectoryError::Key`].
    pub fn check(&self, now_ms: u64, id: &RelayId, key: &NodeId) -> Result<(), DirectoryError> {
        match self.binding(now_ms, id) {
            Some(entry) if entry.node_id != *key => {
                Err(DirectoryError::Key { id: id.clone(), known: entry.node_id, claimed: *key })
            }
            _ => Ok(()),
        }
    }

    fn binding(&self, now_ms: u64, id: &RelayId) -> Option<&DirectoryEntry> {
        let configured = self.configured.get(id);
        configured.or_else(|| self.signed.get(id)).filter(|entry| entry.expires_at > now_ms)
    }
}

impl From<DirectoryError> for Problem {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Signer { .. } | DirectoryError::Signature => {
                Self::forbidden(error.to_string())
            }
            DirectoryError::Key { .. } => {
                Self::new(relay_proto::error::Code::Conflict, error.to_string())
            }
            _ => Self::invalid(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> RelayId {
        text.parse().unwrap()
    }

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed([n; 32])
    }

    fn entry(relay: &str, n: u8, expires_at: u64) -> DirectoryEntry {
        let gateway_url = format!("https://{relay}.example.com");
        DirectoryEntry { gateway_id: id(relay), gateway_url, node_id: key(n).node_id(), expires_at }
    }

    #[test]
    fn a_signed_file_is_read_back_and_any_change_is_seen() {
        let entries = vec![entry("hub-b", 2, 2000), entry("hub-a", 1, 1000)];
        let file = DirectoryFile::sign(entries, &key(9)).unwrap();
        let text = file.to_text();
        assert_eq!(DirectoryFile::parse(&text).unwrap(), file);
        for (from, to) in [
            ("hub-a.example", "evil.example"),
            ("1000", "9000"),
            (&*key(1).node_id().to_string(), &*key(3).node_id().to_string()),
            (&*key(9).node_id().to_string(), &*key(3).node_id().to_string()),
        ] {
            assert_eq!(
                DirectoryFile::parse(&text.replace(from, to)),
                Err(DirectoryError::Signature),
                "{from}"
            );
        }
        let version = text.replace("\"v\": 1", "\"v\": 2");
        assert_eq!(DirectoryFile::parse(&version), Err(DirectoryError::Version));
        assert!(matches!(DirectoryFile::parse("{}"), Err(DirectoryError::Form(_))));
    }

    #[test]
    fn the_signature_is_over_the_documented_bytes() {
        let file = DirectoryFile::sign(vec![entry("hub-a", 1, 1000)], &key(9)).unwrap();
        let node = key(1).node_id();
        let text = format!("relay-directory-v1\nhub-a https://hub-a.example.com {node} 1000\n");
        assert_eq!(file.sig, hex::encode(key(9).sign(text.as_bytes())));
    }

    #[test]
    fn bad_entries_are_not_signed() {
        let url = |url: &str| DirectoryEntry { gateway_url: url.into(), ..entry("a", 1, 1) };
        for bad in
            ["ftp://a", "https://a b", "https://a\n", "", &format!("https://{}", "a".repeat(600))]
        {
            let refused = DirectoryFile::sign(vec![url(bad)], &key(9));
            assert_eq!(refused, Err(DirectoryError::Url { id: id("a") }), "{bad}");
        }
        let twice = DirectoryFile::sign(vec![entry("a", 1, 1), entry("a", 2, 1)], &key(9));
        assert_eq!(twice, Err(DirectoryError::Twice { id: id("a") }));
    }

    #[test]
    fn names_are_bound_to_keys_until_they_expire() {
        let mut directory = Directory::new(vec![entry("hub-a", 1, u64::MAX)]).unwrap();
        let file = |entries| DirectoryFile::sign(entries, &key(9)).unwrap();
        let trusted = [key(9).node_id()];
        let good = file(vec![entry("hub-b", 2, 1000)]);
        assert!(matches!(directory.add(0, &good, &[]), Err(DirectoryError::Signer { .. })));
        directory.add(0, &good, &trusted).unwrap();
        assert_eq!(directory.resolve(0, &id("hub-b")).unwrap().node_id, key(2).node_id());
        assert!(directory.check(0, &id("hub-b"), &key(2).node_id()).is_ok());
        assert!(directory.check(0, &id("unknown"), &key(2).node_id()).is_ok());
        assert!(matches!(
            directory.check(0, &id("hub-b"), &key(3).node_id()),
            Err(DirectoryError::Key { .. })
        ));
        // A file that would rebind a name changes nothing, not even its good entries.
        let bad = file(vec![entry("hub-a", 7, 9000), entry("hub-c", 3, 9000)]);
        assert!(matches!(directory.add(0, &bad, &trusted), Err(DirectoryError::Key { .. })));
        assert!(directory.resolve(0, &id("hub-c")).is_none());
        // After its time an entry says nothing, and the name may have another key.
        assert!(directory.resolve(1000, &id("hub-b")).is_none());
        directory.add(1000, &file(vec![entry("hub-b", 3, 5000)]), &trusted).unwrap();
        assert_eq!(directory.resolve(1000, &id("hub-b")).unwrap().node_id, key(3).node_id());
    }

    #[test]
    fn live_peers_are_found_but_bind_nothing() {
        let mut directory = Directory::default();
        directory.set_live(entry("hub-b", 2, 10));
        assert!(directory.resolve(0, &id("hub-b")).is_some());
        assert!(directory.check(0, &id("hub-b"), &key(3).node_id()).is_ok());
        directory.remove_live(&id("hub-b"));
        assert!(directory.resolve(0, &id("hub-b")).is_none());
    }
}
