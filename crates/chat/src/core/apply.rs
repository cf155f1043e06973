//! What the log brings, entry by entry, in one transaction each.
//!
//! An entry is believed only as far as MLS and the profile's rules prove it. Whatever else comes, from whomever, changes
//! the cursor at most, and is shown as what it is.

use openmls::prelude::Proposal;
use relay_proto::{
    conv::{LogEntry, MessageKind},
    mls::{Accepted, Head, decode_base64},
};

use super::{
    Core, Events, about, act::enqueue, changed, conv, env_hash, group_id, note_group,
    step::Changing,
};
use crate::{
    content::Content,
    error::{Error, Hostile, Result},
    mls::group::{self, Committer, Effect, Leaf, Received},
    store::{
        ConvRow, Durability, Tx,
        rows::{Asking, Job},
    },
    views::{ConversationState, Event, MessageBody, Notice, Unreadable},
};

/// What became of an entry.
#[derive(Debug)]
pub(crate) enum Applied {
    /// It is stored and the cursor is behind it.
    Stored(Events),
    /// Was here before, or is of a conversation that is over.
    Ignored(Events),
    /// Entries are missing before it: follow the log again from the cursor.
    Gap { expected: u64 },
}

impl Core {
    /// Applies one entry of a conversation's log.
    pub fn apply(&self, entry: &LogEntry, now_ms: u64) -> Result<Applied> {
        let applied = self.write(Durability::Soon, |tx| self.apply_in(tx, entry));
        match applied {
            // The transaction was taken back; what the message did not do is noted in another one.
            Err(Error::Hostile(why)) => self.poisoned(entry, &why, now_ms),
            Err(Error::Mls(why)) => self.poisoned(entry, &Hostile::Message(why), now_ms),
            other => other,
        }
    }

    pub(super) fn apply_in(&self, tx: &Tx<'_>, entry: &LogEntry) -> Result<Applied> {
        let Some(mut row) = tx.conv(entry.conv_id.as_str())? else {
            return Ok(Applied::Ignored(Vec::new()));
        };
        if !row.state.is_followed() {
            return Ok(Applied::Ignored(Vec::new()));
        }
        let own_commit = row.pending.as_ref().is_some_and(|pending| {
            pending.msg_id == entry.msg_id.as_str() && pending.env_hash == env_hash(&entry.env)
        });
        if is_away(&row.state) {
            // Nothing can be read before this device is in again.
            if own_commit {
                return self.rejoined(tx, row, entry).map(Applied::Stored);
            }
            return Ok(Applied::Ignored(Vec::new()));
        }
        if entry.seq < row.next_seq {
            return self.seen_before(tx, &row, entry).map(Applied::Ignored);
        }
        if entry.seq > row.next_seq {
            return Ok(Applied::Gap { expected: row.next_seq });
        }
        if entry.conv_home != row.home {
            let (inside, outside) = (row.home.clone(), entry.conv_home.clone());
            return Err(Hostile::WrongHome { inside, outside }.into());
        }
        row.next_seq = entry.seq + 1;
        let mut events = if own_commit {
            self.merge_own(tx, &mut row, entry)?
        } else {
            self.apply_new(tx, &mut row, entry)?
        };
        tx.save_conv(&row)?;
        events.push(changed(&row));
        Ok(Applied::Stored(events))
    }

    /// An entry whose number was taken before: the same one again, or a fork.
    fn seen_before(&self, tx: &Tx<'_>, row: &ConvRow, entry: &LogEntry) -> Result<Events> {
        let other = tx
            .message(row.n, entry.seq)?
            .is_some_and(|message| message.env_hash != env_hash(&entry.env));
        if !other {
            return Ok(Vec::new());
        }
        let text = format!("{}, {}: {}", self.conv_name(tx, row)?, entry.seq, Hostile::Fork);
        Ok(vec![Event::Note { text }])
    }

    // === own things come back ===

    fn merge_own(&self, tx: &Tx<'_>, row: &mut ConvRow, entry: &LogEntry) -> Result<Events> {
        let Some(pending) = row.pending.take() else { return Ok(Vec::new()) };
        let id = group_id(&row.conv_id)?;
        let provider = self.live(tx, &id);
        row.stale_epoch = None;
        row.updated_at_ms = entry.ts_ms;
        let before = self.with_group(&provider, &id, |group| {
            let before = group::count_users(&group::leaves(group)?);
            group.merge_pending_commit(&provider).map_err(|error| Error::Mls(error.to_string()))?;
            note_group(row, group)?;
            Ok(before)
        })?;
        if let Some(job) = pending.job {
            tx.remove_out(job)?;
        }
        let effect = group::effect(&before, &row.members);
        self.note_effect(tx, row, entry, &effect)
    }

