//! etcd over its gRPC interface, one HTTP/2 connection a client. A lock of one's own is a
//! transaction that puts the key under a lease where it does not exist, and one that deletes it
//! where it is still ours; the token is the revision. Waiting uses etcd's own lock service.
//!
//! The few messages are written by hand: they are smaller than a generated client.

use std::process::Command;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use crate::{
    http as plain,
    scenario::{
        Run,
        locks::{Keys, Locker},
    },
    server::{Process, Target, free_address},
};

const LEASE_SECONDS: u64 = 600;

pub async fn start(run: &Run) -> anyhow::Result<Target> {
    let dir = run.servers.directory("etcd")?;
    let (addr, peer) = (free_address()?, free_address()?);
    let (client_url, peer_url) = (format!("http://{addr}"), format!("http://{peer}"));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(dir.path().join("data"));
    command.args(["--log-level", "error", "--initial-cluster", &format!("default={peer_url}")]);
    for (flag, url) in [
        ("--listen-client-urls", &client_url),
        ("--advertise-client-urls", &client_url),
        ("--listen-peer-urls", &peer_url),
        ("--initial-advertise-peer-urls", &peer_url),
    ] {
        command.args([flag, url]);
    }
    let mut process = Process::start(command, dir.path().join("log"), Signal::SIGTERM)?;
    process.wait_until(async || plain::once(addr, &plain::get("/health")).await.is_ok()).await?;
    Ok(Target::of("etcd", addr, process, dir))
}

pub async fn connect(target: &Target, count: usize, keys: Keys) -> anyhow::Result<Vec<EtcdLocker>> {
    let mut clients = Vec::with_capacity(count);
    for client in 0..count {
        let stream = TcpStream::connect(target.addr).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        let waits = keys == Keys::One;
        let mut client = EtcdLocker {
            requests,
            base: format!("http://{}", target.addr),
            waits,
            key: if waits { "bench/hot".to_owned() } else { format!("bench/{client}") }
                .into_bytes(),
            lease: 0,
        };
        let granted =
            client.call("etcdserverpb.Lease/LeaseGrant", &number(1, LEASE_SECONDS)).await?;
        client.lease = field_number(&granted, 2).context("no lease")?;
        clients.push(client);
    }
    Ok(clients)
}

#[derive(Debug)]
pub struct EtcdLocker {
    requests: SendRequest<Bytes>,
    base: String,
    waits: bool,
    key: Vec<u8>,
    lease: u64,
}

impl Locker for EtcdLocker {
    async fn acquire(&mut self) -> anyhow::Result<u64> {
        let answer = if self.waits {
            let request = [bytes_field(1, b"bench/hot"), number(2, self.lease)].concat();
            let answer = self.call("v3lockpb.Lock/Lock", &request).await?;
            self.key = field_bytes(&answer, 2).context("no key")?.to_vec();
            answer
        } else {
            let put = [bytes_field(1, &self.key), bytes_field(2, b"1"), number(3, self.lease)];
            let put = bytes_field(2, &put.concat());
            self.when_created_at(0, &put).await?
        };
        revision(&answer)
    }

    async fn release(&mut self, token: u64) -> anyhow::Result<()> {
        if self.waits {
            self.call("v3lockpb.Lock/Unlock", &bytes_field(1, &self.key)).await?;
        } else {
            let delete = bytes_field(3, &bytes_field(1, &self.key));
            self.when_created_at(token, &delete).await?;
        }
        Ok(())
    }
}

impl EtcdLocker {
    /// Does `operation` in a transaction that compares the key's create revision (0: absent).
    async fn when_created_at(&mut self, revision: u64, operation: &[u8]) -> anyhow::Result<Bytes> {
        const CREATED: u64 = 1;
        let compare = [number(2, CREATED), bytes_field(3, &self.key), number(5, revision)].concat();
        let request = [bytes_field(1, &compare), bytes_field(2, operation)].concat();
        let answer = self.call("etcdserverpb.KV/Txn", &request).await?;
        ensure!(field_number(&answer, 2) == Some(1), "the transaction's condition did not hold");
        Ok(answer)
    }

    /// One unary gRPC call.
    async fn call(&mut self, method: &str, message: &[u8]) -> anyhow::Result<Bytes> {
        let request = http::Request::post(format!("{}/{method}", self.base))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut framed = Vec::with_capacity(message.len() + 5);
        framed.push(0);
        framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
        framed.extend_from_slice(message);

        self.requests = self.requests.clone().ready().await?;
        let (response, mut body) = self.requests.send_request(request, false)?;
        body.send_data(framed.into(), true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut answer = Vec::new();
        while let Some(part) = body.data().await.transpose()? {
            body.flow_control().release_capacity(part.len())?;
            answer.extend_from_slice(&part);
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        let status = trailers.get("grpc-status").or(head.headers.get("grpc-status"));
        if status.is_none_or(|status| status != "0") {
            bail!("{method}: {trailers:?}");
        }
        ensure!(answer.len() >= 5, "{method}: an empty answer");
        Ok(Bytes::from(answer).slice(5..))
    }
}

/// The revision in the header, which is field 1 of every answer.
fn revision(answer: &[u8]) -> anyhow::Result<u64> {
    field_bytes(answer, 1).and_then(|header| field_number(header, 3)).context("no revision")
}

// The two protobuf wire types that occur: varint (0) and bytes (2).

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(field: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3, &mut out);
    varint(value, &mut out);
    out
}

fn bytes_field(field: u64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 6);
    varint(field << 3 | 2, &mut out);
    varint(value.len() as u64, &mut out);
    out.extend_from_slice(value);
    out
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn field(mut message: &[u8], wanted: u64) -> Option<Value<'_>> {
    while !message.is_empty() {
        let tag = read_varint(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Number(read_varint(&mut message)?),
            2 => {
                let len = usize::try_from(read_varint(&mut message)?).ok()?;
                let (value, rest) = message.split_at_checked(len)?;
                message = rest;
                Value::Bytes(value)
            }
            _ => return None,
        };
        if tag >> 3 == wanted {
            return Some(value);
        }
    }
    None
}

fn field_number(message: &[u8], wanted: u64) -> Option<u64> {
    match field(message, wanted)? {
        Value::Number(value) => Some(value),
        Value::Bytes(_) => None,
    }
}

fn field_bytes(message: &[u8], wanted: u64) -> Option<&[u8]> {
    match field(message, wanted)? {
        Value::Bytes(value) => Some(value),
        Value::Number(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protobuf_fields_are_found_again() {
        let message = [number(1, 300), bytes_field(2, b"key"), number(3, u64::MAX)].concat();
        assert_eq!(message[..3], [8, 0xac, 2]);
        assert_eq!(field_number(&message, 1), Some(300));
        assert_eq!(field_bytes(&message, 2), Some(&b"key"[..]));
        assert_eq!(field_number(&message, 3), Some(u64::MAX));
        assert_eq!(field_number(&message, 4), None);
        assert_eq!(field_number(&message[..message.len() - 1], 3), None);
    }
}
