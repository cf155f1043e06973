//! Redis with `appendfsync always`: the lock is a key set where absent, the token a counter, both
//! in one script; freeing compares before it deletes. Waiting is a `BLPOP` on a list that holds
//! one element while the lock is free: Redis serves it first come, first served, which is far
//! better than polling.

use std::process::Command;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    scenario::{
        Run,
        locks::{Keys, Locker},
    },
    server::{Process, Target, free_address},
};

const ACQUIRE: &str = "if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', 60000) then \
                       return redis.call('INCR', KEYS[2]) end return 0";
const RELEASE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
                       return redis.call('DEL', KEYS[1]) end return 0";
const RELEASE_TO_NEXT: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
                               redis.call('DEL', KEYS[1]) redis.call('RPUSH', KEYS[2], '1') \
                               return 1 end return 0";

pub async fn start(run: &Run) -> anyhow::Result<Target> {
    let dir = run.servers.directory("redis")?;
    let addr = free_address()?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &addr.port().to_string(), "--dir"]);
    command.arg(dir.path());
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
    let mut process = Process::start(command, dir.path().join("log"), Signal::SIGTERM)?;
    let ready = async || match TcpStream::connect(addr).await {
        Ok(stream) => Connection::over(stream).ask(&["PING"]).await.is_ok(),
        Err(_) => false,
    };
    process.wait_until(ready).await?;
    Ok(Target::of("Redis, fsync always", addr, process, dir))
}

pub async fn connect(
    target: &Target,
    count: usize,
    keys: Keys,
) -> anyhow::Result<Vec<RedisLocker>> {
    let mut clients = Vec::with_capacity(count);
    for client in 0..count {
        let stream = TcpStream::connect(target.addr).await?;
        stream.set_nodelay(true)?;
        let mut connection = Connection::over(stream);
        let release = if keys == Keys::One { RELEASE_TO_NEXT } else { RELEASE };
        let acquire = connection.ask(&["SCRIPT", "LOAD", ACQUIRE]).await?.text()?;
        let release = connection.ask(&["SCRIPT", "LOAD", release]).await?.text()?;
        let resource = match keys {
            Keys::Own => format!("bench:{client}"),
            Keys::One => "bench:hot".to_owned(),
        };
        if keys == Keys::One && client == 0 {
            connection.ask(&["RPUSH", "bench:hot:free", "1"]).await?;
        }
        clients.push(RedisLocker {
            connection,
            waits: keys == Keys::One,
            free: format!("{resource}:free"),
            counter: format!("{resource}:token"),
            resource,
            owner: format!("client-{client}"),
            acquire,
            release,
        });
    }
    Ok(clients)
}

#[derive(Debug)]
pub struct RedisLocker {
    connection: Connection,
    waits: bool,
    resource: String,
    counter: String,
    free: String,
    owner: String,
    acquire: String,
    release: String,
}

impl Locker for RedisLocker {
    async fn acquire(&mut self) -> anyhow::Result<u64> {
        if self.waits {
            self.connection.ask(&["BLPOP", &self.free, "30"]).await?;
        }
        let command = ["EVALSHA", &self.acquire, "2", &self.resource, &self.counter, &self.owner];
        let token = self.connection.ask(&command).await?.number()?;
        ensure!(token > 0, "{} is held", self.resource);
        Ok(token)
    }

    async fn release(&mut self, _token: u64) -> anyhow::Result<()> {
        let command = ["EVALSHA", &self.release, "2", &self.resource, &self.free, &self.owner];
        let freed = self.connection.ask(&command).await?.number()?;
        ensure!(freed == 1, "{} was lost", self.resource);
        Ok(())
    }
}

/// What Redis answers to the commands used here.
#[derive(Debug)]
enum Reply {
    Number(u64),
    Text(String),
    Other,
}

impl Reply {
    fn number(self) -> anyhow::Result<u64> {
        if let Self::Number(number) = self { Ok(number) } else { bail!("not a number: {self:?}") }
    }

    fn text(self) -> anyhow::Result<String> {
        if let Self::Text(text) = self { Ok(text) } else { bail!("not a text: {self:?}") }
    }
}

/// One command at a time, in RESP2.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    fn over(stream: TcpStream) -> Self {
        Self { stream, out: Vec::new(), answer: Vec::new() }
    }

    async fn ask(&mut self, words: &[&str]) -> anyhow::Result<Reply> {
        self.out.clear();
        self.out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
        self.stream.write_all(&self.out).await?;
        self.answer.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "closed by Redis");
            if let Some(reply) = parse(&self.answer)? {
                return Ok(reply);
            }
        }
    }
}

/// Reads a whole reply, or nothing where some of it is missing.
fn parse(answer: &[u8]) -> anyhow::Result<Option<Reply>> {
    let text = std::str::from_utf8(answer)?;
    let Some((line, rest)) = text.split_once("\r\n") else { return Ok(None) };
    let (kind, value) = line.split_at_checked(1).context("an empty reply")?;
    Ok(match kind {
        ":" => Some(Reply::Number(value.parse()?)),
        "+" => Some(Reply::Text(value.to_owned())),
        "-" => bail!("Redis: {value}"),
        "$" => {
            let len: usize = value.parse().context("no value")?;
            let whole = rest.len() >= len + 2;
            whole.then(|| Reply::Text(rest.get(..len).unwrap_or_default().to_owned()))
        }
        // An array of texts, from BLPOP: two lines for each.
        "*" => {
            let items: usize = value.parse().context("waited too long")?;
            (rest.matches("\r\n").count() >= items * 2).then_some(Reply::Other)
        }
        _ => bail!("unexpected reply {line:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_whole() {
        assert!(parse(b":1").unwrap().is_none());
        assert_eq!(parse(b":17\r\n").unwrap().unwrap().number().unwrap(), 17);
        assert!(parse(b"$3\r\nab").unwrap().is_none());
        assert_eq!(parse(b"$3\r\nabc\r\n").unwrap().unwrap().text().unwrap(), "abc");
        assert!(parse(b"*2\r\n$1\r\na\r\n$1\r\n").unwrap().is_none());
        assert!(parse(b"*2\r\n$1\r\na\r\n$1\r\nb\r\n").unwrap().is_some());
        assert!(parse(b"-ERR no\r\n").is_err() && parse(b"*-1\r\n").is_err());
    }
}
