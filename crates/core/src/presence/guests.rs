//! Presence across relays: users who are connected elsewhere and hear of those who live here, and users who live
//! elsewhere and are connected here.

use std::sync::Arc;

use bytes::Bytes;
use relay_proto::{NodeId, Problem, conv::Caller, frame::encode};

use super::{
    Connected, MAX_CONTACTS, Presence, add_outbox, check_contacts,
    table::{self, Update, View},
    view_body,
};
use crate::fanout::Outbox;

impl Presence {
    /// A user who lives elsewhere, and watches these contacts, hears of them at another relay, as long as the answer
    /// lives: first how things are, then what changes.
    ///
    /// # Errors
    /// `limit_exceeded`.
    pub fn guest(
        self: &Arc<Self>,
        user: NodeId,
        contacts: Vec<NodeId>,
        outbox: &Arc<Outbox>,
    ) -> Result<Guest, Problem> {
        check_contacts(&contacts)?;
        let mut connected = self.connected();
        let (contacts, views) = self.seat(user, contacts);
        self.begin(&mut connected, user, outbox, &views);
        Ok(Guest { presence: self.clone(), user, contacts, outbox: Some(outbox.clone()) })
    }

    /// A user who lives here hears at another relay of those whom they watch, as long as the answer lives: first how
    /// things are with `contacts`, who are those that live here too, then what changes. Of the others their homes
    /// know, and this one does not.
    pub fn resident_elsewhere(
        self: &Arc<Self>,
        user: NodeId,
        contacts: &[NodeId],
        outbox: &Arc<Outbox>,
    ) -> Guest {
        let now_ms = self.now_ms();
        let mut connected = self.connected();
        let views = {
            let table = self.table();
            let view = |contact: &NodeId| (*contact, table.status(&user, contact, now_ms));
            seen(contacts.iter().map(view))
        };
        self.begin(&mut connected, user, outbox, &views);
        let contacts = Vec::new();
        Guest { presence: self.clone(), user, contacts, outbox: Some(outbox.clone()) }
    }

    /// A user who lives elsewhere hears of contacts who live here, on the connections that they have here, as long as
    /// the answer lives.
    pub fn guest_here(self: &Arc<Self>, user: NodeId, mut contacts: Vec<NodeId>) -> Guest {
        contacts.truncate(MAX_CONTACTS);
        let connected = self.connected();
        let (contacts, views) = self.seat(user, contacts);
        let update = |(about, view)| Update { to: user, about, view };
        let updates: Vec<Update> = views.into_iter().map(update).collect();
        self.deliver(&connected, &updates);
        drop(connected);
        Guest { presence: self.clone(), user, contacts, outbox: None }
    }

    /// What a user who lives elsewhere, and watches these contacts, may know of each.
    ///
    /// # Errors
    /// `rate_limited`, `limit_exceeded`.
    pub fn guest_status(
        &self,
        caller: &Caller,
        contacts: Vec<NodeId>,
    ) -> Result<Vec<(NodeId, View)>, Problem> {
        check_contacts(&contacts)?;
        let now_ms = self.now_ms();
        self.statuses.count(caller.user, self.config().status_per_min, now_ms)?;
        let table = self.table();
        let view = |contact: NodeId| (contact, table.guest_status(&caller.user, &contact, now_ms));
        Ok(contacts.into_iter().map(view).collect())
    }

    /// Puts how things are into an outbox, and from now on what changes.
    fn begin(
        &self,
        connected: &mut Connected,
        user: NodeId,
        outbox: &Arc<Outbox>,
        views: &[(NodeId, View)],
    ) {
        add_outbox(connected, user, outbox);
        for (contact, view) in views {
            let frame: Bytes = encode("presence.update", None, &view_body(contact, view)).into();
            outbox.set_state(*contact, frame);
        }
    }

    /// From now on a guest watches these contacts. Returns whom they did not watch before, and how those are whom they
    /// may see.
    fn seat(&self, user: NodeId, contacts: Vec<NodeId>) -> (Vec<NodeId>, Vec<(NodeId, View)>) {
        let now_ms = self.now_ms();
        let max = self.config().watchers_max as usize;
        let mut added = Vec::new();
        let mut guests = self.guests();
        let mut table = self.table();
        for contact in &contacts {
            let count = guests.entry((user, *contact)).or_default();
            // Whoever is watched for good is not let go by a guest.
            if *count == 0 && table.watches(&user, contact) {
                continue;
            }
            *count += 1;
            table.watch(user, *contact, max);
            added.push(*contact);
        }
        guests.retain(|_, count| *count > 0);
        let view = |contact: NodeId| (contact, table.status(&user, &contact, now_ms));
        (added, seen(contacts.into_iter().map(view)))
    }
}

fn seen(views: impl Iterator<Item = (NodeId, View)>) -> Vec<(NodeId, View)> {
    views.filter(|(_, view)| view.status != table::Status::Unavailable).collect()
}

/// A user who lives elsewhere and hears of presence here.
#[derive(Debug)]
pub struct Guest {
    presence: Arc<Presence>,
    user: NodeId,
    contacts: Vec<NodeId>,
    /// Where it is told besides the user's connections here.
    outbox: Option<Arc<Outbox>>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(outbox) = &self.outbox {
            self.presence.disconnect(&self.user, outbox);
        }
        let mut guests = self.presence.guests();
        let mut table = self.presence.table();
        for contact in &self.contacts {
            let Some(count) = guests.get_mut(&(self.user, *contact)) else { continue };
            *count -= 1;
            if *count == 0 {
                guests.remove(&(self.user, *contact));
                table.unwatch(self.user, *contact);
            }
        }
    }
}
