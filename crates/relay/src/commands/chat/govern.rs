//! Keeping people out of a room, and letting devices in again.

use clap::Args;
use relay_chat::Chat;
use relay_proto::NodeId;
use serde_json::{Value, json};

use super::{
    opening::{OrFail, connected, current, found},
    read::to_json,
    room::{One, People},
    write::finish,
};
use crate::{
    app::App,
    error::{Failure, Outcome},
};

pub const BAN_EXAMPLES: &str = "\
Examples:
  relay chat ban '#ops' mallory
  relay chat ban '#ops'";
pub const UNBAN_EXAMPLES: &str = "\
Examples:
  relay chat unban '#ops' mallory
  relay chat unban '#ops' mallory --json";
pub const READMIT_EXAMPLES: &str = "\
Examples:
  relay chat readmit '#ops'
  relay chat readmit '#ops' bob

Call them first, or meet them: whoever has stolen their key could ask as well.";
pub const RESTART_EXAMPLES: &str = "\
Examples:
  relay chat restart '#ops'
  relay chat restart bob";

#[derive(Debug, Args)]
pub struct Ban {
    /// Id or name of the room
    conversation: String,
    /// Names or keys
    people: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Readmit {
    /// Id, name, or the other person
    conversation: String,
    /// Whom: a name or key
    person: Option<String>,
}

impl Ban {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = connected(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        if self.people.is_empty() {
            let banned = chat.banned(&conv_id).await.or_fail("the room")?;
            let row = |user: NodeId| json!({ "name": chat.name_of(&user), "user_id": user });
            let items: Vec<Value> = banned.into_iter().map(row).collect();
            chat.close().await;
            app.out.list(&json!({ "items": items }), &items, &["name", "user_id"])?;
            return Ok(0);
        }
        app.confirm("ban", &self.people.join(" "))?;
        let people = people(&chat, &self.people)?;
        chat.ban(&conv_id, people).await.or_fail("the ban")?;
        finish(app, chat, &conv_id).await
    }
}

impl People {
    pub async fn unban(self, app: &App) -> Outcome {
        let chat = connected(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let people = people(&chat, &self.people)?;
        chat.unban(&conv_id, &people).await.or_fail("the room")?;
        finish(app, chat, &conv_id).await
    }
}

impl Readmit {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = current(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let Some(person) = self.person else {
            let items = to_json(&chat.asking(&conv_id).or_fail("the conversation")?)?;
            chat.close().await;
            let items = items.as_array().cloned().unwrap_or_default();
            let columns = ["name", "device_id", "at_ms", "user_id"];
            app.out.list(&json!({ "items": items }), &items, &columns)?;
            return Ok(0);
        };
        let person = chat.find_person(&person).or_fail("the person")?;
        chat.readmit(&conv_id, person).await.or_fail("the request")?;
        finish(app, chat, &conv_id).await
    }
}

impl One {
    pub async fn restart(self, app: &App) -> Outcome {
        app.confirm("restart", &self.conversation)?;
        let chat = current(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let conv_id = chat.restart(&conv_id).await.or_fail("the conversation")?;
        finish(app, chat, &conv_id).await
    }
}

pub(super) fn people(chat: &Chat, names: &[String]) -> Result<Vec<NodeId>, Failure> {
    let people = names.iter().map(|name| chat.find_person(name));
    people.collect::<relay_chat::Result<Vec<_>>>().or_fail("the people")
}
