//! nostr-rs-relay: the same plan of events, in the form of NIP-01.
//!
//! It commits to SQLite with `synchronous=NORMAL`, so unlike Relay it answers before the disk has
//! the event.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use memchr::memmem;
use nix::sys::signal::Signal;
use relay_proto::key::write_hex;
use secp256k1::{Keypair, SECP256K1};
use sha2::{Digest, Sha256};

use crate::{
    http,
    load::{Frames, Plan, generate, write_content},
    publish::{Answer, Dialect, Pace, Publisher},
    relay::contains,
    report::Row,
    scenario::{
        Run,
        events::{CLOSED, measure},
    },
    server::{Process, Target, free_address},
    ws::{self, Socket},
};

/// It stores about a tenth of what Relay does; more events would never be sent.
const SHARE_OF_EVENTS: usize = 4;

/// The closed loops of the scenario `events`.
pub async fn rows(run: &Run) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (connections, window) in CLOSED {
        let case = format!("sockets {connections} × {window}");
        if !run.wants(&case) {
            continue;
        }
        let target = start(run).await?;
        let signer = Signer::new(Plan { authors: run.authors, ..Plan::usual() });
        let events = run.events / SHARE_OF_EVENTS;
        let mut publishers = Vec::new();
        for lane in 0..connections {
            let bound = |lane| events * lane / connections;
            let frames = signer.frames(bound(lane)..bound(lane + 1));
            publishers.push(Publisher {
                socket: Socket::connect(target.addr, "/").await?,
                dialect: Arc::new(NostrDialect::of(&frames)),
                frames,
                next: 0,
            });
        }
        let pace = Pace::InFlight(window);
        let (_, row) = measure(run, &target, case, &mut publishers, pace).await?;
        confirm(&mut publishers).await?;
        rows.push(row);
    }
    Ok(rows)
}

async fn start(run: &Run) -> anyhow::Result<Target> {
    let dir = run.servers.directory("nostr")?;
    let addr = free_address()?;
    let config = dir.path().join("config.toml");
    std::fs::write(
        &config,
        format!(
            "[info]\nrelay_url = \"ws://{addr}/\"\n[database]\ndata_directory = {:?}\n\
             [network]\naddress = \"127.0.0.1\"\nport = {}\n",
            dir.path(),
            addr.port()
        ),
    )?;
    let mut command = Command::new(binary()?);
    command.arg("--config").arg(config).env("RUST_LOG", "error");
    let mut process = Process::start(command, dir.path().join("log"), Signal::SIGTERM)?;
    process.wait_until(async || http::once(addr, &http::get("/")).await.is_ok()).await?;
    Ok(Target::of("nostr-rs-relay", addr, process, dir))
}

/// Where tools/install-peers.sh puts it.
fn binary() -> anyhow::Result<PathBuf> {
    let peers = match std::env::var_os("RELAY_PEERS") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME")?).join(".cache/relay-peers"),
    };
    let path = peers.join("bin/nostr-rs-relay");
    ensure!(path.exists(), "{} is missing: run tools/install-peers.sh", path.display());
    Ok(path)
}

