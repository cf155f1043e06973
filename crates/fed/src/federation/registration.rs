//! What a spoke tells its hub, and hubs tell each other.

use std::{sync::Arc, time::Duration};

use relay_proto::{
    Problem, ServiceRecord,
    call::Json,
    error::Code,
    link::{Message, MessageType, NodeRef, NodeType},
    registry::{Gossip, Output, Proof, Refusal},
};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    state::{Load, Spoke},
    unix_ms, wire,
};
use crate::link::{Answered, Lane, Link, LinkError, Role};

/// The `data` of a registration.
#[derive(Debug, Serialize, Deserialize)]
struct Registration {
    services: Vec<ServiceRecord>,
    /// These are all; else they are added or replaced.
    #[serde(default)]
    full: bool,
    /// Given by Relay's own spokes, see [`relay_proto::registry`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attach_epoch: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
}

/// The `data` of the answer to a registration that was taken.
#[derive(Debug, Serialize, Deserialize)]
struct Accepted {
    accepted: bool,
    attach_epoch: u64,
}

/// The `data` of a heartbeat.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Heartbeat {
    #[serde(default)]
    load: Load,
    /// By service, where the sender has any.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    health: std::collections::BTreeMap<String, bool>,
}

impl Shared {
    /// A hub is the home of its own services.
    pub(super) fn register_self(&self) {
        if self.config.role == Role::Home {
            return;
        }
        let now = self.now();
        let me = &self.config.relay;
        let services = self.local.services();
        let mut state = self.lock();
        let epoch = match state.registry.attached(me) {
            Some(epoch) => Ok(epoch),
            None => {
                let epoch = unix_ms().max(state.registry.newest_epoch(me) + 1);
                let proof = Proof::sign(&self.config.key, me, me, epoch);
                let key = self.config.key.node_id();
                state.registry.attach(now, me, NodeType::Main, key, Some(epoch), Some(proof))
            }
        };
        let taken = epoch.and_then(|_| state.registry.register(now, me, services, true));
        if let Err(refusal) = taken {
            tracing::warn!(%refusal, "own services are not registered");
        }
    }

    pub(super) fn services_changed(self: &Arc<Self>) {
        match self.config.role {
            Role::Main => {
                self.register_self();
                self.changed();
            }
            Role::Home => {
                let services = self.local.services();
                if self.lock().registered.as_ref() != Some(&services) {
                    self.send_registration();
                }
            }
        }
    }

    /// A spoke moves to another hub before its link ends.
    fn leave_draining(self: &Arc<Self>) {
        let moved = self.lock().leave_draining_up();
        if moved {
            self.register();
            self.changed();
        }
    }

    /// Attaches to the hub of the active link, with a new epoch.
    pub(super) fn register(self: &Arc<Self>) {
        self.lock().epoch += 1;
        self.send_registration();
    }

    /// Tells the hub what this spoke offers.
    fn send_registration(self: &Arc<Self>) {
        let services = self.local.services();
        let (link, epoch, number) = {
            let mut state = self.lock();
            let Some(link) = state.up().cloned() else { return };
            state.registrations += 1;
            state.registered = Some(services.clone());
            (link, state.epoch, state.registrations)
        };
        let me = &self.config.relay;
        let proof = Proof::sign(&self.config.key, me, &link.peer().relay, epoch);
        let registration =
            Registration { services, full: true, attach_epoch: Some(epoch), proof: Some(proof) };
        let mut message = self.message_of(MessageType::Registration, &registration);
        message.message_id = Some(format!("registration-{number}"));
        message.deadline_ms = Some(REGISTRATION_MS);
        let shared = self.clone();
        self.tasks.spawn(async move {
            let answered = tokio::select! {
                answered = link.request(message, None) => answered,
                () = shared.stopping.cancelled() => return,
            };
            let Some(pause) = shared.take_acknowledgement(&link, number, answered) else { return };
            tokio::time::sleep(pause).await;
            if shared.lock().registrations == number {
                shared.send_registration();
            }
        });
    }

    pub(super) fn message(self: &Arc<Self>, link: &Arc<dyn Link>, message: Message) {
        let now = self.now();
        match (message.message_type, self.config.role) {
            (MessageType::Registration, Role::Main) => {
                self.take_registration(now, link, &message);
            }
            (MessageType::Heartbeat, Role::Main) => self.take_heartbeat(now, link, &message),
            (MessageType::ServiceDiscovery, Role::Main) => self.take_gossip(now, link, &message),
            (MessageType::Goaway, _) => {
                self.lock().drains(link.id());
                self.leave_draining();
            }
            (MessageType::Heartbeat, Role::Home) => {}
            _ => self.count(&self.counters.late),
        }
    }

