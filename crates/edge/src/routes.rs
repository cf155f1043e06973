//! Which path goes where.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, delete, get, post},
};
use relay_node::Node;
use relay_proto::Problem;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    access, attach, calls, chat, events, federation, homes, info, locks, openapi, operate,
    reply::{Refused, name_request},
    services, sessions, social, socket, sse,
};

/// Every route of the relay.
pub(crate) fn router(node: Arc<Node>) -> Router {
    let cors = cors(node.clone());
    Router::new()
        .route("/", get(info::root))
        .route("/app", get(info::app))
        .route("/v1/info", get(info::info))
        .route("/openapi.json", get(openapi::serve))
        .route("/livez", get(info::livez))
        .route("/readyz", get(info::readyz))
        .route("/health", get(info::health))
        .route("/healthz", get(info::healthz))
        .route("/metrics", get(info::metrics))
        .merge(homed(node.clone()))
        .route("/v1/auth/challenge", post(sessions::challenge))
        .route("/v1/auth/verify", post(sessions::verify))
        .route("/v1/auth/revoke", post(access::revoke_proof))
        .route("/v1/session/start", post(sessions::post_start))
        .route("/v1/session/resume", post(sessions::post_resume))
        .route("/v1/session/list", get(sessions::list))
        .route("/v1/session/logout", post(sessions::logout))
        .route("/v1/session/logout_all", post(sessions::logout_all))
        .route("/v1/session/revoke", post(sessions::revoke))
        .route("/v1/whoami", get(access::whoami))
        .route("/v1/acl", get(access::acl).put(access::set_acl))
        .route("/v1/acl/test", post(access::test_acl))
        .route("/v1/quota", get(access::quota))
        .route("/v1/audit", get(access::audit))
        .route("/v1/tokens", get(access::tokens).post(access::create_token))
        .route("/v1/tokens/{id}", delete(access::delete_token))
        .route("/v1/config", get(operate::config))
        .route("/v1/config/reload", post(operate::reload))
        .route("/v1/drain", post(operate::drain))
        .route("/v1/users/revoke_tokens", post(access::revoke_user))
        .merge(chat::routes(&node))
        .route("/v1/sse", get(sse::conversation))
        .route("/rpc", post(calls::http::rpc))
        .route("/services", get(services::list))
        .route("/v1/actors", get(services::actors))
        .route("/v1/actors/{name}", get(services::actor))
        .route("/v1/actors/{name}/restart", post(services::restart))
        .route("/v1/actors/{name}/log", get(services::log))
        .route("/v1/attach", get(attach::upgrade))
        .route("/v1/calls/explain", post(federation::explain))
        .route("/v1/gateways/resolve", get(federation::resolve))
        .route("/federate", get(federation::link))
        .route("/ws/federation", get(federation::link))
        .route("/ws/peers", get(federation::link))
        .route("/registry", get(federation::registry))
        .route("/status", get(federation::status))
        .route("/federation/registry", get(federation::federation_registry))
        .route("/federation/peers", get(federation::peers))
        .route("/federation/peers/add", post(federation::add_peer))
        .route("/federation/peers/{id}", delete(federation::remove_peer))
        .route("/federation/spokes", get(federation::spokes).post(federation::decide_spokes))
        .route("/federation/spokes/{id}", delete(federation::kick_spoke))
        .route("/v1/federation/join", post(federation::join).delete(federation::leave))
        .route("/federation/health", get(federation::health))
        .route("/federation/topology", get(federation::topology))
        .route("/svc/{service}", any(calls::proxy::pass))
        .route("/svc/{service}/", any(calls::proxy::pass))
        .route("/svc/{service}/{*path}", any(calls::proxy::pass))
        .route("/v1/ws", get(socket::upgrade))
        .route("/v1/stream", get(socket::upgrade))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(cors)
        .merge(social::router(&node))
        .layer(middleware::from_fn_with_state(node.clone(), count))
        .with_state(node)
}

/// What has a home: served here where this relay is it, else forwarded. Other relays may forward it too.
pub(crate) fn homed(node: Arc<Node>) -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/events", get(events::query).post(events::publish))
        .route("/v1/events/count", get(events::count))
        .route("/v1/events/stream", get(sse::events))
        .route("/v1/lock-watch", get(sse::lock_watch))
        .route("/v1/events/{id}", get(events::get))
        .route("/v1/events/address/{kind}/{pubkey}/", get(events::address_without_d))
        .route("/v1/events/address/{kind}/{pubkey}//history", get(events::history_without_d))
        .route("/v1/events/address/{kind}/{pubkey}/{d}", get(events::address))
        .route("/v1/events/address/{kind}/{pubkey}/{d}/history", get(events::address_history))
        .route("/v1/locks", get(locks::list))
        .route("/v1/locks/{*resource}", get(locks::get).post(locks::post))
        .route("/v1/lock-history", get(locks::history))
        .route_layer(middleware::from_fn_with_state(node, homes::pass))
}

async fn unknown_path() -> Refused {
    Refused(Problem::not_found("no such path; GET /openapi.json lists them"))
}

async fn unknown_method(method: Method) -> Response {
    let problem = Problem::invalid(format!("{method} is not served on this path"));
    let mut response = Refused(problem).into_response();
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}

/// Names the request in its answer, and counts answers by class.
async fn count(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    name_request(&mut response);
    let class = usize::from(response.status().as_u16() / 100).clamp(1, 5) - 1;
    node.metrics.responses[class].fetch_add(1, Ordering::Relaxed);
    response
}

/// Browsers of the listed origins may use the API; credentials are headers, never cookies.
fn cors(node: Arc<Node>) -> CorsLayer {
    let listed = move |origin: &HeaderValue, _: &Parts| {
        node.live().chat.cors_origins.iter().any(|known| known.as_bytes() == origin.as_bytes())
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(listed))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_NONE_MATCH,
            header::RANGE,
            HeaderName::from_static("last-event-id"),
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("relay-timeout-ms"),
            HeaderName::from_static("relay-version"),
            HeaderName::from_static(homes::GRANT_HEADER),
            HeaderName::from_static("traceparent"),
        ])
        .expose_headers([
            header::ETAG,
            header::RETRY_AFTER,
            HeaderName::from_static("relay-request-id"),
            HeaderName::from_static("relay-cursor"),
            HeaderName::from_static(homes::HOME_HEADER),
            header::ACCEPT_RANGES,
            header::CONTENT_RANGE,
        ])
        .max_age(Duration::from_secs(600))
}
