//! Who asks: the local socket, a bearer token, a signed request, or nobody in particular.

use axum::http::request::Parts;
use relay_core::policy::Principal;
use relay_node::Node;
use relay_proto::Problem;

use crate::peer::Peer;

/// Finds out who sent a request.
///
/// # Errors
/// `unauthorized` where a proof was given that does not hold; no proof at all is [`Principal::Anonymous`].
pub(crate) fn identify(_node: &Node, parts: &Parts, _body: &[u8]) -> Result<Principal, Problem> {
    match parts.extensions.get::<Peer>() {
        Some(Peer::Local { operator: true, .. }) => Ok(Principal::Operator),
        _ => Ok(Principal::Anonymous),
    }
}
