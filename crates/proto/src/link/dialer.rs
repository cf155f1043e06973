//! Which hub to dial next, and when (`federation.md`, Links: Liveness).
//!
//! The first hub is where this relay wants to be. Retries come at once, then with exponential
//! back-off and full jitter. After [`PATIENCE`] failures the fallbacks are tried in order; with a warm standby
//! a link to the best fallback lies ready, and takes over the moment the active one is lost. Where both are
//! dialled at once the first hub has a head start. When the first hub has been back for a while the relay
//! returns to it, by draining the other.

use std::time::Duration;

/// Failures of the first hub before the fallbacks are tried.
pub const PATIENCE: u32 = 3;
/// The first retry comes at a random moment within this.
pub const FIRST_RETRY: Duration = Duration::from_millis(250);
/// The back-off doubles from here …
pub const LEAST_BACKOFF: Duration = Duration::from_millis(500);
/// … up to here.
pub const MOST_BACKOFF: Duration = Duration::from_secs(60);
/// A fallback that answers sooner than the first hub waits this long for it, counted from its dial: a relay that
/// settles on a fallback stays there for [`Plan::stable`].
pub const HEAD_START: Duration = Duration::from_secs(1);

/// How a relay wants to be linked.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The first hub and its fallbacks; at least one.
    pub hubs: usize,
    /// Whether a link to a fallback lies ready while all is well.
    pub standby: bool,
    /// How long the first hub must be back before this relay returns to it.
    pub stable: Duration,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Connect to this hub. `standby` says that it is not to be used yet.
    Dial { hub: usize, standby: bool },
    /// Use the link to this hub.
    Promote(usize),
    /// Leave this hub, letting finish what is under way.
    Drain(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Idle {
        not_before: Duration,
    },
    Dialing {
        since: Duration,
    },
    Linked {
        since: Duration,
    },
    /// Being left; another link to it may only come after.
    Draining,
}

#[derive(Debug, Clone, Copy)]
struct Hub {
    slot: Slot,
    /// In a row, since the last time a link held.
    failures: u32,
}

/// The state of one relay's way into the federation.
#[derive(Debug)]
pub struct Dialer {
    plan: Plan,
    hubs: Vec<Hub>,
    active: Option<usize>,
}

impl Dialer {
    pub fn new(plan: Plan) -> Self {
        let hub = Hub { slot: Slot::Idle { not_before: Duration::ZERO }, failures: 0 };
        Self { plan, hubs: vec![hub; plan.hubs.max(1)], active: None }
    }

    /// The hub whose link is used.
    pub const fn active(&self) -> Option<usize> {
        self.active
    }

    /// A dial succeeded.
    pub fn linked(&mut self, now: Duration, hub: usize) {
        if let Some(hub) = self.hubs.get_mut(hub) {
            hub.slot = Slot::Linked { since: now };
        }
    }

    /// A dial failed. `random` is any number.
    pub fn failed(&mut self, now: Duration, hub: usize, random: u64) {
        let Some(hub) = self.hubs.get_mut(hub) else { return };
        hub.failures = hub.failures.saturating_add(1);
        hub.slot = Slot::Idle { not_before: now + backoff(hub.failures, random) };
    }

    /// A link ended, for whatever reason. `after` is what the hub asked for in its `goaway`.
    pub fn lost(&mut self, now: Duration, hub: usize, after: Option<Duration>, random: u64) {
        if self.active == Some(hub) {
            self.active = None;
        }
        let Some(hub) = self.hubs.get_mut(hub) else { return };
        let held = match hub.slot {
            Slot::Linked { since } => now.saturating_sub(since) >= LEAST_BACKOFF,
            _ => true,
        };
        // A link that breaks as soon as it is up is a failure, or it would be dialled in a tight loop.
        hub.failures = if held { 0 } else { hub.failures.saturating_add(1) };
        let wait = match after {
            Some(after) => within(after.min(MOST_BACKOFF), random),
            None if held => within(FIRST_RETRY, random),
            None => backoff(hub.failures, random),
        };
        hub.slot = Slot::Idle { not_before: now + wait };
    }

