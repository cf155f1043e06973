//! Who may call what: ordered rules over service, method and caller, the first that fits decides.
//!
//! They are evaluated on the node that owns the service, over the caller's proven identity.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Caller;
use crate::address::{Method, ServiceName};

/// A text with `*` for any run of characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    pub fn any() -> Self {
        Self("*".into())
    }

    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        // Where to go on after the last `*`: the pattern behind it, the text it may still eat.
        let mut retry: Option<(usize, usize)> = None;
        while t < text.len() {
            if pattern.get(p) == Some(&b'*') {
                retry = Some((p + 1, t));
                p += 1;
            } else if pattern.get(p) == text.get(t) {
                p += 1;
                t += 1;
            } else if let Some((after, eaten)) = retry {
                p = after;
                t = eaten + 1;
                retry = Some((after, t));
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|b| *b == b'*')
    }
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl FromStr for Pattern {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    Allow,
    Deny,
}

/// One rule. A member left out fits everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub effect: Effect,
    #[serde(default = "Pattern::any")]
    pub service: Pattern,
    #[serde(default = "Pattern::any")]
    pub method: Pattern,
    /// A key (`ed25519:…`), a node (`alice.home@hub`, `*@hub`), `local` for callers on this node,
    /// or `*`.
    #[serde(default = "Pattern::any")]
    pub caller: Pattern,
}

impl Rule {
    pub fn new(effect: Effect, service: &str, method: &str, caller: &str) -> Self {
        Self { effect, service: service.into(), method: method.into(), caller: caller.into() }
    }

    fn fits(&self, service: &ServiceName, method: &Method, caller: &Caller) -> bool {
        self.service.matches(service.as_str())
            && self.method.matches(method.as_str())
            && self.fits_caller(caller)
    }

    fn fits_caller(&self, caller: &Caller) -> bool {
        let key = caller.key.is_some_and(|key| self.caller.matches(&key.to_string()));
        // A node may be called "local"; the word means this node all the same.
        let means_this_node = self.caller.0 == LOCAL;
        let node = match &caller.node {
            Some(node) => {
                !means_this_node
                    && (self.caller.matches(&node.to_string())
                        || self.caller.matches(node.relay.as_str()))
            }
            None => means_this_node || self.caller == Pattern::any(),
        };
        key || node
    }
}

/// The caller pattern that fits callers on this node, and no other.
const LOCAL: &str = "local";

/// What the rules say about one call, and which rule said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub effect: Effect,
    /// The position of the deciding rule; `None` when no rule fitted and the default decided.
    pub rule: Option<usize>,
}

/// Rules in order, and what holds where none fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRules {
    #[serde(default)]
    pub rules: Vec<Rule>,
    #[serde(default = "allow")]
    pub otherwise: Effect,
}

const fn allow() -> Effect {
    Effect::Allow
}

impl Default for AccessRules {
    /// Everybody may call what is public.
    fn default() -> Self {
        Self { rules: Vec::new(), otherwise: Effect::Allow }
    }
}

impl AccessRules {
    pub fn decide(&self, service: &ServiceName, method: &Method, caller: &Caller) -> Decision {
        let found = self.rules.iter().position(|rule| rule.fits(service, method, caller));
        let effect = found.and_then(|at| self.rules.get(at)).map_or(self.otherwise, |r| r.effect);
        Decision { effect, rule: found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::NodeId;

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*c", "abbc", true),
            ("a*c", "abbcd", false),
            ("*@hub", "alice.home@hub", true),
            ("*a*b*", "xxaxxbxx", true),
            ("**", "x", true),
            ("abc", "ab", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(Pattern::from(pattern).matches(text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let key: NodeId = format!("ed25519:{}", "ab".repeat(32)).parse().unwrap();
        let rules = AccessRules {
            rules: vec![
                Rule::new(Effect::Deny, "blog", "delete_*", "mallory"),
                Rule::new(Effect::Allow, "blog", "*", "*@hub"),
                Rule::new(Effect::Allow, "blog", "*", &key.to_string()),
                Rule::new(Effect::Allow, "*", "*", "local"),
            ],
            otherwise: Effect::Deny,
        };
        let decide = |service: &str, method: &str, caller: &Caller| {
            rules.decide(&service.parse().unwrap(), &method.parse().unwrap(), caller)
        };
        let node = |text: &str| Caller::remote(text.parse().unwrap());
        let is = |effect, rule| Decision { effect, rule };
        let mallory = node("mallory@hub");
        assert_eq!(decide("blog", "delete_post", &mallory), is(Effect::Deny, Some(0)));
        assert_eq!(decide("blog", "read", &mallory), is(Effect::Allow, Some(1)));
        assert_eq!(decide("blog", "read", &node("eve@other")), is(Effect::Deny, None));
        let known = Caller { key: Some(key), ..node("eve@other") };
        assert_eq!(decide("blog", "read", &known), is(Effect::Allow, Some(2)));
        assert_eq!(decide("shop", "buy", &Caller::local()), is(Effect::Allow, Some(3)));
        assert_eq!(decide("shop", "buy", &node("local")).effect, Effect::Deny, "no borrowed word");
    }
}
