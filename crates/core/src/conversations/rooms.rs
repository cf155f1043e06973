//! Rooms and direct messages (`gateway.md` 8).

use std::collections::BTreeSet;

use rand_core::{OsRng, RngCore};
use relay_proto::{
    NodeId, Problem,
    conv::{
        Answer, Caller, ConvId, ConvKind, Profile, UserRef,
        answer::{
            BanList, BanView, Created, DONE, GroupInfoAnswer, MemberList, MemberView, MuteList,
            MuteView, Ok as Status, RejoinAnswer,
        },
        request::{Act, CreateDm, CreateRoom, Members, Named, Rejoin},
    },
};
use relay_store::chat::{CreateOutcome, GovernOutcome, Governing, NewConversation, RejoinAsked};

use super::{
    Conversations,
    line::Job,
    refusal::{self, limit_exceeded, not_a_member},
    stopping,
};
use crate::failure::store_problem;

/// Users that one request may name.
const MAX_NAMED: usize = 1_024;
/// Times an hour that a device may ask for one conversation.
const REJOINS_PER_HOUR: u32 = 6;
/// Members that are asked at once.
const MAX_ASKED: u64 = 16;

impl Conversations {
    pub(super) async fn create_room(
        &self,
        caller: &Caller,
        room: CreateRoom,
    ) -> Result<Answer, Problem> {
        let members = each_once(room.members, Some(caller.user))?;
        self.rooms.count(caller.user, self.config().room_creates_per_min, self.now_ms())?;
        let kind = match room.kind {
            Some(kind) => kind,
            None if room.profile == Profile::Opaque && room.conv_id.has_dm_prefix() => ConvKind::Dm,
            None => ConvKind::Room,
        };
        self.create(caller, room.conv_id, room.profile, kind, members).await?;
        Ok(DONE)
    }

