//! The commit bundle (`gateway.md` 15, `mls-profile.md` 6.3).

use std::sync::{Arc, atomic::Ordering};

use relay_proto::{
    Problem,
    conv::{
        Answer, Caller, MessageKind,
        answer::Acked,
        request::{Commit, Welcome},
    },
    mls::decode_base64,
};
use relay_store::chat::{CommitBundle, CommitOutcome, NewMessage, WelcomeFor};

use super::{
    Conversations,
    line::Job,
    refusal::{self, limit_exceeded},
    rooms::each_once,
    stopping,
};
use crate::failure::store_problem;

/// Devices that one bundle may welcome.
const MAX_WELCOMED: usize = 1_024;
/// The largest sealed GroupInfo, bytes: the tree of a full room.
const MAX_GROUP_INFO: usize = 1 << 20;

impl Conversations {
    pub(super) async fn commit(&self, caller: &Caller, commit: Commit) -> Result<Answer, Problem> {
        self.check_env(&commit.env)?;
        let Some(group_info) = commit.group_info else {
            return Err(Problem::invalid("group_info is missing"));
        };
        let sealed = decode_base64(&group_info.sealed)
            .map_err(|error| Problem::invalid(format!("group_info: {error}")))?;
        if sealed.is_empty() || sealed.len() > MAX_GROUP_INFO {
            return Err(Problem::invalid("group_info has 1 to 1048576 bytes"));
        }
        let conv = commit.conv_id;
        let message = NewMessage {
            msg_id: commit.msg_id.clone(),
            sender: caller.user,
            device: caller.device.clone(),
            origin: self.origin_of(caller),
            at_ms: self.now_ms(),
            env: commit.env.into(),
            kind: Some(MessageKind::Commit),
            handshake: None,
            gate: self.send_gate(caller.user, conv.clone()),
        };
        let (origin, now_ms) = (message.origin.clone(), message.at_ms);
        let bundle = CommitBundle {
            conv: conv.clone(),
            message,
            welcomes: welcomes(&commit.welcomes)?,
            group_info: (group_info.epoch, sealed),
            members_add: each_once(Some(commit.members_add), None)?,
            members_remove: each_once(Some(commit.members_remove), None)?,
            max_members: self.config().max_members,
            max_per_user: self.config().convs_per_user,
            max_inbox: self.config().max_inbox,
            mail: self.has_others(),
        };
        let done = self.lines.of(&conv).enter(&self.lines, Job::commit(bundle))?;
        let outcome = done.await.map_err(|_| stopping())?;
        let (seq, epoch, home, origin) = match outcome.map_err(|error| store_problem(&error))? {
            CommitOutcome::Stored { seq, epoch, home, .. } => {
                self.stats.sent.fetch_add(1, Ordering::Relaxed);
                self.prune_after(&conv, now_ms);
                self.mail.notify_one();
                (seq, Some(epoch), home, origin.to_string())
            }
            CommitOutcome::Duplicate { seq, origin, home } => {
                self.stats.duplicates.fetch_add(1, Ordering::Relaxed);
                let origin = origin.unwrap_or_else(|| home.clone());
                (seq, None, home, origin)
            }
            CommitOutcome::Refused(why) => {
                self.count_refusal(&why);
                return Err(refusal::post(why));
            }
            CommitOutcome::Governance(why) => return Err(refusal::govern(why)),
            CommitOutcome::Invalid(why) => return Err(Problem::invalid(why)),
        };
        Ok(Answer::Acked(Acked {
            conv_id: conv,
            msg_id: commit.msg_id,
            seq,
            conv_home: home,
            origin_gateway: origin,
            duplicate: epoch.is_none(),
            epoch,
        }))
    }
}

/// One Welcome for each device.
fn welcomes(asked: &[Welcome]) -> Result<Vec<WelcomeFor>, Problem> {
    let mut welcomes = Vec::new();
    for welcome in asked {
        let env: Arc<str> = welcome.env.as_str().into();
        for to in &welcome.to {
            let reference = decode_base64(&to.key_package_ref).ok();
            let reference = reference
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or_else(|| Problem::invalid("key_package_ref is the base64 of 32 bytes"))?;
            welcomes.push(WelcomeFor {
                user: to.user_id.0,
                device: to.device_id.clone(),
                reference,
                env: env.clone(),
            });
        }
        if welcomes.len() > MAX_WELCOMED {
            return Err(limit_exceeded("too many devices are welcomed at once"));
        }
    }
    Ok(welcomes)
}
