//! Invitations that travel outside: a line that says where somebody is and who they are, and the answer to it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args;
use relay_proto::NodeId;
use serde::{Deserialize, Serialize};

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

const PREFIX: &str = "relay-chat-v1.";
/// No link of ours is longer.
const MAX_LINK: usize = 2_048;

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

/// What a link says. It is no secret and gives no right: whoever has it can write a first message.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    v: u64,
    /// The relay where they are met.
    url: String,
    user_id: NodeId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl Content {
    fn encode(&self) -> Result<String, Failure> {
        let text = serde_json::to_vec(self).map_err(|error| Failure::failed(error.to_string()))?;
        Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(text)))
    }

    fn decode(link: &str) -> Result<Self, Failure> {
        let bad = || {
            Failure::usage("this is no invitation to a chat").hint("relay chat link", "prints one")
        };
        let text = link.trim().strip_prefix(PREFIX).filter(|text| text.len() <= MAX_LINK);
        let text = URL_SAFE_NO_PAD.decode(text.ok_or_else(bad)?).map_err(|_| bad())?;
        let content: Self = serde_json::from_slice(&text).map_err(|_| bad())?;
        if content.v != 1 {
            return Err(Failure::usage("this invitation was made by a newer version"));
        }
        Ok(content)
    }
}

impl Link {
    pub async fn run(self, app: &App) -> Outcome {
        // Who was never here cannot be invited: this leaves the keys for that at the relay.
        let chat = current(app).await?;
        let me = chat.me().or_fail("your chats")?;
        chat.close().await;
        let link = Content { v: 1, url: me.relay_url, user_id: me.user_id, name: self.name };
        output::line(&link.encode()?)?;
        app.notice("give it to whom you want to hear from; it is no secret, and they need an account at this relay or one that reaches it");
        Ok(0)
    }
}

impl Meet {
    pub async fn run(self, app: &App) -> Outcome {
        let content = Content::decode(&self.link)?;
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

fn nowhere(url: &str) -> Failure {
    Failure::usage("you are at no relay yet")
        .hint("relay keys gen", "if you have no key yet")
        .hint(format!("relay login {url}"), "the relay of whoever invites you")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_who_and_where_and_nothing_else_is_one() {
        let user_id = relay_proto::SigningKey::from_seed([1; 32]).node_id();
        let url = "https://relay.example.com".to_owned();
        let link = Content { v: 1, url, user_id, name: Some("alice".into()) };
        let text = link.encode().unwrap();
        let read = Content::decode(&format!(" {text}\n")).unwrap();
        assert_eq!((read.user_id, read.url, read.name), (user_id, link.url, link.name));
        for bad in ["", PREFIX, "relay-join-v1.e30", "relay-chat-v1.e30", "relay-chat-v1.%"] {
            assert!(Content::decode(bad).is_err(), "{bad}");
        }
        assert!(Content::decode(&text[..text.len() - 9]).is_err());
    }
}
