//! Members' devices that have lost their state and ask to be let in again (`mls-profile.md` 6.5, 8).

use super::{Core, Events, InboxEntry, act::enqueue, changed, conv, step::device_bytes};
use crate::{
    error::{Refusal, Result},
    store::{
        Durability, Tx,
        rows::{AskingDevice, Job},
    },
    views::{ConversationState, Event},
};
use relay_proto::NodeId;

/// Requests that are kept in one conversation.
const MAX_ASKING: usize = 16;

impl Core {
    /// A member's device asks. That it is really them is for the user to say.
    pub(super) fn asked_to_readmit(
        &self,
        tx: &Tx<'_>,
        entry: &InboxEntry,
        now_ms: u64,
    ) -> Result<Events> {
        let Some(user) = entry.user_id else { return Ok(Vec::new()) };
        let device = &entry.device_id;
        let Some(mut row) = tx.conv(&entry.conv_id)? else { return Ok(Vec::new()) };
        let known = row.members.get(&user).is_some_and(|devices| *devices > 0);
        let other = device_bytes(device).is_some_and(|id| id != self.device.id);
        if row.state != ConversationState::Active || !known || !other {
            return Ok(Vec::new());
        }
        row.asking.retain(|asking| (asking.user, &asking.device) != (user, device));
        if row.asking.len() >= MAX_ASKING {
            row.asking.remove(0);
        }
        row.asking.push(AskingDevice { user, device: device.clone(), at_ms: now_ms });
        tx.save_conv(&row)?;
        let text = format!(
            "{} asks to be let into {} again, with a device that has lost its state; if it is really them, `relay chat readmit` lets them in",
            self.name_of(tx, &user)?,
            self.conv_name(tx, &row)?,
        );
        Ok(vec![changed(&row), Event::Note { text }])
    }

    /// Who asks to be let into a conversation again.
    pub fn asking(&self, conv_id: &str) -> Result<Vec<AskingDevice>> {
        self.store.read(|tx| Ok(conv(tx, conv_id)?.asking))
    }

    /// Agrees that the devices of somebody that asked are let in again.
    pub fn readmit_user(&self, conv_id: &str, user: NodeId, now_ms: u64) -> Result<Events> {
        self.write(Durability::Now, |tx| {
            let mut row = conv(tx, conv_id)?;
            let all = std::mem::take(&mut row.asking);
            let (agreed, rest): (Vec<_>, _) =
                all.into_iter().partition(|asking| asking.user == user);
            if agreed.is_empty() {
                return Err(Refusal::NobodyAsks(self.name_of(tx, &user)?).into());
            }
            row.asking = rest;
            for AskingDevice { user, device, .. } in agreed {
                enqueue(tx, &row, Job::Readmit { user, device, packages: None }, now_ms)?;
            }
            tx.save_conv(&row)?;
            Ok(vec![changed(&row)])
        })
    }
}
