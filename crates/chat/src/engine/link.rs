//! One connection from the first request to its end.

mod asking;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use relay_client::{Client, Error as RelayError, FrameSocket, ReceivedFrame, Request};
use relay_proto::{Code, NodeId, Problem, conv::LogEntry};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::asking::{Answered, Outcome, request};
use super::{PresenceWish, Queue, Shared, Wish, now_ms, requests};
use crate::{
    core::{Applied, CommitAnswer, InboxEntry, Refused, Step},
    error::{Error, Result},
    views::{Connection, Event},
};

/// Acknowledgements are told together.
const ACK_EVERY: Duration = Duration::from_millis(500);
/// A request on the socket that is not answered in this time breaks the connection.
const ANSWER: Duration = Duration::from_secs(20);
/// When a presence lease is renewed.
const LEASE_EVERY: Duration = Duration::from_secs(60);
/// How often revoked devices are looked for, beside every new connection.
const HEED_EVERY: Duration = Duration::from_secs(3_600);
/// Requests over HTTP that are under way at once.
const MAX_REQUESTS: usize = 16;
/// How often a gap in the log is followed up before the connection is given up.
const MAX_GAPS: u32 = 5;

/// A connection in use.
pub(super) struct Link {
    shared: Arc<Shared>,
    client: Client,
    socket: FrameSocket,
    /// Conversations that may have something to send.
    queue: Queue,
    /// What is under way on the socket, by the frame's id.
    asked: HashMap<String, (Asked, Instant)>,
    /// Requests under way over HTTP, each for its conversation.
    requests: JoinSet<Answered>,
    /// Conversations with something under way.
    busy: Queue,
    /// When to look at a conversation again.
    timers: BTreeMap<(u64, String), ()>,
    /// Acknowledgements to be told.
    acks: BTreeMap<String, u64>,
    inbox_ack: Option<u64>,
    appear: Option<bool>,
    gaps: u32,
    last_id: u64,
    /// The message whose attachment is being handed in.
    uploading: Option<i64>,
    /// Conversations whose attachments wait for that one.
    held: Queue,
}

/// What a frame asked for.
enum Asked {
    Subscribe { conv_id: String },
    Commit { conv_id: String, msg_id: String },
    Send { conv_id: String, n: i64 },
    Ping(Instant),
    Other,
}

/// Starts a session and follows everything.
pub(super) async fn connect(shared: &Arc<Shared>, resume: &mut Option<String>) -> Result<Link> {
    let builder = || Client::builder(&shared.url).map(|builder| builder.timeout(shared.timeout));
    let by_key = builder()?.key(shared.signer.clone()).build()?;
    let session = match resume.take() {
        Some(token) => match by_key.resume(&token).await {
            Ok(session) => session,
            Err(error) if error.code() == Some(Code::ResumeFailed) => {
                login(shared, &by_key).await?
            }
            Err(error) => {
                // The token may not have been used up.
                *resume = Some(token);
                return Err(error.into());
            }
        },
        None => login(shared, &by_key).await?,
    };
    *resume = Some(session.resume_token.clone());
    let client =
        builder()?.token(session.session_token.clone()).signer(shared.signer.clone()).build()?;
    if let Some(relay_id) = &session.relay_id {
        note_relay(shared, relay_id).await?;
    }
    upload_key_packages(shared, &client, session.key_packages_left).await?;
    let socket = client.frames().await?;
    shared.set_session(Some(client.clone()));
    let mut link = Link {
        shared: shared.clone(),
        client,
        socket,
        queue: Queue::new(),
        asked: HashMap::new(),
        requests: JoinSet::new(),
        busy: Queue::new(),
        timers: BTreeMap::new(),
        acks: BTreeMap::new(),
        inbox_ack: None,
        appear: None,
        gaps: 0,
        last_id: 0,
        uploading: None,
        held: Queue::new(),
    };
    link.follow_everything().await?;
    Ok(link)
}

async fn login(
    shared: &Shared,
    client: &Client,
) -> std::result::Result<relay_client::session::Session, RelayError> {
    client.login(&shared.core.device().device_id(), Some(&shared.label)).await
}

