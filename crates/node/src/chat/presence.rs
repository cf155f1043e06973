//! The presence of contacts who live at other homes, and of everybody for users who do (`gateway.md` 11).
//!
//! While a user is connected here, each home of contacts of theirs is asked for a stream of what this user may know,
//! on the user's own grant. The contact's home decides; what it says goes to the user's connections like news of here.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ahash::RandomState;
use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};
use relay_core::{fanout::Outbox, presence::Guest};
use relay_proto::{NodeId, Problem, RelayId, conv::Caller};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::afar::Home;
use crate::{
    homes::{sse::Parser, wire::Carried},
    node::Node,
};

/// Homes are looked for, and asked, again after this.
const AGAIN: Duration = Duration::from_secs(300);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_SILENCE: Duration = Duration::from_secs(45);
/// Contacts whose homes are looked for at once.
const LOOKED_FOR: usize = 8;

/// What a home is asked.
#[derive(Debug, Serialize, Deserialize)]
pub struct PresenceAsked {
    /// Whom the user watches; `None` where the home knows itself, since the user lives there.
    pub contacts: Option<Vec<NodeId>>,
}

/// Whom a user watches, as their home says.
#[derive(Debug, Serialize, Deserialize)]
pub struct WatchedContacts {
    pub contacts: Vec<NodeId>,
}

/// Users who are connected here, and how often.
#[derive(Debug, Default)]
pub(super) struct Watching(Mutex<HashMap<NodeId, Watcher, RandomState>>);

#[derive(Debug)]
struct Watcher {
    connections: usize,
    /// Contacts whose home was not found.
    unknown: HashSet<NodeId, RandomState>,
    changed: Arc<Notify>,
    over: CancellationToken,
}

/// A connection that hears of presence. Dropping it ends that.
#[derive(Debug)]
pub struct Listening {
    node: Arc<Node>,
    user: NodeId,
    outbox: Arc<Outbox>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.node.presence.disconnect(&self.user, &self.outbox);
        let mut watching = self.node.afar.watching.lock();
        let Some(watcher) = watching.get_mut(&self.user) else { return };
        watcher.connections -= 1;
        if watcher.connections == 0 {
            watcher.over.cancel();
            watching.remove(&self.user);
        }
    }
}

impl Watching {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Watcher, RandomState>> {
        // Whole between any two of its statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which contacts of a user cannot be found now.
    fn set_unknown(&self, user: &NodeId, contacts: impl Iterator<Item = NodeId>) {
        if let Some(watcher) = self.lock().get_mut(user) {
            watcher.unknown = contacts.collect();
        }
    }

    /// A contact has a home: where the user could not find them, they are looked for again.
    fn turned_up(&self, user: &NodeId, contact: &NodeId) {
        if let Some(watcher) =
            self.lock().get(user).filter(|watcher| watcher.unknown.contains(contact))
        {
            watcher.changed.notify_one();
        }
    }
}

impl Node {
    /// Whatever the caller may hear of presence goes into the outbox, as long as the answer lives.
    pub fn listen(self: &Arc<Self>, caller: &Caller, outbox: &Arc<Outbox>) -> Listening {
        let user = caller.user;
        self.presence.connect(user, outbox);
        let mut watching = self.afar.watching.lock();
        let alone = self.afar.is_alone();
        let watcher = watching.entry(user).or_insert_with(|| {
            let watcher = Watcher {
                connections: 0,
                unknown: HashSet::default(),
                changed: Arc::default(),
                over: CancellationToken::new(),
            };
            if !alone {
                let run = run(
                    self.clone(),
                    caller.clone(),
                    watcher.changed.clone(),
                    watcher.over.clone(),
                );
                self.tasks.spawn(run);
            }
            watcher
        });
        watcher.connections += 1;
        drop(watching);
        Listening { node: self.clone(), user, outbox: outbox.clone() }
    }

    /// What a user who is connected to another relay may know goes into the outbox, as long as the answer lives.
    /// `contacts` are whom a user watches who lives elsewhere; of one who lives here it is known.
    ///
    /// # Errors
    /// `limit_exceeded`; the store's.
    pub async fn listen_elsewhere(
        &self,
        user: NodeId,
        contacts: Option<Vec<NodeId>>,
        outbox: &Arc<Outbox>,
    ) -> Result<Guest, Problem> {
        let Some(contacts) = contacts else {
            // Of contacts who live elsewhere their homes are asked: here they look as if they were never there.
            let mut residents = Vec::new();
            for contact in self.presence.watchlist(&user) {
                if self.lives_here(contact).await? {
                    residents.push(contact);
                }
            }
            return Ok(self.presence.resident_elsewhere(user, &residents, outbox));
        };
        let guest = self.presence.guest(user, contacts.clone(), outbox)?;
        // Whoever looked for them before they were anywhere finds them now.
        contacts.iter().for_each(|contact| self.afar.watching.turned_up(contact, &user));
        Ok(guest)
    }

