//! Tells the homes of members who live elsewhere that something is there for them, so that they may push to devices that
//! are not connected. Whom it is for is all that is said.
//!
//! It is a hint, and treated as one: what happens together is told together, a home that is out of reach is told
//! later, and nothing of it is kept over a restart.

use std::{
    collections::{HashMap, HashSet},
    sync::Weak,
    time::Duration,
};

use ahash::RandomState;
use relay_core::{failure::store_problem, news::Place};
use relay_proto::{NodeId, Problem, RelayId, conv::ConvId};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};

use super::afar::Home;
use crate::{homes::wire::Carried, node::Node};

/// Each home is told so often at most.
const EVERY: Duration = Duration::from_millis(200);
/// The longest wait before a home that is out of reach is told again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Homes that are told at once.
const MAX_TELLING: usize = 16;
/// Homes, and users of one home, that wait to be told of.
const MAX_HOMES: usize = 1_000;
const MAX_USERS: usize = 10_000;
/// Users in one message.
const MAX_TOLD: usize = 1_000;
/// Whoever is known nowhere is looked for again after this; so many are remembered.
const LOST_FOR: Duration = Duration::from_secs(60);
const MAX_LOST: usize = 10_000;

/// For whom something new lies at the relay that tells.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tidings {
    pub users: Vec<NodeId>,
}

/// A home that has to be told.
#[derive(Debug)]
struct Due {
    users: HashSet<NodeId, RandomState>,
    next: Instant,
    wait: Duration,
    is_told: bool,
}

impl Node {
    /// Takes what another home tells of users who live here and are in conversations of that home.
    ///
    /// # Errors
    /// The store's.
    pub async fn take_tidings(&self, from: &RelayId, tidings: Tidings) -> Result<(), Problem> {
        let mut users = tidings.users;
        users.truncate(MAX_TOLD);
        let here = self.store.users_with(from.to_string(), users).await;
        for user in here.map_err(|error| store_problem(&error))? {
            self.inboxes.news().note(|| Place::Elsewhere(user));
        }
        Ok(())
    }
}

/// Tells until the node stops.
pub(crate) async fn run(node: Weak<Node>) {
    let Some(strong) = node.upgrade() else { return };
    let (stop, meeting) = (strong.stop.clone(), strong.afar.meeting.clone());
    drop(strong);
    let news = loop {
        let Some(node) = node.upgrade() else { return };
        if !node.is_alone() {
            break node.inboxes.news().listen();
        }
        drop(node);
        if stop.run_until_cancelled(meeting.notified()).await.is_none() {
            return;
        }
    };
    let mut homes: HashMap<RelayId, Due, RandomState> = HashMap::default();
    let mut lost: HashMap<NodeId, Instant, RandomState> = HashMap::default();
    let mut telling: JoinSet<(RelayId, Vec<NodeId>, bool)> = JoinSet::new();
    let mut listen_at = Instant::now();
    loop {
        let waiting = homes.values().filter(|due| !due.users.is_empty() && !due.is_told);
        let next = waiting.map(|due| due.next).min();
        let heard = async {
            tokio::time::sleep_until(listen_at).await;
            news.take().await
        };
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            Some(Ok((home, users, is_done))) = telling.join_next() => {
                ended(&mut homes, &home, users, is_done);
            }
            places = heard => {
                listen_at = Instant::now() + EVERY;
                let Some(node) = node.upgrade() else { return };
                for place in places {
                    if let Place::Conversation(conv) = place {
                        note(&node, &mut homes, &mut lost, conv).await;
                    }
                }
            }
            () = due, if telling.len() < MAX_TELLING => {}
        }
        let now = Instant::now();
        let Some(node) = node.upgrade() else { return };
        for (home, due) in &mut homes {
            if telling.len() >= MAX_TELLING {
                break;
            }
            if due.users.is_empty() || due.is_told || due.next > now {
                continue;
            }
            let users: Vec<NodeId> = due.users.iter().copied().take(MAX_TOLD).collect();
            for user in &users {
                due.users.remove(user);
            }
            (due.is_told, due.next) = (true, now + EVERY);
            let (node, home) = (node.clone(), home.clone());
            telling.spawn(async move {
                let is_done = tell(&node, &home, &users).await.is_ok();
                (home, users, is_done)
            });
        }
        homes.retain(|_, due| !due.users.is_empty() || due.is_told || due.next > now);
    }
}

async fn tell(node: &Node, home: &RelayId, users: &[NodeId]) -> Result<(), Problem> {
    let carried = Carried::post_value("/v1/homes/news", &Tidings { users: users.to_vec() })?;
    node.ask_for::<serde::de::IgnoredAny>(home, &carried, None).await.map(|_| ())
}

/// Notes who has to be told of a conversation.
async fn note(
    node: &Node,
    homes: &mut HashMap<RelayId, Due, RandomState>,
    lost: &mut HashMap<NodeId, Instant, RandomState>,
    conv: ConvId,
) {
    let members = node.store.members_away(conv).await.unwrap_or_else(|error| {
        let problem = store_problem(&error);
        tracing::warn!(%problem, "who lives elsewhere cannot be looked up");
        Vec::new()
    });
    let now = Instant::now();
    for user in members {
        if lost.get(&user).is_some_and(|until| *until > now) {
            continue;
        }
        let Ok(Some(Home::At(home))) = node.home_of_user(user).await else {
            if lost.len() >= MAX_LOST {
                lost.clear();
            }
            lost.insert(user, now + LOST_FOR);
            continue;
        };
        if homes.len() >= MAX_HOMES && !homes.contains_key(&home) {
            continue;
        }
        let fresh =
            Due { users: HashSet::default(), next: Instant::now(), wait: EVERY, is_told: false };
        let due = homes.entry(home).or_insert(fresh);
        if due.users.len() < MAX_USERS {
            due.users.insert(user);
        }
    }
}

fn ended(
    homes: &mut HashMap<RelayId, Due, RandomState>,
    home: &RelayId,
    users: Vec<NodeId>,
    is_done: bool,
) {
    let Some(due) = homes.get_mut(home) else { return };
    due.is_told = false;
    if is_done {
        due.wait = EVERY;
        return;
    }
    due.wait = (due.wait * 2).min(LONGEST_WAIT);
    due.next = Instant::now() + due.wait;
    let room = MAX_USERS.saturating_sub(due.users.len());
    due.users.extend(users.into_iter().take(room));
}
