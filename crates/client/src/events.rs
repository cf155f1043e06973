//! Events: publishing and asking (`events.md`, HTTP).

use relay_proto::{
    Event, EventId, EventLimits, Filter, NodeId,
    event::{Draft, parse_event, verify},
};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    auth::unix_ns,
    client::{Body, Client, Request},
    error::Error,
};

/// The most events that one batch may hold.
pub const MAX_BATCH: usize = 1000;
/// The most bytes that one batch may hold.
pub const MAX_BATCH_BYTES: usize = 8 << 20;

/// What became of one published event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// The event's id; absent where the relay could not read one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<EventId>,
    /// The event's number in the relay's order; ephemeral events have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// What the relay did with it.
    pub status: PublishStatus,
    /// Whether it is now the latest of its coordinate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<bool>,
    /// Further members; of an error `code` and `message`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// What the relay did with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishStatus {
    /// It is on disk.
    Stored,
    /// It was there already, under the `seq` told.
    Duplicate,
    /// Ephemeral: handed to the subscribers, and not kept.
    Relayed,
    /// Refused; only in batches, where the others go on.
    Error,
}

/// The order of a query's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// As the relay received them; the only order whose last cursor can be followed live.
    Arrival,
    /// Last received first.
    ArrivalReverse,
    /// Oldest first, by the authors' clocks.
    Time,
    /// Newest first, by the authors' clocks.
    #[default]
    TimeReverse,
}

impl Order {
    /// The parameter's text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Arrival => "seq",
            Self::ArrivalReverse => "-seq",
            Self::Time => "time",
            Self::TimeReverse => "-time",
        }
    }
}

/// A question for events.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Which events.
    pub filter: Filter,
    /// Text to be found in `content`, where the relay has an index of it.
    pub text: Option<String>,
    /// Superseded versions too.
    pub history: bool,
    /// In which order.
    pub order: Order,
    /// Events a page; the relay's default is 100, its most 1000.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

impl Query {
    fn request(&self, path: &str) -> Request {
        let mut request = Request::get(path);
        request.query = filter_parameters(&self.filter);
        request.query("q", self.text.as_ref()).query("history", self.history.then_some(true))
    }
}

/// One page of an answer.
#[derive(Debug, Clone)]
pub struct Page {
    /// Verified events: id and signature were checked here.
    pub events: Vec<Event>,
    /// Where the next page begins. Absent on the last, except in [`Order::Arrival`].
    pub cursor: Option<String>,
}

/// One page as it came; nothing in it is verified.
#[derive(Debug, Deserialize)]
pub struct RawPage {
    /// Events as JSON text.
    pub events: Vec<Box<RawValue>>,
    /// As in [`Page`].
    pub cursor: Option<String>,
}

impl Client {
    /// Signs a draft with this client's key, dating it now where it has no time.
    ///
    /// # Errors
    /// [`Error::NoKey`], [`Error::Event`].
    pub fn sign(&self, draft: &Draft) -> Result<Event, Error> {
        let created_at_ns = if draft.created_at_ns == 0 { unix_ns() } else { draft.created_at_ns };
        self.signer()?.sign_event(&Draft { created_at_ns, ..draft.clone() })
    }

    /// Publishes one event. When it returns, the event is on the relay's disk (or, ephemeral, with
    /// its subscribers). Publishing again is harmless.
    ///
    /// ```no_run
    /// # async fn example(client: relay_client::Client) -> Result<(), relay_client::Error> {
    /// use relay_client::proto::event::{Draft, Tags};
    ///
    /// let note = Draft { kind: 1, content: "hello".into(), ..Draft::default() };
    /// let event = client.sign(&note)?;
    /// let answer = client.publish(&event).await?;
    /// println!("{} has number {:?}", event.id(), answer.seq);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The relay's refusal, and any [`Error`] of the transport.
    pub async fn publish(&self, event: &Event) -> Result<Published, Error> {
        let body = Body { media_type: "application/json", bytes: event.json().clone() };
        self.call(publishing(body)).await
    }

    /// Publishes up to [`MAX_BATCH`] events of at most [`MAX_BATCH_BYTES`] in one request; one
    /// refused event does not stop the others. The answers are in the order of the events.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), for the batch as a whole.
    pub async fn publish_batch(&self, events: &[Event]) -> Result<Vec<Published>, Error> {
        let bytes = events.iter().map(|event| event.json().len() + 1).sum();
        let mut lines = Vec::with_capacity(bytes);
        for event in events {
            lines.extend_from_slice(event.json());
            lines.push(b'\n');
        }
        self.publish_lines(lines.into()).await
    }

