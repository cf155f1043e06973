//! The member side of MLS as the profile has it (`mls-profile.md` 1 to 4, 8), over OpenMLS.
//!
//! - [`device`]: who this device is, and its KeyPackages
//! - [`context`]: what every group says of itself
//! - [`group`]: groups, their commits, and what a member checks before it believes one
//! - [`info`]: the GroupInfo that lies sealed at the relay
//!
//! Nothing here knows of the relay, the outbox or the clock.

pub(crate) mod context;
pub(crate) mod device;
pub(crate) mod group;
pub(crate) mod info;
#[cfg(test)]
mod vectors;

use openmls::prelude::Ciphersuite;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::OpenMlsProvider;

use crate::store::MlsStorage;

/// The only suite of the profile.
pub(crate) const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

/// What the library works with: our storage, its cryptography.
pub(crate) struct Provider<'a> {
    pub storage: MlsStorage<'a>,
    pub crypto: &'a RustCrypto,
}

impl<'a> OpenMlsProvider for Provider<'a> {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = MlsStorage<'a>;

    fn storage(&self) -> &MlsStorage<'a> {
        &self.storage
    }

    fn crypto(&self) -> &RustCrypto {
        self.crypto
    }

    fn rand(&self) -> &RustCrypto {
        self.crypto
    }
}
