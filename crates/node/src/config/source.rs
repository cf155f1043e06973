//! Files, environment and flags become one tree in which every value knows where it was set.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problem};

/// A value as somebody wrote it, before anybody asked what type it should have.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub origin: Origin,
    pub raw: Raw,
}

#[derive(Debug, Clone)]
pub(super) enum Raw {
    Bool(bool),
    Integer(i64),
    Text(String),
    /// Text from the environment or a flag, which may stand for any type.
    Untyped(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// A TOML type that no setting has, by its name.
    Foreign(&'static str),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub key_origin: Origin,
    pub node: Node,
}

impl Node {
    pub fn empty_table() -> Self {
        Self { origin: Origin::Default, raw: Raw::Table(Vec::new()) }
    }

    /// Lays `over` upon this tree: tables join key by key, lists of tables add up, all else is replaced.
    pub fn overlay(&mut self, over: Self) {
        match (&mut self.raw, over.raw) {
            (Raw::Table(below), Raw::Table(above)) => {
                for entry in above {
                    match below.iter_mut().find(|known| known.key == entry.key) {
                        Some(known) => known.node.overlay(entry.node),
                        None => below.push(entry),
                    }
                }
                if self.origin == Origin::Default {
                    self.origin = over.origin;
                }
            }
            (Raw::List(below), Raw::List(above)) if is_tables(below) && is_tables(&above) => {
                below.extend(above);
            }
            (_, raw) => *self = Self { origin: over.origin, raw },
        }
    }

    /// Sets the value at a dotted path such as `store.backend`.
    pub fn set(&mut self, path: &str, text: &str, origin: Origin) {
        let leaf = Self { origin: origin.clone(), raw: Raw::Untyped(text.to_owned()) };
        let tree = path.rsplit('.').fold(leaf, |node, key| Self {
            origin: origin.clone(),
            raw: Raw::Table(vec![Entry { key: key.into(), key_origin: origin.clone(), node }]),
        });
        self.overlay(tree);
    }

    /// Whether the dotted path is set.
    pub fn has(&self, path: &str) -> bool {
        path.split('.')
            .try_fold(self, |node, key| match &node.raw {
                Raw::Table(entries) => {
                    entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
                }
                _ => None,
            })
            .is_some()
    }
}

fn is_tables(list: &[Node]) -> bool {
    list.iter().all(|node| matches!(node.raw, Raw::Table(_)))
}

/// A longer file is no configuration; it is refused before it is read.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Reads one file; what is wrong with its syntax goes to `problems`.
pub(super) fn read_file(path: &Path, problems: &mut Vec<Problem>) -> Option<Node> {
    let name: Arc<str> = path.display().to_string().into();
    let mut fail = |message: String| {
        let origin = Origin::File { path: Arc::clone(&name), line: 0, column: 0 };
        problems.push(Problem { origin, message });
        None
    };
    match fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_FILE_BYTES => return fail("longer than 4 MiB".into()),
        Ok(_) => {}
        Err(error) => return fail(reason(&error)),
    }
    match fs::read_to_string(path) {
        Ok(text) => Some(parse(&name, &text, problems)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => fail("not UTF-8 text".into()),
        Err(error) => fail(reason(&error)),
    }
}

/// Why the operating system refused, in a few words.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "not allowed to read it".into(),
        _ => error.to_string(),
    }
}

/// The files of a directory such as `relay.d`, by name. No directory: none.
pub(super) fn drop_ins(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

/// Reads TOML text called `name`. Syntax errors go to `problems`, and then nothing of the text
/// counts: behind a missing bracket everything would look unknown.
pub(super) fn parse(name: &Arc<str>, text: &str, problems: &mut Vec<Problem>) -> Node {
    let place = |span: Range<usize>| {
        let (line, column) = line_and_column(text, span.start);
        Origin::File { path: Arc::clone(name), line, column }
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            let origin = place(error.span().unwrap_or(0..0));
            problems.push(Problem { origin, message: error.message().to_owned() });
        }
        return Node::empty_table();
    }
    let origin = place(table.span());
    Node { origin, raw: table_of(table.get_ref(), &place) }
}

fn table_of(table: &DeTable<'_>, place: &impl Fn(Range<usize>) -> Origin) -> Raw {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| Entry {
        key: AsRef::<std::borrow::Cow<'_, str>>::as_ref(key).to_string(),
        key_origin: place(key.span()),
        node: node_of(value, place),
    };
    Raw::Table(entries.into_iter().map(entry).collect())
}

fn node_of(value: &toml::Spanned<DeValue<'_>>, place: &impl Fn(Range<usize>) -> Origin) -> Node {
    let raw = match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Boolean(flag) => Raw::Bool(*flag),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Foreign("a number out of range"), Raw::Integer),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| node_of(item, place)).collect()),
        DeValue::Table(table) => table_of(table, place),
        DeValue::Float(_) => Raw::Foreign("a fraction"),
        DeValue::Datetime(_) => Raw::Foreign("a date"),
    };
    Node { origin: place(value.span()), raw }
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Turns JSON from an environment variable into a node; `None` where it is no JSON.
pub(super) fn from_json(text: &str, origin: &Origin) -> Option<Node> {
    fn convert(value: serde_json::Value, origin: &Origin) -> Node {
        let raw = match value {
            serde_json::Value::Bool(flag) => Raw::Bool(flag),
            serde_json::Value::Number(number) => {
                number.as_i64().map_or(Raw::Foreign("a fraction"), Raw::Integer)
            }
            serde_json::Value::String(text) => Raw::Text(text),
            serde_json::Value::Array(items) => {
                Raw::List(items.into_iter().map(|item| convert(item, origin)).collect())
            }
            serde_json::Value::Object(members) => {
                let entry = |(key, value)| Entry {
                    key,
                    key_origin: origin.clone(),
                    node: convert(value, origin),
                };
                Raw::Table(members.into_iter().map(entry).collect())
            }
            serde_json::Value::Null => Raw::Foreign("null"),
        };
        Node { origin: origin.clone(), raw }
    }
    serde_json::from_str(text).ok().map(|value| convert(value, origin))
}
