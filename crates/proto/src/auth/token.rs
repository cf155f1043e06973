//! Opaque tokens: 256 random bits behind a prefix that says what they open.
//!
//! A token's text leaves this type only through [`Token::reveal`], for the one answer that hands
//! it to the client. Everything else works with its [`TokenHash`].

use std::{fmt, hash::Hash, marker::PhantomData};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand_core::{CryptoRng, RngCore};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What a kind of token opens, told apart by its prefix.
pub trait Prefix {
    const PREFIX: &'static str;
}

macro_rules! prefixes {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal => $alias:ident;)*) => {$(
        #[derive(Debug, Clone, Copy)]
        pub enum $name {}
        impl Prefix for $name {
            const PREFIX: &'static str = $prefix;
        }
        $(#[$doc])*
        pub type $alias = Token<$name>;
    )*};
}

prefixes! {
    /// Bearer of one session.
    Session = "st_" => SessionToken;
    /// Continues a session, once.
    Resume = "rt_" => ResumeToken;
    /// Starts sessions of one user and device for some minutes.
    Auth = "at_" => AuthToken;
    /// Made by an operator for a user, an admin, a metrics reader or a spoke.
    Operator = "ot_" => OperatorToken;
}

/// A secret of 256 random bits. Wiped when dropped; `Debug` shows its kind only.
#[derive(Clone)]
pub struct Token<K> {
    bytes: Zeroizing<[u8; 32]>,
    kind: PhantomData<K>,
}

impl<K: Prefix> Token<K> {
    pub fn generate<R: RngCore + CryptoRng>(rng: &mut R) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(bytes.as_mut());
        Self { bytes, kind: PhantomData }
    }

    /// Reads the prefix and 43 characters of base64url; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(K::PREFIX)?;
        if encoded.len() != 43 {
            return None;
        }
        let mut bytes = Zeroizing::new([0; 32]);
        let length = URL_SAFE_NO_PAD.decode_slice_unchecked(encoded, bytes.as_mut()).ok()?;
        (length == 32).then_some(Self { bytes, kind: PhantomData })
    }

    /// The text for the one answer that hands the token out.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(K::PREFIX.len() + 43));
        text.push_str(K::PREFIX);
        URL_SAFE_NO_PAD.encode_string(self.bytes.as_slice(), &mut text);
        text
    }

    /// What is stored and looked up: SHA-256 of the text.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.reveal())
    }
}

impl<K: Prefix> fmt::Debug for Token<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", K::PREFIX)
    }
}

/// SHA-256 of a token's text. Compared in constant time.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl Hash for TokenHash {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// Names a session for people and lists: `sid_` and 22 characters. Not secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// The id of the session whose first token has this hash.
    pub fn of_first_token(hash: &TokenHash) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&hash.0[..16]);
        Self(id)
    }

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix("sid_").filter(|encoded| encoded.len() == 22)?;
        URL_SAFE_NO_PAD.decode(encoded).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sid_{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_core::OsRng;

    use super::*;

    #[test]
    fn a_token_survives_its_text() {
        let token = SessionToken::generate(&mut OsRng);
        let text = token.reveal();
        assert!(text.starts_with("st_") && text.len() == 46);
        assert_eq!(SessionToken::parse(&text).unwrap().hash(), token.hash());
        assert_eq!(token.hash(), TokenHash::of(&text));
    }

    #[test]
    fn a_token_of_one_kind_is_none_of_another() {
        let text = SessionToken::generate(&mut OsRng).reveal();
        assert!(ResumeToken::parse(&text).is_none());
        assert!(ResumeToken::parse(&text.replace("st_", "rt_")).is_some());
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = AuthToken::generate(&mut OsRng);
        assert_eq!(format!("{token:?}"), "at_…");
        assert_eq!(format!("{:?}", token.hash()), "TokenHash(…)");
    }

    #[test]
    fn only_one_text_for_a_token() {
        // The last character carries four bits that count and two that must be zero.
        let text = format!("st_{}A", "A".repeat(42));
        assert!(SessionToken::parse(&text).is_some());
        assert!(SessionToken::parse(&format!("st_{}B", "A".repeat(42))).is_none());
        assert!(SessionToken::parse(&format!("{text}=")).is_none());
    }

    #[test]
    fn session_ids() {
        let id = SessionId::of_first_token(&TokenHash::of("st_x"));
        assert_eq!(SessionId::parse(&id.to_string()), Some(id));
        assert_eq!(SessionId::parse("sid_"), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "(st_)?[A-Za-z0-9_=-]{0,50}|st_\\PC{0,43}|st_[A-Za-z0-9]{43}") {
            if let Some(token) = SessionToken::parse(&text) {
                prop_assert!(*token.reveal() == text);
            }
            let _ = SessionId::parse(&text);
        }
    }
}
