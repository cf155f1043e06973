//! Ids and signatures, one by one or many at once, by one rule (ZIP-215 validity, S canonical).

use ed25519_zebra::{Signature as RawSignature, VerificationKey, VerificationKeyBytes, batch};
use rand_core::{CryptoRng, RngCore};
use ssh_key::{HashAlg, SshSig, public::KeyData};

use super::{
    SSHSIG_NAMESPACE,
    envelope::{Event, EventError, RawEvent, Signature},
};

/// Below this many signatures a batch costs more than it saves.
const MIN_BATCH: usize = 4;

/// Checks one event's id and signature.
///
/// # Errors
/// [`EventError::IdMismatch`], [`EventError::SignatureForm`], [`EventError::BadSignature`].
pub fn verify(raw: RawEvent) -> Result<Event, EventError> {
    let claim = claim_of(&raw)?;
    if claim.holds(&raw) { Ok(Event::from_verified(raw)) } else { Err(EventError::BadSignature) }
}

/// Checks many events; the outcome of each is what [`verify`] says of it alone.
///
/// `rng` blinds the batch equation; it must be unpredictable to the authors.
pub fn verify_many<R: RngCore + CryptoRng>(
    raws: Vec<RawEvent>,
    rng: R,
) -> Vec<Result<Event, EventError>> {
    if raws.len() < MIN_BATCH {
        return raws.into_iter().map(verify).collect();
    }
    let claims: Vec<_> = raws.iter().map(claim_of).collect();
    let mut batch = batch::Verifier::new();
    for (raw, claim) in raws.iter().zip(&claims) {
        if let Ok(claim) = claim {
            let key = VerificationKeyBytes::from(*raw.pubkey.as_bytes());
            batch.queue(batch::Item::from((key, claim.signature, &claim.message(raw))));
        }
    }
    let all_hold = batch.verify(rng).is_ok();
    raws.into_iter()
        .zip(claims)
        .map(|(raw, claim)| {
            let claim = claim?;
            if all_hold || claim.holds(&raw) {
                Ok(Event::from_verified(raw))
            } else {
                Err(EventError::BadSignature)
            }
        })
        .collect()
}

/// What is to be verified of an event whose id is right.
struct Claim {
    signature: RawSignature,
    /// The bytes that were signed, where they are not the canonical ones.
    wrapped: Option<Vec<u8>>,
}

impl Claim {
    fn message<'a>(&'a self, raw: &'a RawEvent) -> &'a [u8] {
        self.wrapped.as_deref().unwrap_or(&raw.canonical)
    }

    fn holds(&self, raw: &RawEvent) -> bool {
        VerificationKey::try_from(*raw.pubkey.as_bytes())
            .and_then(|key| key.verify(&self.signature, self.message(raw)))
            .is_ok()
    }
}

fn claim_of(raw: &RawEvent) -> Result<Claim, EventError> {
    if blake3::hash(&raw.canonical) != *raw.id.as_bytes() {
        return Err(EventError::IdMismatch);
    }
    match &raw.sig {
        Signature::Native(bytes) => {
            Ok(Claim { signature: RawSignature::from(*bytes), wrapped: None })
        }
        Signature::SshSig(armour) => ssh_claim(raw, armour),
    }
}

fn ssh_claim(raw: &RawEvent, armour: &str) -> Result<Claim, EventError> {
    let form = EventError::SignatureForm;
    let sig: SshSig = armour.parse().map_err(|_| form("the SSH signature cannot be read"))?;
    if sig.namespace() != SSHSIG_NAMESPACE {
        return Err(form("the SSH signature was made for another namespace"));
    }
    match sig.public_key() {
        KeyData::Ed25519(key) if key.0 == *raw.pubkey.as_bytes() => {}
        KeyData::Ed25519(_) => return Err(form("the SSH signature is by another key")),
        _ => return Err(form("the SSH key is not ssh-ed25519")),
    }
    if !matches!(sig.hash_alg(), HashAlg::Sha512 | HashAlg::Sha256) {
        return Err(form("the hash is neither sha512 nor sha256"));
    }
    let bytes: [u8; 64] = sig
        .signature_bytes()
        .try_into()
        .map_err(|_| form("the SSH signature has the wrong length"))?;
    let message = SshSig::signed_data(SSHSIG_NAMESPACE, sig.hash_alg(), &raw.canonical)
        .map_err(|_| form("the SSH signature cannot be checked"))?;
    Ok(Claim { signature: RawSignature::from(bytes), wrapped: Some(message) })
}
