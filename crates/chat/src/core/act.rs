//! What the user asks for. It is noted durably here and done by [`step`](super::step).

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use relay_proto::{NodeId, conv::ConvKind};

use super::{Core, Events, changed, conv, note_group};
use crate::{
    content::{Body, Content, RoomBody, new_id},
    error::{Refusal, Result},
    mls::{context::RelayConversation, group},
    store::{
        ConvRow, Durability, Tx, random,
        rows::{Job, OutRow, PersonRow, SavedContent, Upload},
    },
    views::{ConversationState, Delivery, Event, MessageBody},
};

/// A conversation to be made.
#[derive(Debug, Clone)]
pub(crate) struct NewConversation {
    pub kind: ConvKind,
    /// Of a room.
    pub name: Option<String>,
    /// Everybody else.
    pub users: Vec<NodeId>,
    /// The relay that will number it.
    pub home: String,
    /// The room that it goes on for.
    pub replaces: Option<String>,
}

impl Core {
    /// Makes a conversation here; the relay hears of it when it is reached.
    pub fn create(&self, new: NewConversation, now_ms: u64) -> Result<(String, Events)> {
        if new.users.contains(&self.me()) {
            return Err(Refusal::Yourself.into());
        }
        let id: [u8; 32] = random()?;
        let conv_id = URL_SAFE_NO_PAD.encode(id);
        let about = RelayConversation {
            kind: new.kind,
            home: new.home.clone(),
            rejoin_key: random()?,
            creator: self.me(),
        };
        let peer = (new.kind == ConvKind::Dm).then(|| new.users.first().copied()).flatten();
        if new.kind == ConvKind::Dm && new.users.len() != 1 {
            return Err(Refusal::Dm.into());
        }
        let events = self.write(Durability::Now, |tx| {
            let provider = self.live(tx, &id);
            let group = group::create(&provider, &self.device, &id, &about)?;
            let mut row = self.row(&conv_id, &about, ConversationState::Creating, now_ms);
            note_group(&mut row, &group)?;
            row.name = new.name.clone().unwrap_or_default();
            if let Some(peer) = peer {
                // Shown by name before they are in.
                row.members.insert(peer, 0);
            }
            tx.add_conv(&mut row)?;
            tx.set_meta("vault stale", &true)?;
            enqueue(tx, &row, Job::Create { peer }, now_ms)?;
            let mut users = new.users.clone();
            users.push(self.me());
            enqueue_adds(tx, &row, &users, now_ms)?;
            if new.name.is_some() || new.replaces.is_some() {
                let (name, replaces) = (new.name.clone(), new.replaces.clone());
                let body = Body::Room(RoomBody { name, replaces, ..RoomBody::default() });
                body.check()?;
                self.enqueue_body(tx, &row, body, now_ms)?;
            }
            Ok(vec![changed(&row)])
        })?;
        Ok((conv_id, events))
    }

    pub(super) fn row(
        &self,
        conv_id: &str,
        about: &RelayConversation,
        state: ConversationState,
        now_ms: u64,
    ) -> ConvRow {
        ConvRow {
            n: 0,
            conv_id: conv_id.to_owned(),
            kind: about.kind,
            home: about.home.clone(),
            state,
            creator: about.creator,
            rejoin_key: about.rejoin_key,
            name: String::new(),
            topic: String::new(),
            label: String::new(),
            roles: BTreeMap::new(),
            members: BTreeMap::new(),
            epoch: 0,
            check: String::new(),
            next_seq: 1,
            joined_seq: 1,
            latest_seq: 0,
            read_seq: 0,
            unread: 0,
            mentions: 0,
            reads: BTreeMap::new(),
            last: None,
            created_at_ms: now_ms,
            active_at_ms: now_ms,
            muted: false,
            pinned: false,
            archived: false,
            updated_at_ms: now_ms,
            stale_epoch: None,
            pending: None,
            proposals_since_ms: None,
            asking: Vec::new(),
        }
    }

