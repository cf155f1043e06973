//! The social layer's way to the writer.

use super::SqliteStore;
use crate::{
    error::Result,
    social::{SocialDone, SocialOp, apply},
    sql::{SqliteSql, now},
};

impl SqliteStore {
    pub(crate) async fn social_write(&self, op: SocialOp) -> Result<SocialDone> {
        self.write(move |conn| now(apply(&SqliteSql(conn), op))).await
    }
}
