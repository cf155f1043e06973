//! The published GroupInfo: by it a device that lost its state comes back, and the relay learns nothing from it
//! (`mls-profile.md` 8).

use aes_gcm::{
    Aes128Gcm, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Hostile, Result},
    store::random,
};

const VERSION: u8 = 1;
const NONCE: usize = 12;

/// Seals the MLSMessage of a GroupInfo for its epoch.
pub(crate) fn seal(
    rejoin_key: &[u8; 32],
    group_id: &[u8; 32],
    epoch: u64,
    message: &[u8],
) -> Result<Vec<u8>> {
    let nonce = random::<NONCE>()?;
    let sealed = cipher(rejoin_key, group_id)
        .encrypt(Nonce::from_slice(&nonce), Payload { msg: message, aad: &aad(group_id, epoch) })
        .map_err(|_| Error::Mls("a GroupInfo is too large".into()))?;
    Ok([&[VERSION][..], &nonce, &sealed].concat())
}

/// Opens a GroupInfo that the relay says is of this epoch.
pub(crate) fn open(
    rejoin_key: &[u8; 32],
    group_id: &[u8; 32],
    epoch: u64,
    sealed: &[u8],
) -> std::result::Result<Vec<u8>, Hostile> {
    let bad = |why: &str| Hostile::GroupInfo(why.to_owned());
    let (version, rest) = sealed.split_first().ok_or_else(|| bad("it is empty"))?;
    if *version != VERSION {
        return Err(bad("its version is not known"));
    }
    let (nonce, sealed) = rest.split_at_checked(NONCE).ok_or_else(|| bad("it ends early"))?;
    cipher(rejoin_key, group_id)
        .decrypt(Nonce::from_slice(nonce), Payload { msg: sealed, aad: &aad(group_id, epoch) })
        .map_err(|_| bad("it is not of this conversation and epoch"))
}

fn cipher(rejoin_key: &[u8; 32], group_id: &[u8; 32]) -> Aes128Gcm {
    let mut key = Zeroizing::new([0; 16]);
    // 16 bytes are within what HKDF gives for any hash.
    let expanded = Hkdf::<Sha256>::new(Some(group_id), rejoin_key)
        .expand(b"relay-mls/1 group-info\0", &mut *key);
    debug_assert!(expanded.is_ok());
    Aes128Gcm::new((&*key).into())
}

fn aad(group_id: &[u8; 32], epoch: u64) -> Vec<u8> {
    [&group_id[..], &epoch.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_info_opens_for_its_group_and_epoch_alone() {
        let sealed = seal(&[1; 32], &[2; 32], 5, b"info").unwrap();
        assert_eq!(open(&[1; 32], &[2; 32], 5, &sealed).unwrap(), b"info");
        assert!(open(&[9; 32], &[2; 32], 5, &sealed).is_err());
        assert!(open(&[1; 32], &[9; 32], 5, &sealed).is_err());
        assert!(open(&[1; 32], &[2; 32], 6, &sealed).is_err());
        for end in 0..sealed.len() {
            assert!(open(&[1; 32], &[2; 32], 5, &sealed[..end]).is_err());
        }
    }
}
