//! What is done when the way to a hub opens or breaks: its key is pinned, the directory learns where it is, and
//! people are told, in one line when a link comes, one when it is lost and one when it is back (`cli.md` 3.2).

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use relay_fed::{Directory, DirectoryEntry, Federation, link::Role, links::Status};
use relay_proto::RelayId;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::pins::Pins;

/// How long a home relay's line waits for the hub to take its registration.
const REGISTRATION: Duration = Duration::from_secs(1);
/// How long nothing may change before the line is taken to tell all services.
const SETTLED: Duration = Duration::from_millis(400);

/// What following a link needs of the node.
#[derive(Clone)]
pub(super) struct Follower {
    pub federation: Federation,
    pub role: Role,
    pub pins: Arc<Pins>,
    pub directory: Arc<Mutex<Directory>>,
}

impl Follower {
    /// Follows one way into the federation until `stop`.
    pub async fn run(self, mut status: watch::Receiver<Status>, stop: CancellationToken) {
        let mut story = Story::default();
        let mut live = None;
        loop {
            let now = status.borrow_and_update().clone();
            self.pin(&now).await;
            self.keep_directory(&now, &mut live);
            if let Some(news) = story.next(&now, Instant::now()) {
                stop.run_until_cancelled(self.tell(&news)).await;
            }
            if !matches!(stop.run_until_cancelled(status.changed()).await, Some(Ok(()))) {
                break;
            }
        }
        self.keep_directory(&Status::default(), &mut live);
    }

    /// Keeps the key of a hub that was dialled for the first time.
    async fn pin(&self, status: &Status) {
        if let (Some(url), Some(key)) = (&status.url, status.key)
            && let Err(error) = self.pins.bind_url(url, key).await
        {
            tracing::warn!(%error, url, "the key of a hub cannot be kept");
        }
    }

    fn keep_directory(&self, status: &Status, live: &mut Option<RelayId>) {
        let mut directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = live.take() {
            directory.remove_live(&before);
        }
        if let (Some(relay), Some(url), Some(key)) = (&status.relay, &status.url, status.key) {
            directory.set_live(DirectoryEntry {
                gateway_id: relay.clone(),
                gateway_url: web_url(url),
                node_id: key,
                // Until the link ends.
                expires_at: u64::MAX,
            });
            *live = Some(relay.clone());
        }
    }

    async fn tell(&self, news: &News) {
        match news {
            News::Failing { .. } | News::Lost { .. } => tracing::warn!("{news}"),
            News::Linked { .. } | News::Back { .. } | News::Moved { .. } => {
                let facts = self.facts().await;
                tracing::info!("{news}{facts}");
            }
        }
    }

    /// What a home relay's line says beside: how far the hub is, and what it was told of.
    async fn facts(&self) -> String {
        if self.role == Role::Main {
            return String::new();
        }
        let mut changes = self.federation.changes();
        let attached = async {
            while !self.federation.status().is_attached && changes.changed().await.is_ok() {}
            // Services start beside the link: where nothing changes for a while, all are there.
            while let Ok(Ok(())) = tokio::time::timeout(SETTLED, changes.changed()).await {}
        };
        // Without: the refusal has a line of its own.
        let _ = tokio::time::timeout(REGISTRATION, attached).await;
        let status = self.federation.status();
        let rtt = status.link.and_then(|link| link.rtt_us);
        let rtt = rtt.map(|us| format!(" (rtt {})", millis(Duration::from_micros(us))));
        let names = self.federation.offered();
        let services = match names.as_slice() {
            [] => "no service public".to_owned(),
            [one] => format!("1 service public: {one}"),
            several => {
                let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
                format!("{} services public: {}", several.len(), names.join(", "))
            }
        };
        format!("{}, {services}", rtt.unwrap_or_default())
    }
}

/// The address of a hub's web door, from that of its links.
fn web_url(link: &str) -> String {
    let (scheme, rest) = link.split_once("://").unwrap_or(("wss", link));
    let host = rest.split('/').next().unwrap_or_default();
    let scheme = if scheme == "ws" { "http" } else { "https" };
    format!("{scheme}://{host}")
}

fn millis(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1_000.0;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// What a person is told.
#[derive(Debug, PartialEq)]
enum News {
    Linked {
        hub: RelayId,
        took: Duration,
    },
    /// Not linked yet, for a reason that was not told before.
    Failing {
        why: String,
        reason: &'static str,
    },
    Lost {
        hub: RelayId,
        why: String,
    },
    Back {
        hub: RelayId,
        after: Duration,
    },
    /// Another hub is used now.
    Moved {
        hub: RelayId,
        before: RelayId,
        why: String,
    },
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linked { hub, took } => write!(f, "linked to {hub} in {}", millis(*took)),
            Self::Failing { why, reason } => write!(f, "no link to {why} ({reason}); trying again"),
            Self::Lost { hub, why } => write!(f, "link to {hub} lost: {why}; dialling again"),
            Self::Back { hub, after } => {
                write!(f, "linked to {hub} again after {:.1} s", after.as_secs_f64())
            }
            Self::Moved { hub, before, why } => {
                write!(f, "linked to {hub} in place of {before}: {why}")
            }
        }
    }
}

