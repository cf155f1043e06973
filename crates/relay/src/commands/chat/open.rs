//! `relay chat open`: a conversation line by line. No cursor moves, nothing is redrawn, nothing is told by colour: works
//! with screen readers, with dumb terminals and in pipes.

pub mod commands;

use clap::Args;
use relay_chat::{
    Chat, MessageRange,
    views::{Connection, Event},
};
use tokio::sync::{broadcast::error::RecvError, mpsc};

use super::{
    opening::{OrFail, found, opened},
    read::{name_of, print},
    show,
};
use crate::{
    app::App,
    error::{Failure, Outcome},
};

pub const EXAMPLES: &str = "\
Examples:
  relay chat open bob
  relay chat open '#ops' --last 50";

const HELP: &str = "\
Write a line and press Enter to send it; // sends a line that begins with a slash.
  /reply N TEXT   answer message N           /edit N TEXT   change a message of yours
  /react N EMOJI  react to it                /delete N      ask all to forget it
  /file PATH      send a file                /save N        save its file here
  /who            who is here                /older         show older messages
  /read           mark all as read           /quit          leave this view";

#[derive(Debug, Args)]
pub struct Open {
    /// Id, name, or the other person
    conversation: String,
    /// So many messages first
    #[arg(long, default_value = "20", value_name = "N")]
    last: usize,
}

impl Open {
    /// One conversation, as by default.
    #[cfg(feature = "tui")]
    pub fn of(conversation: String) -> Self {
        Self { conversation, last: 20 }
    }

    pub async fn run(self, app: &App) -> Outcome {
        let chat = opened(app).await?;
        let conv_id = found(app, &chat, &self.conversation).await?;
        let talk = Talk { app, chat: &chat, conv_id: &conv_id };
        talk.begin(self.last)?;
        talk.run().await?;
        chat.close().await;
        Ok(0)
    }
}

/// One conversation in view.
struct Talk<'a> {
    app: &'a App,
    chat: &'a Chat,
    conv_id: &'a str,
}

impl Talk<'_> {
    fn begin(&self, last: usize) -> Result<(), Failure> {
        let view = self.chat.conversation(self.conv_id).or_fail("the conversation")?;
        self.app.notice(&format!(
            "{}, {} people, {} unread. /help lists what you can do, /quit ends.",
            show::clean(&view.name),
            view.member_count,
            view.unread
        ));
        let page = self.chat.messages(self.conv_id, MessageRange::Newest, last.max(1));
        print(self.chat, &page.or_fail("the messages")?.items);
        Ok(())
    }

    async fn run(&self) -> Result<(), Failure> {
        let mut events = self.chat.events();
        let (lines, mut input) = mpsc::channel(16);
        commands::read_stdin(lines);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => self.event(&event).await?,
                    Err(RecvError::Lagged(_)) => self.app.notice("some lines were missed; /older shows them"),
                    Err(RecvError::Closed) => return Ok(()),
                },
                line = input.recv() => {
                    let Some(line) = line else { return self.drain().await };
                    if line.trim() == "/quit" {
                        return self.drain().await;
                    }
                    if let Err(failure) = self.line(line.trim_end()).await {
                        failure.report(false);
                    }
                }
                stopped = tokio::signal::ctrl_c() => return stopped.map_err(Failure::from),
            }
        }
    }

    /// What was written last still leaves.
    async fn drain(&self) -> Result<(), Failure> {
        let settled = tokio::time::timeout(self.app.timeout(), self.chat.settled());
        match settled.await {
            Ok(settled) => settled.map(|_| ()).or_fail("the outbox"),
            Err(_) => Ok(()),
        }
    }

    async fn event(&self, event: &Event) -> Result<(), Failure> {
        match event {
            Event::Message { message } if message.conv_id == self.conv_id => {
                print(self.chat, std::slice::from_ref(message));
                if !message.own {
                    self.chat.mark_read(self.conv_id, message.seq).await.or_fail("the mark")?;
                }
            }
            Event::Changed { conv_id, seq: Some(seq), local: None } if conv_id == self.conv_id => {
                if let Ok(message) = self.chat.message(conv_id, *seq) {
                    print(self.chat, &[message]);
                }
            }
            Event::Connection { connection } => {
                self.app.notice(&format!("* {}", connected(connection)))
            }
            Event::Invited { by, .. } => {
                self.app
                    .notice(&format!("* {} invites you: relay chat ls", name_of(self.chat, by)));
            }
            Event::Note { text } => self.app.notice(&format!("* {}", show::clean(text))),
            _ => {}
        }
        Ok(())
    }

    async fn line(&self, line: &str) -> Result<(), Failure> {
        if line.is_empty() {
            return Ok(());
        }
        if let Some(text) = line.strip_prefix("//") {
            return self.send(&format!("/{text}")).await;
        }
        let Some(command) = line.strip_prefix('/') else { return self.send(line).await };
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        let rest = rest.trim();
        match verb {
            "help" => {
                self.app.notice(HELP);
                Ok(())
            }
            "who" => {
                for member in self.chat.members(self.conv_id).or_fail("the members")? {
                    let verified = if member.verified { ", verified" } else { "" };
                    println!(
                        "* {} ({} devices{verified})",
                        show::clean(&member.name),
                        member.devices
                    );
                }
                Ok(())
            }
            "older" => {
                let page = self.chat.messages(self.conv_id, MessageRange::Newest, 500);
                print(self.chat, &page.or_fail("the messages")?.items);
                Ok(())
            }
            "read" => self.chat.mark_read(self.conv_id, None).await.or_fail("the mark"),
            _ => commands::slash(self.chat, self.conv_id, verb, rest).await,
        }
    }

    async fn send(&self, text: &str) -> Result<(), Failure> {
        self.chat.send_text(self.conv_id, text, None).await.map(|_| ()).or_fail("the message")
    }
}

fn connected(connection: &Connection) -> String {
    match connection {
        Connection::Connecting => "connecting".into(),
        Connection::Online { rtt_ms } => format!("connected, {rtt_ms} ms"),
        Connection::Offline { why, .. } => {
            format!("not connected ({why}); what you write waits here")
        }
        Connection::Refused { why } => format!("the relay does not let this device in: {why}"),
    }
}
