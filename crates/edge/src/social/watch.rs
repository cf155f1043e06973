//! `social.watch`: a socket is told of new events, so that feeds need no polling.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use relay_core::social::{WatchRequest, Watched};
use relay_node::Node;
use relay_proto::{NodeId, Problem, frame::encode, polycentric::SystemKey};
use relay_store::SocialChange;
use serde::Deserialize;
use serde_json::json;

/// The body of `social.watch`. It replaces what the socket watched before; an empty one ends it.
#[derive(Debug, Deserialize)]
pub(crate) struct WatchBody {
    #[serde(default)]
    systems: Vec<NodeId>,
    #[serde(default)]
    topics: Vec<String>,
}

/// What one socket watches.
#[derive(Debug, Default)]
pub(crate) struct SocialWatch(Option<Watched>);

impl SocialWatch {
    pub fn watch(&mut self, node: &Node, asked: WatchBody) -> Result<(), Problem> {
        if !node.config.social.enabled {
            return Err(Problem::not_found("this relay has no social layer"));
        }
        let request = WatchRequest {
            systems: asked.systems.into_iter().map(SystemKey::from).collect(),
            topics: asked.topics.into_iter().map(Bytes::from).collect(),
        };
        if request.is_too_long() {
            return Err(Problem::new(
                relay_proto::Code::LimitExceeded,
                "too many systems and topics in one watch",
            ));
        }
        self.0 = (!request.is_empty()).then(|| node.social.watch().begin(request));
        Ok(())
    }

    /// The next frame for this socket; for ever where it watches nothing.
    pub async fn next(&mut self) -> String {
        let Some(watched) = &mut self.0 else { return std::future::pending().await };
        match watched.next().await {
            Ok(change) => changed(&change),
            // Whoever lags asks anew; the versions of the answers tell what changed.
            Err(missed) => encode("social.gap", None, &json!({ "dropped": missed })),
        }
    }
}

fn changed(change: &SocialChange) -> String {
    let body = json!({
        "system": change.system.to_string(),
        "process": URL_SAFE_NO_PAD.encode(change.process.as_bytes()),
        "clock": change.clock,
        "content_type": change.content_type,
    });
    encode("social.changed", None, &body)
}
