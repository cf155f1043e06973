//! Durable timers of a service: pure rules over what is stored.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{state::Timer, vm::DeclaredTimer};

/// What a message asked for.
#[derive(Debug, Deserialize)]
struct Wanted {
    name: String,
    #[serde(default)]
    clear: bool,
    #[serde(default)]
    due_ms: u64,
    every_ms: Option<u64>,
    #[serde(default)]
    payload: String,
}

pub(super) type Changes = Vec<(String, Option<Timer>)>;

/// How often a timer that is due once is tried.
const MAX_ATTEMPTS: u32 = 5;
const FIRST_RETRY_MS: u64 = 1000;

/// Reads the changes a message made.
pub(super) fn wanted(text: &str) -> Result<Changes, String> {
    let wanted: Vec<Wanted> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let change = |wanted: Wanted| {
        let timer = (!wanted.clear).then_some(Timer {
            due_ms: wanted.due_ms,
            every_ms: wanted.every_ms,
            payload: wanted.payload,
            attempts: 0,
        });
        (wanted.name, timer)
    };
    Ok(wanted.into_iter().map(change).collect())
}

/// What must change so that the stored timers fit what the script declares: periodic ones that
/// are new or have another period start, those of names no longer declared end.
pub(super) fn declare(
    stored: &BTreeMap<String, Timer>,
    declared: &[DeclaredTimer],
    now_ms: u64,
) -> Changes {
    let mut changes = Changes::new();
    for name in stored.keys() {
        if !declared.iter().any(|timer| timer.name == handler(name)) {
            changes.push((name.clone(), None));
        }
    }
    for timer in declared {
        let Some(every_ms) = timer.every_ms else { continue };
        let kept = stored.get(&timer.name);
        if kept.and_then(|kept| kept.every_ms) != Some(every_ms) {
            let due_ms = now_ms + every_ms;
            let payload = "null".to_owned();
            let timer_row = Timer { due_ms, every_ms: Some(every_ms), payload, attempts: 0 };
            changes.push((timer.name.clone(), Some(timer_row)));
        }
    }
    changes
}

/// The declared timer whose handler runs the timer `name`: `remind:alice` is run by `remind`.
fn handler(name: &str) -> &str {
    name.split_once(':').map_or(name, |(handler, _)| handler)
}

/// The timer that is due first.
pub(super) fn first(timers: &BTreeMap<String, Timer>) -> Option<(&str, &Timer)> {
    let first = timers.iter().min_by_key(|(_, timer)| timer.due_ms)?;
    Some((first.0.as_str(), first.1))
}

/// The timer after its handler succeeded; `None`: it was due once. Periods missed while the
/// service was down are not made up for.
pub(super) fn succeeded(timer: &Timer, now_ms: u64) -> Option<Timer> {
    let every = timer.every_ms?.max(1);
    let missed = now_ms.saturating_sub(timer.due_ms) / every;
    let due_ms = timer.due_ms + every * (missed + 1);
    Some(Timer { due_ms, attempts: 0, ..timer.clone() })
}

/// The timer after its handler failed: tried again soon, and given up (for this period) after
/// [`MAX_ATTEMPTS`].
pub(super) fn failed(timer: &Timer, now_ms: u64) -> Option<Timer> {
    let attempts = timer.attempts + 1;
    if attempts >= MAX_ATTEMPTS {
        return succeeded(timer, now_ms);
    }
    let due_ms = now_ms + (FIRST_RETRY_MS << attempts.min(8));
    Some(Timer { due_ms, attempts, ..timer.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(due_ms: u64, every_ms: Option<u64>) -> Timer {
        Timer { due_ms, every_ms, payload: "null".into(), attempts: 0 }
    }

    #[test]
    fn missed_periods_are_not_made_up_for() {
        let every = timer(1000, Some(100));
        assert_eq!(succeeded(&every, 1000).unwrap().due_ms, 1100);
        assert_eq!(succeeded(&every, 1350).unwrap().due_ms, 1400);
        assert_eq!(succeeded(&timer(1000, None), 1000), None);
    }

    #[test]
    fn failures_are_tried_again_a_bounded_number_of_times() {
        let mut once = Some(timer(1000, None));
        let mut tries = 0;
        while let Some(timer) = once {
            tries += 1;
            once = failed(&timer, timer.due_ms);
        }
        assert_eq!(tries, MAX_ATTEMPTS);
    }

    #[test]
    fn declarations_start_change_and_end_timers() {
        let stored = BTreeMap::from([
            ("gone".to_owned(), timer(1, None)),
            ("same".to_owned(), timer(50, Some(100))),
            ("other".to_owned(), timer(50, Some(100))),
            ("own:x".to_owned(), timer(70, None)),
        ]);
        let declare_one = |name: &str, every_ms| DeclaredTimer { name: name.into(), every_ms };
        let declared = [
            declare_one("same", Some(100)),
            declare_one("other", Some(200)),
            declare_one("own", None),
        ];
        let changes = declare(&stored, &declared, 1000);
        let changes: Vec<_> =
            changes.iter().map(|(n, t)| (n.as_str(), t.as_ref().map(|t| t.due_ms))).collect();
        assert_eq!(changes, [("gone", None), ("other", Some(1200))]);
    }
}
