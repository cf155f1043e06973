//! The signed request of tools that keep no session (`common.md`, Authentication 3):
//! `Authorization: Relay <base64url(event JSON)>`.

use std::collections::{HashSet, VecDeque};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    error::Problem,
    event::{
        Draft, Event, EventError, EventLimits, SigningKey, Tags, parse_event, reserved, verify,
    },
    key::{EventId, NodeId, parse_hex},
};

/// How far the event's time may lie from the relay's clock, either way.
pub const WINDOW_NS: u64 = 60_000_000_000;
/// The scheme in the `Authorization` header.
pub const SCHEME: &str = "Relay";
/// Characters of the header's value; a URL of 8 KiB and an SSH signature fit.
const MAX_HEADER_CHARS: usize = 16 << 10;

/// Why a signed request is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the Authorization header holds no event: {0}")]
    Form(&'static str),
    #[error("the Authorization header holds no good event: {0}")]
    Event(#[from] EventError),
    #[error("a signed request is an event of kind 27235")]
    Kind,
    #[error("the request was signed more than 60 s away from the relay's clock")]
    Time,
    #[error("the signed method is another one")]
    Method,
    #[error("the signed URL is another one")]
    Url,
    #[error("the signed body is another one, or the payload tag is missing")]
    Payload,
    #[error("this signed request was used before; each is good once")]
    Replayed,
    #[error("the request was signed before this relay started; sign again")]
    BeforeStart,
    #[error("too many signed requests at the moment")]
    Busy {
        /// When room is expected.
        retry_after_ms: u64,
    },
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Busy { retry_after_ms } => {
                Self::rate_limited(error.to_string(), retry_after_ms)
            }
            _ => Self::unauthorized(error.to_string()),
        }
    }
}

/// A request whose signature is right. Whether it is *this* request is for the checks to say.
#[derive(Debug, Clone)]
pub struct SignedRequest(Event);

impl SignedRequest {
    /// Reads the value of the header after the scheme, and checks the signature.
    ///
    /// # Errors
    /// [`RequestError::Form`], [`RequestError::Event`], [`RequestError::Kind`].
    pub fn parse(value: &str, limits: &EventLimits) -> Result<Self, RequestError> {
        if value.len() > MAX_HEADER_CHARS {
            return Err(RequestError::Form("it is longer than 16 KiB"));
        }
        let json = URL_SAFE_NO_PAD
            .decode(value.trim_end_matches('='))
            .map_err(|_| RequestError::Form("it is not base64url"))?;
        let raw = parse_event(&json, limits)?;
        let event = verify(raw)?;
        if event.kind() != reserved::HTTP_AUTH {
            return Err(RequestError::Kind);
        }
        Ok(Self(event))
    }

    /// Who signed.
    pub fn author(&self) -> NodeId {
        self.0.pubkey()
    }

    /// Checks time, method and URL. `urls` are the absolute URLs under which the client may know
    /// what it asked for (the configured one, the one of its `Host` header).
    ///
    /// # Errors
    /// [`RequestError::Time`], [`RequestError::Method`], [`RequestError::Url`].
    pub fn check_target<'u>(
        &self,
        method: &str,
        mut urls: impl Iterator<Item = &'u str>,
        now_ns: u64,
    ) -> Result<(), RequestError> {
        if self.0.created_at_ns().abs_diff(now_ns) > WINDOW_NS {
            return Err(RequestError::Time);
        }
        if self.only("method") != Some(method) {
            return Err(RequestError::Method);
        }
        let signed = self.only("u").ok_or(RequestError::Url)?;
        if urls.any(|url| url == signed) { Ok(()) } else { Err(RequestError::Url) }
    }

    /// Checks the body that came with the request; an empty one needs no `payload` tag.
    ///
    /// # Errors
    /// [`RequestError::Payload`].
    pub fn check_body(&self, body: &[u8]) -> Result<(), RequestError> {
        let mut tags = self.0.tags().iter().filter(|tag| tag.name() == Some("payload"));
        let hash = match (tags.next(), tags.next()) {
            (None, _) if body.is_empty() => return Ok(()),
            (Some(tag), None) => tag.value().and_then(parse_hex::<32>),
            _ => None,
        };
        if hash.is_some_and(|hash| blake3::hash(body) == hash) {
            Ok(())
        } else {
            Err(RequestError::Payload)
        }
    }

    /// The value of the tag `name`, where there is exactly one.
    fn only(&self, name: &str) -> Option<&str> {
        let mut tags = self.0.tags().iter().filter(|tag| tag.name() == Some(name));
        match (tags.next(), tags.next()) {
            (Some(tag), None) => tag.value(),
            _ => None,
        }
    }
}

