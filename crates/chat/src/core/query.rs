//! What there is to see, looked up in the local state.

mod search;

use std::collections::BTreeSet;

use relay_proto::{NodeId, conv::ConvKind};
use sha2::{Digest, Sha256};

use super::{
    Core,
    act::{counts, delivery},
    content::one_line,
    conv,
    step::holds_up,
};
use crate::{
    content::{Body, shortened},
    error::{Refusal, Result},
    store::{
        ConvRow, OutRow, Tx,
        rows::{Job, MessageRow, PersonRow},
    },
    views::{
        ConversationState, ConversationView, Delivery, MemberView, MessageBody, MessagePage,
        MessageView, OutboxView, PersonView, ReactionView, ReplyView, SafetyNumber,
    },
};

/// The most messages of one page.
pub(crate) const MAX_PAGE: usize = 500;
/// Bytes of a message that replies show.
const EXCERPT: usize = 80;

/// Which part of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The newest ones, and what waits to be sent.
    Newest,
    Before(u64),
    After(u64),
}

impl Core {
    pub fn conversations(&self) -> Result<Vec<ConversationView>> {
        self.store.read(|tx| {
            let rows = tx.convs()?;
            // Looked up once, not for each member of each room.
            let people = tx.people()?.into_iter().filter(|person| person.verified);
            let verified: BTreeSet<NodeId> = people.map(|person| person.user).collect();
            let view = |row| self.conversation_view(tx, row, |user| Ok(verified.contains(user)));
            let mut views: Vec<_> = rows.iter().map(view).collect::<Result<_>>()?;
            views.sort_by(|a, b| {
                (b.pinned, b.active_at_ms, &a.conv_id).cmp(&(a.pinned, a.active_at_ms, &b.conv_id))
            });
            Ok(views)
        })
    }

    pub fn conversation(&self, conv_id: &str) -> Result<ConversationView> {
        self.store.read(|tx| {
            self.conversation_view(tx, &conv(tx, conv_id)?, |user| {
                Ok(tx.person(user)?.is_some_and(|person| person.verified))
            })
        })
    }

    /// The relay is reached again: what waited for somebody is tried anew.
    pub fn connected(&self) -> Result<()> {
        self.write(crate::store::Durability::Soon, |tx| {
            for mut out in tx.whole_outbox()? {
                if out.waits.take().is_some() {
                    tx.save_out(&out)?;
                }
            }
            Ok(())
        })
    }

    /// Every conversation, where its log goes on, and whether it is followed.
    pub fn followed(&self) -> Result<Vec<(String, u64, bool)>> {
        self.store.read(|tx| {
            let rows = tx.convs()?.into_iter();
            Ok(rows.map(|row| (row.conv_id, row.next_seq, row.state.is_followed())).collect())
        })
    }

    /// Finds a conversation by what a person types: its id or the beginning of it, a room's name with or without `#`, the
    /// name or key of the other person of a direct message.
    pub fn find(&self, text: &str) -> Result<String> {
        let all = self.conversations()?;
        if all.iter().any(|view| view.conv_id == text) {
            return Ok(text.to_owned());
        }
        let wanted = text.trim_start_matches(['#', '@']).to_lowercase();
        let named: Vec<_> = all
            .iter()
            .filter(|view| view.state.is_followed() || view.state == ConversationState::Creating)
            .filter(|view| view.name.trim_start_matches('#').to_lowercase() == wanted)
            .collect();
        if let [one] = named[..] {
            return Ok(one.conv_id.clone());
        }
        if let Ok(user) = text.parse::<NodeId>()
            && let Some(dm) = self.dm_with(&user)?
        {
            return Ok(dm);
        }
        let begins: Vec<_> = all.iter().filter(|view| view.conv_id.starts_with(text)).collect();
        match (&named[..], &begins[..]) {
            ([_, _, ..], _) => Err(Refusal::Ambiguous(text.to_owned()).into()),
            (_, [one]) if text.len() >= 4 => Ok(one.conv_id.clone()),
            (_, [_, _, ..]) if text.len() >= 4 => Err(Refusal::Ambiguous(text.to_owned()).into()),
            _ => Err(Refusal::NoConversation.into()),
        }
    }

