//! The event log's verbs on PostgreSQL.

use deadpool_postgres::Object;
use relay_proto::{
    EventId, Namespace,
    event::Event,
    lease::{LeaseAnswer, LeaseOp, LeaseRefusal},
};
use tokio_postgres::Row;

use super::{PostgresStore, leases, log::bytes32, query, retention};
use crate::{
    batch::Coordinate,
    error::{Result, StoreError},
    event::{Appended, EventQuery, FoundEvent, NamespaceInfo, Page, Retention, StoredEvent},
    lease::{HistoryQuery, HistoryRow},
    writer::AppendReply,
};

/// Events deleted in one transaction.
const DELETE_SLICE: usize = 500;

impl PostgresStore {
    pub(crate) async fn append(
        &self,
        events: Vec<Event>,
        received_at_ns: u64,
    ) -> Result<Vec<Appended>> {
        self.writer.append(events, received_at_ns).await
    }

    pub(crate) fn submit(&self, events: Vec<Event>, received_at_ns: u64, reply: AppendReply) {
        self.writer.submit(events, received_at_ns, reply);
    }

    pub(crate) async fn lease(&self, op: LeaseOp) -> Result<Result<LeaseAnswer, LeaseRefusal>> {
        self.writer.lease(op).await
    }

    pub(crate) fn committed_seq(&self) -> u64 {
        self.writer.committed_seq()
    }

    pub(crate) async fn page(&self, asked: EventQuery) -> Result<Page> {
        // What was committed before the question is seen by it, deleted or not.
        let committed = self.committed_seq();
        let mut page = query::page(&self.client().await?, &self.shared.names, &asked).await?;
        if page.next.is_none() {
            page.through_seq = page.through_seq.max(committed);
        }
        Ok(page)
    }

    pub(crate) async fn count(&self, asked: EventQuery) -> Result<u64> {
        query::count(&self.client().await?, &self.shared.names, &asked).await
    }

    pub(crate) async fn find(&self, ids: Vec<EventId>) -> Result<Vec<Option<FoundEvent>>> {
        let client = self.client().await?;
        let (prefixes, bytes) = id_columns(&ids);
        let statement = client
            .prepare_cached(
                "SELECT wanted.at, e.seq, e.created_at_ns, e.json, n.name
                 FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY AS wanted (prefix, id, at)
                 JOIN events e ON e.id_prefix = wanted.prefix AND e.id = wanted.id
                 JOIN namespaces n ON n.n = e.ns",
            )
            .await?;
        let mut found: Vec<Option<FoundEvent>> = vec![None; ids.len()];
        for row in client.query(&statement, &[&prefixes, &bytes]).await? {
            let at = (row.get::<_, i64>(0) as usize).wrapping_sub(1);
            if let (Some(place), Some(&id)) = (found.get_mut(at), ids.get(at)) {
                *place = Some(found_event(&row, id)?);
            }
        }
        Ok(found)
    }

    pub(crate) async fn latest(&self, coordinate: Coordinate) -> Result<Option<FoundEvent>> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT 0::bigint, e.seq, e.created_at_ns, e.json, n.name, e.id FROM heads h
                 JOIN namespaces n ON n.n = h.ns
                 JOIN authors a ON a.n = h.author
                 JOIN events e ON e.seq = h.seq
                 WHERE a.pubkey = $1 AND h.kind = $2 AND h.d = $3 AND n.name = $4",
            )
            .await?;
        let row = client
            .query_opt(
                &statement,
                &[
                    &&coordinate.author.as_bytes()[..],
                    &i32::from(coordinate.kind),
                    &coordinate.d.as_bytes(),
                    &coordinate.namespace.as_str(),
                ],
            )
            .await?;
        row.map(|row| found_event(&row, EventId::from_bytes(bytes32(&row, 5)?))).transpose()
    }

    pub(crate) async fn namespaces(&self) -> Result<Vec<NamespaceInfo>> {
        let client = self.client().await?;
        let sql = "SELECT name, events, bytes, pruned_through_seq FROM namespaces";
        let statement = client.prepare_cached(sql).await?;
        let info = |row: &Row| {
            let name: &str = row.get(0);
            Ok(NamespaceInfo {
                name: name.parse().map_err(|_| StoreError::Corrupt(name.into()))?,
                events: row.get::<_, i64>(1) as u64,
                bytes: row.get::<_, i64>(2) as u64,
                pruned_through_seq: row.get::<_, i64>(3) as u64,
            })
        };
        client.query(&statement, &[]).await?.iter().map(info).collect()
    }

    pub(crate) async fn sweep_expired(&self, now_s: u64) -> Result<usize> {
        retention::sweep_expired(&mut self.client().await?, now_s, DELETE_SLICE).await
    }

    pub(crate) async fn prune(&self, ns: Namespace, policy: Retention) -> Result<usize> {
        retention::prune(&mut self.client().await?, &ns, &policy, DELETE_SLICE).await
    }

    pub(crate) async fn prune_lock_history(&self, ns: Namespace, before_ns: u64) -> Result<usize> {
        leases::prune_history(&**self.client().await?, &ns, before_ns, DELETE_SLICE).await
    }

    pub(crate) async fn lock_history(&self, asked: HistoryQuery) -> Result<Vec<HistoryRow>> {
        leases::history(&**self.client().await?, &asked).await
    }
}

/// The `seq` of each event that is stored.
pub(super) async fn seqs_of(client: &Object, ids: &[EventId]) -> Result<Vec<Option<i64>>> {
    let (prefixes, bytes) = id_columns(ids);
    let statement = client
        .prepare_cached(
            "SELECT wanted.at, e.seq
             FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY AS wanted (prefix, id, at)
             JOIN events e ON e.id_prefix = wanted.prefix AND e.id = wanted.id",
        )
        .await?;
    let mut seqs = vec![None; ids.len()];
    for row in client.query(&statement, &[&prefixes, &bytes]).await? {
        if let Some(place) = seqs.get_mut((row.get::<_, i64>(0) as usize).wrapping_sub(1)) {
            *place = Some(row.get(1));
        }
    }
    Ok(seqs)
}

fn id_columns(ids: &[EventId]) -> (Vec<i64>, Vec<&[u8]>) {
    ids.iter().map(|id| (id.prefix(), &id.as_bytes()[..])).unzip()
}

/// Columns 1 to 4: `seq`, time, JSON, namespace.
fn found_event(row: &Row, id: EventId) -> Result<FoundEvent> {
    let name: &str = row.get(4);
    Ok(FoundEvent {
        id,
        namespace: name.parse().map_err(|_| StoreError::Corrupt(name.into()))?,
        event: StoredEvent {
            seq: row.get::<_, i64>(1) as u64,
            created_at_ns: row.get::<_, i64>(2) as u64,
            json: bytes::Bytes::copy_from_slice(row.get(3)),
        },
    })
}
