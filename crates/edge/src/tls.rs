//! TLS for the listening addresses, from PEM files.

use std::{fs, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use relay_node::{
    Renewal,
    config::{Config, Federation, Tls},
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    server::{ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio_rustls::TlsAcceptor;

/// Why the certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("certificate and key do not go together: {0}")]
    Config(#[from] rustls::Error),
}

/// How the listening addresses encrypt; a reload reads the files again.
#[derive(Debug)]
pub(crate) struct Encryption {
    tls: Tls,
    federation: Federation,
    /// Where an ACME authority keeps the certificate fresh.
    fetched: Option<Arc<dyn ResolvesServerCert>>,
    current: ArcSwap<ServerConfig>,
}

impl Encryption {
    /// Encryption as the configuration has it: by files, else by what an authority hands out (`fetched`);
    /// `None` where there is neither.
    pub fn of(
        config: &Config,
        fetched: Option<Arc<dyn ResolvesServerCert>>,
    ) -> Result<Option<Arc<Self>>, TlsError> {
        let (tls, federation) = (config.tls.clone(), config.federation.clone());
        let Some(current) = server(&tls, &federation, fetched.as_ref())? else { return Ok(None) };
        let current = ArcSwap::from_pointee(current);
        Ok(Some(Arc::new(Self { tls, federation, fetched, current })))
    }

    /// For the next handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

impl Renewal for Encryption {
    fn prepare(self: Arc<Self>) -> Result<Box<dyn FnOnce() + Send>, String> {
        let read = server(&self.tls, &self.federation, self.fetched.as_ref());
        let fresh = read.map_err(|error| error.to_string())?;
        Ok(Box::new(move || {
            if let Some(fresh) = fresh {
                self.current.store(Arc::new(fresh));
            }
        }))
    }
}

fn server(
    tls: &Tls,
    federation: &Federation,
    fetched: Option<&Arc<dyn ResolvesServerCert>>,
) -> Result<Option<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder().with_client_cert_verifier(clients(federation)?);
    let mut config = match (&tls.cert_file, &tls.key_file, fetched) {
        (Some(cert), Some(key), _) => {
            let (chain, key) = certificate(&cert.0, &key.0)?;
            builder.with_single_cert(chain, key)?
        }
        (_, _, Some(fetched)) => builder.with_cert_resolver(fetched.clone()),
        _ => return Ok(None),
    };
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(Some(config))
}

/// Checks the certificates of other hubs by their authority and its list of those taken back; who shows
/// none is let in as everybody is.
fn clients(federation: &Federation) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(ca) = &federation.ca_file else { return Ok(WebPkiClientVerifier::no_client_auth()) };
    let bad = |path: &Path, reason: &dyn std::fmt::Display| TlsError::File {
        path: path.display().to_string(),
        reason: reason.to_string(),
    };
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(&ca.0).map_err(|error| bad(&ca.0, &error))? {
        let root = root.map_err(|error| bad(&ca.0, &error))?;
        roots.add(root).map_err(|error| bad(&ca.0, &error))?;
    }
    let mut verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated();
    if let Some(list) = &federation.crl_file {
        let list = CertificateRevocationListDer::from_pem_file(&list.0)
            .map_err(|error| bad(&list.0, &error))?;
        verifier = verifier.with_crls([list]).allow_unknown_revocation_status();
    }
    verifier.build().map_err(|error| bad(&ca.0, &error))
}

const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Reads a certificate chain and its key.
fn certificate(
    cert: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let file =
        |path: &Path, reason: String| TlsError::File { path: path.display().to_string(), reason };
    let pem = fs::read(cert).map_err(|error| file(cert, error.to_string()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| file(cert, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| file(key, error.to_string()))?;
    Ok((chain, key))
}