    /// The direct message with somebody, where there is a usable one.
    pub fn dm_with(&self, user: &NodeId) -> Result<Option<String>> {
        self.store.read(|tx| {
            let rows = tx.convs()?;
            let dm = rows.into_iter().find(|row| {
                row.kind == ConvKind::Dm
                    && row.members.contains_key(user)
                    && (row.state.is_followed() || row.state == ConversationState::Creating)
            });
            Ok(dm.map(|row| row.conv_id))
        })
    }

    fn conversation_view(
        &self,
        tx: &Tx<'_>,
        row: &ConvRow,
        verified: impl Fn(&NodeId) -> Result<bool>,
    ) -> Result<ConversationView> {
        let outbox = tx.outbox(row.n)?;
        let others = row.members.keys().filter(|user| **user != self.me());
        let mut verified_count = 0;
        for user in others {
            verified_count += usize::from(verified(user)?);
        }
        let waits_for = deliveries(row, &outbox).into_iter().find_map(|delivery| match delivery {
            Delivery::Waiting { why: Some(why) } | Delivery::Failed { why } => Some(why),
            _ => None,
        });
        Ok(ConversationView {
            conv_id: row.conv_id.clone(),
            kind: row.kind,
            name: self.conv_name(tx, row)?,
            topic: row.topic.clone(),
            label: row.label.clone(),
            state: row.state.clone(),
            home: row.home.clone(),
            member_count: row.members.len(),
            verified_count,
            unread: row.unread,
            mentions: row.mentions,
            read_seq: row.read_seq,
            latest_seq: row.latest_seq,
            last: row.last.clone(),
            active_at_ms: row.active_at_ms,
            muted: row.muted,
            pinned: row.pinned,
            archived: row.archived,
            waiting: outbox.len(),
            waits_for,
            epoch: row.epoch,
            check: Some(row.check.clone()).filter(|check| !check.is_empty()),
            role: row.role(&self.me()),
        })
    }

    /// What a conversation is called here.
    pub(super) fn conv_name(&self, tx: &Tx<'_>, row: &ConvRow) -> Result<String> {
        if !row.label.is_empty() {
            return Ok(row.label.clone());
        }
        if row.kind == ConvKind::Room {
            let name = if row.name.is_empty() { &row.conv_id[..8] } else { &row.name };
            return Ok(format!("#{name}"));
        }
        match row.members.keys().find(|user| **user != self.me()) {
            Some(other) => self.name_of(tx, other),
            None => Ok(row.conv_id[..8].to_owned()),
        }
    }

    pub fn name(&self, user: &NodeId) -> Result<String> {
        self.store.read(|tx| self.name_of(tx, user))
    }

    /// What somebody is called here: the name that this user gave, or the beginning of the key.
    pub(super) fn name_of(&self, tx: &Tx<'_>, user: &NodeId) -> Result<String> {
        if *user == self.me() {
            let nick: Option<String> = tx.meta("nick")?;
            return Ok(nick.unwrap_or_else(|| "me".into()));
        }
        let named = tx.person(user)?.map(|person| person.name).filter(|name| !name.is_empty());
        Ok(named.unwrap_or_else(|| short(user)))
    }

    // === timelines ===

