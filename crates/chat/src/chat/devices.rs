//! This user's devices: taking new ones in, coming back on a new one, taking lost ones out.

use std::collections::BTreeMap;

use relay_client::{Client, Request};
use serde::Deserialize;

use super::{Chat, offline};
use crate::{
    core::Vaulted,
    engine::{Shared, now_ms, requests, revocations},
    error::{Refusal, Result},
    vault::{self, VaultEntry},
    views::{DeviceView, Event},
};

/// What coming back found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Recovered {
    /// Conversations that this device comes back to.
    pub conversations: usize,
    /// Conversations that the relay lists and the vault does not know: their members were asked to let this device in.
    pub without_key: usize,
}

impl Chat {
    /// This user's devices, as the conversations and, where it is reached, the relay show them.
    ///
    /// # Errors
    /// [`Error::State`](crate::Error::State).
    pub async fn devices(&self) -> Result<Vec<DeviceView>> {
        let own = self.shared.core.device();
        let mut known: BTreeMap<String, DeviceView> = self
            .shared
            .on_core(|core| core.own_devices())
            .await?
            .into_iter()
            .map(|(device_id, conversations)| {
                let current = device_id == own.device_id();
                let view = DeviceView {
                    current,
                    conversations,
                    binding_until_s: if current { own.binding.not_after } else { 0 },
                    key_packages: None,
                    device_id: device_id.clone(),
                };
                (device_id, view)
            })
            .collect();
        if let Some(client) = self.shared.session() {
            for (device_id, left) in requests::pool(&client).await? {
                let view = known.entry(device_id.clone()).or_insert(DeviceView {
                    device_id,
                    current: false,
                    conversations: 0,
                    binding_until_s: 0,
                    key_packages: None,
                });
                view.key_packages = Some(left);
            }
        }
        Ok(known.into_values().collect())
    }

    /// Takes all devices of this user that the relay knows into all conversations.
    ///
    /// # Errors
    /// [`Error::State`](crate::Error::State).
    pub async fn add_own_devices(&self) -> Result<()> {
        let events = self.shared.on_core(|core| core.devices_changed(true, &[], now_ms())).await?;
        self.done_everywhere(events).await;
        Ok(())
    }

    /// Takes a device of this user out of all conversations and ends its sessions at the relay.
    ///
    /// # Errors
    /// [`Refusal::Yourself`] for this device; the relay's refusal.
    pub async fn revoke_device(&self, device_id: &str) -> Result<()> {
        if device_id == self.shared.core.device().device_id() {
            return Err(Refusal::Yourself.into());
        }
        let client = self.shared.session().ok_or_else(offline)?;
        let devices = vec![device_id.to_owned()];
        let events = self
            .shared
            .on_core(move |core| core.devices_changed(false, &devices, now_ms()))
            .await?;
        self.done_everywhere(events).await;
        client.revoke_session("device_id", device_id, false).await?;
        // Others take the device out as well, and never let it in again. Relays that take no events do without.
        if let Err(error) = revocations::publish(&self.shared, &client, device_id).await {
            let text = format!("the relay did not publish that the device is revoked: {error}");
            self.shared.tell(vec![Event::Note { text }]);
        }
        Ok(())
    }

    /// Comes back into the conversations of the user's vault, on a device that is new. With `replaces`, the user's other devices
    /// are lost and are taken out; without, they stay.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] where the key lies in an agent; the relay's refusal.
    pub async fn recover(&self, replaces: bool) -> Result<Recovered> {
        let client = self.shared.session().ok_or_else(offline)?;
        let seed = self.shared.seed().ok_or_else(|| {
            Refusal::Invalid(
                "the vault opens with the key itself, which an agent does not give; let another device add this one".into(),
            )
        })?;
        let (_, blob) = requests::vault(&client).await?;
        let entries = vault::open(&seed, &self.shared.core.me(), &blob)?;
        let mut listed = listed(&client).await?;
        let mut recovered = Recovered::default();
        for entry in entries {
            let Some(rejoin_key) = entry.key() else { continue };
            let Some((latest_seq, _)) = listed.remove(&entry.conv_id) else { continue };
            let from = Vaulted {
                conv_id: entry.conv_id.clone(),
                home: entry.conv_home,
                rejoin_key,
                latest_seq,
            };
            let events =
                self.shared.on_core(move |core| core.come_back(&from, replaces, now_ms())).await?;
            recovered.conversations += usize::from(!events.is_empty());
            self.shared.tell(events);
            self.wish(crate::engine::Wish::Follow(entry.conv_id)).await;
        }
        let known = self.conversations()?;
        listed.retain(|conv_id, _| !known.iter().any(|view| view.conv_id == *conv_id));
        recovered.without_key = listed.len();
        for (conv_id, (latest_seq, home)) in listed {
            // Nothing opens with this key, and so the members are asked.
            let from = Vaulted { conv_id: conv_id.clone(), home, rejoin_key: [0; 32], latest_seq };
            let events =
                self.shared.on_core(move |core| core.come_back(&from, replaces, now_ms())).await?;
            self.shared.tell(events);
            self.wish(crate::engine::Wish::Follow(conv_id)).await;
        }
        Ok(recovered)
    }
}

/// The profile conversations that the relay lists for this user: their newest messages, and their homes.
async fn listed(client: &Client) -> Result<BTreeMap<String, (u64, String)>> {
    #[derive(Deserialize)]
    struct Answer {
        items: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        conv_id: String,
        profile: String,
        latest_seq: Option<u64>,
        #[serde(default)]
        conv_home: String,
    }
    let request = Request::get("/v1/conversations").query("include_archived", Some(1));
    let answer: Answer = client.call(request).await?;
    let ours = answer.items.into_iter().filter(|item| item.profile == "relay-mls/1");
    Ok(ours.map(|item| (item.conv_id, (item.latest_seq.unwrap_or(0), item.conv_home))).collect())
}

/// Writes what this device knows into the user's vault, keeping what others wrote.
pub(crate) async fn keep_vault(shared: &std::sync::Arc<Shared>, client: &Client) -> Result<()> {
    let Some(seed) = shared.seed() else { return Ok(()) };
    let stale: Option<bool> =
        shared.on_core(|core| core.store().read(|tx| tx.meta("vault stale"))).await?;
    if stale != Some(true) {
        return Ok(());
    }
    let (ours, over) = shared.on_core(|core| core.vault_contents()).await?;
    let ours = ours.into_iter().map(|(conv_id, home, key)| VaultEntry::new(conv_id, home, &key));
    let (version, blob) = requests::vault(client).await?;
    let user = shared.core.me();
    let theirs = match vault::open(&seed, &user, &blob) {
        Ok(theirs) => theirs,
        Err(error) => {
            // Somebody without the key put something there: the relay, for nobody else can.
            tracing::warn!(%error, "the vault is written anew");
            Vec::new()
        }
    };
    let merged = vault::merge(theirs, ours.collect(), &over);
    requests::set_vault(client, version, &vault::seal(&seed, &user, &merged)?).await?;
    shared
        .on_core(|core| {
            let durability = crate::store::Durability::Soon;
            core.store().write(durability, |tx| tx.forget_meta("vault stale"))
        })
        .await
}