    /// The hub asked to move: it is left as soon as there is another.
    pub fn told_to_move(&mut self, hub: usize) {
        if self.active == Some(hub) {
            self.active = None;
        }
        if let Some(hub) =
            self.hubs.get_mut(hub).filter(|hub| matches!(hub.slot, Slot::Linked { .. }))
        {
            hub.slot = Slot::Draining;
        }
    }

    /// The first hub again, at once: an operator's wish, or a network that came back.
    pub fn hurry(&mut self, now: Duration) {
        for hub in &mut self.hubs {
            if let Slot::Idle { not_before } = &mut hub.slot {
                *not_before = now;
            }
        }
    }

    /// What is to be done now.
    pub fn act(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        self.choose(now, &mut actions);
        self.leave(&mut actions);
        for hub in 0..self.hubs.len() {
            if self.wants(hub) && self.hubs[hub].slot_is_due(now) {
                self.hubs[hub].slot = Slot::Dialing { since: now };
                actions.push(Action::Dial { hub, standby: self.active.is_some() });
            }
        }
        actions
    }

    /// When to ask again, if nothing happens before.
    pub fn wake_at(&self) -> Option<Duration> {
        let dials =
            (0..self.hubs.len()).filter(|hub| self.wants(*hub)).filter_map(|hub| {
                match self.hubs[hub].slot {
                    Slot::Idle { not_before } => Some(not_before),
                    _ => None,
                }
            });
        let stable = match (self.active, self.hubs[0].slot) {
            (Some(active), Slot::Linked { since }) if active != 0 => Some(since + self.plan.stable),
            _ => None,
        };
        // Only a fallback that is there already waits for its time.
        let waits = self.active.is_none()
            && self.hubs.iter().any(|hub| matches!(hub.slot, Slot::Linked { .. }));
        let favoured = self.favoured_until().filter(|_| waits);
        dials.chain(stable).chain(favoured).min()
    }

    /// Until when fallbacks wait for the first hub, while it is dialled and has not failed.
    fn favoured_until(&self) -> Option<Duration> {
        match self.hubs[0] {
            Hub { slot: Slot::Dialing { since }, failures: 0 } => Some(since + HEAD_START),
            _ => None,
        }
    }

    /// Chooses the link to use.
    fn choose(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let best = self.hubs.iter().position(|hub| matches!(hub.slot, Slot::Linked { .. }));
        let is_favoured = self.favoured_until().is_some_and(|until| now < until);
        match (self.active, best) {
            (None, Some(best)) if best == 0 || !is_favoured => {
                self.active = Some(best);
                actions.push(Action::Promote(best));
            }
            // Only the first hub is worth a move, and only when it stays.
            (Some(active), Some(0)) if active != 0 => {
                let Slot::Linked { since } = self.hubs[0].slot else { return };
                if now >= since + self.plan.stable {
                    self.active = Some(0);
                    actions.push(Action::Promote(0));
                    self.drain(active, actions);
                }
            }
            _ => {}
        }
    }

    /// Leaves links that are neither used nor of use.
    fn leave(&mut self, actions: &mut Vec<Action>) {
        if self.active.is_none() {
            return;
        }
        let keep = self.standby_candidate();
        for hub in 1..self.hubs.len() {
            let linked = matches!(self.hubs[hub].slot, Slot::Linked { .. });
            if linked && self.active != Some(hub) && keep != Some(hub) {
                self.drain(hub, actions);
            }
        }
    }

    fn drain(&mut self, hub: usize, actions: &mut Vec<Action>) {
        self.hubs[hub].slot = Slot::Draining;
        actions.push(Action::Drain(hub));
    }

