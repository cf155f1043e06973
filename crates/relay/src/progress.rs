//! How far a long operation is: a bar at a terminal, lines elsewhere, NDJSON where asked for.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::times;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// A bar at a terminal, lines elsewhere
    Auto,
    /// NDJSON on stderr
    Json,
    /// Nothing
    None,
}

/// The progress of one operation, on stderr.
#[derive(Debug)]
pub struct Progress {
    name: &'static str,
    unit: &'static str,
    /// `None` where the end is not known.
    total: Option<u64>,
    begun: Instant,
    show: Show,
}

#[derive(Debug)]
enum Show {
    Bar(ProgressBar),
    Lines { told_at: Instant, told_percent: u64 },
    Json { told_at: Instant },
    Nothing,
}

/// Lines come this often where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
const JSON_EVERY: Duration = Duration::from_millis(500);
/// What is done sooner shows no bar.
const BAR_AFTER: Duration = Duration::from_secs(1);

impl Progress {
    pub fn new(
        name: &'static str,
        unit: &'static str,
        total: Option<u64>,
        mode: ProgressMode,
        plain: bool,
    ) -> Self {
        let now = Instant::now();
        let show = match mode {
            ProgressMode::None => Show::Nothing,
            ProgressMode::Json => Show::Json { told_at: now },
            ProgressMode::Auto if plain || !std::io::stderr().is_terminal() => {
                eprintln!("{name}: started");
                Show::Lines { told_at: now, told_percent: 0 }
            }
            ProgressMode::Auto => Show::Bar(bar(name, unit, total)),
        };
        Self { name, unit, total, begun: now, show }
    }

    /// `done` of the total, in units.
    pub fn set(&mut self, done: u64) {
        let percent = self.total.filter(|total| *total > 0).map(|total| done * 100 / total);
        let line = self.line(done, percent);
        match &mut self.show {
            Show::Bar(bar) => {
                if bar.is_hidden() && self.begun.elapsed() >= BAR_AFTER {
                    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
                }
                bar.set_position(done);
            }
            Show::Lines { told_at, told_percent } => {
                let step = percent.is_some_and(|percent| percent >= *told_percent + 10);
                if step || told_at.elapsed() >= LINE_EVERY {
                    eprintln!("{line}");
                    *told_at = Instant::now();
                    *told_percent = percent.map_or(0, |percent| percent - percent % 10);
                }
            }
            Show::Json { told_at } if told_at.elapsed() >= JSON_EVERY => {
                *told_at = Instant::now();
                self.json(done);
            }
            Show::Json { .. } | Show::Nothing => {}
        }
    }

    /// The end, with one closing line in words.
    pub fn finish(&mut self, done: u64, words: &str) {
        match &self.show {
            Show::Bar(bar) => {
                bar.finish_and_clear();
                eprintln!("{}: {words}", self.name);
            }
            Show::Lines { .. } => eprintln!("{}: {words}", self.name),
            Show::Json { .. } => self.json(done),
            Show::Nothing => {}
        }
    }

    /// Says something without tearing the bar.
    pub fn say(&self, text: &str) {
        match &self.show {
            Show::Bar(bar) => bar.suspend(|| eprintln!("{text}")),
            _ => eprintln!("{text}"),
        }
    }

    fn rate(&self, done: u64) -> f64 {
        done as f64 / self.begun.elapsed().as_secs_f64().max(0.001)
    }

    fn eta(&self, done: u64) -> Option<Duration> {
        let left = self.total?.checked_sub(done)?;
        let rate = self.rate(done);
        (rate > 0.0).then(|| Duration::try_from_secs_f64(left as f64 / rate).ok()).flatten()
    }

    fn line(&self, done: u64, percent: Option<u64>) -> String {
        let Self { name, unit, .. } = self;
        let rate = self.rate(done);
        let percent = percent.map(|percent| format!(" {percent}%")).unwrap_or_default();
        let eta =
            self.eta(done).map(|eta| format!(", eta {}", times::human(eta))).unwrap_or_default();
        format!("{name}:{percent} {done} {unit}, {rate:.0} {unit}/s{eta}")
    }

    fn json(&self, done: u64) {
        let eta_ms = self.eta(done).map(|eta| eta.as_millis() as u64);
        let line = json!({
            "type": "progress", "done": done, "total": self.total, "unit": self.unit,
            "rate": self.rate(done).round(), "eta_ms": eta_ms,
        });
        eprintln!("{line}");
    }
}

fn bar(name: &'static str, unit: &'static str, total: Option<u64>) -> ProgressBar {
    let known = "{msg}  [{bar:24.#>-}] {percent:>3}%  {pos}/{len} UNIT  {per_sec}  eta {eta}";
    let unknown = "{msg}  {spinner} {pos} UNIT  {per_sec}";
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), known),
        None => (ProgressBar::new_spinner(), unknown),
    };
    bar.set_draw_target(ProgressDrawTarget::hidden());
    let template = if unit == "bytes" {
        template
            .replace("{pos}/{len} UNIT", "{bytes}/{total_bytes}")
            .replace("{pos} UNIT", "{bytes}")
            .replace("{per_sec}", "{bytes_per_sec}")
    } else {
        template.replace("UNIT", unit)
    };
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("##-"));
    }
    bar.set_message(name);
    bar
}
