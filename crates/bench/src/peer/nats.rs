//! NATS with leaf nodes: a caller at one leaf, an answering client at another, one or two hubs between.

use std::{
    collections::HashMap,
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
};

use crate::{
    report::Row,
    scenario::{
        Run,
        links::{Chain, node},
    },
    server::{Process, free_address},
};

/// One case on NATS.
pub async fn row(run: &Run, case: &str, hubs: usize, callers: usize) -> anyhow::Result<Row> {
    let dir = run.servers.directory("nats")?;
    let mut processes = Vec::new();
    let mut start = async |name: &str, config: String, client: SocketAddr| -> anyhow::Result<()> {
        let file = dir.path().join(format!("{name}.conf"));
        std::fs::write(&file, config)?;
        let mut command = Command::new("nats-server");
        command.arg("-c").arg(&file);
        let mut process = Process::start(command, dir.path().join(name), Signal::SIGTERM)?;
        process.wait_until(async || TcpStream::connect(client).await.is_ok()).await?;
        processes.push(process);
        Ok(())
    };
    let routes: Vec<SocketAddr> = (0..hubs).map(|_| free_address()).collect::<Result<_, _>>()?;
    let leaves: Vec<SocketAddr> = (0..hubs).map(|_| free_address()).collect::<Result<_, _>>()?;
    for hub in 0..hubs {
        let client = free_address()?;
        let others =
            routes.iter().map(|route| format!("nats://{route}")).collect::<Vec<_>>().join(",");
        let cluster = if hubs > 1 {
            format!("cluster {{ name: c, listen: \"{}\", routes: [{others}] }}", routes[hub])
        } else {
            String::new()
        };
        let leaf = leaves[hub];
        let config = format!(
            "listen: \"{client}\"\nserver_name: hub{hub}\nleafnodes {{ listen: \"{leaf}\" }}\n{cluster}\n"
        );
        start(&format!("hub-{hub}"), config, client).await?;
    }
    let mut clients = Vec::new();
    for (name, hub) in [("leaf-a", leaves.first()), ("leaf-b", leaves.last())] {
        let (client, hub) = (free_address()?, hub.context("a hub")?);
        let config = format!(
            "listen: \"{client}\"\nserver_name: {name}\nleafnodes {{ remotes: [{{ url: \"nats://{hub}\" }}] }}\n"
        );
        start(name, config, client).await?;
        clients.push(client);
    }
    let mut echo = node("nats-b");
    echo.arg("--nats-echo").arg(clients[1].to_string());
    processes.push(Process::start(echo, dir.path().join("echo"), Signal::SIGTERM)?);
    let mut caller = node("nats-a");
    caller.arg("--nats-call").arg(clients[0].to_string());
    let mut chain = Chain { first: String::new(), processes, dir };
    chain.measure(run, "NATS leaf nodes", case, caller, callers).await
}

const SUBJECT: &str = "bench.echo";
/// Operations that wait for the writer; above, callers wait.
const QUEUE: usize = 1024;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>;

/// A connection that many callers share.
#[derive(Debug, Clone)]
pub struct Caller {
    send: mpsc::Sender<Vec<u8>>,
    waiting: Waiting,
    next: Arc<std::sync::atomic::AtomicU64>,
}

impl Caller {
    pub async fn connect(addr: SocketAddr) -> anyhow::Result<Self> {
        let (mut read, mut write) = open(addr).await?;
        write.write_all(b"SUB _INBOX.bench.* 1\r\n").await?;
        let waiting = Waiting::default();
        let told = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Ok(Some(message)) = next(&mut read).await {
                let number = message.subject.rsplit('.').next().and_then(|text| text.parse().ok());
                let mut waiting = told.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(waiter) = number.and_then(|number: u64| waiting.remove(&number)) {
                    let _ = waiter.send(());
                }
            }
        });
        let send = writer(write);
        Ok(Self { send, waiting, next: Arc::default() })
    }

    pub async fn call(&self, payload: &[u8]) -> anyhow::Result<()> {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number, tell);
        self.send.send(publish(SUBJECT, Some(&format!("_INBOX.bench.{number}")), payload)).await?;
        let answer = tokio::time::timeout(std::time::Duration::from_secs(2), told).await;
        if answer.is_err() {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        }
        Ok(answer??)
    }
}

/// Answers each message with itself, for ever.
pub async fn echo(addr: SocketAddr) -> anyhow::Result<()> {
    let (mut read, mut write) = open(addr).await?;
    write.write_all(format!("SUB {SUBJECT} 1\r\n").as_bytes()).await?;
    let send = writer(write);
    while let Some(message) = next(&mut read).await? {
        if let Some(reply) = &message.reply {
            send.send(publish(reply, None, &message.payload)).await?;
        }
    }
    Ok(())
}

async fn open(addr: SocketAddr) -> anyhow::Result<(BufReader<OwnedReadHalf>, OwnedWriteHalf)> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::with_capacity(64 * 1024, read);
    let mut info = String::new();
    read.read_line(&mut info).await?;
    write
        .write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":false}\r\n")
        .await?;
    Ok((read, write))
}

/// Joins what waits into one write.
fn writer(mut write: OwnedWriteHalf) -> mpsc::Sender<Vec<u8>> {
    let (send, mut waiting) = mpsc::channel::<Vec<u8>>(QUEUE);
    tokio::spawn(async move {
        let mut batch = Vec::new();
        while let Some(first) = waiting.recv().await {
            batch.extend(first);
            while let Ok(more) = waiting.try_recv() {
                batch.extend(more);
            }
            if write.write_all(&batch).await.is_err() {
                return;
            }
            batch.clear();
        }
    });
    send
}

fn publish(subject: &str, reply: Option<&str>, payload: &[u8]) -> Vec<u8> {
    let reply = reply.map(|reply| format!(" {reply}")).unwrap_or_default();
    let mut out = format!("PUB {subject}{reply} {}\r\n", payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
    out
}

struct Delivered {
    subject: String,
    reply: Option<String>,
    payload: Vec<u8>,
}

/// The next message; pings are passed over, since a run is shorter than their interval.
async fn next(read: &mut BufReader<OwnedReadHalf>) -> anyhow::Result<Option<Delivered>> {
    loop {
        let mut line = String::new();
        if read.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (subject, reply, length) = match words[..] {
            ["MSG", subject, _, length] => (subject, None, length),
            ["MSG", subject, _, reply, length] => (subject, Some(reply.to_owned()), length),
            ["-ERR", ..] => bail!("NATS: {line}"),
            _ => continue,
        };
        let subject = subject.to_owned();
        let mut payload = vec![0; length.parse::<usize>()? + 2];
        read.read_exact(&mut payload).await?;
        payload.truncate(payload.len() - 2);
        return Ok(Some(Delivered { subject, reply, payload }));
    }
}