/// The header value, scheme included, that signs one request: what a client does.
///
/// # Errors
/// [`EventError`] where the URL is longer than an element of a tag may be.
pub fn sign_request(
    key: &SigningKey,
    method: &str,
    url: &str,
    body: &[u8],
    now_ns: u64,
    nonce: &str,
) -> Result<String, EventError> {
    Ok(request_header(&request_draft(method, url, body, now_ns, nonce).sign(key)?))
}

/// The header value, scheme included, of a request's signed event.
pub fn request_header(event: &Event) -> String {
    format!("{SCHEME} {}", URL_SAFE_NO_PAD.encode(event.json()))
}

/// The event that signs one request, before it is signed.
pub fn request_draft(method: &str, url: &str, body: &[u8], now_ns: u64, nonce: &str) -> Draft {
    let mut tags = Tags::new();
    tags.push(["u", url]);
    tags.push(["method", method]);
    if !body.is_empty() {
        tags.push(["payload", blake3::hash(body).to_hex().as_str()]);
    }
    // Two equal requests in one nanosecond must still be two events.
    tags.push(["nonce", nonce]);
    Draft { kind: reserved::HTTP_AUTH, created_at_ns: now_ns, tags, content: String::new() }
}

/// Remembers which signed requests were used, so that each is good once.
///
/// Memory is bounded: what is older than the window is forgotten, since its time refuses it; when
/// the guard is full, requests are refused rather than let through unseen. What was used before
/// the guard was made is unknown to it, so requests signed before that are refused.
#[derive(Debug)]
pub struct ReplayGuard {
    used: HashSet<EventId>,
    /// When each may be forgotten, soonest first.
    ends: VecDeque<(u64, EventId)>,
    capacity: usize,
    born_ns: u64,
}

impl ReplayGuard {
    pub fn new(capacity: usize, now_ns: u64) -> Self {
        Self { used: HashSet::new(), ends: VecDeque::new(), capacity, born_ns: now_ns }
    }

    /// Uses `request` up.
    ///
    /// # Errors
    /// [`RequestError::Replayed`], [`RequestError::BeforeStart`], [`RequestError::Busy`].
    pub fn spend(&mut self, request: &SignedRequest, now_ns: u64) -> Result<(), RequestError> {
        if request.0.created_at_ns() < self.born_ns {
            return Err(RequestError::BeforeStart);
        }
        self.forget(now_ns);
        let id = request.0.id();
        if self.used.contains(&id) {
            return Err(RequestError::Replayed);
        }
        if self.used.len() >= self.capacity {
            let soonest = self.ends.front().map_or(now_ns, |(end, _)| *end);
            let retry_after_ms = soonest.saturating_sub(now_ns).div_ceil(1_000_000);
            return Err(RequestError::Busy { retry_after_ms });
        }
        self.used.insert(id);
        // The latest time at which the window still lets it through, whatever its own time was:
        // one fixed length keeps the queue in order.
        self.ends.push_back((now_ns.saturating_add(2 * WINDOW_NS), id));
        Ok(())
    }

