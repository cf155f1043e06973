//! What a user has at several homes, put together: the list of conversations, a device's cursors.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use relay_core::{conversations::page_of, failure::store_problem};
use relay_proto::{
    Problem, RelayId,
    conv::{
        Answer, Caller, ConvId, Request,
        answer::{AllReadAnswer, Ok as Status},
        request::{List, MarkAllRead},
    },
};
use serde::{Deserialize, Serialize};

use super::afar::Home;
use crate::{
    homes::wire::{Carried, lost},
    node::Node,
};

/// A session is ready after this, whatever other homes have said by then.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// What a device is told when its session begins.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DeviceState {
    /// Where the device has got to.
    pub cursors: Vec<(ConvId, u64)>,
    pub key_packages_left: u64,
    pub inbox_next_seq: u64,
    /// Other homes of the user's conversations.
    pub homes: Vec<String>,
}

/// Whether the relay that asks takes this one for the user's home.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct DeviceAsked {
    #[serde(default)]
    pub lives_here: bool,
}

impl Node {
    /// What this relay has of a device.
    ///
    /// # Errors
    /// The store's.
    pub async fn device_state_here(&self, caller: &Caller) -> Result<DeviceState, Problem> {
        Ok(DeviceState {
            cursors: self.conversations.cursors(caller).await?,
            key_packages_left: self.key_packages.left(caller).await?,
            inbox_next_seq: self.inboxes.next_seq(caller).await?,
            homes: match self.afar.is_alone() {
                true => Vec::new(),
                false => self.homes_known(caller).await?,
            },
        })
    }

    /// What all homes have of a device. Those that do not answer soon are left out: a conversation without a cursor
    /// here has one at its home.
    ///
    /// # Errors
    /// The store's.
    pub async fn device_state(&self, caller: &Caller) -> Result<DeviceState, Problem> {
        let home = self.home_of_caller(caller.user).await?;
        let mut state = self.device_state_here(caller).await?;
        if self.afar.is_alone() {
            return Ok(state);
        }
        let gather = async {
            let mut seen: Vec<RelayId> = Vec::new();
            if let Home::At(home) = home {
                seen.push(home.clone());
                if let Ok(there) = self.ask_device_state(&home, caller, true).await {
                    state.key_packages_left = there.key_packages_left;
                    state.inbox_next_seq = there.inbox_next_seq;
                    state.cursors.extend(there.cursors);
                    state.homes.extend(there.homes);
                }
            }
            let others = self.relays_of(&state.homes, &seen);
            let mut asking: FuturesUnordered<_> = others
                .iter()
                .map(|relay| async move { self.ask_device_state(relay, caller, false).await })
                .collect();
            while let Some(there) = asking.next().await {
                state.cursors.extend(there.map(|there| there.cursors).unwrap_or_default());
            }
        };
        let _ = tokio::time::timeout(READY_WITHIN, gather).await;
        state.cursors.sort();
        state.cursors.dedup_by(|a, b| a.0 == b.0);
        Ok(state)
    }

    async fn ask_device_state(
        &self,
        home: &RelayId,
        caller: &Caller,
        lives_here: bool,
    ) -> Result<DeviceState, Problem> {
        let carried = Carried::post_value("/v1/homes/device", &DeviceAsked { lives_here })?;
        self.ask_for(home, &carried, Some(self.grant_of(caller)?)).await
    }

    async fn homes_known(&self, caller: &Caller) -> Result<Vec<String>, Problem> {
        self.store.other_homes(caller.user).await.map_err(|error| store_problem(&error))
    }

    /// Every other home of the user's conversations, and those that could not be asked for more.
    async fn homes_of(&self, caller: &Caller) -> Result<(Vec<RelayId>, Vec<String>), Problem> {
        let mut names = self.homes_known(caller).await?;
        let mut unreachable = Vec::new();
        if let Home::At(home) = self.home_of_caller(caller.user).await? {
            match self.ask_device_state(&home, caller, true).await {
                Ok(there) => names.extend(there.homes),
                Err(problem) if problem.extra.contains_key("grant_for") => return Err(problem),
                Err(_) => unreachable.push(home.to_string()),
            }
            names.push(home.to_string());
        }
        let mut relays = self.relays_of(&names, &[]);
        relays.retain(|relay| !unreachable.iter().any(|name| name == relay.as_str()));
        Ok((relays, unreachable))
    }

    fn relays_of(&self, names: &[String], except: &[RelayId]) -> Vec<RelayId> {
        let mut relays: Vec<RelayId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        relays.sort_unstable();
        relays.dedup();
        relays.retain(|relay| relay.as_str() != self.identity.relay_id && !except.contains(relay));
        relays
    }

    /// Asks this relay and all other homes the same; answers, and those that did not.
    async fn ask_everywhere(
        self: &std::sync::Arc<Self>,
        caller: &Caller,
        request: Request,
    ) -> Result<(Vec<Answer>, Vec<String>), Problem> {
        let (homes, mut unreachable) = self.homes_of(caller).await?;
        let mut answers = vec![self.conversations.serve(caller.clone(), request.clone()).await?];
        let mut asking: FuturesUnordered<_> = homes
            .iter()
            .map(|home| {
                let request = request.clone();
                async move {
                    let asked = self.ask_in_order(home, caller, vec![request]).await;
                    (home, asked.and_then(only))
                }
            })
            .collect();
        while let Some((home, answer)) = asking.next().await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(problem) if problem.extra.contains_key("grant_for") => return Err(problem),
                Err(_) => unreachable.push(home.to_string()),
            }
        }
        unreachable.sort_unstable();
        Ok((answers, unreachable))
    }

    pub(super) async fn list_everywhere(
        self: &std::sync::Arc<Self>,
        caller: &Caller,
        list: List,
    ) -> Result<Answer, Problem> {
        let all = List { include_archived: list.include_archived, ..List::default() };
        let (answers, unreachable) = self.ask_everywhere(caller, Request::List(all)).await?;
        let mut items = Vec::new();
        for answer in answers {
            if let Answer::List(part) = answer {
                items.extend(part.items);
            }
        }
        let mut page = page_of(items, &list)?;
        page.unreachable = unreachable;
        Ok(Answer::List(page))
    }

    pub(super) async fn mark_all_everywhere(
        self: &std::sync::Arc<Self>,
        caller: &Caller,
        mark: MarkAllRead,
    ) -> Result<Answer, Problem> {
        let asked = self.ask_everywhere(caller, Request::MarkAllRead(mark)).await?;
        let (answers, unreachable) = asked;
        let mut updated_conv_ids = Vec::new();
        for answer in answers {
            if let Answer::AllRead(part) = answer {
                updated_conv_ids.extend(part.updated_conv_ids);
            }
        }
        updated_conv_ids.sort_unstable();
        let updated = updated_conv_ids.len() as u64;
        Ok(Answer::AllRead(AllReadAnswer {
            status: Status::Ok,
            updated,
            updated_conv_ids,
            unreachable,
        }))
    }
}

/// The one outcome of one request.
pub(super) fn only(mut outcomes: Vec<Result<Answer, Problem>>) -> Result<Answer, Problem> {
    outcomes.pop().unwrap_or_else(|| Err(lost()))
}
