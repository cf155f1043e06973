//! Who may do what in which namespace (`events.md`, Namespaces, tenants, policy; Key rotation).
//!
//! The rules in force are those of the configuration and those of kind-10200 events signed by an
//! admin of the namespaces they speak of; an explicit deny wins. Whoever took over a key by a
//! kind-10100 event has what that key had. All of it is compiled into one [`Snapshot`] that
//! questions read without a lock; each change builds the next one.
//!
//! Decisions on what the specification leaves open:
//! - Policy events count only where the *configuration* makes their author (or the key that
//!   their author took over from) an admin; rights that come from events sign no events. So the
//!   operator always sees in one file who can change the rules.
//! - A key that was rotated away keeps `read`. It loses `write`, `lock` and `admin`.
//! - In a namespace with `rotation = "approval"` a rotation counts once somebody approved it
//!   whom the configuration names as an admin of that namespace.
//! - Policy and rotation events must not expire: rules do not lapse unseen.

pub mod pattern;
pub mod quota;
pub mod rule;

mod compiled;
mod rotation;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use relay_proto::{
    Code, Event, EventId, Namespace, NodeId, Problem,
    event::{Rotation, reserved, rotation_of},
};
use serde::Serialize;

use self::{
    compiled::Compiled,
    rotation::{Links, Succession},
};
pub use self::{
    pattern::{Pattern, PatternError},
    rotation::LinkError,
    rule::{ActiveRule, Groups, Op, Ops, PolicyDocument, Rule, Source, Who},
};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Nobody proved a key.
    Anonymous,
    Key(NodeId),
    /// The local socket or a bearer of an admin token: may do everything; what it does is audited.
    Operator,
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Key(key) => write!(f, "{key}"),
            Self::Operator => f.write_str("operator"),
        }
    }
}

/// When the key that another one names takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RotationMode {
    /// At once.
    #[default]
    Auto,
    /// When an admin has approved it.
    Approval,
}

/// What the configuration says.
#[derive(Debug, Clone, Default)]
pub struct AclConfig {
    /// Keys that may do everything everywhere: the relay's own, and those of its operators.
    pub admins: Vec<NodeId>,
    pub rules: Vec<Rule>,
    pub groups: Groups,
    /// Where rotations wait for approval. Of several patterns the most specific one holds;
    /// where none matches, rotations count at once.
    pub rotation: Vec<(Pattern, RotationMode)>,
}

/// The rules in force, and the answers made from them.
#[derive(Debug)]
pub struct Policy {
    /// What the snapshot is made from. Held only while a change is worked in.
    facts: Mutex<Facts>,
    snapshot: ArcSwap<Snapshot>,
}

#[derive(Debug, Default)]
struct Facts {
    config: AclConfig,
    /// The latest policy event of each (author, d).
    documents: BTreeMap<(NodeId, String), Signed>,
    links: Links,
}

#[derive(Debug)]
struct Signed {
    version: (u64, EventId),
    document: PolicyDocument,
}

/// All rules, and the same compiled for each manner in which rotations count.
#[derive(Debug)]
struct Snapshot {
    rules: Vec<ActiveRule>,
    auto: Compiled,
    /// Most specific pattern first; `None` where rotations count at once.
    modes: Vec<(Pattern, Option<Compiled>)>,
}

/// Why something is or is not allowed: what `acl test` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub allowed: bool,
    /// One sentence.
    pub reason: String,
    /// The rule that decided, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<ActiveRule>,
}

impl Policy {
    pub fn new(config: AclConfig) -> Self {
        let facts = Facts { config, ..Facts::default() };
        let snapshot = ArcSwap::from_pointee(facts.compile());
        Self { facts: Mutex::new(facts), snapshot }
    }

    /// Takes over a changed configuration.
    pub fn reconfigure(&self, config: AclConfig) {
        let mut facts = self.lock();
        facts.config = config;
        self.publish(&facts);
    }

    /// What `who` may do in `ns`.
    pub fn rights(&self, who: &Principal, ns: &Namespace) -> Ops {
        self.snapshot.load().compiled(ns).rights(who, ns)
    }

    pub fn allows(&self, who: &Principal, ns: &Namespace, op: Op) -> bool {
        self.rights(who, ns).contains(op)
    }

