//! Groups that stay in memory between transactions.
//!
//! What is stored is the truth; a group in memory is a shortcut past reading it, which costs milliseconds in a large
//! room. A transaction takes a group out of what is kept and, once it is committed, gives it back. Whatever ends
//! otherwise (an error, a full disk, a panic) leaves it out, and the next transaction reads what is stored.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use openmls::group::MlsGroup;

/// Leaves of all groups that are kept together; a leaf is about a kilobyte.
const KEPT_LEAVES: usize = 8_192;
/// Groups that are kept.
const KEPT: usize = 128;

type GroupId = [u8; 32];

/// The groups of one state. All methods but `forget` are for the one transaction that writes.
#[derive(Default)]
pub(super) struct Groups {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// As they are stored; the one used last is the last.
    kept: Vec<(GroupId, MlsGroup)>,
    /// As the transaction under way has stored them.
    changed: Vec<(GroupId, MlsGroup)>,
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").field("kept", &self.lock().kept.len()).finish_non_exhaustive()
    }
}

impl Groups {
    /// A transaction begins. What an earlier one left and did not commit is not what is stored.
    pub fn begin(&self) {
        self.lock().changed.clear();
    }

    /// The transaction is committed.
    pub fn committed(&self) {
        let mut inner = self.lock();
        let Inner { kept, changed } = &mut *inner;
        kept.append(changed);
        let mut leaves: usize = 0;
        let keep = kept.iter().rev().take(KEPT).take_while(|(_, group)| {
            leaves += group.members().count();
            leaves <= KEPT_LEAVES
        });
        let surplus = kept.len() - keep.count();
        kept.drain(..surplus);
    }

    /// Takes a group out. The caller gives it back with [`put`](Self::put), or it is read anew next time.
    pub fn take(&self, id: &GroupId) -> Option<MlsGroup> {
        let mut inner = self.lock();
        let Inner { kept, changed } = &mut *inner;
        [changed, kept].into_iter().find_map(|groups| {
            let at = groups.iter().position(|(other, _)| other == id)?;
            Some(groups.remove(at).1)
        })
    }

    /// The group as the transaction under way has stored it.
    pub fn put(&self, id: GroupId, group: MlsGroup) {
        self.lock().changed.push((id, group));
    }

    /// What is stored is about to be another one.
    pub fn forget(&self, id: &GroupId) {
        while self.take(id).is_some() {}
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each method leaves both lists whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.lock().kept.len()
    }
}
