//! Names that clients choose.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{NodeId, auth::fold_user_id};

/// Why a text names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a conv_id has 1 to 128 bytes, none of them 0")]
    Conversation,
    #[error("a msg_id has 1 to 256 bytes, none of them 0")]
    Message,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:literal, $error:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub const MAX_BYTES: usize = $max;

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let fits = (1..=Self::MAX_BYTES).contains(&text.len()) && !text.contains('\0');
                if fits { Ok(Self(text.into())) } else { Err(NameError::$error) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

name! {
    /// A conversation, named by its creator; unlike PostgreSQL's text it could hold a zero byte, so that is refused.
    ConvId, 128, Conversation
}
name! {
    /// The idempotency key of a message within its conversation.
    MsgId, 256, Message
}

impl ConvId {
    /// Whether the older convention calls it a direct message (`gateway.md` 1).
    pub fn has_dm_prefix(&self) -> bool {
        self.0.starts_with("dm_")
    }

    /// The MLS group that a profile conversation is named after: its 32 bytes in base64url.
    pub fn group_id(&self) -> Option<[u8; 32]> {
        if self.0.len() != 43 {
            return None;
        }
        URL_SAFE_NO_PAD.decode(self.as_str()).ok()?.try_into().ok()
    }

    /// The name of a direct message whose creator chose none.
    pub fn generate_dm(random: [u8; 12]) -> Self {
        Self(format!("dm_{}", URL_SAFE_NO_PAD.encode(random)).into())
    }
}

/// A user as clients write one: the canonical text, or the older form, folded to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct UserRef(pub NodeId);

impl<'de> Deserialize<'de> for UserRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        fold_user_id(&text).map(Self).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        assert!("".parse::<ConvId>().is_err() && "a\0".parse::<MsgId>().is_err());
        assert!(
            "x".repeat(128).parse::<ConvId>().is_ok() && "x".repeat(129).parse::<ConvId>().is_err()
        );
        assert!(
            "x".repeat(256).parse::<MsgId>().is_ok() && "x".repeat(257).parse::<MsgId>().is_err()
        );
    }

    #[test]
    fn a_group_is_its_name() {
        let name: ConvId = URL_SAFE_NO_PAD.encode([7; 32]).parse().unwrap();
        assert_eq!(name.group_id(), Some([7; 32]));
        assert_eq!("dm_short".parse::<ConvId>().unwrap().group_id(), None);
        assert!(ConvId::generate_dm([1; 12]).has_dm_prefix());
    }
}