    /// The fallback that is, or should be, linked beside the active first hub.
    fn standby_candidate(&self) -> Option<usize> {
        if !self.plan.standby {
            return None;
        }
        let fallbacks = 1..self.hubs.len();
        let mut linked = fallbacks.clone();
        linked
            .find(|hub| {
                matches!(self.hubs[*hub].slot, Slot::Linked { .. } | Slot::Dialing { .. })
                    && self.active != Some(*hub)
            })
            .or_else(|| fallbacks.min_by_key(|hub| (self.hubs[*hub].failures, *hub)))
    }

    /// Whether a link to this hub is wanted.
    fn wants(&self, hub: usize) -> bool {
        match self.active {
            _ if hub == 0 => true,
            Some(0) => self.standby_candidate() == Some(hub),
            // On a fallback: the way back to the first hub is what counts.
            Some(_) => false,
            None => {
                self.hubs[0].failures >= PATIENCE
                    || self.hubs[0].slot == Slot::Draining
                    || self.plan.standby
            }
        }
    }
}

impl Hub {
    fn slot_is_due(&self, now: Duration) -> bool {
        matches!(self.slot, Slot::Idle { not_before } if now >= not_before)
    }
}

/// Full jitter: anything up to the back-off of this many failures.
fn backoff(failures: u32, random: u64) -> Duration {
    let doubled = LEAST_BACKOFF.saturating_mul(1 << failures.min(16));
    within(doubled.min(MOST_BACKOFF), random)
}

