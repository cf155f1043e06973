//! A job queue on events and locks: each job is done once, whichever worker dies.
//!
//! A job is an event; its result is an event that names it. A worker takes the lock of a job, looks
//! whether there is a result by now, works, and publishes the result *fenced* by the lock: a worker
//! that was stopped in between and lost the lock cannot publish a second result.
//!
//! `cargo run -p relay-client --example job_queue -- http://127.0.0.1:8080`

use std::{collections::HashMap, time::Duration};

use relay_client::{
    Client, Error, EventStream, LockGuard, LockOptions, LockRequest, Query, Start, StreamItem,
    Subscription, keys,
    proto::{
        Code, Event, EventId, Filter,
        event::{Draft, Tags},
    },
};

const JOB: u16 = 7001;
const RESULT: u16 = 7002;
const JOBS: usize = 20;
const WORKERS: usize = 4;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8080".into());
    let producer = Client::builder(&url)?.key(keys::generate()?).build()?;
    let mut jobs = Vec::new();
    for number in 0..JOBS {
        let job = Draft { kind: JOB, content: number.to_string(), ..Draft::default() };
        let job = producer.sign(&job)?;
        producer.publish(&job).await?;
        jobs.push(job.id());
    }
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..WORKERS {
        // Each worker has a key of its own: a lock belongs to a key.
        let client = Client::builder(&url)?.key(keys::generate()?).build()?;
        workers.spawn(work(client, jobs.clone()));
    }
    while let Some(done) = workers.join_next().await {
        println!("a worker did {} jobs", done??);
    }
    let results = results_of(&producer, &jobs).await?;
    assert_eq!(results.len(), JOBS, "every job has a result");
    assert!(results.values().all(|count| *count == 1), "and only one");
    println!("{JOBS} jobs, each done once");
    Ok(())
}

/// Follows the jobs from the beginning until all of ours have results.
async fn work(client: Client, jobs: Vec<EventId>) -> Result<usize, Error> {
    let filters = vec![Filter { ids: jobs.clone(), ..Filter::default() }];
    let wanted = Subscription { filters, start: Start::Beginning, ..Subscription::default() };
    let mut stream = EventStream::open(&client, wanted).await?;
    let mut busy: Vec<Event> = Vec::new();
    let mut done = 0;
    loop {
        // A job that somebody else holds comes again: its worker may die.
        let again = tokio::time::sleep(Duration::from_millis(200));
        let todo = tokio::select! {
            item = stream.next() => match item? {
                Some(StreamItem::Event { event, .. }) => vec![event],
                Some(_) => continue,
                None => return Ok(done),
            },
            () = again => std::mem::take(&mut busy),
        };
        for job in todo {
            match try_job(&client, &job).await? {
                Attempt::Done => done += 1,
                Attempt::HasResult => {}
                Attempt::Busy => busy.push(job),
            }
        }
        if busy.is_empty() && results_of(&client, &jobs).await?.len() == jobs.len() {
            return Ok(done);
        }
    }
}

enum Attempt {
    Done,
    HasResult,
    Busy,
}

async fn try_job(client: &Client, job: &Event) -> Result<Attempt, Error> {
    let mut request = LockRequest::new(format!("jobs/{}", job.id()))?;
    request.lease = Duration::from_secs(5);
    let lock = match LockGuard::acquire(client, request, LockOptions::default()).await {
        Ok(lock) => lock,
        Err(error) if error.code() == Some(Code::LockHeld) => return Ok(Attempt::Busy),
        Err(error) => return Err(error),
    };
    // Between the event and the lock somebody may have finished it.
    if !results_of(client, &[job.id()]).await?.is_empty() {
        lock.release().await?;
        return Ok(Attempt::HasResult);
    }
    let answer = job.content().parse::<u64>().unwrap_or(0).pow(2);
    let mut tags = Tags::new();
    tags.push(["e", &job.id().to_string()]);
    tags.push(["fence", lock.resource(), &lock.fencing_token().to_string()]);
    let result = Draft { kind: RESULT, tags, content: answer.to_string(), ..Draft::default() };
    match client.publish(&client.sign(&result)?).await {
        Ok(_) => lock.release().await.map(|()| Attempt::Done),
        // The lock was lost on the way: whoever has it now decides anew.
        Err(error) if error.code() == Some(Code::Fenced) => Ok(Attempt::Busy),
        Err(error) => Err(error),
    }
}

/// How many results each of these jobs has, those without left out.
async fn results_of(client: &Client, jobs: &[EventId]) -> Result<HashMap<String, usize>, Error> {
    let mut filter = Filter { kinds: vec![RESULT], ..Filter::default() };
    filter.add_tag("e", jobs.iter().map(ToString::to_string));
    let page = client.query(&Query { filter, limit: Some(1000), ..Query::default() }).await?;
    let mut counts = HashMap::new();
    for event in page.events {
        for job in event.tags().values("e") {
            *counts.entry(job.to_owned()).or_default() += 1;
        }
    }
    Ok(counts)
}