    /// # Errors
    /// `forbidden`, naming the operation and the namespace.
    pub fn check(&self, who: &Principal, ns: &Namespace, op: Op) -> Result<(), Problem> {
        if self.allows(who, ns, op) {
            return Ok(());
        }
        let retired = matches!(who, Principal::Key(key) if self.is_retired(key, ns));
        Err(Problem::forbidden(if retired && op != Op::Read {
            format!("the key was rotated away and may no longer {} in '{ns}'", op.as_str())
        } else {
            format!("no rule allows this key to {} in '{ns}'", op.as_str())
        }))
    }

    /// Whether `key` was rotated away, as far as `ns` is concerned.
    pub fn is_retired(&self, key: &NodeId, ns: &Namespace) -> bool {
        self.snapshot.load().compiled(ns).succession.is_retired(key)
    }

    /// Whether the configuration makes `who` an admin of everything in `pattern`.
    pub fn administers(&self, who: &Principal, pattern: &Pattern) -> bool {
        match who {
            Principal::Operator => true,
            Principal::Anonymous => false,
            Principal::Key(key) => {
                let facts = self.lock();
                let auto = facts.links.succession(|_| true);
                !auto.is_retired(key) && facts.may_rule(*key, pattern, &auto, &facts.modes())
            }
        }
    }

    /// Names the rule that decides.
    pub fn explain(&self, who: &Principal, ns: &Namespace, op: Op) -> Explanation {
        self.snapshot.load().explain(who, ns, op)
    }

    /// Every rule in force.
    pub fn rules(&self) -> Vec<ActiveRule> {
        self.snapshot.load().rules.clone()
    }

    /// Says before it is stored whether an event that would change the policy may do so; events
    /// of other kinds pass. Asked after [`Policy::check`] for writing.
    ///
    /// # Errors
    /// `invalid_request` for malformed ones and rotations in a circle, `forbidden` where the
    /// author is no admin.
    pub fn check_change(&self, event: &Event) -> Result<(), Problem> {
        let Some(change) = Change::of(event)? else { return Ok(()) };
        if event.expires_at_s().is_some() {
            return Err(Problem::invalid("policy and rotation events must not expire"));
        }
        let facts = self.lock();
        match change {
            Change::Rotation(Rotation { old, new }) => Ok(facts.links.check(&old, &new)?),
            Change::Approval(rotation) => {
                if !facts.links.knows(&rotation) {
                    return Err(LinkError::UnknownRotation.into());
                }
                // Whose approval counts where is found when the rules are compiled; here it
                // only has to count somewhere.
                let approves = facts.is_named_admin_somewhere(&event.pubkey());
                approves.then_some(()).ok_or_else(|| Problem::forbidden("not an admin"))
            }
            Change::Rules(document) => facts.check_document(&event.pubkey(), &document),
        }
    }