    /// Says something; gives its number in the outbox.
    pub fn say(&self, conv_id: &str, body: Body, now_ms: u64) -> Result<(i64, Events)> {
        body.check()?;
        self.write(Durability::Now, |tx| {
            let row = conv(tx, conv_id)?;
            writable(&row)?;
            self.check_target(tx, &row, &body)?;
            let n = self.enqueue_body(tx, &row, body, now_ms)?;
            let event = Event::Changed { conv_id: row.conv_id.clone(), seq: None, local: Some(n) };
            Ok((n, vec![event]))
        })
    }

    /// Edits and deletions are for own messages, room facts for those who govern.
    fn check_target(&self, tx: &Tx<'_>, row: &ConvRow, body: &Body) -> Result<()> {
        match body {
            Body::Edit { of, .. } | Body::Delete { of } => {
                let message = tx.message_by_id(row.n, of)?.ok_or(Refusal::NoMessage)?;
                if message.from != Some(self.me()) {
                    return Err(Refusal::NotYours.into());
                }
                let is_text = matches!(message.body, MessageBody::Text { .. });
                if matches!(body, Body::Edit { .. }) && !is_text {
                    return Err(Refusal::Invalid("only words can be edited".into()).into());
                }
                Ok(())
            }
            Body::React { to, .. } => {
                tx.message_by_id(row.n, to)?.map(|_| ()).ok_or_else(|| Refusal::NoMessage.into())
            }
            Body::Room(_) if row.kind == ConvKind::Dm => Err(Refusal::Dm.into()),
            Body::Room(_) if !row.governs(&self.me()) => Err(Refusal::NotAllowed.into()),
            _ => Ok(()),
        }
    }

    fn enqueue_body(&self, tx: &Tx<'_>, row: &ConvRow, body: Body, now_ms: u64) -> Result<i64> {
        let content = SavedContent(Content::new(body, now_ms)?);
        enqueue(tx, row, Job::Message { content }, now_ms)
    }

    /// Adds people to a room.
    pub fn invite(&self, conv_id: &str, users: &[NodeId], now_ms: u64) -> Result<Events> {
        self.govern(conv_id, |tx, row| {
            if users.contains(&self.me()) {
                return Err(Refusal::Yourself.into());
            }
            enqueue_adds(tx, row, users, now_ms)
        })
    }

    /// Takes people out of a room.
    pub fn remove(&self, conv_id: &str, users: Vec<NodeId>, now_ms: u64) -> Result<Events> {
        self.govern(conv_id, |tx, row| {
            if users.contains(&self.me()) {
                return Err(Refusal::Invalid("to take yourself out, leave".into()).into());
            }
            if let Some(absent) = users.iter().find(|user| !row.members.contains_key(user)) {
                return Err(Refusal::NoPerson(absent.to_string()).into());
            }
            enqueue(tx, row, Job::Remove { users }, now_ms).map(|_| ())
        })
    }

