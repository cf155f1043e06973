//! Who is in a conversation, what it is called, and who they are.

use clap::Args;
use relay_chat::{Chat, Settings};
use relay_proto::conv::Role;
use serde_json::json;

use super::{
    govern::people,
    opening::{OrFail, current, found, opened},
    read::to_json,
    write::finish,
};
use crate::{
    app::App,
    error::{Failure, Outcome},
};

pub const READ_EXAMPLES: &str = "\
Examples:
  relay chat read bob
  relay chat read '#ops' --up-to 17";
pub const ACCEPT_EXAMPLES: &str = "\
Examples:
  relay chat accept bob
  relay chat accept '#ops'";
pub const LEAVE_EXAMPLES: &str = "\
Examples:
  relay chat leave '#ops'
  relay chat leave '#ops' --yes";
pub const INVITE_EXAMPLES: &str = "\
Examples:
  relay chat invite '#ops' carol
  relay chat invite '#ops' carol dave";
pub const REMOVE_EXAMPLES: &str = "\
Examples:
  relay chat remove '#ops' carol
  relay chat remove '#ops' carol --yes";
pub const PROMOTE_EXAMPLES: &str = "\
Examples:
  relay chat promote '#ops' bob
  relay chat promote '#ops' bob --to member";
pub const TITLE_EXAMPLES: &str = "\
Examples:
  relay chat title '#ops' operations
  relay chat title '#ops' --topic 'who is on call: bob'";
pub const LABEL_EXAMPLES: &str = "\
Examples:
  relay chat label '#ops' work
  relay chat label work ''";
pub const PIN_EXAMPLES: &str = "\
Examples:
  relay chat pin bob
  relay chat pin bob --off";
pub const MUTE_EXAMPLES: &str = "\
Examples:
  relay chat mute '#ops'
  relay chat mute '#ops' --off";
pub const ARCHIVE_EXAMPLES: &str = "\
Examples:
  relay chat archive '#old'
  relay chat archive '#old' --off";
pub const VERIFY_EXAMPLES: &str = "\
Examples:
  relay chat verify bob
  relay chat verify bob --ok";
pub const NAME_EXAMPLES: &str = "\
Examples:
  relay chat name
  relay chat name ed25519:0000000000000000000000000000000000000000000000000000000000000001 bob";
#[derive(Debug, Args)]
pub struct Read {
    /// Id, name, or the other person
    conversation: String,
    /// Only up to this message
    #[arg(long, value_name = "SEQ")]
    up_to: Option<u64>,
}

#[derive(Debug, Args)]
pub struct One {
    /// Id, name, or the other person
    pub conversation: String,
}

