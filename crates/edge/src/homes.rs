//! What belongs to another home is forwarded there and answered with the home's answer
//! (`federation.md`, Homes).
//!
//! - [`pass`]: requests over HTTP, before their handlers see them
//! - [`publish`]: events, each to the home of its namespace
//! - `carry`: a request and its answer on a link
//! - `door`: the other side: what relays forward here
//! - `tail`: a stream of a home, resumed when the way to it breaks
//!
//! The home trusts this relay for transport only: events prove themselves, and who else asks is known
//! by a grant that the user signed for this relay ([`Speaker`]). Nothing of what is forwarded is kept here.

mod carry;
mod door;
mod tail;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use relay_core::{
    events::{Lane, Published},
    policy::Principal,
};
use relay_node::Node;
use relay_proto::{
    Code, Filter, Namespace, Problem, RawEvent, RelayId, auth::verify_grant, event::verify,
};
use serde::Deserialize;

use crate::{
    auth::{self, Caller, Proof},
    body,
    held::{Held, over_problem},
    params::Params,
    reply::{Refused, Reply},
};

pub(crate) use carry::{exchange, frame_answer, of as carried, response};
pub(crate) use door::{FromRelay, HomeDoor};
pub(crate) use relay_node::homes::wire::Carried;
pub(crate) use tail::{Piece, Tail};

/// Names the home in answers that came from there.
pub(crate) const HOME_HEADER: &str = "relay-home";
/// Carries a grant where no session does.
pub(crate) const GRANT_HEADER: &str = "relay-grant";
/// Events of one forwarded request: well below what a link takes as one message.
const MAX_EVENTS: usize = 256;
const MAX_BYTES: usize = 512 << 10;

/// Who a caller is, not to be found out again by the handler that the request goes on to.
#[derive(Debug, Clone)]
pub(crate) struct Known(pub Caller);

/// A caller as a home will know it.
#[derive(Debug, Clone)]
pub(crate) struct Speaker {
    pub principal: Principal,
    /// As the user gave it; looked at whenever it is used.
    pub grant: Option<Arc<str>>,
}

impl Speaker {
    /// The caller of a request: the grant that came with it counts more than the session's.
    pub fn of(headers: &HeaderMap, caller: &Caller) -> Self {
        let given = headers.get(GRANT_HEADER).and_then(|grant| grant.to_str().ok()).map(Arc::from);
        let grant = given.or_else(|| match &caller.proof {
            Proof::Session(session) => session.grant(),
            _ => None,
        });
        Self { principal: caller.principal, grant }
    }

    /// The grant, if it lets this relay speak for the caller now.
    pub fn grant(&self, node: &Node) -> Option<String> {
        let Principal::Key(key) = self.principal else { return None };
        let grant = self.grant.as_deref()?;
        let claims = verify_grant(grant, &node.identity.relay_id, now_ms(node)).ok()?;
        (claims.user_id == key).then(|| grant.to_owned())
    }

    /// As [`Self::grant`], for what no home does without.
    ///
    /// # Errors
    /// `unauthorized`, with the relay that a grant has to name as `grant_for`.
    pub fn need_grant(&self, node: &Node) -> Result<String, Problem> {
        if self.principal == Principal::Anonymous {
            return Err(Problem::unauthorized(
                "a lock belongs to a key: start a session or sign the request",
            ));
        }
        self.grant(node).ok_or_else(|| grant_missing(node))
    }

    /// A home's refusal as the caller is told it: whom the home did not know, it may know by a grant.
    pub fn told(&self, node: &Node, refusal: Problem) -> Problem {
        let is_refused = matches!(refusal.code, Code::Unauthorized | Code::Forbidden);
        let has_key = self.principal != Principal::Anonymous;
        if is_refused && has_key && self.grant(node).is_none() {
            return grant_missing(node);
        }
        refusal
    }
}

fn grant_missing(node: &Node) -> Problem {
    let me = node.identity.relay_id.as_str();
    let message = format!("this goes to another relay: it needs your grant for '{me}'");
    Problem::unauthorized(message).with("grant_for", me)
}

