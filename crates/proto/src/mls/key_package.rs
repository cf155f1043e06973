//! KeyPackages, read whole and verified before they are handed to anybody (`mls-profile.md` 6.7, RFC 9420 10).

use sha2::{Digest, Sha256};

use super::{
    MlsError,
    binding::{BindingError, DeviceBinding, EARLY_S},
    reader::{Reader, write_vector},
};
use crate::NodeId;

/// Longest KeyPackage, bytes.
pub const MAX_BYTES: usize = 4_096;
/// The longest lifetime, seconds: 84 days and an hour.
const LONGEST_S: u64 = 84 * 86_400 + 3_600;
/// `MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519`.
const SUITE: u16 = 1;
const BASIC: u16 = 1;
/// Extensions that every leaf must list: last_resort and relay_conversation.
const NEEDED_EXTENSIONS: [u16; 2] = [0x000a, 0xf1a0];

/// What the relay keeps in mind of a KeyPackage whose signatures and binding hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPackage {
    /// RFC 9420 section 5.2.
    pub reference: [u8; 32],
    pub binding: DeviceBinding,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
}

/// Why a KeyPackage is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyPackageError {
    #[error("a key package has at most 4096 bytes")]
    TooLarge,
    #[error("malformed: {0}")]
    Malformed(#[from] MlsError),
    #[error("not a KeyPackage")]
    NotAKeyPackage,
    #[error("the cipher suite is not 1")]
    Suite,
    #[error("the credential is not basic")]
    Credential,
    #[error("the leaf is not one of a KeyPackage")]
    Source,
    #[error("the capabilities lack what the profile needs")]
    Capabilities,
    #[error("init_key and encryption_key are the same")]
    SameKeys,
    #[error("the signature of the {0} does not verify")]
    Signature(&'static str),
    #[error("the lifetime is empty or longer than 84 days")]
    Lifetime,
    #[error("the lifetime has ended or not begun")]
    NotNow,
    #[error(transparent)]
    Binding(#[from] BindingError),
    #[error("the binding is another user's")]
    OtherUser,
    #[error("the binding is another device's")]
    OtherDevice,
}

impl KeyPackage {
    /// Reads an `MLSMessage` that holds a KeyPackage and checks everything that does not depend on who hands it in
    /// and when.
    ///
    /// # Errors
    /// [`KeyPackageError`].
    pub fn parse(message: &[u8]) -> Result<Self, KeyPackageError> {
        if message.len() > MAX_BYTES {
            return Err(KeyPackageError::TooLarge);
        }
        let mut outer = Reader::new(message);
        if outer.u16()? != 1 {
            return Err(MlsError::Version.into());
        }
        if outer.u16()? != 5 {
            return Err(KeyPackageError::NotAKeyPackage);
        }
        let package = outer.rest();
        let mut reader = Reader::new(package);
        if reader.u16()? != 1 {
            return Err(MlsError::Version.into());
        }
        if reader.u16()? != SUITE {
            return Err(KeyPackageError::Suite);
        }
        let init_key = reader.vector()?;
        let leaf = Leaf::read(&mut reader)?;
        extensions(reader.vector()?)?;
        let signed = &package[..package.len() - reader.rest().len()];
        let signature = reader.vector()?;
        if !reader.is_empty() {
            return Err(MlsError::Trailing.into());
        }
        if init_key == leaf.encryption_key {
            return Err(KeyPackageError::SameKeys);
        }
        leaf.verify()?;
        if !signed_with_label(&leaf.signer, "KeyPackageTBS", signed, signature) {
            return Err(KeyPackageError::Signature("KeyPackage"));
        }
        let binding = DeviceBinding::verify(leaf.identity, leaf.signer.as_bytes())?;
        let (not_before, not_after) = (leaf.not_before, leaf.not_after);
        Ok(Self { reference: reference(package), binding, not_before, not_after })
    }

    /// Whether this user's device may hand it in at `now_s` (unix seconds).
    ///
    /// # Errors
    /// [`KeyPackageError::OtherUser`], [`KeyPackageError::OtherDevice`], [`KeyPackageError::Lifetime`],
    /// [`KeyPackageError::NotNow`], [`KeyPackageError::Binding`].
    pub fn check(
        &self,
        user: &NodeId,
        device: &[u8; 16],
        now_s: u64,
    ) -> Result<(), KeyPackageError> {
        if self.binding.user != *user {
            return Err(KeyPackageError::OtherUser);
        }
        if self.binding.device != *device {
            return Err(KeyPackageError::OtherDevice);
        }
        let length = self.not_after.checked_sub(self.not_before);
        if !length.is_some_and(|length| (1..=LONGEST_S).contains(&length)) {
            return Err(KeyPackageError::Lifetime);
        }
        let begun = self.not_before.saturating_sub(EARLY_S) <= now_s;
        if !begun || now_s >= self.not_after {
            return Err(KeyPackageError::NotNow);
        }
        Ok(self.binding.check_time(now_s)?)
    }

    /// The end of the lifetime of anything that looks like a KeyPackage of any suite, for relays that take them
    /// as opaque bytes.
    pub fn expiry_of(message: &[u8]) -> Option<u64> {
        let mut reader = Reader::new(message);
        let is_package = reader.u16().ok()? == 1 && reader.u16().ok()? == 5;
        if !is_package || reader.u16().ok()? != 1 {
            return None;
        }
        reader.u16().ok()?;
        reader.vector().ok()?;
        Leaf::read(&mut reader).ok().map(|leaf| leaf.not_after)
    }
}

/// The leaf of a KeyPackage.
struct Leaf<'a> {
    encryption_key: &'a [u8],
    signer: NodeId,
    identity: &'a [u8],
    capabilities: Capabilities,
    not_before: u64,
    not_after: u64,
    /// What `signature` is over.
    signed: &'a [u8],
    signature: &'a [u8],
}

struct Capabilities {
    versions: Vec<u16>,
    suites: Vec<u16>,
    extensions: Vec<u16>,
    credentials: Vec<u16>,
}

impl<'a> Leaf<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, KeyPackageError> {
        let whole = reader.rest();
        let encryption_key = reader.vector()?;
        let signer: [u8; 32] =
            reader.vector()?.try_into().map_err(|_| KeyPackageError::Signature("leaf"))?;
        let signer = NodeId::from_bytes(signer).map_err(|_| KeyPackageError::Signature("leaf"))?;
        if reader.u16()? != BASIC {
            return Err(KeyPackageError::Credential);
        }
        let identity = reader.vector()?;
        let versions = reader.numbers()?;
        let suites = reader.numbers()?;
        let extension_types = reader.numbers()?;
        let _proposals = reader.numbers()?;
        let credentials = reader.numbers()?;
        if reader.u8()? != 1 {
            return Err(KeyPackageError::Source);
        }
        let (not_before, not_after) = (reader.u64()?, reader.u64()?);
        extensions(reader.vector()?)?;
        let signed = &whole[..whole.len() - reader.rest().len()];
        let signature = reader.vector()?;
        let capabilities =
            Capabilities { versions, suites, extensions: extension_types, credentials };
        Ok(Self {
            encryption_key,
            signer,
            identity,
            capabilities,
            not_before,
            not_after,
            signed,
            signature,
        })
    }

    fn verify(&self) -> Result<(), KeyPackageError> {
        let has = &self.capabilities;
        let able = has.versions.contains(&1)
            && has.suites.contains(&SUITE)
            && has.credentials.contains(&BASIC)
            && NEEDED_EXTENSIONS.iter().all(|needed| has.extensions.contains(needed));
        if !able {
            return Err(KeyPackageError::Capabilities);
        }
        if !signed_with_label(&self.signer, "LeafNodeTBS", self.signed, self.signature) {
            return Err(KeyPackageError::Signature("leaf"));
        }
        Ok(())
    }
}

/// Walks over a list of extensions, so that what is kept is well formed.
fn extensions(list: &[u8]) -> Result<(), MlsError> {
    let mut reader = Reader::new(list);
    while !reader.is_empty() {
        reader.u16()?;
        reader.vector()?;
    }
    Ok(())
}

/// What `SignWithLabel` signs (RFC 9420 section 5.1.2).
pub fn sign_content(label: &str, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 32);
    write_vector(&mut out, format!("MLS 1.0 {label}").as_bytes());
    write_vector(&mut out, content);
    out
}

fn signed_with_label(signer: &NodeId, label: &str, content: &[u8], signature: &[u8]) -> bool {
    let Ok(signature) = <&[u8; 64]>::try_from(signature) else { return false };
    signer.verifies(&sign_content(label, content), signature)
}

/// RFC 9420 section 5.2.
fn reference(package: &[u8]) -> [u8; 32] {
    let mut input = Vec::with_capacity(package.len() + 40);
    write_vector(&mut input, b"MLS 1.0 KeyPackage Reference");
    write_vector(&mut input, package);
    Sha256::digest(&input).into()
}