    pub fn messages(&self, conv_id: &str, part: Part, limit: usize) -> Result<MessagePage> {
        let limit = limit.clamp(1, MAX_PAGE);
        self.store.read(|tx| {
            let row = conv(tx, conv_id)?;
            let (before, after) = match part {
                Part::Newest => (Some(u64::MAX), None),
                Part::Before(seq) => (Some(seq), None),
                Part::After(seq) => (None, Some(seq)),
            };
            let mut lines = match (before, after) {
                (Some(before), _) => tx.messages_before(row.n, before, limit + 1)?,
                (_, after) => tx.messages_after(row.n, after.unwrap_or(0), limit + 1)?,
            };
            let more = lines.len() > limit;
            lines.truncate(limit);
            if before.is_some() {
                lines.reverse();
            }
            let mut items: Vec<_> =
                lines.iter().map(|line| self.view(tx, &row, line)).collect::<Result<_>>()?;
            let newest = part == Part::Newest || after.is_some() && !more;
            if newest {
                let outs = tx.outbox(row.n)?;
                for (out, delivery) in outs.iter().zip(deliveries(&row, &outs)) {
                    items.extend(self.out_message(tx, &row, out, delivery)?);
                }
            }
            let more_after = match part {
                Part::Newest => false,
                Part::Before(seq) => row.latest_seq >= seq,
                Part::After(_) => more,
            };
            let more_before = match part {
                Part::After(seq) => seq > 0,
                _ => more,
            };
            Ok(MessagePage { items, more_before, more_after })
        })
    }

    /// One message, by its number.
    pub fn message(&self, conv_id: &str, seq: u64) -> Result<MessageView> {
        self.store.read(|tx| {
            let row = conv(tx, conv_id)?;
            let line = tx.message(row.n, seq)?.ok_or(Refusal::NoMessage)?;
            self.view(tx, &row, &line)
        })
    }

    pub(super) fn view(
        &self,
        tx: &Tx<'_>,
        row: &ConvRow,
        line: &MessageRow,
    ) -> Result<MessageView> {
        let own = line.from == Some(self.me());
        let from_name = match &line.from {
            Some(user) => self.name_of(tx, user)?,
            None => String::new(),
        };
        let reply_to = match &line.reply_to {
            None => None,
            Some(id) => Some(self.reply_view(tx, row, id)?),
        };
        let mut reactions = Vec::with_capacity(line.reactions.len());
        for (emoji, by) in &line.reactions {
            reactions.push(ReactionView {
                emoji: emoji.clone(),
                own: by.contains(&self.me()),
                by: by.iter().map(|user| self.name_of(tx, user)).collect::<Result<_>>()?,
            });
        }
        let mut read_by = Vec::new();
        if own && counts(&line.body) {
            for (user, _) in row.reads.iter().filter(|(_, seq)| **seq >= line.seq) {
                read_by.push(self.name_of(tx, user)?);
            }
        }
        Ok(MessageView {
            conv_id: row.conv_id.clone(),
            seq: Some(line.seq),
            local: None,
            id: line.id.clone(),
            from: line.from,
            from_name,
            own,
            at_ms: line.at_ms,
            body: line.body.clone(),
            edited: line.edited,
            mention: line.mention,
            reply_to,
            reactions,
            read_by,
            delivery: Delivery::Stored,
        })
    }

    fn reply_view(&self, tx: &Tx<'_>, row: &ConvRow, id: &str) -> Result<ReplyView> {
        let line = tx.message_by_id(row.n, id)?;
        let (seq, from_name, excerpt) = match &line {
            Some(line) => {
                let name = line.from.map(|user| self.name_of(tx, &user)).transpose()?;
                (Some(line.seq), name.unwrap_or_default(), excerpt(&line.body))
            }
            None => (None, String::new(), String::new()),
        };
        Ok(ReplyView { id: id.to_owned(), seq, from_name, excerpt })
    }

    /// A message that waits to be sent, as it stands in the timeline.
    fn out_message(
        &self,
        tx: &Tx<'_>,
        row: &ConvRow,
        out: &OutRow,
        delivery: Delivery,
    ) -> Result<Option<MessageView>> {
        let Job::Message { content } = &out.job else { return Ok(None) };
        let (body, reply_to) = match &content.0.body {
            Body::Text { text, reply_to } => {
                (MessageBody::Text { text: text.clone() }, reply_to.clone())
            }
            Body::File(file) => (MessageBody::File { file: file.clone() }, None),
            _ => return Ok(None),
        };
        let reply_to = reply_to.map(|id| self.reply_view(tx, row, &id)).transpose()?;
        Ok(Some(MessageView {
            conv_id: row.conv_id.clone(),
            seq: None,
            local: Some(out.n),
            id: Some(content.0.id.clone()),
            from: Some(self.me()),
            from_name: self.name_of(tx, &self.me())?,
            own: true,
            at_ms: out.at_ms,
            body,
            edited: false,
            mention: false,
            reply_to,
            reactions: Vec::new(),
            read_by: Vec::new(),
            delivery,
        }))
    }

