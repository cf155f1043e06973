//! The configuration told back: effective values, differences, JSON Schema, a file to start from.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::json;

use super::{
    problem::Origin,
    reader::{Field, Setting, Shape},
    sections::Config,
};

/// One effective setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Dotted, such as `store.backend`.
    pub path: String,
    /// As a TOML file would write it; secrets as `"<file>"`.
    pub value: toml::Value,
    pub origin: Origin,
}

impl Config {
    /// Every setting, in the order of the sections.
    pub(super) fn lines(&self, origins: &BTreeMap<String, Origin>) -> Vec<Line> {
        let mut lines = Vec::new();
        let values = Setting::show(self);
        for_each_field(&Self::shape(), &mut |section| {
            let Some(value) = values.get(section.name) else { return };
            match (&section.shape, value) {
                (Shape::Section(inner), toml::Value::Table(table)) => {
                    for field in &inner.fields {
                        let path = format!("{}.{}", section.name, field.name);
                        if let Some(value) = table.get(field.name) {
                            lines.push(line(path, value, origins));
                        }
                    }
                }
                (Shape::Map(_), toml::Value::Table(table)) => {
                    for (key, value) in table {
                        lines.push(line(format!("{}.{key}", section.name), value, origins));
                    }
                }
                _ => lines.push(line(section.name.to_owned(), value, origins)),
            }
        });
        lines
    }

    /// Every setting with its value as a TOML file would write it; secrets as `"<file>"`.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let lines = self.lines(&BTreeMap::new());
        lines.into_iter().map(|line| (line.path, line.value.to_string())).collect()
    }

    /// The settings in which another configuration differs from this one.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        differences(&self.settings(), &other.settings())
    }
}

/// A setting that has two values.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// Dotted, such as `store.backend`.
    pub setting: String,
    /// As it runs.
    pub before: String,
    /// As it is configured now.
    pub after: String,
}

/// What differs between two sets of settings, by name.
pub fn differences(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let value = |settings: &BTreeMap<String, String>, name: &str| {
        settings.get(name).cloned().unwrap_or_else(|| "(not set)".into())
    };
    names
        .into_iter()
        .map(|name| Difference {
            setting: name.clone(),
            before: value(before, name),
            after: value(after, name),
        })
        .filter(|one| one.before != one.after)
        .collect()
}

fn line(path: String, value: &toml::Value, origins: &BTreeMap<String, Origin>) -> Line {
    let origin = origins.get(&path).cloned().unwrap_or(Origin::Default);
    Line { path, value: value.clone(), origin }
}

fn for_each_field(shape: &Shape, visit: &mut impl FnMut(&Field)) {
    if let Shape::Section(section) = shape {
        section.fields.iter().for_each(visit);
    }
}

/// A JSON Schema (draft 2020-12) of the file, for editors.
pub fn schema() -> serde_json::Value {
    let mut schema = schema_of(&Config::shape());
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "relay.toml".into();
    schema
}

fn schema_of(shape: &Shape) -> serde_json::Value {
    match shape {
        Shape::Leaf(schema) => schema.clone(),
        Shape::List(item) => json!({"type": "array", "items": schema_of(item)}),
        Shape::Map(value) => json!({"type": "object", "additionalProperties": schema_of(value)}),
        Shape::Section(section) => {
            let property = |field: &Field| {
                let mut schema = schema_of(&field.shape);
                schema["description"] = joined(field.doc).into();
                if !matches!(field.shape, Shape::Section(_) | Shape::Map(_)) {
                    schema["default"] = json!(field.default);
                }
                (field.name.to_owned(), schema)
            };
            json!({
                "type": "object",
                "description": joined(section.doc),
                "additionalProperties": false,
                "properties": section.fields.iter().map(property).collect::<serde_json::Map<_, _>>(),
            })
        }
    }
}

fn joined(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// The settings that most people set; `config init` shows these alone.
const COMMON: &[&str] = &[
    "node.id",
    "node.data_dir",
    "listen.http",
    "listen.trusted_proxies",
    "listen.metrics",
    "tls.cert_file",
    "tls.key_file",
    "store.backend",
    "store.database_url_file",
    "acl",
    "groups",
    "quota.bytes",
    "quota.key_events_per_sec",
    "chat.public_url",
    "log.level",
];

/// A commented file in which every setting stands with its default, switched off by `#`.
///
/// `all` adds the settings that few people need.
pub fn sample(all: bool) -> String {
    let mut out = String::from(
        "# Configuration of a relay. Everything has a good default: set what you need.\n\
         # Durations (\"30s\", \"90d\") and sizes (\"128KiB\", \"10GB\") have units; \"0\" is no limit.\n\
         # Check it with: relay config check FILE\n",
    );
    for_each_field(&Config::shape(), &mut |section| {
        let wanted = |path: &str| all || COMMON.contains(&path);
        let mut body = String::new();
        let inner = match &section.shape {
            Shape::List(item) => item,
            other => other,
        };
        match inner {
            Shape::Section(inner) => {
                for field in &inner.fields {
                    let path = format!("{}.{}", section.name, field.name);
                    if wanted(section.name) || wanted(&path) {
                        sample_field(&mut body, field);
                    }
                }
            }
            _ if wanted(section.name) => body.push_str("# forge = [\"ed25519:…\"]\n"),
            _ => {}
        }
        if body.is_empty() {
            return;
        }
        let header = match section.shape {
            Shape::List(_) => format!("# [[{}]]", section.name),
            _ => format!("[{}]", section.name),
        };
        out.push('\n');
        comment(&mut out, section.doc);
        // Writing to a String can't fail.
        let _ = write!(out, "{header}\n{body}");
    });
    out
}

fn sample_field(out: &mut String, field: &Field) {
    if let Shape::List(item) = &field.shape
        && matches!(**item, Shape::Section(_))
    {
        return;
    }
    comment(out, field.doc);
    let _ = writeln!(out, "# {} = {}", field.name, field.default);
}

fn comment(out: &mut String, doc: &[&str]) {
    for line in doc {
        let _ = writeln!(out, "#{line}");
    }
}
