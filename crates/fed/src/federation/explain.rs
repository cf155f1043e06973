//! "Why can A not call B?": runs the route as a call would, without calling.
//!
//! Each relay on the way says what it would do, in the order of the way; the last step names the
//! hop, rule or missing service that stops the call, or says that it would be served.

use std::sync::Arc;

use relay_proto::{
    Call, CallError, Caller, RelayId,
    link::{Message, MessageType},
    route::{From, Next},
};
use serde::{Deserialize, Serialize};

use super::{
    Federation, Shared,
    calls::InUse,
    views::micros,
    wire::{self, Routed},
};
use crate::link::{Answered, LinkError, Role};

/// What one relay on the way would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainStep {
    pub node: RelayId,
    /// What it would do, or why it stops here.
    pub says: String,
    /// The JSON-RPC error number the call would get; `None` where it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc_code: Option<i64>,
    /// Smoothed round trip of the link it would leave by, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
}

/// The whole way, nearest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// Whether the call would be served.
    pub works: bool,
    pub steps: Vec<ExplainStep>,
}

impl Federation {
    /// Finds the way of a call without calling.
    pub async fn explain(&self, call: &Call, caller: &Caller) -> Explained {
        let routed = Routed::call(call, caller).explaining();
        self.shared.explain(&From::Here, &routed).await
    }
}

impl Shared {
    pub(super) async fn answer_explain(self: &Arc<Self>, from: &From, routed: &Routed) -> Answered {
        let mut message = Message::new(MessageType::Response);
        message.data = wire::to_json(&self.explain(from, routed).await);
        Answered { message, stream: None }
    }

    async fn explain(self: &Arc<Self>, from: &From, routed: &Routed) -> Explained {
        let step = match self.step(from, routed, &[]) {
            Ok(step) => step,
            Err(error) => return self.stops(&error),
        };
        // Counted as under way while the way is looked for, like a call.
        let _in_use = InUse::new(self, routed, step.instance.clone());
        let Some(link) = step.link else {
            return if step.next == Next::Here {
                self.explain_here(routed)
            } else {
                self.no_link()
            };
        };
        let to = step.to.as_ref().map_or_else(|| routed.target(), ToString::to_string);
        let says = match (&step.next, self.config.role) {
            (Next::Hub(hub), Role::Home) => format!("asks its hub '{hub}'"),
            (Next::Hub(hub), Role::Main) => format!("sends to the hub '{hub}' for '{to}'"),
            (Next::Spoke(spoke), _) => format!("sends to its spoke '{spoke}'"),
            (Next::Here, _) => "serves it".to_owned(),
        };
        let rtt_us = link.stats().rtt.map(micros);
        let mine = ExplainStep { node: self.config.relay.clone(), says, rpc_code: None, rtt_us };
        let message = routed.message(step.to.as_ref(), routed.patience);
        let mut rest = match link.request(message, None).await {
            Ok(answered) => read(&answered, &link.peer().relay),
            Err(error) => link_failed(&error, &link.peer().relay),
        };
        rest.steps.insert(0, mine);
        rest
    }

    fn explain_here(&self, routed: &Routed) -> Explained {
        let caller = routed.caller(|source| self.takes_keys_of(source));
        let admitted =
            routed.local_call(routed.patience).and_then(|call| self.local.admits(&call, &caller));
        match admitted {
            Ok(says) => {
                let node = self.config.relay.clone();
                let step = ExplainStep { node, says, rpc_code: None, rtt_us: None };
                Explained { works: true, steps: vec![step] }
            }
            Err(error) => self.stops(&error),
        }
    }

    fn no_link(&self) -> Explained {
        let message = "there is no link to the next relay";
        self.stops(&CallError::new(relay_proto::call::RpcCode::NodeUnreachable, message))
    }

    fn stops(&self, error: &CallError) -> Explained {
        let step = ExplainStep {
            node: self.config.relay.clone(),
            says: error.message.clone(),
            rpc_code: Some(error.code.number()),
            rtt_us: None,
        };
        Explained { works: false, steps: vec![step] }
    }
}

fn read(answered: &Answered, peer: &RelayId) -> Explained {
    if answered.message.message_type == MessageType::Error {
        let error = wire::read_error(&answered.message);
        return stopped_at(peer, error.message, error.code.number());
    }
    let explained = answered.message.data.as_ref().and_then(|data| wire::read(data).ok());
    // A foreign program knows nothing of this; it has taken the message, which is all it can say.
    explained.unwrap_or_else(|| {
        let says = "was reached; it does not explain itself".to_owned();
        let step = ExplainStep { node: peer.clone(), says, rpc_code: None, rtt_us: None };
        Explained { works: true, steps: vec![step] }
    })
}

fn link_failed(error: &LinkError, peer: &RelayId) -> Explained {
    let number = match error {
        LinkError::Timeout => relay_proto::call::RpcCode::Timeout,
        _ => relay_proto::call::RpcCode::NodeUnreachable,
    };
    stopped_at(peer, format!("was not reached: {error}"), number.number())
}

fn stopped_at(node: &RelayId, says: String, rpc_code: i64) -> Explained {
    let step = ExplainStep { node: node.clone(), says, rpc_code: Some(rpc_code), rtt_us: None };
    Explained { works: false, steps: vec![step] }
}
