//! What is shown: filters of readers, tags by local rules, what operators approved, hid or censored. Pure.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
};

use ahash::RandomState;
use relay_proto::polycentric::{Body, Event, EventKey, ModerationTag, SystemKey, content};
use relay_store::{Censored, ModerationState, Note, SocialEvent};
use serde::Deserialize;

/// What is shown of what was not approved yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything, without tags.
    Off = 0,
    /// Everything but what tags exclude.
    Lazy = 1,
    /// Nothing.
    Strong = 2,
}

/// Gives a tag to texts that hold a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRule {
    /// Looked for as it is, without regard to case.
    pub word: String,
    pub tag: String,
    pub level: u32,
}

/// What a reader does not want to see.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Filter {
    pub name: String,
    pub max_level: u32,
    #[serde(default)]
    pub strict_mode: bool,
}

/// What readers who say nothing do not see (`polycentric.md` 6.12).
const USUAL: [(&str, u32); 3] = [("violence", 1), ("hate", 2), ("sexual", 1)];
/// Filters of one request.
const MAX_FILTERS: usize = 32;

/// Reads `moderation_filters`; an empty text counts as none.
///
/// # Errors
/// What is wrong with it.
pub fn parse_filters(text: Option<&str>) -> Result<Vec<Filter>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
    let filters: Vec<Filter> = serde_json::from_str(text)
        .map_err(|error| format!("moderation_filters is no list of filters: {error}"))?;
    if filters.len() > MAX_FILTERS {
        return Err(format!("at most {MAX_FILTERS} moderation_filters"));
    }
    Ok(filters)
}

/// Adds the usual filters for what the reader did not name.
pub(super) fn with_usual(mut filters: Vec<Filter>) -> Vec<Filter> {
    for (name, max_level) in USUAL {
        if !filters.iter().any(|filter| filter.name == name) {
            filters.push(Filter { name: name.to_owned(), max_level, strict_mode: true });
        }
    }
    filters
}

/// Whether moderation looks at events of this type at all.
fn is_moderated(content_type: u64) -> bool {
    matches!(content_type, content::POST | content::DESCRIPTION | content::AVATAR)
}

/// What a relay notes of an event as it comes in; `None` while moderation is off or does not concern it.
pub(super) fn note_of(event: &Event, mode: Mode, rules: &[TagRule]) -> Option<Note> {
    if mode == Mode::Off || !is_moderated(event.content_type()) {
        return None;
    }
    // Rules judge texts; pictures, and everything where there are no rules, wait for a person.
    let Body::Text(text) = event.body() else {
        return Some(Note { state: ModerationState::Waiting, tags: Vec::new() });
    };
    let text = text.to_lowercase();
    let mut levels: HashMap<&str, u32> = rules.iter().map(|rule| (&rule.tag[..], 0)).collect();
    for rule in rules.iter().filter(|rule| text.contains(&rule.word.to_lowercase())) {
        let level = levels.entry(&rule.tag).or_default();
        *level = rule.level.max(*level);
    }
    let mut tags: Vec<ModerationTag> = levels
        .into_iter()
        .map(|(name, level)| ModerationTag { name: name.to_owned(), level })
        .collect();
    tags.sort_by(|a, b| a.name.cmp(&b.name));
    let state = if rules.is_empty() { ModerationState::Waiting } else { ModerationState::Approved };
    Some(Note { state, tags })
}

/// Whether a reader with these filters sees the event.
pub(super) fn is_shown(
    event: &SocialEvent,
    content_type: u64,
    mode: Mode,
    filters: &[Filter],
) -> bool {
    if mode == Mode::Off || !is_moderated(content_type) {
        return true;
    }
    match event.moderation {
        Some(ModerationState::Hidden) => false,
        None | Some(ModerationState::Waiting) => mode == Mode::Lazy,
        Some(ModerationState::Approved) => filters.iter().all(|filter| {
            match event.tags.iter().find(|tag| tag.name == filter.name) {
                Some(tag) => tag.level <= filter.max_level,
                None => !filter.strict_mode,
            }
        }),
    }
}

/// What is censored, for quick looks.
#[derive(Debug, Default)]
pub(super) struct Censors {
    /// Changes with the list.
    pub epoch: u32,
    /// With whether they are refused, too.
    systems: HashMap<SystemKey, bool, RandomState>,
    events: HashSet<EventKey, RandomState>,
}

impl Censors {
    pub fn of(list: Vec<(Censored, bool)>) -> Self {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let mut censors = Self::default();
        for (what, refused) in list {
            // The same list gives the same number in every process.
            censors.epoch = censors.epoch.rotate_left(5) ^ hasher.hash_one((what, refused)) as u32;
            match what {
                Censored::System(system) => drop(censors.systems.insert(system, refused)),
                Censored::Event(key) => drop(censors.events.insert(key)),
            }
        }
        censors
    }

    /// Whether the event is left out of what the relay recommends to everybody.
    pub fn hides(&self, key: &EventKey) -> bool {
        self.systems.contains_key(&key.system) || self.events.contains(key)
    }

    /// Whether the event is left out also where somebody asks for what others say of it.
    pub fn silences(&self, key: &EventKey) -> bool {
        self.systems.get(&key.system) == Some(&true) || self.events.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(moderation: Option<ModerationState>, tags: &[(&str, u32)]) -> SocialEvent {
        SocialEvent {
            seq: 1,
            signature: [0; 64],
            bytes: Default::default(),
            unix_ms: None,
            tags: tags
                .iter()
                .map(|(name, level)| ModerationTag { name: (*name).into(), level: *level })
                .collect(),
            moderation,
        }
    }

    #[test]
    fn modes_and_filters_decide_together() {
        use ModerationState::{Approved, Hidden, Waiting};
        let usual = with_usual(Vec::new());
        let clean = [("hate", 0), ("sexual", 0), ("violence", 0)];
        let post = content::POST;
        for (moderation, tags, lazy, strong) in [
            (None, &[][..], true, false),
            (Some(Waiting), &[], true, false),
            (Some(Hidden), &clean, false, false),
            (Some(Approved), &clean, true, true),
            (Some(Approved), &[("hate", 3), ("sexual", 0), ("violence", 0)], false, false),
            (Some(Approved), &[], false, false),
        ] {
            let event = event(moderation, tags);
            assert_eq!(is_shown(&event, post, Mode::Lazy, &usual), lazy, "{moderation:?} {tags:?}");
            assert_eq!(is_shown(&event, post, Mode::Strong, &usual), strong, "{tags:?}");
            assert!(is_shown(&event, post, Mode::Off, &usual));
            assert!(is_shown(&event, content::USERNAME, Mode::Strong, &usual));
        }
        let lenient = parse_filters(Some(r#"[{"name":"hate","max_level":3}]"#)).unwrap();
        let harsh = event(Some(Approved), &[("hate", 3)]);
        assert!(is_shown(&harsh, post, Mode::Strong, &lenient));
        assert!(parse_filters(Some("{")).is_err());
        assert_eq!(parse_filters(Some("")), Ok(Vec::new()));
    }
}