    // === the rest ===

    pub fn outbox(&self) -> Result<Vec<OutboxView>> {
        self.store.read(|tx| {
            let mut convs: Vec<i64> = tx.whole_outbox()?.into_iter().map(|out| out.conv).collect();
            convs.sort_unstable();
            convs.dedup();
            let mut views = Vec::new();
            for n in convs {
                let Some(row) = tx.conv_by_n(n)? else { continue };
                let outs = tx.outbox(n)?;
                for (out, delivery) in outs.iter().zip(deliveries(&row, &outs)) {
                    let (kind, summary) = self.summary(tx, out)?;
                    views.push(OutboxView {
                        local: out.n,
                        conv_name: self.conv_name(tx, &row)?,
                        conv_id: row.conv_id.clone(),
                        kind,
                        summary,
                        at_ms: out.at_ms,
                        delivery,
                    });
                }
            }
            views.sort_by_key(|view| view.local);
            Ok(views)
        })
    }

    fn summary(&self, tx: &Tx<'_>, out: &OutRow) -> Result<(&'static str, String)> {
        let names = |users: &[NodeId]| -> Result<String> {
            let others = users.iter().filter(|user| **user != self.me());
            let names: Vec<_> = others.map(|user| self.name_of(tx, user)).collect::<Result<_>>()?;
            Ok(names.join(", "))
        };
        Ok(match &out.job {
            Job::Message { content } => (
                "message",
                match &content.0.body {
                    Body::Text { text, .. } => one_line(&shortened(text, EXCERPT)),
                    Body::File(file) => file.name.clone(),
                    Body::Edit { .. } => "an edit".into(),
                    Body::Delete { .. } => "a deletion".into(),
                    Body::React { emoji, .. } => emoji.clone(),
                    Body::Room(_) => "the room's name, topic or roles".into(),
                    Body::Read { .. } => "a read mark".into(),
                    Body::RejoinOk {} | Body::Unknown { .. } => String::new(),
                },
            ),
            Job::Create { .. } => ("create", String::new()),
            Job::Add { users, .. } => ("invite", names(users)?),
            Job::Remove { users } => ("remove", names(users)?),
            Job::RemoveDevices { devices, .. } => ("remove", devices.join(", ")),
            Job::Leave { .. } => ("leave", String::new()),
            Job::Update | Job::CommitProposals => ("update", String::new()),
            Job::Rejoin { .. } => ("rejoin", String::new()),
            Job::Readmit { user, .. } => ("readmit", names(&[*user])?),
        })
    }

    pub fn members(&self, conv_id: &str) -> Result<Vec<MemberView>> {
        self.store.read(|tx| {
            let row = conv(tx, conv_id)?;
            let mut views = Vec::with_capacity(row.members.len());
            for (user, devices) in &row.members {
                let person = tx.person(user)?;
                let own = *user == self.me();
                views.push(MemberView {
                    user_id: *user,
                    name: self.name_of(tx, user)?,
                    role: row.role(user),
                    devices: *devices,
                    verified: own || person.is_some_and(|person| person.verified),
                    own,
                    read_seq: if own {
                        row.read_seq
                    } else {
                        row.reads.get(user).copied().unwrap_or(0)
                    },
                    presence: None,
                });
            }
            views.sort_by(|a, b| (a.role, &a.name, a.user_id).cmp(&(b.role, &b.name, b.user_id)));
            Ok(views)
        })
    }