fn within(most: Duration, random: u64) -> Duration {
    let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(random % most.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn dialer(hubs: usize, standby: bool) -> Dialer {
        Dialer::new(Plan { hubs, standby, stable: s(60) })
    }

    const fn dial(hub: usize, standby: bool) -> Action {
        Action::Dial { hub, standby }
    }

    /// Runs until the dialer wants nothing more before `until`, failing every dial.
    fn fail_all(dialer: &mut Dialer, until: Duration) -> Vec<(Duration, usize)> {
        let mut dials = Vec::new();
        while let Some(now) = dialer.wake_at().filter(|at| *at < until) {
            for action in dialer.act(now) {
                let Action::Dial { hub, .. } = action else { panic!("{action:?}") };
                dials.push((now, hub));
                dialer.failed(now, hub, u64::MAX);
            }
        }
        dials
    }

    #[test]
    fn a_hub_that_is_up_is_linked_and_kept() {
        let mut dialer = dialer(1, false);
        assert_eq!(dialer.act(s(0)), [dial(0, false)]);
        assert_eq!(dialer.act(s(0)), []);
        dialer.linked(s(1), 0);
        assert_eq!(dialer.act(s(1)), [Action::Promote(0)]);
        assert_eq!((dialer.active(), dialer.wake_at()), (Some(0), None));
    }

    #[test]
    fn back_off_grows_to_its_cap_and_jitters_from_zero() {
        for failures in 0..40 {
            assert_eq!(backoff(failures, 0), Duration::ZERO);
            for random in [1, u64::MAX, u64::MAX / 3, 12_345_678_901] {
                let most = LEAST_BACKOFF * 2_u32.pow(failures.min(10));
                assert!(backoff(failures, random) <= most.min(MOST_BACKOFF));
            }
        }
        let mut dialer = dialer(1, false);
        let dials = fail_all(&mut dialer, s(3_600)).len();
        assert!((60..400).contains(&dials), "{dials} dials in an hour");
    }

    #[test]
    fn the_first_retry_after_a_loss_is_at_once() {
        let mut dialer = dialer(1, false);
        dialer.act(s(0));
        dialer.linked(s(0), 0);
        dialer.act(s(0));
        dialer.lost(s(100), 0, None, u64::MAX - 7);
        let at = dialer.wake_at().unwrap();
        assert!(at >= s(100) && at <= s(100) + FIRST_RETRY);
        assert_eq!(dialer.act(at), [dial(0, false)]);
        // A link that breaks at once is a failure.
        dialer.linked(at, 0);
        dialer.lost(at, 0, None, u64::MAX / 2);
        assert_eq!(dialer.hubs[0].failures, 1);
    }

    #[test]
    fn fallbacks_come_after_three_failures() {
        let mut dialer = dialer(3, false);
        let dials = fail_all(&mut dialer, s(30));
        let first: Vec<usize> = dials.iter().map(|(_, hub)| *hub).take(5).collect();
        assert_eq!(first, [0, 0, 0, 1, 2]);
    }

    #[test]
    fn the_relay_returns_to_a_first_hub_that_stays() {
        let mut dialer = dialer(2, false);
        fail_all(&mut dialer, s(3));
        dialer.hurry(s(3));
        assert_eq!(dialer.act(s(3)), [dial(0, false), dial(1, false)]);
        dialer.failed(s(3), 0, 0);
        dialer.linked(s(3), 1);
        // The fallback is used, the first hub is dialled again.
        assert_eq!(dialer.act(s(3)), [Action::Promote(1), dial(0, true)]);
        dialer.linked(s(10), 0);
        assert_eq!(dialer.act(s(10)), []);
        assert_eq!(dialer.wake_at(), Some(s(70)));
        // It did not stay.
        dialer.lost(s(20), 0, None, 0);
        assert_eq!(dialer.act(s(20)), [dial(0, true)]);
        dialer.linked(s(20), 0);
        assert_eq!(dialer.act(s(80)), [Action::Promote(0), Action::Drain(1)]);
        dialer.lost(s(81), 1, None, 0);
        assert_eq!((dialer.act(s(81)), dialer.wake_at()), (vec![], None));
    }

    #[test]
    fn a_standby_takes_over_at_once() {
        let mut dialer = dialer(3, true);
        let first = dialer.act(s(0));
        assert_eq!(first, [dial(0, false), dial(1, false), dial(2, false)]);
        dialer.linked(s(1), 0);
        assert_eq!(dialer.act(s(1)), [Action::Promote(0)]);
        dialer.linked(s(1), 1);
        dialer.linked(s(1), 2);
        // One standby is enough.
        assert_eq!(dialer.act(s(1)), [Action::Drain(2)]);
        dialer.lost(s(2), 2, None, 0);
        assert_eq!(dialer.act(s(2)), []);
        dialer.lost(s(100), 0, None, 7);
        assert_eq!(dialer.act(s(100))[0], Action::Promote(1));
        assert_eq!(dialer.active(), Some(1));
        // And is itself replaced when it goes.
        dialer.lost(s(200), 1, None, 0);
        assert!(dialer.act(s(201)).contains(&dial(1, false)));
    }

    #[test]
    fn the_first_hub_has_a_head_start() {
        let ms = Duration::from_millis;
        let mut slow = dialer(2, true);
        slow.act(s(0));
        slow.linked(ms(5), 1);
        assert_eq!((slow.act(ms(5)), slow.wake_at()), (vec![], Some(HEAD_START)));
        slow.linked(ms(300), 0);
        assert_eq!(slow.act(ms(300)), [Action::Promote(0)]);
        // Its time is up.
        let mut hangs = dialer(2, true);
        hangs.act(s(0));
        hangs.linked(ms(5), 1);
        assert_eq!(hangs.act(HEAD_START), [Action::Promote(1)]);
        // It failed.
        let mut down = dialer(2, true);
        down.act(s(0));
        down.linked(ms(5), 1);
        down.failed(ms(6), 0, 999_999);
        assert_eq!(down.act(ms(6)), [Action::Promote(1)]);
    }

    #[test]
    fn a_hub_that_asks_to_move_is_left_for_another() {
        let mut dialer = dialer(2, false);
        dialer.act(s(0));
        dialer.linked(s(0), 0);
        dialer.act(s(0));
        dialer.told_to_move(0);
        assert_eq!(dialer.act(s(10)), [dial(1, false)]);
        dialer.linked(s(10), 1);
        assert_eq!(dialer.act(s(10)), [Action::Promote(1)]);
        // The hub's own wish spreads the return.
        dialer.lost(s(11), 0, Some(s(20)), 15_000_000);
        assert_eq!(dialer.wake_at(), Some(s(26)));
    }
}
