//! Where a relay listens: an `http(s)` address, or a socket on this machine.

use std::{fmt, path::PathBuf, str::FromStr};

use reqwest::Url;

use crate::error::Error;

/// The address of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://…` or `https://…`, without a path.
    Http(Url),
    /// A local socket, written `unix:PATH`; who is at the other end is known by the peer's uid.
    Unix(PathBuf),
}

/// What signed requests over a local socket name as their host.
const LOCAL: &str = "http://localhost/";

impl Endpoint {
    /// The URL of `path` here, as it is requested and signed.
    pub(crate) fn url(&self, path: &str, query: &[(String, String)]) -> Url {
        let mut url = match self {
            Self::Http(url) => url.clone(),
            Self::Unix(_) => local_url(),
        };
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}{path}"));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(Error::Address("a local socket is written unix:PATH".into()));
            }
            return Ok(Self::Unix(path.into()));
        }
        let bad = |why: &str| Error::Address(format!("'{text}' is no relay address: {why}"));
        let mut url = Url::parse(text).map_err(|_| bad("write https://HOST or unix:PATH"))?;
        match url.scheme() {
            "http" | "https" => {}
            "ws" => url.set_scheme("http").map_err(|()| bad("unusable"))?,
            "wss" => url.set_scheme("https").map_err(|()| bad("unusable"))?,
            _ => return Err(bad("write https://HOST or unix:PATH")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("secrets do not belong into an address"));
        }
        url.set_query(None);
        url.set_fragment(None);
        Ok(Self::Http(url))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(url.as_str().trim_end_matches('/')),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn local_url() -> Url {
    // A constant that parses.
    Url::parse(LOCAL).unwrap_or_else(|error| unreachable!("{LOCAL}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for (text, shown) in [
            ("https://relay.example.com", "https://relay.example.com"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
            ("ws://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("unix:/run/relay/relay.sock", "unix:/run/relay/relay.sock"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
        for text in ["", "relay.example.com", "ftp://x", "unix:", "https://user:pass@host"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn urls_keep_the_prefix_and_encode_the_query() {
        let endpoint: Endpoint = "https://host/base/".parse().unwrap();
        let url = endpoint.url("/v1/events", &[("tag.t".into(), "a b".into())]);
        assert_eq!(url.as_str(), "https://host/base/v1/events?tag.t=a+b");
    }
}
