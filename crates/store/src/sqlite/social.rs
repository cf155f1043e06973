//! The social layer's way to the writer.

use super::SqliteStore;
use crate::{
    error::Result,
    social::{SocialDone, SocialOp, apply},
    sql::{GroupSql, now},
};

impl SqliteStore {
    pub(crate) async fn social_write(&self, op: SocialOp) -> Result<SocialDone> {
        self.write_and_put_off(move |conn, put_off| now(apply(&GroupSql::new(conn, put_off), op)))
            .await
    }
}
