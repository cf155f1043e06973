//! The least HTTP/1.1 client that can make load: requests are encoded ahead, the body of an
//! answer is a slice of the connection's buffer.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A GET request with keep-alive.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n")
        .into_bytes()
}

/// Appends a POST request whose body is `body`.
pub fn post_into(path: &str, content_type: &str, body: &[u8], out: &mut Vec<u8>) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
}

/// A connection that is kept open.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    body: Vec<u8>,
}

impl Connection {
    pub async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).await.context("connecting")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(256 << 10), body: Vec::new() })
    }

    /// Sends an encoded request and reads its answer: the status and the body.
    pub async fn ask(&mut self, request: &[u8]) -> anyhow::Result<(u16, &[u8])> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let end = loop {
            if let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        let status = head
            .get(9..12)
            .and_then(|digits| digits.parse().ok())
            .with_context(|| format!("no status in {head:?}"))?;
        let header = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        if header("transfer-encoding") == Some("chunked") {
            self.read_chunks(end).await?;
            return Ok((status, &self.body));
        }
        let len: usize = match header("content-length") {
            Some(len) => len.parse().context("content-length")?,
            None if status == 204 || status == 304 => 0,
            None => bail!("an answer without a length: {head}"),
        };
        self.buffer.reserve(len);
        while self.buffer.len() < end + len {
            self.more().await?;
        }
        Ok((status, &self.buffer[end..end + len]))
    }

    /// Sends an encoded request and gives one header of its answer.
    pub async fn header(&mut self, request: &[u8], name: &str) -> anyhow::Result<String> {
        self.ask(request).await?;
        let end = memmem::find(&self.buffer, b"\r\n\r\n").unwrap_or(0);
        let head = String::from_utf8_lossy(&self.buffer[..end]);
        let value = head.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        });
        value.with_context(|| format!("an answer without {name}"))
    }

    async fn read_chunks(&mut self, mut at: usize) -> anyhow::Result<()> {
        self.body.clear();
        loop {
            let line = loop {
                match memmem::find(&self.buffer[at..], b"\r\n") {
                    Some(len) => break at..at + len,
                    None => self.more().await?,
                }
            };
            let digits = String::from_utf8_lossy(&self.buffer[line.clone()]).into_owned();
            let len = usize::from_str_radix(digits.split(';').next().unwrap_or("").trim(), 16)
                .with_context(|| format!("length of a chunk: {digits:?}"))?;
            let start = line.end + 2;
            while self.buffer.len() < start + len + 2 {
                self.more().await?;
            }
            if len == 0 {
                return Ok(());
            }
            self.body.extend_from_slice(&self.buffer[start..start + len]);
            at = start + len + 2;
        }
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        self.buffer.reserve(64 << 10);
        let got = self.stream.read_buf(&mut self.buffer).await?;
        ensure!(got > 0, "the server closed the connection");
        Ok(())
    }
}

/// One request on a connection of its own; anything but 2xx is an error that shows the answer.
pub async fn once(to: SocketAddr, request: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut connection = Connection::open(to).await?;
    let (status, body) = connection.ask(request).await?;
    ensure!((200..300).contains(&status), "status {status}: {}", String::from_utf8_lossy(body));
    Ok(body.to_vec())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn answers_with_length_and_in_chunks_are_read_in_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answers: [&[&[u8]]; 3] = [
                &[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", b"llo"],
                &[
                    b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
                    b"c\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n",
                    b"\r\n",
                ],
                &[b"HTTP/1.1 204 No Content\r\n\r\n"],
            ];
            for parts in answers {
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                for part in parts {
                    stream.write_all(part).await.unwrap();
                    stream.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut connection = Connection::open(to).await.unwrap();
        assert_eq!(connection.ask(&get("/")).await.unwrap(), (200, &b"hello"[..]));
        assert_eq!(connection.ask(&get("/")).await.unwrap(), (201, &b"abc0123456789abcdef"[..]));
        assert_eq!(connection.ask(&get("/")).await.unwrap(), (204, &b""[..]));
        server.await.unwrap();
    }
}