    /// Works in stored events; those of other kinds change nothing. Called in the order of `seq`
    /// with every stored event of [`CHANGING_KINDS`]: at the start, and with each commit.
    pub fn apply<'e>(&self, events: impl IntoIterator<Item = &'e Event>) {
        let mut events =
            events.into_iter().filter(|event| CHANGING_KINDS.contains(&event.kind())).peekable();
        if events.peek().is_none() {
            return;
        }
        let mut facts = self.lock();
        let mut changed = false;
        for event in events {
            changed |= facts.apply(event);
        }
        if changed {
            self.publish(&facts);
        }
    }

    fn publish(&self, facts: &Facts) {
        self.snapshot.store(Arc::new(facts.compile()));
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        // Facts are replaced whole, so a panic elsewhere leaves them as they were.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kinds of events that change the policy.
pub const CHANGING_KINDS: [u16; 3] =
    [reserved::KEY_ROTATION, reserved::ROTATION_APPROVAL, reserved::ACL_POLICY];

enum Change {
    Rotation(Rotation),
    Approval(EventId),
    Rules(PolicyDocument),
}

impl Change {
    fn of(event: &Event) -> Result<Option<Self>, Problem> {
        match event.kind() {
            reserved::KEY_ROTATION => Ok(rotation_of(event)?.map(Self::Rotation)),
            reserved::ROTATION_APPROVAL => {
                let mut named = event.tags().values("e");
                match (named.next().map(str::parse), named.next()) {
                    (Some(Ok(rotation)), None) => Ok(Some(Self::Approval(rotation))),
                    _ => Err(Problem::invalid("an approval has exactly one e tag, the rotation")),
                }
            }
            reserved::ACL_POLICY => serde_json::from_str(&event.content())
                .map(|document| Some(Self::Rules(document)))
                .map_err(|error| Problem::invalid(format!("not a policy: {error}"))),
            _ => Ok(None),
        }
    }
}

impl From<LinkError> for Problem {
    fn from(error: LinkError) -> Self {
        let code = match error {
            LinkError::TooMany => Code::QuotaExceeded,
            LinkError::Again | LinkError::Cycle | LinkError::UnknownRotation => {
                Code::InvalidRequest
            }
        };
        Self::new(code, error.to_string())
    }
}

impl Facts {
    fn compile(&self) -> Snapshot {
        let auto = self.links.succession(|_| true);
        let modes = self.modes();
        let mut rules = self.configured_rules();
        rules.extend(self.signed_rules(&auto, &modes));
        if rules.iter().all(|rule| rule.source == Source::Admins) {
            rules.push(fresh_default());
        }
        let modes = modes
            .into_iter()
            .map(|(pattern, succession)| {
                (pattern, succession.map(|succession| Compiled::new(&rules, succession)))
            })
            .collect();
        Snapshot { auto: Compiled::new(&rules, auto), modes, rules }
    }

    /// For each pattern of the configuration the rotations that count there, if not all do.
    fn modes(&self) -> Vec<(Pattern, Option<Succession>)> {
        let mut modes: Vec<_> = self
            .config
            .rotation
            .iter()
            .map(|(pattern, mode)| {
                let approved = (*mode == RotationMode::Approval).then(|| {
                    self.links.succession(|link| {
                        let admin = |key: &NodeId| self.is_named_admin(key, pattern);
                        link.approved_by.iter().any(admin)
                    })
                });
                (pattern.clone(), approved)
            })
            .collect();
        modes.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.specificity()));
        modes
    }

    fn configured_rules(&self) -> Vec<ActiveRule> {
        let config = &self.config;
        let none = Groups::new();
        let admins = Rule {
            ns: Pattern::All,
            who: config.admins.iter().copied().map(Who::Key).collect(),
            allow: Ops::ALL,
            deny: Ops::NONE,
        };
        let admins = ActiveRule::new(admins, Source::Admins, &none, &none);
        let rules = config.rules.iter().zip(1..).map(|(rule, n)| {
            ActiveRule::new(rule.clone(), Source::Config { n }, &none, &config.groups)
        });
        std::iter::once(admins).chain(rules).collect()
    }

    /// The rules of policy events whose author is an admin of all that they speak of.
    fn signed_rules(
        &self,
        auto: &Succession,
        modes: &[(Pattern, Option<Succession>)],
    ) -> Vec<ActiveRule> {
        // Whoever took over a key replaces its documents too.
        let mut latest: BTreeMap<(NodeId, &str), (NodeId, &Signed)> = BTreeMap::new();
        for ((author, d), signed) in &self.documents {
            let slot = latest.entry((auto.heir(*author), d)).or_insert((*author, signed));
            if signed.version > slot.1.version {
                *slot = (*author, signed);
            }
        }
        let mut rules = Vec::new();
        for (author, signed) in latest.into_values() {
            let Signed { version: (_, id), document } = signed;
            for (rule, n) in document.rules.iter().zip(1..) {
                if self.may_rule(author, &rule.ns, auto, modes) {
                    let source = Source::Event { id: *id, author, n };
                    rules.push(ActiveRule::new(
                        rule.clone(),
                        source,
                        &document.groups,
                        &self.config.groups,
                    ));
                }
            }
        }
        rules
    }

    /// Whether `author`, or who took over from it, is an admin of everything in `pattern`,
    /// whichever rotations count there.
    fn may_rule(
        &self,
        author: NodeId,
        pattern: &Pattern,
        auto: &Succession,
        modes: &[(Pattern, Option<Succession>)],
    ) -> bool {
        let under = |succession: &Succession| {
            let lineage = succession.lineage(succession.heir(author));
            self.is_admin(|key| lineage.contains(key), pattern)
        };
        let waiting = modes
            .iter()
            .filter(|(mode, _)| mode.overlaps(pattern))
            .filter_map(|(_, succession)| succession.as_ref());
        under(auto) && waiting.into_iter().all(under)
    }

    /// Whether the configuration names this very key as an admin of all of `pattern`.
    fn is_named_admin(&self, key: &NodeId, pattern: &Pattern) -> bool {
        self.is_admin(|named| named == key, pattern)
    }

    fn is_named_admin_somewhere(&self, key: &NodeId) -> bool {
        self.configured_rules()
            .iter()
            .any(|rule| rule.rule.allow.contains(Op::Admin) && rule.keys.contains(key))
    }

    fn is_admin(&self, is: impl Fn(&NodeId) -> bool, pattern: &Pattern) -> bool {
        let rules = self.configured_rules();
        let allowed = rules.iter().any(|rule| {
            rule.rule.allow.contains(Op::Admin)
                && rule.rule.ns.covers(pattern)
                && rule.keys.iter().any(&is)
        });
        let denied = rules.iter().any(|rule| {
            rule.rule.deny.contains(Op::Admin)
                && rule.rule.ns.overlaps(pattern)
                && (rule.names_anyone() || rule.keys.iter().any(&is))
        });
        allowed && !denied
    }

    fn check_document(&self, author: &NodeId, document: &PolicyDocument) -> Result<(), Problem> {
        let auto = self.links.succession(|_| true);
        let modes = self.modes();
        for rule in &document.rules {
            if !self.may_rule(*author, &rule.ns, &auto, &modes) {
                let text = format!("the configuration makes this key no admin of '{}'", rule.ns);
                return Err(Problem::forbidden(text));
            }
            for who in &rule.who {
                if let Who::Group(name) = who
                    && !document.groups.contains_key(name)
                    && !self.config.groups.contains_key(name)
                {
                    return Err(Problem::invalid(format!("there is no group '@{name}'")));
                }
            }
        }
        Ok(())
    }

    /// Whether the event changed anything. What is stored was checked; what should not have been
    /// has no effect.
    fn apply(&mut self, event: &Event) -> bool {
        match Change::of(event) {
            Ok(Some(Change::Rotation(Rotation { old, new }))) => {
                self.links.add(event.id(), old, new).is_ok()
            }
            Ok(Some(Change::Approval(rotation))) => {
                self.links.approve(&rotation, event.pubkey()).is_ok()
            }
            Ok(Some(Change::Rules(document))) => self.replace_document(event, document),
            Ok(None) | Err(_) => false,
        }
    }

    fn replace_document(&mut self, event: &Event, document: PolicyDocument) -> bool {
        let key = (event.pubkey(), event.d().to_owned());
        let version = event.version();
        if self.documents.get(&key).is_some_and(|old| old.version >= version) {
            return false;
        }
        self.documents.insert(key, Signed { version, document });
        true
    }
}