    /// A message of this device comes back: its text is in the outbox, for its author cannot decrypt it.
    fn own_message(&self, tx: &Tx<'_>, row: &mut ConvRow, entry: &LogEntry) -> Result<Events> {
        let out = tx.out_by_msg_id(row.n, entry.msg_id.as_str())?;
        let sent_as = |out: &crate::store::OutRow| {
            out.sent.as_ref().is_some_and(|(env, _)| *env == entry.env)
        };
        let Some(out) = out.filter(sent_as) else {
            let body = MessageBody::Unreadable { why: Unreadable::OwnBeforeRestore };
            return self.show(tx, row, self.line(entry, Some(self.me()), body), None);
        };
        match &out.job {
            Job::Message { content } => {
                tx.remove_out(out.n)?;
                let from = Leaf {
                    index: openmls::prelude::LeafNodeIndex::new(0),
                    user: self.me(),
                    device: self.device.id,
                };
                self.take_content(tx, row, entry, &from, content.0.clone(), Some(out.n))
            }
            // The removal of this leaf was proposed, and waits for another member's commit.
            _ => Ok(Vec::new()),
        }
    }

    // === what others sent ===

    fn apply_new(&self, tx: &Tx<'_>, row: &mut ConvRow, entry: &LogEntry) -> Result<Events> {
        let id = group_id(&row.conv_id)?;
        let provider = self.live(tx, &id);
        let env = decode_base64(&entry.env)?;
        let events = self.with_group(&provider, &id, |group| {
            let now_ms = entry.ts_ms;
            let on = &mut Changing { tx, row: &mut *row, provider: &provider, group, now_ms };
            match group::receive(&provider, on.group, &env)? {
                Received::Own => self.own_message(tx, on.row, entry),
                Received::Application { from, content } => {
                    self.check_author(entry, &from)?;
                    self.take_application(tx, on.row, entry, &from, &content)
                }
                Received::Proposal { from, proposal } => {
                    self.take_proposal(on, entry, &from, *proposal)
                }
                Received::Commit { from, staged } => self.take_commit(on, entry, from, *staged),
            }
        })?;
        if !row.state.is_followed() {
            // The commit took this device out.
            self.forget_group(tx, &id)?;
        }
        Ok(events)
    }

    fn take_application(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        entry: &LogEntry,
        from: &Leaf,
        content: &[u8],
    ) -> Result<Events> {
        match Content::decode(content) {
            Ok(content) => self.take_content(tx, row, entry, from, content, None),
            Err(error) => {
                let why = Unreadable::Invalid { detail: error.to_string() };
                let body = MessageBody::Unreadable { why };
                self.show(tx, row, self.line(entry, Some(from.user), body), None)
            }
        }
    }

    /// The relay names a sender too; a difference is its lie, and MLS is right. It is worth a word in the log only.
    fn check_author(&self, entry: &LogEntry, from: &Leaf) -> Result<()> {
        if entry.sender_user_id != from.user {
            tracing::warn!(
                seq = entry.seq,
                "the relay names another sender than the message proves"
            );
        }
        if entry.kind.is_some_and(|kind| kind != MessageKind::Application) {
            return Err(Hostile::Message("the relay calls a message something else".into()).into());
        }
        Ok(())
    }

    fn take_proposal(
        &self,
        on: &mut Changing<'_>,
        entry: &LogEntry,
        from: &Leaf,
        proposal: openmls::prelude::QueuedProposal,
    ) -> Result<Events> {
        // Of proposals the profile knows the wish to leave; others would make every commit one that is refused.
        let leaves = group::leaves(on.group)?;
        let leaving = match proposal.proposal() {
            Proposal::Remove(remove) => {
                leaves.iter().any(|leaf| leaf.index == remove.removed() && leaf.user == from.user)
            }
            _ => false,
        };
        if !leaving {
            tracing::warn!(seq = entry.seq, user = %from.user, "a proposal that is not part of the profile");
            return Ok(Vec::new());
        }
        on.group
            .store_pending_proposal(&on.provider.storage, proposal)
            .map_err(|error| Error::Mls(error.to_string()))?;
        on.row.proposals_since_ms.get_or_insert(entry.ts_ms);
        Ok(Vec::new())
    }

    fn take_commit(
        &self,
        on: &mut Changing<'_>,
        entry: &LogEntry,
        from: Committer,
        staged: openmls::group::StagedCommit,
    ) -> Result<Events> {
        let Changing { tx, row, provider, group, .. } = on;
        let about = about(row);
        let effect =
            group::check_commit(group, &about, from, &staged, entry.ts_ms / 1_000, |user| {
                row.governs(user)
            })?;
        let removed = staged.self_removed();
        group
            .merge_staged_commit(*provider, staged)
            .map_err(|error| Error::Mls(error.to_string()))?;
        // Ours lost the race, if there was one; its job is looked at anew.
        row.pending = None;
        row.stale_epoch = None;
        if removed {
            row.state = match row.state {
                ConversationState::Leaving => ConversationState::Left,
                _ => ConversationState::Removed,
            };
            row.members.remove(&self.me());
            for out in tx.outbox(row.n)? {
                tx.remove_out(out.n)?;
            }
        } else {
            note_group(row, group)?;
        }
        self.note_effect(tx, row, entry, &effect)
    }

