//! A request's way through this relay.
//!
//! Each relay does the same: check what came in, find the next hop, send, pass the answer back.
//! Only the first hub, and before it the caller's own node, send again: to another instance what
//! certainly did not start, to the same instance what has an idempotency key, since the callee
//! keeps the results of keys.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use relay_proto::{
    CallError, NodeAddress, RelayId, ServiceName,
    balance::Outcome,
    call::RpcCode,
    link::{Message, MessageType},
    route::{self, From, Next, Ways},
};

use super::{
    Counted, Shared,
    views::micros,
    wire::{self, Kind, Routed},
};
use crate::{
    link::{Answered, Answering, ByteStream, Link, LinkError, Role},
    local::{Forward, Hop},
};

/// How often one request is sent at most.
const ATTEMPTS: usize = 4;
/// How long a request with a key waits for its instance, or for a hub, to come back.
const RETURN_PATIENCE: Duration = Duration::from_secs(10);

/// The next hop of one attempt.
pub(super) struct Step {
    pub next: Next,
    /// `None`: here.
    pub link: Option<Arc<dyn Link>>,
    /// The node it is for.
    pub to: Option<NodeAddress>,
    /// The instance that was chosen or named, counted as in use.
    pub instance: Option<RelayId>,
}

/// What came of one attempt.
enum Attempt {
    Answered(Answered),
    /// A refusal or failure, and whether the call may have started.
    Failed {
        error: CallError,
        answered: Option<Answered>,
        unknown: bool,
    },
}

