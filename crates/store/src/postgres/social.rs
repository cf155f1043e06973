//! The social layer's way to the writer.

use tokio::sync::oneshot;

use super::PostgresStore;
use crate::{
    error::{Result, StoreError},
    social::{SocialDone, SocialOp},
};

/// An operation on its way through the writer.
pub(super) struct SocialWrite {
    pub op: Option<SocialOp>,
    pub result: Option<Result<SocialDone>>,
    pub reply: oneshot::Sender<Result<SocialDone>>,
}

impl PostgresStore {
    pub(crate) async fn social_write(&self, op: SocialOp) -> Result<SocialDone> {
        let (reply, answer) = oneshot::channel();
        self.writer.domain(SocialWrite { op: Some(op), result: None, reply }).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}
