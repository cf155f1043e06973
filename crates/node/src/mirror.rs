//! Following identities on other servers of Polycentric: what they hold and this relay lacks is fetched by ranges.
//!
//! One task goes from one followed identity to the next, round after round. Whatever comes is checked like any upload.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use prost::Message;
use relay_proto::polycentric::{
    ProcessId, Ranges, RangesForProcess, RangesForSystem, SystemKey, decode_message, encode_param,
};
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// Clocks of one request; other servers' clients ask for as many.
const CHUNK: u64 = 20;
/// Longest answer of another server.
const MAX_ANSWER: usize = 32 << 20;
/// Time for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests of one identity in one round, so that the others get their turn.
const MAX_REQUESTS: usize = 500;

/// How far one followed identity is.
#[derive(Debug, Clone)]
pub struct Mirror {
    pub system: SystemKey,
    /// Base URL of the server.
    pub server: String,
    /// Clocks held or deleted here.
    pub held: u64,
    /// Clocks that the server has.
    pub there: u64,
    /// Clocks that the server has and this relay still lacks.
    pub missing: u64,
    /// Unix milliseconds; 0 before the first round.
    pub checked_at_ms: u64,
    /// Why the last round broke off.
    pub error: Option<String>,
}

/// Everything that is followed.
#[derive(Debug, Default)]
pub struct Mirrors(Mutex<Vec<Mirror>>);

/// Why an identity could not be fetched.
#[derive(Debug, thiserror::Error)]
enum MirrorError {
    #[error("the server cannot be reached: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the server answered {0}")]
    Status(reqwest::StatusCode),
    #[error("the answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
    #[error("the answer cannot be used: {0}")]
    Wire(#[from] relay_proto::polycentric::WireError),
    #[error("{0}")]
    Refused(#[from] relay_proto::Problem),
}

impl Mirrors {
    pub(crate) fn of(follow: &[(SystemKey, String)]) -> Self {
        let all = follow.iter().map(|(system, server)| Mirror {
            system: *system,
            server: server.clone(),
            held: 0,
            there: 0,
            missing: 0,
            checked_at_ms: 0,
            error: None,
        });
        Self(Mutex::new(all.collect()))
    }

    /// How far each of them is.
    pub fn state(&self) -> Vec<Mirror> {
        self.lock().clone()
    }

    fn note(&self, at: usize, change: impl FnOnce(&mut Mirror)) {
        if let Some(mirror) = self.lock().get_mut(at) {
            change(mirror);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Mirror>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until the node stops.
pub(crate) async fn run(node: Weak<Node>, every: Duration, stop: CancellationToken) {
    let client = reqwest::Client::builder()
        .user_agent(concat!("relay/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PATIENCE)
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "identities on other servers cannot be followed");
            return;
        }
    };
    loop {
        let Some(node) = node.upgrade() else { return };
        for at in 0..node.mirrors.state().len() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = round(&node, &client, at) => {}
            }
        }
        drop(node);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

async fn round(node: &Arc<Node>, client: &reqwest::Client, at: usize) {
    let Some(mirror) = node.mirrors.state().get(at).cloned() else { return };
    let outcome = fetch(node, client, at, &mirror).await;
    let now_ms = node.clock.wall_ns() / 1_000_000;
    if let Err(error) = &outcome {
        tracing::warn!(system = %mirror.system, server = mirror.server, %error, "mirroring broke off");
    }
    node.mirrors.note(at, |mirror| {
        mirror.checked_at_ms = now_ms;
        mirror.error = outcome.err().map(|error| error.to_string());
    });
}

async fn fetch(
    node: &Arc<Node>,
    client: &reqwest::Client,
    at: usize,
    mirror: &Mirror,
) -> Result<(), MirrorError> {
    let system = encode_param(&mirror.system.to_message().encode_to_vec());
    let answer = get(client, &format!("{}/ranges?system={system}", mirror.server)).await?;
    let there = by_process(&decode_message(answer)?)?;
    let mut left = MAX_REQUESTS;
    for (process, ranges) in &there {
        let missing = ranges.without(&held_of(node, mirror.system, *process).await?);
        for chunk in missing.chunks(CHUNK).into_iter().take(left) {
            left -= 1;
            let wanted = RangesForSystem {
                ranges_for_processes: vec![RangesForProcess {
                    process: Some(process.to_message()),
                    ranges: chunk.to_wire(),
                }],
            };
            let ranges = encode_param(&wanted.encode_to_vec());
            let url = format!("{}/events?system={system}&ranges={ranges}", mirror.server);
            node.social.mirror(get(client, &url).await?).await?;
        }
    }
    let (mut held, mut have, mut missing) = (0, 0, 0);
    for (process, ranges) in &there {
        let ours = held_of(node, mirror.system, *process).await?;
        held += ours.count();
        have += ranges.count();
        missing += ranges.without(&ours).count();
    }
    node.mirrors.note(at, |mirror| {
        (mirror.held, mirror.there, mirror.missing) = (held, have, missing);
    });
    Ok(())
}

async fn held_of(
    node: &Node,
    system: SystemKey,
    process: ProcessId,
) -> Result<Ranges, MirrorError> {
    let held = by_process(&node.social.ranges(system).await?)?;
    let ours = held.into_iter().find(|(known, _)| *known == process);
    Ok(ours.map(|(_, ranges)| ranges).unwrap_or_default())
}

fn by_process(all: &RangesForSystem) -> Result<Vec<(ProcessId, Ranges)>, MirrorError> {
    all.ranges_for_processes
        .iter()
        .map(|of| {
            let process = ProcessId::required(of.process.as_ref())?;
            Ok((process, Ranges::from_wire(&of.ranges)?))
        })
        .collect()
}

async fn get(client: &reqwest::Client, url: &str) -> Result<Bytes, MirrorError> {
    let mut response = client.get(url).send().await?;
    if !response.status().is_success() {
        return Err(MirrorError::Status(response.status()));
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(MirrorError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
