//! Namespaces (`common.md`, Keys and names).

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::key::text_serde;

/// The namespace of everything that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Why a text is no namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a namespace has 1 to 8 segments of [a-z0-9._-] separated by '/', at most 128 bytes")]
pub struct NamespaceError;

/// `/`-separated lowercase segments; the first is the tenant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// The first segment: who pays, whose quota counts.
    pub fn tenant(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self(DEFAULT_NAMESPACE.into())
    }
}

/// Whether `text` has the form of a namespace.
pub fn is_namespace(text: &str) -> bool {
    let segment = |s: &str| {
        !s.is_empty()
            && s.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
    };
    text.len() <= 128 && text.split('/').count() <= 8 && text.split('/').all(segment)
}

impl FromStr for Namespace {
    type Err = NamespaceError;

    fn from_str(text: &str) -> Result<Self, NamespaceError> {
        if is_namespace(text) { Ok(Self(text.into())) } else { Err(NamespaceError) }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

text_serde!(Namespace);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for good in ["default", "a/b/c", "x.y_z-1", "1/2/3/4/5/6/7/8"] {
            assert!(is_namespace(good), "{good}");
        }
        for bad in ["", "/", "a//b", "A", "a b", "1/2/3/4/5/6/7/8/9", "ä", "a/"] {
            assert!(!is_namespace(bad), "{bad}");
        }
        assert!(is_namespace(&"a".repeat(128)) && !is_namespace(&"a".repeat(129)));
        assert_eq!("forge/prod".parse::<Namespace>().unwrap().tenant(), "forge");
    }
}
