//! The rows: conversations, messages, what waits to be sent, people.

use std::collections::BTreeMap;

use relay_proto::{
    NodeId,
    conv::{ConvKind, Role},
};
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::{Tx, place};
use crate::{
    content::Content,
    error::Result,
    views::{ConversationState, MessageBody, Preview},
};

/// One conversation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ConvRow {
    /// The key of the row; not part of the value.
    #[serde(skip)]
    pub n: i64,
    /// 43 characters.
    pub conv_id: String,
    pub kind: ConvKind,
    /// The relay that numbers its log.
    pub home: String,
    pub state: ConversationState,
    pub creator: NodeId,
    /// Seals the published GroupInfo.
    pub rejoin_key: [u8; 32],
    pub name: String,
    pub topic: String,
    pub label: String,
    /// Roles that `room` messages gave; the creator is its owner.
    pub roles: BTreeMap<NodeId, Role>,
    /// Everybody in the group, oneself too, and how many devices each has.
    pub members: BTreeMap<NodeId, usize>,
    pub epoch: u64,
    /// The epoch's authenticator, first 8 bytes.
    pub check: String,
    /// The next entry of the log.
    pub next_seq: u64,
    /// The first entry that this device can read.
    pub joined_seq: u64,
    /// The newest message that stands for itself.
    pub latest_seq: u64,
    pub read_seq: u64,
    pub unread: u64,
    pub mentions: u64,
    /// How far others have read.
    pub reads: BTreeMap<NodeId, u64>,
    pub last: Option<Preview>,
    pub created_at_ms: u64,
    pub active_at_ms: u64,
    pub muted: bool,
    pub pinned: bool,
    pub archived: bool,
    /// When this device last renewed its keys here, unix milliseconds.
    pub updated_at_ms: u64,
    /// The epoch that the relay called over when this device last sent in it.
    #[serde(default)]
    pub stale_epoch: Option<u64>,
    /// A commit that was sent and has not come back yet.
    #[serde(default)]
    pub pending: Option<Pending>,
    /// Since when others wait for somebody to commit their proposals, unix milliseconds.
    #[serde(default)]
    pub proposals_since_ms: Option<u64>,
    /// Members' devices that ask to be taken out and in again, the latest last.
    #[serde(default)]
    pub asking: Vec<AskingDevice>,
}

/// A device that has lost its state and asks to be let in again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AskingDevice {
    pub user: NodeId,
    pub device: String,
    pub at_ms: u64,
}

impl ConvRow {
    pub fn role(&self, user: &NodeId) -> Role {
        if *user == self.creator {
            return Role::Owner;
        }
        self.roles.get(user).copied().unwrap_or(Role::Member)
    }

    /// Whether somebody may invite and remove.
    pub fn governs(&self, user: &NodeId) -> bool {
        self.role(user).governs()
    }
}

/// A commit of this device on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub msg_id: String,
    /// SHA-256 of the env as it is sent.
    pub env_hash: [u8; 32],
    /// The body of `conv.commit`, resent as it is until it is answered.
    pub body: String,
    /// The row of the outbox that wanted it.
    pub job: Option<i64>,
    /// It lets this device in, and its group lies apart until it is in the log.
    pub external: bool,
    /// The relay has stored it; the log has not brought it back yet.
    pub acked: bool,
}

/// One message of the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MessageRow {
    #[serde(skip)]
    pub seq: u64,
    pub from: Option<NodeId>,
    pub device: String,
    /// When the relay took it.
    pub at_ms: u64,
    /// SHA-256 of the env: another message under this number is a fork.
    pub env_hash: [u8; 32],
    pub id: Option<String>,
    pub body: MessageBody,
    pub reply_to: Option<String>,
    pub edited: bool,
    pub mention: bool,
    pub reactions: BTreeMap<String, Vec<NodeId>>,
}

