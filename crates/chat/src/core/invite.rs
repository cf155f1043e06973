//! The device's inbox: invitations, and the KeyPackages that others invite by (`mls-profile.md` 6.6, 6.7).

use base64::{Engine, engine::general_purpose::STANDARD};
use relay_proto::{NodeId, mls::decode_base64};
use serde::{Deserialize, Serialize};

use super::{Core, Events, act::enqueue, apply::is_away, changed, group_id, note_group};
use crate::{
    error::{Error, Hostile, Result},
    mls::group,
    store::{
        ConvRow, Durability, Tx,
        rows::{Job, MessageRow},
    },
    views::{ConversationState, Event, MessageBody, Unreadable},
};

/// One entry of the inbox; what is not of its kind is absent.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct InboxEntry {
    pub seq: u64,
    pub kind: String,
    #[serde(default)]
    pub conv_id: String,
    #[serde(default)]
    pub conv_home: String,
    /// The seq of the commit that let this device in.
    #[serde(default)]
    pub conv_seq: u64,
    pub inviter: Option<NodeId>,
    #[serde(default)]
    pub env: String,
    /// Who asks to be let in again, and with which device.
    pub user_id: Option<NodeId>,
    #[serde(default)]
    pub device_id: String,
}

/// KeyPackages to be handed in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upload {
    /// Base64.
    pub packages: Vec<String>,
    /// Base64.
    pub last_resort: Option<String>,
}

/// A KeyPackage whose private keys are here.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    reference: Vec<u8>,
    not_after_s: u64,
}

/// The pool is kept at this.
const POOL: u64 = 50;
/// Below this it is filled again.
const LOW: u64 = 20;
/// Private keys go so long after a KeyPackage has ended.
const KEEP_AFTER_S: u64 = 7 * 86_400;
/// A last resort is replaced after so long.
const LAST_RESORT_S: u64 = 28 * 86_400;

impl Core {
    /// Where the inbox goes on.
    pub fn inbox_next(&self) -> Result<u64> {
        self.store.read(|tx| Ok(tx.meta("inbox")?.unwrap_or(1)))
    }

    /// Takes one entry of the inbox.
    pub fn inbox(&self, entry: &InboxEntry, now_ms: u64) -> Result<Events> {
        if entry.seq < self.inbox_next()? {
            return Ok(Vec::new());
        }
        let taken = self.write(Durability::Now, |tx| {
            tx.set_meta("inbox", &(entry.seq + 1))?;
            match entry.kind.as_str() {
                "welcome" => self.welcome(tx, entry, now_ms),
                "rejoin_request" => self.asked_to_readmit(tx, entry, now_ms),
                _ => Ok(Vec::new()),
            }
        });
        let why = match taken {
            Err(Error::Hostile(why)) => why.to_string(),
            Err(Error::Mls(why)) => why,
            other => return other,
        };
        // The invitation changed nothing; it is passed over for good.
        tracing::warn!(seq = entry.seq, conv = entry.conv_id, why, "an invitation is refused");
        self.write(Durability::Now, |tx| tx.set_meta("inbox", &(entry.seq + 1)))?;
        let text = format!("an invitation was refused: {why}");
        Ok(vec![Event::Note { text }])
    }

