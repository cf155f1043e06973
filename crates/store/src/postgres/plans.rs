//! The plans of the statements that read events, on a young table: the server has no statistics of it, and a plan that
//! it makes then stays for as long as the session.

use std::sync::Arc;

use relay_proto::lease::{LeaseLimits, LeaseRow};
use relay_testkit::Postgres;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::{PostgresOptions, PostgresStore, sql};
use crate::{CommitObserver, Committed, Order, SystemClock, WriteStats};

#[derive(Debug)]
struct Deaf;

impl CommitObserver for Deaf {
    fn committed(&self, _: &[Committed]) {}
    fn leases_changed(&self, _: &[LeaseRow]) {}
    fn wrote(&self, _: WriteStats) {}
}

/// Values of the statement; which they are is nothing to a plan that is made for all.
const VALUES: usize = 17;

/// Each statement looks once for events of a kind and once for events of an author and a kind: the former is what the
/// index of kinds is for, and the latter must not walk over everybody's.
#[tokio::test]
async fn an_authors_events_are_not_looked_for_among_everybodys() {
    let database = Postgres::shared().database();
    let lease_limits = LeaseLimits::default();
    let options = PostgresOptions { url: database.url(), new_log_id: 7, readers: 2, lease_limits };
    let store = PostgresStore::open(options, Arc::new(SystemClock), Arc::new(Deaf)).await.unwrap();
    store.close().await;
    let (client, connection) = tokio_postgres::connect(&database.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let young = "ALTER TABLE events SET (autovacuum_enabled = false);
                 SET plan_cache_mode = force_generic_plan";
    client.batch_execute(young).await.unwrap();
    for rows in [0, 5_000] {
        let fill = format!(
            "INSERT INTO events (seq, id_prefix, created_at_ns, received_at_ns, ns, author, kind,
                 superseded, id, tags, json)
             SELECT n, n, n, n, 1, n % 100, 1, false, sha256(n::text::bytea), '{{}}', '{{}}'
             FROM generate_series(1, {rows}) n"
        );
        client.batch_execute(&fill).await.unwrap();
        for order in [Order::Seq, Order::SeqDescending, Order::Time, Order::TimeDescending] {
            let prepare = format!("PREPARE page AS {}", sql::page(order));
            client.batch_execute(&prepare).await.unwrap();
            let values = ["NULL"; VALUES].join(", ");
            let explained = client.simple_query(&format!("EXPLAIN EXECUTE page ({values})")).await;
            let lines: Vec<String> = explained
                .unwrap()
                .into_iter()
                .filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })
                .collect();
            let uses = |index: &str| lines.iter().filter(|line| line.contains(index)).count();
            let plan = lines.join("\n");
            assert!(uses("events_by_author") >= 1, "{rows} rows, {order:?}:\n{plan}");
            assert_eq!(uses("events_by_kind"), 1, "{rows} rows, {order:?}:\n{plan}");
            client.batch_execute("DEALLOCATE page").await.unwrap();
        }
    }
}
