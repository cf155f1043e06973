//! Keys and ids: the Ed25519 public key is the name of every actor (`common.md`, Keys and names).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The prefix of every canonical key text.
pub const KEY_PREFIX: &str = "ed25519:";

/// Why a text or byte string is no acceptable key or id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a key is written 'ed25519:' and 64 lowercase hex digits")]
    Form,
    #[error("the key is not in canonical encoding")]
    NonCanonical,
    #[error("the key is of small order")]
    SmallOrder,
    #[error("an event id is 64 lowercase hex digits")]
    IdForm,
}

/// An Ed25519 public key, canonically encoded and not of small order.
///
/// Whether the bytes are a point of the curve is only found when a signature is checked;
/// bytes that are not can never have a valid signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 32]);

impl NodeId {
    /// Takes 32 key bytes.
    ///
    /// # Errors
    /// [`KeyError::NonCanonical`], [`KeyError::SmallOrder`].
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        let mut y = bytes;
        y[31] &= 0x7f;
        if !below_field_prime(&y) {
            return Err(KeyError::NonCanonical);
        }
        if SMALL_ORDER_Y.contains(&y) {
            return Err(KeyError::SmallOrder);
        }
        Ok(Self(bytes))
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `signature` is this key's over `message`, by the one rule of `common.md`.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        ed25519_zebra::VerificationKey::try_from(self.0)
            .and_then(|key| key.verify(&ed25519_zebra::Signature::from(*signature), message))
            .is_ok()
    }

    /// Appends the canonical text to `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(KEY_PREFIX.as_bytes());
        write_hex(&self.0, out);
    }
}

impl FromStr for NodeId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let digits = text.strip_prefix(KEY_PREFIX).ok_or(KeyError::Form)?;
        Self::from_bytes(parse_hex(digits).ok_or(KeyError::Form)?)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KEY_PREFIX)?;
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The id of an event: BLAKE3-256 of its canonical bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId([u8; 32]);

impl EventId {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight bytes as a number; what the stores index.
    pub const fn prefix(&self) -> i64 {
        let b = &self.0;
        i64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
    }
}

impl FromStr for EventId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        parse_hex(text).map(Self).ok_or(KeyError::IdForm)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! text_serde {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}
pub(crate) use text_serde;
text_serde!(NodeId);
text_serde!(EventId);

/// Reads exactly `2 * N` lowercase hex digits.
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    fn digit(c: u8) -> Option<u8> {
        match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        }
    }
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

/// Appends lowercase hex digits.
pub fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// `y < 2^255 - 19`, little-endian, top bit already cleared.
fn below_field_prime(y: &[u8; 32]) -> bool {
    !(y[31] == 0x7f && y[1..31].iter().all(|&b| b == 0xff) && y[0] >= 0xed)
}

/// The y coordinates of the eight points of small order (both signs share one y).
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    {
        let mut minus_one = [0xff; 32];
        minus_one[0] = 0xec;
        minus_one[31] = 0x7f;
        minus_one
    },
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_torsion_point_is_refused() {
        for point in curve25519_dalek::constants::EIGHT_TORSION {
            let refused = NodeId::from_bytes(point.compress().to_bytes());
            assert_eq!(refused, Err(KeyError::SmallOrder));
        }
    }

    #[test]
    fn encodings_above_the_prime_are_refused() {
        for low in 0xed..=0xff {
            for sign in [0x7f, 0xff] {
                let mut bytes = [0xff; 32];
                bytes[0] = low;
                bytes[31] = sign;
                assert_eq!(NodeId::from_bytes(bytes), Err(KeyError::NonCanonical));
            }
        }
    }

    #[test]
    fn only_the_canonical_text_is_read() {
        let text = format!("ed25519:{}", "ab".repeat(32));
        let key: NodeId = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert_eq!(text.to_uppercase().parse::<NodeId>(), Err(KeyError::Form));
        assert_eq!("ab".repeat(32).parse::<NodeId>(), Err(KeyError::Form));
    }
}