    /// Publishes a batch that is NDJSON already.
    ///
    /// # Errors
    /// As [`publish_batch`](Self::publish_batch).
    pub async fn publish_lines(&self, lines: bytes::Bytes) -> Result<Vec<Published>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            results: Vec<Published>,
        }
        let body = Body { media_type: "application/x-ndjson", bytes: lines };
        let answer: Answer = self.call(publishing(body)).await?;
        Ok(answer.results)
    }

    /// Asks for one page of events and verifies each.
    ///
    /// # Errors
    /// The relay's refusal; [`Error::Protocol`] where the relay sent an event that does not verify.
    pub async fn query(&self, query: &Query) -> Result<Page, Error> {
        let page = self.query_raw(query).await?;
        let events = page.events.iter().map(|json| self.verified(json.get()));
        Ok(Page { events: events.collect::<Result<_, _>>()?, cursor: page.cursor })
    }

    /// Asks for one page of events, and leaves them as they came.
    ///
    /// # Errors
    /// The relay's refusal, and any [`Error`] of the transport.
    pub async fn query_raw(&self, query: &Query) -> Result<RawPage, Error> {
        let request = query
            .request("/v1/events")
            .query("order", Some(query.order.as_str()))
            .query("limit", query.limit)
            .query("cursor", query.cursor.as_ref());
        self.call(request).await
    }

    /// How many events a query without limit would give.
    ///
    /// # Errors
    /// The relay's refusal, and any [`Error`] of the transport.
    pub async fn count(&self, query: &Query) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Answer {
            count: u64,
        }
        let answer: Answer = self.call(query.request("/v1/events/count")).await?;
        Ok(answer.count)
    }

    /// One event by its id.
    ///
    /// # Errors
    /// `not_found`; [`Error::Protocol`] where the relay sent another event.
    pub async fn get(&self, id: EventId) -> Result<Event, Error> {
        let json = self.fetch(Request::get(format!("/v1/events/{id}"))).await?;
        let event = self.verified(&String::from_utf8_lossy(&json))?;
        if event.id() == id {
            Ok(event)
        } else {
            Err(self.protocol_error(format!("asked for event {id}, got {}", event.id())))
        }
    }

    /// The latest event of a coordinate.
    ///
    /// # Errors
    /// `not_found`; [`Error::Protocol`] where the relay sent an event of another coordinate.
    pub async fn latest(&self, kind: u16, author: &NodeId, d: &str) -> Result<Event, Error> {
        let json = self.fetch(Request::get(address_path(kind, author, d))).await?;
        let event = self.verified(&String::from_utf8_lossy(&json))?;
        if event.kind() == kind && event.pubkey() == *author && event.d() == d {
            Ok(event)
        } else {
            Err(self.protocol_error(format!("{} is of another coordinate", event.id())))
        }
    }

    /// One page of the versions of a coordinate, newest first.
    ///
    /// # Errors
    /// The relay's refusal; [`Error::Protocol`] where an event does not verify.
    pub async fn versions(
        &self,
        kind: u16,
        author: &NodeId,
        d: &str,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Page, Error> {
        let path = format!("{}/history", address_path(kind, author, d));
        let request = Request::get(path).query("limit", limit).query("cursor", cursor);
        let page: RawPage = self.call(request).await?;
        let events = page.events.iter().map(|json| self.verified(json.get()));
        Ok(Page { events: events.collect::<Result<_, _>>()?, cursor: page.cursor })
    }

    /// Reads and verifies an event that the relay sent: it need not be trusted.
    pub(crate) fn verified(&self, json: &str) -> Result<Event, Error> {
        parse_event(json.as_bytes(), &received_limits())
            .and_then(verify)
            .map_err(|error| self.protocol_error(error.to_string()))
    }
}

/// What a relay may send: its operator may have raised its limits above the defaults.
pub(crate) fn received_limits() -> EventLimits {
    const ROOM: usize = 64 << 20;
    EventLimits {
        event_bytes: ROOM,
        content_bytes: ROOM,
        tags: ROOM,
        elements_per_tag: ROOM,
        element_bytes: ROOM,
        sshsig: true,
    }
}

/// The id that a draft has under an author.
pub fn event_id(draft: &Draft, author: &NodeId) -> EventId {
    EventId::from_bytes(*blake3::hash(&draft.canonical(author)).as_bytes())
}

fn publishing(body: Body) -> Request {
    Request {
        body: Some(body),
        repeatable: true,
        signed: false,
        ..Request::new(Method::POST, "/v1/events")
    }
}

fn address_path(kind: u16, author: &NodeId, d: &str) -> String {
    format!("/v1/events/address/{kind}/{author}/{}", encode_segment(d))
}

/// Percent-encodes everything that is not unreserved, so that a `/` in `d` stays one segment.
pub(crate) fn encode_segment(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn filter_parameters(filter: &Filter) -> Vec<(String, String)> {
    fn list<T: ToString>(items: &[T]) -> Option<String> {
        let texts: Vec<_> = items.iter().map(T::to_string).collect();
        (!texts.is_empty()).then(|| texts.join(","))
    }
    let mut parameters: Vec<(String, String)> = [
        ("ids", list(&filter.ids)),
        ("authors", list(&filter.authors)),
        ("kinds", list(&filter.kinds)),
        ("ns", list(&filter.ns)),
        ("since_ns", filter.since_ns.map(|ns| ns.to_string())),
        ("until_ns", filter.until_ns.map(|ns| ns.to_string())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect();
    for (tag, values) in &filter.tags {
        parameters.extend(values.iter().map(|value| (format!("tag.{tag}"), value.clone())));
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_becomes_parameters() {
        let mut filter = Filter { kinds: vec![1, 30001], since_ns: Some(5), ..Filter::default() };
        filter.add_tag("t", ["a".into(), "b".into()]);
        let want = [("kinds", "1,30001"), ("since_ns", "5"), ("tag.t", "a"), ("tag.t", "b")];
        let got = filter_parameters(&filter);
        let got: Vec<_> = got.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn a_d_value_is_one_segment() {
        assert_eq!(encode_segment("site/prod ä"), "site%2Fprod%20%C3%A4");
    }

    #[test]
    fn unknown_members_of_an_answer_are_kept() {
        let text = r#"{"code":"forbidden","id":null,"message":"no","status":"error"}"#;
        let answer: Published = serde_json::from_str(text).unwrap();
        assert_eq!(answer.status, PublishStatus::Error);
        assert_eq!(answer.more["code"], "forbidden");
    }
}
