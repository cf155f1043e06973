//! Who the caller is: a bearer token, or a signature over each request (`common.md`, Authentication).

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use relay_proto::auth::request::{request_draft, request_header};
use reqwest::{Method, Url, header::HeaderValue};
use zeroize::Zeroizing;

use crate::{error::Error, signer::Signer};

/// What a client shows to a relay. Never printed.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Nothing: enough for publishing, and for what is open to everyone.
    #[default]
    Anonymous,
    /// A session token or another bearer token.
    Token(Arc<Zeroizing<String>>),
    /// A key that signs each request.
    Key(Arc<Signer>),
}

impl Credentials {
    /// A bearer token.
    pub fn token(token: impl Into<String>) -> Self {
        Self::Token(Arc::new(Zeroizing::new(token.into())))
    }

    /// A key that signs each request.
    pub fn key(key: impl Into<Signer>) -> Self {
        Self::Key(Arc::new(key.into()))
    }

    /// The `Authorization` header for one request.
    pub(crate) fn header(
        &self,
        method: &Method,
        url: &Url,
        body: Option<&[u8]>,
    ) -> Result<Option<HeaderValue>, Error> {
        let text = match self {
            Self::Anonymous => return Ok(None),
            Self::Token(token) => Zeroizing::new(format!("Bearer {}", token.as_str())),
            Self::Key(key) => Zeroizing::new(signed_request(key, method, url, body)?),
        };
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| Error::Address("the token holds characters that no token has".into()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Token(_) => f.write_str("Token(…)"),
            Self::Key(key) => write!(f, "Key({})", key.node_id()),
        }
    }
}

/// `Relay <base64url(event)>`: good for this request, once, for a minute.
fn signed_request(
    key: &Signer,
    method: &Method,
    url: &Url,
    body: Option<&[u8]>,
) -> Result<String, Error> {
    let nonce = hex::encode(random::<8>()?);
    let body = body.unwrap_or_default();
    let draft = request_draft(method.as_str(), url.as_str(), body, unix_ns(), &nonce);
    Ok(request_header(&key.sign_event(&draft)?))
}

/// The wall clock in unix nanoseconds, as events are dated.
pub fn unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|time| u64::try_from(time.as_nanos()).ok())
        .unwrap_or(0)
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(crate::keys::KeyFileError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use relay_proto::{EventLimits, event};

    use super::*;
    use crate::keys;

    #[test]
    fn a_signed_request_names_url_method_and_body_and_is_new_each_time() {
        let credentials = Credentials::key(keys::generate().unwrap());
        let url = Url::parse("https://relay.example.com/v1/locks?ns=a").unwrap();
        let make = || {
            let header = credentials.header(&Method::POST, &url, Some(b"{}")).unwrap().unwrap();
            header.to_str().unwrap().to_owned()
        };
        let (first, second) = (make(), make());
        assert_ne!(first, second);
        let json = URL_SAFE_NO_PAD.decode(first.strip_prefix("Relay ").unwrap()).unwrap();
        let raw = event::parse_event(&json, &EventLimits::default()).unwrap();
        let event = event::verify(raw).unwrap();
        assert_eq!(event.kind(), 27_235);
        let value = |name: &str| event.tags().values(name).next().unwrap().to_owned();
        assert_eq!(value("u"), url.as_str());
        assert_eq!(value("method"), "POST");
        assert_eq!(value("payload"), blake3::hash(b"{}").to_hex().as_str());
    }

    #[test]
    fn secrets_do_not_show() {
        assert!(!format!("{:?}", Credentials::token("st_secret")).contains("secret"));
    }
}
