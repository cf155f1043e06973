//! The door of conversations.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use relay_core::{conversations::PendingAnswer, sessions::LiveSession};
use relay_proto::conv::{Caller, Request};

use crate::node::Node;

impl Node {
    /// Who a session speaks for, connected to this relay.
    pub fn chat_caller(&self, session: &LiveSession) -> Caller {
        Caller {
            user: session.user(),
            device: session.device().clone(),
            gateway: self.identity.relay_id.clone(),
        }
    }

    /// Asks the home of a conversation. A message takes its place in the line before this returns.
    pub fn chat(self: &Arc<Self>, caller: Caller, request: Request) -> PendingAnswer {
        self.conversations.serve(caller, request)
    }

    /// The figures of the gateway in the Prometheus text format.
    pub(crate) fn chat_metrics(&self, out: &mut String) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let chat = self.conversations.stats();
        let packages = self.key_packages.stats();
        let outcomes = [
            ("sent", load(&chat.sent)),
            ("duplicate", load(&chat.duplicates)),
            ("conflict", load(&chat.conflicts)),
            ("refused", load(&chat.refused)),
        ];
        labelled(out, "relay_chat_messages_total", "Messages by what became of them.", &outcomes);
        let outcomes = [
            ("published", load(&packages.published)),
            ("refused", load(&packages.refused)),
            ("issued", load(&packages.issued)),
            ("last_resort", load(&packages.last_resort)),
            ("empty", load(&packages.empty)),
        ];
        let help = "KeyPackages handed in and out, and fetches that found none.";
        labelled(out, "relay_key_packages_total", help, &outcomes);
        let presence = self.presence.stats();
        let attachments = self.attachments.stats();
        for (name, help, value) in [
            (
                "relay_chat_delivered_total",
                "Messages handed to live followers.",
                load(&chat.delivered),
            ),
            (
                "relay_chat_lagged_total",
                "Followers that fell back to reading from the store.",
                load(&chat.lagged),
            ),
            (
                "relay_chat_replayed_total",
                "Messages read from the store for followers.",
                load(&chat.replayed),
            ),
            ("relay_chat_pruned_total", "Messages deleted by retention.", load(&chat.pruned)),
            ("relay_presence_leases_total", "Leases granted and renewed.", load(&presence.leases)),
            (
                "relay_presence_updates_total",
                "Changes told to connections of watchers.",
                load(&presence.updates),
            ),
            (
                "relay_blob_bytes_total",
                "Bytes of attachments that were kept.",
                load(&attachments.stored_bytes),
            ),
            ("relay_blob_expired_total", "Attachments that expired.", load(&attachments.expired)),
        ] {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
        }
    }
}

fn labelled(out: &mut String, name: &str, help: &str, outcomes: &[(&str, u64)]) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
    for (outcome, value) in outcomes {
        let _ = writeln!(out, "{name}{{outcome=\"{outcome}\"}} {value}");
    }
}