impl Shared {
    pub(super) fn count(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// Takes a request of a link and answers it when the answer is there.
    pub(super) fn request(
        self: &Arc<Self>,
        link: &Arc<dyn Link>,
        message: Message,
        body: Option<ByteStream>,
        mut answering: Box<dyn Answering>,
    ) {
        let arrived = self.now();
        match message.message_type {
            MessageType::Registration => {
                return answering.answer(self.take_registration(arrived, link, &message));
            }
            MessageType::ServiceDiscovery => {
                return answering.answer(self.answer(&link.peer().relay, &message));
            }
            _ => {}
        }
        let taken = {
            let state = self.lock();
            let from = state.origin(&**link);
            state.links.get(&link.id()).map(|linked| (from, linked.pending.clone()))
        };
        // A request of a link that has just ended.
        let Some((from, of_link)) = taken else { return };
        let Some(counted) = Counted::take(self, &of_link) else {
            self.count(&self.counters.overloaded);
            let error = CallError::overloaded("too many requests are under way", 100).not_started();
            return answering.answer(wire::refused(&error));
        };
        let shared = self.clone();
        // On the heap at once: it is moved about a few times before it runs.
        let work = Box::pin(async move {
            let _counted = counted;
            let work = shared.serve(from, message, body, arrived);
            let answered = tokio::select! {
                biased;
                answered = work => answered,
                () = answering.abandoned() => return shared.count(&shared.counters.cancelled),
                () = shared.stopping.cancelled() => {
                    let error = CallError::new(RpcCode::NodeUnreachable, "the relay is stopping");
                    wire::refused(&error)
                }
            };
            answering.answer(answered);
        });
        link.run(Box::pin(self.tasks.track_future(work)));
    }

    async fn serve(
        self: &Arc<Self>,
        from: From,
        message: Message,
        body: Option<ByteStream>,
        arrived: Duration,
    ) -> Answered {
        let result = async {
            let mut routed = Routed::read(message)?;
            route::arrive(&self.config.relay, &from, &mut routed.header, &*self.lock())
                .map_err(CallError::not_started)?;
            if routed.data().is_some_and(|data| data.explain) {
                return Ok(self.answer_explain(&from, &routed).await);
            }
            self.dispatch(from, routed, body, arrived).await
        };
        match result.await {
            Ok(answered) => answered,
            Err(error) => {
                match error.code {
                    RpcCode::Loop => self.count(&self.counters.loops),
                    RpcCode::InvalidRequest => self.count(&self.counters.malformed),
                    RpcCode::Timeout => self.count(&self.counters.expired),
                    _ => {}
                }
                wire::refused(&error)
            }
        }
    }

    /// Sends a request on, again where that is allowed, and answers with what came back.
    pub(super) async fn dispatch(
        self: &Arc<Self>,
        from: From,
        routed: Routed,
        mut body: Option<ByteStream>,
        arrived: Duration,
    ) -> Result<Answered, CallError> {
        self.count(&self.counters.requests);
        self.lock().earn_retry();
        let deadline = arrived + routed.patience;
        let had_body = body.is_some();
        let mut tried: Vec<RelayId> = Vec::new();
        let mut last: Option<(CallError, Option<Answered>)> = None;
        for attempt in 0..ATTEMPTS {
            let left = route::shrink(deadline.saturating_sub(self.now()), Duration::ZERO)?;
            let step = match self.step(&from, &routed, &tried) {
                Ok(step) => step,
                // The first failure says more than that there is nobody else.
                Err(error) => return give_up(error, last),
            };
            let target = step.instance.clone();
            let went_up = self.config.role == Role::Home && step.link.is_some();
            let (error, answered, unknown) =
                match self.attempt(&routed, step, body.take(), left, arrived).await {
                    Attempt::Answered(answered) => return Ok(answered),
                    Attempt::Failed { error, answered, unknown } => (error, answered, unknown),
                };
            if went_up && error.code == RpcCode::ServiceNotFound && error.is_not_started() {
                self.lock().misses.missed(self.now(), routed.target(), error.clone());
            }
            let again = attempt + 1 < ATTEMPTS
                && !had_body
                && self.may_send_again(&from, &routed, &error, unknown);
            last = Some((error, answered));
            if !again {
                break;
            }
            self.count(&self.counters.retries);
            if unknown {
                let patience = RETURN_PATIENCE.min(deadline.saturating_sub(self.now()));
                self.wait_for_return(target.as_ref(), patience).await;
            } else {
                tried.extend(target);
            }
        }
        give_up(CallError::timeout(), last)
    }

    /// Whether a failed request is sent once more from here.
    fn may_send_again(
        &self,
        from: &From,
        routed: &Routed,
        error: &CallError,
        unknown: bool,
    ) -> bool {
        // Only the caller's hub, or the caller's node where its link was lost: never two layers at once.
        let first = match self.config.role {
            Role::Main => !matches!(from, From::Hub(_)),
            Role::Home => unknown || error.data.contains_key(LINK_LOST),
        };
        let repeatable = if unknown {
            routed.idempotency_key.is_some()
        } else {
            error.is_not_started() && (routed.to.is_none() || self.config.role == Role::Home)
        };
        if !first || !repeatable {
            return false;
        }
        let may = self.lock().spend_retry();
        if !may {
            self.count(&self.counters.retries_refused);
        }
        may
    }

    /// Waits until a node is attached again, or a spoke has a hub again.
    async fn wait_for_return(&self, target: Option<&RelayId>, patience: Duration) {
        let mut changed = self.changed.subscribe();
        let mut lost = true;
        let back = async {
            loop {
                let there = {
                    let state = self.lock();
                    match (self.config.role, target) {
                        (Role::Home, _) => state.up().is_some(),
                        (Role::Main, None) => true,
                        (Role::Main, Some(target)) => state.is_reachable(target),
                    }
                };
                // At first it may only seem to be there: its end has not been told yet.
                if there && !std::mem::take(&mut lost) {
                    return;
                }
                if there {
                    tokio::time::sleep(SETTLE).await;
                    continue;
                }
                lost = false;
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(patience, back).await;
    }

    /// Finds the next hop.
    pub(super) fn step(
        &self,
        from: &From,
        routed: &Routed,
        tried: &[RelayId],
    ) -> Result<Step, CallError> {
        let mut state = self.lock();
        let me = &self.config.relay;
        if self.config.role == Role::Home {
            if let Some(error) = state.misses.known(self.now(), &routed.target()) {
                return Err(error);
            }
            let next = route::on_spoke(me, from, routed.to.as_ref(), &*state)
                .map_err(CallError::not_started)?;
            let link = if next == Next::Here { None } else { state.up().cloned() };
            return Ok(Step { next, link, to: routed.to.clone(), instance: None });
        }
        let now = self.now();
        let (to, instance) = match (&routed.to, &routed.kind) {
            (Some(to), Kind::Call { service, .. }) => {
                let instance = state.admit(now, service, to)?;
                (to.clone(), instance)
            }
            (Some(to), Kind::Forward { .. }) => (to.clone(), None),
            (None, Kind::Call { service, .. }) => {
                let home = state.choose(now, from, service, routed, tried)?;
                let hub = state.hub_of(&home).filter(|hub| *hub != home);
                (NodeAddress { relay: home.clone(), hub }, Some(home))
            }
            (None, Kind::Forward { .. }) => {
                return Err(CallError::new(RpcCode::InvalidRequest, "a forward names its home"));
            }
        };
        let next = route::on_hub(me, from, &to, &*state).map_err(CallError::not_started);
        let next = next.and_then(|next| match &next {
            Next::Spoke(relay) | Next::Hub(relay) if routed.header.path.contains(relay) => {
                Err(route::loop_detected(relay).not_started())
            }
            _ => Ok(next),
        });
        let next = match (next, &routed.kind, &instance) {
            (Ok(next), ..) => next,
            (Err(error), Kind::Call { service, .. }, Some(home)) => {
                state.balancer.finished(now, service, home, Duration::ZERO, Outcome::Cancelled);
                return Err(error);
            }
            (Err(error), ..) => return Err(error),
        };
        let linked = match &next {
            Next::Here => None,
            Next::Spoke(relay) => state.spoke(relay),
            Next::Hub(relay) => state.peer(relay),
        };
        let link = linked.map(|linked| linked.link.clone());
        let hub = match &next {
            Next::Hub(hub) if *hub != to.relay => Some(hub.clone()),
            Next::Spoke(_) => Some(me.clone()),
            _ => None,
        };
        Ok(Step { next, link, to: Some(NodeAddress { relay: to.relay, hub }), instance })
    }

    async fn attempt(
        self: &Arc<Self>,
        routed: &Routed,
        step: Step,
        body: Option<ByteStream>,
        left: Duration,
        arrived: Duration,
    ) -> Attempt {
        let mut in_use = InUse::new(self, routed, step.instance);
        let sent = self.now();
        let Some(link) = step.link else {
            if step.next != Next::Here {
                let error =
                    CallError::unreachable(routed.target()).with(LINK_LOST, true).not_started();
                return Attempt::Failed { error, answered: None, unknown: false };
            }
            let answered = self.deliver(routed, body, left, arrived).await;
            in_use.ended(outcome(&answered));
            return classify(answered);
        };
        let message = routed.message(step.to.as_ref(), left);
        match link.request(message, body).await {
            Ok(mut answered) => {
                in_use.ended(outcome(&answered));
                if routed.data().is_some_and(|data| data.timing) {
                    wire::add_hop(&mut answered, self.hop(arrived, sent, &*link));
                }
                classify(answered)
            }
            Err(error) => {
                in_use.ended(match error {
                    LinkError::TooLarge => Outcome::Cancelled,
                    LinkError::Full => Outcome::Overloaded,
                    LinkError::Closed { .. } | LinkError::Timeout => Outcome::Failed,
                });
                let unknown = error == LinkError::Closed { sent: true };
                Attempt::Failed { error: lost(&error, routed), answered: None, unknown }
            }
        }
    }

    /// Hands a request to the node here.
    async fn deliver(
        &self,
        routed: &Routed,
        body: Option<ByteStream>,
        left: Duration,
        arrived: Duration,
    ) -> Answered {
        let taken = self.now();
        let caller = routed.caller(|source| self.takes_keys_of(source));
        if let Kind::Forward { data } = &routed.kind {
            let Ok(forward) = wire::read::<Forward>(data) else {
                self.count(&self.counters.malformed);
                let error = CallError::new(RpcCode::InvalidRequest, "data is no forwarded request");
                return wire::refused(&error);
            };
            let from = routed.header.source.as_ref().map(|source| source.id.clone());
            let from = from.unwrap_or_else(|| self.config.relay.clone());
            return match tokio::time::timeout(left, self.local.forwarded(from, forward, body)).await
            {
                Ok(Ok((result, stream))) => wire::forwarded(result, stream),
                Ok(Err(problem)) => wire::refused_forward(&problem),
                Err(_) => wire::refused(&CallError::timeout()),
            };
        }
        let notify = routed.data().is_some_and(|data| data.notify);
        let result = match routed.local_call(left) {
            Err(error) => Err(error),
            Ok(call) if notify => self.local.notify(call, caller).map(|()| null()),
            Ok(call) => self.local.call(call, caller, body).await,
        };
        match result {
            Ok(mut answer) => {
                if routed.data().is_some_and(|data| data.timing) {
                    answer.hops.insert(
                        0,
                        Hop {
                            node: self.config.relay.clone(),
                            total_us: micros(self.now().saturating_sub(arrived)),
                            queue_us: micros(taken.saturating_sub(arrived)),
                            rtt_us: None,
                        },
                    );
                }
                wire::answered(answer)
            }
            Err(error) => wire::refused(&error),
        }
    }

    fn hop(&self, arrived: Duration, sent: Duration, link: &dyn Link) -> Hop {
        Hop {
            node: self.config.relay.clone(),
            total_us: micros(self.now().saturating_sub(arrived)),
            queue_us: micros(sent.saturating_sub(arrived)),
            rtt_us: link.stats().rtt.map(micros),
        }
    }
}

/// The member of an error's `data` that says that the way broke, not the service.
const LINK_LOST: &str = "link_lost";
/// How long the end of a link may take to be told after its requests have failed.
const SETTLE: Duration = Duration::from_millis(20);

/// The answer when nothing more is tried: what the last attempt said.
fn give_up(
    otherwise: CallError,
    last: Option<(CallError, Option<Answered>)>,
) -> Result<Answered, CallError> {
    match last {
        Some((_, Some(answered))) => Ok(answered),
        Some((error, None)) => Err(error),
        None => Err(otherwise),
    }
}

fn null() -> crate::local::Answer {
    let value = serde_json::value::RawValue::NULL.to_owned();
    crate::local::Answer { value, stream: None, hops: Vec::new() }
}

/// What an answer says about the instance that gave it.
fn outcome(answered: &Answered) -> Outcome {
    if answered.message.message_type != MessageType::Error {
        return Outcome::Answered;
    }
    match wire::read_error(&answered.message).code {
        RpcCode::Timeout | RpcCode::NodeUnreachable | RpcCode::Internal => Outcome::Failed,
        RpcCode::Overloaded => Outcome::Overloaded,
        _ => Outcome::Answered,
    }
}

fn classify(answered: Answered) -> Attempt {
    if answered.message.message_type != MessageType::Error {
        return Attempt::Answered(answered);
    }
    let error = wire::read_error(&answered.message);
    let unknown = error.data.contains_key(LINK_LOST) && !error.is_not_started();
    Attempt::Failed { error, answered: Some(answered), unknown }
}

/// What a lost link means for a request.
fn lost(error: &LinkError, routed: &Routed) -> CallError {
    match error {
        LinkError::Closed { sent: false } => {
            CallError::unreachable(routed.target()).with(LINK_LOST, true).not_started()
        }
        LinkError::Closed { sent: true } => {
            let message = format!(
                "the way to '{}' broke before its answer came; it may or may not have been done",
                routed.target()
            );
            CallError::new(RpcCode::NodeUnreachable, message).with(LINK_LOST, true)
        }
        LinkError::Full => CallError::overloaded("the link is full", 50).not_started(),
        LinkError::TooLarge => {
            CallError::new(RpcCode::InvalidRequest, "the request is longer than the way takes")
                .not_started()
        }
        LinkError::Timeout => CallError::timeout(),
    }
}

/// A call counted as under way at an instance; ends as cancelled when it is dropped.
pub(super) struct InUse<'a> {
    shared: &'a Shared,
    what: Option<(ServiceName, RelayId)>,
    started: Duration,
}

impl<'a> InUse<'a> {
    pub fn new(shared: &'a Shared, routed: &Routed, instance: Option<RelayId>) -> Self {
        let what = match (&routed.kind, instance) {
            (Kind::Call { service, .. }, Some(home)) => Some((service.clone(), home)),
            _ => None,
        };
        Self { shared, what, started: shared.now() }
    }

    fn ended(&mut self, outcome: Outcome) {
        if let Some((service, home)) = self.what.take() {
            let now = self.shared.now();
            let latency = now.saturating_sub(self.started);
            self.shared.lock().balancer.finished(now, &service, &home, latency, outcome);
        }
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.ended(Outcome::Cancelled);
    }
}