    fn welcome(&self, tx: &Tx<'_>, entry: &InboxEntry, now_ms: u64) -> Result<Events> {
        let id = group_id(&entry.conv_id)?;
        let known = tx.conv(&entry.conv_id)?;
        let over = |row: &ConvRow| !row.state.is_followed() || is_away(&row.state);
        if known.as_ref().is_some_and(|row| !over(row)) {
            // This device is in already: a Welcome can only be an old one.
            return Ok(Vec::new());
        }
        let provider = self.live(tx, &id);
        let welcome = decode_base64(&entry.env)?;
        self.groups.forget(&id);
        let joined = group::join(&provider, &id, &welcome, known.is_some())?;
        if joined.about.home != entry.conv_home {
            let (inside, outside) = (joined.about.home, entry.conv_home.clone());
            return Err(Hostile::WrongHome { inside, outside }.into());
        }
        if entry.inviter != Some(joined.inviter) {
            return Err(Hostile::Inviter.into());
        }
        let mine = joined.inviter == self.me();
        let mut row = match known {
            Some(mut row) => {
                let was_away = is_away(&row.state);
                self.drop_pending(tx, &mut row)?;
                for out in tx.outbox(row.n)? {
                    let Job::Rejoin { replaces, .. } = out.job else { continue };
                    tx.remove_out(out.n)?;
                    if replaces {
                        self.take_out_lost(tx, &row, &joined.group, now_ms)?;
                    }
                }
                self.note_gap(tx, &mut row, entry.conv_seq, now_ms)?;
                let about = &joined.about;
                (row.kind, row.creator) = (about.kind, about.creator);
                (row.home, row.rejoin_key) = (about.home.clone(), about.rejoin_key);
                row.state = if was_away || mine {
                    ConversationState::Active
                } else {
                    ConversationState::Invited { by: joined.inviter }
                };
                row
            }
            None => {
                let state = if mine {
                    ConversationState::Active
                } else {
                    ConversationState::Invited { by: joined.inviter }
                };
                let mut row = self.row(&entry.conv_id, &joined.about, state, now_ms);
                tx.add_conv(&mut row)?;
                row
            }
        };
        row.next_seq = entry.conv_seq + 1;
        row.joined_seq = entry.conv_seq + 1;
        note_group(&mut row, &joined.group)?;
        tx.set_meta("vault stale", &true)?;
        let blocked = tx.person(&joined.inviter)?.is_some_and(|person| person.blocked);
        if blocked {
            row.state = ConversationState::Leaving;
            enqueue(tx, &row, Job::Leave { proposed: false }, now_ms)?;
        }
        tx.save_conv(&row)?;
        let mut events = vec![changed(&row)];
        if let ConversationState::Invited { by } = row.state {
            events.push(Event::Invited { conv_id: row.conv_id, by });
        }
        Ok(events)
    }

    /// Leaves a line where entries were passed over.
    pub(super) fn note_gap(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        next: u64,
        now_ms: u64,
    ) -> Result<()> {
        let from_seq = row.next_seq;
        if from_seq >= next || from_seq <= 1 && row.latest_seq == 0 {
            return Ok(());
        }
        let why = Unreadable::WhileAway { from_seq, to_seq: next - 1 };
        let line = MessageRow {
            seq: from_seq,
            from: None,
            device: String::new(),
            at_ms: now_ms,
            env_hash: [0; 32],
            id: None,
            body: MessageBody::Unreadable { why },
            reply_to: None,
            edited: false,
            mention: false,
            reactions: Default::default(),
        };
        row.latest_seq = from_seq;
        tx.put_message(row.n, &line, true)
    }

    /// What the pool at the relay lacks, given what it has left. Private keys are stored before anything is handed in.
    pub fn key_packages(&self, left: u64, now_ms: u64) -> Result<Option<Upload>> {
        let now_s = now_ms / 1_000;
        self.write(Durability::Now, |tx| {
            let mut kept: Vec<Kept> = tx.meta("key packages")?.unwrap_or_default();
            let last_resort_s: Option<u64> = tx.meta("last resort at")?;
            let renew = last_resort_s.is_none_or(|at| now_s > at + LAST_RESORT_S);
            if left >= LOW && !renew {
                return Ok(None);
            }
            let provider = self.live(tx, b"");
            let (ended, mut current): (Vec<Kept>, Vec<Kept>) =
                kept.drain(..).partition(|kept| now_s > kept.not_after_s + KEEP_AFTER_S);
            for old in ended {
                self.forget_key_package(&provider, &old.reference)?;
            }
            let mut upload = Upload::default();
            let mut make = |last_resort: bool| -> Result<String> {
                let made = self.device.key_package(&provider, last_resort, now_s)?;
                current.push(Kept { reference: made.reference, not_after_s: made.not_after_s });
                Ok(STANDARD.encode(made.message))
            };
            if left < LOW {
                for _ in left..POOL {
                    upload.packages.push(make(false)?);
                }
            }
            if renew {
                upload.last_resort = Some(make(true)?);
                tx.set_meta("last resort at", &now_s)?;
            }
            tx.set_meta("key packages", &current)?;
            Ok(Some(upload))
        })
    }

    fn forget_key_package(
        &self,
        provider: &crate::mls::Provider<'_>,
        reference: &[u8],
    ) -> Result<()> {
        use openmls::prelude::{KeyPackageRef, tls_codec::Deserialize};
        use openmls_traits::storage::StorageProvider;
        // A reference is `opaque<V>` of 32 bytes.
        let encoded = [&[reference.len() as u8][..], reference].concat();
        let reference = KeyPackageRef::tls_deserialize(&mut &encoded[..])
            .map_err(|error| Error::Mls(error.to_string()))?;
        provider
            .storage
            .delete_key_package(&reference)
            .map_err(|error| Error::Mls(error.to_string()))
    }
}
