//! Where policy, rates and quotas meet the domains that ask for them.

use std::sync::Arc;

use relay_core::{
    audit::Audit,
    events::Gate,
    fanout::ReadScope,
    policy::{Op, Policy, Principal, quota::Quotas},
};
use relay_proto::{Event, Namespace, Problem};

/// Who may publish.
#[derive(Debug)]
pub(crate) struct PolicyGate {
    pub policy: Arc<Policy>,
    pub quotas: Arc<Quotas>,
    pub audit: Arc<Audit>,
}

impl Gate for PolicyGate {
    fn admit(&self, event: &Event, now_ns: u64) -> Result<(), Problem> {
        self.check(event, now_ns).inspect_err(|problem| {
            let author = event.pubkey().to_string();
            self.audit.refused(&author, "event.write", event.namespace().as_str(), problem);
        })
    }

    fn give_back(&self, event: &Event, now_ns: u64) {
        let bytes = event.json().len() as u64;
        self.quotas.refund(event.namespace().tenant(), event.pubkey(), 1, bytes, now_ns);
    }
}

impl PolicyGate {
    fn check(&self, event: &Event, now_ns: u64) -> Result<(), Problem> {
        let author = event.pubkey();
        let ns = event.namespace();
        self.policy.check(&Principal::Key(author), ns, Op::Write)?;
        self.policy.check_change(event)?;
        self.quotas.charge(ns.tenant(), author, 1, event.json().len() as u64, now_ns)
    }
}

/// What one principal may read, by the policy of the moment.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(crate) policy: Arc<Policy>,
    pub(crate) principal: Principal,
}

impl ReadScope for Reader {
    fn may_read(&self, ns: &Namespace) -> bool {
        self.policy.allows(&self.principal, ns, Op::Read)
    }
}

/// The node itself.
#[derive(Debug)]
pub(crate) struct Everything;

impl ReadScope for Everything {
    fn may_read(&self, _: &Namespace) -> bool {
        true
    }
}
