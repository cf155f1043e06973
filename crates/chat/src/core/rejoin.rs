//! Coming back: after a commit that cannot be applied, after a gap, or on a new device (`mls-profile.md` 6.5, 8).

use std::collections::BTreeMap;

use relay_proto::{
    NodeId,
    conv::{ConvKind, LogEntry},
    mls::decode_base64,
};
use serde_json::json;

use super::{
    Core, Events, NewConversation, act::enqueue, apply::is_away, changed, conv, group_id, load,
    note_group, step::device_text,
};
use crate::{
    error::{Error, Hostile, Refusal, Result},
    mls::{context::RelayConversation, group, info},
    store::{
        ConvRow, Durability, OutRow, Tx,
        rows::{Asking, Job, MessageRow},
    },
    views::{ConversationState, MessageBody, Notice},
};

/// So long it is waited before it is looked again whether others went on.
const LOOK_AGAIN_MS: u64 = 10_000;
/// So long others get to go on before they are asked to let this device in (`mls-profile.md` 6.5).
const ASK_AFTER_MS: u64 = 60_000;
/// And so long they get to answer before it is looked again.
const ASKED_MS: u64 = 120_000;
const ASKED: &str = "members were asked to let this device in again";

/// A conversation out of the vault.
#[derive(Debug, Clone)]
pub(crate) struct Vaulted {
    pub conv_id: String,
    pub home: String,
    pub rejoin_key: [u8; 32],
    /// The newest entry that the relay has; what came before cannot be read here.
    pub latest_seq: u64,
}

impl Core {
    /// Begins to come back into a conversation that another device of this user was in.
    pub fn come_back(&self, from: &Vaulted, replaces: bool, now_ms: u64) -> Result<Events> {
        self.write(Durability::Now, |tx| {
            if tx.conv(&from.conv_id)?.is_some() {
                return Ok(Vec::new());
            }
            group_id(&from.conv_id)?;
            // Kind and creator are inside the GroupInfo.
            let about = RelayConversation {
                kind: ConvKind::Room,
                home: from.home.clone(),
                rejoin_key: from.rejoin_key,
                creator: self.me(),
            };
            let mut row = self.row(&from.conv_id, &about, ConversationState::Rejoining, now_ms);
            row.next_seq = from.latest_seq + 1;
            tx.add_conv(&mut row)?;
            enqueue(tx, &row, Job::Rejoin { tries: 0, replaces, ask: Asking::No }, now_ms)?;
            Ok(vec![changed(&row)])
        })
    }

    /// The published GroupInfo came: lets this device in by an external commit.
    pub fn group_info(&self, n: i64, epoch: u64, sealed: &str, now_ms: u64) -> Result<Events> {
        let built = self.write(Durability::Now, |tx| {
            let Some(mut out) = tx.out(n)? else { return Ok(Vec::new()) };
            let Some(mut row) = tx.conv_by_n(out.conv)? else { return Ok(Vec::new()) };
            if row.pending.is_some() || !is_away(&row.state) {
                return Ok(Vec::new());
            }
            if matches!(row.state, ConversationState::Stuck { .. }) && epoch <= row.epoch {
                let why = "the others have not gone on either";
                if now_ms >= out.at_ms + ASK_AFTER_MS {
                    self.ask_members(tx, &mut row, &mut out, why, now_ms)?;
                } else {
                    out.waits = Some((why.to_owned(), now_ms + LOOK_AGAIN_MS));
                    tx.save_out(&out)?;
                }
                return Ok(vec![changed(&row)]);
            }
            let id = group_id(&row.conv_id)?;
            let opened = info::open(&row.rejoin_key, &id, epoch, &decode_base64(sealed)?)?;
            let provider = self.joining(tx, &id);
            provider.storage.clear()?;
            let (_, built, about) = group::join_externally(&provider, &self.device, &id, &opened)?;
            if about.home != row.home {
                let (inside, outside) = (about.home, row.home.clone());
                return Err(Hostile::WrongHome { inside, outside }.into());
            }
            (row.kind, row.creator) = (about.kind, about.creator);
            self.keep_pending(tx, &mut row, Some(n), &built, json!({}), true)?;
            Ok(vec![changed(&row)])
        });
        match built {
            Err(Error::Hostile(why)) => self.no_way_back(n, &why.to_string(), now_ms),
            Err(Error::Mls(why)) => self.no_way_back(n, &why, now_ms),
            other => other,
        }
    }