/// Makes few lines of many changes.
#[derive(Debug, Default)]
struct Story {
    /// The hub in use, or the one that was.
    hub: Option<RelayId>,
    /// Since when there is none.
    lost: Option<Instant>,
    reconnects: u64,
    /// The failure that was told.
    failing: Option<&'static str>,
}

impl Story {
    fn next(&mut self, status: &Status, now: Instant) -> Option<News> {
        let why = || status.last_error.clone().unwrap_or_else(|| "it was left".to_owned());
        let Some(hub) = status.relay.clone() else {
            if let (Some(hub), None) = (&self.hub, self.lost) {
                self.lost = Some(now);
                self.failing = status.last_reason;
                return Some(News::Lost { hub: hub.clone(), why: why() });
            }
            let reason = status.last_reason?;
            // While a hub is away every dial fails in one of these ways, which is no news.
            let expected = self.lost.is_some()
                && matches!(reason, "connect" | "timeout" | "upgrade" | "io" | "closed");
            if expected || self.failing == Some(reason) {
                return None;
            }
            self.failing = Some(reason);
            return Some(News::Failing { why: why(), reason });
        };
        let again = std::mem::replace(&mut self.reconnects, status.reconnects) != status.reconnects;
        self.failing = None;
        let (before, lost) = (self.hub.replace(hub.clone()), self.lost.take());
        match (before, lost) {
            (None, _) => {
                let took = Duration::from_millis(status.dialled_in_ms.unwrap_or_default());
                Some(News::Linked { hub, took })
            }
            (Some(before), _) if before != hub => Some(News::Moved { hub, before, why: why() }),
            (Some(_), Some(lost)) => Some(News::Back { hub, after: now - lost }),
            (Some(_), None) => again.then_some(News::Back { hub, after: Duration::ZERO }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(
        relay: Option<&str>,
        reconnects: u64,
        failure: Option<(&str, &'static str)>,
    ) -> Status {
        Status {
            relay: relay.map(|relay| relay.parse().unwrap()),
            dialled_in_ms: Some(84),
            reconnects,
            last_error: failure.map(|(why, _)| why.to_owned()),
            last_reason: failure.map(|(_, reason)| reason),
            ..Status::default()
        }
    }

    #[test]
    fn one_line_when_lost_and_one_when_back() {
        let mut story = Story::default();
        let start = Instant::now();
        let mut told = |ms: u64, status: Status| {
            let news = story.next(&status, start + Duration::from_millis(ms));
            news.map(|news| news.to_string()).unwrap_or_default()
        };
        assert_eq!(told(0, status(None, 0, None)), "");
        let refused = Some(("ws://a/federate: refused", "connect"));
        let line = "no link to ws://a/federate: refused (connect); trying again";
        assert_eq!(told(1, status(None, 0, refused)), line);
        assert_eq!(told(2, status(None, 0, refused)), "");
        assert_eq!(told(3, status(Some("hub-a"), 0, refused)), "linked to hub-a in 84 ms");
        assert_eq!(told(4, status(Some("hub-a"), 0, refused)), "");
        let silent = Some(("nothing was heard", "silent"));
        let line = "link to hub-a lost: nothing was heard; dialling again";
        assert_eq!(told(1_000, status(None, 0, silent)), line);
        assert_eq!(told(1_500, status(None, 0, refused)), "");
        let denied = Some(("ws://a/federate: denied", "denied"));
        let line = "no link to ws://a/federate: denied (denied); trying again";
        assert_eq!(told(2_000, status(None, 0, denied)), line);
        assert_eq!(
            told(4_200, status(Some("hub-a"), 1, denied)),
            "linked to hub-a again after 3.2 s"
        );
        let line = "linked to hub-b in place of hub-a: nothing was heard";
        assert_eq!(told(5_000, status(Some("hub-b"), 2, silent)), line);
        // Lost and made anew between two looks.
        assert_eq!(
            told(6_000, status(Some("hub-b"), 3, silent)),
            "linked to hub-b again after 0.0 s"
        );
    }

    #[test]
    fn the_web_door_is_where_the_links_door_is() {
        assert_eq!(web_url("wss://hub.example.com/federate"), "https://hub.example.com");
        assert_eq!(web_url("ws://127.0.0.1:8080/ws/peers"), "http://127.0.0.1:8080");
    }
}
