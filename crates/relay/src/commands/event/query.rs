//! `relay event query`, `count`, `get` and `addr`.

use clap::{Args, ValueEnum};
use relay_client::Order;
use relay_proto::{Event, EventId, NodeId};
use serde_json::{Value, json, value::RawValue};

use super::filters::Filters;
use crate::{
    app::App,
    error::{Failure, Outcome},
    ids, output,
};

pub const QUERY_EXAMPLES: &str = "\
Examples:
  relay event query --kind 1 --since 2h
  relay event query --tag t=release --limit 0 -o ndjson > releases.ndjson";
pub const COUNT_EXAMPLES: &str = "\
Examples:
  relay event count --kind 1
  relay event count --since 24h --json";
pub const GET_EXAMPLES: &str = "\
Examples:
  relay event get 9b87164ed03eacaff797a798b2382074ca02ca204a8ff5f1fbc1282e2999bc85
  relay event get 9b87164ed03eacaff797a798b2382074ca02ca204a8ff5f1fbc1282e2999bc85 --json";
pub const ADDR_EXAMPLES: &str = "\
Examples:
  relay event addr 30001 ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541 site/prod
  relay event addr 30001 ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541 site/prod --history";

/// The columns of a list of events.
const COLUMNS: [&str; 5] = ["id", "kind", "pubkey", "created_at_ns", "content"];
/// A page is at most this.
const PAGE: u32 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OrderArg {
    /// Oldest first, as the relay received them
    Seq,
    /// Newest first, as the relay received them
    #[value(name = "-seq")]
    SeqReverse,
    /// Oldest first, by the authors' clocks
    Time,
    /// Newest first, by the authors' clocks
    #[value(name = "-time")]
    TimeReverse,
}

impl From<OrderArg> for Order {
    fn from(order: OrderArg) -> Self {
        match order {
            OrderArg::Seq => Self::Arrival,
            OrderArg::SeqReverse => Self::ArrivalReverse,
            OrderArg::Time => Self::Time,
            OrderArg::TimeReverse => Self::TimeReverse,
        }
    }
}

#[derive(Debug, Args)]
pub struct Query {
    #[command(flatten)]
    filters: Filters,
    /// How many at most; 0 for all
    #[arg(long, default_value_t = 100)]
    limit: u64,
    #[arg(long, default_value = "-time", allow_hyphen_values = true)]
    order: OrderArg,
    /// Go on where an earlier answer ended
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(Debug, Args)]
pub struct Count {
    #[command(flatten)]
    filters: Filters,
}

#[derive(Debug, Args)]
pub struct Get {
    /// The event's id
    id: EventId,
}

#[derive(Debug, Args)]
pub struct Addr {
    /// Kind of the event
    kind: u16,
    /// Its author
    #[arg(value_parser = ids::parse_key)]
    author: NodeId,
    /// The value of its d tag
    d: String,
    /// All versions, newest first
    #[arg(long)]
    history: bool,
    /// How many versions at most
    #[arg(long, default_value_t = 100)]
    limit: u32,
}

impl Query {
    pub async fn run(self, app: &App) -> Outcome {
        let target = app.target()?;
        let client = app.client().await?;
        let mut query = self.filters.query(app, &target)?;
        query.order = self.order.into();
        query.cursor.clone_from(&self.cursor);
        let mut left = if self.limit == 0 { u64::MAX } else { self.limit };
        let mut all: Vec<Box<RawValue>> = Vec::new();
        let streamed = matches!(app.out.format, output::Format::Ndjson | output::Format::Raw)
            && app.out.fields.is_empty();
        let cursor = loop {
            query.limit = Some(u32::try_from(left).unwrap_or(PAGE).min(PAGE));
            let page =
                client.query_raw(&query).await.map_err(|error| Failure::of(error, "the query"))?;
            left -= left.min(page.events.len() as u64);
            let empty = page.events.is_empty();
            if streamed {
                output::write(&lines(&page.events))?;
            } else {
                all.extend(page.events);
            }
            query.cursor.clone_from(&page.cursor);
            if page.cursor.is_none() || empty || left == 0 {
                break page.cursor;
            }
        };
        if streamed {
            return Ok(0);
        }
        if app.out.format == output::Format::Json && app.out.fields.is_empty() {
            let cursor = cursor.map(|cursor| format!(",\"cursor\":{}", json!(cursor)));
            let events: Vec<_> = all.iter().map(|event| event.get()).collect();
            output::line(&format!(
                "{{\"events\":[{}]{}}}",
                events.join(","),
                cursor.unwrap_or_default()
            ))?;
            return Ok(0);
        }
        let items = all.iter().map(|event| value(event.get())).collect::<Result<Vec<_>, _>>()?;
        if items.is_empty() {
            app.advice("no events match; superseded versions are shown with --history");
        }
        let mut answer = json!({ "events": [] });
        if let Some(cursor) = cursor {
            answer["cursor"] = cursor.into();
        }
        app.out.list(&answer, &items, &COLUMNS)?;
        Ok(0)
    }
}

impl Count {
    pub async fn run(self, app: &App) -> Outcome {
        let target = app.target()?;
        let client = app.client().await?;
        let query = self.filters.query(app, &target)?;
        let count = client.count(&query).await.map_err(|error| Failure::of(error, "the count"))?;
        if app.out.is_json() {
            output::line(&json!({ "count": count }).to_string())?;
        } else {
            output::line(&count.to_string())?;
        }
        Ok(0)
    }
}

impl Get {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let event = client
            .get(self.id)
            .await
            .map_err(|error| Failure::of(error, &format!("event {}", self.id)))?;
        print(app, &event)
    }
}

impl Addr {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let Self { kind, author, d, .. } = &self;
        let name = format!("address {kind}:{author}:{d}");
        let failed = |error| Failure::of(error, &name);
        if !self.history {
            return print(app, &client.latest(*kind, author, d).await.map_err(failed)?);
        }
        let page =
            client.versions(*kind, author, d, Some(self.limit), None).await.map_err(failed)?;
        let items = page.events.iter().map(event_value).collect::<Result<Vec<_>, _>>()?;
        let answer = json!({ "events": items, "cursor": page.cursor });
        app.out.list(&answer, &items, &COLUMNS)?;
        Ok(0)
    }
}

fn print(app: &App, event: &Event) -> Outcome {
    if app.out.is_json() && app.out.fields.is_empty() || app.out.format == output::Format::Raw {
        output::line(&String::from_utf8_lossy(event.json()))?;
    } else {
        app.out.one(
            &event_value(event)?,
            &["id", "kind", "pubkey", "created_at_ns", "tags", "content"],
        )?;
    }
    Ok(0)
}

pub fn event_value(event: &Event) -> Result<Value, Failure> {
    value(&String::from_utf8_lossy(event.json()))
}

fn value(json: &str) -> Result<Value, Failure> {
    serde_json::from_str(json).map_err(|error| Failure::failed(error.to_string()))
}

fn lines(events: &[Box<RawValue>]) -> String {
    let mut text = String::with_capacity(events.iter().map(|event| event.get().len() + 1).sum());
    for event in events {
        text.push_str(event.get());
        text.push('\n');
    }
    text
}
