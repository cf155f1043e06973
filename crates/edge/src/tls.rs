//! TLS for the listening addresses, from PEM files.

use std::{fs, path::Path, sync::Arc};

use relay_node::config::Federation;
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

/// Encrypts by whatever certificate `certificates` has at the time of a handshake.
pub(crate) fn acceptor_of(
    certificates: Arc<dyn ResolvesServerCert>,
    clients: Arc<dyn ClientCertVerifier>,
) -> TlsAcceptor {
    let mut config =
        ServerConfig::builder().with_client_cert_verifier(clients).with_cert_resolver(certificates);
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    TlsAcceptor::from(Arc::new(config))
}

/// Checks the certificates of other hubs by their authority and its list of those taken back; who shows
/// none is let in as everybody is.
pub(crate) fn clients(federation: &Federation) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
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
pub(crate) fn acceptor(
    cert: &Path,
    key: &Path,
    clients: Arc<dyn ClientCertVerifier>,
) -> Result<TlsAcceptor, TlsError> {
    let file =
        |path: &Path, reason: String| TlsError::File { path: path.display().to_string(), reason };
    let pem = fs::read(cert).map_err(|error| file(cert, error.to_string()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| file(cert, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| file(key, error.to_string()))?;
    let mut config =
        ServerConfig::builder().with_client_cert_verifier(clients).with_single_cert(chain, key)?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(TlsAcceptor::from(Arc::new(config)))
}
