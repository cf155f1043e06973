//! What is to be sent next in a conversation, and what the answers change.
//!
//! A conversation has at most one commit under way, and sends nothing else meanwhile. What was built is stored before
//! it leaves, so that a lost answer is met with the same bytes under the same `msg_id`.

mod answers;
mod build;

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openmls::group::MlsGroup;
use relay_proto::{Code, NodeId, conv::ConvKind};
use serde_json::{Value, json};

use self::build::Change;
pub(super) use self::build::Changing;
use super::{Core, conv, group_id};
use crate::{
    error::Result,
    mls::{Provider, group},
    store::{
        ConvRow, Durability, OutRow, Tx,
        rows::{Asking, Job},
    },
    views::ConversationState,
};

/// Something to be asked of the relay.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// `POST` a body; answered with [`Core::created`] or [`Core::refused`].
    Create { n: i64, path: &'static str, body: Value },
    /// One KeyPackage of each device of a user; answered with [`Core::fetched`].
    Fetch { n: i64, user: NodeId },
    /// `conv.commit`; answered with [`Core::commit_answered`].
    Commit { msg_id: String, body: String },
    /// `conv.send`; answered with [`Core::sent`] or [`Core::refused`].
    Send { n: i64, body: Value },
    /// Takes the user off the relay's list; answered with [`Core::left`].
    Leave { n: i64 },
    /// The published GroupInfo; answered with [`Core::group_info`].
    GroupInfo { n: i64 },
    /// Asks the members to let this device in again; answered with [`Core::rejoin_asked`].
    AskRejoin { n: i64 },
    /// Nothing before this time.
    Wait { until_ms: u64 },
}

/// What a look at a conversation led to.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub step: Option<Step>,
    /// Messages of the outbox whose attachments are to be handed in; they hold up nothing.
    pub uploads: Vec<i64>,
    /// The outbox is another one: something was done without the relay, or waits for somebody.
    pub changed: bool,
}

/// Why the relay did not take something.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub code: Code,
    /// `stale_epoch`, `future_epoch`.
    pub reason: Option<String>,
    pub message: String,
    pub retry_after_ms: Option<u64>,
}

impl Refused {
    fn is_stale(&self) -> bool {
        self.code == Code::Conflict && self.reason.as_deref() == Some("stale_epoch")
    }

    /// How long to wait where the same may succeed later.
    fn pause_ms(&self) -> Option<u64> {
        matches!(
            self.code,
            Code::RateLimited
                | Code::HomeUnreachable
                | Code::Timeout
                | Code::InternalError
                | Code::SlowConsumer
                | Code::QuotaExceeded
        )
        .then(|| self.retry_after_ms.unwrap_or(PAUSE_MS).max(MIN_PAUSE_MS))
    }
}

/// How a commit fared.
#[derive(Debug, Clone)]
pub(crate) enum CommitAnswer {
    Acked,
    Refused(Refused),
}

const PAUSE_MS: u64 = 5_000;
const MIN_PAUSE_MS: u64 = 200;
/// Rank by rank, members wait so long before they commit what others proposed.
const PROPOSAL_RANK_MS: u64 = 5_000;
const PROPOSAL_JITTER_MS: u64 = 2_000;
/// Keys are renewed so often, spread over a day (`mls-profile.md` 4).
const UPDATE_EVERY_MS: u64 = 7 * DAY_MS;
const DAY_MS: u64 = 86_400_000;

impl Core {
    /// What to send next in a conversation; `None` where nothing is to be done until something comes.
    pub fn next_step(&self, conv_id: &str, now_ms: u64) -> Result<Look> {
        let mut look = Look::default();
        look.step = self.look(conv_id, now_ms, &mut look)?;
        look.changed |= matches!(look.step, Some(Step::Wait { .. }));
        Ok(look)
    }

