//! `relay tui`: the chats on the whole screen.

use std::{io::IsTerminal, sync::Arc};

use clap::Args;
use jiff::tz::TimeZone;
use relay_tui::{
    ChatBackend, Settings,
    theme::{Depth, Wishes},
};

use super::chat;
use crate::{
    app::App,
    cli::Color,
    error::{Failure, Outcome},
    files,
};

pub const EXAMPLES: &str = "\
Examples:
  relay tui
  relay tui --plain bob     (line by line, for screen readers and dumb terminals)

Keys, colours and the preset `vim` are set in tui.toml beside your contexts; F1 lists all keys.";

#[derive(Debug, Args)]
pub struct Tui {
    /// With --plain: the conversation, by id, name, or the other person
    conversation: Option<String>,
}

impl Tui {
    pub async fn run(self, app: &App) -> Outcome {
        let term = std::env::var("TERM").unwrap_or_default();
        if app.global.plain || term == "dumb" {
            return self.plain(app).await;
        }
        if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
            return Err(Failure::usage("this needs a terminal")
                .hint("relay chat open NAME", "talks line by line, also without one")
                .hint("relay chat tail --json", "is for programs"));
        }
        let settings = settings(app, &term)?;
        let chat = Arc::new(chat::opened(app).await?);
        if let Some(conversation) = &self.conversation {
            // Found before the screen is taken, so that an error is told where it is read.
            use chat::OrFail;
            chat.find(conversation).or_fail("the conversation")?;
        }
        let shown =
            relay_tui::run(ChatBackend::new(chat.clone()), settings, self.conversation).await;
        if let Some(chat) = Arc::into_inner(chat) {
            chat.close().await;
        }
        shown.map(|()| 0).map_err(|error| Failure::failed(error.to_string()))
    }

    async fn plain(self, app: &App) -> Outcome {
        match self.conversation {
            Some(conversation) => chat::line_mode(app, conversation).await,
            None => Err(Failure::usage("without a screen, say which conversation")
                .hint("relay chat ls", "those there are")
                .hint("relay tui --plain NAME", "opens one line by line")),
        }
    }
}

fn settings(app: &App, term: &str) -> Result<Settings, Failure> {
    let path = files::config_dir()?.join("tui.toml");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(files::at(&path, &error)),
    };
    let colorterm = std::env::var("COLORTERM").ok();
    let depth = Depth::choose(Wishes {
        flag: match app.global.color {
            Color::Auto => None,
            Color::Always => Some(true),
            Color::Never => Some(false),
        },
        no_color: std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
        term: Some(term),
        colorterm: colorterm.as_deref(),
    });
    Settings::read(&text, depth, TimeZone::system()).map_err(|wrong| {
        let mut failure = Failure::usage(format!("{}: {} wrong", path.display(), wrong.0.len()));
        for line in wrong.0 {
            failure = failure.fact(line);
        }
        failure
    })
}
