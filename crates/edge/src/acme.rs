//! A certificate for the relay's public name, fetched and renewed by ACME (RFC 8555) with the HTTP challenge
//! (section 8.3).
//!
//! Until the first certificate is there, TLS handshakes fail; everything else serves. What was fetched lies in
//! `acme/` of the data directory, so that a restart asks for nothing.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use axum::{
    Router,
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, OrderStatus, RetryPolicy,
};
use rand_core::{OsRng, RngCore};
use relay_node::{
    config::{Config, Tls},
    metrics::Metrics,
    write_secret,
};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_util::sync::CancellationToken;
use x509_cert::der::Decode;

/// Pauses after failures: authorities count them, and the name may not lead here yet.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// How often a good certificate is looked at.
const LOOK: Duration = Duration::from_secs(6 * 3600);
/// An order that takes longer is given up and begun again.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum AcmeError {
    #[error(transparent)]
    Authority(#[from] instant_acme::Error),
    #[error("the authority does not go on with the order: {0:?}")]
    NotReady(OrderStatus),
    #[error("the authority offers no HTTP challenge for this name")]
    NoChallenge,
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("the certificate cannot be used: {0}")]
    Certificate(String),
    #[error("the authority did not answer in time")]
    Timeout,
}

/// Keeps the certificate of one name.
#[derive(Debug)]
pub(crate) struct Acme {
    tls: Tls,
    dir: PathBuf,
    current: Arc<Current>,
    answers: Arc<Answers>,
    metrics: Arc<Metrics>,
}

/// What handshakes use.
#[derive(Debug, Default)]
struct Current {
    key: ArcSwapOption<CertifiedKey>,
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }
}

/// What the authority will ask for: the token of a challenge and its answer. One order has one.
#[derive(Debug, Default)]
struct Answers {
    domain: String,
    by_token: Mutex<HashMap<String, String>>,
}

impl Answers {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.by_token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Acme {
    /// `None` where no name is configured.
    pub fn of(config: &Config, metrics: Arc<Metrics>) -> Option<Self> {
        let tls = config.tls.clone();
        if tls.domain.is_empty() {
            return None;
        }
        let answers = Answers { domain: tls.domain.clone(), ..Answers::default() };
        Some(Self {
            dir: config.node.data_dir().join("acme"),
            current: Arc::default(),
            answers: Arc::new(answers),
            tls,
            metrics,
        })
    }

    pub fn certificates(&self) -> Arc<dyn ResolvesServerCert> {
        self.current.clone()
    }

    /// The plain listener: answers challenges, sends everybody else to https.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/.well-known/acme-challenge/{token}", get(challenge))
            .fallback(elsewhere)
            .with_state(self.answers.clone())
    }

