//! TLS to the server, as `sslmode` and `sslrootcert` of the connection string say.
//!
//! There is no unverified TLS: whoever asks for encryption gets a server whose certificate holds for its
//! name, under the system's authorities or the given ones.

use std::{
    future::Future,
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    Socket,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::error::{Result, StoreError};

/// What the connection string says about TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub mode: Option<String>,
    pub root_cert: Option<String>,
}

/// Makes the TLS of connections; empty where none is wanted.
#[derive(Clone, Default)]
pub(super) struct Tls(Option<TlsConnector>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({})", self.0.is_some())
    }
}

impl Tls {
    /// # Errors
    /// [`StoreError::Database`] for a mode that is not known, [`StoreError::Unsafe`] for authorities
    /// that cannot be read.
    pub fn new(wanted: &Wanted) -> Result<Self> {
        let refused = |text: &str| Err(StoreError::Database(text.into()));
        match wanted.mode.as_deref() {
            None | Some("disable") if wanted.root_cert.is_some() => {
                refused("sslrootcert says nothing without sslmode=verify-full")
            }
            None | Some("disable") => Ok(Self(None)),
            Some("require" | "verify-ca" | "verify-full") => {
                let roots = match wanted.root_cert.as_deref() {
                    None | Some("system") => system_roots()?,
                    Some(path) => roots_in(Path::new(path))?,
                };
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let config = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(|error| StoreError::Database(format!("TLS: {error}")))?
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                Ok(Self(Some(TlsConnector::from(Arc::new(config)))))
            }
            Some("prefer" | "allow") => refused(
                "sslmode prefer and allow would fall back to no TLS unseen; say verify-full or disable",
            ),
            Some(_) => refused("sslmode is disable, require, verify-ca or verify-full"),
        }
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

fn system_roots() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let text = "this machine has no certificate authorities; name some with sslrootcert=FILE";
        return Err(StoreError::Unsafe(text.into()));
    }
    Ok(roots)
}

fn roots_in(path: &Path) -> Result<RootCertStore> {
    let failed =
        |reason: String| StoreError::Unsafe(format!("sslrootcert {}: {reason}", path.display()));
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() { Err(failed("no certificate in it".into())) } else { Ok(roots) }
}

/// Takes what is about TLS out of a connection string; the rest is for the driver.
pub(super) fn split(text: &str) -> (String, Wanted) {
    let mut wanted = Wanted::default();
    let mut keep = |part: &str, decode: bool| {
        let (slot, value) = match part.split_once('=') {
            Some(("sslmode", value)) => (&mut wanted.mode, value),
            Some(("sslrootcert", value)) => (&mut wanted.root_cert, value),
            _ => return true,
        };
        let value = value.trim_matches('\'');
        *slot = Some(if decode { percent_decoded(value) } else { value.to_owned() });
        false
    };
    let rest = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        let (before, query) = text.split_once('?').unwrap_or((text, ""));
        let kept: Vec<_> = query.split('&').filter(|part| keep(part, true)).collect();
        let query = kept.join("&");
        if query.is_empty() { before.to_owned() } else { format!("{before}?{query}") }
    } else {
        let kept: Vec<_> = words(text).into_iter().filter(|part| keep(part, false)).collect();
        kept.join(" ")
    };
    (rest, wanted)
}

/// The words of a `key=value …` string; quotes hold spaces together.
fn words(text: &str) -> Vec<&str> {
    let (mut words, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                words.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    words.push(&text[start..]);
    words.retain(|word| !word.is_empty());
    words
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        let code = more.get(..2).filter(|_| first == b'%');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Encrypted;
    type TlsConnect = Connecting;
    type Error = io::Error;

    /// Called for every connection, those that stay plain and those over local sockets included.
    fn make_tls_connect(&mut self, host: &str) -> io::Result<Connecting> {
        Ok(Connecting { connector: self.0.clone(), host: host.to_owned() })
    }
}

/// A connection that may be encrypted.
pub(super) struct Connecting {
    connector: Option<TlsConnector>,
    host: String,
}

impl TlsConnect<Socket> for Connecting {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let connector = self.connector.ok_or_else(|| io::Error::other("TLS is off"))?;
            let name = ServerName::try_from(self.host).map_err(io::Error::other)?;
            connector.connect(name, socket).await.map(|stream| Encrypted(Box::new(stream)))
        })
    }
}

/// An encrypted connection.
pub(super) struct Encrypted(Box<TlsStream<Socket>>);

impl tokio_postgres::tls::TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        // The certificate is verified for the server's name, which is what binding is for.
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(mode: &str, root_cert: Option<&str>) -> Wanted {
        Wanted { mode: Some(mode.into()), root_cert: root_cert.map(Into::into) }
    }

    #[test]
    fn what_is_about_tls_is_taken_out_of_both_forms() {
        let url =
            "postgresql://u:p%3f@db/relay?sslmode=verify-full&user=x&sslrootcert=%2Fetc%2Fca.pem";
        let found = split(url);
        assert_eq!(found.0, "postgresql://u:p%3f@db/relay?user=x");
        assert_eq!(found.1, wanted("verify-full", Some("/etc/ca.pem")));
        let found = split("host=db  password='a sslmode=disable b' sslmode=require");
        assert_eq!(found.0, "host=db password='a sslmode=disable b'");
        assert_eq!(found.1, wanted("require", None));
        assert_eq!(split("postgresql:///db?host=/run").0, "postgresql:///db?host=/run");
        assert_eq!(split("postgresql://db/x?sslmode=disable").0, "postgresql://db/x");
    }

    #[test]
    fn a_mode_that_could_fall_back_is_refused() {
        for mode in ["prefer", "allow", "maybe"] {
            assert!(matches!(Tls::new(&wanted(mode, None)), Err(StoreError::Database(_))));
        }
        assert!(!Tls::new(&Wanted::default()).unwrap().is_on());
        assert!(!Tls::new(&wanted("disable", None)).unwrap().is_on());
        let missing = Tls::new(&wanted("require", Some("/nonexistent.pem")));
        assert!(matches!(missing, Err(StoreError::Unsafe(_))));
    }
}