/// Where a request belongs.
enum Place {
    Here(Request),
    /// At this home; the body is read.
    There(RelayId, Parts, Bytes),
    /// It names no namespace: here, else at any home that knows it.
    Anywhere(Request),
}

/// Lets a request through that is for this relay, and forwards any other.
pub(crate) async fn pass(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    if node.homes.all_here() {
        return next.run(request).await;
    }
    let outcome = match locate(&node, request).await {
        Ok(Place::Here(request)) => return next.run(request).await,
        Ok(Place::There(home, parts, body)) => forward(&node, home, parts, &body).await,
        Ok(Place::Anywhere(request)) => look_everywhere(&node, request, next).await,
        Err(problem) => Err(problem.into()),
    };
    outcome.unwrap_or_else(IntoResponse::into_response)
}

async fn locate(node: &Node, request: Request) -> Result<Place, Problem> {
    #[derive(Deserialize)]
    struct Named {
        ns: Option<Namespace>,
    }
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let is_lock = path.starts_with("/v1/lock");
    if parts.method == Method::POST && is_lock {
        let bytes = body::read(&parts.headers, body, body::SMALL).await?;
        // What cannot be read is for the handler to refuse.
        let named: Option<Named> = body::parse(&bytes).ok();
        let home = named.and_then(|named| node.homes.of(&named.ns.unwrap_or_default()));
        return place(node, home.cloned(), parts, bytes);
    }
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Ok(Place::Here(Request::from_parts(parts, body)));
    }
    let mut names: Vec<Namespace> = Params::parse(parts.uri.query())?.list("ns")?;
    if names.is_empty() && is_lock {
        names.push(Namespace::default());
    }
    if names.is_empty() {
        let single = path.strip_prefix("/v1/events/");
        let single = single.is_some_and(|rest| !matches!(rest, "" | "count" | "stream"));
        let from_relay = parts.extensions.get::<FromRelay>().is_some();
        let request = Request::from_parts(parts, body);
        return Ok(if single && !from_relay {
            Place::Anywhere(request)
        } else {
            Place::Here(request)
        });
    }
    let home = one_home(node, &names)?;
    let bytes = body::read(&parts.headers, body, body::SMALL).await?;
    place(node, home, parts, bytes)
}

fn place(node: &Node, home: Option<RelayId>, parts: Parts, bytes: Bytes) -> Result<Place, Problem> {
    match home {
        None => Ok(Place::Here(Request::from_parts(parts, Body::from(bytes)))),
        Some(home) if parts.extensions.get::<FromRelay>().is_some() => Err(loops(node, &home)),
        Some(home) => Ok(Place::There(home, parts, bytes)),
    }
}

/// Another relay takes this one for the home, and this one takes a third for it.
pub(crate) fn loops(node: &Node, home: &RelayId) -> Problem {
    let me = &node.identity.relay_id;
    let message = format!("'{me}' is not the home of this: for '{me}' it is '{home}'");
    Problem::new(Code::LoopDetected, message)
}

/// The one home of all these namespaces; `None` is this relay.
///
/// # Errors
/// `invalid_request` where there are several.
fn one_home(node: &Node, names: &[Namespace]) -> Result<Option<RelayId>, Problem> {
    let mut homes = names.iter().map(|ns| node.homes.of(ns));
    let first = homes.next().flatten();
    if homes.any(|home| home != first) {
        let message = "these namespaces have several homes: ask for those of one at a time";
        return Err(Problem::invalid(message));
    }
    Ok(first.cloned())
}

/// The home of what filters name; those that name no namespace are about this relay.
///
/// # Errors
/// As [`one_home`].
pub(crate) fn home_of_filters(node: &Node, filters: &[Filter]) -> Result<Option<RelayId>, Problem> {
    if node.homes.all_here() {
        return Ok(None);
    }
    let here = |filter: &Filter| filter.ns.is_empty();
    let names: Vec<Namespace> = filters.iter().flat_map(|filter| filter.ns.clone()).collect();
    let home = one_home(node, &names)?;
    if home.is_some() && filters.iter().any(here) {
        let message = "a filter without 'ns' is about this relay, another names another home";
        return Err(Problem::invalid(message));
    }
    Ok(home)
}

