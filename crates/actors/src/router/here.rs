//! Calls of actors that live here: what reaches a mailbox, and calls with keys that happen once.

use std::{sync::Arc, time::Duration};

use relay_proto::{
    Call, CallError, Caller,
    call::{Effect, Hop, RpcCode, check_idempotency_key},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    PING, Router,
    entry::{Entry, Life},
};
use crate::{
    inbox::Mailbox,
    results::{Claim, Outcome, ResultKey},
    service::{BodyStream, Reply, Request, Visibility},
};

impl Router {
    /// Refuses what must not reach the mailbox.
    pub(super) fn admit(
        &self,
        entry: &Entry,
        call: &Call,
        caller: &Caller,
    ) -> Result<(), CallError> {
        let info = entry.info.load();
        if info.visibility == Visibility::Private && !caller.is_local() {
            return Err(CallError::service_not_found(&info.name));
        }
        let decision = self.shared.access.load().decide(&info.name, &call.method, caller);
        if decision.effect == Effect::Deny {
            let message = format!("you may not call '{}.{}'", info.name, call.method);
            return Err(CallError::new(RpcCode::Forbidden, message));
        }
        if caller.is_waited_for_by(&info.name) {
            let message = format!("'{}' would wait for itself", info.name);
            return Err(CallError::new(RpcCode::Loop, message));
        }
        if let Some(range) = &call.version {
            let range = semver::VersionReq::parse(range)
                .map_err(|error| CallError::invalid_params(format!("version: {error}")))?;
            if !range.matches(&info.version) {
                let name = format!("{} {range}", info.name);
                return Err(CallError::service_not_found(name));
            }
        }
        if entry.lock().life == Life::GaveUp {
            return Err(CallError::service_not_found(&info.name));
        }
        Ok(())
    }

    /// [`Self::ask_here`], and how long it took where that is asked.
    pub(super) async fn serve(
        &self,
        entry: &Arc<Entry>,
        call: Call,
        caller: Caller,
        body: Option<BodyStream>,
    ) -> Result<Reply, CallError> {
        let began = call.timing.then(Instant::now);
        let mut reply = self.ask_here(entry, call, caller, body).await?;
        if let Some(began) = began {
            let (node, queue_us) = (self.shared.relay.clone(), reply.queued_us);
            let total_us = began.elapsed().as_micros() as u64;
            reply.hops.push(Hop { node, total_us, queue_us, rtt_us: None });
        }
        Ok(reply)
    }

    async fn ask_here(
        &self,
        entry: &Arc<Entry>,
        call: Call,
        caller: Caller,
        body: Option<BodyStream>,
    ) -> Result<Reply, CallError> {
        self.admit(entry, &call, &caller)?;
        if call.method.as_str() == PING {
            return Reply::json(&entry.status().life);
        }
        let Some(key) = call.idempotency_key.clone() else {
            return ask_mailbox(&entry.mailbox, call, caller, body).await;
        };
        check_idempotency_key(&key)?;
        let deadline = Instant::now() + call.timeout;
        let key = ResultKey::new(&caller, &call, &key);
        let mut outcome = match self.shared.results.claim(&key, &call)? {
            Claim::Repeat(outcome) => outcome,
            Claim::First(sender) => {
                let outcome = sender.subscribe();
                self.run_keyed(entry.mailbox.clone(), call, caller, body, key, sender);
                outcome
            }
        };
        let outcome = timeout_at(deadline, outcome.wait_for(Option::is_some)).await;
        let outcome = outcome.map_err(|_| CallError::timeout())?;
        match outcome.ok().and_then(|outcome| outcome.clone()).as_deref() {
            Some(Ok(value)) => Ok(value.clone().into()),
            Some(Err(error)) => Err(error.clone()),
            None => Err(CallError::internal("the first call of this key was lost")),
        }
    }

    /// Runs the first call of a key to its end, whether or not its caller stays. Its result is in
    /// one piece, since it is kept.
    fn run_keyed(
        &self,
        mailbox: Mailbox,
        mut call: Call,
        caller: Caller,
        body: Option<BodyStream>,
        key: ResultKey,
        sender: watch::Sender<Option<Outcome>>,
    ) {
        call.streaming = false;
        let shared = self.shared.clone();
        self.shared.keyed.spawn(async move {
            let timeout = call.timeout;
            let result = match shared.results.begin(&key, timeout, shared.clock.now_ms()).await {
                Ok(()) => ask_mailbox(&mailbox, call, caller, body).await.map(|reply| reply.value),
                Err(error) => Err(error),
            };
            shared.results.finish(&key, timeout, &sender, result, shared.clock.now_ms()).await;
        });
    }
}

async fn ask_mailbox(
    mailbox: &Mailbox,
    call: Call,
    caller: Caller,
    body: Option<BodyStream>,
) -> Result<Reply, CallError> {
    let request = request(call, caller, body);
    let deadline = request.deadline;
    let answer = mailbox.ask(request)?;
    match timeout_at(deadline, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(CallError::internal("the service crashed while it handled this call")),
        Err(_) => Err(CallError::timeout()),
    }
}

pub(super) fn request(call: Call, caller: Caller, body: Option<BodyStream>) -> Request {
    Request {
        method: call.method,
        args: call.args,
        caller,
        deadline: Instant::now() + call.timeout.min(MAX_WAIT),
        idempotency_key: call.idempotency_key,
        streaming: call.streaming,
        body,
        trace: call.trace,
    }
}

/// Keeps `now + timeout` inside what an `Instant` holds, whatever a caller puts in.
const MAX_WAIT: Duration = relay_proto::call::MAX_TIMEOUT;
