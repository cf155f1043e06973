//! What is known of users and conversations of other homes (`federation.md`, Homes).
//!
//! A user's home is where their KeyPackages, inboxes, vault and contacts lie: the relay that they first came to, or the
//! one that `chat.user_home` names where this relay is nobody's home. A conversation's home never changes; the user's
//! home knows which relay it is, since that relay told it.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ahash::RandomState;
use dashmap::DashMap;
use futures_util::StreamExt;
use relay_core::failure::store_problem;
use relay_fed::link::Role;
use relay_proto::{
    Code, NodeId, Problem, RelayId,
    auth::verify_grant,
    conv::{Caller, ConvId},
};
use relay_store::chat::Place;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;

use super::{attachments::Held, lane::Lanes, presence::Watching, tail::Tails};
use crate::{config::Config, homes::wire::Carried, node::Node};

/// How long it is believed where somebody lives, milliseconds.
const BELIEVED_MS: u64 = 600_000;
/// Homes of users, and of conversations, that are remembered.
const MAX_KNOWN: usize = 100_000;
/// Relays that are asked at once.
pub(super) const ASKED_AT_ONCE: usize = 32;

/// Where something belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    Here,
    At(RelayId),
}

/// Whom a relay that does not know a user asks on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Nobody.
    Own,
    /// Its spokes.
    Near,
    /// Its spokes and its peers, who ask their spokes.
    All,
}

/// The chat gateway's knowledge of other relays.
#[derive(Debug)]
pub struct Afar {
    /// The home of users who come in here and live nowhere yet.
    user_home: Option<RelayId>,
    has_others: AtomicBool,
    /// The first other relay was heard of.
    pub(super) meeting: Arc<Notify>,
    users: Known<NodeId>,
    places: Known<(NodeId, ConvId)>,
    pub(super) lanes: Lanes,
    pub(super) tails: Tails,
    pub(super) watching: Watching,
    pub(super) held: Held,
}

impl Afar {
    /// What a relay `me` of this configuration begins with.
    pub(crate) fn new(config: &Config, me: &str) -> Result<Self, String> {
        let home = config.chat.user_home.as_str();
        let user_home = if matches!(home, "" | "self") || home == me {
            None
        } else {
            Some(home.parse().map_err(|_| format!("'{home}' is no relay id"))?)
        };
        let links = !config.federation.connect.is_empty()
            || !config.federation.peers.is_empty()
            || config.hub.psk_file.is_some();
        Ok(Self {
            has_others: AtomicBool::new(links || user_home.is_some()),
            user_home,
            meeting: Arc::default(),
            users: Known::default(),
            places: Known::default(),
            lanes: Lanes::default(),
            tails: Tails::default(),
            watching: Watching::default(),
            held: Held::default(),
        })
    }

    /// Whether no other relay was ever heard of: then everything is here.
    pub fn is_alone(&self) -> bool {
        !self.has_others.load(Ordering::Relaxed)
    }

    /// Another relay was heard of; whether it is the first.
    pub(super) fn meet(&self) -> bool {
        let is_first = !self.has_others.swap(true, Ordering::Relaxed);
        self.meeting.notify_one();
        is_first
    }
}

impl Node {
    /// Where a user lives; `None` where nobody knows.
    ///
    /// # Errors
    /// `home_unreachable` where not all could be asked who might know.
    pub async fn home_of_user(&self, user: NodeId) -> Result<Option<Home>, Problem> {
        if let Some(home) = self.afar.users.get(&user, self.now_ms()) {
            return Ok(Some(home));
        }
        if self.lives_here(user).await? {
            return Ok(Some(Home::Here));
        }
        if self.afar.is_alone() {
            return Ok(None);
        }
        let found = match &self.afar.user_home {
            Some(home) => self.ask_user(home, user, Scope::All).await?,
            None => self.find_user(user, Scope::All, None).await?,
        };
        let found = found.filter(|home| home.as_str() != self.identity.relay_id);
        Ok(found.map(|home| {
            let home = Home::At(home);
            self.afar.users.put(user, home.clone(), self.now_ms());
            home
        }))
    }

    /// Whether a user lives here.
    ///
    /// # Errors
    /// The store's.
    pub async fn lives_here(&self, user: NodeId) -> Result<bool, Problem> {
        if let Some(home) = self.afar.users.get(&user, self.now_ms()) {
            return Ok(home == Home::Here);
        }
        let here = self.store.is_home_user(user).await.map_err(|error| store_problem(&error))?;
        if here {
            self.afar.users.put(user, Home::Here, self.now_ms());
        }
        Ok(here)
    }