/// Something to be sent or done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OutRow {
    #[serde(skip)]
    pub n: i64,
    #[serde(skip)]
    pub conv: i64,
    pub at_ms: u64,
    pub job: Job,
    /// The idempotency key.
    pub msg_id: String,
    /// As it was last sent: the env, and the epoch that it was encrypted in.
    pub sent: Option<(String, u64)>,
    /// The relay does not have its attachment yet.
    #[serde(default)]
    pub upload: Option<Upload>,
    /// The relay has stored it; the log has not brought it back yet.
    #[serde(default)]
    pub acked: bool,
    /// Why it is not tried again.
    pub failed: Option<String>,
    /// What it waits for, and until when it is not tried, unix milliseconds.
    pub waits: Option<(String, u64)>,
}

/// How far the attachment of a message has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Upload {
    Due,
    Begun,
}

/// What is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub(crate) enum Job {
    Message {
        content: SavedContent,
    },
    /// Tells the relay of a conversation made here.
    Create {
        peer: Option<NodeId>,
    },
    /// Adds all devices of users.
    Add {
        users: Vec<NodeId>,
        /// KeyPackages got so far: device, base64.
        packages: BTreeMap<NodeId, Vec<(String, String)>>,
    },
    Remove {
        users: Vec<NodeId>,
    },
    /// Takes leaves out: devices that were revoked, or this device's former self.
    RemoveDevices {
        user: NodeId,
        devices: Vec<String>,
    },
    Leave {
        /// The others were told.
        proposed: bool,
    },
    Update,
    /// Commits what others proposed.
    CommitProposals,
    /// Comes back by an external commit.
    Rejoin {
        tries: u32,
        /// This device takes the place of all others of its user, which are lost.
        replaces: bool,
        /// How far it has got with asking the members, where the published state does not help.
        #[serde(default)]
        ask: Asking,
    },
    /// Takes a member's device that has lost its state out and in again.
    Readmit {
        user: NodeId,
        device: String,
        /// KeyPackages of the user's devices, once they are here: device, base64.
        packages: Option<Vec<(String, String)>>,
    },
}

/// Whether members were asked to let this device in again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Asking {
    #[default]
    No,
    /// To be asked next.
    Due,
    Asked,
}

/// A content as it is kept: the form that travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct SavedContent(pub Content);

impl TryFrom<String> for SavedContent {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        Content::decode(text.as_bytes()).map(Self).map_err(|error| error.to_string())
    }
}