    /// Takes a registration; what is to be answered.
    pub(super) fn take_registration(
        &self,
        now: Duration,
        link: &Arc<dyn Link>,
        message: &Message,
    ) -> Answered {
        let read = message.data.as_ref().map(|data| wire::read(data));
        let taken = match read {
            Some(Ok(registration)) => self.attach(now, link, registration),
            Some(Err(error)) => Err(Problem::invalid(format!("data: {error}"))),
            None => Err(Problem::invalid("data is {services: […], full}")),
        };
        let message = match taken {
            Ok(attach_epoch) => {
                self.changed();
                let accepted = Accepted { accepted: true, attach_epoch };
                self.message_of(MessageType::Response, &accepted)
            }
            Err(problem) => {
                self.count(&self.counters.registrations_refused);
                tracing::warn!(spoke = %link.peer().relay, %problem, "registration refused");
                self.message_of(MessageType::Error, &problem.members())
            }
        };
        Answered { message, stream: None }
    }

    /// Attaches the spoke behind `link`, or changes what it offers.
    fn attach(
        &self,
        now: Duration,
        link: &Arc<dyn Link>,
        registration: Registration,
    ) -> Result<u64, Problem> {
        let home = &link.peer().relay;
        if self.config.role != Role::Main || link.peer().role != Role::Home {
            return Err(Problem::invalid("only spokes register, and only with a hub"));
        }
        let mut state = self.lock();
        let same = state.spokes.get(home).is_some_and(|spoke| {
            spoke.link == link.id()
                && registration.attach_epoch.is_none_or(|epoch| epoch == spoke.epoch)
                && state.registry.attached(home) == Some(spoke.epoch)
        });
        if !same {
            let epoch = registration
                .attach_epoch
                .unwrap_or_else(|| unix_ms().max(state.registry.newest_epoch(home) + 1));
            let key = link.peer().key;
            let proof = registration.proof;
            let epoch = state
                .registry
                .attach(now, home, NodeType::Home, key, Some(epoch), proof)
                .map_err(refusal)?;
            let spoke = Spoke { link: link.id(), epoch, since_ms: unix_ms(), load: None };
            state.spokes.insert(home.clone(), spoke);
        }
        state
            .registry
            .register(now, home, registration.services, registration.full)
            .map_err(refusal)?;
        Ok(state.spokes.get(home).map_or(0, |spoke| spoke.epoch))
    }

    /// Takes what the hub says to registration `number`; when to send it again, if at all.
    fn take_acknowledgement(
        self: &Arc<Self>,
        link: &Arc<dyn Link>,
        number: u64,
        answered: Result<Answered, LinkError>,
    ) -> Option<Duration> {
        let hub = &link.peer().relay;
        let mut state = self.lock();
        // Another registration has been sent since, over this link or another.
        if state.registrations != number {
            self.count(&self.counters.late);
            return None;
        }
        let message = match answered {
            Ok(answered) => answered.message,
            // The end of the link is told in another way.
            Err(LinkError::Closed { .. }) => return None,
            Err(error) => {
                tracing::warn!(%hub, %error, "the hub does not answer the registration");
                state.refused = Some(error.to_string());
                return Some(REGISTER_AGAIN);
            }
        };
        if message.message_type == MessageType::Response {
            state.refused = None;
            state.attached = true;
            drop(state);
            self.changed();
            return None;
        }
        let error = wire::read_error(&message);
        let newest = error.data.get("newest_epoch").and_then(serde_json::Value::as_u64);
        if let Some(newest) = newest.filter(|newest| *newest >= state.epoch) {
            // The clock went back since an earlier run: go on above what the hub knows.
            state.epoch = newest + 1;
            return Some(Duration::ZERO);
        }
        tracing::warn!(%hub, reason = %error, "the hub refused the registration");
        state.refused = Some(error.message);
        drop(state);
        self.count(&self.counters.registrations_refused);
        self.changed();
        None
    }

    fn take_heartbeat(&self, now: Duration, link: &Arc<dyn Link>, message: &Message) {
        if link.peer().role == Role::Main {
            return;
        }
        let home = &link.peer().relay;
        // Foreign heartbeats may say other things.
        let heartbeat: Heartbeat =
            message.data.as_ref().and_then(|data| wire::read(data).ok()).unwrap_or_default();
        let health = heartbeat.health.iter();
        let health: Vec<_> =
            health.filter_map(|(name, well)| Some((name.parse().ok()?, *well))).collect();
        let mut state = self.lock();
        let before = state.registry.revision();
        state.registry.set_health(now, home, &health);
        if let Some(spoke) = state.spokes.get_mut(home).filter(|spoke| spoke.link == link.id()) {
            spoke.load = Some(heartbeat.load);
        }
        let changed = state.registry.revision() != before;
        drop(state);
        if changed {
            self.changed();
        }
    }

