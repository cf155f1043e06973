//! What the relay's answers change.

use relay_proto::NodeId;

use super::{CommitAnswer, Refused};
use crate::{
    core::{Core, Events, changed, conv, group_id, note_group},
    error::{Error, Result},
    store::{
        ConvRow, Durability, OutRow, Tx,
        rows::{Asking, Job},
    },
    views::{ConversationState, Event},
};

/// External commits that lose a race are built anew so often.
const REJOIN_TRIES: u32 = 5;

impl Core {
    /// The relay knows the conversation now.
    pub fn created(&self, n: i64) -> Result<Events> {
        self.with_out(n, |tx, row, out| {
            if row.state == ConversationState::Creating {
                row.state = ConversationState::Active;
            }
            tx.remove_out(out.n)?;
            tx.save_conv(row)?;
            Ok(vec![changed(row)])
        })
    }

    /// KeyPackages of a user, one for each device: device, base64.
    pub fn fetched(&self, n: i64, user: NodeId, devices: Vec<(String, String)>) -> Result<Events> {
        self.with_out(n, |tx, _, out| {
            match &mut out.job {
                Job::Add { packages, .. } => drop(packages.insert(user, devices)),
                Job::Readmit { packages, .. } => *packages = Some(devices),
                _ => return Ok(Vec::new()),
            }
            tx.save_out(out)?;
            Ok(Vec::new())
        })
    }

    /// The relay has stored a message.
    pub fn sent(&self, n: i64) -> Result<Events> {
        self.with_out(n, |tx, row, out| {
            match &mut out.job {
                // Next the user comes off the relay's list.
                Job::Leave { proposed } => *proposed = true,
                _ => out.acked = true,
            }
            tx.save_out(out)?;
            Ok(vec![self.out_changed(row, out)])
        })
    }

    /// The user is off the relay's list.
    pub fn left(&self, n: i64) -> Result<Events> {
        self.with_out(n, |tx, row, out| {
            tx.remove_out(out.n)?;
            row.state = ConversationState::Left;
            tx.save_conv(row)?;
            self.forget_group(tx, &group_id(&row.conv_id)?)?;
            Ok(vec![changed(row)])
        })
    }

    /// The relay did not take something of the outbox.
    pub fn refused(&self, n: i64, why: &Refused, now_ms: u64) -> Result<Events> {
        self.with_out(n, |tx, row, out| {
            if why.is_stale() {
                if let Some((_, epoch)) = out.sent {
                    row.stale_epoch = Some(epoch);
                    tx.save_conv(row)?;
                }
            } else if matches!(out.job, Job::Create { .. })
                && why.message == "conversation already exists"
            {
                // Nobody else chooses our 32 random bytes: the answer to an earlier try was lost.
                row.state = ConversationState::Active;
                tx.save_conv(row)?;
                tx.remove_out(out.n)?;
                return Ok(vec![changed(row)]);
            } else if let Some(pause) = why.pause_ms() {
                out.waits = Some((why.message.clone(), now_ms + pause));
                tx.save_out(out)?;
            } else if matches!(out.job, Job::Rejoin { ask: Asking::No | Asking::Asked, .. }) {
                // Nothing is published: that a member lets this device in is left.
                self.ask_members(tx, row, out, &why.message, now_ms)?;
            } else {
                out.failed = Some(why.message.clone());
                tx.save_out(out)?;
            }
            Ok(vec![self.out_changed(row, out), changed(row)])
        })
    }

    /// The relay took a commit, or not.
    pub fn commit_answered(
        &self,
        conv_id: &str,
        msg_id: &str,
        answer: &CommitAnswer,
        now_ms: u64,
    ) -> Result<Events> {
        self.write(Durability::Soon, |tx| {
            let mut row = conv(tx, conv_id)?;
            let Some(pending) = row.pending.as_mut().filter(|pending| pending.msg_id == msg_id)
            else {
                // The log was quicker.
                return Ok(Vec::new());
            };
            let why = match answer {
                CommitAnswer::Acked => {
                    pending.acked = true;
                    tx.save_conv(&row)?;
                    return Ok(Vec::new());
                }
                CommitAnswer::Refused(why) => why,
            };
            let (job, external) = (pending.job, pending.external);
            if why.is_stale() && !external {
                row.stale_epoch = Some(row.epoch);
                tx.save_conv(&row)?;
                return Ok(Vec::new());
            }
            self.drop_pending(tx, &mut row)?;
            tx.save_conv(&row)?;
            let Some(mut out) = job.map(|n| tx.out(n)).transpose()?.flatten() else {
                return Ok(vec![changed(&row)]);
            };
            if why.is_stale() {
                self.lost_rejoin_race(tx, &mut row, &mut out, now_ms)?;
            } else if let Some(pause) = why.pause_ms() {
                out.waits = Some((why.message.clone(), now_ms + pause));
                tx.save_out(&out)?;
            } else {
                out.failed = Some(why.message.clone());
                tx.save_out(&out)?;
            }
            Ok(vec![self.out_changed(&row, &out), changed(&row)])
        })
    }

    fn lost_rejoin_race(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        out: &mut OutRow,
        now_ms: u64,
    ) -> Result<()> {
        let Job::Rejoin { tries, .. } = &mut out.job else { return Ok(()) };
        *tries += 1;
        if *tries >= REJOIN_TRIES {
            out.failed = Some("others were quicker five times; try again later".into());
        } else {
            let jitter = u64::from(self.device.id[2]) * 4;
            out.waits = Some(("another change of the group was quicker".into(), now_ms + jitter));
        }
        tx.save_out(out)?;
        tx.save_conv(row)
    }

    /// Forgets the commit under way: it lost, or must not be sent any more.
    pub(in crate::core) fn drop_pending(&self, tx: &Tx<'_>, row: &mut ConvRow) -> Result<()> {
        let Some(pending) = row.pending.take() else { return Ok(()) };
        let id = group_id(&row.conv_id)?;
        if pending.external {
            return self.joining(tx, &id).storage.clear();
        }
        let provider = self.live(tx, &id);
        self.with_group(&provider, &id, |group| {
            group
                .clear_pending_commit(&provider.storage)
                .map_err(|error| Error::Mls(error.to_string()))?;
            note_group(row, group)
        })
    }

    pub(in crate::core) fn with_out(
        &self,
        n: i64,
        change: impl FnOnce(&Tx<'_>, &mut ConvRow, &mut OutRow) -> Result<Events>,
    ) -> Result<Events> {
        self.write(Durability::Soon, |tx| {
            // It may be gone: the log was quicker than the answer.
            let Some(mut out) = tx.out(n)? else { return Ok(Vec::new()) };
            let Some(mut row) = tx.conv_by_n(out.conv)? else { return Ok(Vec::new()) };
            change(tx, &mut row, &mut out)
        })
    }

    fn out_changed(&self, row: &ConvRow, out: &OutRow) -> Event {
        Event::Changed { conv_id: row.conv_id.clone(), seq: None, local: Some(out.n) }
    }
}