async fn forward(node: &Arc<Node>, home: RelayId, parts: Parts, body: &Bytes) -> Reply {
    let caller = auth::caller(node, &parts, body).await?;
    let speaker = Speaker::of(&parts.headers, &caller);
    let changes = parts.method == Method::POST;
    let grant = if changes { Some(speaker.need_grant(node)?) } else { speaker.grant(node) };
    let carried = carry::of(&parts, body)?;
    let mut held = Held::of(node, &caller);
    if matches!(parts.uri.path(), "/v1/events/stream" | "/v1/lock-watch") {
        let known_as = speaker.clone();
        let tail = match Tail::open(node.clone(), home.clone(), carried, speaker).await? {
            Ok(tail) => tail,
            Err(refusal) => return Ok(named(told(node, &known_as, refusal).await, &home)),
        };
        return Ok(named(tail.into_response(held), &home));
    }
    let answer = tokio::select! {
        biased;
        over = held.over() => return Err(over_problem(over).into()),
        answer = exchange(node, &home, &carried, grant) => answer?,
    };
    Ok(named(told(node, &speaker, answer).await, &home))
}

/// A home's answer as the caller gets it; see [`Speaker::told`].
async fn told(node: &Node, speaker: &Speaker, answer: Response) -> Response {
    if !matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return answer;
    }
    match frame_answer(answer).await {
        Err(refusal) => refused(speaker.told(node, refusal)),
        Ok(_) => refused(Problem::new(Code::InternalError, "the home's answer cannot be read")),
    }
}

/// What names no namespace is looked for here first, then at the homes in turn.
async fn look_everywhere(node: &Arc<Node>, request: Request, next: Next) -> Reply {
    let (mut parts, body) = request.into_parts();
    // Found out once: a signed request is good once.
    let caller = auth::caller(node, &parts, &[]).await?;
    let grant = Speaker::of(&parts.headers, &caller).grant(node);
    let carried = carry::of(&parts, &Bytes::new())?;
    parts.extensions.insert(Known(caller));
    let mut answer = next.run(Request::from_parts(parts, body)).await;
    for home in node.homes.others() {
        if answer.status() != StatusCode::NOT_FOUND {
            break;
        }
        answer = named(exchange(node, home, &carried, grant.clone()).await?, home);
    }
    Ok(answer)
}

/// Says which home an answer is from, where it is another.
pub(crate) fn named<'a>(mut answer: Response, home: impl Into<Option<&'a RelayId>>) -> Response {
    let value = home.into().map(|home| HeaderValue::from_str(home.as_str()));
    if let Some(Ok(value)) = value {
        answer.headers_mut().insert(HOME_HEADER, value);
    }
    answer
}

/// Answers a frame about a namespace of another home; `None` where this relay is its home.
///
/// # Errors
/// `unauthorized` without a grant.
pub(crate) fn lock_frame(
    node: &Node,
    speaker: &Speaker,
    t: &str,
    body: &str,
) -> Result<Option<(RelayId, Carried)>, Problem> {
    #[derive(Deserialize)]
    struct Named {
        ns: Option<Namespace>,
        resource: Option<String>,
    }
    if node.homes.all_here() {
        return Ok(None);
    }
    let Named { ns, resource } = body::parse(body.as_bytes())?;
    let ns = ns.unwrap_or_default();
    let Some(home) = node.homes.of(&ns).cloned() else { return Ok(None) };
    let resource = resource.as_deref();
    let carried = match t {
        "lock.inspect" => {
            let resource = encode(resource.unwrap_or_default());
            Carried::get(format!("/v1/locks/{resource}?ns={ns}"))
        }
        "lock.watch" => {
            let resource = resource.map(|name| format!("&resource={}", encode(name)));
            Carried::get(format!("/v1/lock-watch?ns={ns}{}", resource.unwrap_or_default()))
        }
        _ => {
            let verb = t.strip_prefix("lock.").unwrap_or(t);
            speaker.need_grant(node)?;
            Carried::post(format!("/v1/locks/{verb}"), body)?
        }
    };
    Ok(Some((home, carried)))
}

