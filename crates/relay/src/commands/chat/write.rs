//! Saying something, and seeing to it that it leaves.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use relay_chat::{
    Chat, SaveAs,
    views::{Event, MessageBody},
};
use serde_json::json;
use tokio::sync::broadcast;

use super::{
    opening::{OrFail, connected, current, found, opened},
    read::to_json,
};
use crate::{
    app::App,
    error::{Failure, Outcome, exit},
    progress::Progress,
};

pub const DM_EXAMPLES: &str = "\
Examples:
  relay chat dm ed25519:0000000000000000000000000000000000000000000000000000000000000001 'hello Bob' --name bob
  relay chat dm bob 'how are you?'";
pub const NEW_EXAMPLES: &str = "\
Examples:
  relay chat new ops bob carol
  relay chat new ops --json";
pub const SEND_EXAMPLES: &str = "\
Examples:
  relay chat send bob 'on my way'
  relay chat send '#ops' - < report.txt";
pub const FILE_EXAMPLES: &str = "\
Examples:
  relay chat file bob photo.jpg
  relay chat file '#ops' log.txt --mime text/plain";
pub const SAVE_EXAMPLES: &str = "\
Examples:
  relay chat save bob 17
  relay chat save '#ops' 17 --out log.txt";
pub const EDIT_EXAMPLES: &str = "\
Examples:
  relay chat edit bob 17 'on my way, five minutes'
  relay chat edit '#ops' 17 'the deploy is done'";
pub const DELETE_EXAMPLES: &str = "\
Examples:
  relay chat delete bob 17
  relay chat delete '#ops' 17 --yes";
pub const REACT_EXAMPLES: &str = "\
Examples:
  relay chat react bob 17 +1
  relay chat react bob 17 +1 --remove";
pub const OUTBOX_EXAMPLES: &str = "\
Examples:
  relay chat outbox
  relay chat outbox --retry 4";

#[derive(Debug, Args)]
pub struct Dm {
    /// A name that you gave, or a key
    person: String,
    /// What to say; - is stdin
    text: Option<String>,
    /// Give the person this name
    #[arg(long, id = "person-name", value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub struct New {
    /// What to call the room
    #[arg(id = "room-name", value_name = "NAME")]
    name: String,
    /// Whom to invite: names or keys
    people: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Send {
    /// Id, name, or the other person
    conversation: String,
    /// What to say; - is stdin
    text: String,
    /// Answers this message
    #[arg(long, value_name = "SEQ")]
    reply_to: Option<u64>,
}

#[derive(Debug, Args)]
pub struct SendFile {
    /// Id, name, or the other person
    conversation: String,
    path: PathBuf,
    /// What kind of file it is
    #[arg(long, value_name = "TYPE")]
    mime: Option<String>,
}

#[derive(Debug, Args)]
pub struct Save {
    /// Id, name, or the other person
    conversation: String,
    /// The message that brought the file
    seq: u64,
    /// Where to; its own name in this folder where absent
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Edit {
    /// Id, name, or the other person
    conversation: String,
    /// The message
    seq: u64,
    /// The new words; - is stdin
    text: String,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Id, name, or the other person
    conversation: String,
    /// The message
    seq: u64,
}

#[derive(Debug, Args)]
pub struct React {
    /// Id, name, or the other person
    conversation: String,
    /// The message
    seq: u64,
    /// An emoji, or a few letters
    emoji: String,
    /// Take it back
    #[arg(long)]
    remove: bool,
}

#[derive(Debug, Args)]
pub struct Outbox {
    /// Try this one again
    #[arg(long, value_name = "N")]
    retry: Option<i64>,
    /// Do not send this one
    #[arg(long, value_name = "N", conflicts_with = "retry")]
    drop: Option<i64>,
}

impl Dm {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = current(app).await?;
        let person = chat.find_person(&self.person).or_fail("the person")?;
        if let Some(name) = &self.name {
            chat.name_person(person, name).or_fail("the name")?;
        }
        let conv_id = chat.direct(person).await.or_fail("the conversation")?;
        if let Some(text) = &self.text {
            chat.send_text(&conv_id, words(text)?, None).await.or_fail("the message")?;
        }
        finish(app, chat, &conv_id).await
    }
}

impl New {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = current(app).await?;
        let people = self.people.iter().map(|person| chat.find_person(person));
        let people = people.collect::<relay_chat::Result<Vec<_>>>().or_fail("the people")?;
        let conv_id = chat.create_room(Some(self.name), people).await.or_fail("the room")?;
        finish(app, chat, &conv_id).await
    }
}

impl Send {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = opened(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let reply_to = self.reply_to.map(|seq| id_of(&chat, &conv_id, seq)).transpose()?;
        chat.send_text(&conv_id, words(&self.text)?, reply_to).await.or_fail("the message")?;
        finish(app, chat, &conv_id).await
    }
}

impl SendFile {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = opened(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let size = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        let n =
            chat.send_file(&conv_id, &self.path, self.mime.as_deref()).await.or_fail("the file")?;
        let events = chat.events();
        let handed_in = chat.handed_in(n);
        // What is not there by then stays in the outbox, and goes with the next command.
        let patience =
            app.timeout() + FILE_PER_MEBIBYTE * u32::try_from(size >> 20).unwrap_or(u32::MAX);
        let handed_in =
            tokio::time::timeout(patience, shown(app, "upload", size, events, handed_in));
        if let Ok(handed_in) = handed_in.await {
            handed_in.or_fail("the file")?;
        }
        finish(app, chat, &conv_id).await
    }
}

