//! Ids and signatures, one by one or many at once, by one rule (ZIP-215 validity, S canonical).

use std::{collections::HashMap, fmt};

use curve25519_dalek::{
    EdwardsPoint, Scalar,
    constants::ED25519_BASEPOINT_POINT,
    edwards::CompressedEdwardsY,
    traits::{IsIdentity, VartimeMultiscalarMul},
};
use ed25519_zebra::{Signature as RawSignature, VerificationKey};
use quick_cache::unsync::Cache;
use rand_core::{CryptoRng, RngCore};
use sha2::{Digest, Sha512};
use ssh_key::{HashAlg, SshSig, public::KeyData};

use super::{
    SSHSIG_NAMESPACE,
    envelope::{Event, EventError, RawEvent, Signature},
};
use crate::key::NodeId;

/// Below this many signatures a batch costs more than it saves.
const MIN_BATCH: usize = 4;
/// Keys that a [`Verifier`] remembers, about 200 bytes each; beyond it those not seen for long are forgotten.
const MAX_KEYS: usize = 10_000;

/// Checks one event's id and signature.
///
/// # Errors
/// [`EventError::IdMismatch`], [`EventError::SignatureForm`], [`EventError::BadSignature`].
pub fn verify(raw: RawEvent) -> Result<Event, EventError> {
    let claim = claim_of(&raw)?;
    if claim.holds(&raw) { Ok(Event::from_verified(raw)) } else { Err(EventError::BadSignature) }
}

/// Checks many events at once, and remembers the keys of their authors as points of the curve.
pub struct Verifier {
    keys: Cache<NodeId, EdwardsPoint>,
}

impl Default for Verifier {
    fn default() -> Self {
        Self { keys: Cache::new(MAX_KEYS) }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.keys.len()).finish()
    }
}

impl Verifier {
    /// Checks many events; the outcome of each is what [`verify`] says of it alone.
    ///
    /// `rng` blinds the batch equation; it must be unpredictable to the authors. 32 bytes of it are used.
    pub fn verify_many<R: RngCore + CryptoRng>(
        &mut self,
        raws: Vec<RawEvent>,
        mut rng: R,
    ) -> Vec<Result<Event, EventError>> {
        if raws.len() < MIN_BATCH {
            return raws.into_iter().map(verify).collect();
        }
        let claims: Vec<_> = raws.iter().map(claim_of).collect();
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let all_hold = self.all_hold(&raws, &claims, &seed).is_some();
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

    /// Whether every claim holds, by one equation for all:
    /// `8·(Σ z·R + Σ (z·k)·A − (Σ z·s)·B) = 0` with `k = H(R, A, message)` and a random `z` of 128 bits for each signature.
    /// The terms of one author are joined.
    fn all_hold(
        &mut self,
        raws: &[RawEvent],
        claims: &[Result<Claim, EventError>],
        seed: &[u8; 32],
    ) -> Option<()> {
        let mut blinds = blake3::Hasher::new_keyed(seed).finalize_xof();
        let mut authors = HashMap::new();
        // The first is the base point's; then one for each author and each signature.
        let mut scalars = vec![Scalar::ZERO];
        let mut points = vec![ED25519_BASEPOINT_POINT];
        for (raw, claim) in raws.iter().zip(claims) {
            let Ok(claim) = claim else { continue };
            let (r, s) = (claim.signature.r_bytes(), claim.signature.s_bytes());
            let s = Option::<Scalar>::from(Scalar::from_canonical_bytes(*s))?;
            let mut blind = [0; 16];
            blinds.fill(&mut blind);
            let z = Scalar::from(u128::from_le_bytes(blind));
            let hash = Sha512::new()
                .chain_update(r)
                .chain_update(raw.pubkey.as_bytes())
                .chain_update(claim.message(raw));
            let k = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
            let place = match authors.get(&raw.pubkey) {
                Some(&place) => place,
                None => {
                    scalars.push(Scalar::ZERO);
                    points.push(self.point(&raw.pubkey)?);
                    authors.insert(raw.pubkey, points.len() - 1);
                    points.len() - 1
                }
            };
            scalars[0] -= z * s;
            scalars[place] += z * k;
            scalars.push(z);
            points.push(CompressedEdwardsY(*r).decompress()?);
        }
        let sum = EdwardsPoint::vartime_multiscalar_mul(&scalars, &points);
        sum.mul_by_cofactor().is_identity().then_some(())
    }

    /// The point of a key; `None` where its bytes are no point.
    fn point(&mut self, key: &NodeId) -> Option<EdwardsPoint> {
        if let Some(point) = self.keys.get(key) {
            return Some(*point);
        }
        let point = CompressedEdwardsY(*key.as_bytes()).decompress()?;
        self.keys.insert(*key, point);
        Some(point)
    }
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