/// Asks for some of the events that were answered with `OK`.
async fn confirm(publishers: &mut [Publisher]) -> anyhow::Result<()> {
    const SAMPLE: usize = 20;
    for publisher in publishers {
        let step = (publisher.next / SAMPLE).max(1);
        let ids: Vec<_> = (0..publisher.next)
            .step_by(step)
            .filter_map(|frame| event_id(publisher.frames.slice(frame..frame + 1)))
            .map(|id| format!("\"{}\"", String::from_utf8_lossy(id)))
            .collect();
        let request = format!(r#"["REQ","check",{{"ids":[{}]}}]"#, ids.join(","));
        publisher.socket.send(&ws::frame(&request)).await?;
        let mut found = 0;
        publisher
            .socket
            .receive_until(|answer| {
                found += usize::from(answer.starts_with(b"[\"EVENT\""));
                answer.starts_with(b"[\"EOSE\"").then_some(())
            })
            .await?;
        ensure!(found == ids.len(), "{found} of {} acknowledged events are stored", ids.len());
    }
    Ok(())
}

/// Reads `["OK", id, true, …]`.
#[derive(Debug)]
struct NostrDialect {
    /// From the first half of an id, as hex digits, to its frame.
    frames: HashMap<[u8; 32], usize>,
}

impl NostrDialect {
    fn of(frames: &Frames) -> Self {
        let ids = (0..frames.len()).filter_map(|frame| {
            let id = event_id(frames.slice(frame..frame + 1))?;
            Some((id.get(..32)?.try_into().ok()?, frame))
        });
        Self { frames: ids.collect() }
    }
}

impl Dialect for NostrDialect {
    fn read(&self, answer: &[u8]) -> Answer {
        const OK: &[u8] = b"[\"OK\",\"";
        let Some(rest) = answer.strip_prefix(OK) else { return Answer::Other };
        let id = rest.get(..32).and_then(|half| <[u8; 32]>::try_from(half).ok());
        match id.and_then(|id| self.frames.get(&id)) {
            Some(&frame) if contains(rest, b",true,") => Answer::Stored(frame),
            Some(_) => Answer::Refused,
            None => Answer::Other,
        }
    }
}

fn event_id(frame: &[u8]) -> Option<&[u8]> {
    let at = memmem::find(frame, b"{\"id\":\"")? + 7;
    frame.get(at..at + 64)
}

struct Signer {
    plan: Plan,
    /// The time of all events: NIP-01 counts seconds.
    created_at: u64,
    authors: Vec<(Keypair, String)>,
}

impl Signer {
    fn new(plan: Plan) -> Self {
        let author = |index| {
            // One in 2^128 seeds is no key; then the next one serves.
            let key = (0..).find_map(|turn| {
                let secret = plan.secret("author", index + turn * plan.authors);
                Keypair::from_seckey_byte_array(SECP256K1, secret).ok()
            })?;
            let name = key.x_only_public_key().0.to_string();
            Some((key, name))
        };
        let authors = (0..plan.authors).filter_map(author).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { plan, created_at: now.as_secs(), authors }
    }

    fn frames(&self, indexes: std::ops::Range<usize>) -> Frames {
        generate(indexes, |index, out| {
            ws::encode(out, |out| {
                out.extend_from_slice(b"[\"EVENT\",");
                self.write_event(index, out);
                out.push(b']');
            });
        })
    }

    fn write_event(&self, index: usize, out: &mut Vec<u8>) {
        // Names, quotes, id (64), key (64), time (10), sig (128).
        const ENVELOPE: usize = 339;
        let (key, name) = &self.authors[self.plan.author_of(index)];
        let (time, kind) = (self.created_at, self.plan.kind_of(index));
        let peer = &self.authors[self.plan.peer_of(index)].1;
        let tags = format!(r#"[["t","topic-{}"],["p","{peer}"]]"#, self.plan.topic_of(index));
        let kind_digits = kind.to_string().len();
        let room = self.plan.event_bytes.saturating_sub(ENVELOPE + kind_digits + tags.len());
        let mut content = Vec::with_capacity(room);
        write_content(index, room, &mut content);

        let mut canonical = format!(r#"[0,"{name}",{time},{kind},{tags},""#).into_bytes();
        canonical.extend_from_slice(&content);
        canonical.extend_from_slice(b"\"]");
        let id = Sha256::digest(&canonical);
        let sig = SECP256K1.sign_schnorr_no_aux_rand(&id, key);

        out.extend_from_slice(b"{\"id\":\"");
        write_hex(&id, out);
        out.extend_from_slice(
            format!(
                r#"","pubkey":"{name}","created_at":{time},"kind":{kind},"tags":{tags},"content":""#
            )
            .as_bytes(),
        );
        out.extend_from_slice(&content);
        out.extend_from_slice(b"\",\"sig\":\"");
        write_hex(&sig.to_byte_array(), out);
        out.extend_from_slice(b"\"}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_size_of_ours_and_answers_find_their_frame() {
        let signer = Signer::new(Plan { authors: 3, ..Plan::usual() });
        let mut json = Vec::new();
        signer.write_event(7, &mut json);
        assert_eq!(json.len(), signer.plan.event_bytes);
        assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());

        let frames = signer.frames(0..5);
        let dialect = NostrDialect::of(&frames);
        let id = String::from_utf8(event_id(frames.slice(3..4)).unwrap().to_vec()).unwrap();
        let read = |text: String| dialect.read(text.as_bytes());
        assert_eq!(read(format!(r#"["OK","{id}",true,""]"#)), Answer::Stored(3));
        assert_eq!(read(format!(r#"["OK","{id}",false,"blocked"]"#)), Answer::Refused);
        assert_eq!(read(r#"["NOTICE","hi"]"#.to_owned()), Answer::Other);
    }
}
