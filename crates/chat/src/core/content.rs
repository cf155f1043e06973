//! What decrypted contents do to the timeline.

use relay_proto::{
    NodeId,
    conv::{ConvKind, LogEntry},
};

use super::{
    Core, Events,
    act::{counts, set_read},
    env_hash,
};
use crate::{
    content::{Body, Content, RoomBody, shortened},
    error::Result,
    mls::group::Leaf,
    store::{ConvRow, Tx, rows::MessageRow},
    views::{Event, MessageBody, Notice, Preview, Unreadable},
};

/// Bytes of the newest message that lists show.
const PREVIEW: usize = 120;
/// Different reactions to one message, and people behind each.
const MAX_REACTIONS: usize = 64;

impl Core {
    /// A line of the timeline with nothing but its frame.
    pub(super) fn line(
        &self,
        entry: &LogEntry,
        from: Option<NodeId>,
        body: MessageBody,
    ) -> MessageRow {
        MessageRow {
            seq: entry.seq,
            from,
            device: entry.sender_device_id.as_str().to_owned(),
            at_ms: entry.ts_ms,
            env_hash: env_hash(&entry.env),
            id: None,
            body,
            reply_to: None,
            edited: false,
            mention: false,
            reactions: Default::default(),
        }
    }

    /// Stores a line that stands for itself and counts it.
    pub(super) fn show(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        message: MessageRow,
        local: Option<i64>,
    ) -> Result<Events> {
        tx.put_message(row.n, &message, true)?;
        row.latest_seq = message.seq;
        row.active_at_ms = row.active_at_ms.max(message.at_ms);
        let own = message.from == Some(self.me());
        if let (Some(from), Some(text)) = (message.from, preview(&message.body)) {
            row.last = Some(Preview { from, text, at_ms: message.at_ms });
        }
        if own && counts(&message.body) {
            // Who answers has read.
            set_read(tx, row, message.seq, self.me())?;
        } else if counts(&message.body) && !self.is_blocked(tx, message.from)? {
            row.unread += 1;
            row.mentions += u64::from(message.mention);
        }
        let mut events = Vec::new();
        if let Some(local) = local {
            events.push(Event::Changed {
                conv_id: row.conv_id.clone(),
                seq: Some(message.seq),
                local: Some(local),
            });
        }
        let view = self.view(tx, row, &message)?;
        events.push(Event::Message { message: Box::new(view) });
        Ok(events)
    }

    /// Stores an entry that only changes another line.
    fn hide(&self, tx: &Tx<'_>, row: &ConvRow, entry: &LogEntry, from: &Leaf) -> Result<()> {
        let mut message = self.line(entry, Some(from.user), MessageBody::Deleted);
        message.device = super::step::device_text(&from.device);
        tx.put_message(row.n, &message, false)
    }

    /// Does what a content says, on behalf of the leaf that MLS authenticated.
    pub(super) fn take_content(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        entry: &LogEntry,
        from: &Leaf,
        content: Content,
        local: Option<i64>,
    ) -> Result<Events> {
        let mut message = self.line(entry, Some(from.user), MessageBody::Deleted);
        message.device = super::step::device_text(&from.device);
        message.id = Some(content.id.clone()).filter(|id| !id.is_empty());
        let seq = match content.body {
            Body::Text { text, reply_to } => {
                message.mention = self.is_mention(tx, row, from, &text, reply_to.as_deref())?;
                message.body = MessageBody::Text { text };
                message.reply_to = reply_to;
                return self.show(tx, row, message, local);
            }
            Body::File(file) => {
                message.body = MessageBody::File { file };
                return self.show(tx, row, message, local);
            }
            Body::Unknown { kind } => {
                message.body = MessageBody::Unsupported { kind };
                return self.show(tx, row, message, local);
            }
            Body::Room(room) => return self.take_room(tx, row, message, from, room),
            Body::Edit { of, text } => self.alter(tx, row, &of, |line| {
                let may = line.from == Some(from.user);
                if may && matches!(line.body, MessageBody::Text { .. }) {
                    line.body = MessageBody::Text { text };
                    line.edited = true;
                }
            })?,
            Body::Delete { of } => self.alter(tx, row, &of, |line| {
                if line.from == Some(from.user) {
                    line.body = MessageBody::Deleted;
                    line.reactions.clear();
                    line.reply_to = None;
                }
            })?,
            Body::React { to, emoji, remove } => self.alter(tx, row, &to, |line| {
                react(line, from.user, emoji, remove);
            })?,
            Body::Read { up_to_seq } => {
                let up_to = up_to_seq.min(entry.seq);
                if from.user == self.me() {
                    set_read(tx, row, up_to, self.me())?;
                } else {
                    let mark = row.reads.entry(from.user).or_default();
                    *mark = up_to.max(*mark);
                }
                None
            }
            Body::RejoinOk {} => None,
        };
        self.hide(tx, row, entry, from)?;
        if local.is_none() && seq.is_none() {
            return Ok(Vec::new());
        }
        Ok(vec![Event::Changed { conv_id: row.conv_id.clone(), seq, local }])
    }

