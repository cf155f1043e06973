//! What is sent with POST: events, proofs, handles, censorship.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use relay_core::social::Social;
use relay_node::Node;
use relay_proto::{
    Problem,
    auth::OperatorToken,
    polycentric::{ClaimHandleRequest, HarborValidateRequest, decode_message},
};
use relay_store::TokenPurpose;

use super::answer::{Keep, message};
use crate::{auth, body, params::Params, reply::Reply};

/// `POST /events`.
pub(super) async fn ingest(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let limit = node.config.social.max_body.0 as usize;
    let (parts, body) = request.into_parts();
    let told = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .unwrap_or(limit);
    // Held until the events are stored: what all requests together keep in memory is bounded.
    let _room = node.social.room(told.min(limit)).await;
    let body = body::read(&parts.headers, body, limit).await?;
    node.social.ingest(body, auth::client_address(&node, &parts)).await?;
    Ok(done())
}

/// `GET /challenge`.
pub(super) async fn challenge(State(node): State<Arc<Node>>) -> Reply {
    let random = node.random_bytes();
    Ok(message(&node, &node.social.challenge(random), None, Keep::Never))
}

/// `POST /purge`.
pub(super) async fn purge(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, body) = read_small(request).await?;
    let proof: HarborValidateRequest = decode_message(body).map_err(malformed)?;
    let purged = node.social.purge(&proof).await;
    let address = auth::client_address(&node, &parts).to_string();
    match &purged {
        Ok(system) => {
            node.audit.done(&system.to_string(), "social.purge", &system.to_string(), None).await?;
        }
        Err(problem) => node.audit.refused(&address, "social.purge", "", problem),
    }
    purged?;
    Ok(done())
}

/// `POST /claim_handle`.
pub(super) async fn claim_handle(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, body) = read_small(request).await?;
    let claim: ClaimHandleRequest = decode_message(body).map_err(malformed)?;
    node.social.claim_handle(&claim, auth::client_address(&node, &parts)).await?;
    Ok(done())
}

/// `POST /censor`: the header holds nothing but an admin's token.
pub(super) async fn censor(State(node): State<Arc<Node>>, request: Request) -> Reply {
    let (parts, body) = read_small(request).await?;
    check_admin(&node, &parts).await?;
    let params = Params::parse(parts.uri.query())?;
    let refuse = match params.get("censorship_type") {
        Some("do_not_recommend") => false,
        Some("refuse_storage") => true,
        _ => {
            let message = "censorship_type is do_not_recommend or refuse_storage";
            return Err(Problem::invalid(message).into());
        }
    };
    let url = std::str::from_utf8(&body).map_err(|_| Problem::invalid("the body is a URL"))?;
    let what = Social::parse_link(url)?;
    node.social.censor(what, refuse).await?;
    node.audit.done("operator", "social.censor", &format!("{what:?}"), None).await?;
    Ok(done())
}

async fn check_admin(node: &Node, parts: &Parts) -> Result<(), Problem> {
    let refused = || Problem::unauthorized("the authorization header is an admin token");
    let given = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let text = given.unwrap_or_default().trim();
    let text = text.strip_prefix("Bearer ").unwrap_or(text);
    let outcome = match OperatorToken::parse(text) {
        Some(token) => {
            let used = node.sessions.use_token(&token, &[TokenPurpose::Admin]).await;
            used.map(drop).map_err(Problem::from)
        }
        None => Err(refused()),
    };
    if let Err(problem) = outcome {
        let address = auth::client_address(node, parts);
        node.audit.refused(&address.to_string(), "social.censor", "", &problem);
        node.sessions.count_address(address)?;
        return Err(problem);
    }
    Ok(())
}

async fn read_small(request: Request) -> Result<(Parts, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let body = body::read(&parts.headers, body, body::SMALL).await?;
    Ok((parts, body))
}

fn malformed(error: relay_proto::polycentric::WireError) -> Problem {
    Problem::invalid(error.to_string())
}

/// 200 and nothing more, as the client expects.
fn done() -> Response {
    (StatusCode::OK, [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))])
        .into_response()
}
