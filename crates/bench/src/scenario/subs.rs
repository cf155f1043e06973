//! Whether publishing pays for subscriptions that do not match.

use futures_util::future::try_join_all;
use serde_json::json;

use super::{Run, events};
use crate::{
    load::{Plan, RelaySigner},
    publish::Pace,
    relay::{self, SOCKET_PATH},
    report::Row,
    server::{Store, Target},
    ws::Socket,
};

const SUBSCRIPTIONS: usize = 10_000;
const CONNECTIONS: usize = 100;
/// Runs with and without, in turn, so that a drift of the machine meets both.
const ROUNDS: usize = 3;

pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let name = |subscriptions| format!("sockets 8 × 64, {subscriptions} subscriptions");
    if !run.wants(&name(SUBSCRIPTIONS)) {
        return Ok(rows);
    }
    for store in run.servers.stores() {
        let mut found = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (subscriptions, found) in [0, SUBSCRIPTIONS].into_iter().zip(&mut found) {
                found.push(publish(run, store, name(subscriptions), subscriptions).await?);
            }
        }
        let [without, with] = found.map(median);
        let slower = (1.0 - with.rate() / without.rate()) * 100.0;
        rows.push(without);
        rows.push(Row { value: Some(("% slower", slower)), ..with });
    }
    Ok(rows)
}

fn median(mut rows: Vec<Row>) -> Row {
    rows.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
    rows.swap_remove(rows.len() / 2)
}

async fn publish(
    run: &Run,
    store: Store,
    case: String,
    subscriptions: usize,
) -> anyhow::Result<Row> {
    let target = run.servers.relay(store).await?;
    let signer = run.signer();
    let mut publishers = relay::publishers(target.addr, &signer, 8, 0..run.events).await?;
    let _open = subscribe(&target, subscriptions).await?;
    let (_, row) = events::measure(run, &target, case, &mut publishers, Pace::InFlight(64)).await?;
    Ok(row)
}

/// Filters by author, each another one, none of whom publishes.
async fn subscribe(target: &Target, subscriptions: usize) -> anyhow::Result<Vec<Socket>> {
    let others = RelaySigner::new(Plan { authors: subscriptions, ..Plan::usual() });
    let others = &others;
    let opened = (0..CONNECTIONS.min(subscriptions)).map(|connection| async move {
        let mut socket = Socket::connect(target.addr, SOCKET_PATH).await?;
        for author in (connection..subscriptions).step_by(CONNECTIONS) {
            let filter = json!({"authors": [others.author(author)]});
            relay::subscribe(&mut socket, &format!("s{author}"), &filter).await?;
        }
        anyhow::Ok(socket)
    });
    try_join_all(opened).await
}
