//! What mutual TLS says about a relay: the server of the edge verified the chain; here is read
//! whether the client's certificate names the relay that the handshake proved.

use relay_proto::RelayId;
use rustls::{client::verify_server_name, server::ParsedCertificate};
use rustls_pki_types::{CertificateDer, ServerName};

/// Whether the first certificate of a verified chain names `relay` as a DNS name (RFC 6125).
pub fn names(chain: &[CertificateDer<'_>], relay: &RelayId) -> bool {
    let Some(own) = chain.first() else { return false };
    let Ok(certificate) = ParsedCertificate::try_from(own) else { return false };
    let Ok(name) = ServerName::try_from(relay.as_str()) else { return false };
    verify_server_name(&certificate, &name).is_ok()
}
