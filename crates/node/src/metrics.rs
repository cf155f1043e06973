//! Figures for operators (Prometheus; names as `cli.md` section 4 has them).
//!
//! Counters are plain atomics, so that the hot paths pay next to nothing; the text is made when it is asked for.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use relay_core::histogram::Histogram;
use relay_proto::{
    call::RpcCode,
    lease::{LeaseAction, LeaseRow},
};
use relay_store::{Committed, WriteStats};

use crate::node::Node;

/// What the node counts itself.
#[derive(Debug, Default)]
pub struct Metrics {
    /// From an event's arrival to its commit.
    event_lag: Histogram,
    store_write: Histogram,
    /// From asking for a lock to having it.
    pub lock_wait: Histogram,
    lock_takeovers: AtomicU64,
    lock_acquires: AtomicU64,
    writer_queued: AtomicU64,
    /// Open sockets.
    pub connections: AtomicU64,
    /// Open event streams over SSE.
    pub sse_streams: AtomicU64,
    /// Connections closed because they did not read.
    pub slow_consumers: AtomicU64,
    /// Unix seconds; 0 where no certificate is fetched.
    certificate_expires: AtomicU64,
    /// Answers by class of status: index 0 is 1xx.
    pub responses: [AtomicU64; 5],
    /// Calls by how they ended, as in [`CALL_RESULTS`].
    calls: [AtomicU64; CALL_RESULTS.len()],
    call_seconds: Histogram,
}

/// How a call ends, as the label of `relay_calls_total`.
const CALL_RESULTS: [&str; 10] = [
    "ok",
    "invalid",
    "not_found",
    "unreachable",
    "timeout",
    "forbidden",
    "overloaded",
    "loop",
    "failed",
    "service_error",
];

const fn call_result(outcome: Result<(), RpcCode>) -> usize {
    match outcome {
        Ok(()) => 0,
        Err(RpcCode::Parse | RpcCode::InvalidRequest | RpcCode::InvalidParams) => 1,
        Err(RpcCode::MethodNotFound | RpcCode::ServiceNotFound) => 2,
        Err(RpcCode::NodeUnreachable) => 3,
        Err(RpcCode::Timeout) => 4,
        Err(RpcCode::Forbidden) => 5,
        Err(RpcCode::Overloaded) => 6,
        Err(RpcCode::Loop) => 7,
        Err(RpcCode::Internal) => 8,
        Err(RpcCode::Other(_)) => 9,
    }
}

impl Metrics {
    /// A certificate that was fetched is in use until then.
    pub fn certificate_expires(&self, at: std::time::SystemTime) {
        let unix = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.certificate_expires.store(unix.as_secs(), Ordering::Relaxed);
    }

    pub(crate) fn committed(&self, events: &[Committed], now_ns: u64) {
        // All of one job arrived together; the first of each job stands for the others.
        let mut last = (0, 0);
        for event in events {
            if event.received_at_ns == last.0 {
                last.1 += 1;
                continue;
            }
            self.observe_lag(last, now_ns);
            last = (event.received_at_ns, 1);
        }
        self.observe_lag(last, now_ns);
    }

    fn observe_lag(&self, (received_at_ns, times): (u64, u64), now_ns: u64) {
        if times > 0 {
            self.event_lag.observe_many_ns(now_ns.saturating_sub(received_at_ns), times);
        }
    }

    pub(crate) fn leases_changed(&self, rows: &[LeaseRow]) {
        for row in rows {
            match row.action {
                LeaseAction::Acquire => self.lock_acquires.fetch_add(1, Ordering::Relaxed),
                LeaseAction::TakeOver => {
                    self.lock_acquires.fetch_add(1, Ordering::Relaxed);
                    self.lock_takeovers.fetch_add(1, Ordering::Relaxed)
                }
                _ => 0,
            };
        }
    }

    pub(crate) fn called(&self, outcome: Result<(), RpcCode>, took_ns: u64) {
        self.calls[call_result(outcome)].fetch_add(1, Ordering::Relaxed);
        self.call_seconds.observe_ns(took_ns);
    }

    pub(crate) fn wrote(&self, stats: WriteStats) {
        self.store_write.observe_ns(stats.took.as_nanos() as u64);
        self.writer_queued.store(stats.queued as u64, Ordering::Relaxed);
    }
}

