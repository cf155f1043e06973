//! The loads, one file each. A scenario starts fresh servers, loads them, and returns rows.

pub mod big;
pub mod chat;
pub mod events;
pub mod fanout;
pub mod idle;
pub mod links;
pub mod locks;
pub mod mls;
pub mod queries;
pub mod social;
pub mod start;
pub mod subs;

use std::time::Duration;

use crate::{
    load::{Plan, RelaySigner},
    server::Servers,
};

/// What all scenarios go by.
#[derive(Debug, Clone)]
pub struct Run {
    pub servers: Servers,
    /// How long a case lasts at most.
    pub limit: Duration,
    /// How many events are signed ahead for a case.
    pub events: usize,
    pub authors: usize,
    /// Events per second of the open loop.
    pub rate: u32,
    /// Events stored for [`big`].
    pub big_events: usize,
    /// Also load the programs that Relay is compared with.
    pub peers: bool,
    /// Only cases whose name holds this.
    pub only: Option<String>,
}

impl Run {
    /// A signer for a fresh set of events.
    pub fn signer(&self) -> RelaySigner {
        RelaySigner::new(Plan { authors: self.authors, ..Plan::usual() })
    }

    /// Whether the case called `name` is wanted. `x` finds `×`, and spaces do not matter.
    pub fn wants(&self, name: &str) -> bool {
        let plain = |text: &str| text.replace('×', "x").replace(' ', "").to_lowercase();
        self.only.as_ref().is_none_or(|only| plain(name).contains(&plain(only)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Publishing: sockets in closed and open loop, batches over HTTP.
    Events,
    /// One publisher, many subscribers: deliveries per second, and their delay.
    Fanout,
    /// The latest 100 by author and kind, out of 200 000.
    Queries,
    /// Acquire and release: own keys, one client, one contended key.
    Locks,
    /// Memory of idle subscribed connections.
    Idle,
    /// What thousands of subscriptions that do not match cost publishing.
    Subs,
    /// From the start of the process to `/readyz`.
    Start,
    /// Social events: uploads, feeds, references with counts, unchanged answers.
    Social,
    /// First pages by every documented filter over millions of events.
    Big,
    /// Calls through a small federation: spoke, hub, hub, spoke.
    Links,
    /// The chat gateway: sends, a room of 1000, idle sockets, catching up, through an edge relay.
    Chat,
    /// The member side of the chat: groups of 50 to 1000, a full profile on the screen, a message and its echo.
    Mls,
}

impl Scenario {
    pub fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Fanout => "fanout",
            Self::Queries => "queries",
            Self::Locks => "locks",
            Self::Idle => "idle",
            Self::Subs => "subs",
            Self::Start => "start",
            Self::Social => "social",
            Self::Big => "big",
            Self::Links => "links",
            Self::Chat => "chat",
            Self::Mls => "mls",
        }
    }

    /// Runs all cases that `run` wants.
    pub async fn rows(self, run: &Run) -> anyhow::Result<Vec<crate::report::Row>> {
        match self {
            Self::Events => events::rows(run).await,
            Self::Fanout => fanout::rows(run).await,
            Self::Queries => queries::rows(run).await,
            Self::Locks => locks::rows(run).await,
            Self::Idle => idle::rows(run).await,
            Self::Subs => subs::rows(run).await,
            Self::Start => start::rows(run).await,
            Self::Social => social::rows(run).await,
            Self::Big => big::rows(run).await,
            Self::Links => links::rows(run).await,
            Self::Chat => chat::rows(run).await,
            Self::Mls => mls::rows(run).await,
        }
    }
}