    /// Whether it is remembered where a user lives.
    pub(super) fn is_home_known(&self, user: &NodeId) -> bool {
        self.afar.users.get(user, self.now_ms()).is_some()
    }

    /// Where the user of a session lives. Who lives nowhere yet settles at `chat.user_home`, or here.
    ///
    /// # Errors
    /// The store's.
    pub async fn home_of_caller(&self, user: NodeId) -> Result<Home, Problem> {
        match (self.home_of_user(user).await, &self.afar.user_home) {
            (Ok(Some(home)), _) => Ok(home),
            (Ok(None) | Err(_), Some(home)) => Ok(Home::At(home.clone())),
            (Ok(None), None) => {
                self.settle(user).await?;
                Ok(Home::Here)
            }
            // Nobody says no for certain: served here, and asked again the next time.
            (Err(problem), None) if problem.code == Code::InternalError => Err(problem),
            (Err(_), None) => Ok(Home::Here),
        }
    }

    /// Those of some users who live elsewhere, or for all that is known may.
    pub async fn away(&self, users: &[NodeId]) -> Vec<NodeId> {
        if self.is_alone() {
            return Vec::new();
        }
        let homes = futures_util::stream::iter(users.to_vec())
            .map(|user| async move { (user, self.home_of_user(user).await) })
            .buffer_unordered(ASKED_AT_ONCE);
        let away = homes.filter_map(|(user, home)| {
            // Whom nobody knows now may live at a relay that has no link now.
            let is_away = !matches!(home, Ok(Some(Home::Here)));
            std::future::ready(is_away.then_some(user))
        });
        away.collect().await
    }

    /// The user lives here from now on.
    ///
    /// # Errors
    /// The store's.
    pub async fn settle(&self, user: NodeId) -> Result<(), Problem> {
        if self.afar.users.get(&user, self.now_ms()) == Some(Home::Here) {
            return Ok(());
        }
        let settled = self.store.add_home_user(user, self.now_ms()).await;
        settled.map_err(|error| store_problem(&error))?;
        self.afar.users.put(user, Home::Here, self.now_ms());
        Ok(())
    }

