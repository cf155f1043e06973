//! Rooms: what they are called, who is in them, who may do what, and what helps where somebody cannot go on.

use relay_client::Request;
use relay_proto::{NodeId, conv::Role};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Chat, offline};
use crate::{
    content::{Body, RoomBody},
    engine::now_ms,
    error::Result,
};

/// Somebody whose device has lost its state and asks to be let in again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asking {
    /// Who.
    pub user_id: NodeId,
    /// What this user calls them.
    pub name: String,
    /// Which device.
    pub device_id: String,
    /// When, unix milliseconds.
    pub at_ms: u64,
}

impl Chat {
    /// Names a room or says what it is about.
    ///
    /// # Errors
    /// [`Refusal::NotAllowed`](crate::Refusal::NotAllowed), [`Refusal::Dm`](crate::Refusal::Dm).
    pub async fn set_room(
        &self,
        conv_id: &str,
        name: Option<String>,
        topic: Option<String>,
    ) -> Result<i64> {
        self.say(conv_id, Body::Room(RoomBody { name, topic, ..RoomBody::default() })).await
    }

    /// Makes somebody an admin, or a plain member again: at the relay, which lets admins change its list, and among the members.
    ///
    /// # Errors
    /// [`Refusal::NotAllowed`](crate::Refusal::NotAllowed), [`Refusal::Dm`](crate::Refusal::Dm); [`Refusal::Invalid`](crate::Refusal::Invalid) without a connection; the relay's refusal.
    pub async fn set_role(&self, conv_id: &str, user: NodeId, role: Role) -> Result<i64> {
        let path = if role.governs() { "/v1/rooms/promote" } else { "/v1/rooms/demote" };
        self.govern(path, conv_id, &[user]).await?;
        let roles = Some([(user, role)].into());
        self.say(conv_id, Body::Room(RoomBody { roles, ..RoomBody::default() })).await
    }

    /// Adds people to a room, with all their devices.
    ///
    /// # Errors
    /// [`Refusal::NotAllowed`](crate::Refusal::NotAllowed), [`Refusal::Dm`](crate::Refusal::Dm).
    pub async fn invite(&self, conv_id: &str, users: Vec<NodeId>) -> Result<()> {
        self.act(conv_id, move |core, id| core.invite(id, &users, now_ms())).await
    }

    /// Takes people out of a room.
    ///
    /// # Errors
    /// [`Refusal::NotAllowed`](crate::Refusal::NotAllowed), [`Refusal::Dm`](crate::Refusal::Dm), [`Refusal::NoPerson`](crate::Refusal::NoPerson).
    pub async fn remove(&self, conv_id: &str, users: Vec<NodeId>) -> Result<()> {
        self.act(conv_id, move |core, id| core.remove(id, users, now_ms())).await
    }

    /// Takes people out of a room and keeps them out: nobody can invite them until [`unban`](Self::unban).
    ///
    /// # Errors
    /// [`Refusal::NotAllowed`](crate::Refusal::NotAllowed), [`Refusal::Dm`](crate::Refusal::Dm); [`Refusal::Invalid`](crate::Refusal::Invalid) without a connection; the relay's refusal.
    pub async fn ban(&self, conv_id: &str, users: Vec<NodeId>) -> Result<()> {
        let members = self.members(conv_id)?;
        // The relay first: from then on they neither read nor write here, whenever the others' commit comes.
        self.govern("/v1/rooms/ban", conv_id, &users).await?;
        let is_in = |user: &NodeId| members.iter().any(|member| member.user_id == *user);
        let present: Vec<NodeId> = users.into_iter().filter(is_in).collect();
        if present.is_empty() { Ok(()) } else { self.remove(conv_id, present).await }
    }

    /// Lets people be invited again.
    ///
    /// # Errors
    /// As [`ban`](Self::ban).
    pub async fn unban(&self, conv_id: &str, users: &[NodeId]) -> Result<()> {
        self.govern("/v1/rooms/unban", conv_id, users).await
    }

    /// Who is kept out of a room.
    ///
    /// # Errors
    /// [`Refusal::Invalid`](crate::Refusal::Invalid) without a connection; the relay's refusal.
    pub async fn banned(&self, conv_id: &str) -> Result<Vec<NodeId>> {
        let client = self.shared.session().ok_or_else(offline)?;
        let request = Request::get("/v1/rooms/bans").query("conv_id", Some(conv_id.to_owned()));
        let answer: Value = client.call(request).await?;
        let bans = answer["bans"].as_array().into_iter().flatten();
        Ok(bans.filter_map(|ban| ban["user_id"].as_str()?.parse().ok()).collect())
    }

    /// Changes the relay's list.
    async fn govern(&self, path: &str, conv_id: &str, users: &[NodeId]) -> Result<()> {
        let client = self.shared.session().ok_or_else(offline)?;
        let body = json!({ "conv_id": conv_id, "members": users });
        client.call::<Value>(Request::post(path, &body)).await?;
        Ok(())
    }

    // === where somebody cannot go on ===

    /// Who asks to be let into a conversation again.
    ///
    /// # Errors
    /// [`Refusal::NoConversation`](crate::Refusal::NoConversation).
    pub fn asking(&self, conv_id: &str) -> Result<Vec<Asking>> {
        let all = self.shared.core.asking(conv_id)?.into_iter();
        let view = all.map(|asking| Asking {
            name: self.name_of(&asking.user),
            user_id: asking.user,
            device_id: asking.device,
            at_ms: asking.at_ms,
        });
        Ok(view.collect())
    }

    /// Lets the devices of somebody that asked in again. Make sure first that it is them who ask: by any other way than this.
    ///
    /// # Errors
    /// [`Refusal::NobodyAsks`](crate::Refusal::NobodyAsks).
    pub async fn readmit(&self, conv_id: &str, user: NodeId) -> Result<()> {
        self.act(conv_id, move |core, id| core.readmit_user(id, user, now_ms())).await
    }

    /// Begins a new conversation with the same people in the place of one that is stuck; gives its id. The old one's messages
    /// stay readable here.
    ///
    /// # Errors
    /// [`Refusal::Invalid`](crate::Refusal::Invalid) where it is not stuck.
    pub async fn restart(&self, conv_id: &str) -> Result<String> {
        let id = conv_id.to_owned();
        let (new_id, events) = self.shared.on_core(move |core| core.restart(&id, now_ms())).await?;
        self.done(&new_id, events).await;
        Ok(new_id)
    }
}