    /// Shows what a commit did to people and devices.
    pub(super) fn note_effect(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        entry: &LogEntry,
        effect: &Effect,
    ) -> Result<Events> {
        let first = |users: &std::collections::BTreeSet<_>| users.iter().next().copied();
        let notice = if !effect.joined.is_empty() {
            Notice::Joined { users: effect.joined.iter().copied().collect() }
        } else if !effect.gone.is_empty() {
            Notice::Gone { users: effect.gone.iter().copied().collect() }
        } else if let Some(user) = first(&effect.devices_added) {
            Notice::DeviceAdded { user }
        } else if let Some(user) = first(&effect.devices_removed) {
            Notice::DeviceRemoved { user }
        } else {
            return Ok(Vec::new());
        };
        let body = MessageBody::Notice { notice };
        self.show(tx, row, self.line(entry, Some(entry.sender_user_id), body), None)
    }

    // === poison ===

    /// Notes that an entry cannot be applied. A commit stops the conversation (`mls-profile.md` 6.5); any other message
    /// is passed over and shown as what it is.
    fn poisoned(&self, entry: &LogEntry, why: &Hostile, now_ms: u64) -> Result<Applied> {
        self.write(Durability::Now, |tx| {
            let mut row = conv(tx, entry.conv_id.as_str())?;
            let detail = why.to_string();
            let stops = matches!(why, Hostile::WrongHome { .. }) || is_needed(entry, row.epoch);
            tracing::warn!(conv = %entry.conv_id, seq = entry.seq, %detail, "an entry cannot be applied");
            if !stops {
                row.next_seq = entry.seq + 1;
                let body = MessageBody::Unreadable { why: Unreadable::Invalid { detail } };
                let mut events = self.show(tx, &mut row, self.line(entry, None, body), None)?;
                tx.save_conv(&row)?;
                events.push(changed(&row));
                return Ok(Applied::Stored(events));
            }
            self.drop_pending(tx, &mut row)?;
            row.state = ConversationState::Stuck {
                seq: entry.seq,
                why: detail,
                help: match why {
                    Hostile::WrongHome { .. } => "do not trust this relay with this conversation".into(),
                    _ => "looking whether others went on".into(),
                },
            };
            if !matches!(why, Hostile::WrongHome { .. }) {
                enqueue(tx, &row, Job::Rejoin { tries: 0, replaces: false, ask: Asking::No }, now_ms)?;
            }
            tx.save_conv(&row)?;
            Ok(Applied::Stored(vec![changed(&row)]))
        })
    }

    /// The relay does not let this user read here any more. It may lie; what it does not deliver cannot be read either way.
    pub fn shut_out(&self, conv_id: &str) -> Result<Events> {
        self.write(Durability::Now, |tx| {
            let mut row = conv(tx, conv_id)?;
            if !row.state.is_followed() {
                return Ok(Vec::new());
            }
            row.state = match row.state {
                ConversationState::Leaving => ConversationState::Left,
                _ => ConversationState::Removed,
            };
            self.drop_pending(tx, &mut row)?;
            for out in tx.outbox(row.n)? {
                tx.remove_out(out.n)?;
            }
            self.forget_group(tx, &group_id(&row.conv_id)?)?;
            tx.save_conv(&row)?;
            Ok(vec![changed(&row)])
        })
    }

    /// The relay does not keep everything that this device has not seen.
    pub fn pruned(&self, conv_id: &str, earliest_seq: u64, now_ms: u64) -> Result<Events> {
        self.write(Durability::Now, |tx| {
            let mut row = conv(tx, conv_id)?;
            if earliest_seq <= row.next_seq || is_away(&row.state) {
                return Ok(Vec::new());
            }
            // Commits may be among what is gone: only a way around them leads on.
            self.drop_pending(tx, &mut row)?;
            row.state = ConversationState::Stuck {
                seq: row.next_seq,
                why: Unreadable::Pruned { earliest_seq }.to_string(),
                help: "coming back in by the published group state".into(),
            };
            enqueue(tx, &row, Job::Rejoin { tries: 0, replaces: false, ask: Asking::No }, now_ms)?;
            tx.save_conv(&row)?;
            Ok(vec![changed(&row)])
        })
    }
}

/// Whether nothing after this entry can be read without it: the commit that ends the present epoch, or anything of a
/// later one, whose commit was never seen.
fn is_needed(entry: &LogEntry, present: u64) -> bool {
    let Ok(head) = Head::of_base64(&entry.env) else { return false };
    let commits = matches!(head.accepted(), Some(Accepted::Commit | Accepted::ExternalCommit));
    head.place().is_some_and(|(_, epoch)| epoch > present || epoch == present && commits)
}

/// Whether this device is out of step with the group.
pub(super) fn is_away(state: &ConversationState) -> bool {
    matches!(state, ConversationState::Stuck { .. } | ConversationState::Rejoining)
}
