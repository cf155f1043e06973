//! Rules made quick to ask: one tree of namespace segments, at each step the grants by key.
//!
//! A question walks at most eight segments and looks a key up at each; it takes no lock, and its
//! cost does not grow with the number of rules.

use std::borrow::Borrow;

use ahash::AHashMap;
use relay_proto::{Namespace, NodeId};

use super::{
    Principal,
    pattern::Pattern,
    rotation::Succession,
    rule::{ActiveRule, Op, Ops},
};

/// What a key that was rotated away may still do.
pub(super) const RETIRED: Ops = Ops::of(Op::Read);

/// The rules under one set of rotations.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    root: Node,
    pub succession: Succession,
}

#[derive(Debug, Default)]
struct Node {
    children: AHashMap<Box<str>, Node>,
    /// For this namespace only.
    here: Grants,
    /// For the namespaces one segment below.
    below: Grants,
    /// For this namespace and everything below.
    tree: Grants,
}

#[derive(Debug, Default)]
struct Grants {
    anyone: Grant,
    keys: AHashMap<NodeId, Grant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Grant {
    allow: Ops,
    deny: Ops,
}

impl Grant {
    fn add(&mut self, other: Self) {
        self.allow = self.allow | other.allow;
        self.deny = self.deny | other.deny;
    }
}

impl Grants {
    fn add_to(&self, sum: &mut Grant, key: Option<&NodeId>) {
        sum.add(self.anyone);
        if let Some(grant) = key.and_then(|key| self.keys.get(key)) {
            sum.add(*grant);
        }
    }
}

impl Compiled {
    pub fn new<R: Borrow<ActiveRule>>(rules: &[R], succession: Succession) -> Self {
        let mut root = Node::default();
        for rule in rules.iter().map(Borrow::borrow) {
            let grant = Grant { allow: rule.rule.allow, deny: rule.rule.deny };
            let grants = root.grants_of(&rule.rule.ns);
            if rule.names_anyone() {
                grants.anyone.add(grant);
            }
            for key in rule.keys.iter().flat_map(|key| succession.onward(*key)) {
                grants.keys.entry(key).or_default().add(grant);
            }
        }
        Self { root, succession }
    }

    pub fn rights(&self, who: &Principal, ns: &Namespace) -> Ops {
        let key = match who {
            Principal::Operator => return Ops::ALL,
            Principal::Anonymous => None,
            Principal::Key(key) => Some(key),
        };
        let sum = self.root.sum(key, ns);
        let granted = sum.allow.without(sum.deny);
        match key {
            Some(key) if self.succession.is_retired(key) => granted.and(RETIRED),
            _ => granted,
        }
    }
}

impl Node {
    fn grants_of(&mut self, pattern: &Pattern) -> &mut Grants {
        match pattern {
            Pattern::All => &mut self.tree,
            Pattern::Exact(name) => &mut self.descend(name).here,
            Pattern::Below(name) => &mut self.descend(name).below,
            Pattern::Tree(name) => &mut self.descend(name).tree,
        }
    }

    fn descend(&mut self, name: &Namespace) -> &mut Self {
        name.as_str()
            .split('/')
            .fold(self, |node, segment| node.children.entry(segment.into()).or_default())
    }

    fn sum(&self, key: Option<&NodeId>, ns: &Namespace) -> Grant {
        let mut sum = Grant::default();
        let mut node = self;
        let mut segments = ns.as_str().split('/').peekable();
        node.tree.add_to(&mut sum, key);
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            if last {
                node.below.add_to(&mut sum, key);
            }
            let Some(child) = node.children.get(segment) else { return sum };
            child.tree.add_to(&mut sum, key);
            if last {
                child.here.add_to(&mut sum, key);
            }
            node = child;
        }
        sum
    }
}
