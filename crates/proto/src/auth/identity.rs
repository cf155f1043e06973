//! Users, devices and labels as clients write them (`gateway.md` 1, 4.1).

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::key::{KEY_PREFIX, KeyError, NodeId};

/// Reads a user id in its canonical text or in the older form, 43 characters of base64url of
/// the same 32 bytes.
///
/// # Errors
/// [`KeyError`]: neither form, or bytes that are no acceptable key.
pub fn fold_user_id(text: &str) -> Result<NodeId, KeyError> {
    if text.starts_with(KEY_PREFIX) {
        return text.parse();
    }
    if text.len() != 43 {
        return Err(KeyError::Form);
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::Form)?;
    NodeId::from_bytes(bytes.try_into().map_err(|_| KeyError::Form)?)
}

/// A device's name, chosen by the client; 1 to 128 bytes, none of them 0 (which PostgreSQL cannot
/// store as text). It means something only together with
/// the user it belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(Arc<str>);

impl DeviceId {
    pub const MAX_BYTES: usize = 128;

    /// `None` where the text is empty, too long, or holds a zero byte.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=Self::MAX_BYTES).contains(&text.len()) && !text.contains('\0');
        fits.then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for DeviceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DeviceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(&text).ok_or_else(|| de::Error::custom("a device_id has 1 to 128 bytes"))
    }
}

/// What kind of client a session belongs to, for lists: 1 to 32 of `[a-z0-9 _-]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientLabel(String);

impl ClientLabel {
    const MAX_BYTES: usize = 32;

    /// `None` where the text has other characters or another length, or looks like a token.
    pub fn parse(text: &str) -> Option<Self> {
        let shaped = (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(is_label_byte);
        (shaped && !has_token(text)).then(|| Self(text.to_owned()))
    }

    /// The first word of a `User-Agent`, reduced to what a label may hold; else `unknown`.
    pub fn from_user_agent(user_agent: Option<&str>) -> Self {
        let word = user_agent.and_then(|text| text.split_whitespace().next()).unwrap_or("");
        let mut label = word.to_ascii_lowercase();
        label.retain(|c| c.is_ascii() && is_label_byte(c as u8));
        label.truncate(Self::MAX_BYTES);
        Self::parse(&label).unwrap_or_else(|| Self("unknown".to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b' ' | b'_' | b'-')
}

fn has_token(text: &str) -> bool {
    text.contains("st_") || text.contains("rt_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SigningKey;

    #[test]
    fn both_forms_of_a_user_fold_to_one() {
        let user = SigningKey::from_seed([7; 32]).node_id();
        let older = URL_SAFE_NO_PAD.encode(user.as_bytes());
        assert_eq!(fold_user_id(&older), Ok(user));
        assert_eq!(fold_user_id(&user.to_string()), Ok(user));
        for bad in ["", "alice", &older[1..], &format!("{older}="), &user.to_string()[8..]] {
            assert_eq!(fold_user_id(bad), Err(KeyError::Form), "{bad}");
        }
        assert_eq!(fold_user_id(&URL_SAFE_NO_PAD.encode([0; 32])), Err(KeyError::SmallOrder));
    }

    #[test]
    fn device_ids_are_bounded() {
        assert!(DeviceId::new("").is_none() && DeviceId::new("a\0b").is_none());
        assert!(DeviceId::new(&"x".repeat(128)).is_some());
        assert!(DeviceId::new(&"x".repeat(129)).is_none());
    }

    #[test]
    fn labels() {
        assert!(ClientLabel::parse("my tui-2_x").is_some());
        for bad in ["", "TUI", "st_x", "a rt_", "ä", &"x".repeat(33)] {
            assert!(ClientLabel::parse(bad).is_none(), "{bad}");
        }
        let from = |text| ClientLabel::from_user_agent(text).0;
        assert_eq!(from(Some("Mozilla/5.0 (X11)")), "mozilla50");
        assert_eq!(from(Some("(//)")), "unknown");
        assert_eq!(from(Some("st_secret")), "unknown");
        assert_eq!(from(None), "unknown");
        assert_eq!(from(Some(&"a".repeat(99))), "a".repeat(32));
    }
}
