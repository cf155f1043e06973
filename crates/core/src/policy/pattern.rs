//! Which namespaces a rule speaks of.

use std::{fmt, str::FromStr};

use relay_proto::{Namespace, name::is_namespace};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a namespace pattern is a namespace, 'name/*' (one segment below), 'name/**' or '**'")]
pub struct PatternError;

/// A set of namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `forge/site`: this namespace only.
    Exact(Namespace),
    /// `forge/*`: those exactly one segment below.
    Below(Namespace),
    /// `forge/**`: this namespace and everything below.
    Tree(Namespace),
    /// `**`: all.
    All,
}

impl Pattern {
    pub fn matches(&self, ns: &Namespace) -> bool {
        match self {
            Self::Exact(name) => name == ns,
            Self::Below(name) => below(name, ns).is_some_and(|rest| !rest.contains('/')),
            Self::Tree(name) => name == ns || below(name, ns).is_some(),
            Self::All => true,
        }
    }

    /// Whether every namespace that `other` matches is matched by this pattern.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (_, Self::All) => false,
            (Self::Tree(outer), Self::Exact(inner) | Self::Below(inner) | Self::Tree(inner)) => {
                outer == inner || below(outer, inner).is_some()
            }
            (_, Self::Exact(inner)) => self.matches(inner),
            (Self::Below(outer), Self::Below(inner)) => outer == inner,
            _ => false,
        }
    }

    /// Whether some namespace may be matched by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.covers(other) || other.covers(self) {
            return true;
        }
        // `a/*` and `a/b/**` share `a/b` though neither covers the other.
        match (self, other) {
            (Self::Below(_), Self::Tree(root)) => self.matches(root),
            (Self::Tree(root), Self::Below(_)) => other.matches(root),
            _ => false,
        }
    }

    /// Greater where the pattern says more: longer names first, then the narrower form.
    pub(super) fn specificity(&self) -> (usize, u8) {
        match self {
            Self::Exact(name) => (name.as_str().len(), 2),
            Self::Below(name) => (name.as_str().len(), 1),
            Self::Tree(name) => (name.as_str().len(), 0),
            Self::All => (0, 0),
        }
    }
}

/// What follows `name/` in `ns`.
fn below<'a>(name: &Namespace, ns: &'a Namespace) -> Option<&'a str> {
    ns.as_str().strip_prefix(name.as_str())?.strip_prefix('/')
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let name = |text: &str| text.parse::<Namespace>().map_err(|_| PatternError);
        if text == "**" {
            Ok(Self::All)
        } else if let Some(root) = text.strip_suffix("/**") {
            name(root).map(Self::Tree)
        } else if let Some(parent) = text.strip_suffix("/*") {
            name(parent).map(Self::Below)
        } else if is_namespace(text) {
            name(text).map(Self::Exact)
        } else {
            Err(PatternError)
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Below(name) => write!(f, "{name}/*"),
            Self::Tree(name) => write!(f, "{name}/**"),
            Self::All => f.write_str("**"),
        }
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn what_each_form_matches() {
        let cases = [
            ("forge", "forge", true),
            ("forge", "forge/a", false),
            ("forge/*", "forge/a", true),
            ("forge/*", "forge", false),
            ("forge/*", "forge/a/b", false),
            ("forge/**", "forge", true),
            ("forge/**", "forge/a/b", true),
            ("forge/**", "forger", false),
            ("**", "anything/at/all", true),
        ];
        for (form, ns, expected) in cases {
            assert_eq!(pattern(form).matches(&ns.parse().unwrap()), expected, "{form} {ns}");
        }
        for bad in ["", "*", "a/*/b", "A", "a//**", "/**"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cover_and_overlap_agree_with_matching() {
        let forms = ["a", "a/b", "a/*", "a/**", "a/b/*", "a/b/**", "b", "b/*", "b/**", "**"];
        let names = ["a", "a/b", "a/c", "a/b/c", "a/b/c/d", "b", "b/c", "b/c/d", "c"];
        for one in forms.map(pattern) {
            for two in forms.map(pattern) {
                let both = |ns: &&str| {
                    let ns = ns.parse().unwrap();
                    (one.matches(&ns), two.matches(&ns))
                };
                let covers = names.iter().map(both).all(|(first, second)| first || !second);
                let overlaps = names.iter().map(both).any(|(first, second)| first && second);
                assert_eq!(one.covers(&two), covers, "{one} {two}");
                assert_eq!(one.overlaps(&two), overlaps, "{one} {two}");
            }
        }
    }
}
