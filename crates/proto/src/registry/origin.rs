//! The log of one hub: of each home the last change, by version.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    gossip::{Change, Delta, Digest, Pull},
    record::Attachment,
};
use crate::address::RelayId;

/// How many withdrawals are remembered. A peer that missed older ones gets everything.
const MAX_WITHDRAWN: usize = 4096;

/// What this hub says of the homes attached to it.
///
/// Older changes of a home fall out when it changes again, so the log is never longer than the
/// homes and [`MAX_WITHDRAWN`], and a part of it is a state, not a history: applying one twice is harmless.
#[derive(Debug)]
pub(super) struct Origin {
    incarnation: u64,
    version: u64,
    hash: u64,
    /// The last change of each home.
    log: BTreeMap<u64, Change>,
    /// Where each home's last change stands in `log`.
    at: HashMap<RelayId, u64>,
    /// Versions of withdrawals in `log`, oldest first.
    withdrawn: std::collections::VecDeque<u64>,
    /// Withdrawals up to this version may have been forgotten.
    floor: u64,
}

impl Origin {
    pub fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            version: 0,
            hash: 0,
            log: BTreeMap::new(),
            at: HashMap::new(),
            withdrawn: std::collections::VecDeque::new(),
            floor: 0,
        }
    }

    pub const fn version(&self) -> u64 {
        self.version
    }

    pub const fn digest(&self) -> Digest {
        Digest { incarnation: self.incarnation, version: self.version, hash: self.hash }
    }

    /// Writes the next version: `home` is attached so, or not any more.
    pub fn write(&mut self, home: &RelayId, attachment: Option<Arc<Attachment>>) {
        self.version += 1;
        let gone = attachment.is_none();
        let change = Change { home: home.clone(), version: self.version, attachment };
        let before = self.at.insert(home.clone(), self.version);
        let before = before.and_then(|version| self.log.remove(&version));
        if let Some(before) = before.filter(|before| before.attachment.is_some()) {
            self.hash ^= before.hash();
        }
        if gone {
            self.withdrawn.push_back(self.version);
        } else {
            self.hash ^= change.hash();
        }
        self.log.insert(self.version, change);
        self.forget_withdrawn();
    }

    /// What changed after `from`, as much of it as fits; `None` when nothing did.
    pub fn delta_after(&self, from: u64, bytes: usize) -> Option<Delta> {
        (from < self.version).then(|| self.piece(from, bytes, false))
    }

    /// Answers a pull: the range asked for, or the first piece of everything where the
    /// range is not there any more.
    pub fn answer(&self, pull: &Pull, bytes: usize) -> Delta {
        let known = pull.incarnation == self.incarnation && pull.after <= self.version;
        if known && (pull.everything || pull.after >= self.floor) {
            self.piece(pull.after, bytes, pull.everything)
        } else {
            self.piece(0, bytes, true)
        }
    }

    fn piece(&self, from: u64, bytes: usize, everything: bool) -> Delta {
        let mut changes = Vec::new();
        let mut left = bytes;
        let mut to = self.version;
        for change in self.log.range(from + 1..).map(|(_, change)| change) {
            let size = change.bytes();
            if size > left && !changes.is_empty() {
                to = changes.last().map_or(from, |change: &Change| change.version);
                break;
            }
            left = left.saturating_sub(size);
            changes.push(change.clone());
        }
        let more = to < self.version;
        Delta { incarnation: self.incarnation, from, to, everything, more, changes }
    }

    fn forget_withdrawn(&mut self) {
        while self.withdrawn.len() > MAX_WITHDRAWN {
            let Some(version) = self.withdrawn.pop_front() else { return };
            // A home that came back since has a later change, and this entry is gone already.
            if let Some(change) = self.log.remove(&version) {
                self.at.remove(&change.home);
                self.floor = version;
            }
        }
    }
}
