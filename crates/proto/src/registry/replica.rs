//! What another hub said of the homes attached to it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    gossip::{Change, Delta, Digest, Pull},
    record::Attachment,
};
use crate::address::RelayId;

/// A pull that was not answered for this long is made again.
const PULL_PATIENCE: Duration = Duration::from_secs(5);
/// The most services of a home that a peer is believed.
const MAX_SERVICES: usize = 1024;

/// A copy of one hub's log.
#[derive(Debug, Default)]
pub(super) struct Replica {
    /// `None` until the first piece of everything has come.
    incarnation: Option<u64>,
    version: u64,
    hash: u64,
    homes: HashMap<RelayId, Held>,
    /// Homes were left out, so that the hashes never agree.
    truncated: bool,
    /// What comes in place of all this, while it comes in pieces.
    staged: Option<Staged>,
    /// When a pull was sent that is not answered.
    pulled: Option<Duration>,
}

#[derive(Debug)]
struct Held {
    /// Of its last change.
    hash: u64,
}

#[derive(Debug)]
struct Staged {
    incarnation: u64,
    to: u64,
    changes: HashMap<RelayId, Change>,
}

/// What came of a delta.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Homes that changed: attached so, or not any more.
    pub changes: Vec<(RelayId, Option<Arc<Attachment>>)>,
    /// To be sent back.
    pub pull: Option<Pull>,
    /// Whether the pull is because something was missed.
    pub gap: bool,
    /// Homes left out because the peer has too many, or that no honest peer says.
    pub over_limit: u64,
}

impl Replica {
    /// The homes it holds.
    pub fn homes(&self) -> impl Iterator<Item = &RelayId> {
        self.homes.keys()
    }

    /// The link over which a pull went is gone.
    pub fn forget_pull(&mut self) {
        self.pulled = None;
        self.staged = None;
    }

    /// Compares with the peer's own digest; answers what to ask for, if anything.
    pub fn compare(&mut self, now: Duration, theirs: &Digest) -> Option<Pull> {
        let waiting = self.pulled.is_some_and(|at| now.saturating_sub(at) < PULL_PATIENCE);
        let same_run = self.incarnation == Some(theirs.incarnation);
        // A digest overtaken by deltas, which come another way round a queue, says nothing.
        let behind = !same_run || self.version <= theirs.version;
        let hash = self.truncated || self.hash == theirs.hash;
        let equal = same_run && self.version == theirs.version && hash;
        if waiting || equal || !behind {
            return None;
        }
        self.staged = None;
        if same_run && self.version < theirs.version {
            return Some(self.pull(now, self.version, false, theirs.incarnation));
        }
        Some(self.pull(now, 0, true, theirs.incarnation))
    }

    /// Takes a part of the peer's log.
    pub fn apply(&mut self, now: Duration, delta: Delta, most: usize) -> Taken {
        if delta.everything {
            return self.stage(now, delta, most);
        }
        if self.staged.is_some() {
            // Everything is under way; what changes meanwhile stands at its end.
            return Taken::default();
        }
        let mut taken = Taken::default();
        if self.incarnation != Some(delta.incarnation) || delta.from > self.version {
            let waiting = self.pulled.is_some_and(|at| now.saturating_sub(at) < PULL_PATIENCE);
            if !waiting {
                let same_run = self.incarnation == Some(delta.incarnation);
                let after = if same_run { self.version } else { 0 };
                taken.pull = Some(self.pull(now, after, !same_run, delta.incarnation));
                taken.gap = true;
            }
            return taken;
        }
        self.pulled = None;
        if delta.to <= self.version {
            return taken;
        }
        let known = self.version;
        self.version = delta.to;
        for change in delta.changes.into_iter().filter(|change| change.version > known) {
            self.take(change, most, &mut taken);
        }
        if delta.more {
            taken.pull = Some(self.pull(now, self.version, false, delta.incarnation));
        }
        taken
    }

    fn stage(&mut self, now: Duration, delta: Delta, most: usize) -> Taken {
        let mut taken = Taken::default();
        let begins = delta.from == 0;
        let follows = self.staged.as_ref().is_some_and(|staged| {
            staged.incarnation == delta.incarnation && staged.to == delta.from
        });
        if !begins && !follows {
            return taken;
        }
        let mut staged = match self.staged.take() {
            Some(staged) if follows => staged,
            _ => Staged { incarnation: delta.incarnation, to: 0, changes: HashMap::new() },
        };
        staged.to = delta.to;
        for change in delta.changes {
            // A home that changed while the pieces came stands in two of them; the later counts.
            if staged.changes.len() < most || staged.changes.contains_key(&change.home) {
                staged.changes.insert(change.home.clone(), change);
            } else {
                taken.over_limit += 1;
            }
        }
        if delta.more {
            taken.pull = Some(self.pull(now, delta.to, true, delta.incarnation));
            self.staged = Some(staged);
        } else {
            self.pulled = None;
            self.replace(staged, most, &mut taken);
        }
        taken
    }

    /// Puts everything in place of what is held.
    fn replace(&mut self, staged: Staged, most: usize, taken: &mut Taken) {
        self.incarnation = Some(staged.incarnation);
        self.version = staged.to;
        self.hash = 0;
        self.truncated = taken.over_limit > 0;
        let before = std::mem::take(&mut self.homes);
        for change in staged.changes.into_values() {
            self.take(change, most, taken);
        }
        let gone = before.into_keys().filter(|home| !self.homes.contains_key(home));
        taken.changes.extend(gone.map(|home| (home, None)));
    }

    fn take(&mut self, change: Change, most: usize, taken: &mut Taken) {
        if let Some(before) = self.homes.remove(&change.home) {
            self.hash ^= before.hash;
        }
        let Some(attachment) = &change.attachment else {
            taken.changes.push((change.home, None));
            return;
        };
        let acceptable = attachment.home == change.home && attachment.is_acceptable(MAX_SERVICES);
        if !acceptable || self.homes.len() >= most {
            taken.over_limit += 1;
            self.truncated = true;
            taken.changes.push((change.home, None));
            return;
        }
        let held = Held { hash: change.hash() };
        self.hash ^= held.hash;
        self.homes.insert(change.home.clone(), held);
        taken.changes.push((change.home, change.attachment));
    }

    fn pull(&mut self, now: Duration, after: u64, everything: bool, incarnation: u64) -> Pull {
        self.pulled = Some(now);
        Pull { incarnation, after, everything }
    }
}