#[derive(Debug, Args)]
pub struct People {
    /// Id or name of the room
    pub conversation: String,
    /// Names or keys
    #[arg(required = true)]
    pub people: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Promote {
    /// Id or name of the room
    conversation: String,
    /// A name or key
    person: String,
    /// What they become
    #[arg(long, default_value = "admin", value_parser = ["admin", "member"])]
    to: String,
}

#[derive(Debug, Args)]
pub struct Title {
    /// Id or name of the room
    conversation: String,
    /// Its new name
    #[arg(id = "room-name", value_name = "NAME", required_unless_present = "topic")]
    name: Option<String>,
    /// What it is about
    #[arg(long)]
    topic: Option<String>,
}

#[derive(Debug, Args)]
pub struct Label {
    /// Id, name, or the other person
    conversation: String,
    /// What you call it; '' for nothing
    label: String,
}

#[derive(Debug, Args)]
pub struct Switch {
    /// Id, name, or the other person
    conversation: String,
    /// No longer
    #[arg(long)]
    off: bool,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// A name or key
    person: String,
    /// The numbers were compared and are the same
    #[arg(long)]
    ok: bool,
    /// They are to count as not compared
    #[arg(long, conflicts_with = "ok")]
    undo: bool,
}

#[derive(Debug, Args)]
pub struct Name {
    /// Whom: a name or key; all whom you know where absent
    person: Option<String>,
    /// What to call them
    #[arg(id = "new-name", value_name = "NAME")]
    name: Option<String>,
    /// The name by which others mention you
    #[arg(long, value_name = "NAME", conflicts_with_all = ["person", "new-name"])]
    me: Option<String>,
    /// Take no invitations of theirs and count nothing that they send
    #[arg(long)]
    block: bool,
    /// Take them again
    #[arg(long, conflicts_with = "block")]
    unblock: bool,
}

impl Read {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = current(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        chat.mark_read(&conv_id, self.up_to).await.or_fail("the mark")?;
        finish(app, chat, &conv_id).await
    }
}

impl One {
    pub async fn accept(self, app: &App) -> Outcome {
        let chat = current(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        chat.accept(&conv_id).await.or_fail("the invitation")?;
        finish(app, chat, &conv_id).await
    }

    pub async fn leave(self, app: &App) -> Outcome {
        app.confirm("leave", &self.conversation)?;
        let chat = current(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        chat.leave(&conv_id).await.or_fail("the conversation")?;
        finish(app, chat, &conv_id).await
    }
}

impl People {
    async fn found(self, app: &App) -> Result<(Chat, String, Vec<relay_proto::NodeId>), Failure> {
        let chat = current(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let people = people(&chat, &self.people)?;
        Ok((chat, conv_id, people))
    }

    pub async fn invite(self, app: &App) -> Outcome {
        let (chat, conv_id, people) = self.found(app).await?;
        chat.invite(&conv_id, people).await.or_fail("the invitation")?;
        finish(app, chat, &conv_id).await
    }

    pub async fn remove(self, app: &App) -> Outcome {
        app.confirm("remove", &self.people.join(" "))?;
        let (chat, conv_id, people) = self.found(app).await?;
        chat.remove(&conv_id, people).await.or_fail("the removal")?;
        finish(app, chat, &conv_id).await
    }
}

impl Promote {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = current(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let person = chat.find_person(&self.person).or_fail("the person")?;
        let role = if self.to == "admin" { Role::Admin } else { Role::Member };
        chat.set_role(&conv_id, person, role).await.or_fail("the role")?;
        finish(app, chat, &conv_id).await
    }
}

impl Title {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = current(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        chat.set_room(&conv_id, self.name, self.topic).await.or_fail("the name")?;
        finish(app, chat, &conv_id).await
    }
}

async fn set(app: &App, conversation: &str, settings: Settings) -> Outcome {
    let chat = opened(app).await?;
    let conv_id = found(app, &chat, conversation).await?;
    chat.set(&conv_id, settings).await.or_fail("the conversation")?;
    let view = chat.conversation(&conv_id).or_fail("the conversation")?;
    chat.close().await;
    app.out.one(&to_json(&view)?, &["conv_id", "name", "pinned", "muted", "archived"])?;
    Ok(0)
}

impl Label {
    pub async fn run(self, app: &App) -> Outcome {
        let settings = Settings { label: Some(self.label), ..Settings::default() };
        set(app, &self.conversation, settings).await
    }
}

impl Switch {
    pub async fn pin(self, app: &App) -> Outcome {
        let settings = Settings { pinned: Some(!self.off), ..Settings::default() };
        set(app, &self.conversation, settings).await
    }

    pub async fn mute(self, app: &App) -> Outcome {
        let settings = Settings { muted: Some(!self.off), ..Settings::default() };
        set(app, &self.conversation, settings).await
    }

    pub async fn archive(self, app: &App) -> Outcome {
        let settings = Settings { archived: Some(!self.off), ..Settings::default() };
        set(app, &self.conversation, settings).await
    }
}

impl Verify {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = opened(app).await?;
        let person = chat.find_person(&self.person).or_fail("the person")?;
        if self.ok || self.undo {
            chat.set_verified(person, self.ok).or_fail("the person")?;
        }
        let number = chat.safety_number(&person).or_fail("the safety number")?;
        chat.close().await;
        app.out.one(&to_json(&number)?, &["name", "digits", "verified", "user_id"])?;
        if !number.verified {
            app.advice(
                "compare the digits by a way that the relay does not control, then add --ok",
            );
        }
        Ok(0)
    }
}

impl Name {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = opened(app).await?;
        if let Some(me) = &self.me {
            chat.set_nick(me).or_fail("your name")?;
        }
        if let Some(person) = &self.person {
            let user = chat.find_person(person).or_fail("the person")?;
            if let Some(name) = &self.name {
                chat.name_person(user, name).or_fail("the name")?;
            }
            if self.block || self.unblock {
                chat.set_blocked(user, self.block).or_fail("the person")?;
            }
        }
        let items = to_json(&chat.people().or_fail("the people")?)?;
        chat.close().await;
        let items = items.as_array().cloned().unwrap_or_default();
        app.out.list(
            &json!({ "items": items }),
            &items,
            &["name", "verified", "blocked", "user_id"],
        )?;
        Ok(0)
    }
}
