//! Who may link: asked once for each link that is accepted, after the other side proved its key.

use std::net::SocketAddr;

use futures_util::future::BoxFuture;
use relay_proto::{
    Code, NodeId, Problem, RelayId,
    link::handshake::{AuthMethod, Claim},
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

/// What the server knows of a connection beside what is said on it.
#[derive(Debug, Clone, Default)]
pub struct Arrival {
    pub remote: Option<SocketAddr>,
    /// The TLS client's chain, its own certificate first, as the server verified it.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// What an admitted relay was admitted with.
#[derive(Default)]
pub struct Admitted {
    /// The secret that its proof was made with, so that this side can show it too.
    pub secret: Option<Zeroizing<Vec<u8>>>,
}

impl std::fmt::Debug for Admitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admitted").finish_non_exhaustive()
    }
}

/// Why a relay may not link.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("the join token is unknown, used up, expired or revoked")]
    Token,
    #[error("this relay is not known here; a join token is needed")]
    Unknown,
    #[error("the proof does not fit the shared key or secret")]
    Proof,
    #[error("the certificate does not name this relay")]
    Certificate,
    #[error("the id is bound to another key")]
    Borrowed,
    #[error("this hub does not take this relay")]
    Denied,
    #[error("this hub takes no more links")]
    Full,
    #[error("the hub could not check the permission")]
    Internal,
}

impl Refusal {
    pub fn problem(&self) -> Problem {
        let code = match self {
            Self::Token | Self::Unknown | Self::Proof | Self::Certificate => Code::Unauthorized,
            Self::Borrowed => Code::Conflict,
            Self::Denied => Code::Forbidden,
            Self::Full => {
                return Problem::rate_limited(self.to_string(), 30_000);
            }
            Self::Internal => Code::InternalError,
        };
        Problem::new(code, self.to_string())
    }

    /// One word for logs and the metric's label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Token => "bad_token",
            Self::Unknown => "unknown_relay",
            Self::Proof => "bad_proof",
            Self::Certificate => "bad_certificate",
            Self::Borrowed => "borrowed_id",
            Self::Denied => "denied",
            Self::Full => "full",
            Self::Internal => "internal",
        }
    }
}

/// The operator's policy, with its tokens, keys and lists.
pub trait Admission: Send + Sync {
    /// The methods that are taken at all.
    fn methods(&self) -> Vec<AuthMethod>;

    /// Decides on a relay that holds its key, and binds its id to that key. A join token that is good
    /// for one use is used up here.
    fn admit<'a>(
        &'a self,
        claim: &'a Claim,
        arrival: &'a Arrival,
    ) -> BoxFuture<'a, Result<Admitted, Refusal>>;

    /// Whether a relay that this one dialled, and that proved its key, may have its name.
    ///
    /// # Errors
    /// Where the name is bound to another key.
    fn check_dialled(&self, _relay: &RelayId, _key: &NodeId) -> Result<(), Refusal> {
        Ok(())
    }
}
