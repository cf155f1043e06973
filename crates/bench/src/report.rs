//! What a run found: rows of one table, as text, Markdown and JSON.

use std::{fmt::Write as _, path::Path, time::Duration};

use anyhow::Context;
use serde_json::{Value, json};

use crate::hist::Histogram;

/// One measured case.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Which program, with its store.
    pub server: String,
    /// Which load.
    pub case: String,
    pub operations: u64,
    /// How long the operations took together.
    pub took: Duration,
    pub latency: Option<Histogram>,
    pub errors: u64,
    /// CPU time of the server during `took`.
    pub cpu: Option<Duration>,
    /// Resident bytes of the server at the end.
    pub rss: Option<u64>,
    /// What the scenario is about, where that is none of the above.
    pub value: Option<(&'static str, f64)>,
}

impl Row {
    /// Operations per second; zero where the case has no rate.
    pub fn rate(&self) -> f64 {
        if self.took.is_zero() { 0.0 } else { self.operations as f64 / self.took.as_secs_f64() }
    }

    /// Microseconds of the server's CPU that one operation cost.
    pub fn cpu_us(&self) -> Option<f64> {
        let cpu = self.cpu.filter(|_| self.operations > 0)?;
        Some(cpu.as_secs_f64() * 1e6 / self.operations as f64)
    }

    fn quantiles(&self) -> Option<[Duration; 5]> {
        let latency = self.latency.as_ref().filter(|latency| latency.total() > 0)?;
        let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|q| latency.quantile(q));
        Some([p50, p90, p99, p999, latency.max()])
    }

    fn cells(&self) -> Vec<String> {
        let none = || "–".to_owned();
        let mut cells = vec![self.server.clone(), self.case.clone()];
        cells.push(if self.rate() > 0.0 { grouped(self.rate()) } else { none() });
        match self.quantiles() {
            Some(found) => cells.extend(found.map(milliseconds)),
            None => cells.extend([(); 5].map(|()| none())),
        }
        cells.push(self.errors.to_string());
        cells.push(self.cpu_us().map_or_else(none, |us| format!("{us:.1}")));
        cells.push(self.rss.map_or_else(none, |bytes| (bytes >> 20).to_string()));
        cells.push(self.value.map_or_else(none, |(unit, value)| {
            let digits = if value.abs() < 10.0 { 2 } else { 1 };
            format!("{value:.digits$} {unit}")
        }));
        cells
    }

    fn json(&self) -> Value {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        let quantiles = self.quantiles().map(|q| {
            json!({"p50": us(q[0]), "p90": us(q[1]), "p99": us(q[2]), "p99.9": us(q[3]), "max": us(q[4])})
        });
        json!({
            "server": self.server,
            "case": self.case,
            "operations": self.operations,
            "seconds": self.took.as_secs_f64(),
            "per_second": self.rate(),
            "latency_us": quantiles,
            "errors": self.errors,
            "server_cpu_us_per_operation": self.cpu_us(),
            "server_rss_bytes": self.rss,
            "value": self.value.map(|(unit, value)| json!({"unit": unit, "value": value})),
        })
    }
}

const HEADINGS: [&str; 12] = [
    "server",
    "case",
    "per second",
    "p50 ms",
    "p90",
    "p99",
    "p99.9",
    "max",
    "errors",
    "CPU µs/op",
    "RSS MiB",
    "result",
];

/// The rows of one scenario.
#[derive(Debug, Default)]
pub struct Table {
    /// The scenario's name, as on the command line.
    pub scenario: String,
    pub rows: Vec<Row>,
}

impl Table {
    /// A Markdown table whose columns are also aligned for a terminal.
    /// Columns in which no row has anything are left out.
    pub fn markdown(&self) -> String {
        let rows: Vec<_> = self.rows.iter().map(Row::cells).collect();
        let shown: Vec<usize> = (0..HEADINGS.len())
            .filter(|&column| column < 2 || rows.iter().any(|row| row[column] != "–"))
            .collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([HEADINGS[column].chars().count()]).max().unwrap_or(0)
        };
        let mut out = String::new();
        let mut line = |cell: &dyn Fn(usize) -> String, fill: char| {
            for &column in &shown {
                let (text, width) = (cell(column), width(column));
                let pad = fill.to_string().repeat(width.saturating_sub(text.chars().count()));
                let (left, right) = if column < 2 { ("", &*pad) } else { (&*pad, "") };
                let _ = write!(out, "| {left}{text}{right} ");
            }
            out.push_str("|\n");
        };
        line(&|column| HEADINGS[column].to_owned(), ' ');
        line(&|column| if column < 2 { String::new() } else { ":".to_owned() }, '-');
        for row in &rows {
            line(&|column| row[column].clone(), ' ');
        }
        // A right-aligned column's rule ends with the colon that `line` padded on its left.
        out
    }

    pub fn json(&self) -> Value {
        json!({"scenario": self.scenario, "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>()})
    }

    /// Puts the table, with the command that made it, into the scenario's section of a document:
    /// between `<!-- relay-bench NAME -->` and `<!-- end NAME -->`, or at the end.
    pub fn write_into(&self, document: &Path, command: &str, when: &str) -> anyhow::Result<()> {
        let name = &self.scenario;
        let (begin, end) = (format!("<!-- relay-bench {name} -->"), format!("<!-- end {name} -->"));
        let section = format!("{begin}\n`{command}` ({when})\n\n{}{end}", self.markdown());
        let old = match std::fs::read_to_string(document) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context(document.display().to_string()),
        };
        let place = old.find(&begin).zip(old.find(&end)).filter(|(begin, end)| begin < end);
        let new = match place {
            Some((start, stop)) => {
                format!("{}{section}{}", &old[..start], &old[stop + end.len()..])
            }
            None => format!("{}\n\n## {name}\n\n{section}\n", old.trim_end()),
        };
        std::fs::write(document, new.trim_start()).context(document.display().to_string())
    }
}

fn grouped(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    let digits = match ms {
        ms if ms < 10.0 => 2,
        ms if ms < 100.0 => 1,
        _ => 0,
    };
    format!("{ms:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut latency = Histogram::default();
        for ms in 1..=100 {
            latency.record(Duration::from_millis(ms));
        }
        let row = Row {
            server: "relay".into(),
            case: "8 × 64".into(),
            operations: 25_000,
            took: Duration::from_secs(2),
            latency: Some(latency),
            cpu: Some(Duration::from_millis(1500)),
            ..Row::default()
        };
        Table { scenario: "events".into(), rows: vec![row] }
    }

    #[test]
    fn a_row_says_rate_percentiles_and_cost() {
        let text = table().markdown();
        assert!(text.contains("12 500"), "{text}");
        assert!(text.contains("60.0"), "CPU per operation: {text}");
        assert!(!text.contains("RSS"), "a column without values: {text}");
        let json = table().json();
        assert_eq!(json["rows"][0]["per_second"], 12_500.0);
        assert!(json["rows"][0]["latency_us"]["p99"].as_f64().unwrap() >= 99_000.0);
    }

    #[test]
    fn a_section_is_replaced_and_the_rest_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("b.md");
        std::fs::write(&file, "# Head\n").unwrap();
        table().write_into(&file, "first", "day 1").unwrap();
        let other = Table { scenario: "locks".into(), ..table() };
        other.write_into(&file, "locks", "day 1").unwrap();
        table().write_into(&file, "second", "day 2").unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("# Head\n\n## events\n\n<!-- relay-bench events -->\n`second`"));
        assert!(!text.contains("first") && text.contains("`locks`"));
        assert_eq!(text.matches("12 500").count(), 2);
    }
}
