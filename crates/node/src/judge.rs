//! The moderation service: posts, descriptions and avatars that wait are shown to it, and its verdicts are carried
//! out. A request is a webhook as of Standard Webhooks (id, time, HMAC-SHA256 over both and the body).
//!
//! The queue is the store's, so nothing is lost by a stop; after one, what still waits is asked about again. What
//! the service gives no verdict on waits for a person.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::{Bytes, BytesMut};
use hmac::{Hmac, Mac};
use relay_proto::{
    Problem,
    polycentric::{Body, ModerationTag},
};
use relay_store::{ModerationState, StoreError, Waiting};
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::{egress, node::Node};

/// Events of one request.
const BATCH: usize = 20;
/// Longest answer.
const MAX_ANSWER: usize = 256 << 10;
/// Tags of one verdict.
const MAX_TAGS: usize = 32;
/// Longest name of a tag.
const MAX_TAG: usize = 64;
/// Time for one answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pauses after failures.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How often the queue is looked at although nobody says that it grew.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// What a secret begins with.
const SECRET_PREFIX: &str = "whsec_";
const MIN_SECRET: usize = 24;

/// The service that is asked.
#[derive(Debug)]
pub(crate) struct Judge {
    url: Url,
    /// Keyed with the secret.
    mac: Hmac<Sha256>,
    client: reqwest::Client,
}

/// Why a request brought no verdicts.
#[derive(Debug, thiserror::Error)]
enum JudgeError {
    #[error("the service cannot be reached: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the service answered {0}")]
    Status(reqwest::StatusCode),
    #[error("the answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
    #[error("the answer holds no verdicts: {0}")]
    Verdicts(#[from] serde_json::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Refused(#[from] Problem),
}

#[derive(Debug, Deserialize)]
struct Verdicts {
    items: Vec<Verdict>,
}

#[derive(Debug, Deserialize)]
struct Verdict {
    seq: u64,
    approve: bool,
    #[serde(default)]
    tags: Vec<(String, u32)>,
}

impl Judge {
    /// `secret` is `whsec_` and base64 of at least 24 bytes.
    pub fn new(url: &str, secret: &str, private: bool) -> Result<Self, String> {
        let mac = secret
            .strip_prefix(SECRET_PREFIX)
            .and_then(|text| STANDARD.decode(text).ok().map(Zeroizing::new))
            .filter(|bytes| bytes.len() >= MIN_SECRET)
            .and_then(|bytes| Hmac::new_from_slice(&bytes).ok())
            .ok_or_else(|| {
                format!("the secret is '{SECRET_PREFIX}' and at least {MIN_SECRET} bytes in base64")
            })?;
        Ok(Self {
            url: egress::check_url(url, private)?,
            mac,
            client: egress::client(private, PATIENCE).map_err(|error| error.to_string())?,
        })
    }

    /// Asks about events. The same events have the same id each time, so that the service knows a repetition.
    async fn ask(&self, now_s: u64, waiting: &[Waiting]) -> Result<Vec<Verdict>, JudgeError> {
        let items: Vec<Value> = waiting.iter().map(item).collect::<Result<_, _>>()?;
        let seq = |waiting: Option<&Waiting>| waiting.map_or(0, |waiting| waiting.event.seq);
        let id = format!("social-{}-{}", seq(waiting.first()), seq(waiting.last()));
        let body = json!({ "type": "social.moderate", "data": { "items": items } }).to_string();
        let response = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", now_s)
            .header("webhook-signature", self.signature(&id, now_s, &body))
            .body(body)
            .send()
            .await?;
        if !response.status().is_success() {
            return Err(JudgeError::Status(response.status()));
        }
        let answer = read(response).await?;
        if answer.is_empty() {
            return Ok(Vec::new());
        }
        let verdicts: Verdicts = serde_json::from_slice(&answer)?;
        let asked: BTreeSet<u64> = waiting.iter().map(|waiting| waiting.event.seq).collect();
        // The service judges what it was asked about, and that within bounds.
        let is_good = |verdict: &Verdict| {
            asked.contains(&verdict.seq)
                && verdict.tags.len() <= MAX_TAGS
                && verdict.tags.iter().all(|(name, _)| name.len() <= MAX_TAG)
        };
        Ok(verdicts.items.into_iter().filter(is_good).collect())
    }

    fn signature(&self, id: &str, now_s: u64, body: &str) -> String {
        let mut mac = self.mac.clone();
        mac.update(format!("{id}.{now_s}.").as_bytes());
        mac.update(body.as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

fn item(waiting: &Waiting) -> Result<Value, StoreError> {
    let event = waiting.event.parse()?;
    let text = match event.body() {
        Body::Text(text) => Some(text.as_str()),
        _ => None,
    };
    Ok(json!({
        "seq": waiting.event.seq,
        "system": event.system().to_string(),
        "process": URL_SAFE_NO_PAD.encode(event.process().as_bytes()),
        "clock": event.clock(),
        "content_type": event.content_type(),
        "text": text,
    }))
}

async fn read(mut response: reqwest::Response) -> Result<Bytes, JudgeError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(JudgeError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Runs until the node stops.
pub(crate) async fn run(node: Weak<Node>, judge: Judge, stop: CancellationToken) {
    let Some(social) = node.upgrade().map(|node| node.social.clone()) else { return };
    let (mut after, mut pause) = (0, FIRST_PAUSE);
    loop {
        let Some(node) = node.upgrade() else { return };
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = round(&node, &judge, after) => outcome,
        };
        drop(node);
        let (wait, listening) = match outcome {
            Ok(Some(through)) => {
                (after, pause) = (through, FIRST_PAUSE);
                continue;
            }
            Ok(None) => {
                pause = FIRST_PAUSE;
                (LOOK_EVERY, true)
            }
            Err(error) => {
                social.stats().judge_failed.fetch_add(1, Relaxed);
                tracing::warn!(%error, "the moderation service gave no verdict; it is asked again in {pause:?}");
                let wait = pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
                (wait, false)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            () = social.queue_grew(), if listening => {}
        }
    }
}

/// Asks about the next events of the queue; gives the last of them, `None` where there are none.
async fn round(node: &Arc<Node>, judge: &Judge, after: u64) -> Result<Option<u64>, JudgeError> {
    let waiting = node.social.waiting(after, BATCH).await?;
    let Some(last) = waiting.last().map(|waiting| waiting.event.seq) else { return Ok(None) };
    let now_s = node.clock.wall_ns() / 1_000_000_000;
    for verdict in judge.ask(now_s, &waiting).await? {
        let state =
            if verdict.approve { ModerationState::Approved } else { ModerationState::Hidden };
        let tags =
            verdict.tags.into_iter().map(|(name, level)| ModerationTag { name, level }).collect();
        match node.social.moderate(verdict.seq, state, tags).await {
            Ok(()) => drop(node.social.stats().judged.fetch_add(1, Relaxed)),
            // Its author deleted it meanwhile.
            Err(problem) if problem.code == relay_proto::Code::NotFound => {}
            Err(problem) => return Err(problem.into()),
        }
    }
    Ok(Some(last))
}
