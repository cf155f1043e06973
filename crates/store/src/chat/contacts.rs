//! Blocklists and watchlists (`gateway.md` 11).

use relay_proto::{NodeId, conv::Mail};

use super::mail;
use crate::{
    Store,
    error::Result,
    sql::{Sql, look, transact},
};

/// Which list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContactKind {
    Block,
    Watch,
}

/// Contacts to be put on a list or taken off it.
#[derive(Debug, Clone)]
pub struct ContactChange {
    pub user: NodeId,
    pub kind: ContactKind,
    pub contacts: Vec<NodeId>,
    pub add: bool,
    /// Entries that the list may have.
    pub max: u64,
    /// Those of the contacts who live elsewhere, whose homes are told.
    pub tell: Vec<NodeId>,
    pub at_ms: u64,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContactOutcome {
    /// The list has so many entries now.
    Done(u64),
    TooMany,
}

impl ContactKind {
    const fn table(self) -> &'static str {
        match self {
            Self::Block => "blocks",
            Self::Watch => "watches",
        }
    }
}

impl Store {
    /// Changes a list, all contacts or none.
    pub async fn change_contacts(&self, change: ContactChange) -> Result<ContactOutcome> {
        transact!(self, change, change_list)
    }

    /// Every entry of every list of this kind.
    pub async fn all_contacts(&self, kind: ContactKind) -> Result<Vec<(NodeId, NodeId)>> {
        look!(self, kind, all)
    }
}

async fn change_list<S: Sql>(sql: &S, change: &ContactChange) -> Result<ContactOutcome> {
    let table = change.kind.table();
    let user = &change.user;
    // In one order, whoever else tells these users something.
    let mut locked: Vec<&NodeId> = change.tell.iter().chain([user]).collect();
    locked.sort_unstable();
    for user in locked {
        sql.lock_user(user).await?;
    }
    let known = sql
        .rows(&format!("SELECT target FROM {table} WHERE user_key = ?1"), &[user.into()])
        .await?
        .into_iter()
        .map(|mut row| row.key(0))
        .collect::<Result<std::collections::HashSet<NodeId>>>()?;
    let mut after = known.clone();
    if change.add {
        after.extend(change.contacts.iter().copied());
    } else {
        after.retain(|contact| !change.contacts.contains(contact));
    }
    if change.add && after.len() as u64 > change.max {
        return Ok(ContactOutcome::TooMany);
    }
    for contact in after.difference(&known) {
        let text = format!("INSERT INTO {table} (user_key, target) VALUES (?1, ?2)");
        sql.run(&text, &[user.into(), contact.into()]).await?;
        tell(sql, change, contact).await?;
    }
    for contact in known.difference(&after) {
        let text = format!("DELETE FROM {table} WHERE user_key = ?1 AND target = ?2");
        sql.run(&text, &[user.into(), contact.into()]).await?;
        tell(sql, change, contact).await?;
    }
    Ok(ContactOutcome::Done(after.len() as u64))
}

/// Tells a contact's home what became of it.
async fn tell<S: Sql>(sql: &S, change: &ContactChange, contact: &NodeId) -> Result<()> {
    if change.kind == ContactKind::Block && change.tell.contains(contact) {
        let mail = Mail::Blocked { by: change.user, is_blocked: change.add };
        mail::write(sql, contact, &mail, change.at_ms).await?;
    }
    Ok(())
}

async fn all<S: Sql>(sql: &S, kind: &ContactKind) -> Result<Vec<(NodeId, NodeId)>> {
    let text = format!("SELECT user_key, target FROM {}", kind.table());
    let rows = sql.rows(&text, &[]).await?;
    rows.into_iter().map(|mut row| Ok((row.key(0)?, row.key(1)?))).collect()
}
