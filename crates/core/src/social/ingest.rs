//! `POST /events`.

use std::{collections::BTreeMap, net::IpAddr, sync::atomic::Ordering::Relaxed};

use bytes::Bytes;
use rand_core::OsRng;
use relay_proto::{
    Code, Problem,
    polycentric::{Event, EventKey, SystemKey, parse_events, verify_many},
};
use relay_store::{Ingest, IngestReport, Ingested, ModerationState, Note};

use super::{Social, moderation::note_of};
use crate::{
    failure::store_problem,
    limits::{Exceeded, Rate},
};

impl Social {
    /// Takes a request's events in; answered when they are durable. One bad event refuses all.
    ///
    /// # Errors
    /// `invalid_request`, `rate_limited`, `quota_exceeded`, those of the store.
    pub async fn ingest(&self, body: Bytes, address: IpAddr) -> Result<IngestReport, Problem> {
        let events = self.verify(body).await?;
        self.check_rates(&events, Some(address))?;
        self.store_events(events).await
    }

    /// Takes in what was fetched from another server.
    ///
    /// # Errors
    /// As [`Self::ingest`].
    pub async fn mirror(&self, body: Bytes) -> Result<IngestReport, Problem> {
        let events = self.verify(body).await?;
        let report = self.store_events(events).await?;
        self.stats.mirrored.fetch_add(report.stored as u64, Relaxed);
        Ok(report)
    }

    /// Signatures take the processor for a while, so they are checked off the threads that serve.
    async fn verify(&self, body: Bytes) -> Result<Vec<Event>, Problem> {
        let checked =
            tokio::task::spawn_blocking(move || verify_many(parse_events(body)?, OsRng)).await;
        match checked {
            Ok(Ok(events)) => Ok(events),
            Ok(Err(refusal)) => {
                self.stats.refused.fetch_add(1, Relaxed);
                Err(Problem::invalid(refusal.to_string()))
            }
            Err(_) => Err(Problem::new(Code::InternalError, "the check of the events broke off")),
        }
    }

    fn check_rates(&self, events: &[Event], address: Option<IpAddr>) -> Result<(), Problem> {
        let now_ns = self.clock.mono_ns();
        let limited = |exceeded: Exceeded| {
            self.stats.limited.fetch_add(1, Relaxed);
            Problem::from(exceeded)
        };
        let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        if let (Some(rate), Some(address)) = (self.config.address_rate, address) {
            self.by_address.take(address, rate, count, now_ns).map_err(limited)?;
        }
        let mut counts: BTreeMap<SystemKey, u32> = BTreeMap::new();
        for event in events {
            *counts.entry(event.system()).or_default() += 1;
        }
        let mut taken: Vec<(SystemKey, Rate, u32)> = Vec::new();
        for (system, count) in counts {
            let Some(rate) = self.quotas.rate(&system, &self.config) else { continue };
            if let Err(exceeded) = self.by_identity.take(system, rate, count, now_ns) {
                // A refused request costs nobody anything.
                for (system, rate, count) in taken {
                    self.by_identity.refund(system, rate, count, now_ns);
                }
                return Err(limited(exceeded));
            }
            taken.push((system, rate, count));
        }
        Ok(())
    }

    async fn store_events(&self, events: Vec<Event>) -> Result<IngestReport, Problem> {
        if events.is_empty() {
            return Ok(IngestReport::default());
        }
        let notes: BTreeMap<EventKey, Note> = events
            .iter()
            .filter_map(|event| {
                Some((event.key(), note_of(event, self.config.mode, &self.config.rules)?))
            })
            .collect();
        let waits = notes.values().any(|note| note.state == ModerationState::Waiting);
        let max_bytes_of = self.quotas.bytes_of(&events);
        let max_system_bytes = self.config.identity_bytes;
        let given = Ingest { events, max_system_bytes, max_bytes_of, notes };
        match self.store.social_ingest(given).await.map_err(|error| store_problem(&error))? {
            Ingested::Done(report) => {
                self.stats.stored.fetch_add(report.stored as u64, Relaxed);
                self.stats.duplicates.fetch_add(report.duplicates as u64, Relaxed);
                self.committed(&report);
                if waits {
                    self.queue_grew.notify_one();
                }
                Ok(report)
            }
            Ingested::Over(over) => {
                self.stats.limited.fetch_add(1, Relaxed);
                Err(Problem::new(Code::QuotaExceeded, over.to_string()))
            }
        }
    }
}
