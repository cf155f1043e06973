//! What an application message holds (`mls-profile.md` 5): JSON whose author is the leaf that MLS authenticated.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use relay_proto::{NodeId, conv::Role};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::{Hostile, Refusal, Result},
    store::random,
};

/// The longest text, bytes: an env has room for it, encrypted and in base64.
pub const MAX_TEXT: usize = 32 << 10;
/// The longest name of a room, a file or an emoji, bytes.
pub const MAX_NAME: usize = 256;
/// The longest topic, bytes.
pub const MAX_TOPIC: usize = 1_024;

/// One application message, as it is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// 16 random bytes in base64url: what edits, replies and reactions point at.
    pub id: String,
    /// The author's clock, unix milliseconds; shown, never relied on.
    pub ts_ms: u64,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "body", rename_all = "snake_case")]
pub enum Body {
    /// Words.
    Text {
        /// The words.
        text: String,
        /// The `id` of the message that this answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply_to: Option<String>,
    },
    /// Other words for an own message.
    Edit {
        /// Whose `id`.
        of: String,
        /// The new words.
        text: String,
    },
    /// An own message is to be forgotten.
    Delete {
        /// Whose `id`.
        of: String,
    },
    /// A reaction, or its end.
    React {
        /// To which `id`.
        to: String,
        /// One emoji, or a few letters.
        emoji: String,
        /// Whether it is taken back.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        remove: bool,
    },
    /// How far the author has read.
    Read {
        /// The newest message that was read.
        up_to_seq: u64,
    },
    /// A file, encrypted among the relay's attachments.
    File(FileBody),
    /// What the room is called, is about, and who may do what.
    Room(RoomBody),
    /// A member agrees that a lost device comes back.
    RejoinOk {},
    /// A type that this version does not know.
    #[serde(skip)]
    Unknown {
        /// Its name.
        kind: String,
    },
}

/// A file among the relay's attachments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileBody {
    /// What its sender calls it; never a path.
    pub name: String,
    /// The media type that its sender claims.
    pub mime: String,
    /// Its size before encryption.
    pub size: u64,
    /// Where its ciphertext is, relative to the relay: `/v1/blobs/<digest>`.
    pub url: String,
    /// The key that opens it, base64url of 32 bytes.
    pub key: String,
    /// BLAKE3 of the ciphertext, hex.
    pub digest: String,
}

/// Agreed facts of a room; what is left out stays as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomBody {
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Roles that change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<BTreeMap<NodeId, Role>>,
    /// The conversation that this one goes on for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: u64,
    r#type: String,
    id: String,
    ts: u64,
    #[serde(default)]
    body: Value,
}

impl Content {
    /// A new message with an `id` of its own.
    pub(crate) fn new(body: Body, ts_ms: u64) -> Result<Self> {
        Ok(Self { id: new_id()?, ts_ms, body })
    }

