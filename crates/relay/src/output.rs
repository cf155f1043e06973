//! Data on stdout, in the form that was asked for (`cli.md`, Output).

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::{ids, times};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table on a terminal; rows or key=value lines in a pipe
    Auto,
    /// An aligned table
    #[value(alias = "pretty")]
    Table,
    /// key=value lines
    Kv,
    /// One JSON document, as the API answers
    Json,
    /// One JSON document a line
    Ndjson,
    /// The bare bytes, where there are any
    Raw,
}

/// How and where data is written.
#[derive(Debug, Clone)]
pub struct Output {
    pub format: Format,
    /// Only these members.
    pub fields: Vec<String>,
    /// Cut nothing.
    pub wide: bool,
    /// No boxes, no redraw, plain ASCII.
    pub plain: bool,
    pub terminal: bool,
}

impl Output {
    pub fn is_json(&self) -> bool {
        matches!(self.format, Format::Json | Format::Ndjson)
    }

    /// The form that `auto` stands for.
    fn effective(&self, single: bool) -> Format {
        match self.format {
            Format::Auto if self.terminal => Format::Table,
            Format::Auto if single => Format::Kv,
            other => other,
        }
    }

    /// Writes one thing. `first` names the members that come first.
    pub fn one(&self, value: &Value, first: &[&str]) -> io::Result<()> {
        let value = self.selected(value);
        match self.effective(true) {
            Format::Json | Format::Ndjson => line(&value.to_string()),
            Format::Raw => line(&bare(only_member(&value).unwrap_or(&value))),
            Format::Kv | Format::Auto => {
                let text: String = members(&value, first)
                    .map(|(name, value)| format!("{name}={}\n", machine(value)))
                    .collect();
                write(&text)
            }
            Format::Table => {
                let rows: Vec<_> = members(&value, first)
                    .map(|(name, value)| (name.to_owned(), self.human(name, value)))
                    .collect();
                if self.plain {
                    let text: String =
                        rows.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
                    return write(&text);
                }
                let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
                let text: String =
                    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect();
                write(&text)
            }
        }
    }

    /// Writes a list whose whole answer is `answer`, with `columns` of the items.
    pub fn list(&self, answer: &Value, items: &[Value], columns: &[&str]) -> io::Result<()> {
        let chosen: Vec<&str> = if self.fields.is_empty() {
            columns.to_vec()
        } else {
            self.fields.iter().map(String::as_str).collect()
        };
        match self.effective(false) {
            Format::Json if self.fields.is_empty() => line(&answer.to_string()),
            Format::Json => {
                let items: Vec<_> = items.iter().map(|item| self.selected(item)).collect();
                line(&with_items(answer, items).to_string())
            }
            Format::Ndjson => {
                let text: String =
                    items.iter().map(|item| format!("{}\n", self.selected(item))).collect();
                write(&text)
            }
            Format::Raw => {
                let text = items.iter().map(|item| {
                    let item = self.selected(item);
                    format!("{}\n", bare(only_member(&item).unwrap_or(&item)))
                });
                write(&text.collect::<String>())
            }
            Format::Kv => {
                let blocks: Vec<String> = items
                    .iter()
                    .map(|item| {
                        let item = self.selected(item);
                        members(&item, &chosen)
                            .map(|(name, value)| format!("{name}={}\n", machine(value)))
                            .collect()
                    })
                    .collect();
                write(&blocks.join("\n"))
            }
            Format::Auto => {
                let text: String = items
                    .iter()
                    .map(|item| {
                        let cells: Vec<_> =
                            chosen.iter().map(|name| tab_cell(name, &item[*name])).collect();
                        cells.join("\t") + "\n"
                    })
                    .collect();
                write(&text)
            }
            Format::Table => self.table(items, &chosen),
        }
    }

    /// Writes one item of a stream, at once.
    pub fn item(&self, value: &Value, columns: &[&str]) -> io::Result<()> {
        match self.effective(false) {
            Format::Table if self.fields.is_empty() => {
                let cells: Vec<_> = columns
                    .iter()
                    .filter(|name| !value[**name].is_null())
                    .map(|name| self.human(name, &value[*name]))
                    .collect();
                line(&cells.join("  "))
            }
            Format::Kv => self.one(value, columns),
            _ => line(&self.selected(value).to_string()),
        }
    }

    fn table(&self, items: &[Value], columns: &[&str]) -> io::Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        let head: Vec<String> =
            columns.iter().map(|name| name.replace('_', " ").to_uppercase()).collect();
        let rows: Vec<Vec<String>> = items
            .iter()
            .map(|item| columns.iter().map(|name| self.human(name, &item[*name])).collect())
            .collect();
        if self.plain {
            let blocks: Vec<String> = rows
                .iter()
                .map(|row| {
                    columns
                        .iter()
                        .zip(row)
                        .map(|(name, cell)| format!("{name}: {cell}\n"))
                        .collect()
                })
                .collect();
            return write(&blocks.join("\n"));
        }
        let widths: Vec<usize> = (0..columns.len())
            .map(|column| {
                let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let limit = if self.wide { usize::MAX } else { terminal_width() };
        let mut text = String::new();
        for row in [&head].into_iter().chain(&rows) {
            let mut out = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let fill = width.saturating_sub(cell.chars().count());
                out.push_str(cell);
                out.extend(std::iter::repeat_n(' ', fill + 2));
            }
            text.push_str(&cut(out.trim_end(), limit));
            text.push('\n');
        }
        write(&text)
    }

