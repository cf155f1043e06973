//! Attachments that lie at other relays: whoever put them lives there, and nothing in a conversation says where.

use futures_util::StreamExt;
use relay_core::limits::Windows;
use relay_proto::{Code, NodeId, Problem, RelayId};
use serde::Deserialize;
use serde_json::json;

use super::afar::{ASKED_AT_ONCE, Home, Known, Scope};
use crate::{homes::wire::Carried, node::Node};

/// Attachments that a user may look for elsewhere in a minute.
const LOOKED_FOR_PER_MIN: u32 = 240;
const MINUTE_MS: u64 = 60_000;
const LIMITER_KEYS: usize = 100_000;

/// What is known of the attachments of other relays.
#[derive(Debug)]
pub(super) struct Held {
    holders: Known<[u8; 32]>,
    looked_for: Windows<NodeId>,
}

impl Default for Held {
    fn default() -> Self {
        Self { holders: Known::default(), looked_for: Windows::new(MINUTE_MS, LIMITER_KEYS) }
    }
}

impl Node {
    /// The other relay that has an attachment, for a user.
    ///
    /// # Errors
    /// `rate_limited`; `home_unreachable` where nobody has it and not all could be asked.
    pub async fn find_attachment(
        &self,
        user: NodeId,
        hash: [u8; 32],
    ) -> Result<Option<RelayId>, Problem> {
        if let Some(Home::At(holder)) = self.afar.held.holders.get(&hash, self.now_ms()) {
            return Ok(Some(holder));
        }
        self.afar.held.looked_for.count(user, LOOKED_FOR_PER_MIN, self.now_ms())?;
        let holder = self.ask_who_holds(hash, Scope::All, None).await?;
        if let Some(holder) = &holder {
            self.afar.held.holders.put(hash, Home::At(holder.clone()), self.now_ms());
        }
        Ok(holder)
    }

    /// Which relay has an attachment: this one, or one of those that `scope` says to ask, all but `except`.
    ///
    /// # Errors
    /// The store's; `home_unreachable` where nobody has it and not all could be asked.
    pub async fn attachment_holder(
        &self,
        hash: [u8; 32],
        scope: Scope,
        except: Option<&RelayId>,
    ) -> Result<Option<RelayId>, Problem> {
        match self.attachments.find(hash).await {
            Ok(_) => Ok(self.identity.relay_id.parse().ok()),
            Err(missing) if missing.code == Code::NotFound => {
                self.ask_who_holds(hash, scope, except).await
            }
            Err(problem) => Err(problem),
        }
    }

    async fn ask_who_holds(
        &self,
        hash: [u8; 32],
        scope: Scope,
        except: Option<&RelayId>,
    ) -> Result<Option<RelayId>, Problem> {
        #[derive(Deserialize)]
        struct Found {
            held_by: Option<RelayId>,
        }
        let hash = blake3::Hash::from(hash).to_hex().to_string();
        let hash = hash.as_str();
        let (asked, mut missing) = self.neighbours(scope, except);
        let mut answers = futures_util::stream::iter(asked)
            .map(|(relay, scope)| async move {
                let body = json!({ "hash": hash, "scope": scope });
                let carried = Carried::post_value("/v1/homes/attachment", &body)?;
                let found: Found = self.ask_for(&relay, &carried, None).await?;
                Ok::<_, Problem>(found.held_by)
            })
            .buffer_unordered(ASKED_AT_ONCE);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(Some(holder)) => return Ok(Some(holder)),
                Ok(None) => {}
                Err(problem) => missing = Some(problem),
            }
        }
        missing.map_or(Ok(None), Err)
    }
}
