//! Publishing pre-encoded events over sockets, in closed and open loop.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;

use crate::{hist::Histogram, load::Frames, ws::Socket};

/// A server that answers nothing for so long has failed the run.
pub const SILENCE: Duration = Duration::from_secs(30);

/// What a frame of the server says about a published event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The event of this frame is stored.
    Stored(usize),
    Refused,
    /// Something else.
    Other,
}

/// How one kind of server answers; `None` in front of the index where the frame names no event.
pub trait Dialect: std::fmt::Debug + Send + Sync {
    /// Reads an answer. Frames are numbered as in the publisher's [`Frames`].
    fn read(&self, answer: &[u8]) -> Answer;
}

/// How events follow each other on one connection.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Closed loop: so many unanswered events at most, a new one for each answer.
    InFlight(usize),
    /// Open loop: event `i` is due at start + `i` × interval whether or not earlier ones are
    /// answered, and its latency counts from then: a stalled server cannot hide the stall.
    Every(Duration),
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    pub latency: Histogram,
    pub stored: u64,
    pub refused: u64,
    pub took: Duration,
}

/// One connection with the events it is to publish.
#[derive(Debug)]
pub struct Publisher {
    pub socket: Socket,
    pub frames: Frames,
    pub dialect: Arc<dyn Dialect>,
    /// The next frame to send.
    pub next: usize,
}

/// Lets all publishers run at once, each with `count` events (or what it has left) and for at
/// most `limit`. The time taken ends with the last answer.
pub async fn drive(
    publishers: &mut [Publisher],
    pace: Pace,
    count: usize,
    limit: Duration,
) -> anyhow::Result<Tally> {
    let start = Instant::now();
    let lanes = publishers.len() as u32;
    let runs = publishers.iter_mut().zip(0u32..).map(|(publisher, lane)| async move {
        let end = publisher.frames.len().min(publisher.next + count);
        let range = publisher.next..end;
        match pace {
            Pace::InFlight(window) => publisher.closed(range, window, start + limit).await,
            // Connections take turns, so that together they make an even stream.
            Pace::Every(interval) => {
                publisher.open(range, start + interval / lanes * lane, interval, limit).await
            }
        }
    });
    let mut all = Tally::default();
    for tally in try_join_all(runs).await? {
        all.latency.join(&tally.latency);
        all.stored += tally.stored;
        all.refused += tally.refused;
    }
    all.took = start.elapsed();
    Ok(all)
}

impl Publisher {
    async fn closed(
        &mut self,
        range: Range<usize>,
        window: usize,
        until: Instant,
    ) -> anyhow::Result<Tally> {
        let mut tally = Tally::default();
        let mut sent_at = vec![until; range.len()];
        let mut unanswered = 0;
        let mut room = window;
        loop {
            let now = Instant::now();
            if now < until && room > 0 {
                let upto = range.end.min(self.next + room);
                sent_at[self.next - range.start..upto - range.start].fill(now);
                unanswered += upto - self.next;
                self.socket.send(self.frames.slice(self.next..upto)).await?;
                self.next = upto;
            }
            if unanswered == 0 {
                return Ok(tally);
            }
            room = self.answers(&mut tally, |frame| sent_at[frame - range.start]).await?;
            ensure!(room <= unanswered, "more answers than events");
            unanswered -= room;
        }
    }

    async fn open(
        &mut self,
        range: Range<usize>,
        start: Instant,
        interval: Duration,
        limit: Duration,
    ) -> anyhow::Result<Tally> {
        let mut tally = Tally::default();
        let due = |frame: usize| start + interval * (frame - range.start) as u32;
        let fits = (limit.as_nanos() / interval.as_nanos().max(1)) as usize;
        let end = range.end.min(range.start + fits);
        let mut unanswered = 0;
        while self.next < end || unanswered > 0 {
            let now = Instant::now();
            let ready = (self.next..end).take_while(|&frame| due(frame) <= now).count();
            if ready > 0 {
                self.socket.send(self.frames.slice(self.next..self.next + ready)).await?;
                self.next += ready;
                unanswered += ready;
            }
            let pause = tokio::time::sleep_until(due(self.next).into());
            tokio::select! {
                got = self.answers(&mut tally, due), if unanswered > 0 => unanswered -= got?,
                () = pause, if self.next < end => {}
            }
        }
        Ok(tally)
    }

    /// Waits for answers and records each against the time that `since` gives for its frame.
    /// Safe to drop while waiting. Returns how many answers came.
    async fn answers(
        &mut self,
        tally: &mut Tally,
        since: impl Fn(usize) -> Instant,
    ) -> anyhow::Result<usize> {
        let mut got = 0;
        let mut now = None;
        let dialect = &self.dialect;
        let received = self.socket.receive(|frame| match dialect.read(frame) {
            Answer::Stored(index) => {
                let now = *now.get_or_insert_with(Instant::now);
                tally.latency.record(now.saturating_duration_since(since(index)));
                tally.stored += 1;
                got += 1;
            }
            Answer::Refused => {
                tally.refused += 1;
                got += 1;
            }
            Answer::Other => {}
        });
        tokio::time::timeout(SILENCE, received).await.context("the server stopped answering")??;
        Ok(got)
    }
}