/// Remembers what the relay calls itself: new conversations have it as their home.
async fn note_relay(shared: &Arc<Shared>, relay_id: &str) -> Result<()> {
    let before = shared.relay_id.send_replace(Some(relay_id.to_owned()));
    if before.as_deref() == Some(relay_id) {
        return Ok(());
    }
    if let Some(before) = before {
        let text =
            format!("the relay at {} called itself {before}, and now {relay_id}", shared.url);
        shared.tell(vec![Event::Note { text }]);
    }
    let relay_id = relay_id.to_owned();
    shared
        .on_core(move |core| {
            core.store()
                .write(crate::store::Durability::Soon, |tx| tx.set_meta("relay id", &relay_id))
        })
        .await
}

async fn upload_key_packages(shared: &Arc<Shared>, client: &Client, left: u64) -> Result<()> {
    let Some(upload) = shared.on_core(move |core| core.key_packages(left, now_ms())).await? else {
        return Ok(());
    };
    let mut body = json!({
        "device_id": shared.core.device().device_id(), "profile": "relay-mls/1",
        "key_packages": upload.packages,
    });
    if let Some(last_resort) = upload.last_resort {
        body["last_resort"] = last_resort.into();
    }
    let answer: Value = client.call(Request::post("/v1/keypackages", &body)).await?;
    if !answer["refused"].is_null() || !answer["last_resort_refused"].is_null() {
        tracing::warn!(%answer, "the relay refuses key packages of this device");
    }
    Ok(())
}

impl Link {
    async fn follow_everything(&mut self) -> Result<()> {
        // What waits in the inbox comes first, so that its conversations are followed with the others.
        let inbox = loop {
            let next = self.shared.on_core(|core| core.inbox_next()).await?;
            let entries = requests::inbox(&self.client, next).await?;
            if entries.is_empty() {
                break next;
            }
            for entry in entries {
                self.inbox_ack = Some(entry.seq);
                let events = self.shared.on_core(move |core| core.inbox(&entry, now_ms())).await?;
                self.shared.tell(events);
            }
        };
        self.shared.on_core(|core| core.connected()).await?;
        let rows = self.shared.on_core(|core| core.followed()).await?;
        self.ask("inbox.subscribe", Asked::Other, &json!({ "from_seq": inbox })).await?;
        for (conv_id, next_seq, followed) in rows {
            if followed {
                self.subscribe(&conv_id, next_seq).await?;
            }
            self.queue.insert(conv_id);
        }
        self.keep_vault();
        self.heed_revocations();
        self.ask("ping", Asked::Ping(Instant::now()), &json!({})).await
    }

    async fn subscribe(&mut self, conv_id: &str, from_seq: u64) -> Result<()> {
        let body = json!({ "conv_id": conv_id, "from_seq": from_seq, "notify": true });
        self.ask("conv.subscribe", Asked::Subscribe { conv_id: conv_id.to_owned() }, &body).await
    }

    async fn ask(&mut self, t: &str, asked: Asked, body: &Value) -> Result<()> {
        self.last_id += 1;
        let id = self.last_id.to_string();
        self.socket.send(t, Some(&id), body).await?;
        if !matches!(asked, Asked::Other) {
            self.asked.insert(id, (asked, Instant::now() + ANSWER));
        }
        Ok(())
    }

    /// Serves until the connection ends or the task is stopped.
    pub(super) async fn serve(
        mut self,
        wishes: &mut mpsc::Receiver<Wish>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let mut acks_due = Instant::now() + ACK_EVERY;
        let mut lease_due = Instant::now();
        let mut heed_due = Instant::now() + HEED_EVERY;
        loop {
            self.work().await?;
            let wake = self.next_wake(acks_due.min(lease_due).min(heed_due));
            tokio::select! {
                () = stop.cancelled() => return self.farewell().await,
                frame = self.socket.next() => self.frame(frame?).await?,
                Some(answered) = self.requests.join_next() => {
                    if let Ok(answered) = answered { self.answered(answered).await? }
                }
                wish = wishes.recv() => match wish {
                    Some(wish) => self.wish(wish).await?,
                    None => return self.farewell().await,
                },
                () = sleep_until(wake) => {}
            }
            let now = Instant::now();
            if now >= acks_due {
                self.tell_acks().await?;
                acks_due = now + ACK_EVERY;
            }
            if now >= lease_due {
                self.renew_lease();
                lease_due = now + LEASE_EVERY;
            }
            if now >= heed_due {
                self.heed_revocations();
                heed_due = now + HEED_EVERY;
            }
            if self.asked.values().any(|(_, until)| *until < now) {
                return Err(
                    RelayError::Timeout { url: self.shared.url.clone(), after: ANSWER }.into()
                );
            }
        }
    }

