//! The filters that query, count, stream and export share.

use clap::Args;
use relay_client::Query;
use relay_proto::{EventId, Filter};

use crate::{
    app::{App, Target},
    error::Failure,
    ids, times,
};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Filters")]
pub struct Filters {
    /// With this id; repeatable, as are the others: any of them
    #[arg(long, value_name = "ID")]
    pub id: Vec<EventId>,
    /// Signed by this key
    #[arg(long, value_name = "KEY", value_parser = ids::parse_key)]
    pub author: Vec<relay_proto::NodeId>,
    /// Of this kind
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub kind: Vec<u16>,
    /// With a tag of this name and value
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_tag)]
    pub tag: Vec<(String, String)>,
    /// Not older: a time, or a duration ago
    #[arg(long, value_name = "TIME", value_parser = times::parse_time)]
    pub since: Option<u64>,
    /// Not newer
    #[arg(long, value_name = "TIME", value_parser = times::parse_time)]
    pub until: Option<u64>,
    /// Superseded versions too
    #[arg(long)]
    pub history: bool,
    /// With this text in the content
    #[arg(long, value_name = "Q")]
    pub text: Option<String>,
}

impl Filters {
    pub fn filter(&self, app: &App, target: &Target) -> Result<Filter, Failure> {
        let mut filter = Filter {
            ids: self.id.clone(),
            authors: self.author.clone(),
            kinds: self.kind.clone(),
            ns: app.chosen_ns(target)?.into_iter().collect(),
            since_ns: self.since,
            until_ns: self.until,
            ..Filter::default()
        };
        for (name, value) in &self.tag {
            filter.add_tag(name, [value.clone()]);
        }
        Ok(filter)
    }

    pub fn query(&self, app: &App, target: &Target) -> Result<Query, Failure> {
        Ok(Query {
            filter: self.filter(app, target)?,
            text: self.text.clone(),
            history: self.history,
            ..Query::default()
        })
    }
}

/// Reads `name=value`.
pub fn parse_tag(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "write NAME=VALUE".to_owned())
}
