//! Many events at once: NDJSON into a relay, several batches in flight, resumable.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream::FuturesOrdered};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use crate::{
    backoff::Backoff,
    client::Client,
    error::Error,
    events::{MAX_BATCH, MAX_BATCH_BYTES, PublishStatus, Published},
};

/// How to import.
#[derive(Debug, Clone, Copy)]
pub struct ImportOptions {
    /// Events in one request; at most [`MAX_BATCH`].
    pub batch: usize,
    /// Requests under way at once. With more than one, the relay may number a later batch first.
    pub in_flight: usize,
    /// Give up after this long without any success while the relay cannot be reached or asks to wait.
    pub patience: Duration,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { batch: MAX_BATCH, in_flight: 4, patience: Duration::from_secs(60) }
    }
}

/// What was done so far. Everything before `bytes` has been answered by the relay, so an import
/// that starts again there misses nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportProgress {
    /// Bytes of the input that are dealt with.
    pub bytes: u64,
    /// Lines of the input that are dealt with.
    pub lines: u64,
    /// New to the relay.
    pub stored: u64,
    /// Known to the relay already.
    pub duplicates: u64,
    /// Refused one by one; the others went on.
    pub refused: u64,
}

/// What the caller hears while an import runs.
pub trait ImportWatcher {
    /// A batch was answered. An error ends the import.
    ///
    /// # Errors
    /// Whatever keeps the caller from going on, such as a full disk under its own records.
    fn progress(&mut self, progress: &ImportProgress) -> io::Result<()>;
    /// The relay refused the event in this line (counted from 1 where the import began).
    fn refused(&mut self, line: u64, answer: &Published);
}

/// Reads events as NDJSON and publishes them in batches, the answers in the order of the input.
/// Batches that could not be delivered are sent again; that is harmless, for ids are idempotent.
///
/// # Errors
/// [`Error::Io`] of the input; the relay's refusal of a whole batch; a relay out of reach for
/// longer than the patience.
pub async fn import<R: AsyncBufRead + Unpin>(
    client: &Client,
    mut input: R,
    options: ImportOptions,
    watcher: &mut impl ImportWatcher,
) -> Result<ImportProgress, Error> {
    let mut progress = ImportProgress::default();
    let mut batches = Batches { lines: options.batch.clamp(1, MAX_BATCH), held: None };
    let mut under_way = FuturesOrdered::new();
    let mut more = true;
    while more || !under_way.is_empty() {
        while more && under_way.len() < options.in_flight.max(1) {
            match batches.read(&mut input).await.map_err(input_error)? {
                Some(batch) => under_way.push_back(send(client, batch, options.patience)),
                None => more = false,
            }
        }
        let Some(answer) = under_way.next().await else { break };
        let (batch, answers) = answer?;
        count(&mut progress, &batch, &answers, watcher);
        watcher
            .progress(&progress)
            .map_err(|source| Error::Io { what: "recording the progress".into(), source })?;
    }
    Ok(progress)
}

fn input_error(source: io::Error) -> Error {
    Error::Io { what: "reading the events".into(), source }
}

fn count(
    progress: &mut ImportProgress,
    batch: &Batch,
    answers: &[Published],
    watcher: &mut impl ImportWatcher,
) {
    for (line, answer) in batch.numbers.iter().zip(answers) {
        match answer.status {
            PublishStatus::Stored | PublishStatus::Relayed => progress.stored += 1,
            PublishStatus::Duplicate => progress.duplicates += 1,
            PublishStatus::Error => {
                progress.refused += 1;
                watcher.refused(progress.lines + line, answer);
            }
        }
    }
    progress.bytes += batch.taken;
    progress.lines += batch.lines_taken;
}

async fn send(
    client: &Client,
    batch: Batch,
    patience: Duration,
) -> Result<(Batch, Vec<Published>), Error> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let begun = tokio::time::Instant::now();
    loop {
        match client.publish_lines(batch.text.clone()).await {
            Ok(answers) if answers.len() == batch.numbers.len() => return Ok((batch, answers)),
            Ok(answers) => {
                let what = format!("{} answers to {} events", answers.len(), batch.numbers.len());
                return Err(client.protocol_error(what));
            }
            Err(error) if error.is_transient() && begun.elapsed() < patience => {
                let pause = backoff.next_wait();
                tokio::time::sleep(error.retry_after().map_or(pause, |asked| asked.max(pause)))
                    .await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// One request's worth of the input.
#[derive(Debug, Default)]
struct Batch {
    text: Bytes,
    /// For each event, its line, counted from 1 at the start of the batch.
    numbers: Vec<u64>,
    /// Bytes of input, empty lines included.
    taken: u64,
    lines_taken: u64,
}

struct Batches {
    lines: usize,
    /// A line that was read and did not fit any more.
    held: Option<Vec<u8>>,
}

impl Batches {
    async fn read<R: AsyncBufRead + Unpin>(&mut self, input: &mut R) -> io::Result<Option<Batch>> {
        let mut batch = Batch::default();
        let mut text = BytesMut::new();
        while batch.numbers.len() < self.lines {
            let line = match self.held.take() {
                Some(line) => line,
                None => {
                    let mut line = Vec::new();
                    if input.read_until(b'\n', &mut line).await? == 0 {
                        break;
                    }
                    line
                }
            };
            if !text.is_empty() && text.len() + line.len() + 1 > MAX_BATCH_BYTES {
                self.held = Some(line);
                break;
            }
            batch.taken += line.len() as u64;
            batch.lines_taken += 1;
            let event = line.trim_ascii();
            if !event.is_empty() {
                batch.numbers.push(batch.lines_taken);
                text.extend_from_slice(event);
                text.extend_from_slice(b"\n");
            }
        }
        batch.text = text.freeze();
        Ok((batch.lines_taken > 0).then_some(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_become_batches_that_account_for_every_byte() {
        let input = b"{1}\n\n{2}\r\n{3}";
        let mut reader = &input[..];
        let mut batches = Batches { lines: 2, held: None };
        let first = batches.read(&mut reader).await.unwrap().unwrap();
        assert_eq!(&first.text[..], b"{1}\n{2}\n");
        assert_eq!((first.numbers, first.taken, first.lines_taken), (vec![1, 3], 10, 3));
        let second = batches.read(&mut reader).await.unwrap().unwrap();
        assert_eq!((second.numbers, second.taken, second.lines_taken), (vec![1], 3, 1));
        assert!(batches.read(&mut reader).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_batch_stays_below_the_limit_in_bytes() {
        let line = [vec![b'x'; MAX_BATCH_BYTES / 2], b"\n".to_vec()].concat();
        let input = line.repeat(3);
        let mut reader = &input[..];
        let mut batches = Batches { lines: 1000, held: None };
        let mut total = 0;
        while let Some(batch) = batches.read(&mut reader).await.unwrap() {
            assert!(batch.text.len() <= MAX_BATCH_BYTES);
            total += batch.taken;
        }
        assert_eq!(total, input.len() as u64);
    }
}
