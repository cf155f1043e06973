//! Brings mail to the homes of users who do not live here: what a conversation's home writes with a change is brought
//! until the user's home has it, in its order, and taken there once ([`relay_proto::conv::Mail`]).

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::StreamExt;
use relay_core::failure::store_problem;
use relay_proto::{
    Code, NodeId, Problem, RelayId,
    auth::DeviceId,
    conv::{
        Caller, ConvId, Mail, NumberedMail, Request, UserRef,
        request::{Act, Members},
    },
};
use relay_store::chat::{BlockHeard, MailTake, MailTaken};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::afar::{ASKED_AT_ONCE, Home};
use crate::{homes::wire::Carried, node::Node};

/// Pieces of mail that are looked at, and sent, at once.
const BATCH: u64 = 64;
/// Bytes of mail in one message.
const MAX_BYTES: usize = 512 << 10;
/// The waits after which a user's home is looked for, or asked, again.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// Users that are waited for longer and longer; others whom nobody knows are looked for in each round.
const MAX_DEFERRED: usize = 10_000;
/// Users with mail that are looked at together.
const USERS: u64 = 64;
/// How often these are brought some mail before others have their turn.
const TURNS: u32 = 16;
/// How long a user's home is looked for.
const LOOKED_FOR: Duration = Duration::from_secs(5);
/// Mail that nobody took for so long is deleted, milliseconds.
const KEPT_MS: u64 = 30 * 86_400_000;
/// What a user's home is called where it acts for them.
const HOME_DEVICE: &str = "home";
/// How often somebody looks without being told.
const LOOK: Duration = Duration::from_secs(5);

/// What a home brings to another.
#[derive(Debug, Serialize, Deserialize)]
pub struct MailBag {
    pub items: Vec<NumberedMail>,
}

/// Whose mail of which numbers was taken.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct MailReceipt {
    pub taken: Vec<(NodeId, u64)>,
    /// Of these: who is not to be in the conversation that they were brought into.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<(NodeId, u64)>,
}

type Deferred = HashMap<NodeId, (Instant, Duration)>;

impl Node {
    /// Takes mail of another home for users who live here; `None` for what was written here before they did.
    ///
    /// # Errors
    /// The store's.
    pub async fn take_mail(
        &self,
        source: Option<&RelayId>,
        items: Vec<NumberedMail>,
    ) -> Result<MailReceipt, Problem> {
        let (items, disbelieved) = match source {
            Some(source) => self.believe(source, items).await,
            None => (items, Vec::new()),
        };
        let config = self.conversations.config().clone();
        let take = MailTake {
            source: source.map(ToString::to_string),
            items,
            at_ms: self.now_ms(),
            max_inbox: config.max_inbox,
            max_per_user: config.convs_per_user,
        };
        let taken = self.store.take_mail(take).await.map_err(|error| store_problem(&error))?;
        let MailTaken { mut taken, delivered, blocks, refused } = taken;
        delivered.iter().for_each(|post| self.inboxes.publish(post));
        for BlockHeard { by, user, is_blocked } in blocks {
            self.presence.note_block(by, user, is_blocked);
        }
        taken.extend(disbelieved);
        Ok(MailReceipt { taken, refused })
    }

    /// The mail that `source` may speak of, and that which it may not: who blocks whom is said by the home of whoever
    /// blocks. Where that home cannot be asked for now, the user's mail from there on waits.
    async fn believe(
        &self,
        source: &RelayId,
        items: Vec<NumberedMail>,
    ) -> (Vec<NumberedMail>, Vec<(NodeId, u64)>) {
        let (mut believed, mut disbelieved) = (Vec::with_capacity(items.len()), Vec::new());
        let mut waits = HashSet::new();
        for item in items {
            if waits.contains(&item.user_id) {
                continue;
            }
            let Mail::Blocked { by, .. } = &item.mail else {
                believed.push(item);
                continue;
            };
            match self.home_of_user(*by).await {
                Ok(Some(Home::At(home))) if home == *source => believed.push(item),
                Ok(_) => disbelieved.push((item.user_id, item.n)),
                Err(_) => {
                    waits.insert(item.user_id);
                }
            }
        }
        (believed, disbelieved)
    }
}

