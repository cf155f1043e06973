//! Messages and cursors in query parameters.

use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use prost::Message;

use super::id::{WireError, decode};

/// Writes without padding; reads with and without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

pub fn encode_param(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Reads either alphabet of base64, padded or not. A space stands for a plus sign that a query string turned into one.
///
/// # Errors
/// [`WireError::Base64`].
pub fn decode_param(text: &str) -> Result<Bytes, WireError> {
    let url_safe = |c: u8| match c {
        b'+' | b' ' => b'-',
        b'/' => b'_',
        other => other,
    };
    let text: Vec<u8> = text.bytes().map(url_safe).collect();
    BASE64.decode(text).map(Bytes::from).map_err(|_| WireError::Base64)
}

/// Reads a message out of a query parameter.
///
/// # Errors
/// [`WireError::Base64`], [`WireError::Malformed`].
pub fn message_param<M: Message + Default>(text: &str) -> Result<M, WireError> {
    decode(decode_param(text)?)
}

/// An offset as `query_references` writes it.
pub fn big_cursor(offset: u64) -> Bytes {
    Bytes::copy_from_slice(&offset.to_be_bytes())
}

/// Reads the cursor of `query_references`.
///
/// # Errors
/// [`WireError::Malformed`] for anything but eight bytes.
pub fn parse_big_cursor(cursor: &[u8]) -> Result<u64, WireError> {
    cursor.try_into().map(u64::from_be_bytes).map_err(|_| WireError::Malformed)
}

/// Numbers one after the other, little-endian: the cursors of `search` (one) and `explore` (one or two).
pub fn small_cursor(numbers: &[u64]) -> Bytes {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>().into()
}

/// Reads a cursor of one or two little-endian numbers.
///
/// # Errors
/// [`WireError::Malformed`] for another length.
pub fn parse_small_cursor(cursor: &[u8]) -> Result<Vec<u64>, WireError> {
    if !matches!(cursor.len(), 8 | 16) {
        return Err(WireError::Malformed);
    }
    let number = |bytes: &[u8]| {
        let mut le = [0; 8];
        le.copy_from_slice(bytes);
        u64::from_le_bytes(le)
    };
    Ok(cursor.chunks_exact(8).map(number).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_and_alphabet_do_not_matter() {
        for text in ["-_8", "-_8=", "+/8=", "+/8", " /8"] {
            assert_eq!(decode_param(text).unwrap(), [0xfb, 0xff][..], "{text}");
        }
        assert_eq!(decode_param("a*"), Err(WireError::Base64));
        assert_eq!(encode_param(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn cursors_read_back() {
        assert_eq!(parse_big_cursor(&big_cursor(20)).unwrap(), 20);
        assert_eq!(big_cursor(20)[..], [0, 0, 0, 0, 0, 0, 0, 20]);
        assert_eq!(parse_small_cursor(&small_cursor(&[7, 9])).unwrap(), [7, 9]);
        assert_eq!(small_cursor(&[10])[..], [10, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse_small_cursor(&[1; 9]), Err(WireError::Malformed));
        assert_eq!(parse_big_cursor(&[1; 9]), Err(WireError::Malformed));
    }
}
