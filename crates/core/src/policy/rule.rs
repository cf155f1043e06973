//! Rules as an operator or an admin writes them, and where each came from.

use std::{collections::BTreeMap, fmt, ops::BitOr, str::FromStr};

use relay_proto::{EventId, NodeId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeSeq};

use super::pattern::Pattern;

/// What somebody wants to do in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Read,
    Write,
    /// Take, renew and release locks.
    Lock,
    /// Break locks, approve rotations, sign policy.
    Admin,
}

impl Op {
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Lock, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Lock => "lock",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl FromStr for Op {
    type Err = UnknownOp;

    fn from_str(text: &str) -> Result<Self, UnknownOp> {
        Self::ALL.into_iter().find(|op| op.as_str() == text).ok_or(UnknownOp)
    }
}

/// Not one of the four operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an operation is read, write, lock or admin")]
pub struct UnknownOp;

/// A set of operations.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Ops(u8);

impl Ops {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(0b1111);

    pub const fn of(op: Op) -> Self {
        Self(op.bit())
    }

    pub const fn contains(self, op: Op) -> bool {
        self.0 & op.bit() != 0
    }

    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub fn iter(self) -> impl Iterator<Item = Op> {
        Op::ALL.into_iter().filter(move |op| self.contains(*op))
    }
}

impl BitOr for Ops {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Op> for Ops {
    fn from_iter<I: IntoIterator<Item = Op>>(ops: I) -> Self {
        ops.into_iter().fold(Self::NONE, |set, op| set | Self::of(op))
    }
}

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for Ops {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for op in self.iter() {
            list.serialize_element(&op)?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Ops {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Op>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// Whom a rule speaks of: a key, `*` (everyone, with a key or without), `@group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    Key(NodeId),
    Anyone,
    Group(String),
}

/// Neither a key nor `*` nor `@group`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("who is a key 'ed25519:…', '*' or '@group'")]
pub struct WhoError;

impl FromStr for Who {
    type Err = WhoError;

    fn from_str(text: &str) -> Result<Self, WhoError> {
        if text == "*" {
            return Ok(Self::Anyone);
        }
        match text.strip_prefix('@') {
            Some("") => Err(WhoError),
            Some(group) => Ok(Self::Group(group.to_owned())),
            None => text.parse().map(Self::Key).map_err(|_| WhoError),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "{key}"),
            Self::Anyone => f.write_str("*"),
            Self::Group(name) => write!(f, "@{name}"),
        }
    }
}

impl Serialize for Who {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Who {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// One rule, as in `[[acl]]` and in the content of a kind-10200 event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub ns: Pattern,
    pub who: Vec<Who>,
    #[serde(default)]
    pub allow: Ops,
    /// Wins over every allow.
    #[serde(default)]
    pub deny: Ops,
}

/// Named lists of keys.
pub type Groups = BTreeMap<String, Vec<NodeId>>;

/// The content of a kind-10200 event: `{"rules":[…],"groups":{…}}`. A group that it does not
/// define is the configuration's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    pub rules: Vec<Rule>,
    #[serde(default)]
    pub groups: Groups,
}

/// Where a rule comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// The relay's own key and the configured admins may do everything.
    Admins,
    /// The `n`th `[[acl]]`, from 1.
    Config { n: usize },
    /// The `n`th rule, from 1, of a kind-10200 event.
    Event { id: EventId, author: NodeId, n: usize },
    /// `default` is open as long as there is no rule at all.
    Fresh,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admins => f.write_str("the relay's admins"),
            Self::Config { n } => write!(f, "[[acl]] number {n} of the configuration"),
            Self::Event { id, author, n } => write!(f, "rule {n} of event {id} by {author}"),
            Self::Fresh => f.write_str("the open 'default' of a relay without rules"),
        }
    }
}

/// A rule in force, its groups resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActiveRule {
    #[serde(flatten)]
    pub rule: Rule,
    pub source: Source,
    /// Every key that `who` names, directly or through a group.
    #[serde(skip)]
    pub(super) keys: Vec<NodeId>,
}

impl ActiveRule {
    /// `local` groups go before `shared` ones.
    pub(super) fn new(rule: Rule, source: Source, local: &Groups, shared: &Groups) -> Self {
        let mut keys = Vec::new();
        for who in &rule.who {
            match who {
                Who::Key(key) => keys.push(*key),
                Who::Anyone => {}
                Who::Group(name) => {
                    keys.extend(local.get(name).or_else(|| shared.get(name)).into_iter().flatten());
                }
            }
        }
        Self { rule, source, keys }
    }

    pub(super) fn names_anyone(&self) -> bool {
        self.rule.who.contains(&Who::Anyone)
    }
}