    pub(super) async fn create_dm(&self, caller: &Caller, dm: CreateDm) -> Result<Answer, Problem> {
        let UserRef(peer) = dm.peer_user_id;
        if peer == caller.user {
            return Err(Problem::invalid("peer_user_id is yourself"));
        }
        let conv = match dm.conv_id.as_deref() {
            None | Some("") if dm.profile == Profile::Opaque => {
                let mut random = [0; 12];
                OsRng.fill_bytes(&mut random);
                ConvId::generate_dm(random)
            }
            None | Some("") => return Err(Problem::invalid("conv_id is missing")),
            Some(text) => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
                if !text.bytes().all(plain) {
                    return Err(Problem::invalid("conv_id is made of [A-Za-z0-9_-]"));
                }
                text.parse().map_err(|error| Problem::invalid(format!("{error}")))?
            }
        };
        self.dms.count(caller.user, self.config().dm_creates_per_min, self.now_ms())?;
        self.create(caller, conv.clone(), dm.profile, ConvKind::Dm, vec![peer]).await?;
        Ok(Answer::Created(Created { status: Status::Ok, conv_id: conv }))
    }

    async fn create(
        &self,
        caller: &Caller,
        conv: ConvId,
        profile: Profile,
        kind: ConvKind,
        members: Vec<NodeId>,
    ) -> Result<(), Problem> {
        if profile == Profile::RelayMls1 && conv.group_id().is_none() {
            let message =
                "the conv_id of a profile conversation is a group_id: 32 bytes in base64url";
            return Err(Problem::invalid(message));
        }
        if kind == ConvKind::Dm && members.len() > 1 {
            return Err(Problem::invalid("a direct message has two members"));
        }
        let new = NewConversation {
            conv,
            profile,
            kind,
            home: self.config().gateway_id.clone(),
            creator: caller.user,
            members,
            at_ms: self.now_ms(),
            max_members: self.config().max_members,
            max_per_user: self.config().convs_per_user,
            mail: self.has_others(),
        };
        let outcome = self.store.create_conversation(new).await;
        match outcome.map_err(|error| store_problem(&error))? {
            CreateOutcome::Created => {
                self.mail.notify_one();
                Ok(())
            }
            CreateOutcome::Taken => Err(Problem::invalid("conversation already exists")),
            CreateOutcome::Blocked => Err(Problem::forbidden("blocked")),
            CreateOutcome::TooMany => Err(limit_exceeded("too many members or conversations")),
        }
    }

    pub(super) async fn govern(
        &self,
        caller: &Caller,
        act: Act,
        target: Members,
    ) -> Result<Answer, Problem> {
        if matches!(act, Act::Mute | Act::Unmute) && target.conv_id.has_dm_prefix() {
            return Err(Problem::invalid("not a room"));
        }
        let change = Governing {
            gate: self.change_gate(caller.user, target.conv_id.clone(), act),
            actor: caller.user,
            act,
            targets: each_once(target.members, None)?,
            at_ms: self.now_ms(),
            max_members: self.config().max_members,
            max_per_user: self.config().convs_per_user,
            mail: self.has_others(),
            conv: target.conv_id,
        };
        let line = self.lines.of(&change.conv);
        let done = line.enter(&self.lines, Job::govern(change))?;
        let outcome = done.await.map_err(|_| stopping())?;
        match outcome.map_err(|error| store_problem(&error))? {
            GovernOutcome::Done { .. } => {
                self.mail.notify_one();
                Ok(DONE)
            }
            GovernOutcome::Refused(why) => Err(refusal::govern(why)),
        }
    }

    /// Takes a user out of every conversation and deletes what is theirs alone; returns how many they were in.
    ///
    /// # Errors
    /// The store's.
    pub async fn purge(&self, user: NodeId) -> Result<u64, Problem> {
        let views = self.store.conversations_of(user).await;
        let views = views.map_err(|error| store_problem(&error))?;
        let left = self.store.purge_user(user).await.map_err(|error| store_problem(&error))?;
        for view in views {
            self.lines.of(&view.conv).feed.expel(&[user]);
        }
        Ok(left)
    }

    pub(super) async fn members(&self, caller: &Caller, named: Named) -> Result<Answer, Problem> {
        let found = self.store.conversation_members(named.conv_id.clone(), caller.user).await;
        let (_, members) =
            found.map_err(|error| store_problem(&error))?.ok_or_else(not_a_member)?;
        let members = members.into_iter();
        let members =
            members.map(|member| MemberView { user_id: member.user, role: member.role }).collect();
        Ok(Answer::Members(MemberList { conv_id: named.conv_id, members }))
    }

    pub(super) async fn bans(&self, caller: &Caller, named: Named) -> Result<Answer, Problem> {
        let found = self.store.conversation_bans(named.conv_id.clone(), caller.user).await;
        let found = found.map_err(|error| store_problem(&error))?;
        let (_, bans) = found.filter(|(role, _)| role.governs()).ok_or_else(forbidden)?;
        let bans = bans.into_iter();
        let bans = bans
            .map(|(user_id, banned_by_user_id, banned_at_ms)| BanView {
                user_id,
                banned_by_user_id,
                banned_at_ms,
            })
            .collect();
        Ok(Answer::Bans(BanList { conv_id: named.conv_id, bans }))
    }

    pub(super) async fn mutes(&self, caller: &Caller, named: Named) -> Result<Answer, Problem> {
        let found = self.store.conversation_members(named.conv_id.clone(), caller.user).await;
        let (_, members) = found.map_err(|error| store_problem(&error))?.ok_or_else(forbidden)?;
        let own = members.iter().find(|member| member.user == caller.user);
        if !own.is_some_and(|own| own.role.governs()) {
            return Err(forbidden());
        }
        let muted = members.iter().filter_map(|member| {
            let (muted_at_ms, muted_by_user_id) = member.muted?;
            Some(MuteView { user_id: member.user, muted_by_user_id, muted_at_ms })
        });
        let mut mutes: Vec<MuteView> = muted.collect();
        mutes.sort_unstable_by_key(|mute| mute.user_id);
        Ok(Answer::Mutes(MuteList { conv_id: named.conv_id, mutes }))
    }

    /// Members are asked, through their inboxes, to add the caller's device again.
    pub(super) async fn ask_rejoin(
        &self,
        caller: &Caller,
        asked: Rejoin,
    ) -> Result<Answer, Problem> {
        let key = (caller.user, caller.device.clone(), asked.conv_id.clone());
        self.rejoins.count(key, REJOINS_PER_HOUR, self.now_ms())?;
        let asked = RejoinAsked {
            conv: asked.conv_id,
            user: caller.user,
            device: caller.device.clone(),
            members: each_once(asked.members, None)?,
            max_asked: MAX_ASKED,
            at_ms: self.now_ms(),
            max_inbox: self.config().max_inbox,
            mail: self.has_others(),
        };
        let done = self.store.ask_rejoin(asked).await.map_err(|error| store_problem(&error))?;
        let (count, posts) = done.ok_or_else(not_a_member)?;
        posts.iter().for_each(|post| self.inboxes.publish(post));
        self.mail.notify_one();
        Ok(Answer::Rejoin(RejoinAnswer { status: Status::Ok, asked: count }))
    }

    pub(super) async fn group_info(
        &self,
        caller: &Caller,
        named: Named,
    ) -> Result<Answer, Problem> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let found = self.store.group_info(named.conv_id, caller.user).await;
        let found = found.map_err(|error| store_problem(&error))?.ok_or_else(forbidden)?;
        let (epoch, sealed) =
            found.ok_or_else(|| Problem::not_found("no group_info was published yet"))?;
        Ok(Answer::GroupInfo(GroupInfoAnswer { epoch, group_info: STANDARD.encode(sealed) }))
    }
}

pub(super) fn forbidden() -> Problem {
    Problem::forbidden("forbidden")
}

/// The users of a list, each once, without `except`.
pub(super) fn each_once(
    users: Option<Vec<UserRef>>,
    except: Option<NodeId>,
) -> Result<Vec<NodeId>, Problem> {
    let users = users.unwrap_or_default();
    if users.len() > MAX_NAMED {
        return Err(limit_exceeded("too many members"));
    }
    let users: BTreeSet<NodeId> = users.into_iter().map(|UserRef(user)| user).collect();
    Ok(users.into_iter().filter(|user| Some(*user) != except).collect())
}