    /// The published state does not help: only a member can let this device in.
    pub fn no_way_back(&self, n: i64, why: &str, now_ms: u64) -> Result<Events> {
        self.with_out(n, |tx, row, out| {
            self.ask_members(tx, row, out, why, now_ms)?;
            Ok(vec![changed(row)])
        })
    }

    /// Has the members asked next; once they were, waits for one of them.
    pub(super) fn ask_members(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        out: &mut OutRow,
        why: &str,
        now_ms: u64,
    ) -> Result<()> {
        let Job::Rejoin { ask, .. } = &mut out.job else { return Ok(()) };
        if *ask == Asking::Asked {
            out.waits = Some((ASKED.to_owned(), now_ms + ASKED_MS));
        } else {
            *ask = Asking::Due;
            out.waits = None;
            if let ConversationState::Stuck { help, .. } = &mut row.state {
                *help = format!("{why}: asking members to let this device in again");
            }
        }
        tx.save_out(out)?;
        tx.save_conv(row)
    }

    /// The relay has told so many members that this device wants to be let in.
    pub fn rejoin_asked(&self, n: i64, members: u64, now_ms: u64) -> Result<Events> {
        self.with_out(n, |tx, row, out| {
            if let Job::Rejoin { ask, .. } = &mut out.job {
                *ask = Asking::Asked;
            }
            out.waits = Some((ASKED.to_owned(), now_ms + ASKED_MS));
            if let ConversationState::Stuck { help, .. } = &mut row.state {
                *help = format!(
                    "{members} members were asked to let this device in again; \
                     `relay chat restart` begins a new conversation where none can"
                );
            }
            tx.save_out(out)?;
            tx.save_conv(row)?;
            Ok(vec![changed(row)])
        })
    }

    // === a new beginning ===

    /// Makes a new conversation in the place of this one, which is over here; its messages stay.
    pub fn restart(&self, conv_id: &str, now_ms: u64) -> Result<(String, Events)> {
        let row = self.store.read(|tx| conv(tx, conv_id))?;
        if !is_away(&row.state) {
            let why = "this conversation works; leave it, and make a new one";
            return Err(Refusal::Invalid(why.into()).into());
        }
        let room = row.kind == ConvKind::Room;
        let others = row.members.keys().filter(|user| **user != self.me());
        let new = NewConversation {
            kind: row.kind,
            name: Some(row.name.clone()).filter(|name| !name.is_empty() && room),
            users: others.copied().collect(),
            home: row.home.clone(),
            replaces: Some(row.conv_id.clone()).filter(|_| room),
        };
        let (new_id, mut events) = self.create(new, now_ms)?;
        events.extend(self.write(Durability::Now, |tx| self.end_replaced(tx, conv_id))?);
        Ok((new_id, events))
    }

    /// Another conversation has taken the place of one that nobody can go on in.
    pub(super) fn end_replaced(&self, tx: &Tx<'_>, conv_id: &str) -> Result<Events> {
        let Some(mut row) = tx.conv(conv_id)? else { return Ok(Vec::new()) };
        if !is_away(&row.state) {
            return Ok(Vec::new());
        }
        self.drop_pending(tx, &mut row)?;
        for out in tx.outbox(row.n)? {
            tx.remove_out(out.n)?;
        }
        row.state = ConversationState::Left;
        row.archived = true;
        self.forget_group(tx, &group_id(conv_id)?)?;
        tx.save_conv(&row)?;
        Ok(vec![changed(&row)])
    }