    fn next_wake(&self, at_latest: Instant) -> Instant {
        let timer = self.timers.keys().next().map(|(at_ms, _)| {
            Instant::now() + Duration::from_millis(at_ms.saturating_sub(now_ms()).max(1))
        });
        timer.map_or(at_latest, |timer| timer.min(at_latest))
    }

    async fn farewell(mut self) -> Result<()> {
        self.tell_acks().await?;
        self.requests.shutdown().await;
        Ok(())
    }

    async fn tell_acks(&mut self) -> Result<()> {
        for (conv_id, seq) in std::mem::take(&mut self.acks) {
            self.ask("conv.ack", Asked::Other, &json!({ "conv_id": conv_id, "seq": seq })).await?;
        }
        if let Some(seq) = self.inbox_ack.take() {
            self.ask("inbox.ack", Asked::Other, &json!({ "seq": seq })).await?;
        }
        Ok(())
    }

    // === what came ===

    async fn frame(&mut self, frame: ReceivedFrame) -> Result<()> {
        match frame.t.as_str() {
            "conv.event" => self.event(frame.read(&self.shared.url)?).await,
            "inbox.event" => self.inbox(frame.read(&self.shared.url)?).await,
            "presence.update" => self.presence(&frame),
            "conv.acked" | "conv.subscribed" | "pong" => self.answer(&frame).await,
            "error" => self.error(&frame).await,
            _ => Ok(()),
        }
    }

    async fn event(&mut self, entry: LogEntry) -> Result<()> {
        let (conv_id, seq) = (entry.conv_id.as_str().to_owned(), entry.seq);
        let applied = self.shared.on_core(move |core| core.apply(&entry, now_ms())).await?;
        match applied {
            Applied::Stored(events) => {
                self.gaps = 0;
                self.acks.insert(conv_id.clone(), seq);
                self.shared.tell(events);
            }
            Applied::Ignored(events) => self.shared.tell(events),
            Applied::Gap { expected } => {
                self.gaps += 1;
                if self.gaps > MAX_GAPS {
                    let why = crate::error::Hostile::Gap { expected, got: seq };
                    return Err(why.into());
                }
                self.subscribe(&conv_id, expected).await?;
            }
        }
        self.queue.insert(conv_id);
        Ok(())
    }

    async fn inbox(&mut self, entry: InboxEntry) -> Result<()> {
        let (seq, conv_id) = (entry.seq, entry.conv_id.clone());
        let refill = entry.kind == "key_packages_low";
        let welcome = entry.kind == "welcome";
        let events = self.shared.on_core(move |core| core.inbox(&entry, now_ms())).await?;
        self.inbox_ack = Some(seq);
        let joined =
            welcome && events.iter().any(|event| matches!(event, Event::Conversation { .. }));
        self.shared.tell(events);
        if refill {
            let left = requests::pool(&self.client).await?;
            let own = self.shared.core.device().device_id();
            let left = left.into_iter().find(|(device, _)| *device == own).map_or(0, |(_, n)| n);
            upload_key_packages(&self.shared, &self.client, left).await?;
        }
        if joined {
            self.follow(conv_id).await?;
            self.keep_vault();
        }
        Ok(())
    }

    async fn follow(&mut self, conv_id: String) -> Result<()> {
        let wanted = conv_id.clone();
        let rows = self.shared.on_core(move |core| core.followed()).await?;
        if let Some((_, next_seq, true)) = rows.into_iter().find(|(id, ..)| *id == wanted) {
            self.subscribe(&conv_id, next_seq).await?;
        }
        self.queue.insert(conv_id);
        Ok(())
    }

    fn presence(&self, frame: &ReceivedFrame) -> Result<()> {
        #[derive(Deserialize)]
        struct Update {
            user_id: NodeId,
            status: String,
            #[serde(default)]
            last_seen_bucket: String,
        }
        let update: Update = frame.read(&self.shared.url)?;
        let mut known =
            self.shared.presence.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.insert(update.user_id, update.status.clone());
        drop(known);
        self.shared.tell(vec![Event::Presence {
            user_id: update.user_id,
            status: update.status,
            last_seen: update.last_seen_bucket,
        }]);
        Ok(())
    }