    fn look(&self, conv_id: &str, now_ms: u64, look: &mut Look) -> Result<Option<Step>> {
        self.write(Durability::Now, |tx| {
            let mut row = conv(tx, conv_id)?;
            if let Some(pending) = &row.pending {
                let stale = row.stale_epoch == Some(row.epoch);
                let again = !pending.acked && (pending.external || !stale);
                return Ok(again.then(|| Step::Commit {
                    msg_id: pending.msg_id.clone(),
                    body: pending.body.clone(),
                }));
            }
            let mut wait: Option<u64> = None;
            for mut out in tx.outbox(row.n)? {
                if out.failed.is_some() && holds_up(&row, &out.job) {
                    break;
                }
                if out.failed.is_some() || out.acked || !may_run(&row.state, &out.job) {
                    continue;
                }
                if let Some((_, until)) = out.waits {
                    if until > now_ms {
                        wait = Some(wait.map_or(until, |earlier| earlier.min(until)));
                        if holds_up(&row, &out.job) {
                            break;
                        }
                        continue;
                    }
                    out.waits = None;
                    tx.save_out(&out)?;
                }
                if out.upload.is_some() {
                    look.uploads.push(out.n);
                    continue;
                }
                match self.run(tx, &mut row, &mut out, now_ms)? {
                    Ran::Step(step) => return Ok(Some(step)),
                    Ran::Done => {
                        tx.remove_out(out.n)?;
                        look.changed = true;
                    }
                    Ran::Waits => {
                        if let Some((_, until)) = out.waits {
                            wait = Some(wait.map_or(until, |earlier| earlier.min(until)));
                        }
                        if holds_up(&row, &out.job) {
                            break;
                        }
                    }
                    Ran::Blocked => break,
                }
            }
            if let Some(step) = self.upkeep(tx, &mut row, now_ms)? {
                return Ok(Some(step));
            }
            Ok(wait.map(|until_ms| Step::Wait { until_ms }))
        })
    }

    fn run(&self, tx: &Tx<'_>, row: &mut ConvRow, out: &mut OutRow, now_ms: u64) -> Result<Ran> {
        let id = group_id(&row.conv_id)?;
        match &out.job {
            Job::Create { peer } => {
                let path = if peer.is_some() { "/v1/dms/create" } else { "/v1/rooms/create" };
                let mut body = json!({ "conv_id": row.conv_id, "profile": "relay-mls/1" });
                match peer {
                    Some(peer) => body["peer_user_id"] = json!(peer),
                    None => body["kind"] = json!("room"),
                }
                Ok(Ran::Step(Step::Create { n: out.n, path, body }))
            }
            Job::Rejoin { ask: Asking::Due, .. } => Ok(Ran::Step(Step::AskRejoin { n: out.n })),
            Job::Rejoin { .. } => Ok(Ran::Step(Step::GroupInfo { n: out.n })),
            _ => {
                let provider = self.live(tx, &id);
                self.with_group(&provider, &id, |group| {
                    let mut on = Changing { tx, row, provider: &provider, group, now_ms };
                    self.run_in_group(&mut on, out)
                })
            }
        }
    }

