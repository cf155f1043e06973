//! Who is in a conversation and what they may do there (`gateway.md` 8).

use relay_proto::{
    NodeId,
    conv::{ConvId, ConvKind, Mail, Profile, Role, request::Act},
};

use super::{
    Gate,
    conversations::{ConversationRow, MemberRow, add_member, blocked, is_full, lock, member},
    mail,
};
use crate::{
    Store,
    error::Result,
    sql::{Sql, exists, transact},
};

/// A change that somebody wants; all targets or none.
#[derive(Debug, Clone)]
pub struct Governing {
    pub conv: ConvId,
    pub actor: NodeId,
    pub act: Act,
    /// Each once.
    pub targets: Vec<NodeId>,
    pub at_ms: u64,
    pub max_members: u64,
    pub max_per_user: u64,
    /// Whether users who do not live here are told at their homes.
    pub mail: bool,
    pub gate: Gate,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GovernOutcome {
    Done {
        /// No members any more.
        removed: Vec<NodeId>,
    },
    Refused(GovernRefusal),
}

/// Why nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GovernRefusal {
    /// Not a member, or without the right to do this.
    Forbidden,
    NotARoom,
    Blocked,
    Banned,
    TooMany,
    /// Milliseconds to wait.
    Exceeded(u64),
}

impl Store {
    /// Changes membership, roles, bans or mutes.
    pub async fn govern(&self, change: Governing) -> Result<GovernOutcome> {
        transact!(self, change, govern)
    }

    /// Gives a conversation another title; the outer `None` where `user` may not, or is no member.
    pub async fn set_title(&self, conv: ConvId, user: NodeId, title: String) -> Result<bool> {
        let asked = (conv, user, title);
        transact!(self, asked, set_title)
    }
}

/// What an act does to one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Add,
    Drop,
    Become(Role),
    Ban,
    Unban,
    Mute,
    Unmute,
    Skip,
}

/// Whether somebody with this role may do it at all.
pub(super) fn may(act: Act, actor: Role, only_self: bool) -> bool {
    match act {
        Act::Promote | Act::Demote => actor == Role::Owner,
        Act::Remove => actor.governs() || only_self,
        _ => actor.governs(),
    }
}

/// What the act means for a target with this role, or with none; `Err` where it may not be.
pub(super) fn step(act: Act, target: Option<Role>) -> Result<Step, GovernRefusal> {
    Ok(match (act, target) {
        (Act::Invite, None) => Step::Add,
        (Act::Remove, Some(Role::Owner)) => return Err(GovernRefusal::Forbidden),
        (Act::Remove, Some(_)) => Step::Drop,
        (Act::Promote, Some(Role::Member)) => Step::Become(Role::Admin),
        (Act::Demote, Some(Role::Admin)) => Step::Become(Role::Member),
        (Act::Ban | Act::Mute, Some(Role::Owner)) => Step::Skip,
        (Act::Ban, _) => Step::Ban,
        (Act::Unban, _) => Step::Unban,
        (Act::Mute, Some(_)) => Step::Mute,
        (Act::Unmute, Some(_)) => Step::Unmute,
        (Act::Invite | Act::Remove | Act::Promote | Act::Demote | Act::Mute | Act::Unmute, _) => {
            Step::Skip
        }
    })
}

async fn govern<S: Sql>(sql: &S, change: &Governing) -> Result<GovernOutcome> {
    let refused = |refusal| Ok(GovernOutcome::Refused(refusal));
    let Some(conversation) = lock(sql, &change.conv).await? else {
        return refused(GovernRefusal::Forbidden);
    };
    let Some(actor) = member(sql, conversation.n, &change.actor).await? else {
        return refused(GovernRefusal::Forbidden);
    };
    let only_self = change.targets == [change.actor];
    let is_dm = conversation.profile == Profile::RelayMls1 && conversation.kind == ConvKind::Dm;
    if is_dm && change.act != Act::Remove {
        return refused(GovernRefusal::NotARoom);
    }
    if !may(change.act, actor.role, only_self) {
        return refused(GovernRefusal::Forbidden);
    }
    if let Err(wait_ms) = change.gate.ask() {
        return refused(GovernRefusal::Exceeded(wait_ms));
    }
    let plan = match plan(sql, &conversation, change).await? {
        Ok(plan) => plan,
        Err(refusal) => return refused(refusal),
    };
    let removed = carry_out(sql, &conversation, &plan, &change.actor, change.at_ms).await?;
    if change.mail {
        tell_homes(sql, &change.conv, &plan, &removed, &change.actor, change.at_ms).await?;
    }
    Ok(GovernOutcome::Done { removed })
}

pub(super) type Plan = Vec<(NodeId, Option<MemberRow>, Step)>;

