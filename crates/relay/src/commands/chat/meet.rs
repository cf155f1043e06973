//! Invitations that travel outside: a line that says where somebody is and who they are, and the answer to it.

use clap::Args;
use relay_chat::{ChatLink, LinkError};

use super::{
    opening::{OrFail, current},
    write::{finish, words},
};
use crate::{
    app::App,
    error::{Failure, Outcome},
    output,
};

pub const LINK_EXAMPLES: &str = "\
Examples:
  relay chat link
  relay chat link --as alice";
pub const MEET_EXAMPLES: &str = "\
Examples:
  relay chat meet relay-chat-v1.eyJ2IjoxLCJ1cmwiOiJodHRwczovL3JlbGF5LmV4YW1wbGUuY29tIiwidXNlcl9pZCI6ImVkMjU1MTk6MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMSJ9
  relay chat meet relay-chat-v1.eyJ2… 'hello, it is Bob' --call alice";

#[derive(Debug, Args)]
pub struct Link {
    /// What the other side is to call you
    #[arg(long = "as", id = "own-name", value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub struct Meet {
    /// The line that `relay chat link` printed for them
    link: String,
    /// What to say first; - is stdin
    text: Option<String>,
    /// What to call them; the name in the link where absent
    #[arg(long, value_name = "NAME")]
    call: Option<String>,
}

impl Link {
    pub async fn run(self, app: &App) -> Outcome {
        // Who was never here cannot be invited: this leaves the keys for that at the relay.
        let chat = current(app).await?;
        let me = chat.me().or_fail("your chats")?;
        chat.close().await;
        let link = ChatLink::new(me.relay_url, me.user_id, self.name).line();
        output::line(&link.map_err(|_| Failure::usage("this name is too long for a link"))?)?;
        app.notice("give it to whom you want to hear from; it is no secret, and they need an account at this relay or one that reaches it");
        Ok(0)
    }
}

impl Meet {
    pub async fn run(self, app: &App) -> Outcome {
        let content = ChatLink::read(&self.link).map_err(unusable)?;
        let target = app.target().map_err(|_| nowhere(&content.url))?;
        if target.url != content.url {
            app.notice(&format!(
                "they are at {}, and you are at {}: if the one does not reach the other, use relay login {}",
                content.url, target.url, content.url
            ));
        }
        let chat = current(app).await?;
        if let Some(name) = self.call.as_ref().or(content.name.as_ref()) {
            chat.name_person(content.user_id, name)
                .or_fail("the name")
                .map_err(|failure| failure.hint("--call NAME", "give them another one"))?;
        }
        let conv_id = chat.direct(content.user_id).await.or_fail("the conversation")?;
        if let Some(text) = &self.text {
            chat.send_text(&conv_id, words(text)?, None).await.or_fail("the message")?;
        }
        finish(app, chat, &conv_id).await
    }
}

fn unusable(why: LinkError) -> Failure {
    Failure::usage(why.to_string()).hint("relay chat link", "prints one")
}

fn nowhere(url: &str) -> Failure {
    Failure::usage("you are at no relay yet")
        .hint("relay keys gen", "if you have no key yet")
        .hint(format!("relay login {url}"), "the relay of whoever invites you")
}