    /// The answer to a frame that asked for something.
    async fn answer(&mut self, frame: &ReceivedFrame) -> Result<()> {
        let Some((asked, _)) = frame.id.as_deref().and_then(|id| self.asked.remove(id)) else {
            return Ok(());
        };
        match asked {
            Asked::Ping(sent) => {
                let rtt_ms = sent.elapsed().as_millis() as u64;
                self.shared.set_connection(Connection::Online { rtt_ms });
            }
            Asked::Commit { conv_id, msg_id } => {
                self.commit_answered(conv_id, msg_id, CommitAnswer::Acked).await?;
            }
            Asked::Send { conv_id, n } => {
                let events = self.shared.on_core(move |core| core.sent(n)).await?;
                self.finish(&conv_id, events);
            }
            Asked::Subscribe { .. } | Asked::Other => {}
        }
        self.look_whether_caught_up();
        Ok(())
    }

    fn look_whether_caught_up(&self) {
        let behind = |(asked, _): &(Asked, Instant)| {
            matches!(asked, Asked::Subscribe { .. } | Asked::Ping(_))
        };
        if !self.asked.values().any(behind) {
            self.shared.caught_up.send_if_modified(|caught_up| !std::mem::replace(caught_up, true));
        }
    }

    async fn commit_answered(
        &mut self,
        conv_id: String,
        msg_id: String,
        answer: CommitAnswer,
    ) -> Result<()> {
        let id = conv_id.clone();
        let events = self
            .shared
            .on_core(move |core| core.commit_answered(&id, &msg_id, &answer, now_ms()))
            .await?;
        self.finish(&conv_id, events);
        Ok(())
    }

    fn finish(&mut self, conv_id: &str, events: Vec<Event>) {
        if self.busy.remove(conv_id) {
            self.queue.insert(conv_id.to_owned());
        }
        self.shared.tell(events);
    }

    async fn error(&mut self, frame: &ReceivedFrame) -> Result<()> {
        let why = requests::of_frame(&frame.body);
        let asked = frame.id.as_deref().and_then(|id| self.asked.remove(id));
        match asked.map(|(asked, _)| asked) {
            Some(Asked::Commit { conv_id, msg_id }) => {
                self.commit_answered(conv_id, msg_id, CommitAnswer::Refused(why)).await
            }
            Some(Asked::Send { conv_id, n }) => {
                let events =
                    self.shared.on_core(move |core| core.refused(n, &why, now_ms())).await?;
                self.finish(&conv_id, events);
                Ok(())
            }
            Some(Asked::Subscribe { conv_id }) => self.unfollowed(conv_id, why, &frame.body).await,
            Some(_) => Ok(()),
            None => self.unasked(frame, why).await,
        }
    }

    /// A subscription cannot be, or is over.
    async fn unfollowed(&mut self, conv_id: String, why: Refused, body: &str) -> Result<()> {
        let members: Value = serde_json::from_str(body).unwrap_or_default();
        let id = conv_id.clone();
        let events = match why.code {
            Code::Forbidden => self.shared.on_core(move |core| core.shut_out(&id)).await?,
            Code::ReplayWindowExceeded => {
                let earliest = members["earliest_seq"].as_u64().unwrap_or(0);
                self.shared.on_core(move |core| core.pruned(&id, earliest, now_ms())).await?
            }
            _ => return Err(problem(why)),
        };
        self.finish(&conv_id, events);
        self.look_whether_caught_up();
        Ok(())
    }

    async fn unasked(&mut self, frame: &ReceivedFrame, why: Refused) -> Result<()> {
        let members: Value = serde_json::from_str(&frame.body).unwrap_or_default();
        if let Some(conv_id) = members["conv_id"].as_str() {
            return self.unfollowed(conv_id.to_owned(), why, &frame.body).await;
        }
        match why.code {
            Code::Unauthorized | Code::SlowConsumer => Err(problem(why)),
            _ => Ok(()),
        }
    }

    // === what is to be sent ===

