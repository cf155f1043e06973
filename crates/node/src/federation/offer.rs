//! What other relays reach here: this node's public services, and what it is the home of.

use futures_util::future::BoxFuture;
use relay_actors::{ActorStatus, BodyStream, Router, Visibility};
use relay_fed::local::{Answer, Forward, LocalNode, ServiceRecord};
use relay_proto::{Call, CallError, Caller, Problem, RelayId, ServiceName, call::Json};
use tokio::sync::watch;

use crate::homes::DoorFrame;

/// The node behind its federation.
pub(super) struct Offered {
    router: Router,
    door: DoorFrame,
}

impl Offered {
    pub const fn new(router: Router, door: DoorFrame) -> Self {
        Self { router, door }
    }

    fn is_public(&self, name: &ServiceName) -> bool {
        let actor = self.router.actor(name);
        actor.is_some_and(|actor| actor.info.visibility == Visibility::Public)
    }
}

impl LocalNode for Offered {
    fn services(&self) -> Vec<ServiceRecord> {
        let actors = self.router.actors();
        let public = actors.into_iter().filter(|a| a.info.visibility == Visibility::Public);
        public.map(record).collect()
    }

    fn services_changed(&self) -> watch::Receiver<u64> {
        self.router.changes()
    }

    fn has_service(&self, name: &ServiceName) -> bool {
        self.is_public(name)
    }

    fn call(
        &self,
        call: Call,
        caller: Caller,
        body: Option<BodyStream>,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        let router = self.router.clone();
        Box::pin(async move {
            let reply = router.receive(call, caller, body).await?;
            Ok(Answer { value: reply.value, stream: reply.stream, hops: reply.hops })
        })
    }

    fn admits(&self, call: &Call, caller: &Caller) -> Result<String, CallError> {
        self.router.admits(call, caller)?;
        Ok(format!("serves '{}.{}'", call.to.service, call.method))
    }

    fn notify(&self, call: Call, caller: Caller) -> Result<(), CallError> {
        self.router.receive_send(call, caller)
    }

    fn forwarded(
        &self,
        from: RelayId,
        forward: Forward,
        body: Option<BodyStream>,
    ) -> BoxFuture<'static, Result<(Json, Option<BodyStream>), Problem>> {
        self.door.forwarded(from, forward, body)
    }
}

fn record(actor: ActorStatus) -> ServiceRecord {
    ServiceRecord {
        service_name: actor.info.name,
        version: actor.info.version.to_string(),
        methods: actor.info.methods,
        metadata: actor.info.metadata,
        visibility: "public".to_owned(),
        is_healthy: actor.is_healthy,
    }
}
