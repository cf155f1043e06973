//! The commit bundle: a commit and all that comes with it, or nothing (`mls-profile.md` 6.3).

use relay_proto::{
    NodeId,
    auth::DeviceId,
    conv::{ConvId, ConvKind, Handshake, Mail, MessageKind, Profile, request::Act},
    mls::{Accepted, Head},
};

use super::{
    Gate, Governing,
    conversations::{lock, member},
    govern::{self, GovernRefusal, Step, carry_out},
    inbox::{self, InboxEntry},
    mail,
    post::{
        Judged, NewMessage, PostRefusal, Posted, append, epoch_refusal, head, may_post, move_head,
        repeated,
    },
};
use crate::{
    Store,
    error::Result,
    sql::{Sql, transact},
};

/// A commit, and what is to become true with it.
#[derive(Debug, Clone)]
pub struct CommitBundle {
    pub conv: ConvId,
    pub message: NewMessage,
    pub welcomes: Vec<WelcomeFor>,
    /// The epoch it says it is of, and the sealed bytes.
    pub group_info: (u64, Vec<u8>),
    /// Each once.
    pub members_add: Vec<NodeId>,
    /// Each once.
    pub members_remove: Vec<NodeId>,
    pub max_members: u64,
    pub max_per_user: u64,
    /// The most entries that an inbox keeps.
    pub max_inbox: u64,
    /// Whether users who do not live here are told at their homes.
    pub mail: bool,
}

/// A Welcome for one device.
#[derive(Debug, Clone)]
pub struct WelcomeFor {
    pub user: NodeId,
    pub device: DeviceId,
    pub reference: [u8; 32],
    /// Base64.
    pub env: std::sync::Arc<str>,
}

/// Something that lies in an inbox now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxPost {
    pub user: NodeId,
    pub device: DeviceId,
    pub entry: InboxEntry,
}

/// What became of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    Stored {
        seq: u64,
        /// The epoch that began.
        epoch: u64,
        removed: Vec<NodeId>,
        delivered: Vec<InboxPost>,
        home: String,
    },
    Duplicate {
        seq: u64,
        origin: Option<String>,
        home: String,
    },
    Refused(PostRefusal),
    /// The access list must not become what the bundle says.
    Governance(GovernRefusal),
    /// Another part of the bundle is wrong: which.
    Invalid(&'static str),
}

impl Store {
    /// Appends a commit with everything that comes with it.
    pub async fn commit_bundle(&self, bundle: CommitBundle) -> Result<Committed> {
        transact!(self, bundle, commit)
    }
}

