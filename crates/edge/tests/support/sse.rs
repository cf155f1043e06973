//! A client of server-sent events, as small as it can be.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::House;

/// An open answer.
pub struct Sse(BufReader<TcpStream>);

/// One event of it: type, id, data.
#[derive(Debug, PartialEq)]
pub struct Told {
    pub event: String,
    pub id: Option<String>,
    pub data: Value,
}

impl Sse {
    pub async fn open(house: &House, path: &str, headers: &str) -> Self {
        let address = house.url().replace("http://", "");
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(lines.read_line(&mut head).await.unwrap(), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        assert!(head.contains("x-accel-buffering: no"), "{head}");
        Self(lines)
    }

    /// The next event; `None` at the end. Sizes of chunks and comments are lines of no meaning.
    pub async fn next(&mut self) -> Option<Told> {
        let (mut event, mut id) = (String::new(), None);
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line);
            let read = tokio::time::timeout(Duration::from_secs(20), read).await.unwrap();
            if read.unwrap_or(0) == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("event", value)) => event = value.to_owned(),
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("data", value)) => {
                    return Some(Told { event, id, data: serde_json::from_str(value).unwrap() });
                }
                _ => {}
            }
        }
    }
}