    fn take_gossip(&self, now: Duration, link: &Arc<dyn Link>, message: &Message) {
        let gossip: Option<Gossip> = message.data.as_ref().and_then(|data| wire::read(data).ok());
        let (Some(gossip), Role::Main) = (gossip, link.peer().role) else {
            return self.count(&self.counters.malformed);
        };
        let changed = {
            let mut state = self.lock();
            let before = state.registry.revision();
            state.registry.receive(now, &link.peer().relay, gossip);
            state.registry.revision() != before
        };
        if changed {
            self.changed();
        } else {
            self.flush.notify_one();
        }
    }

    /// Sends what the registry wants sent. Only called by [`super::Federation::run`], so that
    /// what is sent to one peer stays in order.
    pub(super) fn flush(&self) {
        loop {
            let next = {
                let mut state = self.lock();
                match state.registry.poll() {
                    None => return,
                    Some(Output::Superseded { home, epoch, by }) => {
                        if state.spokes.get(&home).is_some_and(|spoke| spoke.epoch == epoch) {
                            state.spokes.remove(&home);
                        }
                        tracing::info!(%home, hub = %by, "the spoke has moved to another hub");
                        continue;
                    }
                    Some(Output::Expired { home, epoch }) => {
                        let spoke = state.spokes.get(&home).filter(|spoke| spoke.epoch == epoch);
                        let link = spoke.and_then(|spoke| state.link(spoke.link)).cloned();
                        drop(state);
                        if let Some(link) = link {
                            link.close("nothing was heard of it");
                        }
                        continue;
                    }
                    Some(Output::Send(peer, gossip)) => {
                        let link = state.peer(&peer).map(|linked| linked.link.clone());
                        (peer, gossip, link)
                    }
                }
            };
            let (peer, gossip, link) = next;
            let message = self.message_of(MessageType::ServiceDiscovery, &gossip);
            let sent = link.map_or(Err(LinkError::Closed { sent: false }), |link| {
                link.send(Lane::Control, message)
            });
            if sent.is_err() {
                // Tried again at the next tick, when there may be room.
                self.lock().registry.unsent(&peer, &gossip);
            }
        }
    }

    pub(super) fn tick(self: &Arc<Self>) {
        let now = self.now();
        let before = {
            let mut state = self.lock();
            let before = state.registry.revision();
            state.look_at_links(now);
            state.registry.tick(now);
            before
        };
        self.leave_draining();
        self.flush();
        if self.lock().registry.revision() != before {
            self.changed();
        }
    }

    /// The `data` of this node's heartbeats.
    pub(super) fn heartbeat(&self) -> Option<Json> {
        let services = match self.config.role {
            Role::Main => Vec::new(),
            Role::Home => self.local.services(),
        };
        let health = services.into_iter().map(|s| (s.service_name.to_string(), s.is_healthy));
        wire::to_json(&Heartbeat { load: self.load(), health: health.collect() })
    }

    pub(super) fn load(&self) -> Load {
        let in_flight = self.pending.load(std::sync::atomic::Ordering::Relaxed);
        Load { in_flight: in_flight as u64 }
    }

    fn message_of<T: Serialize>(&self, message_type: MessageType, data: &T) -> Message {
        let mut message = Message::new(message_type);
        message.source_node = Some(NodeRef {
            node_type: match self.config.role {
                Role::Main => NodeType::Main,
                Role::Home => NodeType::Home,
            },
            id: self.config.relay.clone(),
            main_relay: None,
        });
        message.data = wire::to_json(data);
        message
    }
}

/// How long a hub has to answer a registration, in milliseconds.
const REGISTRATION_MS: u64 = 10_000;
/// When a registration that was not answered is sent again.
const REGISTER_AGAIN: Duration = Duration::from_secs(1);

fn refusal(refusal: Refusal) -> Problem {
    let text = refusal.to_string();
    match refusal {
        Refusal::Stale { newest } => {
            Problem::new(Code::Conflict, text).with("newest_epoch", newest)
        }
        Refusal::Conflict => Problem::new(Code::Conflict, text),
        Refusal::Full => Problem::new(Code::LimitExceeded, text),
        Refusal::NotAttached => Problem::new(Code::InvalidRequest, text),
        Refusal::Record(_) => Problem::invalid(text),
    }
}
