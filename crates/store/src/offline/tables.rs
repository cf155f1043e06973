//! The tables of both stores, as a copy sees them.

use crate::schema::INDEXED_SEQ;
use Kind::{Bytes, Flag, Number, Small, Text, Words};

/// A table that both stores have, with the columns that both have.
#[derive(Debug)]
pub(super) struct Table {
    pub name: &'static str,
    pub columns: &'static [(&'static str, Kind)],
    /// Rows are read in the order of this column.
    pub order: &'static str,
    /// PostgreSQL numbers the rows of this column itself.
    pub numbered: Option<&'static str>,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// 64 bits.
    Number,
    /// 32 bits on PostgreSQL.
    Small,
    Flag,
    Text,
    Bytes,
    /// Text on SQLite; bytes on PostgreSQL, whose text cannot hold U+0000.
    Words,
}

/// One value on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// Some rows of a table.
#[derive(Debug)]
pub(super) struct Chunk {
    pub table: &'static Table,
    pub rows: Vec<Vec<Value>>,
}

const fn table(
    name: &'static str,
    order: &'static str,
    numbered: Option<&'static str>,
    columns: &'static [(&'static str, Kind)],
) -> Table {
    Table { name, columns, order, numbered }
}

pub(super) const TABLES: &[Table] = &[
    table("meta", "key", None, &[("key", Text), ("value", Number)]),
    table(
        "namespaces",
        "n",
        Some("n"),
        &[
            ("n", Small),
            ("name", Text),
            ("events", Number),
            ("bytes", Number),
            ("pruned_through_seq", Number),
        ],
    ),
    table("authors", "n", Some("n"), &[("n", Small), ("pubkey", Bytes)]),
    table(
        "events",
        "seq",
        None,
        &[
            ("seq", Number),
            ("id", Bytes),
            ("id_prefix", Number),
            ("ns", Small),
            ("author", Small),
            ("kind", Small),
            ("superseded", Flag),
            ("created_at_ns", Number),
            ("received_at_ns", Number),
            ("expires_at_s", Number),
            ("json", Bytes),
        ],
    ),
    table(
        "event_tags",
        "seq",
        None,
        &[("tag", Number), ("superseded", Flag), ("created_at_ns", Number), ("seq", Number)],
    ),
    table(
        "heads",
        "author",
        None,
        &[
            ("ns", Small),
            ("author", Small),
            ("kind", Small),
            ("d", Words),
            ("seq", Number),
            ("created_at_ns", Number),
            ("id", Bytes),
        ],
    ),
    table(
        "lock_history",
        "id",
        Some("id"),
        &[
            ("id", Number),
            ("lock", Number),
            ("ns", Text),
            ("resource", Text),
            ("action", Text),
            ("owner", Bytes),
            ("previous_owner", Bytes),
            ("fencing_token", Number),
            ("lease_ms", Number),
            ("request_id", Words),
            ("meta", Words),
            ("at_ns", Number),
            ("lease_expires_at_ns", Number),
            ("reason", Words),
            ("broken_by", Bytes),
        ],
    ),
    table(
        "locks",
        "history_id",
        None,
        &[("lock", Number), ("ns", Text), ("resource", Text), ("history_id", Number)],
    ),
    table(
        "sessions",
        "id",
        None,
        &[
            ("id", Bytes),
            ("user_key", Bytes),
            ("device_id", Text),
            ("client_label", Text),
            ("token", Bytes),
            ("previous_token", Bytes),
            ("previous_until_ms", Number),
            ("resume_token", Bytes),
            ("generation", Number),
            ("created_at_ms", Number),
            ("expires_at_ms", Number),
            ("last_seen_at_ms", Number),
            ("edge_grant", Text),
        ],
    ),
    table(
        "auth_tokens",
        "token",
        None,
        &[
            ("token", Bytes),
            ("user_key", Bytes),
            ("device_id", Text),
            ("credential_hash", Bytes),
            ("created_at_ms", Number),
            ("expires_at_ms", Number),
        ],
    ),
    table(
        "devices",
        "user_key",
        None,
        &[("user_key", Bytes), ("device_id", Text), ("credential_hash", Bytes)],
    ),
    table("token_floors", "user_key", None, &[("user_key", Bytes), ("not_before_ms", Number)]),
    table(
        "revoked_tokens",
        "user_key",
        None,
        &[("user_key", Bytes), ("jti", Text), ("expires_at_ms", Number)],
    ),
    table(
        "access_tokens",
        "id",
        None,
        &[
            ("id", Text),
            ("token", Bytes),
            ("purpose", Text),
            ("pattern", Text),
            ("uses_left", Number),
            ("created_by", Text),
            ("created_at_ms", Number),
            ("expires_at_ms", Number),
            ("last_used_at_ms", Number),
        ],
    ),
    table(
        "audit",
        "id",
        Some("id"),
        &[
            ("id", Number),
            ("at_ms", Number),
            ("actor", Text),
            ("action", Text),
            ("subject", Text),
            ("outcome", Text),
            ("times", Number),
            ("detail", Text),
        ],
    ),
    table(
        "conversations",
        "n",
        Some("n"),
        &[
            ("n", Number),
            ("conv_id", Text),
            ("profile", Number),
            ("kind", Number),
            ("home", Text),
            ("created_by", Bytes),
            ("created_at_ms", Number),
            ("title", Text),
            ("members", Number),
            ("latest_seq", Number),
            ("latest_ts_ms", Number),
            ("earliest_seq", Number),
            ("epoch", Number),
            ("group_info", Bytes),
            ("group_info_epoch", Number),
        ],
    ),
    table(
        "conversation_members",
        "conv",
        None,
        &[
            ("conv", Number),
            ("user_key", Bytes),
            ("role", Number),
            ("joined_at_ms", Number),
            ("joined_seq", Number),
            ("muted_at_ms", Number),
            ("muted_by", Bytes),
        ],
    ),
    table(
        "conversation_bans",
        "conv",
        None,
        &[("conv", Number), ("user_key", Bytes), ("banned_by", Bytes), ("banned_at_ms", Number)],
    ),
    table(
        "messages",
        "conv, seq",
        None,
        &[
            ("conv", Number),
            ("seq", Number),
            ("id_hash", Number),
            ("msg_id", Text),
            ("kind", Number),
            ("epoch", Number),
            ("sender_key", Bytes),
            ("sender_device", Text),
            ("origin_gateway", Text),
            ("ts_ms", Number),
            ("env", Bytes),
        ],
    ),
    table(
        "pruned_messages",
        "conv",
        None,
        &[
            ("conv", Number),
            ("id_hash", Number),
            ("seq", Number),
            ("msg_id", Text),
            ("sender_key", Bytes),
            ("env_hash", Bytes),
            ("ts_ms", Number),
        ],
    ),
    table(
        "conversation_cursors",
        "user_key",
        None,
        &[
            ("user_key", Bytes),
            ("device_id", Text),
            ("conv", Number),
            ("next_seq", Number),
            ("updated_at_ms", Number),
        ],
    ),
    table(
        "conversation_state",
        "user_key",
        None,
        &[
            ("user_key", Bytes),
            ("conv", Number),
            ("label", Text),
            ("pinned_at_ms", Number),
            ("muted", Number),
            ("archived", Number),
            ("last_read_seq", Number),
        ],
    ),
    table(
        "key_packages",
        "n",
        Some("n"),
        &[
            ("n", Number),
            ("user_key", Bytes),
            ("device_id", Text),
            ("hash", Bytes),
            ("reference", Bytes),
            ("last_resort", Number),
            ("not_after_s", Number),
            ("bytes", Bytes),
            ("created_at_ms", Number),
            ("for_contacts", Number),
        ],
    ),
    table(
        "key_package_issues",
        "reference",
        None,
        &[("reference", Bytes), ("issued_to", Bytes), ("issued_at_ms", Number)],
    ),
    table(
        "inboxes",
        "user_key",
        None,
        &[("user_key", Bytes), ("device_id", Text), ("latest_seq", Number), ("next_seq", Number)],
    ),
    table(
        "inbox_entries",
        "user_key",
        None,
        &[
            ("user_key", Bytes),
            ("device_id", Text),
            ("seq", Number),
            ("at_ms", Number),
            ("body", Bytes),
        ],
    ),
    table(
        "vaults",
        "user_key",
        None,
        &[("user_key", Bytes), ("version", Number), ("blob", Bytes), ("updated_at_ms", Number)],
    ),
    table("blocks", "user_key", None, &[("user_key", Bytes), ("target", Bytes)]),
    table("watches", "user_key", None, &[("user_key", Bytes), ("target", Bytes)]),
    table(
        "blobs",
        "hash",
        None,
        &[
            ("hash", Bytes),
            ("owner", Bytes),
            ("size", Number),
            ("created_at_ms", Number),
            ("expires_at_ms", Number),
        ],
    ),
    table("home_users", "user_key", None, &[("user_key", Bytes), ("since_ms", Number)]),
    table(
        "conversation_routes",
        "user_key",
        None,
        &[("user_key", Bytes), ("conv_id", Text), ("home", Text)],
    ),
    table(
        "home_mail",
        "n",
        None,
        &[("n", Number), ("user_key", Bytes), ("body", Bytes), ("at_ms", Number)],
    ),
    table("home_mail_heads", "user_key", None, &[("user_key", Bytes), ("n", Number)]),
    table(
        "home_mail_taken",
        "source",
        None,
        &[("source", Text), ("user_key", Bytes), ("n", Number)],
    ),
    table(
        "push_subscriptions",
        "user_key",
        None,
        &[("user_key", Bytes), ("device_id", Text), ("endpoint", Text), ("created_at_ms", Number)],
    ),
    table("tenant_usage", "tenant", None, &[("tenant", Text), ("day", Number), ("events", Number)]),
    table(
        "social_systems",
        "n",
        Some("n"),
        &[
            ("n", Number),
            ("key", Bytes),
            ("version", Number),
            ("events", Number),
            ("bytes", Number),
            ("handle", Text),
        ],
    ),
    table(
        "social_processes",
        "n",
        Some("n"),
        &[("n", Number), ("system", Number), ("process", Bytes)],
    ),
    table(
        "social_events",
        "seq",
        None,
        &[
            ("seq", Number),
            ("process", Number),
            ("clock", Number),
            ("content_type", Number),
            ("unix_ms", Number),
            ("raw", Bytes),
        ],
    ),
    table(
        "social_tombstones",
        "process",
        None,
        &[
            ("process", Number),
            ("clock", Number),
            ("content_type", Number),
            ("unix_ms", Number),
            ("seq", Number),
        ],
    ),
    table(
        "social_ranges",
        "process",
        None,
        &[("process", Number), ("low", Number), ("high", Number)],
    ),
    table(
        "social_refs",
        "subject",
        None,
        &[("subject", Bytes), ("from_type", Number), ("score", Number), ("seq", Number)],
    ),
    table(
        "social_lww",
        "subject",
        None,
        &[
            ("subject", Bytes),
            ("system", Number),
            ("content_type", Number),
            ("unix_ms", Number),
            ("process", Bytes),
            ("clock", Number),
            ("value", Bytes),
            ("seq", Number),
        ],
    ),
    table(
        "social_counts",
        "subject",
        None,
        &[
            ("subject", Bytes),
            ("kind", Number),
            ("from_type", Number),
            ("value", Bytes),
            ("n", Number),
        ],
    ),
    table(
        "social_claims",
        "claim_type",
        None,
        &[
            ("claim_type", Number),
            ("value", Bytes),
            ("key", Number),
            ("system", Number),
            ("seq", Number),
            ("subject", Bytes),
        ],
    ),
    table(
        "social_vouches",
        "system",
        None,
        &[("system", Number), ("subject", Bytes), ("seq", Number)],
    ),
    table("social_topics", "hour", None, &[("hour", Number), ("topic", Bytes), ("posts", Number)]),
    table(
        "social_censored",
        "system",
        None,
        &[("system", Bytes), ("process", Bytes), ("clock", Number), ("how", Number)],
    ),
    table(
        "social_quotas",
        "system",
        None,
        &[("system", Bytes), ("bytes", Number), ("events_per_sec", Number), ("set_at_ms", Number)],
    ),
    table("social_moderation", "seq", None, &[("seq", Number), ("state", Number), ("tags", Text)]),
];

/// Rows of `meta` that belong to the database and not to what it holds.
pub(super) const OWN_META: &[&str] = &["schema_version", super::UNFINISHED, INDEXED_SEQ];

impl Table {
    pub fn names(&self) -> Vec<&'static str> {
        self.columns.iter().map(|(name, _)| *name).collect()
    }

    /// Which rows of the table are copied.
    pub fn condition(&self) -> String {
        if self.name == "meta" {
            format!(" WHERE key NOT IN ('{}')", OWN_META.join("', '"))
        } else {
            String::new()
        }
    }
}
