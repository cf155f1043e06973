//! Devices that their users have revoked (`mls-profile.md` 4).

use std::collections::BTreeSet;

use relay_proto::NodeId;

use super::{Core, Events, act::enqueue, changed};
use crate::{
    error::Result,
    store::{Durability, Tx, rows::Job},
    views::{ConversationState, Event},
};

/// Revocations that are kept; whoever knows so many people's lost devices does without the rest.
const MAX_REVOKED: usize = 4_096;
const META: &str = "revoked devices";

impl Core {
    /// Whose revocations are of interest: everybody in a conversation that is followed, this user among them.
    pub fn acquaintances(&self) -> Result<Vec<NodeId>> {
        self.store.read(|tx| {
            let rows = tx.convs()?.into_iter().filter(|row| row.state.is_followed());
            let mut users: BTreeSet<NodeId> =
                rows.flat_map(|row| row.members.into_keys()).collect();
            users.insert(self.me());
            Ok(users.into_iter().collect())
        })
    }

    /// Takes in what users have revoked: such devices are taken out where this user may do that, and never let in again.
    pub fn revoked(&self, all: &[(NodeId, String)], now_ms: u64) -> Result<Events> {
        self.write(Durability::Now, |tx| {
            let mut known = known(tx)?;
            let new: Vec<_> = all.iter().filter(|one| !known.contains(*one)).cloned().collect();
            if new.is_empty() || known.len() + new.len() > MAX_REVOKED {
                return Ok(Vec::new());
            }
            known.extend(new.iter().cloned());
            tx.set_meta(META, &known)?;
            let mut events = Vec::new();
            for (user, device) in new {
                if (user, &device) == (self.me(), &self.device.device_id()) {
                    let text = "this device was revoked; nothing new can be read on it".into();
                    events.push(Event::Note { text });
                    continue;
                }
                for row in tx.convs()? {
                    let may = user == self.me() || row.governs(&self.me());
                    if row.state != ConversationState::Active
                        || !may
                        || !row.members.contains_key(&user)
                    {
                        continue;
                    }
                    let job = Job::RemoveDevices { user, devices: vec![device.clone()] };
                    enqueue(tx, &row, job, now_ms)?;
                    events.push(changed(&row));
                }
            }
            Ok(events)
        })
    }

    /// Whether a device's user has revoked it, as far as it was heard here.
    pub(super) fn is_revoked(&self, tx: &Tx<'_>, user: &NodeId, device: &str) -> Result<bool> {
        Ok(known(tx)?.contains(&(*user, device.to_owned())))
    }
}

fn known(tx: &Tx<'_>) -> Result<BTreeSet<(NodeId, String)>> {
    Ok(tx.meta(META)?.unwrap_or_default())
}
