//! The journal of the table: one row for each change of state.

use std::sync::Arc;

use serde::Serialize;

use super::{Resource, types::decimal};
use crate::{key::NodeId, name::Namespace};

/// What a row says happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseAction {
    Acquire,
    /// Acquired after the lease before ended by expiry or break.
    TakeOver,
    Renew,
    Release,
    Expire,
    Break,
}

impl LeaseAction {
    pub const ALL: [Self; 6] =
        [Self::Acquire, Self::TakeOver, Self::Renew, Self::Release, Self::Expire, Self::Break];

    /// The text in history, on the wire and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::TakeOver => "take_over",
            Self::Renew => "renew",
            Self::Release => "release",
            Self::Expire => "expire",
            Self::Break => "break",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }

    /// Whether the resource is held after it.
    pub const fn leaves_held(self) -> bool {
        matches!(self, Self::Acquire | Self::TakeOver | Self::Renew)
    }
}

/// One change of state, telling the whole of the new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    pub ns: Namespace,
    pub resource: Resource,
    pub action: LeaseAction,
    /// The holder; where the row ends a lease, the one who held it.
    pub owner: NodeId,
    /// Who held the lease before this one (acquire, take-over), where known.
    pub previous_owner: Option<NodeId>,
    pub token: u64,
    pub lease_ms: u64,
    pub request_id: Option<Arc<str>>,
    pub meta: Option<Arc<str>>,
    pub at_wall_ns: u64,
    /// When the lease will end, or ended.
    pub expires_wall_ns: u64,
    /// Why an administrator broke it.
    pub reason: Option<Arc<str>>,
    /// The administrator who broke it.
    pub by: Option<NodeId>,
}

impl LeaseRow {
    /// The row as watchers see it.
    pub fn change(&self) -> LeaseChange {
        let held = self.action.leaves_held();
        LeaseChange {
            ns: self.ns.clone(),
            resource: self.resource.clone(),
            state: if held { "held" } else { "free" },
            owner: held.then_some(self.owner),
            token: self.token,
            expires_wall_ns: held.then_some(self.expires_wall_ns),
            reason: self.action,
        }
    }

    /// The state after the row.
    pub fn state(&self) -> LeaseState {
        LeaseState {
            ns: self.ns.clone(),
            resource: self.resource.clone(),
            tenure: Tenure {
                owner: self.owner,
                token: self.token,
                lease_ms: self.lease_ms,
                request_id: self.request_id.clone(),
                meta: self.meta.clone(),
            },
            ended: (!self.action.leaves_held()).then_some(self.action),
        }
    }
}

/// The body of `lock.changed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaseChange {
    pub ns: Namespace,
    pub resource: Resource,
    /// `held` or `free`.
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<NodeId>,
    #[serde(rename = "fencing_token")]
    pub token: u64,
    #[serde(
        rename = "lease_expires_at_ns",
        skip_serializing_if = "Option::is_none",
        serialize_with = "decimal_option"
    )]
    pub expires_wall_ns: Option<u64>,
    pub reason: LeaseAction,
}

fn decimal_option<S: serde::Serializer>(
    number: &Option<u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) => decimal(number, serializer),
        None => serializer.serialize_none(),
    }
}

/// What is kept of one resource: the last grant, and how it ended if it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    pub ns: Namespace,
    pub resource: Resource,
    pub tenure: Tenure,
    /// [`LeaseAction::Release`], [`LeaseAction::Expire`] or [`LeaseAction::Break`]; none while held.
    pub ended: Option<LeaseAction>,
}

/// One grant of a lock to one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    pub owner: NodeId,
    pub token: u64,
    pub lease_ms: u64,
    pub request_id: Option<Arc<str>>,
    pub meta: Option<Arc<str>>,
}