    /// Fetches and renews until the relay stops.
    pub async fn run(self, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        let mut until = self.use_stored().unwrap_or_default();
        let mut pause = FIRST_PAUSE;
        loop {
            if !is_due(until, SystemTime::now()) {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let fetched = tokio::time::timeout(PATIENCE, self.fetch()).await;
            match fetched.unwrap_or(Err(AcmeError::Timeout)) {
                Ok(validity) => {
                    tracing::info!(domain = %self.tls.domain, "a new certificate is in use");
                    until = validity;
                    pause = FIRST_PAUSE;
                }
                Err(error) => {
                    let wait = pause
                        .mul_f64(0.5 + f64::from(OsRng.next_u32()) / f64::from(u32::MAX) / 2.0);
                    tracing::error!(
                        domain = %self.tls.domain, %error, again_in = ?wait,
                        "no certificate: port 80 of the name must lead to 'tls.challenge'"
                    );
                    tokio::time::sleep(wait).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// The certificate of an earlier run, where it is still good for a handshake.
    fn use_stored(&self) -> Option<Validity> {
        let chain = std::fs::read(self.path(CHAIN)).ok()?;
        let key = std::fs::read(self.path(KEY)).ok()?;
        match self.install(&chain, &key) {
            Ok(validity) => Some(validity),
            Err(error) => {
                tracing::warn!(%error, "the stored certificate is left alone");
                None
            }
        }
    }

    async fn fetch(&self) -> Result<Validity, AcmeError> {
        let account = self.account().await?;
        let names = [Identifier::Dns(self.tls.domain.clone())];
        let mut order = account.new_order(&NewOrder::new(&names)).await?;
        let asked = self.answer(&mut order).await;
        let ready = match asked {
            Ok(()) => order.poll_ready(&RetryPolicy::default()).await.map_err(Into::into),
            Err(error) => Err(error),
        };
        self.answers.lock().clear();
        let status = ready?;
        if status != OrderStatus::Ready {
            return Err(AcmeError::NotReady(status));
        }
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&RetryPolicy::default()).await?;
        let validity = self.install(chain.as_bytes(), key.as_bytes())?;
        self.save(KEY, key.as_bytes())?;
        self.save(CHAIN, chain.as_bytes())?;
        Ok(validity)
    }

    /// Puts the answers where the authority looks, and says that they are there.
    async fn answer(&self, order: &mut instant_acme::Order) -> Result<(), AcmeError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let mut challenge =
                authorization.challenge(ChallengeType::Http01).ok_or(AcmeError::NoChallenge)?;
            let answer = challenge.key_authorization().as_str().to_owned();
            self.answers.lock().insert(challenge.token.clone(), answer);
            challenge.set_ready().await?;
        }
        Ok(())
    }

    /// The account of an earlier run, or a new one.
    async fn account(&self) -> Result<Account, AcmeError> {
        let builder = match &self.tls.acme_ca_file {
            Some(root) => Account::builder_with_root(&root.0)?,
            None => Account::builder()?,
        };
        if let Ok(text) = std::fs::read(self.path(ACCOUNT)) {
            let credentials: AccountCredentials = serde_json::from_slice(&text)
                .map_err(|error| self.file(ACCOUNT, error.to_string()))?;
            return Ok(builder.from_credentials(credentials).await?);
        }
        let email = format!("mailto:{}", self.tls.acme_email);
        let contact = [email.as_str()];
        let new = NewAccount {
            contact: if self.tls.acme_email.is_empty() { &[] } else { &contact },
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) =
            builder.create(&new, self.tls.acme_directory.clone(), None).await?;
        let text = serde_json::to_vec(&credentials)
            .map_err(|error| self.file(ACCOUNT, error.to_string()))?;
        self.save(ACCOUNT, &text)?;
        Ok(account)
    }

    /// Uses a certificate from now on.
    fn install(&self, chain: &[u8], key: &[u8]) -> Result<Validity, AcmeError> {
        let unusable = |error: &dyn std::fmt::Display| AcmeError::Certificate(error.to_string());
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(&error))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unusable(&error))?;
        let first = chain.first().ok_or_else(|| unusable(&"it is empty"))?;
        let validity = Validity::of(first)?;
        let provider = CryptoProvider::get_default()
            .ok_or_else(|| unusable(&"no cryptography is installed"))?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|e| unusable(&e))?;
        self.current.key.store(Some(Arc::new(certified)));
        self.metrics.certificate_expires(validity.not_after);
        Ok(validity)
    }

    fn save(&self, name: &str, bytes: &[u8]) -> Result<(), AcmeError> {
        std::fs::create_dir_all(&self.dir)
            .and_then(|()| write_secret(&self.path(name), bytes))
            .map_err(|error| self.file(name, error.to_string()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn file(&self, name: &str, reason: String) -> AcmeError {
        AcmeError::File { path: self.path(name).display().to_string(), reason }
    }
}

const ACCOUNT: &str = "account.json";
const CHAIN: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// From when to when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Validity {
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Default for Validity {
    /// Long over.
    fn default() -> Self {
        Self { not_before: UNIX_EPOCH, not_after: UNIX_EPOCH }
    }
}

impl Validity {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, AcmeError> {
        let certificate = x509_cert::Certificate::from_der(certificate)
            .map_err(|error| AcmeError::Certificate(error.to_string()))?;
        let validity = certificate.tbs_certificate.validity;
        Ok(Self {
            not_before: validity.not_before.to_system_time(),
            not_after: validity.not_after.to_system_time(),
        })
    }
}

/// Whether two thirds of the certificate's life are over.
fn is_due(validity: Validity, now: SystemTime) -> bool {
    let life = validity.not_after.duration_since(validity.not_before).unwrap_or_default();
    let left = validity.not_after.duration_since(now).unwrap_or_default();
    left <= life / 3
}

async fn challenge(State(answers): State<Arc<Answers>>, Path(token): Path<String>) -> Response {
    match answers.lock().get(&token) {
        Some(answer) => {
            ([(header::CONTENT_TYPE, "application/octet-stream")], answer.clone()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn elsewhere(State(answers): State<Arc<Answers>>, request: Request) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    Redirect::permanent(&format!("https://{}{path}", answers.domain)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_when_a_third_is_left() {
        let at = |days: u64| UNIX_EPOCH + Duration::from_secs(days * 86_400);
        let validity = Validity { not_before: at(100), not_after: at(190) };
        assert!(!is_due(validity, at(100)) && !is_due(validity, at(159)));
        assert!(is_due(validity, at(160)) && is_due(validity, at(500)));
        assert!(is_due(Validity::default(), at(1)));
    }
}