    /// Whom a user watches who lives at another home.
    ///
    /// # Errors
    /// `unauthorized` without a grant; `home_unreachable`.
    pub async fn contacts_at(
        &self,
        home: &RelayId,
        caller: &Caller,
    ) -> Result<Vec<NodeId>, Problem> {
        let carried = Carried::get("/v1/homes/contacts");
        let WatchedContacts { contacts } =
            self.ask_for(home, &carried, Some(self.grant_of(caller)?)).await?;
        Ok(contacts)
    }

    /// The user's contacts are others now.
    pub fn contacts_changed(&self, user: &NodeId) {
        if let Some(watcher) = self.afar.watching.lock().get(user) {
            watcher.changed.notify_one();
        }
    }
}

/// Follows the homes of a user's contacts while the user is connected.
async fn run(node: Arc<Node>, caller: Caller, changed: Arc<Notify>, over: CancellationToken) {
    loop {
        let follow = async {
            let Whereabouts { away, here, is_part } = whereabouts(&node, &caller).await;
            let _here = node.presence.guest_here(caller.user, here);
            let streams =
                away.into_iter().map(|(home, contacts)| follow(&node, &caller, home, contacts));
            let all = async {
                join_all(streams).await;
                std::future::pending::<()>().await;
            };
            match is_part {
                false => all.await,
                // A way that is missing may be there soon.
                true => {
                    let _ = tokio::time::timeout(LONGEST_WAIT, all).await;
                }
            }
        };
        tokio::select! {
            () = over.cancelled() => return,
            () = node.stop.cancelled() => return,
            () = changed.notified() => {}
            () = tokio::time::sleep(AGAIN) => {}
            () = follow => {}
        }
    }
}

/// Where a user's contacts live.
#[derive(Debug, Default)]
struct Whereabouts {
    /// At other homes, the user's own among them where it is not this relay: that one knows itself whom they watch.
    away: HashMap<RelayId, Option<Vec<NodeId>>, RandomState>,
    /// Here, where the user lives elsewhere.
    here: Vec<NodeId>,
    /// Not everything could be found out.
    is_part: bool,
}

async fn whereabouts(node: &Arc<Node>, caller: &Caller) -> Whereabouts {
    let mut found = Whereabouts::default();
    let own = match node.home_of_caller(caller.user).await {
        Ok(Home::At(home)) => Some(home),
        _ => None,
    };
    let contacts = match &own {
        None => node.presence.watchlist(&caller.user),
        Some(home) => node.contacts_at(home, caller).await.unwrap_or_else(|_| {
            found.is_part = true;
            Vec::new()
        }),
    };
    // Whoever turns up while they are looked for is looked for once more.
    let is_unknown = |contact: &NodeId| !node.is_home_known(contact);
    node.afar.watching.set_unknown(&caller.user, contacts.iter().copied().filter(is_unknown));
    let mut unknown = Vec::new();
    let mut homes = futures_util::stream::iter(contacts)
        .map(|contact| async move { (contact, node.home_of_user(contact).await) })
        .buffer_unordered(LOOKED_FOR);
    while let Some((contact, home)) = homes.next().await {
        match home {
            Ok(Some(Home::At(home))) if own.as_ref() != Some(&home) => {
                found.away.entry(home).or_default().get_or_insert_default().push(contact);
            }
            Ok(Some(Home::Here)) if own.is_some() => found.here.push(contact),
            Ok(Some(_)) => {}
            Ok(None) => unknown.push(contact),
            Err(_) => found.is_part = true,
        }
    }
    node.afar.watching.set_unknown(&caller.user, unknown.into_iter());
    found.away.extend(own.map(|home| (home, None)));
    found
}

/// Follows one home until it is dropped.
async fn follow(node: &Arc<Node>, caller: &Caller, home: RelayId, contacts: Option<Vec<NodeId>>) {
    let Ok(carried) = Carried::post_value("/v1/homes/presence", &PresenceAsked { contacts }) else {
        return;
    };
    let mut wait = FIRST_WAIT;
    loop {
        // Without a grant there is nothing to be heard; the next session may bring one.
        let Ok(grant) = node.grant_of(caller) else { return };
        if let Ok((answer, Some(mut stream))) = node.ask(&home, &carried, Some(grant)).await
            && answer.is_success()
        {
            wait = FIRST_WAIT;
            let mut parser = Parser::default();
            while let Ok(Some(Ok(bytes))) =
                tokio::time::timeout(LONGEST_SILENCE, stream.next()).await
            {
                if !parser.add(&bytes) {
                    break;
                }
                while let Some(found) = parser.next() {
                    if let Some(event) = found.filter(|event| event.t == "presence.update") {
                        tell(node, &caller.user, event.data);
                    }
                }
            }
        }
        let mut changes = node.federated().federation.changes();
        tokio::time::sleep(FIRST_WAIT).await;
        let _ = tokio::time::timeout(wait, changes.changed()).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

fn tell(node: &Node, user: &NodeId, frame: String) {
    #[derive(Deserialize)]
    struct Frame {
        body: About,
    }
    #[derive(Deserialize)]
    struct About {
        user_id: NodeId,
    }
    if let Ok(Frame { body }) = serde_json::from_str(&frame) {
        node.presence.tell(user, body.user_id, Bytes::from(frame));
    }
}
