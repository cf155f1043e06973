//! Which requests had a grant that has ended: a late retry of one is a `conflict`.

use std::collections::{HashMap, VecDeque};

use super::Resource;
use crate::{key::NodeId, name::Namespace};

/// Names one `request_id` of one owner on one resource. A hash, so that remembering is cheap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RequestKey([u8; 16]);

impl RequestKey {
    pub fn new(ns: &Namespace, resource: &Resource, owner: &NodeId, request_id: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in [ns.as_str(), resource.as_str()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        hasher.update(owner.as_bytes()).update(request_id.as_bytes());
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        Self(key)
    }
}

/// Ended requests, each kept for the longer of its lease and ten minutes, as far as there is room.
#[derive(Debug, Default)]
pub(super) struct Recall {
    /// The last token given under each.
    ended: HashMap<RequestKey, u64>,
    /// In the order of their end: until when, which, and the token to tell a later end apart.
    order: VecDeque<(u64, RequestKey, u64)>,
}

impl Recall {
    const KEEP_MS: u64 = 600_000;

    pub fn has_ended(&self, key: &RequestKey) -> bool {
        self.ended.contains_key(key)
    }

    pub fn remember(&mut self, now: u64, key: RequestKey, token: u64, lease_ms: u64, max: usize) {
        let until = now.saturating_add(lease_ms.max(Self::KEEP_MS).saturating_mul(1_000_000));
        self.ended.insert(key, token);
        self.order.push_back((until, key, token));
        while let Some((until, key, token)) = self.order.front().copied() {
            if until > now && self.order.len() <= max {
                break;
            }
            self.order.pop_front();
            if self.ended.get(&key) == Some(&token) {
                self.ended.remove(&key);
            }
        }
    }
}