impl From<SavedContent> for String {
    fn from(content: SavedContent) -> Self {
        // Contents of ours are made of strings and numbers, which JSON always holds.
        content.0.encode().ok().and_then(|bytes| Self::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

/// Somebody whom the user knows something of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PersonRow {
    pub user: NodeId,
    pub name: String,
    pub verified: bool,
    pub blocked: bool,
}

impl Tx<'_> {
    // === conversations ===

    pub fn conv(&self, conv_id: &str) -> Result<Option<ConvRow>> {
        let tag = self.keys.tag("conversation", conv_id.as_bytes());
        let row: Option<(i64, Vec<u8>)> = self
            .sql
            .prepare_cached("SELECT n, sealed FROM conversations WHERE tag = ?1")?
            .query_row([&tag[..]], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        row.map(|(n, sealed)| self.open_conv(n, &sealed)).transpose()
    }

    pub fn conv_by_n(&self, n: i64) -> Result<Option<ConvRow>> {
        let sealed: Option<Vec<u8>> = self
            .sql
            .prepare_cached("SELECT sealed FROM conversations WHERE n = ?1")?
            .query_row([n], |row| row.get(0))
            .optional()?;
        sealed.map(|sealed| self.open_conv(n, &sealed)).transpose()
    }

    pub fn convs(&self) -> Result<Vec<ConvRow>> {
        let mut statement = self.sql.prepare_cached("SELECT n, sealed FROM conversations")?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        rows.map(|row| row.map_err(Into::into).and_then(|(n, sealed)| self.open_conv(n, &sealed)))
            .collect()
    }

    fn open_conv(&self, n: i64, sealed: &[u8]) -> Result<ConvRow> {
        let mut conv: ConvRow =
            self.open_json(&place("conversations", &n.to_be_bytes()), sealed)?;
        conv.n = n;
        Ok(conv)
    }

    /// Adds a conversation and gives it its number.
    pub fn add_conv(&self, conv: &mut ConvRow) -> Result<()> {
        let tag = self.keys.tag("conversation", conv.conv_id.as_bytes());
        // The place of a value names its row, so the row comes first.
        self.sql
            .prepare_cached("INSERT INTO conversations (tag, sealed) VALUES (?1, x'')")?
            .execute([&tag[..]])?;
        conv.n = self.sql.last_insert_rowid();
        self.save_conv(conv)
    }

    pub fn save_conv(&self, conv: &ConvRow) -> Result<()> {
        let sealed = self.seal_json(&place("conversations", &conv.n.to_be_bytes()), conv)?;
        self.sql
            .prepare_cached("UPDATE conversations SET sealed = ?2 WHERE n = ?1")?
            .execute(params![conv.n, sealed])?;
        Ok(())
    }

    // === messages ===

    /// Stores an entry of the log. `shown`: it stands for itself.
    pub fn put_message(&self, conv: i64, message: &MessageRow, shown: bool) -> Result<()> {
        let place = message_place(conv, message.seq);
        let sealed = self.seal_json(&place, message)?;
        let tag = message.id.as_ref().map(|id| self.keys.tag("message", id.as_bytes()).to_vec());
        self.sql
            .prepare_cached(
                "INSERT INTO messages (conv, seq, shown, tag, sealed) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (conv, seq) DO UPDATE SET shown = ?3, tag = ?4, sealed = ?5",
            )?
            .execute(params![conv, message.seq as i64, shown, tag, sealed])?;
        Ok(())
    }

    pub fn message(&self, conv: i64, seq: u64) -> Result<Option<MessageRow>> {
        let sealed: Option<Vec<u8>> = self
            .sql
            .prepare_cached("SELECT sealed FROM messages WHERE conv = ?1 AND seq = ?2")?
            .query_row(params![conv, seq as i64], |row| row.get(0))
            .optional()?;
        sealed.map(|sealed| self.open_message(conv, seq, &sealed)).transpose()
    }

    /// The message with this content id that stands for itself; the first one, where somebody used an id twice.
    pub fn message_by_id(&self, conv: i64, id: &str) -> Result<Option<MessageRow>> {
        let tag = self.keys.tag("message", id.as_bytes());
        let row: Option<(i64, Vec<u8>)> = self
            .sql
            .prepare_cached(
                "SELECT seq, sealed FROM messages WHERE conv = ?1 AND tag = ?2 AND shown = 1 ORDER BY seq LIMIT 1",
            )?
            .query_row(params![conv, &tag[..]], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        row.map(|(seq, sealed)| self.open_message(conv, seq as u64, &sealed)).transpose()
    }

    /// Messages that stand for themselves, newest first, below `before`.
    pub fn messages_before(&self, conv: i64, before: u64, limit: usize) -> Result<Vec<MessageRow>> {
        self.page(
            "SELECT seq, sealed FROM messages WHERE conv = ?1 AND shown = 1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
            (conv, before, limit),
        )
    }

    /// Messages that stand for themselves, oldest first, above `after`.
    pub fn messages_after(&self, conv: i64, after: u64, limit: usize) -> Result<Vec<MessageRow>> {
        self.page(
            "SELECT seq, sealed FROM messages WHERE conv = ?1 AND shown = 1 AND seq > ?2 ORDER BY seq LIMIT ?3",
            (conv, after, limit),
        )
    }

    fn page(&self, sql: &str, (conv, at, limit): (i64, u64, usize)) -> Result<Vec<MessageRow>> {
        let mut statement = self.sql.prepare_cached(sql)?;
        // SQLite's numbers are signed; a cursor beyond them is the end.
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![conv, at, limit as i64], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
        })?;
        rows.map(|row| {
            row.map_err(Into::into)
                .and_then(|(seq, sealed)| self.open_message(conv, seq as u64, &sealed))
        })
        .collect()
    }

    fn open_message(&self, conv: i64, seq: u64, sealed: &[u8]) -> Result<MessageRow> {
        let mut message: MessageRow = self.open_json(&message_place(conv, seq), sealed)?;
        message.seq = seq;
        Ok(message)
    }

    // === outbox ===

    /// Appends to what is to be done.
    pub fn add_out(&self, out: &mut OutRow) -> Result<()> {
        let tag = self.keys.tag("msg_id", out.msg_id.as_bytes());
        self.sql
            .prepare_cached("INSERT INTO outbox (conv, tag, sealed) VALUES (?1, ?2, x'')")?
            .execute(params![out.conv, &tag[..]])?;
        out.n = self.sql.last_insert_rowid();
        self.save_out(out)
    }

    pub fn save_out(&self, out: &OutRow) -> Result<()> {
        let sealed = self.seal_json(&place("outbox", &out.n.to_be_bytes()), out)?;
        self.sql
            .prepare_cached("UPDATE outbox SET sealed = ?2 WHERE n = ?1")?
            .execute(params![out.n, sealed])?;
        Ok(())
    }

    pub fn remove_out(&self, n: i64) -> Result<()> {
        self.sql.prepare_cached("DELETE FROM outbox WHERE n = ?1")?.execute([n])?;
        Ok(())
    }

    pub fn out(&self, n: i64) -> Result<Option<OutRow>> {
        Ok(self.outs("WHERE n = ?1", [n])?.pop())
    }

    pub fn out_by_msg_id(&self, conv: i64, msg_id: &str) -> Result<Option<OutRow>> {
        let tag = self.keys.tag("msg_id", msg_id.as_bytes());
        Ok(self.outs("WHERE conv = ?1 AND tag = ?2", params![conv, &tag[..]])?.pop())
    }

    /// What waits in one conversation, in order.
    pub fn outbox(&self, conv: i64) -> Result<Vec<OutRow>> {
        self.outs("WHERE conv = ?1 ORDER BY n", [conv])
    }

    /// Everything that waits.
    pub fn whole_outbox(&self) -> Result<Vec<OutRow>> {
        self.outs("ORDER BY n", [])
    }

    fn outs(&self, rest: &str, params: impl rusqlite::Params) -> Result<Vec<OutRow>> {
        let mut statement =
            self.sql.prepare_cached(&format!("SELECT n, conv, sealed FROM outbox {rest}"))?;
        let rows = statement.query_map(params, |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?))
        })?;
        rows.map(|row| {
            let (n, conv, sealed) = row?;
            let mut out: OutRow = self.open_json(&place("outbox", &n.to_be_bytes()), &sealed)?;
            (out.n, out.conv) = (n, conv);
            Ok(out)
        })
        .collect()
    }

    // === people ===

    pub fn person(&self, user: &NodeId) -> Result<Option<PersonRow>> {
        let tag = self.keys.tag("person", user.as_bytes());
        let sealed: Option<Vec<u8>> = self
            .sql
            .prepare_cached("SELECT sealed FROM people WHERE tag = ?1")?
            .query_row([&tag[..]], |row| row.get(0))
            .optional()?;
        sealed.map(|sealed| self.open_json(&place("people", &tag), &sealed)).transpose()
    }

    pub fn people(&self) -> Result<Vec<PersonRow>> {
        let mut statement = self.sql.prepare_cached("SELECT tag, sealed FROM people")?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        rows.map(|row| {
            let (tag, sealed) = row?;
            self.open_json::<PersonRow>(&place("people", &tag), &sealed)
        })
        .collect()
    }

    pub fn save_person(&self, person: &PersonRow) -> Result<()> {
        let tag = self.keys.tag("person", person.user.as_bytes());
        let sealed = self.seal_json(&place("people", &tag), person)?;
        self.sql
            .prepare_cached("INSERT INTO people (tag, sealed) VALUES (?1, ?2) ON CONFLICT (tag) DO UPDATE SET sealed = ?2")?
            .execute(params![&tag[..], sealed])?;
        Ok(())
    }
}

fn message_place(conv: i64, seq: u64) -> Vec<u8> {
    place("messages", &[conv.to_be_bytes(), seq.to_be_bytes()].concat())
}
