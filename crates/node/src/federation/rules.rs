//! Home relays that an operator let in or shut out while the hub ran (`relay spokes allow|deny`), beside
//! the lists of the configuration.
//!
//! A text file, one line a decision: `allow PATTERN` or `deny PATTERN`; of two about one pattern the later
//! counts. A denial wins over every list; an allowance adds to `hub.spokes_allow`.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use relay_proto::{NodeId, RelayId};

use super::admission::fits_one;
use crate::identity::write_secret;

/// More patterns are refused.
const MAX_RULES: usize = 10_000;

/// What an operator decided about a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
}

impl Decision {
    const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

#[derive(Debug)]
pub(super) struct Rules {
    path: PathBuf,
    by_pattern: Mutex<BTreeMap<String, Decision>>,
}

impl Rules {
    /// # Errors
    /// Where the file is there and cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let rules = text.lines().filter_map(|line| match line.split_once(' ')? {
            ("allow", pattern) => Some((pattern.to_owned(), Decision::Allow)),
            ("deny", pattern) => Some((pattern.to_owned(), Decision::Deny)),
            _ => None,
        });
        Ok(Self { path: path.to_owned(), by_pattern: Mutex::new(rules.collect()) })
    }

    /// What was decided about a relay: a denial before an allowance.
    pub fn of(&self, relay: &RelayId, key: &NodeId) -> Option<Decision> {
        let rules = self.by_pattern.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = rules.iter().filter(|(pattern, _)| fits_one(pattern, relay, key));
        let mut found = None;
        for (_, decision) in fitting {
            if *decision == Decision::Deny {
                return Some(Decision::Deny);
            }
            found = Some(Decision::Allow);
        }
        found
    }

    /// Decides about a pattern, durably.
    ///
    /// # Errors
    /// Where it cannot be written: then nothing is changed.
    pub fn set(&self, pattern: &str, decision: Decision) -> io::Result<()> {
        let mut rules = self.by_pattern.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = rules.clone();
        new.insert(pattern.to_owned(), decision);
        if new.len() > MAX_RULES {
            return Err(io::Error::other("too many patterns"));
        }
        let text: String =
            new.iter().map(|(pattern, rule)| format!("{} {pattern}\n", rule.word())).collect();
        write_secret(&self.path, text.as_bytes())?;
        *rules = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_wins_and_decisions_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules");
        let key: NodeId = relay_proto::SigningKey::from_seed([3; 32]).node_id();
        let of = |rules: &Rules, relay: &str| rules.of(&relay.parse().unwrap(), &key);
        let rules = Rules::open(&path).unwrap();
        assert_eq!(of(&rules, "a.home"), None);
        rules.set("*.home", Decision::Allow).unwrap();
        rules.set("b.home", Decision::Deny).unwrap();
        let rules = Rules::open(&path).unwrap();
        assert_eq!(of(&rules, "a.home"), Some(Decision::Allow));
        assert_eq!(of(&rules, "b.home"), Some(Decision::Deny));
        rules.set("b.home", Decision::Allow).unwrap();
        assert_eq!(of(&rules, "b.home"), Some(Decision::Allow));
        rules.set(&key.to_string(), Decision::Deny).unwrap();
        assert_eq!(of(&rules, "c.home"), Some(Decision::Deny));
    }
}