    fn govern(
        &self,
        conv_id: &str,
        act: impl FnOnce(&Tx<'_>, &ConvRow) -> Result<()>,
    ) -> Result<Events> {
        self.write(Durability::Now, |tx| {
            let row = conv(tx, conv_id)?;
            writable(&row)?;
            if row.kind == ConvKind::Dm {
                return Err(Refusal::Dm.into());
            }
            if !row.governs(&self.me()) {
                return Err(Refusal::NotAllowed.into());
            }
            act(tx, &row)?;
            Ok(vec![changed(&row)])
        })
    }

    /// Takes this user's other devices in, or an own device out, everywhere.
    pub fn devices_changed(
        &self,
        add_siblings: bool,
        remove: &[String],
        now_ms: u64,
    ) -> Result<Events> {
        self.write(Durability::Now, |tx| {
            let mut events = Vec::new();
            for row in tx.convs()? {
                if !matches!(
                    row.state,
                    ConversationState::Active | ConversationState::Invited { .. }
                ) {
                    continue;
                }
                if add_siblings {
                    let users = vec![self.me()];
                    enqueue(tx, &row, Job::Add { users, packages: BTreeMap::new() }, now_ms)?;
                }
                if !remove.is_empty() {
                    let job = Job::RemoveDevices { user: self.me(), devices: remove.to_vec() };
                    enqueue(tx, &row, job, now_ms)?;
                }
                events.push(changed(&row));
            }
            Ok(events)
        })
    }

    /// Renews this device's keys in a conversation.
    #[cfg(feature = "measure")]
    pub fn renew(&self, conv_id: &str, now_ms: u64) -> Result<()> {
        self.write(Durability::Now, |tx| {
            enqueue(tx, &conv(tx, conv_id)?, Job::Update, now_ms).map(|_| ())
        })
    }

    /// Answers an invitation with yes.
    pub fn accept(&self, conv_id: &str) -> Result<Events> {
        self.change(conv_id, |row| {
            if let ConversationState::Invited { .. } = row.state {
                row.state = ConversationState::Active;
            }
            Ok(())
        })
    }

    /// Leaves, or answers an invitation with no.
    pub fn leave(&self, conv_id: &str, now_ms: u64) -> Result<Events> {
        self.write(Durability::Now, |tx| {
            let mut row = conv(tx, conv_id)?;
            match row.state {
                ConversationState::Left | ConversationState::Removed => return Ok(Vec::new()),
                ConversationState::Leaving => return Ok(Vec::new()),
                _ => {}
            }
            // What was not sent yet is not sent any more.
            for out in tx.outbox(row.n)? {
                tx.remove_out(out.n)?;
            }
            row.state = ConversationState::Leaving;
            tx.save_conv(&row)?;
            enqueue(tx, &row, Job::Leave { proposed: false }, now_ms)?;
            Ok(vec![changed(&row)])
        })
    }

    /// Moves the read mark; gives whether others should hear of it.
    pub fn mark_read(&self, conv_id: &str, seq: Option<u64>, now_ms: u64) -> Result<Events> {
        self.write(Durability::Soon, |tx| {
            let mut row = conv(tx, conv_id)?;
            let to = seq.unwrap_or(row.latest_seq).min(row.latest_seq);
            if to <= row.read_seq {
                return Ok(Vec::new());
            }
            let had_unread = row.unread > 0;
            set_read(tx, &mut row, to, self.me())?;
            tx.save_conv(&row)?;
            if had_unread && row.state == ConversationState::Active {
                self.enqueue_body(tx, &row, Body::Read { up_to_seq: to }, now_ms)?;
            }
            Ok(vec![changed(&row)])
        })
    }

    /// Changes what only this device knows of a conversation.
    pub fn change(
        &self,
        conv_id: &str,
        change: impl FnOnce(&mut ConvRow) -> Result<()>,
    ) -> Result<Events> {
        self.write(Durability::Soon, |tx| {
            let mut row = conv(tx, conv_id)?;
            change(&mut row)?;
            tx.save_conv(&row)?;
            Ok(vec![changed(&row)])
        })
    }

    /// Changes what the user knows of somebody.
    pub fn change_person(&self, user: NodeId, change: impl FnOnce(&mut PersonRow)) -> Result<()> {
        self.write(Durability::Soon, |tx| {
            let mut person = tx.person(&user)?.unwrap_or(PersonRow {
                user,
                name: String::new(),
                verified: false,
                blocked: false,
            });
            change(&mut person);
            tx.save_person(&person)
        })
    }

    /// Tries again what had failed or waits.
    pub fn retry(&self, n: i64) -> Result<Events> {
        self.write(Durability::Soon, |tx| {
            let mut out = tx.out(n)?.ok_or(Refusal::NotWaiting)?;
            (out.failed, out.waits) = (None, None);
            tx.save_out(&out)?;
            let row = tx.conv_by_n(out.conv)?.ok_or(Refusal::NoConversation)?;
            Ok(vec![Event::Changed { conv_id: row.conv_id, seq: None, local: Some(n) }])
        })
    }

    /// Takes back what was not sent. What may have reached the relay cannot be taken back.
    pub fn take_back(&self, n: i64) -> Result<Events> {
        self.write(Durability::Soon, |tx| {
            let out = tx.out(n)?.ok_or(Refusal::NotWaiting)?;
            let row = tx.conv_by_n(out.conv)?.ok_or(Refusal::NoConversation)?;
            let on_its_way = out.sent.is_some()
                || row.pending.as_ref().is_some_and(|pending| pending.job == Some(n));
            if on_its_way && out.failed.is_none() {
                return Err(Refusal::NotWaiting.into());
            }
            tx.remove_out(n)?;
            Ok(vec![Event::Changed { conv_id: row.conv_id, seq: None, local: Some(n) }])
        })
    }
}

/// Adds people, in as many commits as it takes: what one commit and its Welcome hold together is limited.
fn enqueue_adds(tx: &Tx<'_>, row: &ConvRow, users: &[NodeId], now_ms: u64) -> Result<()> {
    for some in users.chunks(MAX_ADDED) {
        let job = Job::Add { users: some.to_vec(), packages: BTreeMap::new() };
        enqueue(tx, row, job, now_ms)?;
    }
    Ok(())
}

/// People whom one commit adds. A bundle has at most 1 MiB, and beside their part it holds the whole tree twice.
const MAX_ADDED: usize = 100;

/// Appends a job to what is to be done in a conversation.
pub(super) fn enqueue(tx: &Tx<'_>, row: &ConvRow, job: Job, now_ms: u64) -> Result<i64> {
    let mut out = OutRow {
        n: 0,
        conv: row.n,
        at_ms: now_ms,
        job,
        msg_id: new_id()?,
        sent: None,
        upload: None,
        acked: false,
        failed: None,
        waits: None,
    };
    tx.add_out(&mut out)?;
    Ok(out.n)
}

/// Moves the read mark and counts anew what lies above it.
pub(super) fn set_read(tx: &Tx<'_>, row: &mut ConvRow, to: u64, me: NodeId) -> Result<()> {
    if to <= row.read_seq {
        return Ok(());
    }
    row.read_seq = to;
    let above = tx.messages_after(row.n, to, COUNTED)?;
    let others = above.iter().filter(|message| message.from != Some(me) && counts(&message.body));
    (row.unread, row.mentions) = others.fold((0, 0), |(unread, mentions), message| {
        (unread + 1, mentions + u64::from(message.mention))
    });
    Ok(())
}

/// So many unread messages are counted exactly after a mark; nobody reads a larger number.
const COUNTED: usize = 1_000;

/// Whether a message is something to be read.
pub(super) fn counts(body: &MessageBody) -> bool {
    matches!(
        body,
        MessageBody::Text { .. } | MessageBody::File { .. } | MessageBody::Unsupported { .. }
    )
}

pub(super) fn writable(row: &ConvRow) -> Result<()> {
    match &row.state {
        ConversationState::Invited { .. } => Err(Refusal::NotAccepted.into()),
        state if state.is_writable() => Ok(()),
        _ => Err(Refusal::NotIn.into()),
    }
}

/// How far something of the outbox has got.
pub(super) fn delivery(out: &OutRow) -> Delivery {
    match (&out.failed, &out.waits, &out.sent) {
        (Some(why), ..) => Delivery::Failed { why: why.clone() },
        (_, Some((why, _)), _) => Delivery::Waiting { why: Some(why.clone()) },
        (_, _, Some(_)) => Delivery::Sending,
        _ if out.upload == Some(Upload::Begun) => Delivery::Sending,
        _ => Delivery::Waiting { why: None },
    }
}
