//! Who this device is: its id, its leaf key, and the binding by which its user named both (`mls-profile.md` 3).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openmls::prelude::{
    BasicCredential, Capabilities, CredentialType, CredentialWithKey, ExtensionType, KeyPackage,
    KeyPackageBuilder, Lifetime, MlsMessageOut, ProtocolVersion,
};
use openmls_traits::{
    signatures::{Signer, SignerError},
    types::SignatureScheme,
};
use relay_client::Signer as UserSigner;
use relay_proto::{NodeId, SigningKey, mls::DeviceBinding};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::{Provider, SUITE, context};
use crate::{
    error::{Error, Result},
    store::random,
};

const HOUR_S: u64 = 3_600;
const DAY_S: u64 = 86_400;
/// How long a binding holds; the profile allows 400 days.
const BINDING_DAYS: u64 = 365;
/// A binding is renewed so long before it ends: longer than any KeyPackage lasts.
const RENEW_DAYS: u64 = 100;
/// How long KeyPackages may be used (`mls-profile.md` 1).
const ONE_TIME_DAYS: u64 = 28;
const LAST_RESORT_DAYS: u64 = 84;

/// This device.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub user: NodeId,
    pub id: [u8; 16],
    pub binding: DeviceBinding,
    leaf: LeafKey,
    identity: Vec<u8>,
}

/// Signs what this device says in groups.
#[derive(Debug, Clone)]
pub(crate) struct LeafKey(pub(super) SigningKey);

impl Signer for LeafKey {
    fn sign(&self, payload: &[u8]) -> std::result::Result<Vec<u8>, SignerError> {
        Ok(self.0.sign(payload).to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// A device as it is kept.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedDevice {
    leaf_seed: [u8; 32],
    identity: Vec<u8>,
}

impl Drop for SavedDevice {
    fn drop(&mut self) {
        self.leaf_seed.zeroize();
    }
}

impl Device {
    /// Makes a device and lets its user name it.
    pub fn create(user: &UserSigner, now_s: u64) -> Result<Self> {
        let leaf = SigningKey::from_seed(random()?);
        Self::bind(user, random()?, leaf, now_s)
    }

    fn bind(user: &UserSigner, id: [u8; 16], leaf: SigningKey, now_s: u64) -> Result<Self> {
        let binding = DeviceBinding {
            user: user.node_id(),
            device: id,
            not_before: now_s.saturating_sub(HOUR_S),
            not_after: now_s + BINDING_DAYS * DAY_S,
        };
        let signature = user.sign(&binding.to_be_signed(leaf.node_id().as_bytes()))?;
        let identity = binding.identity(&signature).to_vec();
        Ok(Self { user: binding.user, id, binding, leaf: LeafKey(leaf), identity })
    }

    /// The same device under a new binding, where this one ends soon. Leaves that it has keep the one they were let in with,
    /// which nobody looks at again (`mls-profile.md` 3); KeyPackages get the new one, before those that are out can end
    /// after their binding.
    pub fn renewed(&self, user: &UserSigner, now_s: u64) -> Result<Option<Self>> {
        if now_s + RENEW_DAYS * DAY_S < self.binding.not_after {
            return Ok(None);
        }
        let leaf = SigningKey::from_seed(*self.leaf.0.seed());
        Self::bind(user, self.id, leaf, now_s).map(Some)
    }

    pub fn save(&self) -> SavedDevice {
        SavedDevice { leaf_seed: *self.leaf.0.seed(), identity: self.identity.clone() }
    }

    /// Reads a device back; its binding is checked like any other.
    pub fn load(saved: &SavedDevice) -> Result<Self> {
        let leaf = SigningKey::from_seed(saved.leaf_seed);
        let binding = DeviceBinding::verify(&saved.identity, leaf.node_id().as_bytes())?;
        Ok(Self {
            user: binding.user,
            id: binding.device,
            binding,
            leaf: LeafKey(leaf),
            identity: saved.identity.clone(),
        })
    }

    /// The `device_id` of the wire.
    pub fn device_id(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.id)
    }

    pub fn signer(&self) -> &LeafKey {
        &self.leaf
    }

    pub fn leaf_key(&self) -> [u8; 32] {
        *self.leaf.0.node_id().as_bytes()
    }

    pub fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(self.identity.clone()).into(),
            signature_key: self.leaf_key().to_vec().into(),
        }
    }

    /// Makes a KeyPackage and keeps its private keys; gives its reference and the MLSMessage.
    pub fn key_package(
        &self,
        provider: &Provider<'_>,
        last_resort: bool,
        now_s: u64,
    ) -> Result<MadeKeyPackage> {
        let days = if last_resort { LAST_RESORT_DAYS } else { ONE_TIME_DAYS };
        let not_after = now_s + days * DAY_S;
        let mut builder: KeyPackageBuilder = KeyPackage::builder()
            .leaf_node_capabilities(capabilities())
            .key_package_lifetime(Lifetime::init(now_s.saturating_sub(HOUR_S), not_after));
        if last_resort {
            builder = builder.mark_as_last_resort();
        }
        let bundle = builder
            .build(SUITE, provider, &self.leaf, self.credential())
            .map_err(|error| Error::Mls(error.to_string()))?;
        let package = bundle.key_package();
        let reference =
            package.hash_ref(provider.crypto).map_err(|error| Error::Mls(error.to_string()))?;
        let message = MlsMessageOut::from(package.clone())
            .to_bytes()
            .map_err(|error| Error::Mls(error.to_string()))?;
        Ok(MadeKeyPackage {
            reference: reference.as_slice().to_vec(),
            message,
            not_after_s: not_after,
        })
    }
}

/// A KeyPackage of this device.
#[derive(Debug, Clone)]
pub(crate) struct MadeKeyPackage {
    pub reference: Vec<u8>,
    pub message: Vec<u8>,
    pub not_after_s: u64,
}

/// What every leaf of ours says that it can do.
pub(crate) fn capabilities() -> Capabilities {
    Capabilities::builder()
        .versions(vec![ProtocolVersion::Mls10])
        .ciphersuites(vec![SUITE])
        .extensions(vec![ExtensionType::LastResort, ExtensionType::Unknown(context::EXTENSION)])
        .proposals(Vec::new())
        .credentials(vec![CredentialType::Basic])
        .build()
}
