//! Everything that is asked with GET.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
};
use bytes::Bytes;
use prost::Message;
use relay_core::social::{
    ExploreQuestion, Filter, Freshness, SearchQuestion, Social, parse_filters,
};
use relay_node::Node;
use relay_proto::{
    Problem,
    polycentric::{
        FindClaimAndVouchRequest, PublicKey, QueryClaimToSystemRequest, QueryReferencesRequest,
        Ranges, RangesForSystem, RepeatedUInt64, SystemKey, decode_param, message_param,
    },
};
use relay_store::IndexQuery;
use serde_json::json;

use super::answer::{Keep, message, tag};
use crate::{
    params::Params,
    reply::{Refused, Reply, json as json_reply},
};

/// Entries of a page where the asker does not say.
const PAGE: usize = 10;
/// Longest answer of `/events` that counts as whole, in clocks.
const MAX_WHOLE: u64 = 512;

/// The parameters of a question.
struct Asked {
    params: Params,
    headers: HeaderMap,
}

impl Asked {
    fn of(request: Request) -> Result<Self, Problem> {
        let params = Params::parse(request.uri().query())?;
        let (parts, _) = request.into_parts();
        Ok(Self { params, headers: parts.headers })
    }

    fn message<M: Message + Default>(&self, name: &str) -> Result<M, Problem> {
        let text =
            self.params.get(name).ok_or_else(|| Problem::invalid(format!("{name} is missing")))?;
        message_param(text).map_err(|error| Problem::invalid(format!("{name}: {error}")))
    }

    fn system(&self) -> Result<SystemKey, Problem> {
        let key: PublicKey = self.message("system")?;
        SystemKey::from_message(&key).map_err(|error| Problem::invalid(format!("system: {error}")))
    }

    fn filters(&self) -> Result<Vec<Filter>, Problem> {
        parse_filters(self.params.get("moderation_filters")).map_err(Problem::invalid)
    }

    /// A decimal number; an absurd one is as good as the greatest.
    fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.params.get(name).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        if !text.bytes().all(|c| c.is_ascii_digit()) {
            return Err(Problem::invalid(format!("{name} is a decimal number")));
        }
        Ok(Some(text.parse().unwrap_or(u64::MAX)))
    }

    fn limit(&self) -> Result<usize, Problem> {
        Ok(self.number("limit")?.map_or(PAGE, |limit| limit.min(1_000) as usize))
    }

    fn cursor(&self) -> Result<Option<Bytes>, Problem> {
        let text = self.params.get("cursor").filter(|text| !text.is_empty());
        text.map(|text| {
            decode_param(text).map_err(|error| Problem::invalid(format!("cursor: {error}")))
        })
        .transpose()
    }
}

/// Goes on with the tag, or answers that nothing changed.
macro_rules! unless_unchanged {
    ($node:expr, $asked:expr, $of:expr, $keep:expr) => {
        match tag($node, &$asked.headers, $of, $keep).await? {
            Ok(tag) => tag,
            Err(unchanged) => return Ok(unchanged),
        }
    };
}

/// `GET /ranges`.
pub(super) async fn ranges(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let asked = Asked::of(request)?;
    let system = asked.system()?;
    let tag = unless_unchanged!(&node, asked, &Freshness::System(system), Keep::Asking);
    let answer = node.social.ranges(system).await?;
    Ok(message(&node, &answer, Some(tag), Keep::Asking))
}

/// `GET /events`.
pub(super) async fn events(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let asked = Asked::of(request)?;
    let system = asked.system()?;
    let wanted: RangesForSystem = asked.message("ranges")?;
    let filters = asked.filters()?;
    let tag = unless_unchanged!(&node, asked, &Freshness::System(system), Keep::Shared);
    let answer = node.social.events(system, &wanted, &filters).await?;
    let is_whole = clocks(&wanted) == answer.events.len() as u64;
    let immutable = node.config.social.immutable_ranges && is_whole && filters.is_empty();
    let keep = if immutable { Keep::Immutable } else { Keep::Shared };
    Ok(message(&node, &answer, Some(tag), keep))
}

/// How many events a question asks for, where it is one that can be answered whole.
fn clocks(wanted: &RangesForSystem) -> u64 {
    let mut all = 0_u64;
    for of in &wanted.ranges_for_processes {
        let Ok(ranges) = Ranges::from_wire(&of.ranges) else { return u64::MAX };
        all = all.saturating_add(ranges.count());
    }
    if all == 0 || all > MAX_WHOLE { u64::MAX } else { all }
}

/// `GET /head`.
pub(super) async fn head(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let asked = Asked::of(request)?;
    let system = asked.system()?;
    let filters = asked.filters()?;
    let tag = unless_unchanged!(&node, asked, &Freshness::System(system), Keep::Shared);
    let answer = node.social.head(system, &filters).await?;
    Ok(message(&node, &answer, Some(tag), Keep::Shared))
}

