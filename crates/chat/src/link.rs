//! A line by which somebody can be written to: who they are, and at which relay. It is no secret and gives no right: whoever
//! has it can write a first message.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use relay_proto::NodeId;
use serde::{Deserialize, Serialize};

/// What such a line begins with.
pub const LINK: &str = "relay-chat-v1.";
/// No line of ours is longer, in bytes.
const MAX_LINK: usize = 2_048;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatLink {
    v: u64,
    /// The relay where they are met.
    pub url: String,
    /// Who they are.
    pub user_id: NodeId,
    /// What they would like to be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Why a line is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// It is something else, or damaged.
    #[error("this is no invitation to a chat")]
    NotOne,
    /// A later version has made it.
    #[error("this invitation was made by a newer version")]
    Newer,
}

impl ChatLink {
    /// Says where somebody is.
    pub fn new(url: String, user_id: NodeId, name: Option<String>) -> Self {
        Self { v: 1, url, user_id, name }
    }

    /// Reads a line; white space around it is no part of it.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn read(line: &str) -> Result<Self, LinkError> {
        let text = line.trim().strip_prefix(LINK).filter(|text| text.len() <= MAX_LINK);
        let text = URL_SAFE_NO_PAD.decode(text.ok_or(LinkError::NotOne)?);
        let text = text.map_err(|_| LinkError::NotOne)?;
        let link: Self = serde_json::from_slice(&text).map_err(|_| LinkError::NotOne)?;
        if link.v == 1 { Ok(link) } else { Err(LinkError::Newer) }
    }

    /// The line.
    ///
    /// # Errors
    /// [`LinkError::NotOne`] where it would be too long to be read again.
    pub fn line(&self) -> Result<String, LinkError> {
        let text = serde_json::to_vec(self).map_err(|_| LinkError::NotOne)?;
        let text = URL_SAFE_NO_PAD.encode(text);
        if text.len() > MAX_LINK { Err(LinkError::NotOne) } else { Ok(format!("{LINK}{text}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_who_and_where_and_nothing_else_is_one() {
        let user_id = relay_proto::SigningKey::from_seed([1; 32]).node_id();
        let url = "https://relay.example.com".to_owned();
        let link = ChatLink::new(url, user_id, Some("alice".into()));
        let line = link.line().unwrap();
        assert_eq!(ChatLink::read(&format!(" {line}\n")).unwrap(), link);
        for bad in ["", LINK, "relay-join-v1.e30", "relay-chat-v1.e30", "relay-chat-v1.%"] {
            assert_eq!(ChatLink::read(bad), Err(LinkError::NotOne), "{bad}");
        }
        assert!(ChatLink::read(&line[..line.len() - 9]).is_err());
        let newer = ChatLink { v: 2, ..link.clone() }.line().unwrap();
        assert_eq!(ChatLink::read(&newer), Err(LinkError::Newer));
        let long = ChatLink { name: Some("a".repeat(MAX_LINK)), ..link };
        assert!(long.line().is_err());
    }
}
