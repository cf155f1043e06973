//! `relay presence`: who is there, and who sees you.

use clap::{Args, Subcommand, ValueEnum};
use relay_client::{Client, Request};
use relay_proto::NodeId;
use serde_json::{Value, json};

use super::chat::{OrFail, connected};
use crate::{
    app::App,
    error::{Failure, Outcome},
};

#[derive(Debug, Args)]
pub struct PresenceGroup {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Appearance {
    Online,
    Invisible,
    Off,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show yourself, or not, as long as this command runs
    #[command(after_help = "\
Examples:
  relay presence set online
  relay presence set invisible")]
    Set { how: Appearance },
    /// How people are whom you watch and who watch you
    #[command(after_help = "\
Examples:
  relay presence ls bob carol
  relay presence ls --json")]
    Ls {
        /// Names or keys; everybody whom you know where absent
        people: Vec<String>,
    },
    /// Watch people; they see you, and you them, when both watch
    #[command(after_help = "\
Examples:
  relay presence watch bob
  relay presence watch bob carol")]
    Watch {
        #[arg(required = true)]
        people: Vec<String>,
    },
    /// Watch people no more
    #[command(after_help = "\
Examples:
  relay presence unwatch bob
  relay presence unwatch bob carol")]
    Unwatch {
        #[arg(required = true)]
        people: Vec<String>,
    },
    /// Let people neither see nor reach you through this relay; nobody is told
    #[command(after_help = "\
Examples:
  relay presence block mallory
  relay presence block mallory --json")]
    Block {
        #[arg(required = true)]
        people: Vec<String>,
    },
    /// Let them again
    #[command(after_help = "\
Examples:
  relay presence unblock mallory
  relay presence unblock mallory --json")]
    Unblock {
        #[arg(required = true)]
        people: Vec<String>,
    },
}

impl PresenceGroup {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = connected(app).await?;
        let client = chat.client().or_fail("presence")?;
        let found = |people: &[String]| {
            let users = people.iter().map(|person| chat.find_person(person));
            users.collect::<relay_chat::Result<Vec<NodeId>>>().or_fail("the people")
        };
        match self.verb.unwrap_or(Verb::Ls { people: Vec::new() }) {
            Verb::Set { how } => {
                let online = how != Appearance::Off;
                chat.appear(online, how == Appearance::Invisible).await;
                if online {
                    app.notice("shown as long as this runs; Ctrl-C ends it");
                    tokio::signal::ctrl_c().await?;
                }
            }
            Verb::Ls { people } if people.is_empty() => {
                let known = chat.people().or_fail("the people")?;
                let users: Vec<NodeId> = known.iter().map(|person| person.user_id).collect();
                list(app, &chat, &client, &users).await?;
            }
            Verb::Ls { people } => list(app, &chat, &client, &found(&people)?).await?,
            Verb::Watch { people } => {
                post(app, &client, "watch", &found(&people)?).await?;
                app.notice("you see each other as soon as they watch you too");
            }
            Verb::Unwatch { people } => post(app, &client, "unwatch", &found(&people)?).await?,
            Verb::Block { people } => {
                let users = found(&people)?;
                post(app, &client, "block", &users).await?;
                for user in users {
                    chat.set_blocked(user, true).or_fail("the person")?;
                }
            }
            Verb::Unblock { people } => {
                let users = found(&people)?;
                post(app, &client, "unblock", &users).await?;
                for user in users {
                    chat.set_blocked(user, false).or_fail("the person")?;
                }
            }
        }
        chat.close().await;
        Ok(0)
    }
}

async fn post(app: &App, client: &Client, verb: &str, users: &[NodeId]) -> Result<(), Failure> {
    let request = Request::post(format!("/v1/presence/{verb}"), &json!({ "contacts": users }));
    let answer: Value =
        client.call(request).await.map_err(|error| Failure::of(error, "presence"))?;
    app.out.one(&answer, &["status"])?;
    Ok(())
}

async fn list(
    app: &App,
    chat: &relay_chat::Chat,
    client: &Client,
    users: &[NodeId],
) -> Result<(), Failure> {
    let request = Request::post("/v1/presence/status", &json!({ "contacts": users }));
    let mut answer: Value =
        client.call(request).await.map_err(|error| Failure::of(error, "presence"))?;
    let mut items = answer["statuses"].as_array().cloned().unwrap_or_default();
    for item in &mut items {
        let user = item["user_id"].as_str().and_then(|text| text.parse::<NodeId>().ok());
        item["name"] = user.map(|user| chat.name_of(&user)).into();
    }
    answer["statuses"] = items.clone().into();
    app.out.list(&answer, &items, &["name", "status", "last_seen_bucket", "user_id"])?;
    Ok(())
}
