//! The event log's verbs on the embedded store.

use relay_proto::{
    EventId, Namespace,
    event::Event,
    lease::{LeaseAnswer, LeaseOp, LeaseRefusal},
};

use super::{SqliteStore, index::View, leases, log, query, retention};
use crate::{
    batch::Coordinate,
    error::{Result, StoreError},
    event::{Appended, EventQuery, FoundEvent, NamespaceInfo, Page, Retention, StoredEvent},
    lease::{HistoryQuery, HistoryRow},
    writer::AppendReply,
};

/// Events deleted in one transaction.
const DELETE_SLICE: usize = 500;

impl SqliteStore {
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
        let mut page = self.read_recent(move |conn, view| query::page(conn, view, &asked)).await?;
        if page.next.is_none() {
            page.through_seq = page.through_seq.max(committed);
        }
        Ok(page)
    }

    pub(crate) async fn count(&self, asked: EventQuery) -> Result<u64> {
        self.read_recent(move |conn, view| query::count(conn, view, &asked)).await
    }

    pub(crate) async fn find(&self, ids: Vec<EventId>) -> Result<Vec<Option<FoundEvent>>> {
        self.read_recent(move |conn, view| ids.iter().map(|id| find(conn, view, id)).collect())
            .await
    }

    pub(crate) async fn latest(&self, coordinate: Coordinate) -> Result<Option<FoundEvent>> {
        self.read_recent(move |conn, view| {
            let head: Option<Vec<u8>> = {
                use rusqlite::{OptionalExtension, params};
                conn.prepare_cached(
                    "SELECT heads.id FROM heads
                     JOIN namespaces ON namespaces.n = heads.ns
                     JOIN authors ON authors.n = heads.author
                     WHERE pubkey = ?1 AND kind = ?2 AND d = ?3 AND name = ?4",
                )?
                .query_row(
                    params![
                        coordinate.author.as_bytes(),
                        coordinate.kind,
                        coordinate.d,
                        coordinate.namespace.as_str()
                    ],
                    |row| row.get(0),
                )
                .optional()?
            };
            let Some(id) = head.and_then(|id| <[u8; 32]>::try_from(id).ok()) else {
                return Ok(None);
            };
            find(conn, view, &EventId::from_bytes(id))
        })
        .await
    }

    pub(crate) async fn namespaces(&self) -> Result<Vec<NamespaceInfo>> {
        self.read(|conn| {
            conn.prepare_cached("SELECT name, events, bytes, pruned_through_seq FROM namespaces")?
                .query_map([], |row| {
                    Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })?
                .map(|row| {
                    let (name, events, bytes, pruned): (String, i64, i64, i64) = row?;
                    Ok(NamespaceInfo {
                        name: name.parse().map_err(|_| StoreError::Corrupt(name))?,
                        events: events as u64,
                        bytes: bytes as u64,
                        pruned_through_seq: pruned as u64,
                    })
                })
                .collect()
        })
        .await
    }

    pub(crate) async fn sweep_expired(&self, now_s: u64) -> Result<usize> {
        let recent = self.shared.recent.clone();
        self.write(move |conn| retention::sweep_expired(conn, &recent, now_s, DELETE_SLICE)).await
    }

    pub(crate) async fn prune(&self, ns: Namespace, policy: Retention) -> Result<usize> {
        let recent = self.shared.recent.clone();
        self.write(move |conn| retention::prune(conn, &recent, &ns, &policy, DELETE_SLICE)).await
    }

    pub(crate) async fn prune_lock_history(&self, ns: Namespace, before_ns: u64) -> Result<usize> {
        self.write(move |conn| leases::prune_history(conn, &ns, before_ns, DELETE_SLICE)).await
    }

    pub(crate) async fn lock_history(&self, asked: HistoryQuery) -> Result<Vec<HistoryRow>> {
        self.read(move |conn| leases::history(conn, &asked)).await
    }
}

fn find(conn: &rusqlite::Connection, view: &View, id: &EventId) -> Result<Option<FoundEvent>> {
    let Some(seq) = log::FindId::prepare(conn)?.find(view.seqs_of_id(id.prefix()), id)? else {
        return Ok(None);
    };
    let Some(event) = log::load(conn, seq)? else { return Ok(None) };
    Ok(Some(FoundEvent {
        id: *id,
        namespace: event.namespace().clone(),
        event: StoredEvent {
            seq,
            created_at_ns: event.created_at_ns(),
            json: event.json().clone(),
        },
    }))
}