/// `GET /query_latest`.
pub(super) async fn latest(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let asked = Asked::of(request)?;
    let system = asked.system()?;
    let types: RepeatedUInt64 = asked.message("event_types")?;
    let tag = unless_unchanged!(&node, asked, &Freshness::System(system), Keep::Shared);
    let answer = node.social.latest(system, types.numbers).await?;
    Ok(message(&node, &answer, Some(tag), Keep::Shared))
}

/// `GET /query_index`.
pub(super) async fn index(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let asked = Asked::of(request)?;
    let query = IndexQuery {
        system: asked.system()?,
        content_type: asked
            .number("content_type")?
            .ok_or_else(|| Problem::invalid("content_type is missing"))?,
        before_ms: asked.number("after")?,
        limit: asked.limit()?,
    };
    let filters = asked.filters()?;
    let tag = unless_unchanged!(&node, asked, &Freshness::System(query.system), Keep::Shared);
    let answer = node.social.index(query, filters).await?;
    Ok(message(&node, &answer, Some(tag), Keep::Shared))
}

/// `GET /query_references`.
pub(super) async fn references(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let asked = Asked::of(request)?;
    let query: QueryReferencesRequest = asked.message("query")?;
    let filters = asked.filters()?;
    let of = Social::freshness_of(&query)?;
    let tag = unless_unchanged!(&node, asked, &of, Keep::Shared);
    let answer = node.social.references(&query, filters).await?;
    Ok(message(&node, &answer, Some(tag), Keep::Shared))
}

/// `GET /explore`.
pub(super) async fn explore(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let asked = Asked::of(request)?;
    let (limit, cursor) = (asked.limit()?, asked.cursor()?);
    let question = ExploreQuestion { limit, cursor, filters: asked.filters()? };
    // Posts from the near future become visible without a change, so the answer has no tag.
    let answer = node.social.explore(question).await?;
    Ok(message(&node, &answer, None, Keep::Seconds(5)))
}

/// `GET /search`.
pub(super) async fn search(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let asked = Asked::of(request)?;
    let profiles = match asked.params.get("search_type") {
        None | Some("" | "messages") => false,
        Some("profiles") => true,
        Some(_) => return Err(Problem::invalid("search_type is messages or profiles").into()),
    };
    let text = asked.params.get("search");
    let question = SearchQuestion {
        text: text.ok_or_else(|| Problem::invalid("search is missing"))?.to_owned(),
        profiles,
        limit: asked.limit()?,
        cursor: asked.cursor()?,
        filters: asked.filters()?,
    };
    let tag = unless_unchanged!(&node, asked, &Freshness::Everything, Keep::Asking);
    let answer = node.social.search(question).await?;
    Ok(message(&node, &answer, Some(tag), Keep::Asking))
}

/// `GET /top_string_references`.
pub(super) async fn topics(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let asked = Asked::of(request)?;
    let query = asked.params.get("query").filter(|query| !query.is_empty());
    let range = asked.params.get("time_range");
    let answer = node.social.top_topics(query, asked.limit()?, range).await?;
    Ok(message(&node, &answer, None, Keep::Seconds(60)))
}

/// `GET /recommended_profiles`.
pub(super) async fn recommended_profiles(State(node): State<Arc<Node>>) -> Reply {
    // Others each time; the clock's low digits are random enough for that.
    let answer = node.social.recommended_profiles(node.clock.wall_ns() / 1_000).await?;
    Ok(message(&node, &answer, None, Keep::Seconds(5)))
}

/// `GET /resolve_claim`.
pub(super) async fn resolve_claim(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let asked = Asked::of(request)?;
    let query: QueryClaimToSystemRequest = asked.message("query")?;
    let tag = unless_unchanged!(&node, asked, &Freshness::Everything, Keep::Shared);
    let answer = node.social.resolve_claim(query).await?;
    Ok(message(&node, &answer, Some(tag), Keep::Shared))
}

/// `GET /find_claim_and_vouch`.
pub(super) async fn find_claim_and_vouch(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let asked = Asked::of(request)?;
    let query: FindClaimAndVouchRequest = asked.message("query")?;
    let tag = unless_unchanged!(&node, asked, &Freshness::Everything, Keep::Asking);
    let answer = node.social.find_claim_and_vouch(query).await?;
    Ok(message(&node, &answer, Some(tag), Keep::Asking))
}

/// `GET /resolve_handle`.
pub(super) async fn resolve_handle(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let asked = Asked::of(request)?;
    let handle = asked.params.get("handle").ok_or_else(|| Problem::invalid("handle is missing"))?;
    let system = node.social.resolve_handle(handle).await?;
    Ok(message(&node, &system.to_message(), None, Keep::Asking))
}

/// `GET /version`: the web app takes a URL for a server where this has a text `sha`.
pub(super) async fn version() -> Result<axum::response::Response, Refused> {
    let sha = concat!("relay-", env!("CARGO_PKG_VERSION"));
    Ok(json_reply(StatusCode::OK, &json!({ "sha": sha })))
}