/// Brings mail until the node is gone.
pub(crate) async fn run(node: Weak<Node>) {
    let Some(strong) = node.upgrade() else { return };
    let (stop, conversations) = (strong.stop.clone(), strong.conversations.clone());
    let mut changes = strong.federated().federation.changes();
    drop(strong);
    let mut deferred = Deferred::new();
    loop {
        let soonest = deferred.values().map(|(until, _)| *until).min();
        let look_at = Instant::now() + LOOK;
        let look_at = soonest.map_or(look_at, |until| until.min(look_at));
        tokio::select! {
            () = stop.cancelled() => return,
            () = conversations.wrote_mail() => {}
            changed = changes.changed() => match changed {
                // Ways that were missing may be there.
                Ok(()) => deferred.values_mut().for_each(|(until, _)| *until = Instant::now()),
                // Links were made anew.
                Err(_) => match node.upgrade() {
                    Some(node) => changes = node.federated().federation.changes(),
                    None => return,
                },
            },
            () = tokio::time::sleep_until(look_at) => {}
        }
        let Some(node) = node.upgrade() else { return };
        notice_others(&node);
        if node.afar.is_alone() {
            continue;
        }
        let stop = node.stop.clone();
        let brought = stop.run_until_cancelled(bring_all(&node, &mut deferred)).await;
        if let Some(Err(problem)) = brought {
            tracing::warn!(%problem, "mail for other homes could not be looked at");
        }
    }
}

/// The first link to another relay changes what has to be kept.
fn notice_others(node: &Node) {
    let federated = node.federated();
    let federation = &federated.federation;
    let linked = || {
        federation.hub().is_some()
            || !federation.spokes().is_empty()
            || !federation.peers().is_empty()
    };
    if node.afar.is_alone() && linked() && node.afar.meet() {
        node.conversations.expect_others();
    }
}

async fn bring_all(node: &Arc<Node>, deferred: &mut Deferred) -> Result<(), Problem> {
    while !bring_round(node, deferred).await? {}
    let old = node.now_ms().saturating_sub(KEPT_MS);
    node.store.delete_mail(Vec::new(), old).await.map_err(|error| store_problem(&error))
}

/// Looks at everybody's mail once, so that nobody's is behind that of users whom nobody knows. Whether nothing is left
/// but mail that has to wait.
async fn bring_round(node: &Arc<Node>, deferred: &mut Deferred) -> Result<bool, Problem> {
    let began = Instant::now();
    let mut is_done = true;
    let mut after = None;
    loop {
        let users = node.store.mail_users(after, USERS).await;
        let mut users = users.map_err(|error| store_problem(&error))?;
        let Some(last) = users.last() else { break };
        after = Some(*last);
        let waits = |user: &NodeId| deferred.get(user).is_some_and(|(until, _)| *until > began);
        users.retain(|user| !waits(user));
        for turn in 0.. {
            let mail = node.store.mail_of(users.clone(), BATCH).await;
            let mail = mail.map_err(|error| store_problem(&error))?;
            if mail.is_empty() {
                break;
            }
            if turn == TURNS {
                is_done = false;
                break;
            }
            let left = bring(node, mail, deferred).await?;
            users.retain(|user| !left.contains(user));
        }
    }
    // Whoever was due and is not deferred again has no mail.
    deferred.retain(|_, (until, _)| *until > began);
    Ok(is_done)
}

