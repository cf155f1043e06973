//! Events as they lie in a column: the signature, then the signed bytes.

use bytes::Bytes;
use relay_proto::polycentric::Event;

use crate::error::{Result, StoreError};

const SIGNATURE: usize = 64;

pub(super) fn raw(event: &Event) -> Bytes {
    let mut raw = Vec::with_capacity(SIGNATURE + event.bytes().len());
    raw.extend_from_slice(event.signature());
    raw.extend_from_slice(event.bytes());
    raw.into()
}

pub(super) fn split(raw: &Bytes) -> Result<([u8; SIGNATURE], Bytes)> {
    let damaged = || StoreError::Corrupt("a social event is too short".into());
    let signature = raw.get(..SIGNATURE).ok_or_else(damaged)?;
    let signature = signature.try_into().map_err(|_| damaged())?;
    Ok((signature, raw.slice(SIGNATURE..)))
}

pub(super) fn event(raw: &Bytes) -> Result<Event> {
    let (signature, bytes) = split(raw)?;
    Event::from_stored(signature, bytes)
        .map_err(|error| StoreError::Corrupt(format!("a social event: {error}")))
}
