//! What is to be sent next in a conversation, and what the answers change.
//!
//! A conversation has at most one commit under way, and sends nothing else meanwhile. What was built is stored before
//! it leaves, so that a lost answer is met with the same bytes under the same `msg_id`.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use openmls::{group::MlsGroup, prelude::KeyPackage};
use relay_proto::{Code, NodeId, conv::ConvKind, mls::decode_base64};
use serde_json::{Value, json};

use super::{Core, Events, act::enqueue, changed, conv, env_hash, group_id, note_group};
use crate::{
    error::{Error, Result},
    mls::{Provider, group, info},
    store::{
        ConvRow, Durability, OutRow, Tx,
        rows::{Job, Pending},
    },
    views::{ConversationState, Event},
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
    /// Nothing before this time.
    Wait { until_ms: u64 },
}

/// What a look at a conversation led to.
#[derive(Debug)]
pub(crate) struct Look {
    pub step: Option<Step>,
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
/// So long it is waited before somebody without devices is asked for again.
const NO_DEVICE_MS: u64 = 15_000;
/// Rank by rank, members wait so long before they commit what others proposed.
const PROPOSAL_RANK_MS: u64 = 5_000;
const PROPOSAL_JITTER_MS: u64 = 2_000;
/// External commits that lose a race are built anew so often.
const REJOIN_TRIES: u32 = 5;
/// Keys are renewed so often, spread over a day (`mls-profile.md` 4).
const UPDATE_EVERY_MS: u64 = 7 * DAY_MS;
const DAY_MS: u64 = 86_400_000;

impl Core {
    /// What to send next in a conversation; `None` where nothing is to be done until something comes.
    pub fn next_step(&self, conv_id: &str, now_ms: u64) -> Result<Look> {
        let mut changed = false;
        let step = self.look(conv_id, now_ms, &mut changed)?;
        Ok(Look { changed: changed || matches!(step, Some(Step::Wait { .. })), step })
    }

