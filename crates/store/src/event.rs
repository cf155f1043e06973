//! The event log in the product's verbs: append, query, count.

use bytes::Bytes;
use relay_proto::{Event, EventId, Filter, Namespace, Position};

/// What became of an event that was handed to the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Stored and durable. `latest` is false where a later version of its coordinate was already here.
    Stored { seq: u64, latest: bool },
    /// Stored earlier under this `seq`; nothing changed.
    Duplicate { seq: u64, latest: bool },
    /// Its fence does not hold; nothing was stored.
    Fenced,
}

/// An event with its place in the log.
#[derive(Debug, Clone)]
pub struct Committed {
    pub seq: u64,
    pub event: Event,
    pub latest: bool,
    /// When the relay took it in, unix nanoseconds.
    pub received_at_ns: u64,
}

/// An event as it is read back: its place and its JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    pub seq: u64,
    pub created_at_ns: u64,
    pub json: Bytes,
}

/// The order of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Arrival, oldest first.
    Seq,
    /// Arrival, newest first.
    SeqDescending,
    /// `created_at_ns`, oldest first.
    Time,
    /// `created_at_ns`, newest first.
    #[default]
    TimeDescending,
}

/// A question to the log.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Alternatives. None at all asks for everything.
    pub filters: Vec<Filter>,
    /// What the asker may read; every answer lies in one of these.
    pub namespaces: Vec<Namespace>,
    /// Old versions of replaceable and addressable events too.
    pub history: bool,
    pub order: Order,
    /// Where the page begins; must fit `order`.
    pub from: Option<Position>,
    /// Events on a page, at least 1.
    pub limit: usize,
    /// Unix seconds; events that expire at or before it are left out.
    pub now_s: u64,
}

/// One page of answers.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub events: Vec<StoredEvent>,
    /// Where the next page begins; `None` where there is none.
    pub next: Option<Position>,
    /// For [`Order::Seq`]: everything up to and with this `seq` was looked at.
    pub through_seq: u64,
}

/// What the store knows of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceInfo {
    pub name: Namespace,
    pub events: u64,
    pub bytes: u64,
    /// Retention removed events up to and with this `seq`.
    pub pruned_through_seq: u64,
}

/// An event of which only the id is known, with the namespace that says who may read it.
#[derive(Debug, Clone)]
pub struct FoundEvent {
    pub id: EventId,
    pub namespace: Namespace,
    pub event: StoredEvent,
}

/// Rules for deleting old events of one namespace. `None` keeps everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Events received before this time go, unix nanoseconds.
    pub received_before_ns: Option<u64>,
    /// The oldest go until the namespace holds at most this many bytes of event JSON.
    pub max_bytes: Option<u64>,
    /// Of each coordinate only this many versions stay, the latest included.
    pub keep_versions: Option<u64>,
}