    /// The external commit is in the log: its group takes the place of the old one.
    pub(super) fn rejoined(
        &self,
        tx: &Tx<'_>,
        mut row: ConvRow,
        entry: &LogEntry,
    ) -> Result<Events> {
        let Some(pending) = row.pending.take() else { return Ok(Vec::new()) };
        let id = group_id(&row.conv_id)?;
        let (joining, live) = (self.joining(tx, &id), self.live(tx, &id));
        self.groups.forget(&id);
        joining.storage.promote_to(&live.storage)?;
        let group = load(&live, &id)?;
        self.note_gap(tx, &mut row, entry.seq, entry.ts_ms)?;
        row.next_seq = entry.seq + 1;
        row.joined_seq = entry.seq + 1;
        row.stale_epoch = None;
        row.updated_at_ms = entry.ts_ms;
        row.state = ConversationState::Active;
        note_group(&mut row, &group)?;
        let job: Option<OutRow> = pending.job.map(|n| tx.out(n)).transpose()?.flatten();
        if let Some(job) = &job {
            tx.remove_out(job.n)?;
        }
        if matches!(job.map(|job| job.job), Some(Job::Rejoin { replaces: true, .. })) {
            self.take_out_lost(tx, &row, &group, entry.ts_ms)?;
        }
        tx.set_meta("vault stale", &true)?;
        let line = MessageRow {
            mention: false,
            ..self.line(entry, Some(self.me()), MessageBody::Notice { notice: Notice::Rejoined })
        };
        let mut events = self.show(tx, &mut row, line, None)?;
        tx.save_conv(&row)?;
        events.push(changed(&row));
        Ok(events)
    }

    /// The user's other devices here are lost: this one takes them out.
    pub(super) fn take_out_lost(
        &self,
        tx: &Tx<'_>,
        row: &ConvRow,
        group: &openmls::group::MlsGroup,
        now_ms: u64,
    ) -> Result<()> {
        let own = |leaf: &group::Leaf| leaf.user == self.me() && leaf.device != self.device.id;
        let leaves = group::leaves(group)?;
        let devices: Vec<String> =
            leaves.iter().filter(|leaf| own(leaf)).map(|leaf| device_text(&leaf.device)).collect();
        if devices.is_empty() {
            return Ok(());
        }
        let job = Job::RemoveDevices { user: self.me(), devices };
        enqueue(tx, row, job, now_ms).map(|_| ())
    }

    /// What the vault has to hold, and what it must not hold any longer: the conversations that are over.
    #[allow(clippy::type_complexity, reason = "id, home and key of each, and ids")]
    pub fn vault_contents(&self) -> Result<(Vec<(String, String, [u8; 32])>, Vec<String>)> {
        self.store.read(|tx| {
            let (lasting, over): (Vec<_>, Vec<_>) = tx.convs()?.into_iter().partition(|row| {
                !matches!(
                    row.state,
                    ConversationState::Leaving
                        | ConversationState::Left
                        | ConversationState::Removed
                )
            });
            let lasting = lasting.into_iter().map(|row| (row.conv_id, row.home, row.rejoin_key));
            Ok((lasting.collect(), over.into_iter().map(|row| row.conv_id).collect()))
        })
    }

    /// Own devices, and in how many conversations each is.
    pub fn own_devices(&self) -> Result<BTreeMap<String, usize>> {
        self.devices_of(&self.me())
    }

    fn devices_of(&self, user: &NodeId) -> Result<BTreeMap<String, usize>> {
        self.store.read(|tx| {
            let mut devices = BTreeMap::new();
            devices.insert(self.device.device_id(), 0);
            for row in tx.convs()? {
                if !row.state.is_followed() || is_away(&row.state) {
                    continue;
                }
                let id = group_id(&row.conv_id)?;
                let provider = self.live(tx, &id);
                let group = load(&provider, &id)?;
                for leaf in group::leaves(&group)? {
                    if leaf.user == *user {
                        *devices.entry(device_text(&leaf.device)).or_default() += 1;
                    }
                }
            }
            Ok(devices)
        })
    }
}
