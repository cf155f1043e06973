//! Reading a tree into typed settings, with every problem collected and every origin kept.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    problem::{Origin, Problem, did_you_mean},
    source::{Entry, Node, Raw},
};

/// A value of a setting's type: how it is read, shown and described.
pub(super) trait Setting: Sized {
    /// What stands for "none" where the setting is optional.
    const NONE: &str = "";

    /// Reads the value, or tells the reader what is wrong with it.
    fn read(node: &Node, reader: &mut Reader) -> Option<Self>;

    /// The value as it would stand in a file.
    fn show(&self) -> toml::Value;

    fn shape() -> Shape;
}

/// What a setting looks like; the JSON Schema and the sample file are made from it.
#[derive(Debug)]
pub(super) enum Shape {
    /// One value; its JSON Schema.
    Leaf(serde_json::Value),
    Section(Section),
    List(Box<Self>),
    /// Free keys, each with a value of that shape.
    Map(Box<Self>),
}

#[derive(Debug)]
pub(super) struct Section {
    pub doc: &'static [&'static str],
    pub fields: Vec<Field>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub name: &'static str,
    pub doc: &'static [&'static str],
    pub default: toml::Value,
    pub shape: Shape,
}

/// Collects what is wrong, and where each value came from, while a tree is read.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub problems: Vec<Problem>,
    /// Dotted path (`store.backend`, `acl[0].who`) to the place that set it.
    pub origins: BTreeMap<String, Origin>,
    /// Paths at or below which something is wrong.
    pub bad: BTreeSet<String>,
    path: String,
    /// Directory of systemd credentials, where secret files given by a bare name lie.
    pub credentials: Option<std::path::PathBuf>,
}

impl Reader {
    pub fn new(problems: Vec<Problem>, credentials: Option<std::path::PathBuf>) -> Self {
        Self { problems, credentials, ..Self::default() }
    }

    pub fn problem(&mut self, origin: &Origin, message: impl Into<String>) {
        self.problems.push(Problem { origin: origin.clone(), message: message.into() });
    }

    /// Says that the value is not what the setting asks for.
    pub fn wrong<T>(&mut self, node: &Node, wanted: &str) -> Option<T> {
        let found = match &node.raw {
            Raw::Bool(flag) => flag.to_string(),
            Raw::Integer(number) => number.to_string(),
            Raw::Text(text) | Raw::Untyped(text) => format!("'{text}'"),
            Raw::List(_) => "a list".into(),
            Raw::Table(_) => "a table".into(),
            Raw::Foreign(what) => (*what).into(),
        };
        let message = format!("'{}' must be {wanted}, not {found}", self.path);
        self.problem(&node.origin, message);
        None
    }

    /// The text of a value, whether written as text or given by the environment.
    pub fn text<'a>(&mut self, node: &'a Node, wanted: &str) -> Option<&'a str> {
        match &node.raw {
            Raw::Text(text) | Raw::Untyped(text) => Some(text),
            _ => self.wrong(node, wanted),
        }
    }

    /// The entries of a table; keys that are not `known` are problems, with a near one offered.
    pub fn table<'a>(&mut self, node: &'a Node, known: &[&str]) -> Option<&'a [Entry]> {
        let Raw::Table(entries) = &node.raw else { return self.wrong(node, "a table") };
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let hint = did_you_mean(&entry.key, known.iter().copied());
            let what = match (self.path.is_empty(), &entry.node.raw) {
                (false, _) => format!("unknown key '{}' in {}", entry.key, self.place()),
                (true, Raw::Table(_) | Raw::List(_)) => format!("unknown section '{}'", entry.key),
                (true, _) => format!("unknown key '{}' outside of any section", entry.key),
            };
            self.problem(&entry.key_origin, what + &hint);
        }
        Some(entries)
    }

    /// Reads the entry called `name`, where it is set.
    pub fn entry<T: Setting>(&mut self, entries: &[Entry], name: &str) -> Option<T> {
        let entry = entries.iter().find(|entry| entry.key == name)?;
        self.below(name, &entry.node, |reader| T::read(&entry.node, reader))
    }

    /// Reads something that lies at `step` (`name` or `[index]`) under the current path.
    pub fn below<T>(&mut self, step: &str, node: &Node, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        self.origins.insert(self.path.clone(), node.origin.clone());
        let problems_before = self.problems.len();
        let value = read(self);
        if self.problems.len() > problems_before {
            self.bad.insert(self.path.clone());
        }
        self.path.truncate(length);
        value
    }

    /// Says that a value is outside the range that the setting has.
    pub fn within<T: Setting + PartialOrd>(
        &mut self,
        entries: &[Entry],
        name: &str,
        value: T,
        range: &std::ops::RangeInclusive<T>,
    ) -> Option<T> {
        if range.contains(&value) {
            return Some(value);
        }
        let node = entries.iter().find(|entry| entry.key == name).map(|entry| &entry.node)?;
        let dot = if self.path.is_empty() { "" } else { "." };
        let (value, low, high) = (value.show(), range.start().show(), range.end().show());
        let message =
            format!("'{}{dot}{name}' must be between {low} and {high}, not {value}", self.path);
        self.problem(&node.origin, message);
        None
    }

    /// The current section as a file writes it: `[hub]`, `[[acl]]`.
    fn place(&self) -> String {
        match self.path.rsplit_once('[') {
            Some((list, _)) => format!("[[{list}]]"),
            None => format!("[{}]", self.path),
        }
    }
}

/// Defines a section of the configuration: the struct, its defaults and its [`Setting`].
///
/// One doc line (or more) per field gives meaning, unit and limits; the sample file and the JSON
/// Schema repeat it. `in` gives the range of accepted values.
macro_rules! section {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident {
            $(
                $(#[doc = $field_doc:literal])*
                $field:ident: $type:ty = $default:expr $(, in $range:expr)?;
            )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[doc = $field_doc])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $crate::config::reader::Setting for $name {
            fn read(
                node: &$crate::config::source::Node,
                reader: &mut $crate::config::reader::Reader,
            ) -> Option<Self> {
                use $crate::config::reader::key;
                let entries = reader.table(node, &[$( key(stringify!($field)) ),*])?;
                let mut section = Self::default();
                $(
                    let value: Option<$type> = reader.entry(entries, key(stringify!($field)));
                    $(
                        let value = value.and_then(|value| {
                            reader.within(entries, key(stringify!($field)), value, &$range)
                        });
                    )?
                    if let Some(value) = value {
                        section.$field = value;
                    }
                )*
                Some(section)
            }

            fn show(&self) -> toml::Value {
                use $crate::config::reader::{Setting, key};
                let mut table = toml::Table::new();
                $( table.insert(key(stringify!($field)).into(), Setting::show(&self.$field)); )*
                toml::Value::Table(table)
            }

            fn shape() -> $crate::config::reader::Shape {
                use $crate::config::reader::{Field, Section, Setting, Shape, key};
                let defaults = Self::default();
                Shape::Section(Section {
                    doc: &[$( $doc ),*],
                    fields: vec![$( Field {
                        name: key(stringify!($field)),
                        doc: &[$( $field_doc ),*],
                        default: Setting::show(&defaults.$field),
                        shape: <$type as Setting>::shape(),
                    } ),*],
                })
            }
        }
    };
}
pub(super) use section;

/// The key of a field: its name without the mark of a raw identifier (`r#match` is `match`).
pub(super) fn key(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}