    pub fn people(&self) -> Result<Vec<PersonView>> {
        self.store.read(|tx| {
            let mut known: std::collections::BTreeMap<NodeId, PersonRow> =
                tx.people()?.into_iter().map(|person| (person.user, person)).collect();
            for row in tx.convs()? {
                for user in row.members.keys().filter(|user| **user != self.me()) {
                    known.entry(*user).or_insert(PersonRow {
                        user: *user,
                        name: String::new(),
                        verified: false,
                        blocked: false,
                    });
                }
            }
            let view = |person: PersonRow| {
                Ok(PersonView {
                    user_id: person.user,
                    name: self.name_of(tx, &person.user)?,
                    verified: person.verified,
                    blocked: person.blocked,
                })
            };
            known.into_values().map(view).collect()
        })
    }

    /// Somebody by name or key.
    pub fn person(&self, text: &str) -> Result<NodeId> {
        if let Ok(user) = relay_proto::auth::fold_user_id(text) {
            return Ok(user);
        }
        let wanted = text.trim_start_matches('@').to_lowercase();
        let named: Vec<_> = self
            .people()?
            .into_iter()
            .filter(|person| person.name.to_lowercase() == wanted)
            .collect();
        match &named[..] {
            [one] => Ok(one.user_id),
            [] => Err(Refusal::NoPerson(text.to_owned()).into()),
            _ => Err(Refusal::Ambiguous(text.to_owned()).into()),
        }
    }

    pub fn safety_number(&self, user: &NodeId) -> Result<SafetyNumber> {
        if *user == self.me() {
            return Err(Refusal::Yourself.into());
        }
        self.store.read(|tx| {
            Ok(SafetyNumber {
                user_id: *user,
                name: self.name_of(tx, user)?,
                digits: safety_digits(&self.me(), user),
                verified: tx.person(user)?.is_some_and(|person| person.verified),
            })
        })
    }
}

/// How far everything in a conversation's outbox has got, what stands behind something that holds it up included.
fn deliveries(row: &ConvRow, outs: &[OutRow]) -> Vec<Delivery> {
    let mut held: Option<String> = None;
    let deliveries = outs.iter().map(|out| {
        let own = delivery(out);
        if let (Some(why), Delivery::Waiting { why: None }) = (&held, &own) {
            return Delivery::Waiting { why: Some(why.clone()) };
        }
        if let Delivery::Waiting { why: Some(why) } | Delivery::Failed { why } = &own
            && holds_up(row, &out.job)
        {
            held = Some(why.clone());
        }
        own
    });
    deliveries.collect()
}

/// The number that two people compare (`mls-profile.md` 3).
pub(crate) fn safety_digits(a: &NodeId, b: &NodeId) -> String {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    let mut hasher = Sha256::new();
    hasher.update(b"relay-mls/1 safety\0");
    hasher.update(low.as_bytes());
    hasher.update(high.as_bytes());
    let hash = hasher.finalize();
    // 30 bytes are 12 groups of 20 bits.
    let bit = |at: usize| u32::from(hash[at / 8] >> (7 - at % 8) & 1);
    let groups: Vec<String> = (0..12)
        .map(|group| {
            let number = (0..20).fold(0, |number, at| number << 1 | bit(group * 20 + at));
            format!("{:05}", number % 100_000)
        })
        .collect();
    groups.join(" ")
}

/// The beginning of a key, for those who have no name here.
pub(crate) fn short(user: &NodeId) -> String {
    user.to_string()[8..16].to_owned()
}

fn excerpt(body: &MessageBody) -> String {
    match body {
        MessageBody::Text { text } => one_line(&shortened(text, EXCERPT)),
        MessageBody::File { file } => file.name.clone(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use relay_proto::SigningKey;

    use super::*;

    #[test]
    fn a_safety_number_is_the_same_on_both_sides() {
        let a = SigningKey::from_seed([1; 32]).node_id();
        let b = SigningKey::from_seed([2; 32]).node_id();
        let digits = safety_digits(&a, &b);
        assert_eq!(digits, safety_digits(&b, &a));
        assert_eq!(digits.len(), 12 * 5 + 11);
        assert!(digits.split(' ').all(|group| group.len() == 5 && group.parse::<u32>().is_ok()));
    }
}
