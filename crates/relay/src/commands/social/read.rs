//! Reading.

use bytes::Bytes;
use clap::Args;
use relay_client::{
    Request,
    proto::polycentric::{Event, EventKey, Reference, SystemKey, content},
    social::{Counted, Social},
};
use serde_json::{Value, json};

use super::{parse_event, parse_system, show, system_or_own};
use crate::{
    app::App,
    error::{Failure, Outcome, exit},
};

pub const FEED_EXAMPLES: &str = "\
Examples:
  relay social feed
  relay social feed --everybody --limit 50
  relay social feed --topic /birds";
pub const THREAD_EXAMPLES: &str = "\
Examples:
  relay social thread ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541/00112233445566778899aabbccddeeff/17
  relay social thread ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541/00112233445566778899aabbccddeeff/17 --json";
pub const SEARCH_EXAMPLES: &str = "\
Examples:
  relay social search grey heron
  relay social search --profiles alice";
pub const TOPICS_EXAMPLES: &str = "\
Examples:
  relay social topics
  relay social topics bird --range 7d";
pub const SERVERS_EXAMPLES: &str = "\
Examples:
  relay social servers
  relay social servers ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541";

#[derive(Debug, Args)]
pub struct Feed {
    /// Whose posts; without it, of those you follow and yours
    #[arg(value_parser = parse_system, value_name = "KEY")]
    who: Option<SystemKey>,
    /// Of everybody that the relay knows
    #[arg(long, conflicts_with = "who")]
    everybody: bool,
    /// About a topic or URL
    #[arg(long, value_name = "TOPIC", conflicts_with_all = ["who", "everybody"])]
    topic: Option<String>,
    /// How many posts
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

impl Feed {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let social = Social(&client);
        let failed = |error| Failure::of(error, "the feed");
        if let Some(topic) = self.topic {
            let about = Reference::Bytes(Bytes::from(topic));
            let (posts, _) = social.about(&about).await.map_err(failed)?;
            return list(app, posts.iter().map(show::counted).collect(), &show::COUNTED);
        }
        let mut posts: Vec<Event> = if self.everybody {
            social.explore(self.limit).await.map_err(failed)?
        } else if let Some(who) = self.who {
            social.feed(who, content::POST, None, self.limit).await.map_err(failed)?
        } else {
            social.home(system_or_own(app, None)?, self.limit).await.map_err(failed)?
        };
        posts.sort_by_key(|event| std::cmp::Reverse(event.unix_ms()));
        posts.truncate(self.limit);
        list(app, posts.iter().map(show::row).collect(), &show::COLUMNS)
    }
}

fn list(app: &App, items: Vec<Value>, columns: &[&str]) -> Outcome {
    if items.is_empty() {
        app.advice("nothing here yet");
    }
    app.out.list(&json!({ "items": items.clone() }), &items, columns)?;
    Ok(0)
}

#[derive(Debug, Args)]
pub struct Thread {
    /// The post
    #[arg(value_parser = parse_event, value_name = "EVENT")]
    event: EventKey,
}

impl Thread {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let social = Social(&client);
        let failed = |error| Failure::of(error, "the thread");
        let post =
            social.event(&self.event).await.map_err(failed)?.ok_or_else(|| {
                Failure::new(exit::NOT_FOUND, "the relay does not have this post")
            })?;
        let about = Reference::Event(post.pointer());
        let (answers, [likes, dislikes, replies]) = social.about(&about).await.map_err(failed)?;
        let first = Counted { event: post, likes, dislikes, replies };
        let rows = std::iter::once(&first).chain(&answers).map(show::counted).collect();
        list(app, rows, &show::COUNTED)
    }
}

#[derive(Debug, Args)]
pub struct Search {
    /// All of these words
    #[arg(required = true)]
    words: Vec<String>,
    /// Search names and descriptions
    #[arg(long)]
    profiles: bool,
    /// How many
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

impl Search {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let found = Social(&client)
            .search(&self.words.join(" "), self.profiles, self.limit)
            .await
            .map_err(|error| Failure::of(error, "the search"))?;
        list(app, found.iter().map(show::row).collect(), &show::COLUMNS)
    }
}

#[derive(Debug, Args)]
pub struct Topics {
    /// Only topics that hold this
    query: Option<String>,
    /// 12h, 1d, 7d or 30d
    #[arg(long, default_value = "30d")]
    range: String,
}

impl Topics {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let topics = Social(&client)
            .topics(self.query.as_deref(), &self.range)
            .await
            .map_err(|error| Failure::of(error, "the topics"))?;
        let rows = topics
            .into_iter()
            .map(|(topic, posts)| json!({ "topic": topic, "posts": posts }))
            .collect();
        list(app, rows, &["topic", "posts"])
    }
}

#[derive(Debug, Args)]
pub struct Servers {
    /// Whose; yours, where absent
    #[arg(value_parser = parse_system, value_name = "KEY")]
    who: Option<SystemKey>,
}

impl Servers {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let social = Social(&client);
        let failed = |error| Failure::of(error, "the servers");
        let mut rows = Vec::new();
        if let Ok(system) = system_or_own(app, self.who) {
            let ranges = social.ranges(system).await.map_err(failed)?;
            let held: u64 = ranges.iter().map(|(_, ranges)| ranges.count()).sum();
            let named = social.set(system, content::SERVER).await.map_err(failed)?;
            let this = client.endpoint().to_string();
            rows.push(json!({
                "server": this, "system": system.to_string(), "held": held, "role": "this relay",
            }));
            for server in named {
                let server = String::from_utf8_lossy(&server).into_owned();
                rows.push(json!({
                    "server": server, "system": system.to_string(), "role": "named by its owner",
                }));
            }
        }
        let mut request = Request::get("/v1/social/servers");
        request.signed = false;
        let followed: Value = client.call(request).await.map_err(failed)?;
        for mirror in followed["items"].as_array().into_iter().flatten() {
            let mut row = mirror.clone();
            row["role"] = "followed by this relay".into();
            rows.push(row);
        }
        let columns = ["server", "system", "role", "held", "there", "missing", "error"];
        list(app, rows, &columns)
    }
}
