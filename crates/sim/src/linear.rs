//! Whether a history is linearizable: the search of Wing and Gong with the memory of Lowe.
//!
//! Operations on different resources do not bear on each other, so each resource is judged
//! alone. Within one, the search puts operations one after another, each between its call and
//! its return, each allowed by the model; a set of operations that led to a state once need not
//! be tried again.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use crate::{
    history::{Entry, History, Restart},
    model::{Clock, State},
};

/// The judgement on a history.
#[derive(Debug)]
pub enum Verdict {
    Linearizable,
    Violation(Box<Violation>),
    /// The search was given up after too many states. Make the history smaller.
    GaveUp {
        resource: String,
    },
}

impl Verdict {
    /// # Panics
    /// With the story of the violation, if this is not [`Verdict::Linearizable`].
    pub fn expect_linearizable(&self, context: &str) {
        match self {
            Self::Linearizable => {}
            Self::Violation(violation) => panic!("{context}: not linearizable\n{violation}"),
            Self::GaveUp { resource } => panic!("{context}: gave up on {resource}"),
        }
    }
}

/// The longest explanation found, and what could not follow it.
#[derive(Debug)]
pub struct Violation {
    pub resource: String,
    /// Operations in an order that the model allows.
    pub explained: Vec<Entry>,
    /// The operation that returned before anything that the model allows could come next.
    pub stuck_at: Entry,
    pub state: State,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "resource {}, after", self.resource)?;
        let skipped = self.explained.len().saturating_sub(12);
        if skipped > 0 {
            writeln!(f, "  ({skipped} earlier operations)")?;
        }
        for entry in &self.explained[skipped..] {
            writeln!(f, "  {entry}")?;
        }
        writeln!(f, "the state is {:?} and this can not be:\n  {}", self.state, self.stuck_at)
    }
}

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut by_resource: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in &history.entries {
        by_resource.entry(&entry.resource).or_default().push(entry);
    }
    let mut restarts = history.restarts.clone();
    restarts.sort_unstable();
    for (resource, entries) in by_resource {
        let search = Search::new(&entries, &restarts, history.slack_ns);
        match search.run() {
            Ok(None) => {}
            Ok(Some(violation)) => return Verdict::Violation(Box::new(violation)),
            Err(TooManyStates) => return Verdict::GaveUp { resource: resource.to_owned() },
        }
    }
    Verdict::Linearizable
}

/// More than any history of the size that tests use needs.
const MAX_STATES: usize = 2_000_000;

struct TooManyStates;

/// One end of an operation in the list of all ends by time.
#[derive(Clone, Copy)]
struct End {
    entry: usize,
    is_call: bool,
}

struct Search<'a> {
    entries: &'a [&'a Entry],
    restarts: &'a [Restart],
    slack_ns: u64,
    ends: Vec<End>,
    /// A list over `ends`, shifted by one; 0 is its head.
    next: Vec<usize>,
    previous: Vec<usize>,
    /// For each operation, where its call and its return stand in that list.
    places: Vec<(usize, usize)>,
}

/// One operation put in order.
struct Placed {
    entry: usize,
    /// What was before.
    state: State,
    floor: u64,
    /// Other states that it may have led to, not yet tried.
    untried: Vec<State>,
}

impl<'a> Search<'a> {
    fn new(entries: &'a [&'a Entry], restarts: &'a [Restart], slack_ns: u64) -> Self {
        let mut ends: Vec<End> = (0..entries.len())
            .flat_map(|entry| [true, false].map(|is_call| End { entry, is_call }))
            .collect();
        // A call at the very time of a return may have come before it.
        ends.sort_by_key(|end| {
            let entry = entries[end.entry];
            (if end.is_call { entry.call } else { entry.ret }, !end.is_call)
        });
        let mut places = vec![(0, 0); entries.len()];
        for (index, end) in ends.iter().enumerate() {
            let place = &mut places[end.entry];
            *(if end.is_call { &mut place.0 } else { &mut place.1 }) = index + 1;
        }
        let count = ends.len() + 1;
        let next = (1..=count).map(|index| index % count).collect();
        let previous = (0..count).map(|index| (index + count - 1) % count).collect();
        Self { entries, restarts, slack_ns, ends, next, previous, places }
    }

    fn run(mut self) -> Result<Option<Violation>, TooManyStates> {
        let mut seen: HashSet<(Box<[u64]>, State)> = HashSet::new();
        let mut done = vec![0u64; self.entries.len().div_ceil(64)];
        let mut placed: Vec<Placed> = Vec::new();
        let (mut state, mut floor) = (State::default(), 0);
        let mut best: Option<Violation> = None;
        let mut cursor = self.next[0];
        while cursor != 0 {
            let end = self.ends[cursor - 1];
            if end.is_call {
                let entry = self.entries[end.entry];
                let clock = Clock { floor, restarts: self.restarts, slack_ns: self.slack_ns };
                let mut states = state.step(entry, clock);
                flip(&mut done, end.entry);
                states.retain(|state| seen.insert((done.clone().into(), state.clone())));
                if seen.len() > MAX_STATES {
                    return Err(TooManyStates);
                }
                if let Some(first) = states.pop() {
                    let before = std::mem::replace(&mut state, first);
                    placed.push(Placed { entry: end.entry, state: before, floor, untried: states });
                    floor = floor.max(entry.call);
                    self.take_out(end.entry);
                    cursor = self.next[0];
                } else {
                    flip(&mut done, end.entry);
                    cursor = self.next[cursor];
                }
                continue;
            }
            // This one had returned, and nothing can come next: go back.
            if best.as_ref().is_none_or(|best| best.explained.len() < placed.len()) {
                best = Some(Violation {
                    resource: self.entries[end.entry].resource.clone(),
                    explained: placed.iter().map(|p| self.entries[p.entry].clone()).collect(),
                    stuck_at: self.entries[end.entry].clone(),
                    state: state.clone(),
                });
            }
            loop {
                let Some(last) = placed.last_mut() else { return Ok(best) };
                if let Some(other) = last.untried.pop() {
                    state = other;
                    floor = last.floor.max(self.entries[last.entry].call);
                    cursor = self.next[0];
                    break;
                }
                let Some(last) = placed.pop() else { return Ok(best) };
                self.put_back(last.entry);
                flip(&mut done, last.entry);
                (state, floor) = (last.state, last.floor);
                let after = self.next[self.places[last.entry].0];
                if after != 0 {
                    cursor = after;
                    break;
                }
            }
        }
        Ok(None)
    }

    fn take_out(&mut self, entry: usize) {
        let (call, ret) = self.places[entry];
        for place in [call, ret] {
            let (previous, next) = (self.previous[place], self.next[place]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    /// Undoes the last [`Self::take_out`].
    fn put_back(&mut self, entry: usize) {
        let (call, ret) = self.places[entry];
        for place in [ret, call] {
            let (previous, next) = (self.previous[place], self.next[place]);
            self.next[previous] = place;
            self.previous[next] = place;
        }
    }
}

fn flip(bits: &mut [u64], index: usize) {
    bits[index / 64] ^= 1 << (index % 64);
}
