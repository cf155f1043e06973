//! Filters: which events a reader wants (`events.md`, HTTP and Streaming).

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
    ser::SerializeMap,
};

use crate::{
    event::Event,
    key::{EventId, NodeId},
    name::Namespace,
};

/// Members of one list are alternatives; different members must all hold; an empty list asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub ids: Vec<EventId>,
    pub authors: Vec<NodeId>,
    pub kinds: Vec<u16>,
    /// Tag name and its accepted values, each name once.
    pub tags: Vec<(String, Vec<String>)>,
    pub ns: Vec<Namespace>,
    /// Earliest `created_at_ns`, inclusive.
    pub since_ns: Option<u64>,
    /// Latest `created_at_ns`, inclusive.
    pub until_ns: Option<u64>,
}

impl Filter {
    /// Whether the event is one of those asked for.
    pub fn matches(&self, event: &Event) -> bool {
        fn any<T: PartialEq>(list: &[T], value: &T) -> bool {
            list.is_empty() || list.contains(value)
        }
        any(&self.ids, &event.id())
            && any(&self.authors, &event.pubkey())
            && any(&self.kinds, &event.kind())
            && any(&self.ns, event.namespace())
            && self.since_ns.is_none_or(|since| event.created_at_ns() >= since)
            && self.until_ns.is_none_or(|until| event.created_at_ns() <= until)
            && self.tags.iter().all(|(name, values)| {
                event.tags().values(name).any(|value| values.iter().any(|want| want == value))
            })
    }

    /// Adds accepted values for a tag name.
    pub fn add_tag(&mut self, name: &str, values: impl IntoIterator<Item = String>) {
        match self.tags.iter_mut().find(|(known, _)| known == name) {
            Some((_, list)) => list.extend(values),
            None => self.tags.push((name.to_owned(), values.into_iter().collect())),
        }
    }

    /// How many alternatives the filter lists in all; what limits count.
    pub fn terms(&self) -> usize {
        self.ids.len()
            + self.authors.len()
            + self.kinds.len()
            + self.ns.len()
            + self.tags.iter().map(|(_, values)| values.len()).sum::<usize>()
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.ids.is_empty() {
            map.serialize_entry("ids", &self.ids)?;
        }
        if !self.authors.is_empty() {
            map.serialize_entry("authors", &self.authors)?;
        }
        if !self.kinds.is_empty() {
            map.serialize_entry("kinds", &self.kinds)?;
        }
        for (name, values) in &self.tags {
            map.serialize_entry(&format!("tag.{name}"), values)?;
        }
        if !self.ns.is_empty() {
            map.serialize_entry("ns", &self.ns)?;
        }
        if let Some(since) = self.since_ns {
            map.serialize_entry("since_ns", &since.to_string())?;
        }
        if let Some(until) = self.until_ns {
            map.serialize_entry("until_ns", &until.to_string())?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Filter;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a filter object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Filter, A::Error> {
                let mut filter = Filter::default();
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "ids" => filter.ids = map.next_value()?,
                        "authors" => filter.authors = map.next_value()?,
                        "kinds" => filter.kinds = map.next_value()?,
                        "ns" => filter.ns = map.next_value()?,
                        "since_ns" => filter.since_ns = Some(time(&mut map)?),
                        "until_ns" => filter.until_ns = Some(time(&mut map)?),
                        _ => match name.strip_prefix("tag.") {
                            Some(tag) => filter.add_tag(tag, map.next_value::<Vec<String>>()?),
                            None => {
                                map.next_value::<IgnoredAny>()?;
                            }
                        },
                    }
                }
                Ok(filter)
            }
        }
        fn time<'de, A: MapAccess<'de>>(map: &mut A) -> Result<u64, A::Error> {
            let text: String = map.next_value()?;
            parse_ns(&text).ok_or_else(|| A::Error::custom("times are decimal nanoseconds"))
        }
        deserializer.deserialize_map(Members)
    }
}

/// Reads unix nanoseconds as filters and parameters have them: decimal digits, below 2^63.
pub fn parse_ns(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|&ns: &u64| ns < 1 << 63)
}
