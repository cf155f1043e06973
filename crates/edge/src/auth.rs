//! Who asks: the local socket, a bearer token, a signed request, or nobody in particular
//! (`common.md`, Authentication).

use std::{net::IpAddr, sync::Arc};

use axum::http::{HeaderMap, header, request::Parts};
use relay_core::{
    policy::{Pattern, Principal},
    sessions::LiveSession,
};
use relay_node::Node;
use relay_proto::{
    Code, Problem, RelayId,
    auth::{DeviceId, OperatorToken, SessionToken, SignedRequest},
};
use relay_store::TokenPurpose;

use crate::{homes::Known, peer::Peer};

/// Who sent a request, and how that is known.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub principal: Principal,
    pub proof: Proof,
}

#[derive(Debug, Clone)]
pub(crate) enum Proof {
    None,
    /// The kernel says that the other end of the local socket is the relay's own user or root.
    LocalSocket,
    Session(Arc<LiveSession>),
    SignedRequest,
    /// Another relay asks on its user's grant.
    Grant {
        device: DeviceId,
        relay: RelayId,
    },
    Token(TokenPurpose),
}

impl Caller {
    /// The session that a request has to come with.
    ///
    /// # Errors
    /// `unauthorized`.
    pub fn session(&self) -> Result<&Arc<LiveSession>, Problem> {
        match &self.proof {
            Proof::Session(session) => Ok(session),
            _ => Err(Problem::unauthorized("invalid session_token")),
        }
    }

    /// Lets only those pass who administer everything in `pattern`.
    ///
    /// # Errors
    /// `unauthorized` for nobody in particular, else `forbidden`.
    pub fn need_admin(&self, node: &Node, pattern: &Pattern) -> Result<(), Problem> {
        if node.policy.administers(&self.principal, pattern) {
            return Ok(());
        }
        let problem = match self.principal {
            Principal::Anonymous => Problem::unauthorized("this is for admins: prove who you are"),
            _ => Problem::forbidden(format!("this is for admins of '{pattern}'")),
        };
        node.audit.refused(&self.principal.to_string(), "admin", &pattern.to_string(), &problem);
        Err(problem)
    }
}

/// Finds out who sent a request.
///
/// # Errors
/// `unauthorized` where a proof was given that does not hold; no proof at all is [`Principal::Anonymous`].
pub(crate) async fn identify(
    node: &Node,
    parts: &Parts,
    body: &[u8],
) -> Result<Principal, Problem> {
    caller(node, parts, body).await.map(|caller| caller.principal)
}

/// As [`identify`], and tells how it is known.
///
/// # Errors
/// As [`identify`]; `rate_limited` where an address keeps guessing.
pub(crate) async fn caller(node: &Node, parts: &Parts, body: &[u8]) -> Result<Caller, Problem> {
    if let Some(Known(caller)) = parts.extensions.get() {
        return Ok(caller.clone());
    }
    let outcome = match parts.headers.get(header::AUTHORIZATION) {
        None => return Ok(by_peer(parts)),
        Some(value) => match value.to_str().ok().and_then(|text| text.split_once(' ')) {
            Some((scheme, rest)) => by_scheme(node, parts, body, scheme, rest.trim()).await,
            None => Err(Problem::unauthorized("the Authorization header cannot be read")),
        },
    };
    if let Err(problem) = &outcome
        && problem.code == Code::Unauthorized
    {
        let address = client_address(node, parts);
        node.audit.refused(&address.to_string(), "authenticate", parts.uri.path(), problem);
        node.sessions.count_address(address)?;
    }
    outcome
}

fn by_peer(parts: &Parts) -> Caller {
    match parts.extensions.get::<Peer>() {
        Some(Peer::Local { operator: true, .. }) => {
            Caller { principal: Principal::Operator, proof: Proof::LocalSocket }
        }
        _ => Caller { principal: Principal::Anonymous, proof: Proof::None },
    }
}

async fn by_scheme(
    node: &Node,
    parts: &Parts,
    body: &[u8],
    scheme: &str,
    rest: &str,
) -> Result<Caller, Problem> {
    if scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("session") {
        by_token(node, rest).await
    } else if scheme.eq_ignore_ascii_case(relay_proto::auth::request::SCHEME) {
        by_signature(node, parts, body, rest)
    } else {
        Err(Problem::unauthorized("the Authorization schemes are Bearer and Relay"))
    }
}