impl Save {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = connected(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let target = match self.out {
            Some(path) => SaveAs::Path(path),
            None => SaveAs::Folder(Path::new(".").to_owned()),
        };
        let size = match chat.message(&conv_id, self.seq).or_fail("the message")?.body {
            MessageBody::File { file } => file.size,
            _ => 0,
        };
        let events = chat.events();
        let saving = chat.save_file(&conv_id, self.seq, target);
        let saved = shown(app, "download", size, events, saving).await.or_fail("the file")?;
        chat.close().await;
        app.out.one(&json!({ "path": saved.display().to_string() }), &["path"])?;
        Ok(0)
    }
}

/// What a slow line may take for a mebibyte of a file.
const FILE_PER_MEBIBYTE: Duration = Duration::from_secs(8);

/// Shows how far a file has got, until it is done.
async fn shown<T>(
    app: &App,
    name: &'static str,
    size: u64,
    mut events: broadcast::Receiver<Event>,
    work: impl Future<Output = relay_chat::Result<T>>,
) -> relay_chat::Result<T> {
    let mut bar = Progress::new(name, "bytes", Some(size), app.global.progress, app.global.plain);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                let words = if done.is_ok() { "done" } else { "broken off; the same command goes on" };
                bar.finish(size, words);
                return done;
            }
            event = events.recv() => match event {
                Ok(Event::File { done, .. }) => bar.set(done),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                // Nothing more is told; the work itself goes on.
                Err(broadcast::error::RecvError::Closed) => return work.await,
            },
        }
    }
}

impl Edit {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = opened(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let id = id_of(&chat, &conv_id, self.seq)?;
        chat.edit(&conv_id, &id, words(&self.text)?).await.or_fail("the message")?;
        finish(app, chat, &conv_id).await
    }
}

impl Delete {
    pub async fn run(self, app: &App) -> Outcome {
        app.confirm("delete message", &self.seq.to_string())?;
        let chat = opened(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let id = id_of(&chat, &conv_id, self.seq)?;
        chat.delete(&conv_id, &id).await.or_fail("the message")?;
        finish(app, chat, &conv_id).await
    }
}

impl React {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = opened(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let id = id_of(&chat, &conv_id, self.seq)?;
        chat.react(&conv_id, &id, &self.emoji, self.remove).await.or_fail("the reaction")?;
        finish(app, chat, &conv_id).await
    }
}

impl Outbox {
    pub async fn run(self, app: &App) -> Outcome {
        let chat = opened(app).await?;
        if let Some(local) = self.retry {
            chat.retry(local).await.or_fail("the outbox")?;
            settle(app, &chat).await?;
        }
        if let Some(local) = self.drop {
            chat.take_back(local).await.or_fail("the outbox")?;
        }
        let items = to_json(&chat.outbox().or_fail("the outbox")?)?;
        chat.close().await;
        let items = items.as_array().cloned().unwrap_or_default();
        let columns = ["local", "conv_name", "kind", "summary", "delivery", "why", "at_ms"];
        app.out.list(&json!({ "items": items }), &items, &columns)?;
        Ok(0)
    }
}

/// Waits until everything has left, and says what has not.
pub async fn finish(app: &App, chat: Chat, conv_id: &str) -> Outcome {
    settle(app, &chat).await?;
    let view = chat.conversation(conv_id).or_fail("the conversation")?;
    let outbox = chat.outbox().or_fail("the outbox")?;
    let left: Vec<_> = outbox.into_iter().filter(|out| out.conv_id == conv_id).collect();
    chat.close().await;
    let answer = json!({
        "conv_id": view.conv_id, "name": view.name, "latest_seq": view.latest_seq, "waiting": left.len(),
    });
    app.out.one(&answer, &["conv_id", "name", "latest_seq", "waiting"])?;
    let mut failed = None;
    for out in &left {
        match &out.delivery {
            relay_chat::views::Delivery::Failed { why } => failed = Some(why.clone()),
            relay_chat::views::Delivery::Waiting { why: Some(why) } => {
                app.notice(&format!(
                    "waits: {why}. It is sent when one of your programs runs then"
                ));
            }
            _ => app.notice("not sent yet; it waits here and leaves with the next command"),
        }
    }
    match failed {
        Some(why) => Err(Failure::new(exit::FAILED, format!("not sent: {why}"))
            .hint("relay chat outbox", "what is left, and how to try again")),
        None => Ok(0),
    }
}

/// Gives what was written the time to leave. Where the relay is not reached it stays in the outbox, which is no failure.
async fn settle(app: &App, chat: &Chat) -> Result<(), Failure> {
    match tokio::time::timeout(app.timeout(), chat.settled()).await {
        Ok(settled) => settled.map(|_| ()).or_fail("the outbox"),
        Err(_) => Ok(()),
    }
}

/// The content id of a message.
pub fn id_of(chat: &Chat, conv_id: &str, seq: u64) -> Result<String, Failure> {
    let message = chat.message(conv_id, seq).or_fail(&format!("message {seq}"))?;
    message.id.ok_or_else(|| Failure::usage(format!("message {seq} cannot be pointed at")))
}

/// What was typed, or all of stdin for `-`.
pub fn words(text: &str) -> Result<String, Failure> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    Ok(input.trim_end_matches('\n').to_owned())
}