async fn commit<S: Sql>(sql: &S, bundle: &CommitBundle) -> Result<Committed> {
    let message = &bundle.message;
    let refused = |refusal| Ok(Committed::Refused(refusal));
    let Some(mut conversation) = lock(sql, &bundle.conv).await? else {
        return refused(PostRefusal::NotMember);
    };
    let sender = member(sql, conversation.n, &message.sender).await?;
    if let Err(refusal) = may_post(sender.as_ref(), message) {
        return refused(refusal);
    }
    let Some(sender) = sender else { return refused(PostRefusal::NotMember) };
    if conversation.profile != Profile::RelayMls1 {
        return Ok(Committed::Invalid(
            "the conversation is opaque; send the commit with conv.send",
        ));
    }
    match repeated(sql, &conversation, message).await? {
        Some(Posted::Duplicate { seq, origin }) => {
            let home = conversation.home;
            return Ok(Committed::Duplicate { seq, origin, home });
        }
        Some(Posted::Refused(refusal)) => return refused(refusal),
        _ => {}
    }
    let epoch = match head(&bundle.conv, &message.env) {
        Ok((Accepted::Commit | Accepted::ExternalCommit, epoch)) => epoch,
        Ok(_) => return refused(PostRefusal::WrongKind),
        Err(refusal) => return refused(refusal),
    };
    let next_epoch = match Handshake::Commit(epoch).apply(conversation.epoch) {
        Ok(next) => next,
        Err(refusal) => return refused(epoch_refusal(refusal, &conversation)),
    };
    if bundle.group_info.0 != next_epoch {
        return Ok(Committed::Invalid("group_info is not of the epoch that the commit begins"));
    }
    if conversation.kind == ConvKind::Dm && !bundle.members_add.is_empty() {
        for added in &bundle.members_add {
            if member(sql, conversation.n, added).await?.is_none() {
                return Ok(Committed::Governance(GovernRefusal::NotARoom));
            }
        }
    }
    let mut plan = Vec::new();
    for (act, targets) in
        [(Act::Invite, &bundle.members_add), (Act::Remove, &bundle.members_remove)]
    {
        let change = Governing {
            conv: bundle.conv.clone(),
            actor: message.sender,
            act,
            targets: targets.clone(),
            at_ms: message.at_ms,
            max_members: bundle.max_members,
            max_per_user: bundle.max_per_user,
            mail: bundle.mail,
            gate: Gate::open(),
        };
        let steps = match govern::plan(sql, &conversation, &change).await? {
            Ok(steps) => steps,
            Err(refusal) => return Ok(Committed::Governance(refusal)),
        };
        // Who is in already may be named again: new leaves of old members need no rights.
        let changes = steps.iter().any(|(.., step)| *step != Step::Skip);
        if changes && !govern::may(act, sender.role, targets[..] == [message.sender]) {
            return Ok(Committed::Governance(GovernRefusal::Forbidden));
        }
        plan.extend(steps);
    }
    if let Some(wrong) = check_welcomes(sql, conversation.n, bundle).await? {
        return Ok(Committed::Invalid(wrong));
    }
    let kind = Some(MessageKind::Commit);
    conversation.latest_seq += 1;
    conversation.epoch = next_epoch;
    append(sql, &conversation, message, &Judged { kind, epoch: Some(epoch), next_epoch }).await?;
    move_head(sql, &conversation, message.at_ms).await?;
    sql.run(
        "UPDATE conversations SET group_info_epoch = ?2, group_info = ?3 WHERE n = ?1",
        &[conversation.n.into(), next_epoch.into(), (&bundle.group_info.1[..]).into()],
    )
    .await?;
    let removed = carry_out(sql, &conversation, &plan, &message.sender, message.at_ms).await?;
    let seq = conversation.latest_seq;
    if bundle.mail {
        govern::tell_homes(sql, &bundle.conv, &plan, &removed, &message.sender, message.at_ms)
            .await?;
    }
    let mut delivered = Vec::with_capacity(bundle.welcomes.len());
    let mut welcomes: Vec<&WelcomeFor> = bundle.welcomes.iter().collect();
    // Inboxes are locked in one order, whoever writes to them.
    welcomes.sort_unstable_by(|a, b| (a.user, &a.device).cmp(&(b.user, &b.device)));
    for welcome in welcomes {
        let to_home = Mail::Welcome {
            device_id: welcome.device.clone(),
            conv_id: bundle.conv.clone(),
            conv_seq: seq,
            inviter: message.sender,
            key_package_ref: mail::reference_hex(&welcome.reference),
            env: welcome.env.to_string(),
        };
        if bundle.mail && mail::write(sql, &welcome.user, &to_home, message.at_ms).await? {
            continue;
        }
        let body = inbox::welcome_body(
            &bundle.conv,
            &conversation.home,
            seq,
            &message.sender,
            &welcome.env,
        );
        let entry =
            inbox::put(sql, &welcome.user, &welcome.device, body, message.at_ms, bundle.max_inbox)
                .await?;
        delivered.push(InboxPost { user: welcome.user, device: welcome.device.clone(), entry });
    }
    let home = conversation.home;
    Ok(Committed::Stored { seq, epoch: next_epoch, removed, delivered, home })
}

/// A Welcome is for somebody who will be in, and for a KeyPackage of theirs that the sender was given.
async fn check_welcomes<S: Sql>(
    sql: &S,
    conv: i64,
    bundle: &CommitBundle,
) -> Result<Option<&'static str>> {
    for welcome in &bundle.welcomes {
        if Head::of_base64(&welcome.env) != Ok(Head::Welcome) {
            return Ok(Some("a welcome is no Welcome"));
        }
        let stays = !bundle.members_remove.contains(&welcome.user);
        let is_in = stays && member(sql, conv, &welcome.user).await?.is_some();
        if !is_in && !bundle.members_add.contains(&welcome.user) {
            return Ok(Some("a welcome is for somebody who is not in the conversation"));
        }
        // Elsewhere the user's home looks, which handed it out.
        let elsewhere = bundle.mail && !mail::is_home_user(sql, &welcome.user).await?;
        let sender = &bundle.message.sender;
        let given = elsewhere
            || mail::was_given(sql, &welcome.reference, sender, &welcome.user, &welcome.device)
                .await?;
        if !given {
            return Ok(Some("a key_package_ref was not handed out to you for this device"));
        }
    }
    Ok(None)
}