    fn run_in_group(&self, on: &mut Changing<'_>, out: &mut OutRow) -> Result<Ran> {
        if let Job::Message { content } = &out.job {
            // Proposals block sending (RFC 9420 12.4): whoever wants to send commits them first.
            if on.group.has_pending_proposals() {
                return Ok(Ran::Step(self.build(on, None, Change::default())?));
            }
            let bytes = content.0.encode()?;
            let make = |provider: &Provider<'_>, group: &mut MlsGroup| {
                group::encrypt(provider, &self.device, group, &bytes)
            };
            return self.send(on, out, "application", make);
        }
        let leaves = group::leaves(on.group)?;
        let own = on.group.own_leaf_index();
        let of = |keep: &dyn Fn(&group::Leaf) -> bool| -> Vec<_> {
            let others = leaves.iter().filter(|leaf| leaf.index != own);
            others.filter(|leaf| keep(leaf)).map(|leaf| leaf.index).collect()
        };
        match out.job.clone() {
            Job::Add { users, packages } => {
                if let Some(user) = users.iter().find(|user| !packages.contains_key(user)) {
                    return Ok(Ran::Step(Step::Fetch { n: out.n, user: *user }));
                }
                self.add(on, out, &packages)
            }
            Job::Remove { users } => {
                let removes = of(&|leaf| users.contains(&leaf.user));
                if removes.is_empty() {
                    return Ok(Ran::Done);
                }
                let there: BTreeSet<NodeId> = leaves
                    .iter()
                    .map(|leaf| leaf.user)
                    .filter(|user| users.contains(user))
                    .collect();
                let change = Change { removes, users_gone: there, ..Change::default() };
                Ok(Ran::Step(self.build(on, Some(out.n), change)?))
            }
            Job::RemoveDevices { user, devices } => {
                let named = |leaf: &group::Leaf| {
                    leaf.user == user && devices.contains(&device_text(&leaf.device))
                };
                let removes = of(&named);
                if removes.is_empty() {
                    return Ok(Ran::Done);
                }
                let change = Change { removes, ..Change::default() };
                Ok(Ran::Step(self.build(on, Some(out.n), change)?))
            }
            Job::Readmit { user, packages: None, .. } => {
                Ok(Ran::Step(Step::Fetch { n: out.n, user }))
            }
            Job::Readmit { user, device, packages: Some(packages) } => {
                self.readmit(on, out, (user, &device), &packages)
            }
            Job::CommitProposals if !on.group.has_pending_proposals() => Ok(Ran::Done),
            Job::Update | Job::CommitProposals => {
                Ok(Ran::Step(self.build(on, Some(out.n), Change::default())?))
            }
            Job::Leave { proposed } => {
                let me = self.me();
                let siblings = of(&|leaf| leaf.user == me);
                let alone = leaves.iter().all(|leaf| leaf.user == me);
                if proposed || alone || !on.group.is_active() {
                    return Ok(Ran::Step(Step::Leave { n: out.n }));
                }
                // A leaf cannot commit its own removal, but those of the user's other devices it can.
                if !siblings.is_empty() {
                    let change = Change { removes: siblings, ..Change::default() };
                    return Ok(Ran::Step(self.build(on, None, change)?));
                }
                let make = |provider: &Provider<'_>, group: &mut MlsGroup| {
                    group::propose_leaving(provider, &self.device, group)
                };
                self.send(on, out, "proposal", make)
            }
            Job::Message { .. } | Job::Create { .. } | Job::Rejoin { .. } => Ok(Ran::Done),
        }
    }

    /// What nobody asked for: others' proposals, and new keys now and then.
    fn upkeep(&self, tx: &Tx<'_>, row: &mut ConvRow, now_ms: u64) -> Result<Option<Step>> {
        if row.state != ConversationState::Active || row.stale_epoch == Some(row.epoch) {
            return Ok(None);
        }
        let id = group_id(&row.conv_id)?;
        if let Some(since) = row.proposals_since_ms {
            let provider = self.live(tx, &id);
            return self.with_group(&provider, &id, |group| {
                let due = since + self.proposal_delay_ms(group)?;
                if due > now_ms {
                    return Ok(Some(Step::Wait { until_ms: due }));
                }
                let mut on = Changing { tx, row, provider: &provider, group, now_ms };
                self.build(&mut on, None, Change::default()).map(Some)
            });
        }
        let jitter = u64::from(self.device.id[0]) * DAY_MS / 256;
        if row.members.len() > 1 && now_ms > row.updated_at_ms + UPDATE_EVERY_MS + jitter {
            let provider = self.live(tx, &id);
            // Whatever becomes of it, the next one is a week away.
            row.updated_at_ms = now_ms;
            return self.with_group(&provider, &id, |group| {
                let mut on = Changing { tx, row, provider: &provider, group, now_ms };
                self.build(&mut on, None, Change::default()).map(Some)
            });
        }
        Ok(None)
    }

    /// The member with the lowest leaf that did not propose commits first; each next one waits longer.
    fn proposal_delay_ms(&self, group: &MlsGroup) -> Result<u64> {
        let proposers: Vec<u32> = group
            .pending_proposals()
            .filter_map(|proposal| match proposal.sender() {
                openmls::prelude::Sender::Member(index) => Some(index.u32()),
                _ => None,
            })
            .collect();
        let own = group.own_leaf_index().u32();
        let rank = group
            .members()
            .filter(|member| member.index.u32() < own && !proposers.contains(&member.index.u32()))
            .count() as u64;
        let jitter = u64::from(self.device.id[1]) * PROPOSAL_JITTER_MS / 256;
        Ok(jitter + rank * PROPOSAL_RANK_MS)
    }
}

/// What became of one look at a job.
enum Ran {
    Step(Step),
    /// There is nothing left to do for it.
    Done,
    /// It waits; others may go on.
    Waits,
    /// Nothing goes on before something comes.
    Blocked,
}

/// Whether a job is done in this state at all.
fn may_run(state: &ConversationState, job: &Job) -> bool {
    match state {
        ConversationState::Creating => matches!(job, Job::Create { .. }),
        ConversationState::Active => !matches!(job, Job::Create { .. }),
        ConversationState::Invited { .. } => {
            matches!(job, Job::Add { .. } | Job::RemoveDevices { .. })
        }
        ConversationState::Leaving => matches!(job, Job::Leave { .. }),
        ConversationState::Stuck { .. } | ConversationState::Rejoining => {
            matches!(job, Job::Rejoin { .. })
        }
        ConversationState::Left | ConversationState::Removed => false,
    }
}

/// Whether what comes after has to wait as well: nobody but the author could read it.
pub(super) fn holds_up(row: &ConvRow, job: &Job) -> bool {
    let alone = row.members.values().filter(|devices| **devices > 0).count() < 2;
    matches!(job, Job::Add { .. }) && row.kind == ConvKind::Dm && alone
}

pub(super) fn device_text(device: &[u8; 16]) -> String {
    URL_SAFE_NO_PAD.encode(device)
}

pub(super) fn device_bytes(text: &str) -> Option<[u8; 16]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}
