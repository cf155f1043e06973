//! What a node's links look like: from here, and from the hub's side.

use std::time::Duration;

use relay_client::{Client, Request};
use serde_json::Value;

use super::{Finding, Level};
use crate::times;

/// The link of a home relay up to its hub, as the relay itself tells it; `None` for a hub.
pub async fn link(client: &Client) -> Option<Finding> {
    const NAME: &str = "link";
    let status: Value = client.call(Request::get("/status")).await.ok()?;
    let uplink = status.get("uplink").filter(|uplink| uplink.is_object())?;
    if let (Some(hub), Some(_)) = (status["hub"].as_str(), status.get("link")) {
        return Some(Finding::ok(NAME, format!("linked to {hub}{}", rtt(&status["link"]))));
    }
    let why = ["refused", "last_error"].iter().find_map(|name| uplink[*name].as_str());
    let value =
        format!("no link to the hub{}", why.map(|why| format!(": {why}")).unwrap_or_default());
    let cure = "relay join   (with a fresh code of the hub: relay token create --for spoke)";
    Some(Finding::bad(NAME, Level::Fail, value, cure))
}

/// What a hub sees of the node that `client` talks to: whether it is linked, and what it offers.
pub async fn seen_from(hub: &Client, client: &Client) -> Finding {
    const NAME: &str = "from hub";
    let failed = |value: String, cure: &str| Finding::bad(NAME, Level::Fail, value, cure);
    let own: Value = match client.call(Request::get("/status")).await {
        Ok(status) => status,
        Err(error) => return failed(error.to_string(), "relay serve"),
    };
    let topology: Value = match hub.call(Request::get("/federation/topology")).await {
        Ok(topology) => topology,
        Err(error) => return failed(error.to_string(), "relay check relay --url HUB"),
    };
    let id = own["relay"].as_str().unwrap_or_default();
    let hub = topology["relay"].as_str().unwrap_or("the hub");
    let nodes = ["spokes", "hubs"].iter().filter_map(|kind| topology[*kind].as_array()).flatten();
    match nodes.into_iter().find(|node| node["id"] == id) {
        None => failed(format!("{hub} does not know {id}"), "relay join"),
        Some(node) if node["is_healthy"] == false => {
            failed(format!("{hub} has no live link to {id}"), "relay status")
        }
        Some(node) => {
            let count = node["services"].as_u64().unwrap_or(0);
            Finding::ok(NAME, format!("{hub} sees {id} and {count} of its services"))
        }
    }
}

fn rtt(link: &Value) -> String {
    let rtt = link["rtt_us"].as_u64().map(Duration::from_micros);
    rtt.map(|rtt| format!(" (rtt {})", times::human(rtt))).unwrap_or_default()
}

/// A socket that is left alone for `quiet` and then has to answer: proxies cut
/// what looks idle to them.
pub async fn idle_socket(client: &Client, quiet: Duration) -> Finding {
    const NAME: &str = "idle";
    match client.probe_idle(quiet).await {
        Ok(answered) => Finding::ok(
            NAME,
            format!(
                "a socket lives through {} of silence and answers in {}",
                times::human(quiet),
                times::human(answered)
            ),
        ),
        Err(error) => Finding::bad(
            NAME,
            Level::Fail,
            error.to_string(),
            "raise the proxy's idle time-out (nginx: proxy_read_timeout 120s)",
        ),
    }
}
