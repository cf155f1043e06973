//! The vault: what a wiped device needs to come back, encrypted for the user alone at the relay (`mls-profile.md` 8).
//!
//! The recovery seed is the seed of the user's key, so that whoever has a backup of the key has everything. A key that lies
//! in an agent does not give its seed; then there is no vault, and another device has to let a new one in.

use std::collections::BTreeMap;

use aes_gcm::{
    Aes128Gcm, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hkdf::Hkdf;
use relay_proto::NodeId;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Hostile, Result},
    store::random,
};

const NONCE: usize = 12;

/// One conversation of the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VaultEntry {
    pub conv_id: String,
    pub conv_home: String,
    /// 32 bytes in base64url.
    pub rejoin_key: String,
}

impl VaultEntry {
    pub fn new(conv_id: String, conv_home: String, rejoin_key: &[u8; 32]) -> Self {
        Self { conv_id, conv_home, rejoin_key: URL_SAFE_NO_PAD.encode(rejoin_key) }
    }

    pub fn key(&self) -> Option<[u8; 32]> {
        URL_SAFE_NO_PAD.decode(&self.rejoin_key).ok()?.try_into().ok()
    }
}

/// Opens a vault; an empty one holds nothing.
pub(crate) fn open(seed: &[u8; 32], user: &NodeId, blob: &[u8]) -> Result<Vec<VaultEntry>> {
    if blob.is_empty() {
        return Ok(Vec::new());
    }
    let bad = || Error::Hostile(Hostile::GroupInfo("the vault does not open with this key".into()));
    let (nonce, sealed) = blob.split_at_checked(NONCE).ok_or_else(bad)?;
    let payload = Payload { msg: sealed, aad: user.as_bytes() };
    let text = cipher(seed).decrypt(Nonce::from_slice(nonce), payload).map_err(|_| bad())?;
    let text = Zeroizing::new(text);
    serde_json::from_slice(&text).map_err(|_| bad())
}

/// Seals a vault.
pub(crate) fn seal(seed: &[u8; 32], user: &NodeId, entries: &[VaultEntry]) -> Result<Vec<u8>> {
    let text = Zeroizing::new(serde_json::to_vec(entries)?);
    let nonce = random::<NONCE>()?;
    let payload = Payload { msg: &text, aad: user.as_bytes() };
    let sealed = cipher(seed)
        .encrypt(Nonce::from_slice(&nonce), payload)
        .map_err(|_| Error::Mls("the vault is too large".into()))?;
    Ok([&nonce[..], &sealed].concat())
}

/// What other devices have written stays, what this one knows is added, what it has left is taken out.
pub(crate) fn merge(
    theirs: Vec<VaultEntry>,
    ours: Vec<VaultEntry>,
    over: &[String],
) -> Vec<VaultEntry> {
    let mut all: BTreeMap<String, VaultEntry> =
        theirs.into_iter().map(|entry| (entry.conv_id.clone(), entry)).collect();
    all.extend(ours.into_iter().map(|entry| (entry.conv_id.clone(), entry)));
    all.retain(|conv_id, _| !over.contains(conv_id));
    all.into_values().collect()
}

fn cipher(seed: &[u8; 32]) -> Aes128Gcm {
    let mut key = Zeroizing::new([0; 16]);
    // 16 bytes are within what HKDF gives for any hash.
    let expanded = Hkdf::<Sha256>::new(None, seed).expand(b"relay-mls/1 vault\0", &mut *key);
    debug_assert!(expanded.is_ok());
    Aes128Gcm::new((&*key).into())
}

#[cfg(test)]
mod tests {
    use relay_proto::SigningKey;

    use super::*;

    fn entry(n: u8) -> VaultEntry {
        VaultEntry::new(format!("conv{n}"), "gw_local".into(), &[n; 32])
    }

    #[test]
    fn a_vault_opens_for_its_user_and_seed() {
        let user = SigningKey::from_seed([1; 32]).node_id();
        let other = SigningKey::from_seed([2; 32]).node_id();
        let blob = seal(&[1; 32], &user, &[entry(1), entry(2)]).unwrap();
        assert_eq!(open(&[1; 32], &user, &blob).unwrap(), [entry(1), entry(2)]);
        assert_eq!(entry(7).key(), Some([7; 32]));
        assert!(open(&[2; 32], &user, &blob).is_err() && open(&[1; 32], &other, &blob).is_err());
        assert!(open(&[1; 32], &user, &blob[..5]).is_err());
        assert_eq!(open(&[1; 32], &user, &[]).unwrap(), []);
    }

    #[test]
    fn devices_add_to_a_vault_and_take_out_what_they_left() {
        let merged = merge(vec![entry(1), entry(2)], vec![entry(3)], &["conv2".into()]);
        assert_eq!(merged, [entry(1), entry(3)]);
    }
}
