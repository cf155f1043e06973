//! The MLS library's storage inside a transaction of ours.
//!
//! Keys of KeyPackages lie in the scope of the device, everything else in the scope of its group, so that a group
//! can be forgotten, or put in the place of another one, as a whole. Values are JSON: the library promises
//! readable state across its versions only for codecs that describe themselves.

use openmls_traits::storage::{CURRENT_VERSION, Entity, Key, StorageProvider, traits};
use rusqlite::{OptionalExtension, params};
use serde::{Serialize, de::DeserializeOwned};

use super::{Tx, place};
use crate::error::{Error, Result};

const V: u16 = CURRENT_VERSION;
const DEVICE: &[u8] = b"device";

/// An error of ours on its way through the library.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MlsError(String);

impl From<serde_json::Error> for MlsError {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

/// Where one group's state lies.
#[derive(Debug)]
pub(crate) struct MlsStorage<'a> {
    tx: &'a Tx<'a>,
    group: [u8; 16],
}

type Done<T = ()> = std::result::Result<T, MlsError>;

impl<'a> MlsStorage<'a> {
    /// The state of the group that is a member now.
    pub fn live(tx: &'a Tx<'a>, group_id: &[u8]) -> Self {
        Self { tx, group: tx.keys.tag("group", group_id) }
    }

    /// The state that an external commit of ours makes, until the log has brought it back.
    pub fn joining(tx: &'a Tx<'a>, group_id: &[u8]) -> Self {
        Self { tx, group: tx.keys.tag("joining group", group_id) }
    }

    /// Forgets the group.
    pub fn clear(&self) -> Result<()> {
        self.tx
            .sql
            .prepare_cached("DELETE FROM mls WHERE scope = ?1")?
            .execute([&self.group[..]])?;
        Ok(())
    }

    /// Puts this state where that of `live` was.
    pub fn promote_to(&self, live: &Self) -> Result<()> {
        live.clear()?;
        self.tx
            .sql
            .prepare_cached("UPDATE mls SET scope = ?2 WHERE scope = ?1")?
            .execute(params![&self.group[..], &live.group[..]])?;
        Ok(())
    }

    /// An error on its way through the library; the transaction keeps what it was.
    fn fault(&self, error: impl Into<Error>) -> MlsError {
        let error = error.into();
        let told = MlsError(error.to_string());
        self.tx.fault.replace(Some(error));
        told
    }

    fn name(&self, label: &str, key: &impl Serialize) -> Done<[u8; 16]> {
        Ok(self.tx.keys.tag(label, &serde_json::to_vec(key)?))
    }

    fn put(&self, scope: &[u8], label: &str, key: &impl Serialize, value: &impl Serialize) -> Done {
        let name = self.name(label, key)?;
        let sealed =
            self.tx.seal_json(&place("mls", &name), value).map_err(|error| self.fault(error))?;
        self.tx
            .sql
            .prepare_cached(
                "INSERT INTO mls (scope, name, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT (scope, name) DO UPDATE SET value = ?3",
            )
            .and_then(|mut statement| statement.execute(params![scope, &name[..], sealed]))
            .map_err(|error| self.fault(error))?;
        Ok(())
    }

    fn get<T: DeserializeOwned>(
        &self,
        scope: &[u8],
        label: &str,
        key: &impl Serialize,
    ) -> Done<Option<T>> {
        let name = self.name(label, key)?;
        let sealed: Option<Vec<u8>> = self
            .tx
            .sql
            .prepare_cached("SELECT value FROM mls WHERE scope = ?1 AND name = ?2")
            .and_then(|mut statement| {
                statement.query_row(params![scope, &name[..]], |row| row.get(0)).optional()
            })
            .map_err(|error| self.fault(error))?;
        let opened = sealed.map(|sealed| self.tx.open_json(&place("mls", &name), &sealed));
        opened.transpose().map_err(|error| self.fault(error))
    }

    fn delete(&self, scope: &[u8], label: &str, key: &impl Serialize) -> Done {
        let name = self.name(label, key)?;
        self.tx
            .sql
            .prepare_cached("DELETE FROM mls WHERE scope = ?1 AND name = ?2")
            .and_then(|mut statement| statement.execute(params![scope, &name[..]]))
            .map_err(|error| self.fault(error))?;
        Ok(())
    }

    fn refs<R: Entity<V>>(&self, group: &impl Key<V>) -> Done<Vec<R>> {
        Ok(self.get(&self.group, "proposals", group)?.unwrap_or_default())
    }
}