fn fresh_default() -> ActiveRule {
    let rule = Rule {
        ns: Pattern::Exact(Namespace::default()),
        who: vec![Who::Anyone],
        allow: [Op::Read, Op::Write, Op::Lock].into_iter().collect(),
        deny: Ops::NONE,
    };
    ActiveRule::new(rule, Source::Fresh, &Groups::new(), &Groups::new())
}

impl Snapshot {
    fn compiled(&self, ns: &Namespace) -> &Compiled {
        let mode = self.modes.iter().find(|(pattern, _)| pattern.matches(ns));
        mode.and_then(|(_, compiled)| compiled.as_ref()).unwrap_or(&self.auto)
    }

    fn explain(&self, who: &Principal, ns: &Namespace, op: Op) -> Explanation {
        let succession = &self.compiled(ns).succession;
        let key = match who {
            Principal::Operator => {
                let reason = "the operator may do everything".to_owned();
                return Explanation { allowed: true, reason, rule: None };
            }
            Principal::Anonymous => None,
            Principal::Key(key) => Some(*key),
        };
        if let Some(key) = key.filter(|key| succession.is_retired(key) && op != Op::Read) {
            let reason = format!("the key was rotated away, to {}", succession.heir(key));
            return Explanation { allowed: false, reason, rule: None };
        }
        let lineage = key.map(|key| succession.lineage(key)).unwrap_or_default();
        let speaks = |rule: &&ActiveRule| {
            rule.rule.ns.matches(ns)
                && (rule.names_anyone() || rule.keys.iter().any(|key| lineage.contains(key)))
        };
        let find = |ops: fn(&ActiveRule) -> Ops| {
            self.rules.iter().filter(speaks).find(|rule| ops(rule).contains(op)).cloned()
        };
        let (allowed, word, rule) = match find(|rule| rule.rule.deny) {
            Some(rule) => (false, "denied", Some(rule)),
            None => match find(|rule| rule.rule.allow) {
                Some(rule) => (true, "allowed", Some(rule)),
                None => (false, "denied", None),
            },
        };
        let reason = match &rule {
            Some(rule) => format!("{word} by {}", rule.source),
            None => format!("no rule allows to {} in '{ns}'", op.as_str()),
        };
        Explanation { allowed, reason, rule }
    }
}

#[cfg(test)]
mod tests;
