//! Sending and saving files.

use std::path::{Path, PathBuf};

use relay_client::Request;
use tokio::sync::broadcast;

use super::{Chat, offline};
use crate::{
    content::FileBody,
    engine::{now_ms, uploads::PER_MEBIBYTE},
    error::{Error, Refusal, Result},
    files::{self, Saving},
    views::{Event, MessageBody},
};

/// Pieces fetched at once: 4 MiB.
const STRIDE: u64 = 64;

impl Chat {
    /// Encrypts a file and notes that it is to be sent; gives the message's number in the outbox. The relay gets the file as
    /// soon as it is reached, goes on after a restart, and is not given again what it has; then word of it is sent.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File), [`Refusal`].
    pub async fn send_file(&self, conv_id: &str, path: &Path, mime: Option<&str>) -> Result<i64> {
        let view = self.conversation(conv_id)?;
        if !view.state.is_writable() {
            return Err(Refusal::NotIn.into());
        }
        let (path, mime) = (path.to_owned(), mime.map(str::to_owned));
        let (id, outgoing) = (conv_id.to_owned(), self.shared.outgoing.clone());
        let (n, events) = self
            .shared
            .on_core(move |core| {
                let sealed = files::seal(&path, mime.as_deref())?;
                // The bytes come first: a message never waits for what is not here.
                outgoing.keep(&sealed)?;
                core.say_file(&id, sealed.body, now_ms())
            })
            .await?;
        self.done(conv_id, events).await;
        Ok(n)
    }

    /// Waits until the relay has the attachment of a message of the outbox, or it has failed, or waits for something. What
    /// progress it makes is told by [`Event::File`].
    ///
    /// # Errors
    /// [`Error::State`](crate::Error::State).
    pub async fn handed_in(&self, local: i64) -> Result<()> {
        let mut events = self.events();
        while self.shared.on_core(move |core| core.is_uploading(local)).await? {
            match events.recv().await {
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(Error::Closed),
            }
        }
        Ok(())
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