/// Percent-encodes one value of a URL.
fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Publishes each event at the home of its namespace; one outcome for each, in their order.
///
/// `from_relay` says that another relay takes this one for the home of all of them.
pub(crate) async fn publish(
    node: &Arc<Node>,
    lane: Lane,
    raws: Vec<RawEvent>,
    from_relay: bool,
) -> Vec<Result<Published, Problem>> {
    if node.homes.all_here() {
        return node.events.publish(lane, raws).await;
    }
    let mut here = Vec::new();
    let mut groups: Vec<(RelayId, Vec<usize>, Vec<RawEvent>)> = Vec::new();
    let mut outcomes: Vec<Option<Result<Published, Problem>>> = Vec::with_capacity(raws.len());
    let mut local = Vec::new();
    for (index, raw) in raws.into_iter().enumerate() {
        outcomes.push(None);
        match node.homes.of(raw.namespace()) {
            None => {
                here.push(index);
                local.push(raw);
            }
            Some(home) if from_relay => {
                if let Some(outcome) = outcomes.last_mut() {
                    *outcome = Some(Err(loops(node, home)));
                }
            }
            Some(home) => match groups.iter_mut().find(|(known, ..)| known == home) {
                Some((_, places, raws)) => {
                    places.push(index);
                    raws.push(raw);
                }
                None => groups.push((home.clone(), vec![index], vec![raw])),
            },
        }
    }
    let there = groups
        .into_iter()
        .map(|(home, places, raws)| async move { (places, publish_at(node, &home, raws).await) });
    let (stored, there) = tokio::join!(
        async {
            if local.is_empty() { Vec::new() } else { node.events.publish(lane, local).await }
        },
        futures_util::future::join_all(there),
    );
    let decided = there.into_iter().flat_map(|(places, done)| places.into_iter().zip(done));
    for (place, outcome) in here.into_iter().zip(stored).chain(decided) {
        if let Some(slot) = outcomes.get_mut(place) {
            *slot = Some(outcome);
        }
    }
    let missing = || Err(Problem::new(Code::InternalError, "no outcome"));
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
}

/// Publishes events at one other home, after they were found good here, in their order.
async fn publish_at(
    node: &Arc<Node>,
    home: &RelayId,
    raws: Vec<RawEvent>,
) -> Vec<Result<Published, Problem>> {
    // A full batch takes milliseconds to verify: not on a thread that serves sockets.
    let verified = tokio::task::spawn_blocking(move || {
        raws.into_iter().map(|raw| verify(raw).map_err(Problem::from)).collect::<Vec<_>>()
    });
    let Ok(verified) = verified.await else {
        return Vec::new();
    };
    let mut outcomes: Vec<Option<Result<Published, Problem>>> = Vec::with_capacity(verified.len());
    let mut good = Vec::new();
    for (index, event) in verified.into_iter().enumerate() {
        match event {
            Ok(event) => {
                outcomes.push(None);
                good.push((index, event));
            }
            Err(problem) => outcomes.push(Some(Err(problem))),
        }
    }
    let mut rest = &good[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(MAX_EVENTS).take_while(|(_, event)| {
            bytes += event.json().len();
            bytes <= MAX_BYTES
        });
        let (part, later) = rest.split_at(fits.count().max(1));
        rest = later;
        let events: Vec<&Bytes> = part.iter().map(|(_, event)| event.json()).collect();
        let done = carry::publish(node, home, &events).await;
        for ((index, _), outcome) in part.iter().zip(done) {
            if let Some(slot) = outcomes.get_mut(*index) {
                *slot = Some(outcome);
            }
        }
    }
    let missing = || Err(Problem::new(Code::InternalError, "the home left out an outcome"));
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
}

/// Answers of a relay that is asked by frames.
pub(crate) async fn answer_frame(
    node: &Node,
    home: &RelayId,
    carried: &Carried,
    speaker: &Speaker,
) -> Result<Box<serde_json::value::RawValue>, Problem> {
    let answer = exchange(node, home, carried, speaker.grant(node)).await?;
    frame_answer(answer).await.map_err(|refusal| speaker.told(node, refusal))
}

fn now_ms(node: &Node) -> u64 {
    node.clock.wall_ns() / 1_000_000
}

/// A refusal as a response.
fn refused(problem: Problem) -> Response {
    Refused(problem).into_response()
}
