//! Statements of one transaction, collected and then sent without waiting for answers in between.

use futures_util::{FutureExt, future::LocalBoxFuture, future::join_all};
use tokio_postgres::{
    Client, Error, Statement,
    types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked},
};

/// A statement with its values.
pub(super) struct Queued {
    pub statement: Statement,
    pub values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl std::fmt::Debug for Queued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queued").finish_non_exhaustive()
    }
}

/// Sends `before`, the statements and `after` in one go. The first error is the cause, the others its echo.
///
/// The order of sending is the order of polling, which `join_all` keeps.
pub(super) async fn send(
    client: &Client,
    before: Option<LocalBoxFuture<'_, Result<(), Error>>>,
    queued: &[Queued],
    after: &str,
) -> Result<(), Error> {
    let mut sent: Vec<LocalBoxFuture<'_, Result<(), Error>>> = Vec::new();
    sent.extend(before);
    for statement in queued {
        sent.push(
            async move {
                let values: Vec<&(dyn ToSql + Sync)> =
                    statement.values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect();
                client.execute(&statement.statement, &values).await.map(drop)
            }
            .boxed_local(),
        );
    }
    sent.push(client.batch_execute(after).boxed_local());
    // Few enough that `join_all` polls them one after the other.
    debug_assert!(sent.len() <= 30);
    join_all(sent).await.into_iter().collect()
}

/// Bytes shared with the event, sent without a copy in between.
#[derive(Debug)]
pub(super) struct Blob(pub bytes::Bytes);

impl ToSql for Blob {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::BYTEA
    }

    to_sql_checked!();
}
