//! The chat without network, clock or tasks: facts go in with the time, steps to take and events to show come out.
//!
//! Every fact changes the [`Store`] in one transaction before anything is answered, so a process may end between any
//! two of them. [`Core::next_step`] says what is to be sent next in a conversation; asking again, after a restart too,
//! gives the same bytes under the same `msg_id` until the log has brought them back (echo before apply,
//! `mls-profile.md` 6.4).

mod act;
mod apply;
mod content;
mod groups;
mod invite;
mod query;
mod readmit;
mod rejoin;
mod revoked;
#[cfg(test)]
mod simulation;
mod step;
mod upload;

use openmls::group::MlsGroup;
use openmls_rust_crypto::RustCrypto;
use relay_proto::{
    NodeId,
    conv::{ConvId, ConvKind},
};
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Refusal, Result, StateError},
    mls::{Provider, context::RelayConversation, device::Device, group},
    store::{ConvRow, Durability, MlsStorage, Store, Tx, Unlock},
    views::Event,
};

use groups::Groups;

pub(crate) use act::NewConversation;
pub(crate) use apply::Applied;
pub(crate) use invite::InboxEntry;
pub(crate) use query::{Part, short};
pub(crate) use rejoin::Vaulted;
pub(crate) use step::{CommitAnswer, Refused, Step};

/// One device's chat.
#[derive(Debug)]
pub(crate) struct Core {
    store: Store,
    device: Device,
    crypto: RustCrypto,
    groups: Groups,
}

/// What a fact led to, for those who watch.
pub(crate) type Events = Vec<Event>;

impl Core {
    /// Opens the profile, and makes a device in it where there is none.
    pub fn open(
        dir: &std::path::Path,
        unlock: &Unlock,
        user: &relay_client::Signer,
        now_ms: u64,
    ) -> Result<Self> {
        let store = Store::open(dir, unlock)?;
        let saved = store.read(|tx| tx.meta("device"))?;
        let device = match saved {
            Some(saved) => Device::load(&saved)?,
            None => {
                let device = Device::create(user, now_ms / 1_000)?;
                store.write(Durability::Now, |tx| tx.set_meta("device", &device.save()))?;
                device
            }
        };
        if device.user != user.node_id() {
            return Err(StateError::OtherUser {
                found: device.user.to_string(),
                given: user.node_id().to_string(),
            }
            .into());
        }
        let device = match device.renewed(user, now_ms / 1_000)? {
            Some(renewed) => {
                store.write(Durability::Now, |tx| tx.set_meta("device", &renewed.save()))?;
                renewed
            }
            None => device,
        };
        Ok(Self { store, device, crypto: RustCrypto::default(), groups: Groups::default() })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn me(&self) -> NodeId {
        self.device.user
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    fn live<'a>(&'a self, tx: &'a Tx<'a>, group_id: &[u8]) -> Provider<'a> {
        Provider { storage: MlsStorage::live(tx, group_id), crypto: &self.crypto }
    }

    fn joining<'a>(&'a self, tx: &'a Tx<'a>, group_id: &[u8]) -> Provider<'a> {
        Provider { storage: MlsStorage::joining(tx, group_id), crypto: &self.crypto }
    }

    /// Runs a transaction. Groups that it used stay in memory if it is committed, and only then.
    fn write<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&Tx<'_>) -> Result<T>,
    ) -> Result<T> {
        let in_it = |tx: &Tx<'_>| {
            self.groups.begin();
            change(tx)
        };
        self.store.write_then(durability, in_it, || self.groups.committed())
    }

    /// Runs something on the group of a conversation that this device is in, inside a transaction of [`write`](Self::write).
    fn with_group<T>(
        &self,
        provider: &Provider<'_>,
        group_id: &[u8; 32],
        run: impl FnOnce(&mut MlsGroup) -> Result<T>,
    ) -> Result<T> {
        let mut group = match self.groups.take(group_id) {
            Some(group) => group,
            None => load(provider, group_id)?,
        };
        // After an error it may be another one than what is stored: then it is not given back.
        let done = run(&mut group)?;
        self.groups.put(*group_id, group);
        Ok(done)
    }

    /// Forgets the group of a conversation that is over.
    fn forget_group(&self, tx: &Tx<'_>, group_id: &[u8; 32]) -> Result<()> {
        self.groups.forget(group_id);
        self.live(tx, group_id).storage.clear()
    }
}

/// The group of a conversation that this device is in, as it is stored.
fn load(provider: &Provider<'_>, group_id: &[u8; 32]) -> Result<MlsGroup> {
    group::load(provider, group_id)?
        .ok_or_else(|| Error::State(StateError::Format("a group's state is missing".into())))
}

/// The row of a conversation that must be there.
fn conv(tx: &Tx<'_>, conv_id: &str) -> Result<ConvRow> {
    tx.conv(conv_id)?.ok_or_else(|| Refusal::NoConversation.into())
}

/// The MLS group of a conversation.
fn group_id(conv_id: &str) -> Result<[u8; 32]> {
    conv_id
        .parse::<ConvId>()
        .ok()
        .and_then(|id| id.group_id())
        .ok_or_else(|| Refusal::Invalid("a conversation's id has 43 characters".into()).into())
}

fn about(conv: &ConvRow) -> RelayConversation {
    RelayConversation {
        kind: conv.kind,
        home: conv.home.clone(),
        rejoin_key: conv.rejoin_key,
        creator: conv.creator,
    }
}

/// Brings what the row says of its group up to date.
fn note_group(conv: &mut ConvRow, group: &MlsGroup) -> Result<()> {
    conv.epoch = group.epoch().as_u64();
    conv.check = group::check_of(group);
    let present = group::count_users(&group::leaves(group)?);
    let mut before = std::mem::replace(&mut conv.members, present);
    if conv.kind == ConvKind::Dm {
        // A direct message is called after the other person, who may not be in yet or not any more.
        before.retain(|user, _| !conv.members.contains_key(user));
        conv.members.extend(before.into_keys().map(|user| (user, 0)));
    }
    if group.pending_proposals().next().is_none() {
        conv.proposals_since_ms = None;
    }
    Ok(())
}

fn env_hash(env: &str) -> [u8; 32] {
    Sha256::digest(env.as_bytes()).into()
}

fn changed(conv: &ConvRow) -> Event {
    Event::Conversation { conv_id: conv.conv_id.clone() }
}