    /// The bytes that are encrypted.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let tagged = serde_json::to_value(&self.body)?;
        let wire = Wire {
            v: 1,
            r#type: tagged["type"].as_str().unwrap_or_default().to_owned(),
            id: self.id.clone(),
            ts: self.ts_ms,
            body: tagged["body"].clone(),
        };
        Ok(serde_json::to_vec(&wire)?)
    }

    /// Reads what was decrypted. A type that is not known is no error; anything malformed is.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let bad = |why: &str| Hostile::Malformed(format!("content: {why}"));
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| bad(&error.to_string()))?;
        if wire.v != 1 {
            return Ok(Self {
                id: String::new(),
                ts_ms: wire.ts,
                body: Body::Unknown { kind: format!("version {}", wire.v) },
            });
        }
        if !is_id(&wire.id) {
            return Err(bad("an id is 16 bytes in base64url").into());
        }
        let tagged = serde_json::json!({ "type": wire.r#type, "body": wire.body });
        let body = if KNOWN.contains(&wire.r#type.as_str()) {
            let body: Body =
                serde_json::from_value(tagged).map_err(|error| bad(&error.to_string()))?;
            body.check().map_err(|refusal| bad(&refusal.to_string()))?;
            body
        } else {
            Body::Unknown { kind: shortened(&wire.r#type, MAX_NAME) }
        };
        Ok(Self { id: wire.id, ts_ms: wire.ts, body })
    }
}

const KNOWN: [&str; 8] = ["text", "edit", "delete", "react", "read", "file", "room", "rejoin_ok"];

impl Body {
    /// Whether every part keeps to its limits.
    pub(crate) fn check(&self) -> std::result::Result<(), Refusal> {
        let at_most = |what: &str, text: &str, most: usize| {
            if text.len() > most {
                return Err(Refusal::Invalid(format!("{what} has at most {most} bytes")));
            }
            Ok(())
        };
        let id = |what: &str, text: &str| {
            if is_id(text) { Ok(()) } else { Err(Refusal::Invalid(format!("{what} is no id"))) }
        };
        match self {
            Self::Text { text, reply_to } => {
                at_most("a message", text, MAX_TEXT)?;
                reply_to.as_deref().map_or(Ok(()), |reply| id("reply_to", reply))
            }
            Self::Edit { of, text } => {
                at_most("a message", text, MAX_TEXT)?;
                id("of", of)
            }
            Self::Delete { of } => id("of", of),
            Self::React { to, emoji, .. } => {
                at_most("a reaction", emoji, 64)?;
                id("to", to)
            }
            Self::File(file) => {
                at_most("a file's name", &file.name, MAX_NAME)?;
                at_most("a media type", &file.mime, MAX_NAME)?;
                at_most("a file's url", &file.url, MAX_NAME)?;
                at_most("a file's key", &file.key, 64)?;
                at_most("a file's digest", &file.digest, 64)
            }
            Self::Room(room) => {
                at_most("a room's name", room.name.as_deref().unwrap_or_default(), MAX_NAME)?;
                at_most("a topic", room.topic.as_deref().unwrap_or_default(), MAX_TOPIC)
            }
            Self::Read { .. } | Self::RejoinOk {} | Self::Unknown { .. } => Ok(()),
        }
    }
}

/// A new `id`.
pub(crate) fn new_id() -> Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(random::<16>()?))
}

fn is_id(text: &str) -> bool {
    text.len() == 22 && URL_SAFE_NO_PAD.decode(text).is_ok()
}

/// At most so many bytes of a text, cut between characters.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn contents_travel_as_the_profile_has_them() {
        let content = Content {
            id: "AAAAAAAAAAAAAAAAAAAAAA".into(),
            ts_ms: 7,
            body: Body::Text { text: "hi".into(), reply_to: None },
        };
        let bytes = content.encode().unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&bytes).unwrap(),
            serde_json::json!({ "v": 1, "type": "text", "id": "AAAAAAAAAAAAAAAAAAAAAA", "ts": 7, "body": { "text": "hi" } })
        );
        assert_eq!(Content::decode(&bytes).unwrap(), content);
    }

    #[test]
    fn what_is_unknown_is_kept_and_what_is_malformed_is_refused() {
        let poll =
            br#"{"v":1,"type":"poll","id":"AAAAAAAAAAAAAAAAAAAAAA","ts":1,"body":{"q":"?"}}"#;
        let content = Content::decode(poll).unwrap();
        assert_eq!(content.body, Body::Unknown { kind: "poll".into() });
        for bad in [
            "",
            "[]",
            r#"{"v":1,"type":"text","id":"x","ts":1,"body":{"text":"a"}}"#,
            r#"{"v":1,"type":"text","id":"AAAAAAAAAAAAAAAAAAAAAA","ts":1,"body":{}}"#,
            r#"{"v":1,"type":"read","id":"AAAAAAAAAAAAAAAAAAAAAA","ts":1,"body":{"up_to_seq":-1}}"#,
        ] {
            assert!(Content::decode(bad.as_bytes()).is_err(), "{bad}");
        }
        let long = Body::Text { text: "x".repeat(MAX_TEXT + 1), reply_to: None };
        assert!(long.check().is_err());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Content::decode(&bytes);
        }
    }
}