    /// Asks other relays where a user lives, all but `except`.
    ///
    /// # Errors
    /// `home_unreachable` where nobody knows and not all could be asked.
    pub async fn find_user(
        &self,
        user: NodeId,
        scope: Scope,
        except: Option<&RelayId>,
    ) -> Result<Option<RelayId>, Problem> {
        let (asked, mut missing) = self.neighbours(scope, except);
        let mut answers = futures_util::stream::iter(asked)
            .map(|(relay, scope)| async move { self.ask_user(&relay, user, scope).await })
            .buffer_unordered(ASKED_AT_ONCE);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(Some(home)) => return Ok(Some(home)),
                Ok(None) => {}
                Err(problem) => missing = Some(problem),
            }
        }
        missing.map_or(Ok(None), Err)
    }

    /// The relays that are asked what this one does not know, all but `except`, each with whom it asks on; and what to
    /// say where nobody knows, since not all can be asked.
    pub(super) fn neighbours(
        &self,
        scope: Scope,
        except: Option<&RelayId>,
    ) -> (Vec<(RelayId, Scope)>, Option<Problem>) {
        let unknown = || Problem::new(Code::HomeUnreachable, "not every relay can be asked now");
        let federated = self.federated();
        let federation = &federated.federation;
        let mut asked = Vec::new();
        let mut missing = None;
        match (federated.role, scope) {
            (_, Scope::Own) | (Role::Home, Scope::Near) => {}
            (Role::Home, Scope::All) => match federation.hub() {
                Some(hub) => asked.push((hub, Scope::All)),
                None => missing = Some(unknown()),
            },
            (Role::Main, _) => {
                let spokes = federation.spokes().into_iter().filter(|spoke| spoke.is_attached);
                asked.extend(spokes.map(|spoke| (spoke.id, Scope::Own)));
                if scope == Scope::All {
                    for peer in federation.peers() {
                        match peer.is_connected {
                            true => asked.push((peer.id, Scope::Near)),
                            false => missing = Some(unknown()),
                        }
                    }
                }
            }
        }
        asked.retain(|(relay, _)| Some(relay) != except);
        (asked, missing)
    }

    async fn ask_user(
        &self,
        relay: &RelayId,
        user: NodeId,
        scope: Scope,
    ) -> Result<Option<RelayId>, Problem> {
        #[derive(Deserialize)]
        struct Found {
            user_home_gateway: Option<RelayId>,
        }
        let body = json!({ "user_id": user, "scope": scope });
        let carried = Carried::post_value("/v1/homes/user", &body)?;
        let found: Found = self.ask_for(relay, &carried, None).await?;
        Ok(found.user_home_gateway)
    }

    /// Where a user finds a conversation. What nobody knows is this relay's to refuse, or the user's home's.
    ///
    /// # Errors
    /// `home_unreachable`, `unauthorized` where the user's home has to be asked and there is no grant.
    pub async fn place_of(&self, caller: &Caller, conv: &ConvId) -> Result<Home, Problem> {
        let key = (caller.user, conv.clone());
        if let Some(home) = self.afar.places.get(&key, self.now_ms()) {
            return Ok(home);
        }
        let place = self.store.conversation_place(conv.clone(), caller.user).await;
        let home = match place.map_err(|error| store_problem(&error))? {
            Place::Here => Home::Here,
            Place::At(relay) => match relay.parse() {
                Ok(relay) => Home::At(relay),
                Err(_) => return Ok(Home::Here),
            },
            Place::Unknown => match self.home_of_caller(caller.user).await? {
                Home::Here => return Ok(Home::Here),
                Home::At(home) => match self.ask_place(&home, caller, conv).await? {
                    Some(relay) if relay.as_str() == self.identity.relay_id => Home::Here,
                    Some(relay) => Home::At(relay),
                    None => return Ok(Home::At(home)),
                },
            },
        };
        self.afar.places.put(key, home.clone(), self.now_ms());
        Ok(home)
    }

    async fn ask_place(
        &self,
        home: &RelayId,
        caller: &Caller,
        conv: &ConvId,
    ) -> Result<Option<RelayId>, Problem> {
        #[derive(Deserialize)]
        struct Found {
            conv_home: Option<RelayId>,
        }
        let carried = Carried::post_value("/v1/homes/place", &json!({ "conv_id": conv }))?;
        let found: Found = self.ask_for(home, &carried, Some(self.grant_of(caller)?)).await?;
        Ok(found.conv_home)
    }

    /// Where this relay says that a user who lives here finds a conversation.
    ///
    /// # Errors
    /// The store's.
    pub async fn known_place(&self, user: NodeId, conv: ConvId) -> Result<Option<String>, Problem> {
        let place = self.store.conversation_place(conv, user).await;
        Ok(match place.map_err(|error| store_problem(&error))? {
            Place::Here => Some(self.identity.relay_id.clone()),
            Place::At(relay) => Some(relay),
            Place::Unknown => None,
        })
    }

    pub(super) fn note_place(&self, user: NodeId, conv: ConvId, home: Home) {
        self.afar.places.put((user, conv), home, self.now_ms());
    }

    /// What is remembered of the place of a conversation.
    pub(super) fn noted_place(&self, user: NodeId, conv: &ConvId) -> Option<Home> {
        self.afar.places.get(&(user, conv.clone()), self.now_ms())
    }

    pub(super) fn forget_home(&self, user: &NodeId) {
        self.afar.users.forget(user);
    }

    /// The caller's grant for this relay, where it is one now.
    ///
    /// # Errors
    /// `unauthorized`, with the relay that a grant has to name as `grant_for`.
    pub fn grant_of(&self, caller: &Caller) -> Result<String, Problem> {
        let me = self.identity.relay_id.as_str();
        let good = caller.grant.as_deref().filter(|grant| {
            let claims = verify_grant(grant, me, self.now_ms());
            claims.is_ok_and(|claims| claims.user_id == caller.user)
        });
        good.map(str::to_owned).ok_or_else(|| {
            let message = format!("this goes to another relay: it needs your grant for '{me}'");
            Problem::unauthorized(message).with("grant_for", me)
        })
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.wall_ns() / 1_000_000
    }
}

/// Homes that are believed for a while.
#[derive(Debug)]
pub(super) struct Known<K: Eq + Hash>(DashMap<K, (Home, u64), RandomState>);

impl<K: Eq + Hash> Default for Known<K> {
    fn default() -> Self {
        Self(DashMap::default())
    }
}

impl<K: Eq + Hash> Known<K> {
    pub(super) fn get(&self, key: &K, now_ms: u64) -> Option<Home> {
        let found = self.0.get(key)?;
        let (home, until_ms) = &*found;
        (*until_ms > now_ms).then(|| home.clone())
    }

    pub(super) fn put(&self, key: K, home: Home, now_ms: u64) {
        if self.0.len() >= MAX_KNOWN {
            self.0.retain(|_, (_, until_ms)| *until_ms > now_ms);
            if self.0.len() >= MAX_KNOWN {
                self.0.clear();
            }
        }
        self.0.insert(key, (home, now_ms + BELIEVED_MS));
    }

    fn forget(&self, key: &K) {
        self.0.remove(key);
    }
}
