//! Sending and saving files.

use std::path::{Path, PathBuf};

use relay_client::{
    Request,
    client::{Body as RequestBody, Method},
};

use super::{Chat, offline};
use crate::{
    content::{Body, FileBody},
    error::{Refusal, Result},
    files::{self, Saving},
    views::{Event, MessageBody},
};

/// Pieces fetched at once: 4 MiB.
const STRIDE: u64 = 64;
/// What a slow line may take for a mebibyte.
const PER_MEBIBYTE: std::time::Duration = std::time::Duration::from_secs(8);

impl Chat {
    /// Encrypts a file, hands it to the relay and sends word of it; gives the message's number in the outbox. Handing in the
    /// same bytes again has its effect once.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File), [`Refusal`]; the relay's, `too_large` and `quota_exceeded` among them.
    pub async fn send_file(&self, conv_id: &str, path: &Path, mime: Option<&str>) -> Result<i64> {
        let view = self.conversation(conv_id)?;
        if !view.state.is_writable() {
            return Err(Refusal::NotIn.into());
        }
        let client = self.shared.session().ok_or_else(offline)?;
        let (path, mime) = (path.to_owned(), mime.map(str::to_owned));
        let sealed = self.shared.on_core(move |_| files::seal(&path, mime.as_deref())).await?;
        let size = sealed.body.size;
        self.tell_file(conv_id, &sealed.body, 0);
        let mut request = Request::new(Method::PUT, sealed.body.url.clone());
        request.patience = PER_MEBIBYTE * u32::try_from(size >> 20).unwrap_or(u32::MAX);
        request.body = Some(RequestBody {
            media_type: "application/octet-stream",
            bytes: sealed.bytes.into(),
        });
        // What is named by its hash may be put twice.
        request.repeatable = true;
        client.fetch(request).await?;
        self.tell_file(conv_id, &sealed.body, size);
        self.say(conv_id, Body::File(sealed.body)).await
    }

    /// Saves the file of a message, into `folder` under the sender's name for it or at `target`. A try that ended early goes on
    /// where it was. Never writes over a file.
    ///
    /// # Errors
    /// [`Refusal::NoMessage`], [`Error::File`](crate::Error::File), [`Hostile`](crate::Hostile) where it does not verify.
    pub async fn save_file(&self, conv_id: &str, seq: u64, target: SaveAs) -> Result<PathBuf> {
        let MessageBody::File { file } = self.message(conv_id, seq)?.body else {
            return Err(Refusal::Invalid("this message is no file".into()).into());
        };
        let client = self.shared.session().ok_or_else(offline)?;
        let target = match target {
            SaveAs::Path(path) => path,
            SaveAs::Folder(folder) => folder.join(files::safe_name(&file.name)),
        };
        let digest = file.digest.clone();
        if !is_digest(&digest) {
            return Err(Refusal::Invalid("the message names no attachment".into()).into());
        }
        let begun = file.clone();
        let mut saving = self.shared.on_core(move |_| Saving::begin(&begun, &target)).await?;
        while let Some((first, last)) = saving.wanted(STRIDE) {
            self.tell_file(conv_id, &file, saving.done());
            let mut request = Request::get(format!("/v1/blobs/{digest}"));
            request.headers.push(("range", format!("bytes={first}-{last}")));
            request.patience = PER_MEBIBYTE * 4;
            let bytes = client.fetch(request).await?;
            saving = self
                .shared
                .on_core(move |_| {
                    saving.take(&bytes)?;
                    Ok(saving)
                })
                .await?;
        }
        self.tell_file(conv_id, &file, file.size);
        self.shared.on_core(move |_| saving.finish()).await
    }

    fn tell_file(&self, conv_id: &str, file: &FileBody, done: u64) {
        self.shared.tell(vec![Event::File {
            conv_id: conv_id.to_owned(),
            name: file.name.clone(),
            done,
            total: file.size,
        }]);
    }
}

/// Where a file is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaveAs {
    /// Exactly here.
    Path(PathBuf),
    /// In this folder.
    Folder(PathBuf),
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
