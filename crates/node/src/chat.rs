//! The door of conversations: is it mine, or whose is it?
//!
//! - [`Node::chat`]: requests, to the line of a conversation here or to its home elsewhere
//! - `afar`: where users and conversations belong
//! - `lane`: messages on their way to other homes, in the order sent
//! - `tail`: conversations of other homes, followed here
//! - `everywhere`: what a user has at several homes
//! - `courier`: what the homes of other users are told
//! - `attachments`: those that lie at other relays
//! - `presence`: contacts who live elsewhere
//! - `tidings`: something is there for users who live elsewhere

mod afar;
mod attachments;
pub(crate) mod courier;
mod everywhere;
mod lane;
mod presence;
mod tail;
pub(crate) mod tidings;

pub use afar::{Afar, Home, Scope};
pub use courier::{MailBag, MailReceipt};
pub use everywhere::{DeviceAsked, DeviceState};
pub use lane::{Outcome, Outcomes, Requests};
pub use presence::{Listening, PresenceAsked, WatchedContacts};
pub use tail::{Frames, Removed, TailAsked, Window};
pub use tidings::Tidings;

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use relay_core::{conversations::PendingAnswer, sessions::LiveSession};
use relay_proto::{
    Problem,
    conv::{Answer, Caller, Request},
};

use crate::node::Node;

impl Node {
    /// Who a session speaks for, connected to this relay.
    pub fn chat_caller(&self, session: &LiveSession) -> Caller {
        Caller {
            user: session.user(),
            device: session.device().clone(),
            gateway: self.identity.relay_id.clone(),
            grant: session.grant(),
        }
    }

    /// Whether no other relay was ever heard of.
    pub fn is_alone(&self) -> bool {
        self.afar.is_alone()
    }

    /// Asks the home of a conversation, wherever it is. Messages of one device to one conversation are stored in the
    /// order in which they come here.
    pub fn chat(self: &Arc<Self>, caller: Caller, request: Request) -> PendingAnswer {
        if self.afar.is_alone() {
            return self.conversations.serve(caller, request);
        }
        let node = self.clone();
        match request {
            Request::Send(send) => self.send_in_order(caller, send),
            Request::List(list) => {
                Box::pin(async move { node.list_everywhere(&caller, list).await })
            }
            Request::MarkAllRead(mark) => {
                Box::pin(async move { node.mark_all_everywhere(&caller, mark).await })
            }
            request => Box::pin(async move { node.route(caller, request).await }),
        }
    }

    /// Asks for one conversation, or for a new one, which is its creator's home's.
    async fn route(self: &Arc<Self>, caller: Caller, request: Request) -> Result<Answer, Problem> {
        let named = request.conv_id().cloned();
        let home = match &named {
            Some(conv) => self.place_of(&caller, conv).await?,
            None => self.home_of_caller(caller.user).await?,
        };
        let Home::At(home) = home else {
            return self.conversations.serve(caller, request).await;
        };
        let made = match &request {
            Request::CreateRoom(room) => Some(room.conv_id.clone()),
            _ => None,
        };
        let answer = everywhere::only(self.ask_in_order(&home, &caller, vec![request]).await?)?;
        let made = match &answer {
            Answer::Created(created) => Some(created.conv_id.clone()),
            _ => made,
        };
        if let Some(conv) = made {
            self.note_place(caller.user, conv, Home::At(home));
        }
        Ok(answer)
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
            (
                "relay_push_sent_total",
                "Pushes that push services took.",
                self.push.as_ref().map_or(0, |push| load(&push.stats().sent)),
            ),
            (
                "relay_push_failed_total",
                "Pushes that push services did not take.",
                self.push.as_ref().map_or(0, |push| load(&push.stats().failed)),
            ),
        ] {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
        }
        let name = "relay_chat_followed_homes";
        let help = "Conversations of other homes that are followed here.";
        let value = self.followed_afar();
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
}

fn labelled(out: &mut String, name: &str, help: &str, outcomes: &[(&str, u64)]) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
    for (outcome, value) in outcomes {
        let _ = writeln!(out, "{name}{{outcome=\"{outcome}\"}} {value}");
    }
}
