//! What is sent: messages for the present epoch, and commits with all that the relay is told beside them.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use openmls::{group::MlsGroup, prelude::KeyPackage};
use relay_proto::{NodeId, mls::decode_base64};
use serde_json::{Value, json};

use super::{Ran, Step, device_bytes};
use crate::{
    core::{Core, act::enqueue, env_hash, group_id},
    error::{Error, Result},
    mls::{Provider, group, info},
    store::{
        ConvRow, OutRow, Tx,
        rows::{Job, Pending},
    },
};

/// So long it is waited before somebody without devices is asked for again.
const NO_DEVICE_MS: u64 = 15_000;

/// One group under change: the row of its conversation, its state, and the transaction in which both change.
pub(in crate::core) struct Changing<'a> {
    pub tx: &'a Tx<'a>,
    pub row: &'a mut ConvRow,
    pub provider: &'a Provider<'a>,
    pub group: &'a mut MlsGroup,
    pub now_ms: u64,
}

impl Core {
    /// Sends as it was sent before, or encrypts for the present epoch.
    pub(super) fn send(
        &self,
        on: &mut Changing<'_>,
        out: &mut OutRow,
        kind: &str,
        make: impl FnOnce(&Provider<'_>, &mut MlsGroup) -> Result<Vec<u8>>,
    ) -> Result<Ran> {
        let epoch = on.group.epoch().as_u64();
        if on.row.stale_epoch == Some(epoch) {
            // The commit that ended it is on its way here.
            return Ok(Ran::Blocked);
        }
        let env = match &out.sent {
            Some((env, sent_in)) if *sent_in == epoch => env.clone(),
            _ => {
                let env = STANDARD.encode(make(on.provider, on.group)?);
                out.sent = Some((env.clone(), epoch));
                on.tx.save_out(out)?;
                env
            }
        };
        let body =
            json!({ "conv_id": on.row.conv_id, "msg_id": out.msg_id, "env": env, "kind": kind });
        Ok(Ran::Step(Step::Send { n: out.n, body }))
    }

    /// Adds those devices of users that are not in yet.
    pub(super) fn add(
        &self,
        on: &mut Changing<'_>,
        out: &mut OutRow,
        packages: &BTreeMap<NodeId, Vec<(String, String)>>,
    ) -> Result<Ran> {
        let leaves = group::leaves(on.group)?;
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
                if self.is_revoked(on.tx, user, device)? {
                    continue;
                }
                if let Some(package) = self.read_package(on, user, (device, package)) {
                    usable += 1;
                    change.add(user, device, package);
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
                missing.iter().map(|user| self.name_of(on.tx, user)).collect::<Result<Vec<_>>>()?;
            let why = format!("{} has no device at this relay yet", who.join(", "));
            out.waits = Some((why, on.now_ms + NO_DEVICE_MS));
            on.tx.save_out(out)?;
            return Ok(Ran::Waits);
        }
        if !missing.is_empty() {
            let job = Job::Add { users: missing, packages: BTreeMap::new() };
            enqueue(on.tx, on.row, job, on.now_ms)?;
        }
        Ok(Ran::Step(self.build(on, Some(out.n), change)?))
    }

    /// A KeyPackage that may be used; `None`, with a word in the log, where it may not.
    fn read_package(
        &self,
        on: &Changing<'_>,
        user: &NodeId,
        (device, package): (&str, &str),
    ) -> Option<(KeyPackage, [u8; 32])> {
        let id = device_bytes(device)?;
        let read = decode_base64(package).map_err(Error::from).and_then(|bytes| {
            group::key_package(on.provider, &bytes, user, &id, on.now_ms / 1_000)
        });
        read.inspect_err(|error| tracing::warn!(%user, device, %error, "a key package is not used"))
            .ok()
    }

    /// Takes a member's device out and in again, in one commit.
    pub(super) fn readmit(
        &self,
        on: &mut Changing<'_>,
        out: &mut OutRow,
        (user, device): (NodeId, &str),
        packages: &[(String, String)],
    ) -> Result<Ran> {
        let leaves = group::leaves(on.group)?;
        if !leaves.iter().any(|leaf| leaf.user == user) {
            // They were taken out meanwhile; who wants them back invites them.
            return Ok(Ran::Done);
        }
        if self.is_revoked(on.tx, &user, device)? {
            return Ok(Ran::Done);
        }
        let package = packages
            .iter()
            .find(|(other, _)| other == device)
            .and_then(|(_, package)| self.read_package(on, &user, (device, package)));
        let Some(package) = package else {
            let Job::Readmit { packages, .. } = &mut out.job else { return Ok(Ran::Done) };
            *packages = None;
            let why = format!("the device of {} has no keys here yet", self.name_of(on.tx, &user)?);
            out.waits = Some((why, on.now_ms + NO_DEVICE_MS));
            on.tx.save_out(out)?;
            return Ok(Ran::Waits);
        };
        let mut change = Change::default();
        let old = leaves.iter().filter(|leaf| {
            leaf.user == user && device_bytes(device).is_some_and(|id| id == leaf.device)
        });
        change.removes = old.map(|leaf| leaf.index).collect();
        change.add(&user, device, package);
        Ok(Ran::Step(self.build(on, Some(out.n), change)?))
    }

    /// Builds a commit and keeps it pending.
    pub(super) fn build(
        &self,
        on: &mut Changing<'_>,
        job: Option<i64>,
        change: Change,
    ) -> Result<Step> {
        let (adds, removes) = (change.adds, change.removes);
        let built = group::commit(on.provider, &self.device, on.group, adds, removes)?;
        let mut welcomes = Vec::new();
        if let Some(welcome) = &built.welcome {
            welcomes.push(json!({ "env": STANDARD.encode(welcome), "to": change.welcomed }));
        }
        let extra = json!({
            "welcomes": welcomes, "members_add": change.users_new, "members_remove": change.users_gone,
        });
        self.keep_pending(on.tx, on.row, job, &built, extra, false)
    }

    /// Keeps a commit until the log brings it back.
    pub(in crate::core) fn keep_pending(
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
}

/// What a commit is to change.
#[derive(Default)]
pub(super) struct Change {
    pub adds: Vec<KeyPackage>,
    pub removes: Vec<openmls::prelude::LeafNodeIndex>,
    /// For whom the Welcome is, as the relay reads it.
    pub welcomed: Vec<Value>,
    pub users_new: BTreeSet<NodeId>,
    pub users_gone: BTreeSet<NodeId>,
}

impl Change {
    fn add(&mut self, user: &NodeId, device: &str, (package, reference): (KeyPackage, [u8; 32])) {
        self.adds.push(package);
        self.welcomed.push(json!({
            "user_id": user, "device_id": device, "key_package_ref": STANDARD.encode(reference),
        }));
    }
}
