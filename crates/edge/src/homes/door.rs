//! The home's side: requests that other relays forward here, served by the same handlers.

use std::{fmt, sync::Arc};

use axum::{Router, body::Body, routing::post};
use futures_util::future::BoxFuture;
use http::Request;
use relay_actors::BodyStream;
use relay_core::policy::Principal;
use relay_fed::local::Forward;
use relay_node::{
    Node,
    homes::{Answered, Door},
};
use relay_proto::{Problem, RelayId, auth::verify_grant};
use tower::ServiceExt;

use super::{Carried, Known, carry};
use crate::{
    auth::{Caller, Proof},
    chat, routes, sse,
};

/// Marks a request that another relay forwarded.
#[derive(Debug, Clone)]
pub(crate) struct FromRelay(pub RelayId);

/// What relays may forward, and who is asking there.
pub(crate) struct HomeDoor {
    node: Arc<Node>,
    router: Router,
}

impl HomeDoor {
    /// Relays reach what has a home, and nothing else; a subscription comes with its filters as body.
    pub fn new(node: Arc<Node>) -> Self {
        let router = routes::homed(node.clone())
            .route("/v1/events/stream", post(sse::forwarded_events))
            .merge(chat::of_users(&node))
            .merge(chat::homes::routes())
            .with_state(node.clone());
        Self { node, router }
    }
}

impl Door for HomeDoor {
    fn forwarded(
        &self,
        from: RelayId,
        forward: Forward,
        body: Option<BodyStream>,
    ) -> BoxFuture<'static, Answered> {
        let (node, router) = (self.node.clone(), self.router.clone());
        Box::pin(async move {
            let request = request(&node, &from, forward, body).inspect_err(|problem| {
                node.audit.refused(from.as_str(), "forward", "", problem);
            })?;
            // Its error type has no values.
            let response = match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            carry::carry(response).await
        })
    }
}

/// The request with the caller that its grant proves.
fn request(
    node: &Node,
    from: &RelayId,
    forward: Forward,
    body: Option<BodyStream>,
) -> Result<Request<Body>, Problem> {
    let carried: Carried = serde_json::from_str(forward.request.get())
        .map_err(|_| Problem::invalid("the forwarded request cannot be read"))?;
    let caller = match &forward.grant {
        None => Caller { principal: Principal::Anonymous, proof: Proof::None },
        Some(grant) => {
            let claims = verify_grant(grant, from.as_str(), super::now_ms(node))?;
            let proof = Proof::Grant { device: claims.device_id, relay: from.clone() };
            Caller { principal: Principal::Key(claims.user_id), proof }
        }
    };
    let mut request = carry::into_request(carried, body)?;
    request.extensions_mut().insert(FromRelay(from.clone()));
    request.extensions_mut().insert(Known(caller));
    Ok(request)
}

impl fmt::Debug for HomeDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HomeDoor").finish_non_exhaustive()
    }
}
