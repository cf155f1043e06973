//! Looking at conversations.

use clap::Args;
use relay_chat::{
    Chat, MessageRange,
    views::{ConversationState, Event, MessageView},
};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::{
    open::commands,
    opening::{OrFail, current, ended, failure, found},
    show,
};
use crate::{
    app::App,
    error::{Failure, Outcome},
};

pub const LS_EXAMPLES: &str = "\
Examples:
  relay chat ls
  relay chat ls --all --json";
pub const TAIL_EXAMPLES: &str = "\
Examples:
  relay chat tail
  relay chat tail '#ops' --json --commands";
pub const HISTORY_EXAMPLES: &str = "\
Examples:
  relay chat history bob
  relay chat history '#ops' --limit 200 --before 512 --json";
pub const SEARCH_EXAMPLES: &str = "\
Examples:
  relay chat search deploy token
  relay chat search invoice --in bob --json";
pub const EXPORT_EXAMPLES: &str = "\
Examples:
  relay chat export '#ops' > ops.ndjson
  relay chat export bob --json";
pub const MEMBERS_EXAMPLES: &str = "\
Examples:
  relay chat members '#ops'
  relay chat members '#ops' --json";

#[derive(Debug, Default, Args)]
pub struct Ls {
    /// Archived ones and those that are over too
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
pub struct Tail {
    /// Only this one: id, name, or the other person
    conversation: Option<String>,
    /// Take commands from stdin, one JSON object a line
    #[arg(long)]
    commands: bool,
}

#[derive(Debug, Args)]
pub struct History {
    /// Id, name, or the other person
    conversation: String,
    /// At most so many
    #[arg(long, default_value = "50")]
    limit: usize,
    /// Older than this message
    #[arg(long, value_name = "SEQ")]
    before: Option<u64>,
    /// Newer than this message
    #[arg(long, value_name = "SEQ", conflicts_with = "before")]
    after: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Search {
    /// Words that a message must hold, all of them
    #[arg(required = true)]
    words: Vec<String>,
    /// Only in this conversation
    #[arg(long, value_name = "CONVERSATION")]
    r#in: Option<String>,
    /// At most so many
    #[arg(long, default_value = "20")]
    limit: usize,
}

#[derive(Debug, Args)]
pub struct Export {
    /// Id, name, or the other person
    conversation: String,
}

#[derive(Debug, Args)]
pub struct Members {
    /// Id, name, or the other person
    conversation: String,
}

impl Ls {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = current(app).await?;
        let views = chat.conversations().or_fail("your conversations")?;
        let shown = views.into_iter().filter(|view| {
            let over = matches!(view.state, ConversationState::Left | ConversationState::Removed);
            self.all || !(view.archived || over)
        });
        let items = shown.map(serde_json::to_value).collect::<Result<Vec<_>, _>>();
        let items = items.map_err(|error| Failure::failed(error.to_string()))?;
        ended(app, chat).await?;
        if items.is_empty() {
            app.advice("no conversations yet; begin one with: relay chat dm KEY");
        }
        let columns = ["name", "state", "unread", "mentions", "waiting", "conv_id"];
        app.out.list(&json!({ "items": items }), &items, &columns)?;
        Ok(0)
    }
}

impl Tail {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = super::opened(app).await?;
        let only = self.conversation.as_deref().map(|text| chat.find(text)).transpose();
        let only = only.or_fail("the conversation")?;
        follow(app, &chat, only.as_deref(), self.commands).await?;
        ended(app, chat).await?;
        Ok(0)
    }
}

/// Prints what comes until Ctrl-C, or until stdin ends where commands come from it.
async fn follow(app: &App, chat: &Chat, only: Option<&str>, take: bool) -> Result<(), Failure> {
    let mut events = chat.events();
    let (lines, mut input) = tokio::sync::mpsc::channel(16);
    if take {
        commands::read_stdin(lines);
    } else {
        std::mem::forget(lines);
    }
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => print_event(app, chat, only, &event)?,
                Err(RecvError::Lagged(missed)) => {
                    app.notice(&format!("{missed} events were missed; see: relay chat history"));
                }
                Err(RecvError::Closed) => return Ok(()),
            },
            line = input.recv() => match line {
                Some(line) => commands::run(app, chat, only, &line).await?,
                None => return Ok(()),
            },
            stopped = tokio::signal::ctrl_c() => return stopped.map_err(Failure::from),
        }
    }
}

