//! The presentation language of RFC 9420 section 2.1: integers and variable-length vectors.

use super::MlsError;

/// Reads from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], MlsError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(MlsError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], MlsError> {
        self.bytes(N)?.try_into().map_err(|_| MlsError::Truncated)
    }

    pub fn u8(&mut self) -> Result<u8, MlsError> {
        self.array().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, MlsError> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, MlsError> {
        self.array().map(u64::from_be_bytes)
    }

    /// `opaque x<V>`; the length is refused unless it is in its shortest form (section 2.1.2).
    pub fn vector(&mut self) -> Result<&'a [u8], MlsError> {
        let first = self.u8()?;
        let extra = match first >> 6 {
            0 => 0,
            1 => 1,
            2 => 3,
            _ => return Err(MlsError::Length),
        };
        let mut length = usize::from(first & 0x3f);
        for _ in 0..extra {
            length = length << 8 | usize::from(self.u8()?);
        }
        let shortest = match length {
            0..64 => 0,
            64..16_384 => 1,
            _ => 3,
        };
        if shortest != extra {
            return Err(MlsError::Length);
        }
        self.bytes(length)
    }

    /// A vector of 16-bit numbers.
    pub fn numbers(&mut self) -> Result<Vec<u16>, MlsError> {
        let (pairs, odd) = self.vector()?.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(MlsError::Truncated);
        }
        Ok(pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
    }
}

/// Appends `opaque x<V>` in its shortest form. Values here are far below 2^30 bytes.
pub(super) fn write_vector(out: &mut Vec<u8>, value: &[u8]) {
    let length = value.len() as u32;
    match length {
        0..64 => out.push(length as u8),
        64..16_384 => out.extend_from_slice(&(length as u16 | 0x4000).to_be_bytes()),
        _ => out.extend_from_slice(&(length | 0x8000_0000).to_be_bytes()),
    }
    out.extend_from_slice(value);
}