    async fn work(&mut self) -> Result<()> {
        let now = now_ms();
        while let Some(((at_ms, conv_id), ())) = self.timers.pop_first() {
            if at_ms > now {
                self.timers.insert((at_ms, conv_id), ());
                break;
            }
            self.queue.insert(conv_id);
        }
        while self.requests.len() < MAX_REQUESTS {
            let Some(conv_id) = self.queue.pop_first() else { break };
            if self.busy.contains(&conv_id) {
                continue;
            }
            let id = conv_id.clone();
            let look = self.shared.on_core(move |core| core.next_step(&id, now_ms())).await?;
            if look.changed {
                self.shared.tell(vec![Event::Conversation { conv_id: conv_id.clone() }]);
            }
            for n in look.uploads {
                self.upload(&conv_id, n);
            }
            if let Some(step) = look.step {
                self.take(conv_id, step).await?;
            }
        }
        Ok(())
    }

    async fn take(&mut self, conv_id: String, step: Step) -> Result<()> {
        if let Step::Wait { until_ms } = step {
            self.timers.retain(|(_, other), ()| *other != conv_id);
            self.timers.insert((until_ms, conv_id), ());
            return Ok(());
        }
        self.busy.insert(conv_id.clone());
        match step {
            Step::Commit { msg_id, body } => {
                let body: Value = serde_json::from_str(&body)?;
                self.ask("conv.commit", Asked::Commit { conv_id, msg_id }, &body).await?;
            }
            Step::Send { n, body } => {
                self.ask("conv.send", Asked::Send { conv_id, n }, &body).await?;
            }
            other => {
                let client = self.client.clone();
                let own = self.shared.core.device().device_id();
                let me = self.shared.core.me();
                self.requests.spawn(async move {
                    let outcome = request(&client, &conv_id, other, me, &own).await;
                    Answered { conv_id, outcome }
                });
            }
        }
        Ok(())
    }

    async fn answered(&mut self, answered: Answered) -> Result<()> {
        let Answered { conv_id, outcome } = answered;
        let created = matches!(outcome, Outcome::Created(_));
        let events = match outcome {
            Outcome::Broken(error) => return Err(error.into()),
            Outcome::Nothing => Vec::new(),
            Outcome::Wake(convs) => {
                self.queue.extend(convs);
                Vec::new()
            }
            Outcome::Created(n) => self.shared.on_core(move |core| core.created(n)).await?,
            Outcome::Packages(n, user, devices) => {
                self.shared.on_core(move |core| core.fetched(n, user, devices)).await?
            }
            Outcome::GroupInfo(n, epoch, sealed) => {
                self.shared
                    .on_core(move |core| core.group_info(n, epoch, &sealed, now_ms()))
                    .await?
            }
            Outcome::Left(n) => self.shared.on_core(move |core| core.left(n)).await?,
            Outcome::Asked(n, members) => {
                self.shared.on_core(move |core| core.rejoin_asked(n, members, now_ms())).await?
            }
            Outcome::Uploaded { conv_id, n, done } => self.uploaded(conv_id, n, done).await?,
            Outcome::Failed(error) => return Err(error),
            Outcome::Refused(n, why) => {
                self.shared.on_core(move |core| core.refused(n, &why, now_ms())).await?
            }
        };
        self.finish(&conv_id, events);
        if created {
            self.follow(conv_id).await?;
            self.keep_vault();
        }
        Ok(())
    }

    async fn wish(&mut self, wish: Wish) -> Result<()> {
        match wish {
            Wish::Work(conv_id) => {
                self.queue.insert(conv_id);
            }
            Wish::Follow(conv_id) => self.follow(conv_id).await?,
            Wish::Connect => {}
            Wish::Presence(PresenceWish::Watch(users)) => {
                self.ask("presence.watch", Asked::Other, &json!({ "contacts": users })).await?;
            }
            Wish::Presence(PresenceWish::Appear { online, invisible }) => {
                self.appear = online.then_some(invisible);
                self.renew_lease();
            }
        }
        Ok(())
    }
}

fn problem(why: Refused) -> Error {
    let problem = Problem { code: why.code, message: why.message, extra: serde_json::Map::new() };
    Error::Relay(RelayError::Refused { problem: Box::new(problem), request_id: None })
}