/// Methods that put, get and delete one value of a group.
macro_rules! of_group {
    ($($label:literal: $value:ident, $put:ident;)*) => {$(
        fn $put<G: traits::GroupId<V>, T: traits::$value<V>>(&self, group: &G, value: &T) -> Done {
            self.put(&self.group, $label, group, value)
        }
    )*};
    (get $($label:literal: $value:ident, $get:ident;)*) => {$(
        fn $get<G: traits::GroupId<V>, T: traits::$value<V>>(&self, group: &G) -> Done<Option<T>> {
            self.get(&self.group, $label, group)
        }
    )*};
    (delete $($label:literal: $delete:ident;)*) => {$(
        fn $delete<G: traits::GroupId<V>>(&self, group: &G) -> Done {
            self.delete(&self.group, $label, group)
        }
    )*};
}

impl StorageProvider<V> for MlsStorage<'_> {
    type Error = MlsError;

    of_group! {
        "config": MlsGroupJoinConfig, write_mls_join_config;
        "tree": TreeSync, write_tree;
        "transcript": InterimTranscriptHash, write_interim_transcript_hash;
        "context": GroupContext, write_context;
        "confirmation": ConfirmationTag, write_confirmation_tag;
        "secrets": MessageSecrets, write_message_secrets;
        "resumption": ResumptionPskStore, write_resumption_psk_store;
        "leaf": LeafNodeIndex, write_own_leaf_index;
        "epoch": GroupEpochSecrets, write_group_epoch_secrets;
    }
    of_group! { get
        "config": MlsGroupJoinConfig, mls_group_join_config;
        "tree": TreeSync, tree;
        "transcript": InterimTranscriptHash, interim_transcript_hash;
        "context": GroupContext, group_context;
        "confirmation": ConfirmationTag, confirmation_tag;
        "secrets": MessageSecrets, message_secrets;
        "resumption": ResumptionPskStore, resumption_psk_store;
        "leaf": LeafNodeIndex, own_leaf_index;
        "epoch": GroupEpochSecrets, group_epoch_secrets;
    }
    of_group! { delete
        "config": delete_group_config;
        "tree": delete_tree;
        "transcript": delete_interim_transcript_hash;
        "context": delete_context;
        "confirmation": delete_confirmation_tag;
        "state": delete_group_state;
        "secrets": delete_message_secrets;
        "resumption": delete_all_resumption_psk_secrets;
        "leaf": delete_own_leaf_index;
        "leaf nodes": delete_own_leaf_nodes;
        "epoch": delete_group_epoch_secrets;
    }

    fn write_group_state<T: traits::GroupState<V>, G: traits::GroupId<V>>(
        &self,
        group: &G,
        value: &T,
    ) -> Done {
        self.put(&self.group, "state", group, value)
    }

    fn group_state<T: traits::GroupState<V>, G: traits::GroupId<V>>(
        &self,
        group: &G,
    ) -> Done<Option<T>> {
        self.get(&self.group, "state", group)
    }

    fn append_own_leaf_node<G: traits::GroupId<V>, T: traits::LeafNode<V>>(
        &self,
        group: &G,
        leaf: &T,
    ) -> Done {
        let mut all: Vec<serde_json::Value> =
            self.get(&self.group, "leaf nodes", group)?.unwrap_or_default();
        all.push(serde_json::to_value(leaf)?);
        self.put(&self.group, "leaf nodes", group, &all)
    }

    fn own_leaf_nodes<G: traits::GroupId<V>, T: traits::LeafNode<V>>(
        &self,
        group: &G,
    ) -> Done<Vec<T>> {
        Ok(self.get(&self.group, "leaf nodes", group)?.unwrap_or_default())
    }

    fn queue_proposal<
        G: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        P: traits::QueuedProposal<V>,
    >(
        &self,
        group: &G,
        reference: &R,
        proposal: &P,
    ) -> Done {
        self.put(&self.group, "proposal", &(group, reference), proposal)?;
        let mut all: Vec<serde_json::Value> =
            self.get(&self.group, "proposals", group)?.unwrap_or_default();
        let reference = serde_json::to_value(reference)?;
        if !all.contains(&reference) {
            all.push(reference);
        }
        self.put(&self.group, "proposals", group, &all)
    }

    fn queued_proposal_refs<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
    ) -> Done<Vec<R>> {
        self.refs(group)
    }

    fn queued_proposals<
        G: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        P: traits::QueuedProposal<V>,
    >(
        &self,
        group: &G,
    ) -> Done<Vec<(R, P)>> {
        let mut all = Vec::new();
        for reference in self.refs::<R>(group)? {
            if let Some(proposal) = self.get(&self.group, "proposal", &(group, &reference))? {
                all.push((reference, proposal));
            }
        }
        Ok(all)
    }

    fn remove_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
        reference: &R,
    ) -> Done {
        self.delete(&self.group, "proposal", &(group, reference))?;
        let mut all: Vec<serde_json::Value> =
            self.get(&self.group, "proposals", group)?.unwrap_or_default();
        let reference = serde_json::to_value(reference)?;
        all.retain(|other| *other != reference);
        self.put(&self.group, "proposals", group, &all)
    }

    fn clear_proposal_queue<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
    ) -> Done {
        for reference in self.refs::<R>(group)? {
            self.delete(&self.group, "proposal", &(group, &reference))?;
        }
        self.delete(&self.group, "proposals", group)
    }

    fn write_encryption_epoch_key_pairs<
        G: traits::GroupId<V>,
        E: traits::EpochKey<V>,
        T: traits::HpkeKeyPair<V>,
    >(
        &self,
        group: &G,
        epoch: &E,
        leaf: u32,
        pairs: &[T],
    ) -> Done {
        self.put(&self.group, "epoch keys", &(group, epoch, leaf), &pairs)
    }

    fn encryption_epoch_key_pairs<
        G: traits::GroupId<V>,
        E: traits::EpochKey<V>,
        T: traits::HpkeKeyPair<V>,
    >(
        &self,
        group: &G,
        epoch: &E,
        leaf: u32,
    ) -> Done<Vec<T>> {
        Ok(self.get(&self.group, "epoch keys", &(group, epoch, leaf))?.unwrap_or_default())
    }

    fn delete_encryption_epoch_key_pairs<G: traits::GroupId<V>, E: traits::EpochKey<V>>(
        &self,
        group: &G,
        epoch: &E,
        leaf: u32,
    ) -> Done {
        self.delete(&self.group, "epoch keys", &(group, epoch, leaf))
    }

    // Leaf keys that wait for an Update belong to the group, but only KeyPackages make them here.
    fn write_encryption_key_pair<K: traits::EncryptionKey<V>, T: traits::HpkeKeyPair<V>>(
        &self,
        key: &K,
        pair: &T,
    ) -> Done {
        self.put(DEVICE, "encryption key", key, pair)
    }

    fn encryption_key_pair<T: traits::HpkeKeyPair<V>, K: traits::EncryptionKey<V>>(
        &self,
        key: &K,
    ) -> Done<Option<T>> {
        self.get(DEVICE, "encryption key", key)
    }

    fn delete_encryption_key_pair<K: traits::EncryptionKey<V>>(&self, key: &K) -> Done {
        self.delete(DEVICE, "encryption key", key)
    }

    fn write_key_package<R: traits::HashReference<V>, T: traits::KeyPackage<V>>(
        &self,
        reference: &R,
        package: &T,
    ) -> Done {
        self.put(DEVICE, "key package", reference, package)
    }

    fn key_package<R: traits::HashReference<V>, T: traits::KeyPackage<V>>(
        &self,
        reference: &R,
    ) -> Done<Option<T>> {
        self.get(DEVICE, "key package", reference)
    }

    fn delete_key_package<R: traits::HashReference<V>>(&self, reference: &R) -> Done {
        self.delete(DEVICE, "key package", reference)
    }

    fn write_signature_key_pair<
        K: traits::SignaturePublicKey<V>,
        T: traits::SignatureKeyPair<V>,
    >(
        &self,
        key: &K,
        pair: &T,
    ) -> Done {
        self.put(DEVICE, "signature key", key, pair)
    }

    fn signature_key_pair<K: traits::SignaturePublicKey<V>, T: traits::SignatureKeyPair<V>>(
        &self,
        key: &K,
    ) -> Done<Option<T>> {
        self.get(DEVICE, "signature key", key)
    }

    fn delete_signature_key_pair<K: traits::SignaturePublicKey<V>>(&self, key: &K) -> Done {
        self.delete(DEVICE, "signature key", key)
    }

    fn write_psk<I: traits::PskId<V>, T: traits::PskBundle<V>>(&self, id: &I, psk: &T) -> Done {
        self.put(DEVICE, "psk", id, psk)
    }

    fn psk<T: traits::PskBundle<V>, I: traits::PskId<V>>(&self, id: &I) -> Done<Option<T>> {
        self.get(DEVICE, "psk", id)
    }

    fn delete_psk<I: traits::PskId<V>>(&self, id: &I) -> Done {
        self.delete(DEVICE, "psk", id)
    }
}