async fn by_token(node: &Node, text: &str) -> Result<Caller, Problem> {
    if let Some(token) = OperatorToken::parse(text) {
        let purposes = [TokenPurpose::Admin, TokenPurpose::Metrics];
        let found = node.sessions.use_token(&token, &purposes).await?;
        let principal = match found.purpose {
            TokenPurpose::Admin => Principal::Operator,
            _ => Principal::Anonymous,
        };
        return Ok(Caller { principal, proof: Proof::Token(found.purpose) });
    }
    let token =
        SessionToken::parse(text).ok_or_else(|| Problem::unauthorized("invalid session_token"))?;
    let session = node.sessions.authenticate(&token).await?;
    Ok(Caller { principal: Principal::Key(session.user()), proof: Proof::Session(session) })
}

fn by_signature(node: &Node, parts: &Parts, body: &[u8], text: &str) -> Result<Caller, Problem> {
    let request = SignedRequest::parse(text, &node.event_limits())?;
    let urls = urls(node, parts);
    let method = parts.method.as_str();
    request.check_target(method, urls.iter().map(String::as_str), node.clock.wall_ns())?;
    request.check_body(body)?;
    node.sessions.spend(&request)?;
    Ok(Caller { principal: Principal::Key(request.author()), proof: Proof::SignedRequest })
}

/// The absolute URLs under which the client may know what it asked for.
///
/// Where a public URL is configured it is that one: the `Host` header is then believed only from
/// this machine, so that a relay in the middle cannot pass on what was signed for itself.
fn urls(node: &Node, parts: &Parts) -> Vec<String> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let config = node.live();
    let public = config.chat.public_url.trim_end_matches('/');
    let mut urls = Vec::with_capacity(2);
    if !public.is_empty() {
        urls.push(format!("{public}{target}"));
    }
    let peer = parts.extensions.get::<Peer>();
    let host = parts
        .uri
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| parts.headers.get(header::HOST)?.to_str().ok());
    if let Some(host) = host
        && (public.is_empty() || peer.is_some_and(Peer::is_loopback))
    {
        urls.push(format!("{}://{host}{target}", scheme(node, parts)));
    }
    urls
}

/// The URL under which the sender of a request reaches this relay.
pub(crate) fn own_url(node: &Node, parts: &Parts) -> String {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let first = urls(node, parts).into_iter().next().unwrap_or_default();
    first.strip_suffix(target).unwrap_or(&first).to_owned()
}

fn scheme<'a>(node: &Node, parts: &'a Parts) -> &'a str {
    let peer = parts.extensions.get::<Peer>();
    if matches!(peer, Some(Peer::Tcp { tls: true, .. })) {
        return "https";
    }
    let told = parts.headers.get("x-forwarded-proto").and_then(|proto| proto.to_str().ok());
    match told {
        Some("https") if peer.is_some_and(|peer| is_trusted_proxy(node, peer.ip())) => "https",
        _ => "http",
    }
}

/// Whether nobody on the way can read along: TLS here or at a trusted proxy, or the same machine.
pub(crate) fn is_encrypted(node: &Node, parts: &Parts) -> bool {
    let near = parts.extensions.get::<Peer>().is_some_and(Peer::is_loopback);
    scheme(node, parts) == "https" || near && !crate::info::forwarded(&parts.headers)
}

/// Where the client is: the peer, or who a trusted proxy says that it speaks for.
pub(crate) fn client_address(node: &Node, parts: &Parts) -> IpAddr {
    let peer = parts.extensions.get::<Peer>().copied();
    let Some(peer) = peer else { return IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED) };
    if !is_trusted_proxy(node, peer.ip()) {
        return peer.ip();
    }
    // Each proxy adds whom it saw at the end; what stands before an untrusted one is hearsay.
    let chain = forwarded_for(&parts.headers);
    chain.into_iter().rev().find(|ip| !is_trusted_proxy(node, *ip)).unwrap_or(peer.ip())
}

fn forwarded_for(headers: &HeaderMap) -> Vec<IpAddr> {
    let values = headers.get_all("x-forwarded-for").iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map_while(|part| part.trim().parse().ok())
        .collect()
}

fn is_trusted_proxy(node: &Node, address: IpAddr) -> bool {
    node.live().listen.trusted_proxies.iter().any(|network| network.contains(address))
}