/// Brings some mail. Gives the users whose mail cannot be brought now; they are deferred.
async fn bring(
    node: &Arc<Node>,
    mail: Vec<NumberedMail>,
    deferred: &mut Deferred,
) -> Result<HashSet<NodeId>, Problem> {
    let users: HashSet<NodeId> = mail.iter().map(|item| item.user_id).collect();
    let look = |user: NodeId| async move {
        let home = tokio::time::timeout(LOOKED_FOR, node.home_of_user(user)).await;
        (user, home.ok().and_then(Result::ok).flatten())
    };
    let homes = futures_util::stream::iter(users).map(look).buffer_unordered(ASKED_AT_ONCE);
    let homes: HashMap<NodeId, Option<Home>> = homes.collect().await;
    let mut left = HashSet::new();
    let mut here = Vec::new();
    let mut bags: Vec<(RelayId, Vec<NumberedMail>)> = Vec::new();
    for item in mail {
        let user = item.user_id;
        match homes.get(&user).cloned().flatten() {
            None => {
                left.insert(user);
            }
            Some(Home::Here) => here.push(item),
            Some(Home::At(home)) => match bags.iter_mut().find(|(known, _)| *known == home) {
                Some((_, items)) => items.push(item),
                None => bags.push((home, vec![item])),
            },
        }
    }
    let mut taken = Vec::new();
    if !here.is_empty() {
        let users: Vec<NodeId> = here.iter().map(|item| item.user_id).collect();
        taken.extend(node.take_mail(None, here).await?.taken);
        let is_taken = |user: &NodeId| taken.iter().any(|(known, _)| known == user);
        left.extend(users.into_iter().filter(|user| !is_taken(user)));
    }
    for (home, items) in bags {
        for mut items in parts(items) {
            // What comes later does not overtake what could not be brought.
            items.retain(|item| !left.contains(&item.user_id));
            if items.is_empty() {
                continue;
            }
            let users: Vec<NodeId> = items.iter().map(|item| item.user_id).collect();
            let joined: HashMap<(NodeId, u64), ConvId> = items.iter().filter_map(joined).collect();
            let mut receipt = send(node, &home, items).await.unwrap_or_else(|problem| {
                tracing::debug!(%problem, %home, "mail waits for a user's home");
                MailReceipt::default()
            });
            for refused in std::mem::take(&mut receipt.refused) {
                let Some(conv) = joined.get(&refused) else { continue };
                if let Err(problem) = take_out(node, refused.0, &home, conv).await {
                    tracing::debug!(%problem, %home, "somebody is not taken out yet");
                    receipt.taken.retain(|taken| *taken != refused);
                }
            }
            for user in users {
                if receipt.taken.iter().any(|(known, _)| *known == user) {
                    deferred.remove(&user);
                } else {
                    // Perhaps the user lives elsewhere by now.
                    node.forget_home(&user);
                    left.insert(user);
                }
            }
            taken.extend(receipt.taken);
        }
    }
    left.iter().for_each(|user| defer(deferred, *user));
    node.store.delete_mail(taken, 0).await.map_err(|error| store_problem(&error))?;
    Ok(left)
}

async fn send(
    node: &Node,
    home: &RelayId,
    items: Vec<NumberedMail>,
) -> Result<MailReceipt, Problem> {
    let carried = Carried::post_value("/v1/homes/mail", &MailBag { items })?;
    node.ask_for(home, &carried, None).await
}

/// The conversation that mail brings its user into.
fn joined(item: &NumberedMail) -> Option<((NodeId, u64), ConvId)> {
    match &item.mail {
        Mail::Joined { conv_id, .. } => Some(((item.user_id, item.n), conv_id.clone())),
        _ => None,
    }
}

/// A user's home says that they are not to be in a conversation: they leave it.
async fn take_out(node: &Node, user: NodeId, home: &RelayId, conv: &ConvId) -> Result<(), Problem> {
    let Some(device) = DeviceId::new(HOME_DEVICE) else { return Ok(()) };
    let caller = Caller { user, device, gateway: home.to_string(), grant: None };
    let target = Members { conv_id: conv.clone(), members: Some(vec![UserRef(user)]) };
    let asked = Request::Govern { act: Act::Remove, target };
    match node.conversations.serve(caller, asked).await {
        // They are out already, or nobody can take them out.
        Err(problem) if problem.code == Code::Forbidden => Ok(()),
        answered => answered.map(|_| ()),
    }
}

/// Mail in portions that fit into one message, in its order.
fn parts(items: Vec<NumberedMail>) -> Vec<Vec<NumberedMail>> {
    let mut parts: Vec<Vec<NumberedMail>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let size = serde_json::to_vec(&item).map_or(0, |json| json.len());
        match parts.last_mut() {
            Some(part) if bytes + size <= MAX_BYTES => part.push(item),
            _ => {
                bytes = 0;
                parts.push(vec![item]);
            }
        }
        bytes += size;
    }
    parts
}

fn defer(deferred: &mut Deferred, user: NodeId) {
    let now = Instant::now();
    if deferred.len() >= MAX_DEFERRED && !deferred.contains_key(&user) {
        return;
    }
    let (until, wait) = deferred.entry(user).or_insert((now, WAITS.0));
    if *until <= now {
        *until = now + *wait;
        *wait = (*wait * 2).min(WAITS.1);
    }
}