fn print_event(app: &App, chat: &Chat, only: Option<&str>, event: &Event) -> Result<(), Failure> {
    let value = to_json(event)?;
    let conv_id = value["conv_id"].as_str().or_else(|| value["message"]["conv_id"].as_str());
    if only.is_some() && conv_id.is_some() && conv_id != only {
        return Ok(());
    }
    if app.out.is_json() {
        app.out.item(&value, &[])?;
        return Ok(());
    }
    match event {
        Event::Message { message } => {
            let name = chat.conversation(&message.conv_id).map(|view| view.name);
            let name = name.unwrap_or_default();
            let line = show::message(message, &|user| name_of(chat, user));
            println!("{} {line}", show::clean(&name));
        }
        Event::Invited { conv_id, by } => {
            println!("* {} invites you: relay chat accept {conv_id}", name_of(chat, by));
        }
        Event::Note { text } => println!("* {}", show::clean(text)),
        _ => {}
    }
    Ok(())
}

impl History {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = current(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let range = match (self.before, self.after) {
            (Some(seq), _) => MessageRange::Before(seq),
            (_, Some(seq)) => MessageRange::After(seq),
            _ => MessageRange::Newest,
        };
        let page = chat.messages(&conv_id, range, self.limit).or_fail("the messages")?;
        if app.out.is_json() {
            app.out.one(&to_json(&page)?, &[])?;
        } else {
            print(&chat, &page.items);
        }
        ended(app, chat).await?;
        Ok(0)
    }
}

/// Prints messages as lines.
pub fn print(chat: &Chat, items: &[MessageView]) {
    for item in items {
        println!("{}", show::message(item, &|user| name_of(chat, user)));
    }
}

/// What somebody is called here.
pub fn name_of(chat: &Chat, user: &relay_proto::NodeId) -> String {
    chat.name_of(user)
}

impl Search {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = super::opened(app).await?;
        let within = self.r#in.as_deref().map(|text| chat.find(text)).transpose();
        let within = within.or_fail("the conversation")?;
        let words = self.words.join(" ");
        let mut items = Vec::new();
        let mut from = None;
        loop {
            let wanted = self.limit.saturating_sub(items.len());
            let page = chat
                .search(&words, within.as_deref(), from, wanted.max(1))
                .or_fail("the search")?;
            items.extend(page.items);
            from = page.next;
            if from.is_none() || items.len() >= self.limit {
                break;
            }
        }
        if app.out.is_json() {
            app.out.one(&json!({ "items": to_json(&items)?, "next": to_json(&from)? }), &[])?;
        } else {
            for hit in &items {
                let line = show::message(&hit.message, &|user| name_of(&chat, user));
                println!("{} {line}", show::clean(&hit.conv_name));
            }
        }
        let found = !items.is_empty();
        ended(app, chat).await?;
        Ok(if found { 0 } else { crate::error::exit::NOT_FOUND })
    }
}

impl Export {
    pub async fn run(self, app: &App) -> Outcome {
        const PAGE: usize = 500;
        let chat = current(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let mut after = 0;
        loop {
            let page = chat
                .messages(&conv_id, MessageRange::After(after), PAGE)
                .or_fail("the messages")?;
            let mut out = String::new();
            for item in &page.items {
                // What waits to be sent is no part of the history.
                let Some(seq) = item.seq else { continue };
                after = seq;
                out.push_str(&to_json(item)?.to_string());
                out.push('\n');
            }
            crate::output::write(&out)?;
            if !page.more_after {
                break;
            }
        }
        ended(app, chat).await?;
        Ok(0)
    }
}

impl Members {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = current(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let members = chat.members(&conv_id).map_err(|error| failure(&error, "the members"))?;
        ended(app, chat).await?;
        let items = to_json(&members)?.as_array().cloned().unwrap_or_default();
        let columns = ["name", "role", "devices", "verified", "user_id"];
        app.out.list(&json!({ "items": items }), &items, &columns)?;
        Ok(0)
    }
}

/// A view as JSON.
pub fn to_json(view: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(view).map_err(|error| Failure::failed(error.to_string()))
}