    fn look(&self, conv_id: &str, now_ms: u64, changed: &mut bool) -> Result<Option<Step>> {
        self.store.write(Durability::Now, |tx| {
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
                match self.run(tx, &mut row, &mut out, now_ms)? {
                    Ran::Step(step) => return Ok(Some(step)),
                    Ran::Done => {
                        tx.remove_out(out.n)?;
                        *changed = true;
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
            Job::Rejoin { .. } => Ok(Ran::Step(Step::GroupInfo { n: out.n })),
            _ => {
                let provider = self.live(tx, &id);
                let mut group = self.group(&provider, &id)?;
                self.run_in_group(tx, row, out, &provider, &mut group, now_ms)
            }
        }
    }

    fn run_in_group(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        out: &mut OutRow,
        provider: &Provider<'_>,
        group: &mut MlsGroup,
        now_ms: u64,
    ) -> Result<Ran> {
        let leaves = group::leaves(group)?;
        let own = group.own_leaf_index();
        let of = |keep: &dyn Fn(&group::Leaf) -> bool| -> Vec<_> {
            let others = leaves.iter().filter(|leaf| leaf.index != own);
            others.filter(|leaf| keep(leaf)).map(|leaf| leaf.index).collect()
        };
        match out.job.clone() {
            Job::Message { content } => {
                // Proposals block sending (RFC 9420 12.4): whoever wants to send commits them first.
                if group.has_pending_proposals() {
                    let step = self.build(tx, row, None, provider, group, Change::default())?;
                    return Ok(Ran::Step(step));
                }
                let bytes = content.0.encode()?;
                let make = |provider: &Provider<'_>, group: &mut MlsGroup| {
                    group::encrypt(provider, &self.device, group, &bytes)
                };
                self.send(tx, row, out, provider, group, "application", make)
            }
            Job::Add { users, packages } => {
                if let Some(user) = users.iter().find(|user| !packages.contains_key(user)) {
                    return Ok(Ran::Step(Step::Fetch { n: out.n, user: *user }));
                }
                self.add(tx, row, out, provider, group, &packages, now_ms)
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
                Ok(Ran::Step(self.build(tx, row, Some(out.n), provider, group, change)?))
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
                Ok(Ran::Step(self.build(tx, row, Some(out.n), provider, group, change)?))
            }
            Job::Update => Ok(Ran::Step(self.build(
                tx,
                row,
                Some(out.n),
                provider,
                group,
                Change::default(),
            )?)),
            Job::CommitProposals if !group.has_pending_proposals() => Ok(Ran::Done),
            Job::CommitProposals => Ok(Ran::Step(self.build(
                tx,
                row,
                Some(out.n),
                provider,
                group,
                Change::default(),
            )?)),
            Job::Leave { proposed } => {
                let me = self.me();
                let siblings = of(&|leaf| leaf.user == me);
                let alone = leaves.iter().all(|leaf| leaf.user == me);
                if proposed || alone || !group.is_active() {
                    return Ok(Ran::Step(Step::Leave { n: out.n }));
                }
                // A leaf cannot commit its own removal, but those of the user's other devices it can.
                if !siblings.is_empty() {
                    let change = Change { removes: siblings, ..Change::default() };
                    return Ok(Ran::Step(self.build(tx, row, None, provider, group, change)?));
                }
                let make = |provider: &Provider<'_>, group: &mut MlsGroup| {
                    group::propose_leaving(provider, &self.device, group)
                };
                self.send(tx, row, out, provider, group, "proposal", make)
            }
            Job::Create { .. } | Job::Rejoin { .. } => Ok(Ran::Done),
        }
    }

    /// Sends as it was sent before, or encrypts for the present epoch.
    #[allow(
        clippy::too_many_arguments,
        reason = "one group under change: row, job, storage, state"
    )]
    fn send(
        &self,
        tx: &Tx<'_>,
        row: &ConvRow,
        out: &mut OutRow,
        provider: &Provider<'_>,
        group: &mut MlsGroup,
        kind: &str,
        make: impl FnOnce(&Provider<'_>, &mut MlsGroup) -> Result<Vec<u8>>,
    ) -> Result<Ran> {
        let epoch = group.epoch().as_u64();
        if row.stale_epoch == Some(epoch) {
            // The commit that ended it is on its way here.
            return Ok(Ran::Blocked);
        }
        let env = match &out.sent {
            Some((env, sent_in)) if *sent_in == epoch => env.clone(),
            _ => {
                let env = STANDARD.encode(make(provider, group)?);
                out.sent = Some((env.clone(), epoch));
                tx.save_out(out)?;
                env
            }
        };
        let body =
            json!({ "conv_id": row.conv_id, "msg_id": out.msg_id, "env": env, "kind": kind });
        Ok(Ran::Step(Step::Send { n: out.n, body }))
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one group under change: row, job, storage, state"
    )]
    fn add(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        out: &mut OutRow,
        provider: &Provider<'_>,
        group: &mut MlsGroup,
        packages: &BTreeMap<NodeId, Vec<(String, String)>>,
        now_ms: u64,
    ) -> Result<Ran> {
        let leaves = group::leaves(group)?;
        let present = group::count_users(&leaves);
        let mut change = Change::default();
        let mut missing = Vec::new();
        for (user, devices) in packages {
            let mut usable = 0;
            for (device, package) in devices {
                let Some(id) = device_bytes(device) else { continue };
                if leaves.iter().any(|leaf| leaf.user == *user && leaf.device == id) {
                    continue;
                }
                let read = decode_base64(package).map_err(Error::from).and_then(|bytes| {
                    group::key_package(provider, &bytes, user, &id, now_ms / 1_000)
                });
                match read {
                    Ok((package, reference)) => {
                        usable += 1;
                        change.adds.push(package);
                        change.welcomed.push(json!({
                            "user_id": user, "device_id": device, "key_package_ref": STANDARD.encode(reference),
                        }));
                    }
                    Err(error) => {
                        tracing::warn!(%user, device, %error, "a key package is not used");
                    }
                }
            }
            if usable > 0 && !present.contains_key(user) {
                change.users_new.insert(*user);
            } else if usable == 0 && !present.contains_key(user) {
                missing.push(*user);
            }
        }
        if change.adds.is_empty() {
            if missing.is_empty() {
                return Ok(Ran::Done);
            }
            // Asked for again later: they may come any day.
            let Job::Add { packages, .. } = &mut out.job else { return Ok(Ran::Done) };
            packages.retain(|user, _| !missing.contains(user));
            let who =
                missing.iter().map(|user| self.name_of(tx, user)).collect::<Result<Vec<_>>>()?;
            let why = format!("{} has no device at this relay yet", who.join(", "));
            out.waits = Some((why, now_ms + NO_DEVICE_MS));
            tx.save_out(out)?;
            return Ok(Ran::Waits);
        }
        if !missing.is_empty() {
            let job = Job::Add { users: missing, packages: BTreeMap::new() };
            enqueue(tx, row, job, now_ms)?;
        }
        Ok(Ran::Step(self.build(tx, row, Some(out.n), provider, group, change)?))
    }

    /// Builds a commit and keeps it pending.
    fn build(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        job: Option<i64>,
        provider: &Provider<'_>,
        group: &mut MlsGroup,
        change: Change,
    ) -> Result<Step> {
        let built = group::commit(provider, &self.device, group, change.adds, change.removes)?;
        let mut welcomes = Vec::new();
        if let Some(welcome) = &built.welcome {
            welcomes.push(json!({ "env": STANDARD.encode(welcome), "to": change.welcomed }));
        }
        let extra = json!({
            "welcomes": welcomes, "members_add": change.users_new, "members_remove": change.users_gone,
        });
        self.keep_pending(tx, row, job, &built, extra, false)
    }

