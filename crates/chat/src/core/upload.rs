//! Messages whose attachment the relay does not have yet. They wait in the outbox, and others pass them by: a large file
//! holds up no words.

use std::collections::BTreeSet;

use relay_proto::Code;

use super::{Core, Events, act::enqueue, conv, step::Refused};
use crate::{
    content::{Body, Content, FileBody},
    error::Result,
    store::{
        Durability, OutRow,
        rows::{Job, SavedContent, Upload},
    },
    views::Event,
};

/// After a relay that did not answer it is tried again so much later.
const AGAIN_MS: u64 = 5_000;

impl Core {
    /// Says that there is a file, once the relay has it; gives the message's number in the outbox.
    pub fn say_file(&self, conv_id: &str, file: FileBody, now_ms: u64) -> Result<(i64, Events)> {
        let body = Body::File(file);
        body.check()?;
        self.write(Durability::Now, |tx| {
            let row = conv(tx, conv_id)?;
            super::act::writable(&row)?;
            let content = SavedContent(Content::new(body, now_ms)?);
            let n = enqueue(tx, &row, Job::Message { content }, now_ms)?;
            if let Some(mut out) = tx.out(n)? {
                out.upload = Some(Upload::Due);
                tx.save_out(&out)?;
            }
            Ok((n, vec![changed(conv_id, n)]))
        })
    }

    /// Begins to hand in what a message waits for; `None` where it does not any more.
    pub fn begin_upload(&self, n: i64) -> Result<Option<FileBody>> {
        self.write(Durability::Soon, |tx| {
            let Some(mut out) = tx.out(n)? else { return Ok(None) };
            let file = waits_for(&out).cloned();
            if file.is_some() {
                out.upload = Some(Upload::Begun);
                tx.save_out(&out)?;
            }
            Ok(file)
        })
    }

    /// The relay has it: the message can go.
    pub fn uploaded(&self, n: i64) -> Result<Events> {
        self.with_out(n, |tx, row, out| {
            out.upload = None;
            tx.save_out(out)?;
            Ok(vec![changed(&row.conv_id, n)])
        })
    }

    /// The relay did not take it, or was not reached.
    pub fn not_uploaded(&self, n: i64, why: &Refused, now_ms: u64) -> Result<Events> {
        self.with_out(n, |tx, row, out| {
            let later = matches!(
                why.code,
                Code::RateLimited | Code::HomeUnreachable | Code::Timeout | Code::InternalError
            );
            if later {
                let pause = why.retry_after_ms.unwrap_or(AGAIN_MS).max(AGAIN_MS);
                out.waits = Some((why.message.clone(), now_ms.saturating_add(pause)));
            } else {
                out.failed = Some(why.message.clone());
            }
            tx.save_out(out)?;
            Ok(vec![changed(&row.conv_id, n)])
        })
    }

    /// Whether a message's attachment is on its way, and neither refused nor put off.
    pub fn is_uploading(&self, n: i64) -> Result<bool> {
        self.store.read(|tx| {
            let moving =
                |out: OutRow| out.upload.is_some() && out.failed.is_none() && out.waits.is_none();
            Ok(tx.out(n)?.is_some_and(moving))
        })
    }

    /// The digests of everything that is still to be handed in.
    pub fn outgoing(&self) -> Result<BTreeSet<String>> {
        self.store.read(|tx| {
            let outbox = tx.whole_outbox()?;
            Ok(outbox.iter().filter_map(waits_for).map(|file| file.digest.clone()).collect())
        })
    }
}

/// The file that the relay has to have before a message goes.
fn waits_for(out: &OutRow) -> Option<&FileBody> {
    let Job::Message { content } = &out.job else { return None };
    match &content.0.body {
        Body::File(file) if out.upload.is_some() => Some(file),
        _ => None,
    }
}

fn changed(conv_id: &str, n: i64) -> Event {
    Event::Changed { conv_id: conv_id.to_owned(), seq: None, local: Some(n) }
}
