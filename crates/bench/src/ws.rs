//! The least WebSocket client that can make load: frames are encoded ahead, answers are handed
//! out as slices of one buffer that all connections of a thread share.
//!
//! Frames are masked with the key 0, which RFC 6455 has a server undo like any other: a client of
//! a browser must choose it at random, a load generator saves its own share of the CPU.

use std::{cell::RefCell, io, net::SocketAddr};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 << 10]);
}

/// Appends one masked frame whose payload `write` appends.
pub fn encode(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    encode_as(TEXT, out, write);
}

fn encode_as(opcode: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    // Room for the longest header; the payload moves down where a shorter one is enough.
    let start = out.len();
    out.extend_from_slice(&[0; 14]);
    write(out);
    let len = out.len() - start - 14;
    let mut header = Vec::with_capacity(14);
    header.push(0x80 | opcode);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=125), _) => header.push(0x80 | len),
        (_, Ok(len)) => {
            header.push(0x80 | 126);
            header.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    header.extend_from_slice(&[0; 4]);
    out.splice(start..start + 14, header);
}

/// One text frame.
pub fn frame(payload: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    encode(&mut out, |out| out.extend_from_slice(payload.as_bytes()));
    out
}

/// A connection. Dropping it closes the socket without the closing handshake.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// The start of a frame whose rest has not come yet.
    partial: Vec<u8>,
}

impl Socket {
    /// Connects and does the opening handshake.
    pub async fn connect(to: SocketAddr, path: &str) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(to).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {to}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: cmVsYXktYmVuY2gtMDAwMA==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(512);
        let end = loop {
            if let Some(end) = memchr::memmem::find(&head, b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(head.len() < 16 << 10, "the answer to the upgrade has no end");
            ensure!(stream.read_buf(&mut head).await? > 0, "closed during the upgrade");
        };
        if !head.starts_with(b"HTTP/1.1 101") {
            bail!("no upgrade: {}", String::from_utf8_lossy(&head[..end]).trim());
        }
        Ok(Self { stream, partial: head.split_off(end) })
    }

    /// Writes encoded frames.
    pub async fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.stream.write_all(frames).await
    }

    /// Waits for bytes, then hands out each whole text frame of what has come.
    /// Pings are answered. May hand out nothing. Safe to drop while waiting.
    ///
    /// # Errors
    /// A closed or broken connection, and binary or fragmented frames, which nobody here sends.
    pub async fn receive(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut pongs = Vec::new();
        loop {
            self.stream.readable().await?;
            let partial = &mut self.partial;
            let stream = &self.stream;
            let got = SCRATCH.with_borrow_mut(|scratch| match stream.try_read(scratch) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => feed(partial, &scratch[..len], &mut each, &mut pongs).map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(error),
            })?;
            if got {
                break;
            }
        }
        if !pongs.is_empty() {
            self.stream.write_all(&pongs).await?;
        }
        Ok(())
    }

    /// Receives until `pick` finds what it wants in a frame.
    pub async fn receive_until<T>(
        &mut self,
        mut pick: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<T> {
        let mut found = None;
        while found.is_none() {
            self.receive(|frame| {
                if found.is_none() {
                    found = pick(frame);
                }
            })
            .await?;
        }
        found.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Hands out the frames in `partial` + `bytes`, and keeps what is left over in `partial`.
fn feed(
    partial: &mut Vec<u8>,
    mut bytes: &[u8],
    each: &mut impl FnMut(&[u8]),
    pongs: &mut Vec<u8>,
) -> io::Result<()> {
    while !partial.is_empty() {
        let wanted = frame_len(partial).unwrap_or(partial.len() + 1);
        let missing = wanted.saturating_sub(partial.len());
        let (now, later) = bytes.split_at(missing.min(bytes.len()));
        partial.extend_from_slice(now);
        bytes = later;
        if frame_len(partial).is_some_and(|len| partial.len() >= len) {
            take(partial, each, pongs)?;
            partial.clear();
        } else if bytes.is_empty() {
            return Ok(());
        }
    }
    while let Some(len) = frame_len(bytes).filter(|&len| len <= bytes.len()) {
        let (frame, rest) = bytes.split_at(len);
        take(frame, each, pongs)?;
        bytes = rest;
    }
    partial.extend_from_slice(bytes);
    Ok(())
}

/// Bytes of the frame that `bytes` starts with, once its header is there. Servers do not mask.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    match *bytes.get(1)? & 0x7f {
        126 => Some(4 + usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => {
            let len = bytes.get(2..10)?.iter().fold(0, |len, byte| len << 8 | u64::from(*byte));
            usize::try_from(len).ok()?.checked_add(10)
        }
        short => Some(2 + usize::from(short)),
    }
}

fn take(frame: &[u8], each: &mut impl FnMut(&[u8]), pongs: &mut Vec<u8>) -> io::Result<()> {
    let payload = &frame[match frame[1] & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    }..];
    match frame[0] {
        0x81 => each(payload),
        head if head == 0x80 | PING => {
            encode_as(0xa, pongs, |out| out.extend_from_slice(payload));
        }
        head if head == 0x80 | CLOSE => {
            let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
            return Err(io::Error::other(format!("the server closed the socket: {reason}")));
        }
        0x8a => {}
        other => return Err(io::Error::other(format!("unexpected frame head {other:#x}"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0x80 | opcode];
        match payload.len() {
            len @ 0..=125 => out.push(len as u8),
            len @ 126..=65535 => {
                out.push(126);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                out.push(127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        let long = vec![b'x'; 70_000];
        let payloads: [&[u8]; 5] = [b"", b"a", &[b'm'; 300], &long, b"end"];
        let mut stream = served(PING, b"hi");
        for payload in payloads {
            stream.extend(served(TEXT, payload));
        }
        for step in [1, 2, 3, 7, 127, 4096, stream.len()] {
            let (mut partial, mut got, mut pongs) = (Vec::new(), Vec::new(), Vec::new());
            for bytes in stream.chunks(step) {
                feed(&mut partial, bytes, &mut |frame| got.push(frame.to_vec()), &mut pongs)
                    .unwrap();
            }
            assert_eq!(got, payloads, "in steps of {step}");
            assert!(partial.is_empty());
            assert_eq!(pongs, [0x8a, 0x82, 0, 0, 0, 0, b'h', b'i']);
        }
    }

    #[test]
    fn a_close_is_an_error_with_its_reason() {
        let close = served(CLOSE, b"\x03\xf0slow_consumer");
        let error = feed(&mut Vec::new(), &close, &mut |_| {}, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().ends_with("slow_consumer"), "{error}");
    }

    #[test]
    fn encoded_headers() {
        assert_eq!(frame("hi"), [0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(frame(&"x".repeat(300))[..8], [0x81, 0xfe, 1, 44, 0, 0, 0, 0]);
        assert_eq!(frame(&"x".repeat(70_000))[..10], [0x81, 0xff, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }
}
