//! What goes into the lease table and what comes out.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use super::{LeaseRefusal, LeaseRow};
use crate::{key::NodeId, name::Namespace};

/// The time of one operation, handed in by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds of a clock that never steps and counts suspend (`CLOCK_BOOTTIME`). Judges expiry.
    pub mono_ns: u64,
    /// Unix nanoseconds, for people and for history.
    pub wall_ns: u64,
}

impl Now {
    /// A monotonic time as the wall clock would show it, going by the wall clock of now.
    pub(super) fn wall_at(&self, mono_ns: u64) -> u64 {
        if mono_ns >= self.mono_ns {
            self.wall_ns.saturating_add(mono_ns - self.mono_ns)
        } else {
            self.wall_ns.saturating_sub(self.mono_ns - mono_ns)
        }
    }
}

/// The caller's name for one request, unique among those not yet answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What a lock protects: 1 to 1024 bytes of UTF-8 without control characters, compared as bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource(Arc<str>);

/// Why a text is no resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a resource is 1 to 1024 bytes of UTF-8 without control characters")]
pub struct ResourceError;

impl Resource {
    /// The longest name of a resource in bytes.
    pub const MAX_BYTES: usize = 1024;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Resource {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let fits = (1..=Self::MAX_BYTES).contains(&text.len());
        if fits && !text.chars().any(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(ResourceError)
        }
    }
}

impl Borrow<str> for Resource {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for Resource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// One request to the table. Who may ask is decided before.
#[derive(Debug, Clone)]
pub enum LeaseOp {
    Acquire(Acquire),
    Renew(Renew),
    Release(Release),
    Break(Break),
    Inspect {
        ns: Namespace,
        resource: Resource,
    },
    /// The held locks of a namespace by name.
    List {
        ns: Namespace,
        prefix: String,
        /// Where the last page ended ([`LockList::next`]).
        after: Option<Resource>,
        limit: usize,
    },
    /// Withdraws a waiting acquire.
    Cancel(Ticket),
}

#[derive(Debug, Clone)]
pub struct Acquire {
    pub ns: Namespace,
    pub resource: Resource,
    pub owner: NodeId,
    pub lease_ms: u64,
    /// How long to wait in line while the lock is held; 0: not at all.
    pub wait_ms: u64,
    /// Makes a retry after a lost answer give the same grant.
    pub request_id: Option<Arc<str>>,
    /// JSON text shown by inspect; the caller has checked that it is JSON.
    pub meta: Option<Arc<str>>,
}

#[derive(Debug, Clone)]
pub struct Renew {
    pub ns: Namespace,
    pub resource: Resource,
    pub owner: NodeId,
    pub token: u64,
    pub lease_ms: u64,
}

#[derive(Debug, Clone)]
pub struct Release {
    pub ns: Namespace,
    pub resource: Resource,
    pub owner: NodeId,
    pub token: u64,
}

/// An administrator ends a lease.
#[derive(Debug, Clone)]
pub struct Break {
    pub ns: Namespace,
    pub resource: Resource,
    pub token: u64,
    pub reason: Arc<str>,
    pub by: NodeId,
}

/// The effects of operations: commit the rows, then send the answers.
///
/// May be kept and reused over the operations of one batch.
#[derive(Debug, Default)]
pub struct Applied {
    /// Each ticket is answered exactly once, some of them by a later operation of others.
    pub answers: Vec<(Ticket, Result<LeaseAnswer, LeaseRefusal>)>,
    /// The changes of state in their order.
    pub rows: Vec<LeaseRow>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseAnswer {
    Acquired(Grant),
    Renewed(Grant),
    Released { resource: Resource, token: u64 },
    Broken { resource: Resource, token: u64 },
    State(LockState),
    List(LockList),
    Cancelled { was_waiting: bool },
}

/// A lease that its owner holds. Serialises as the answer to acquire and renew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grant {
    pub resource: Resource,
    pub owner: NodeId,
    #[serde(rename = "fencing_token")]
    pub token: u64,
    /// The length asked for. In a repeated acquire part of it has passed already:
    /// what is left is `lease_expires_at_ns - now_ns`.
    pub lease_ms: u64,
    #[serde(rename = "lease_expires_at_ns", serialize_with = "decimal")]
    pub expires_wall_ns: u64,
    #[serde(rename = "now_ns", serialize_with = "decimal")]
    pub now_wall_ns: u64,
}

/// What inspect shows. Serialises as its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockState {
    pub ns: Namespace,
    pub resource: Resource,
    pub held: Option<Held>,
    /// The token of the holder, else the last one given; 0 where the table knows of none.
    pub token: u64,
    /// How many wait in line.
    pub waiting: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub owner: NodeId,
    pub expires_wall_ns: u64,
    pub meta: Option<Arc<str>>,
}

impl Serialize for LockState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("ns", &self.ns)?;
        map.serialize_entry("resource", &self.resource)?;
        map.serialize_entry("held", &self.held.is_some())?;
        if let Some(held) = &self.held {
            map.serialize_entry("owner", &held.owner)?;
            map.serialize_entry("fencing_token", &self.token)?;
            map.serialize_entry("lease_expires_at_ns", &held.expires_wall_ns.to_string())?;
            map.serialize_entry("waiting", &self.waiting)?;
            let meta = held.meta.as_deref().and_then(|text| serde_json::from_str(text).ok());
            if let Some(meta) = meta {
                let meta: &RawValue = meta;
                map.serialize_entry("meta", meta)?;
            }
        } else {
            map.serialize_entry("last_token", &self.token)?;
        }
        map.end()
    }
}

/// One page of held locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockList {
    pub items: Vec<LockState>,
    /// Ask again after this one; a page may be short, even empty, with more to come.
    pub next: Option<Resource>,
}

/// The bounds of the table. Each keeps its memory finite.
#[derive(Debug, Clone)]
pub struct LeaseLimits {
    /// Shortest lease in milliseconds.
    pub min_lease_ms: u64,
    /// Longest lease in milliseconds: how long a dead holder can block others.
    pub max_lease_ms: u64,
    /// Longest wait in line in milliseconds.
    pub max_wait_ms: u64,
    pub max_waiters_per_resource: usize,
    pub max_waiters: usize,
    /// Locks held at the same time.
    pub max_held: usize,
    /// Free resources remembered with their last token, so that a late release or renew gets
    /// an exact answer. The longest unused is forgotten first.
    pub max_idle: usize,
    /// Ended requests remembered, so that a late retry is a `conflict` and not a new grant.
    pub max_requests: usize,
    pub max_request_id_bytes: usize,
    pub max_meta_bytes: usize,
    /// Longest page of a list.
    pub max_page: usize,
}

impl Default for LeaseLimits {
    fn default() -> Self {
        Self {
            min_lease_ms: 500,
            max_lease_ms: 3_600_000,
            max_wait_ms: 3_600_000,
            max_waiters_per_resource: 10_000,
            max_waiters: 100_000,
            max_held: 1_000_000,
            max_idle: 100_000,
            max_requests: 200_000,
            max_request_id_bytes: 128,
            max_meta_bytes: 4096,
            max_page: 1000,
        }
    }
}

pub(super) fn decimal<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}