    fn alter(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        id: &str,
        change: impl FnOnce(&mut MessageRow),
    ) -> Result<Option<u64>> {
        let Some(mut line) = tx.message_by_id(row.n, id)? else { return Ok(None) };
        change(&mut line);
        tx.put_message(row.n, &line, true)?;
        if row.latest_seq == line.seq
            && let (Some(from), Some(text)) = (line.from, preview(&line.body))
        {
            row.last = Some(Preview { from, text, at_ms: line.at_ms });
        }
        Ok(Some(line.seq))
    }

    fn take_room(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        mut message: MessageRow,
        from: &Leaf,
        room: RoomBody,
    ) -> Result<Events> {
        if row.kind == ConvKind::Dm || !row.governs(&from.user) {
            let why = Unreadable::Invalid { detail: "this member may not change the room".into() };
            message.body = MessageBody::Unreadable { why };
            return self.show(tx, row, message, None);
        }
        let renamed = room.name.is_some() || room.topic.is_some();
        if let Some(name) = &room.name {
            row.name = one_line(name);
        }
        if let Some(topic) = &room.topic {
            row.topic = one_line(topic);
        }
        let mut events = Vec::new();
        if let Some(old) = room.replaces.as_deref().filter(|old| *old != row.conv_id) {
            let was_there = tx.conv(old)?.is_some_and(|old| old.members.contains_key(&from.user));
            if was_there {
                events = self.end_replaced(tx, old)?;
            }
        }
        for (user, role) in room.roles.unwrap_or_default() {
            // The creator stays the owner, and nobody else becomes one.
            if user != row.creator && role != relay_proto::conv::Role::Owner {
                row.roles.insert(user, role);
            }
        }
        let notice = if renamed {
            Notice::Renamed { name: room.name, topic: room.topic }
        } else {
            Notice::Roles
        };
        message.body = MessageBody::Notice { notice };
        events.extend(self.show(tx, row, message, None)?);
        Ok(events)
    }

    fn is_mention(
        &self,
        tx: &Tx<'_>,
        row: &ConvRow,
        from: &Leaf,
        text: &str,
        reply_to: Option<&str>,
    ) -> Result<bool> {
        if from.user == self.me() {
            return Ok(false);
        }
        if let Some(id) = reply_to
            && tx.message_by_id(row.n, id)?.is_some_and(|line| line.from == Some(self.me()))
        {
            return Ok(true);
        }
        let short = self.me().to_string()[8..16].to_owned();
        let nick: Option<String> = tx.meta("nick")?;
        let text = text.to_lowercase();
        let named =
            |name: &str| !name.is_empty() && text.contains(&format!("@{}", name.to_lowercase()));
        Ok(named(&short) || nick.is_some_and(|nick| named(&nick)) || text.contains("@all"))
    }

    fn is_blocked(&self, tx: &Tx<'_>, user: Option<NodeId>) -> Result<bool> {
        let Some(user) = user else { return Ok(false) };
        Ok(tx.person(&user)?.is_some_and(|person| person.blocked))
    }
}

fn react(line: &mut MessageRow, user: NodeId, emoji: String, remove: bool) {
    if matches!(line.body, MessageBody::Deleted) {
        return;
    }
    if remove {
        if let Some(by) = line.reactions.get_mut(&emoji) {
            by.retain(|other| *other != user);
            if by.is_empty() {
                line.reactions.remove(&emoji);
            }
        }
        return;
    }
    if line.reactions.len() >= MAX_REACTIONS && !line.reactions.contains_key(&emoji) {
        return;
    }
    let by = line.reactions.entry(emoji).or_default();
    if !by.contains(&user) {
        by.push(user);
    }
}

/// One line for lists; `None` for what is no news.
fn preview(body: &MessageBody) -> Option<String> {
    let text = match body {
        MessageBody::Text { text } => text,
        MessageBody::File { file } => &file.name,
        MessageBody::Unsupported { .. } => return Some("(not supported here)".into()),
        MessageBody::Deleted => return Some("(deleted)".into()),
        MessageBody::Notice { .. } | MessageBody::Unreadable { .. } => return None,
    };
    Some(one_line(&shortened(text, PREVIEW)))
}

/// A text without anything that would break a line or a terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}
