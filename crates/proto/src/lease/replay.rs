//! From the store and back: what survives a restart.

use super::{
    LeaseLimits, LeaseRow, LeaseState, LeaseTable, Now, Tenure,
    recall::RequestKey,
    slot::{Hold, Lease, Slot},
    transition::ns_of,
};

/// The state of a table as a store keeps it, to replay only later rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// No token up to this one is given again. Kept apart from the states, since a resource
    /// unused for long is forgotten.
    pub last_token: u64,
    pub states: Vec<LeaseState>,
}

/// The counters of tokens are used up (after 8192 restores).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no fencing tokens are left on this relay")]
pub struct TokenOverflow;

/// Bits of the counter in a token. The epoch stands above in 13 bits, so that a token is exact
/// in every JSON reader.
const COUNTER_BITS: u32 = 40;
const TOKEN_END: u64 = 1 << 53;

impl LeaseTable {
    /// The table of a store: the states of a snapshot and the rows after it.
    ///
    /// Each held lease counts as held for its full length from `now`, since nobody watched
    /// the clock while the relay was down. Takes the rows in the order of their commit.
    pub fn restore(
        limits: LeaseLimits,
        now: Now,
        snapshot: Snapshot,
        rows: impl IntoIterator<Item = LeaseRow>,
    ) -> Self {
        let max_requests = limits.max_requests;
        let max_idle = limits.max_idle;
        let mut table = Self::new(limits);
        table.last_token = snapshot.last_token;
        table.clock = now.mono_ns;
        let mut ids = Vec::new();
        let states = snapshot.states.into_iter().chain(rows.into_iter().map(|row| row.state()));
        for LeaseState { ns, resource, tenure, ended } in states {
            table.last_token = table.last_token.max(tenure.token);
            let id = table.slots.find_or_insert(&ns, &resource);
            let request = tenure
                .request_id
                .as_ref()
                .map(|request_id| RequestKey::new(&ns, &resource, &tenure.owner, request_id));
            if let (Some(key), Some(_)) = (request, ended) {
                let Tenure { token, lease_ms, .. } = &tenure;
                table.recall.remember(now.mono_ns, key, *token, *lease_ms, max_requests);
            }
            table.slots[id].lease = match ended {
                Some(how) => Lease::Free { tenure, how },
                None => {
                    let deadline = now.mono_ns.saturating_add(ns_of(tenure.lease_ms));
                    Lease::Held(Hold { tenure, request, deadline, row_at: now.mono_ns })
                }
            };
            ids.push(id);
        }
        table.watch_held(ids);
        table.slots.forget_idle(table.held(), max_idle);
        table
    }

    /// Everything that [`Self::restore`] needs. Waiters are not part of it: they ask again.
    pub fn snapshot(&self) -> Snapshot {
        let state = |slot: &Slot| {
            let ended = match &slot.lease {
                Lease::Free { how, .. } => Some(*how),
                _ => None,
            };
            let tenure = slot.tenure()?.clone();
            let (ns, resource) = (slot.ns.clone(), slot.resource.clone());
            Some(LeaseState { ns, resource, tenure, ended })
        };
        Snapshot {
            last_token: self.last_token(),
            states: self.slots.iter().filter_map(state).collect(),
        }
    }

    /// Starts a new epoch: every later token is greater than any that a lost part of the store
    /// may have given. For a store restored from a backup; the caller makes it durable.
    ///
    /// # Errors
    /// [`TokenOverflow`]; nothing has changed.
    pub fn raise_epoch(&mut self) -> Result<u64, TokenOverflow> {
        let floor = ((self.last_token >> COUNTER_BITS) + 1) << COUNTER_BITS;
        if floor >= TOKEN_END {
            return Err(TokenOverflow);
        }
        self.last_token = floor;
        Ok(floor)
    }
}