/// Decides for every target before anything is written.
pub(super) async fn plan<S: Sql>(
    sql: &S,
    conversation: &ConversationRow,
    change: &Governing,
) -> Result<Result<Plan, GovernRefusal>> {
    let mut plan = Vec::with_capacity(change.targets.len());
    let mut added = 0;
    for target in &change.targets {
        let found = member(sql, conversation.n, target).await?;
        let step = match step(change.act, found.as_ref().map(|member| member.role)) {
            Ok(step) => step,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if step == Step::Add {
            if let Some(refusal) = may_enter(sql, conversation, change, target).await? {
                return Ok(Err(refusal));
            }
            added += 1;
        }
        plan.push((*target, found, step));
    }
    if conversation.members + added > change.max_members && added > 0 {
        return Ok(Err(GovernRefusal::TooMany));
    }
    Ok(Ok(plan))
}

async fn may_enter<S: Sql>(
    sql: &S,
    conversation: &ConversationRow,
    change: &Governing,
    target: &NodeId,
) -> Result<Option<GovernRefusal>> {
    if blocked(sql, &change.actor, target).await? {
        return Ok(Some(GovernRefusal::Blocked));
    }
    let banned = "SELECT banned_at_ms FROM conversation_bans WHERE conv = ?1 AND user_key = ?2";
    if exists(sql, banned, &[conversation.n.into(), target.into()]).await? {
        return Ok(Some(GovernRefusal::Banned));
    }
    let full = is_full(sql, target, change.max_per_user).await?;
    Ok(full.then_some(GovernRefusal::TooMany))
}

/// Writes what was decided; returns who is out.
pub(super) async fn carry_out<S: Sql>(
    sql: &S,
    conversation: &ConversationRow,
    plan: &Plan,
    actor: &NodeId,
    at_ms: u64,
) -> Result<Vec<NodeId>> {
    let n = conversation.n;
    let mut removed = Vec::new();
    let mut members = conversation.members;
    for (user, before, step) in plan {
        match step {
            Step::Skip => {}
            Step::Add => {
                if add_member(sql, n, user, Role::Member, (at_ms, conversation.latest_seq)).await? {
                    members += 1;
                }
            }
            Step::Become(role) => {
                let text =
                    "UPDATE conversation_members SET role = ?3 WHERE conv = ?1 AND user_key = ?2";
                sql.run(text, &[n.into(), user.into(), role.number().into()]).await?;
            }
            Step::Drop | Step::Ban => {
                if before.is_some() {
                    let text = "DELETE FROM conversation_members WHERE conv = ?1 AND user_key = ?2";
                    sql.run(text, &[n.into(), user.into()]).await?;
                    members -= 1;
                    removed.push(*user);
                }
                if *step == Step::Ban {
                    sql.run(
                        "INSERT INTO conversation_bans (conv, user_key, banned_by, banned_at_ms)
                         VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
                        &[n.into(), user.into(), actor.into(), at_ms.into()],
                    )
                    .await?;
                }
            }
            Step::Unban => {
                let text = "DELETE FROM conversation_bans WHERE conv = ?1 AND user_key = ?2";
                sql.run(text, &[n.into(), user.into()]).await?;
            }
            Step::Mute => {
                let text = "UPDATE conversation_members SET muted_at_ms = ?3, muted_by = ?4
                            WHERE conv = ?1 AND user_key = ?2 AND muted_at_ms IS NULL";
                sql.run(text, &[n.into(), user.into(), at_ms.into(), actor.into()]).await?;
            }
            Step::Unmute => {
                let text = "UPDATE conversation_members SET muted_at_ms = NULL, muted_by = NULL
                            WHERE conv = ?1 AND user_key = ?2";
                sql.run(text, &[n.into(), user.into()]).await?;
            }
        }
    }
    if members != conversation.members {
        let text = "UPDATE conversations SET members = ?2 WHERE n = ?1";
        sql.run(text, &[n.into(), members.into()]).await?;
    }
    Ok(removed)
}

/// Writes to the homes of those who came in or went out.
pub(super) async fn tell_homes<S: Sql>(
    sql: &S,
    conv: &ConvId,
    plan: &Plan,
    removed: &[NodeId],
    actor: &NodeId,
    at_ms: u64,
) -> Result<()> {
    let joined = plan.iter().filter(|(_, _, step)| *step == Step::Add).map(|(user, ..)| user);
    let joined =
        joined.map(|user| (user, Mail::Joined { conv_id: conv.clone(), by: Some(*actor) }));
    let left = removed.iter().map(|user| (user, Mail::Left { conv_id: conv.clone() }));
    let mut told: Vec<(&NodeId, Mail)> = joined.chain(left).collect();
    // Users are locked in one order, whoever writes.
    told.sort_by_key(|(user, _)| **user);
    for (user, mail) in told {
        mail::write(sql, user, &mail, at_ms).await?;
    }
    Ok(())
}

async fn set_title<S: Sql>(sql: &S, asked: &(ConvId, NodeId, String)) -> Result<bool> {
    let (conv, user, title) = asked;
    let Some(conversation) = lock(sql, conv).await? else { return Ok(false) };
    let actor = member(sql, conversation.n, user).await?;
    if !actor.is_some_and(|actor| actor.role.governs()) {
        return Ok(false);
    }
    let text = "UPDATE conversations SET title = ?2 WHERE n = ?1";
    sql.run(text, &[conversation.n.into(), title.as_str().into()]).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_stay_and_others_are_ranked() {
        assert_eq!(step(Act::Remove, Some(Role::Owner)), Err(GovernRefusal::Forbidden));
        assert_eq!(step(Act::Ban, Some(Role::Owner)), Ok(Step::Skip));
        assert_eq!(step(Act::Ban, None), Ok(Step::Ban));
        assert_eq!(step(Act::Promote, Some(Role::Owner)), Ok(Step::Skip));
        assert_eq!(step(Act::Promote, None), Ok(Step::Skip));
        assert_eq!(step(Act::Invite, Some(Role::Admin)), Ok(Step::Skip));
        assert!(may(Act::Remove, Role::Member, true) && !may(Act::Remove, Role::Member, false));
        assert!(!may(Act::Promote, Role::Admin, false) && may(Act::Mute, Role::Admin, false));
    }
}
