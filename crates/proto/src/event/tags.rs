//! The tags of an event in one allocation of text.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error as _, SeqAccess, Visitor},
    ser::SerializeSeq,
};

/// A list of string lists. All text lies in one string, so that an event with
/// many tags costs three allocations and not one for each element.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tags {
    text: String,
    /// End of each element in `text`.
    element_ends: Vec<u32>,
    /// End of each tag in `element_ends`.
    tag_ends: Vec<u32>,
}

impl Tags {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one tag.
    pub fn push<S: AsRef<str>>(&mut self, elements: impl IntoIterator<Item = S>) {
        for element in elements {
            self.push_element(element.as_ref());
        }
        self.end_tag();
    }

    pub fn len(&self) -> usize {
        self.tag_ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tag_ends.is_empty()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Tag<'_>> {
        (0..self.tag_ends.len()).map(|index| {
            let start = index.checked_sub(1).map_or(0, |before| self.tag_ends[before]);
            Tag { tags: self, start, end: self.tag_ends[index] }
        })
    }

    /// The second element of each tag called `name`, where there is one.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.iter().filter(move |tag| tag.name() == Some(name)).filter_map(|tag| tag.value())
    }

    fn push_element(&mut self, text: &str) {
        self.text.push_str(text);
        self.element_ends.push(self.text.len() as u32);
    }

    fn end_tag(&mut self) {
        self.tag_ends.push(self.element_ends.len() as u32);
    }

    fn element(&self, index: u32) -> &str {
        let index = index as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.element_ends[before]);
        &self.text[start as usize..self.element_ends[index] as usize]
    }
}

/// One tag: its name, its value, further elements.
#[derive(Clone, Copy)]
pub struct Tag<'a> {
    tags: &'a Tags,
    start: u32,
    end: u32,
}

impl<'a> Tag<'a> {
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn get(&self, index: usize) -> Option<&'a str> {
        (index < self.len()).then(|| self.tags.element(self.start + index as u32))
    }

    /// The first element.
    pub fn name(&self) -> Option<&'a str> {
        self.get(0)
    }

    /// The second element.
    pub fn value(&self) -> Option<&'a str> {
        self.get(1)
    }

    pub fn elements(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let tags = self.tags;
        (self.start..self.end).map(move |index| tags.element(index))
    }
}

impl fmt::Debug for Tag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.elements()).finish()
    }
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T: IntoIterator<Item = S>, S: AsRef<str>> FromIterator<T> for Tags {
    fn from_iter<I: IntoIterator<Item = T>>(tags: I) -> Self {
        let mut out = Self::new();
        for tag in tags {
            out.push(tag);
        }
        out
    }
}

impl Serialize for Tags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Elements<'a>(Tag<'a>);
        impl Serialize for Elements<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.0.elements())
            }
        }
        let mut list = serializer.serialize_seq(Some(self.len()))?;
        for tag in self.iter() {
            list.serialize_element(&Elements(tag))?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Tags;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of lists of strings")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tags, A::Error> {
                let mut tags = Tags::new();
                while list.next_element_seed(OneTag(&mut tags))?.is_some() {}
                Ok(tags)
            }
        }
        struct OneTag<'a>(&'a mut Tags);
        impl<'de> DeserializeSeed<'de> for OneTag<'_> {
            type Value = ();
            fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
                d.deserialize_seq(self)
            }
        }
        impl<'de> Visitor<'de> for OneTag<'_> {
            type Value = ();
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tag: a list of strings")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
                while list.next_element_seed(Element(self.0))?.is_some() {}
                self.0.end_tag();
                Ok(())
            }
        }
        struct Element<'a>(&'a mut Tags);
        impl<'de> DeserializeSeed<'de> for Element<'_> {
            type Value = ();
            fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
                d.deserialize_str(self)
            }
        }
        impl Visitor<'_> for Element<'_> {
            type Value = ();
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
                if self.0.text.len() + text.len() > u32::MAX as usize {
                    return Err(E::custom("tags too long"));
                }
                self.0.push_element(text);
                Ok(())
            }
        }
        let tags = deserializer.deserialize_seq(List)?;
        if tags.iter().any(|tag| tag.is_empty()) {
            return Err(D::Error::custom("a tag has at least one element, its name"));
        }
        Ok(tags)
    }
}
