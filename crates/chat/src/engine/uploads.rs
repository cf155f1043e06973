//! Handing in attachments, one at a time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use relay_client::{
    Client, Error as RelayError, Request,
    client::{Body, Method},
};
use relay_proto::Code;
use tokio::sync::watch;

use super::{Shared, requests};
use crate::{
    content::FileBody,
    core::Refused,
    error::{Error, Result},
    views::Event,
};

/// What a slow line may take for a mebibyte.
pub(crate) const PER_MEBIBYTE: Duration = Duration::from_secs(8);
/// How often it is told how far it is.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Hands in what a message of the outbox waits for, unless the relay has it from an earlier try. `Err`: why not.
pub(super) async fn upload(
    shared: &Arc<Shared>,
    client: &Client,
    conv_id: &str,
    n: i64,
) -> Result<std::result::Result<(), Refused>> {
    let Some(file) = shared.on_core(move |core| core.begin_upload(n)).await? else {
        return Ok(Ok(()));
    };
    shared.tell(vec![Event::Changed { conv_id: conv_id.to_owned(), seq: None, local: Some(n) }]);
    let there = has(client, &file.digest).await;
    let done = match there {
        Ok(true) => Ok(()),
        Ok(false) => {
            let (outgoing, digest) = (shared.outgoing.clone(), file.digest.clone());
            match shared.on_core(move |_| outgoing.read(&digest)).await {
                Ok(bytes) => put(shared, client, conv_id, &file, bytes.into()).await,
                Err(error) => return Ok(Err(gone(&error))),
            }
        }
        Err(error) => Err(error),
    };
    if let Err(error) = done {
        return Ok(Err(requests::refused(&error).unwrap_or_else(|| not_reached(&error))));
    }
    shared.outgoing.forget(&file.digest);
    shared.tell(vec![progress(conv_id, &file, file.size)]);
    Ok(Ok(()))
}

/// Whether the relay has an attachment: one byte of it is asked for, as there is always one.
async fn has(client: &Client, digest: &str) -> std::result::Result<bool, RelayError> {
    let mut request = Request::get(format!("/v1/blobs/{digest}"));
    request.headers.push(("range", "bytes=0-0".into()));
    match client.fetch(request).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.code(), Some(Code::NotFound | Code::Gone)) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn put(
    shared: &Shared,
    client: &Client,
    conv_id: &str,
    file: &FileBody,
    bytes: Bytes,
) -> std::result::Result<(), RelayError> {
    let mut request = Request::new(Method::PUT, format!("/v1/blobs/{}", file.digest));
    let mebibytes = u32::try_from(bytes.len() >> 20).unwrap_or(u32::MAX);
    request.patience = PER_MEBIBYTE.saturating_mul(mebibytes);
    request.body = Some(Body { media_type: "application/octet-stream", bytes });
    let (sent, mut gone) = watch::channel(0);
    request.sent = Some(sent);
    let mut sending = std::pin::pin!(client.fetch(request));
    let mut told = tokio::time::interval(TELL_EVERY);
    loop {
        tokio::select! {
            answer = &mut sending => return answer.map(drop),
            _ = told.tick() => {
                if gone.has_changed().unwrap_or(false) {
                    let done = *gone.borrow_and_update();
                    shared.tell(vec![progress(conv_id, file, done.min(file.size))]);
                }
            }
        }
    }
}

fn progress(conv_id: &str, file: &FileBody, done: u64) -> Event {
    Event::File { conv_id: conv_id.to_owned(), name: file.name.clone(), done, total: file.size }
}

fn not_reached(error: &RelayError) -> Refused {
    Refused {
        code: Code::Timeout,
        reason: None,
        message: format!("the file is not handed in yet: {error}"),
        retry_after_ms: None,
    }
}

fn gone(error: &Error) -> Refused {
    Refused {
        code: Code::NotFound,
        reason: None,
        message: format!("the encrypted file cannot be read any more, send it again: {error}"),
        retry_after_ms: None,
    }
}
