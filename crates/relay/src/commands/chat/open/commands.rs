//! Commands that come as lines: those of a person with a slash, and those of a bot as JSON.
//!
//! A bot writes one object a line: `{"conv_id":…,"text":…}`, with `"reply_to": SEQ` where it answers; or
//! `{"conv_id":…,"react":"+1","to": SEQ}`, `{"conv_id":…,"read": SEQ}`, `{"conv_id":…,"accept":true}`.

use std::{io::BufRead, path::Path};

use relay_chat::{Chat, SaveAs};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::super::{opening::OrFail, write::id_of};
use crate::{app::App, error::Failure};

/// A line longer than this is cut: nobody types it, and no message may be as long.
const MAX_LINE: u64 = 1 << 20;

/// Reads stdin line by line on a thread of its own; it ends with stdin or with the process.
pub fn read_stdin(lines: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = String::new();
            let limited = std::io::Read::take(&mut input, MAX_LINE);
            match std::io::BufReader::with_capacity(1, limited).read_line(&mut line) {
                Ok(1..) if lines.blocking_send(line).is_ok() => {}
                _ => return,
            }
        }
    });
}

#[derive(Debug, Deserialize)]
struct BotLine {
    conv_id: Option<String>,
    text: Option<String>,
    reply_to: Option<u64>,
    react: Option<String>,
    to: Option<u64>,
    read: Option<u64>,
    #[serde(default)]
    accept: bool,
}

/// Does what a line of a bot says; a wrong one is told on stderr and changes nothing.
pub async fn run(app: &App, chat: &Chat, only: Option<&str>, line: &str) -> Result<(), Failure> {
    if line.trim().is_empty() {
        return Ok(());
    }
    let done = match serde_json::from_str::<BotLine>(line) {
        Ok(line) => bot(chat, only, line).await,
        Err(error) => Err(Failure::usage(format!("not a command: {error}"))),
    };
    if let Err(failure) = done {
        failure.report(app.out.is_json());
    }
    Ok(())
}

async fn bot(chat: &Chat, only: Option<&str>, line: BotLine) -> Result<(), Failure> {
    let conv_id = line
        .conv_id
        .as_deref()
        .or(only)
        .ok_or_else(|| Failure::usage("conv_id is missing"))?
        .to_owned();
    if line.accept {
        chat.accept(&conv_id).await.or_fail("the invitation")?;
    }
    if let Some(text) = line.text {
        let reply_to = line.reply_to.map(|seq| id_of(chat, &conv_id, seq)).transpose()?;
        chat.send_text(&conv_id, text, reply_to).await.or_fail("the message")?;
    }
    if let (Some(emoji), Some(to)) = (line.react, line.to) {
        let id = id_of(chat, &conv_id, to)?;
        chat.react(&conv_id, &id, &emoji, false).await.or_fail("the reaction")?;
    }
    if let Some(seq) = line.read {
        chat.mark_read(&conv_id, Some(seq)).await.or_fail("the mark")?;
    }
    Ok(())
}

/// Does what a person writes after a slash, where it is about a message or a file.
pub async fn slash(chat: &Chat, conv_id: &str, verb: &str, rest: &str) -> Result<(), Failure> {
    if verb == "file" {
        return chat
            .send_file(conv_id, Path::new(rest), None)
            .await
            .map(|_| ())
            .or_fail("the file");
    }
    let (number, words) = rest.split_once(' ').unwrap_or((rest, ""));
    let known = ["reply", "edit", "delete", "react", "save"];
    if !known.contains(&verb) {
        return Err(Failure::usage(format!("/{verb} is no command; /help lists them")));
    }
    let seq: u64 = number
        .trim_matches(['[', ']'])
        .parse()
        .map_err(|_| Failure::usage(format!("/{verb} needs the number of a message")))?;
    let id = || id_of(chat, conv_id, seq);
    match verb {
        "reply" => chat.send_text(conv_id, words, Some(id()?)).await.map(|_| ()),
        "edit" => chat.edit(conv_id, &id()?, words).await.map(|_| ()),
        "delete" => chat.delete(conv_id, &id()?).await.map(|_| ()),
        "react" => chat.react(conv_id, &id()?, words.trim(), false).await.map(|_| ()),
        _ => {
            let saved = chat.save_file(conv_id, seq, SaveAs::Folder(".".into())).await;
            let path = saved.or_fail("the file")?;
            println!("* saved {}", path.display());
            return Ok(());
        }
    }
    .or_fail(&format!("message {seq}"))
}
