//! MLS as the relay sees it (`mls-profile.md` 1, 3, 6): heads and KeyPackages, read without keys.
//!
//! - [`head`]: what stands before the encrypted part of an `MLSMessage`
//! - [`binding`]: the proof that a user named a signing key as the key of a device
//! - [`key_package`]: a KeyPackage, whole, with every check of section 6.7
//!
//! There is nothing here that decrypts, and nothing that needs to.

pub mod binding;
pub mod head;
pub mod key_package;

mod reader;

pub use binding::{BindingError, DeviceBinding};
pub use head::{Accepted, Content, Head, Sender};
pub use key_package::{KeyPackage, KeyPackageError};

/// Why bytes are no MLS message of the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MlsError {
    #[error("the message ends early")]
    Truncated,
    #[error("a vector's length is not in its shortest form")]
    Length,
    #[error("the protocol version is not mls10")]
    Version,
    #[error("the wire format is unknown")]
    WireFormat,
    #[error("a group id has 32 bytes")]
    GroupId,
    #[error("the sender type is unknown")]
    SenderType,
    #[error("the content type is unknown")]
    ContentType,
    #[error("bytes follow the end of the message")]
    Trailing,
    #[error("not base64")]
    Base64,
}

/// Decodes base64 in either alphabet, padded or not.
///
/// # Errors
/// [`MlsError::Base64`].
pub fn decode_base64(text: &str) -> Result<Vec<u8>, MlsError> {
    use base64::{
        Engine, alphabet,
        engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    };
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);
    let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine.decode(text).map_err(|_| MlsError::Base64)
}