    fn forget(&mut self, now_ns: u64) {
        while let Some((end, id)) = self.ends.front() {
            if *end >= now_ns {
                break;
            }
            self.used.remove(id);
            self.ends.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_767_000_000_000_000_000;
    const URL: &str = "https://relay.example/v1/locks/a?x=1";

    fn key() -> SigningKey {
        SigningKey::from_seed([5; 32])
    }

    fn signed(method: &str, url: &str, body: &[u8], now_ns: u64, nonce: &str) -> SignedRequest {
        let header = sign_request(&key(), method, url, body, now_ns, nonce).unwrap();
        let value = header.strip_prefix("Relay ").unwrap();
        SignedRequest::parse(value, &EventLimits::default()).unwrap()
    }

    #[test]
    fn method_url_and_time_must_be_those_signed() {
        let request = signed("POST", URL, b"", NOW, "1");
        let check = |method, url, now| request.check_target(method, [url].into_iter(), now);
        assert_eq!(request.author(), key().node_id());
        assert_eq!(check("POST", URL, NOW), Ok(()));
        assert_eq!(check("POST", URL, NOW + WINDOW_NS), Ok(()));
        assert_eq!(check("POST", URL, NOW - WINDOW_NS), Ok(()));
        assert_eq!(check("POST", URL, NOW + WINDOW_NS + 1), Err(RequestError::Time));
        assert_eq!(check("POST", URL, NOW - WINDOW_NS - 1), Err(RequestError::Time));
        assert_eq!(check("GET", URL, NOW), Err(RequestError::Method));
        assert_eq!(check("POST", &URL[..URL.len() - 1], NOW), Err(RequestError::Url));
    }

    #[test]
    fn the_body_must_be_the_one_signed() {
        let with = signed("POST", URL, b"{}", NOW, "1");
        assert_eq!(with.check_body(b"{}"), Ok(()));
        assert_eq!(with.check_body(b"{ }"), Err(RequestError::Payload));
        assert_eq!(with.check_body(b""), Err(RequestError::Payload));
        let without = signed("POST", URL, b"", NOW, "1");
        assert_eq!(without.check_body(b""), Ok(()));
        assert_eq!(without.check_body(b"{}"), Err(RequestError::Payload));
    }

    #[test]
    fn tags_that_repeat_prove_nothing() {
        let mut tags = Tags::new();
        tags.push(["u", URL]);
        tags.push(["method", "GET"]);
        tags.push(["method", "POST"]);
        let draft = Draft { kind: 27_235, created_at_ns: NOW, tags, content: String::new() };
        let request = SignedRequest(draft.sign(&key()).unwrap());
        let outcome = request.check_target("GET", [URL].into_iter(), NOW);
        assert_eq!(outcome, Err(RequestError::Method));
    }

    #[test]
    fn an_event_of_another_kind_signs_no_request() {
        let draft = Draft { kind: 1, created_at_ns: NOW, ..Draft::default() };
        let value = URL_SAFE_NO_PAD.encode(draft.sign(&key()).unwrap().json());
        let outcome = SignedRequest::parse(&value, &EventLimits::default());
        assert_eq!(outcome.unwrap_err(), RequestError::Kind);
    }

    #[test]
    fn each_is_good_once() {
        let mut guard = ReplayGuard::new(8, NOW - 1);
        let request = signed("GET", URL, b"", NOW, "1");
        assert_eq!(guard.spend(&request, NOW), Ok(()));
        assert_eq!(guard.spend(&request, NOW + WINDOW_NS), Err(RequestError::Replayed));
        assert_eq!(guard.spend(&signed("GET", URL, b"", NOW, "2"), NOW), Ok(()));
    }

    #[test]
    fn a_request_signed_before_the_start_is_refused() {
        let mut guard = ReplayGuard::new(8, NOW + 1);
        let request = signed("GET", URL, b"", NOW, "1");
        assert_eq!(guard.spend(&request, NOW + 2), Err(RequestError::BeforeStart));
    }

    #[test]
    fn a_full_guard_refuses_until_the_window_has_passed() {
        let mut guard = ReplayGuard::new(1, 0);
        let request = |nonce| signed("GET", URL, b"", NOW, nonce);
        assert_eq!(guard.spend(&request("1"), NOW), Ok(()));
        let full = guard.spend(&request("2"), NOW);
        assert_eq!(full, Err(RequestError::Busy { retry_after_ms: 120_000 }));
        assert_eq!(guard.spend(&request("2"), NOW + 2 * WINDOW_NS + 1), Ok(()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// However requests with times anywhere in the window arrive, none passes twice.
        #[test]
        fn no_order_of_arrival_lets_one_pass_twice(
            steps in proptest::collection::vec((0usize..4, 0u64..50_000_000_000), 1..40),
        ) {
            let offsets = [0u64, WINDOW_NS / 2, WINDOW_NS, 2 * WINDOW_NS];
            let requests: Vec<_> = offsets
                .iter()
                .map(|offset| signed("GET", URL, b"", NOW + offset, "n"))
                .collect();
            let mut guard = ReplayGuard::new(64, 0);
            let mut passed = [0; 4];
            let mut now = NOW;
            for (which, forward) in steps {
                now += forward;
                let request = &requests[which];
                if request.check_target("GET", [URL].into_iter(), now).is_ok()
                    && guard.spend(request, now).is_ok()
                {
                    passed[which] += 1;
                }
            }
            prop_assert!(passed.iter().all(|&times| times <= 1));
        }

        #[test]
        fn parsing_never_panics(value in "[A-Za-z0-9_=-]{0,300}|\\PC{0,80}") {
            let _ = SignedRequest::parse(&value, &EventLimits::default());
        }
    }
}