    /// A value as a person reads it.
    fn human(&self, name: &str, value: &Value) -> String {
        let text = bare(value);
        if let Some(ns) = time_of(name, &text) {
            return times::relative(ns, relay_client::unix_ns());
        }
        if name.ends_with("_ms")
            && let Some(ms) = value.as_u64()
        {
            return times::human(std::time::Duration::from_millis(ms));
        }
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if self.wide || self.plain { text } else { ids::short(&text) }
    }

    fn selected(&self, value: &Value) -> Value {
        let (Value::Object(members), false) = (value, self.fields.is_empty()) else {
            return value.clone();
        };
        let chosen: Map<_, _> = self
            .fields
            .iter()
            .filter_map(|name| Some((name.clone(), members.get(name)?.clone())))
            .collect();
        Value::Object(chosen)
    }
}

/// The answer with other items in its list, whose name is the API's.
fn with_items(answer: &Value, items: Vec<Value>) -> Value {
    let mut whole = answer.clone();
    match whole.as_object_mut().and_then(|members| members.values_mut().find(|v| v.is_array())) {
        Some(list) => {
            *list = items.into();
            whole
        }
        None => serde_json::json!({ "items": items }),
    }
}

/// Whether stdout is a terminal.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Writes one line of data.
pub fn line(text: &str) -> io::Result<()> {
    write(&format!("{text}\n"))
}

/// Writes data and flushes it.
pub fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn members<'a>(value: &'a Value, first: &[&str]) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let mut members: Vec<(&str, &Value)> = match value {
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.as_str(), value)).collect()
        }
        _ => Vec::new(),
    };
    let rank = |name: &str| first.iter().position(|known| *known == name).unwrap_or(first.len());
    members.sort_by_key(|(name, _)| rank(name));
    members.into_iter().filter(|(_, value)| !value.is_null())
}

/// A value for machines: strings bare where they are one line, else JSON.
fn machine(value: &Value) -> String {
    match value {
        Value::String(text) if !text.contains(['\n', '\r']) => text.clone(),
        other => other.to_string(),
    }
}

fn tab_cell(name: &str, value: &Value) -> String {
    let text = bare(value);
    let text = time_of(name, &text).map_or(text, times::rfc3339);
    text.replace(['\t', '\n', '\r'], " ")
}

/// The unix nanoseconds of a member that is a time, by its name.
fn time_of(name: &str, text: &str) -> Option<u64> {
    let number = relay_proto::filter::parse_ns(text)?;
    match name {
        "at_ms" => number.checked_mul(1_000_000),
        _ if name.ends_with("_at_ms") => number.checked_mul(1_000_000),
        _ if name.ends_with("_ns") => Some(number),
        _ => None,
    }
}

/// The value of an object that has just one member, which is what `--fields NAME -o raw` asks for.
fn only_member(value: &Value) -> Option<&Value> {
    value.as_object().filter(|members| members.len() == 1)?.values().next()
}

fn bare(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn terminal_width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    columns
        .or_else(|| terminal_size::terminal_size().map(|(width, _)| usize::from(width.0)))
        .unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn output(format: Format, terminal: bool) -> Output {
        Output { format, fields: Vec::new(), wide: false, plain: false, terminal }
    }

    #[test]
    fn auto_depends_on_where_it_goes() {
        assert_eq!(output(Format::Auto, true).effective(true), Format::Table);
        assert_eq!(output(Format::Auto, false).effective(true), Format::Kv);
        assert_eq!(output(Format::Auto, false).effective(false), Format::Auto);
        assert_eq!(output(Format::Json, true).effective(true), Format::Json);
    }

    #[test]
    fn the_first_members_come_first_and_nulls_do_not_come() {
        let value = json!({ "a": 1, "b": null, "fencing_token": 17, "resource": "x" });
        let names: Vec<_> =
            members(&value, &["fencing_token", "resource"]).map(|(name, _)| name).collect();
        assert_eq!(names, ["fencing_token", "resource", "a"]);
    }

    #[test]
    fn machine_values_are_one_line() {
        assert_eq!(machine(&json!("plain text")), "plain text");
        assert_eq!(machine(&json!("two\nlines")), r#""two\nlines""#);
        assert_eq!(tab_cell("content", &json!("a\tb\nc")), "a b c");
        assert_eq!(
            tab_cell("created_at_ns", &json!("1766793600123456789")),
            "2025-12-27T00:00:00Z"
        );
    }

    #[test]
    fn a_list_of_chosen_members_keeps_its_name_and_cursor() {
        let answer = json!({ "events": [{ "a": 1, "b": 2 }], "cursor": "c" });
        let chosen = with_items(&answer, vec![json!({ "a": 1 })]);
        assert_eq!(chosen, json!({ "events": [{ "a": 1 }], "cursor": "c" }));
        assert_eq!(with_items(&Value::Null, vec![]), json!({ "items": [] }));
    }

    #[test]
    fn fields_select_members() {
        let output = Output { fields: vec!["b".into()], ..output(Format::Json, false) };
        assert_eq!(output.selected(&json!({ "a": 1, "b": 2 })), json!({ "b": 2 }));
    }
}
