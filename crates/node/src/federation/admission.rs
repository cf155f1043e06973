//! Who may link to this relay (`federation.md`, Links): tokens, shared keys, certificates, lists.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use relay_core::sessions::Sessions;
use relay_fed::{
    Directory, Federation,
    link::Role,
    links::{Admission, Admitted, Arrival, Refusal, certificate},
};
use relay_proto::{
    NodeId, RelayId,
    auth::OperatorToken,
    call::Pattern,
    link::{
        NodeType,
        handshake::{AuthMethod, Claim},
    },
};
use relay_store::{Clock, TokenPurpose};
use zeroize::Zeroizing;

use super::{
    now_ms,
    pins::Pins,
    rules::{Decision, Rules},
};
use crate::config;

/// What the operator's configuration, tokens and pins say.
pub(super) struct OperatorsAdmission {
    pub role: Role,
    pub hub: config::Hub,
    pub psk: Option<Zeroizing<Vec<u8>>>,
    pub peer_secret: Option<Zeroizing<Vec<u8>>>,
    /// Whether hubs may prove themselves by certificates.
    pub mutual_tls: bool,
    pub sessions: Arc<Sessions>,
    pub pins: Arc<Pins>,
    pub rules: Arc<Rules>,
    pub directory: Arc<Mutex<Directory>>,
    pub clock: Arc<dyn Clock>,
    pub federation: Federation,
}

impl Admission for OperatorsAdmission {
    fn methods(&self) -> Vec<AuthMethod> {
        if self.role == Role::Home {
            return Vec::new();
        }
        let mut methods = vec![AuthMethod::Token];
        methods.extend(self.psk.is_some().then_some(AuthMethod::Psk));
        methods.extend(self.peer_secret.is_some().then_some(AuthMethod::Secret));
        methods.extend(self.mutual_tls.then_some(AuthMethod::Mtls));
        methods
    }

    fn admit<'a>(
        &'a self,
        claim: &'a Claim,
        arrival: &'a Arrival,
    ) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        Box::pin(async move {
            let (relay, key) = (&claim.peer.relay, &claim.peer.key);
            self.check_binding(relay, key)?;
            let secret = match claim.peer.node_type {
                NodeType::Home => {
                    self.check_spoke(relay, key)?;
                    self.prove_spoke(claim).await?;
                    None
                }
                NodeType::Main => {
                    self.check_peer(relay, key)?;
                    self.prove_peer(claim, arrival)?
                }
            };
            // Bound before the link is up, so that the name cannot be borrowed from now on.
            self.pins.bind_relay(relay, *key).await.map_err(|error| {
                tracing::error!(%error, %relay, "a relay's key cannot be kept");
                Refusal::Internal
            })?;
            Ok(Admitted { secret })
        })
    }

    /// What was pinned for a name is for those that come here: whom this relay dials it knows by the address.
    fn check_dialled(&self, relay: &RelayId, key: &NodeId) -> Result<(), Refusal> {
        let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        directory.check(now_ms(&*self.clock), relay, key).map_err(|_| Refusal::Borrowed)
    }
}

impl OperatorsAdmission {
    /// A name belongs to the key that had it first, and to the key the directory says.
    fn check_binding(&self, relay: &RelayId, key: &NodeId) -> Result<(), Refusal> {
        if self.pins.of_relay(relay).is_some_and(|pinned| pinned != *key) {
            return Err(Refusal::Borrowed);
        }
        let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        directory.check(now_ms(&*self.clock), relay, key).map_err(|_| Refusal::Borrowed)
    }

    fn check_spoke(&self, relay: &RelayId, key: &NodeId) -> Result<(), Refusal> {
        let fits = |list: &[String]| fits(list, relay, key);
        let decided = self.rules.of(relay, key);
        let allowed = decided == Some(Decision::Allow) || fits(&self.hub.spokes_allow);
        if decided == Some(Decision::Deny) || fits(&self.hub.spokes_deny) || !allowed {
            return Err(Refusal::Denied);
        }
        // How many there may be is the links' own bound.
        Ok(())
    }

    async fn prove_spoke(&self, claim: &Claim) -> Result<(), Refusal> {
        match claim.method {
            // A key that is known needs no token again: one that is shown all the same is not used up, and
            // may be used up already.
            AuthMethod::Token if self.is_known(claim) && !self.hub.token_each_time => Ok(()),
            AuthMethod::Token => {
                let text = claim.token().ok_or(Refusal::Unknown)?;
                let token = OperatorToken::parse(text).ok_or(Refusal::Token)?;
                let used = self.sessions.use_token(&token, &[TokenPurpose::Spoke]).await;
                let token = used.map_err(|_| Refusal::Token)?;
                // A token for some names only is used up all the same by another one.
                let name = claim.peer.relay.as_str();
                let fits = |pattern: &str| Pattern::from(pattern).matches(name);
                let meant = token.pattern.as_deref().is_none_or(fits);
                if meant { Ok(()) } else { Err(Refusal::Token) }
            }
            AuthMethod::Psk => {
                let proven = self.psk.as_ref().is_some_and(|psk| claim.proves(psk));
                if proven { Ok(()) } else { Err(Refusal::Proof) }
            }
            AuthMethod::Secret | AuthMethod::Mtls => Err(Refusal::Proof),
        }
    }

    fn is_known(&self, claim: &Claim) -> bool {
        self.pins.of_relay(&claim.peer.relay) == Some(claim.peer.key)
    }

    fn check_peer(&self, relay: &RelayId, key: &NodeId) -> Result<(), Refusal> {
        let allow = &self.hub.peers_allow;
        let allowed = allow.is_empty() || fits(allow, relay, key);
        if fits(&self.hub.peers_deny, relay, key) || !allowed {
            return Err(Refusal::Denied);
        }
        let peers = self.federation.peers();
        let again = peers.iter().any(|peer| peer.id == *relay);
        let up = peers.iter().filter(|peer| peer.is_connected).count();
        if !again && up as u64 >= self.hub.max_peers {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    /// The secret that the claim was proven with, to prove ourselves back.
    fn prove_peer(
        &self,
        claim: &Claim,
        arrival: &Arrival,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Refusal> {
        match claim.method {
            AuthMethod::Secret => {
                let secret = self.peer_secret.as_ref().filter(|secret| claim.proves(secret));
                secret.cloned().map(Some).ok_or(Refusal::Proof)
            }
            AuthMethod::Mtls => {
                let named = certificate::names(&arrival.certificates, &claim.peer.relay);
                if named { Ok(None) } else { Err(Refusal::Certificate) }
            }
            AuthMethod::Token | AuthMethod::Psk => Err(Refusal::Unknown),
        }
    }
}

/// Whether a list of patterns over names, and of keys, holds a relay.
fn fits(list: &[String], relay: &RelayId, key: &NodeId) -> bool {
    list.iter().any(|one| fits_one(one, relay, key))
}

/// Whether a pattern over names, or a key, means a relay.
pub(super) fn fits_one(one: &str, relay: &RelayId, key: &NodeId) -> bool {
    one == key.to_string() || Pattern::from(one).matches(relay.as_str())
}