    /// Keeps a commit until the log brings it back.
    pub(super) fn keep_pending(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        job: Option<i64>,
        built: &group::BuiltCommit,
        extra: Value,
        external: bool,
    ) -> Result<Step> {
        let id = group_id(&row.conv_id)?;
        let msg_id = crate::content::new_id()?;
        let env = STANDARD.encode(&built.commit);
        let sealed = info::seal(&row.rejoin_key, &id, built.new_epoch, &built.group_info)?;
        let mut body = json!({
            "conv_id": row.conv_id, "msg_id": msg_id, "env": env,
            "group_info": { "epoch": built.new_epoch, "sealed": STANDARD.encode(sealed) },
        });
        if let (Some(body), Value::Object(extra)) = (body.as_object_mut(), extra) {
            body.extend(extra);
        }
        let body = body.to_string();
        row.pending = Some(Pending {
            msg_id: msg_id.clone(),
            env_hash: env_hash(&env),
            body: body.clone(),
            job,
            external,
            acked: false,
        });
        tx.save_conv(row)?;
        Ok(Step::Commit { msg_id, body })
    }

    /// What nobody asked for: others' proposals, and new keys now and then.
    fn upkeep(&self, tx: &Tx<'_>, row: &mut ConvRow, now_ms: u64) -> Result<Option<Step>> {
        if row.state != ConversationState::Active || row.stale_epoch == Some(row.epoch) {
            return Ok(None);
        }
        let id = group_id(&row.conv_id)?;
        if let Some(since) = row.proposals_since_ms {
            let provider = self.live(tx, &id);
            let mut group = self.group(&provider, &id)?;
            let due = since + self.proposal_delay_ms(&group)?;
            if due > now_ms {
                return Ok(Some(Step::Wait { until_ms: due }));
            }
            return self.build(tx, row, None, &provider, &mut group, Change::default()).map(Some);
        }
        let jitter = u64::from(self.device.id[0]) * DAY_MS / 256;
        if row.members.len() > 1 && now_ms > row.updated_at_ms + UPDATE_EVERY_MS + jitter {
            let provider = self.live(tx, &id);
            let mut group = self.group(&provider, &id)?;
            // Whatever becomes of it, the next one is a week away.
            row.updated_at_ms = now_ms;
            return self.build(tx, row, None, &provider, &mut group, Change::default()).map(Some);
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

    // === answers ===

    /// The relay knows the conversation now.
    pub fn created(&self, n: i64) -> Result<Events> {
        self.with_out(n, |tx, row, out| {
            if row.state == ConversationState::Creating {
                row.state = ConversationState::Active;
            }
            tx.remove_out(out.n)?;
            tx.save_conv(row)?;
            Ok(vec![changed(row)])
        })
    }

    /// KeyPackages of a user, one for each device: device, base64.
    pub fn fetched(&self, n: i64, user: NodeId, devices: Vec<(String, String)>) -> Result<Events> {
        self.with_out(n, |tx, _, out| {
            if let Job::Add { packages, .. } = &mut out.job {
                packages.insert(user, devices);
                tx.save_out(out)?;
            }
            Ok(Vec::new())
        })
    }

    /// The relay has stored a message.
    pub fn sent(&self, n: i64) -> Result<Events> {
        self.with_out(n, |tx, row, out| {
            match &mut out.job {
                // Next the user comes off the relay's list.
                Job::Leave { proposed } => *proposed = true,
                _ => out.acked = true,
            }
            tx.save_out(out)?;
            Ok(vec![self.out_changed(row, out)])
        })
    }

    /// The user is off the relay's list.
    pub fn left(&self, n: i64) -> Result<Events> {
        self.with_out(n, |tx, row, out| {
            tx.remove_out(out.n)?;
            row.state = ConversationState::Left;
            tx.save_conv(row)?;
            self.live(tx, &group_id(&row.conv_id)?).storage.clear()?;
            Ok(vec![changed(row)])
        })
    }

    /// The relay did not take something of the outbox.
    pub fn refused(&self, n: i64, why: &Refused, now_ms: u64) -> Result<Events> {
        self.with_out(n, |tx, row, out| {
            if why.is_stale() {
                if let Some((_, epoch)) = out.sent {
                    row.stale_epoch = Some(epoch);
                    tx.save_conv(row)?;
                }
            } else if matches!(out.job, Job::Create { .. })
                && why.message == "conversation already exists"
            {
                // Nobody else chooses our 32 random bytes: the answer to an earlier try was lost.
                row.state = ConversationState::Active;
                tx.save_conv(row)?;
                tx.remove_out(out.n)?;
                return Ok(vec![changed(row)]);
            } else if let Some(pause) = why.pause_ms() {
                out.waits = Some((why.message.clone(), now_ms + pause));
                tx.save_out(out)?;
            } else {
                out.failed = Some(why.message.clone());
                tx.save_out(out)?;
            }
            Ok(vec![self.out_changed(row, out), changed(row)])
        })
    }

    /// The relay took a commit, or not.
    pub fn commit_answered(
        &self,
        conv_id: &str,
        msg_id: &str,
        answer: &CommitAnswer,
        now_ms: u64,
    ) -> Result<Events> {
        self.store.write(Durability::Soon, |tx| {
            let mut row = conv(tx, conv_id)?;
            let Some(pending) = row.pending.as_mut().filter(|pending| pending.msg_id == msg_id)
            else {
                // The log was quicker.
                return Ok(Vec::new());
            };
            let why = match answer {
                CommitAnswer::Acked => {
                    pending.acked = true;
                    tx.save_conv(&row)?;
                    return Ok(Vec::new());
                }
                CommitAnswer::Refused(why) => why,
            };
            let (job, external) = (pending.job, pending.external);
            if why.is_stale() && !external {
                row.stale_epoch = Some(row.epoch);
                tx.save_conv(&row)?;
                return Ok(Vec::new());
            }
            self.drop_pending(tx, &mut row)?;
            tx.save_conv(&row)?;
            let Some(mut out) = job.map(|n| tx.out(n)).transpose()?.flatten() else {
                return Ok(vec![changed(&row)]);
            };
            if why.is_stale() {
                self.lost_rejoin_race(tx, &mut row, &mut out, now_ms)?;
            } else if let Some(pause) = why.pause_ms() {
                out.waits = Some((why.message.clone(), now_ms + pause));
                tx.save_out(&out)?;
            } else {
                out.failed = Some(why.message.clone());
                tx.save_out(&out)?;
            }
            Ok(vec![self.out_changed(&row, &out), changed(&row)])
        })
    }

    fn lost_rejoin_race(
        &self,
        tx: &Tx<'_>,
        row: &mut ConvRow,
        out: &mut OutRow,
        now_ms: u64,
    ) -> Result<()> {
        let Job::Rejoin { tries, .. } = &mut out.job else { return Ok(()) };
        *tries += 1;
        if *tries >= REJOIN_TRIES {
            out.failed = Some("others were quicker five times; try again later".into());
        } else {
            let jitter = u64::from(self.device.id[2]) * 4;
            out.waits = Some(("another change of the group was quicker".into(), now_ms + jitter));
        }
        tx.save_out(out)?;
        tx.save_conv(row)
    }

    /// Forgets the commit under way: it lost, or must not be sent any more.
    pub(super) fn drop_pending(&self, tx: &Tx<'_>, row: &mut ConvRow) -> Result<()> {
        let Some(pending) = row.pending.take() else { return Ok(()) };
        let id = group_id(&row.conv_id)?;
        if pending.external {
            return self.joining(tx, &id).storage.clear();
        }
        let provider = self.live(tx, &id);
        let mut group = self.group(&provider, &id)?;
        group
            .clear_pending_commit(&provider.storage)
            .map_err(|error| Error::Mls(error.to_string()))?;
        note_group(row, &group)
    }

    fn with_out(
        &self,
        n: i64,
        change: impl FnOnce(&Tx<'_>, &mut ConvRow, &mut OutRow) -> Result<Events>,
    ) -> Result<Events> {
        self.store.write(Durability::Soon, |tx| {
            // It may be gone: the log was quicker than the answer.
            let Some(mut out) = tx.out(n)? else { return Ok(Vec::new()) };
            let Some(mut row) = tx.conv_by_n(out.conv)? else { return Ok(Vec::new()) };
            change(tx, &mut row, &mut out)
        })
    }

    fn out_changed(&self, row: &ConvRow, out: &OutRow) -> Event {
        Event::Changed { conv_id: row.conv_id.clone(), seq: None, local: Some(out.n) }
    }
}

/// What a commit is to change.
#[derive(Default)]
struct Change {
    adds: Vec<KeyPackage>,
    removes: Vec<openmls::prelude::LeafNodeIndex>,
    /// For whom the Welcome is, as the relay reads it.
    welcomed: Vec<Value>,
    users_new: BTreeSet<NodeId>,
    users_gone: BTreeSet<NodeId>,
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
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    URL_SAFE_NO_PAD.encode(device)
}

fn device_bytes(text: &str) -> Option<[u8; 16]> {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}