impl Node {
    /// Everything in the Prometheus text format.
    pub fn metrics_text(&self) -> String {
        let mut out = String::with_capacity(8 << 10);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let metrics = &*self.metrics;
        metrics.event_lag.write(
            &mut out,
            "relay_event_lag_seconds",
            "From the verification of an event to its commit.",
        );
        metrics.store_write.write(
            &mut out,
            "relay_store_write_seconds",
            "How long a group transaction of the store took.",
        );
        metrics.call_seconds.write(
            &mut out,
            "relay_call_seconds",
            "From a call's arrival at a door of this node to its answer.",
        );
        let _ = writeln!(
            out,
            "# HELP relay_calls_total Calls at the doors of this node, by how they ended.\n\
             # TYPE relay_calls_total counter"
        );
        for (result, count) in CALL_RESULTS.iter().zip(&metrics.calls) {
            let _ = writeln!(out, "relay_calls_total{{result=\"{result}\"}} {}", load(count));
        }
        let topology = self.federated().federation.topology();
        let _ = writeln!(
            out,
            "# HELP relay_link_up Links to other relays that are up.\n# TYPE relay_link_up gauge\n\
             relay_link_up {}\n\
             # HELP relay_links_total What happened to links, and why.\n\
             # TYPE relay_links_total counter",
            topology.links.len()
        );
        for (kind, reason, count) in self.federated().links.counters().all() {
            let kind = kind.as_str();
            let _ =
                writeln!(out, "relay_links_total{{event=\"{kind}\",reason=\"{reason}\"}} {count}");
        }
        metrics.lock_wait.write(
            &mut out,
            "relay_lock_wait_seconds",
            "From asking for a lock to having it.",
        );
        self.fanout.stats().took.write(
            &mut out,
            "relay_fanout_seconds",
            "From the announcement of a commit to its frames lying in the outboxes of subscribers.",
        );
        let events = self.events.stats();
        let fanout = self.fanout.stats();
        let locks = self.locks.stats();
        let contended = locks.contended.load(Ordering::Relaxed).max(0) as u64;
        let social = self.social.stats();
        for (name, help, value) in [
            ("relay_social_stored_total", "Social events stored.", load(&social.stored)),
            (
                "relay_social_duplicate_total",
                "Social events that were held, deleted or refused already.",
                load(&social.duplicates),
            ),
            (
                "relay_social_refused_total",
                "Requests of social events refused for their form or a signature.",
                load(&social.refused),
            ),
            (
                "relay_social_limited_total",
                "Requests of social events refused by a quota.",
                load(&social.limited),
            ),
            ("relay_social_purged_total", "Identities purged.", load(&social.purged)),
            (
                "relay_social_unchanged_total",
                "Social answers that the asker had already (304).",
                load(&social.unchanged),
            ),
            (
                "relay_social_mirrored_total",
                "Social events fetched from other servers.",
                load(&social.mirrored),
            ),
            (
                "relay_social_judged_total",
                "Verdicts of the moderation service that were carried out.",
                load(&social.judged),
            ),
            (
                "relay_social_judge_failed_total",
                "Requests to the moderation service that brought no verdict.",
                load(&social.judge_failed),
            ),
            ("relay_events_stored_total", "Events stored.", load(&events.stored)),
            (
                "relay_events_duplicate_total",
                "Events that were stored already.",
                load(&events.duplicates),
            ),
            ("relay_events_relayed_total", "Ephemeral events passed on.", load(&events.relayed)),
            (
                "relay_events_refused_total",
                "Events refused by policy, quota or fence.",
                load(&events.refused),
            ),
            (
                "relay_events_bad_signature_total",
                "Events whose signature did not verify.",
                load(&events.bad_signatures),
            ),
            (
                "relay_fanout_delivered_total",
                "Frames handed to subscribers.",
                load(&fanout.delivered),
            ),
            (
                "relay_fanout_lagged_total",
                "Subscriptions that fell behind and went back to the store.",
                load(&fanout.lagged),
            ),
            (
                "relay_fanout_dropped_total",
                "Ephemeral frames that found no room.",
                load(&fanout.dropped),
            ),
            ("relay_lock_acquired_total", "Locks granted.", load(&metrics.lock_acquires)),
            (
                "relay_lock_takeovers_total",
                "Locks taken after the lease before had expired.",
                load(&metrics.lock_takeovers),
            ),
            ("relay_lock_contended_total", "Acquires that found the lock held.", contended),
            (
                "relay_slow_consumers_total",
                "Connections closed because they did not read.",
                load(&metrics.slow_consumers),
            ),
        ] {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
        }
        for (name, help, value) in [
            ("relay_subscriptions", "Live subscriptions.", load(&fanout.subscriptions)),
            (
                "relay_verify_queue",
                "Jobs that wait for verification.",
                self.events.waiting() as u64,
            ),
            (
                "relay_store_queue",
                "Jobs that waited for the writer at its last commit.",
                load(&metrics.writer_queued),
            ),
            ("relay_log_seq", "The newest seq of the event log.", self.store.committed_seq()),
            (
                "relay_certificate_expires_timestamp_seconds",
                "When the certificate that was fetched ends; 0 where none is.",
                load(&metrics.certificate_expires),
            ),
            (
                "relay_config_last_reload_successful",
                "0 where the last reload found a bad configuration and changed nothing.",
                u64::from(self.last_reload().is_none_or(|last| last.ok)),
            ),
        ] {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        }
        let _ = writeln!(
            out,
            "# HELP relay_connections Open connections.\n# TYPE relay_connections gauge\n\
             relay_connections{{kind=\"socket\"}} {}\nrelay_connections{{kind=\"sse\"}} {}",
            load(&metrics.connections),
            load(&metrics.sse_streams)
        );
        self.chat_metrics(&mut out);
        let _ = writeln!(
            out,
            "# HELP relay_http_responses_total Answers over HTTP.\n# TYPE relay_http_responses_total counter"
        );
        for (class, count) in metrics.responses.iter().enumerate() {
            let _ = writeln!(
                out,
                "relay_http_responses_total{{class=\"{}xx\"}} {}",
                class + 1,
                load(count)
            );
        }
        let _ = writeln!(
            out,
            "# HELP relay_build_info Which program runs.\n# TYPE relay_build_info gauge\n\
             relay_build_info{{version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        );
        out
    }
}
