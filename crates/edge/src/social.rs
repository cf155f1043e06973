//! Polycentric's own paths, at the root and under a prefix (`polycentric.md` sections 5, 6, 9): protobuf in and out,
//! open to pages of any origin, and made for caches.

pub(crate) mod admin;
mod answer;
mod owners;
mod reads;
pub(crate) mod watch;

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use relay_node::Node;

/// The paths of the social layer, where it is on.
pub(crate) fn router(node: &Node) -> Router<Arc<Node>> {
    let social = &node.config.social;
    if !social.enabled {
        return Router::new();
    }
    let own = Router::new()
        .route("/v1/social/censored", get(admin::censored))
        .route("/v1/social/censor", post(admin::censor))
        .route("/v1/social/uncensor", post(admin::uncensor))
        .route("/v1/social/waiting", get(admin::waiting))
        .route("/v1/social/moderate", post(admin::moderate))
        .route("/v1/social/usage", get(admin::usage))
        .route("/v1/social/purge", post(admin::purge))
        .route("/v1/social/quotas", get(admin::quotas))
        .route("/v1/social/quotas/set", post(admin::set_quota))
        .route("/v1/social/quotas/remove", post(admin::remove_quota))
        .route("/v1/social/servers", get(admin::servers))
        .merge(paths());
    if social.prefix.is_empty() {
        return own;
    }
    let health = Router::new().route("/health", get(crate::info::health));
    own.nest(&social.prefix, paths().merge(health.layer(middleware::from_fn(open_to_all))))
}

fn paths() -> Router<Arc<Node>> {
    Router::new()
        .route("/events", get(reads::events).post(owners::ingest))
        .route("/ranges", get(reads::ranges))
        .route("/head", get(reads::head))
        .route("/query_latest", get(reads::latest))
        .route("/query_index", get(reads::index))
        .route("/query_references", get(reads::references))
        .route("/explore", get(reads::explore))
        .route("/search", get(reads::search))
        .route("/top_string_references", get(reads::topics))
        .route("/recommended_profiles", get(reads::recommended_profiles))
        .route("/resolve_claim", get(reads::resolve_claim))
        .route("/find_claim_and_vouch", get(reads::find_claim_and_vouch))
        .route("/resolve_handle", get(reads::resolve_handle))
        .route("/version", get(reads::version))
        .route("/challenge", get(owners::challenge))
        .route("/purge", post(owners::purge))
        .route("/claim_handle", post(owners::claim_handle))
        .route("/censor", post(owners::censor))
        .layer(middleware::from_fn(open_to_all))
}

/// Lets pages of every origin in. The header is the same for everybody, so that no cache hands one page's to another.
async fn open_to_all(request: Request, next: Next) -> Response {
    let mut response = if request.method() == Method::OPTIONS {
        let mut response = StatusCode::NO_CONTENT.into_response();
        preflight(response.headers_mut());
        response
    } else {
        next.run(request).await
    };
    response
        .headers_mut()
        .insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

fn preflight(headers: &mut HeaderMap) {
    let allowed = "authorization, content-type, if-none-match, x-polycentric-user-agent";
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("300"));
}
