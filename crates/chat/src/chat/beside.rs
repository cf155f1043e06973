//! What the same relay has beside the chats: the feed of the social layer, and services.

use relay_client::{Request, social, social::Social};
use relay_proto::{
    NodeId,
    polycentric::{Body, Event, SystemKey},
};
use serde::Deserialize;

use super::{Chat, offline};
use crate::{
    error::Result,
    views::{PostView, ServiceView},
};

/// Services that are listed, at most.
const MAX_SERVICES: usize = 1_000;

impl Chat {
    /// The newest posts of this user and of whom they follow, newest first: at most `limit`.
    ///
    /// # Errors
    /// [`Refusal::Invalid`](crate::Refusal::Invalid) without a connection; the relay's refusal.
    pub async fn feed(&self, limit: usize) -> Result<Vec<PostView>> {
        let client = self.shared.session().ok_or_else(offline)?;
        let own = SystemKey::from(self.shared.core.me());
        let posts = Social(&client).home(own, limit).await?;
        Ok(posts.iter().map(|post| self.post(post, own)).collect())
    }

    fn post(&self, event: &Event, own: SystemKey) -> PostView {
        let from = NodeId::from_bytes(*event.system().as_bytes()).ok();
        let text = match event.body() {
            Body::Text(text) => text.clone(),
            _ => String::new(),
        };
        PostView {
            id: social::event_name(&event.key()),
            from_name: from.map_or_else(|| event.system().to_string(), |user| self.name_of(&user)),
            from,
            own: event.system() == own,
            at_ms: event.unix_ms(),
            text,
        }
    }

    /// The services of the relay that this user may call, at most 1000.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub async fn services(&self) -> Result<Vec<ServiceView>> {
        #[derive(Deserialize)]
        struct Answer {
            services: Vec<ServiceView>,
        }
        let client = self.shared.session().ok_or_else(offline)?;
        let mut answer: Answer = client.call(Request::get("/services")).await?;
        answer.services.truncate(MAX_SERVICES);
        Ok(answer.services)
    }
}
