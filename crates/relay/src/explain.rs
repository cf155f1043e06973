//! What each code means, what usually causes it, and what helps.

/// One code.
#[derive(Debug, serde::Serialize)]
pub struct Entry {
    pub code: &'static str,
    pub meaning: &'static str,
    pub causes: &'static [&'static str],
    pub first_cure: &'static str,
    pub cures: &'static [&'static str],
}

/// The entry of a code.
pub fn of(code: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.code == code)
}

/// The code that looks most like `typed`.
pub fn similar(typed: &str) -> Option<&'static str> {
    let squash = |text: &str| text.to_lowercase().replace(['-', ' ', '_'], "");
    let typed = squash(typed);
    if typed.is_empty() {
        return None;
    }
    let codes = || ENTRIES.iter().map(|entry| entry.code);
    let holds = |code: &&str| squash(code).contains(&typed) || typed.contains(&squash(code));
    let same_start = |code: &str| {
        let code = squash(code);
        code.chars().zip(typed.chars()).take_while(|(a, b)| a == b).count()
    };
    codes()
        .find(holds)
        .or_else(|| codes().max_by_key(|code| same_start(code)).filter(|code| same_start(code) > 3))
}

pub const ENTRIES: &[Entry] = &[
    Entry {
        code: "invalid_request",
        meaning: "The request has a wrong form; repeating it unchanged cannot help.",
        causes: &[
            "an event whose id or signature does not fit its content",
            "a clock more than 15 minutes ahead of the relay's",
            "a cursor of another relay",
        ],
        first_cure: "read the message: it names the member that is wrong",
        cures: &["relay event verify < event.json", "relay doctor   (compares the clocks)"],
    },
    Entry {
        code: "unauthorized",
        meaning: "The relay does not know who is asking.",
        causes: &[
            "no key, no session, or a session that ended",
            "a signed request more than 60 s away from the relay's clock",
            "an address the relay does not know as its own, so that the signed URL differs",
        ],
        first_cure: "relay login",
        cures: &["relay whoami", "relay doctor   (compares the clocks)"],
    },
    Entry {
        code: "forbidden",
        meaning: "The relay knows who is asking, and its rules do not allow it.",
        causes: &["no ACL rule allows it", "a rotated key that may no longer write"],
        first_cure: "relay acl test --who KEY --ns NS --op write",
        cures: &["ask an administrator of the relay for a rule", "relay whoami"],
    },
    Entry {
        code: "not_found",
        meaning: "There is no such thing, or you may not know of it.",
        causes: &["a typing error", "it expired or was pruned", "it is in another namespace"],
        first_cure: "relay event query --history",
        cures: &["relay context ls   (is it the right relay?)"],
    },
    Entry {
        code: "conflict",
        meaning: "It clashes with what is already there.",
        causes: &["a request id that was used for something else, or whose grant has ended"],
        first_cure: "repeat the command without --request-id",
        cures: &[],
    },
    Entry {
        code: "lock_held",
        meaning: "Somebody else holds the lock.",
        causes: &[
            "normal contention",
            "a holder that ended without release: the lease runs out by itself",
        ],
        first_cure: "relay lock acquire RESOURCE --wait 30s",
        cures: &["relay lock inspect RESOURCE", "relay lock watch RESOURCE"],
    },
    Entry {
        code: "stale_token",
        meaning: "Somebody else has had the lock since: this fencing token is an old one.",
        causes: &["the lease ran out while the holder was paused", "a token from an earlier run"],
        first_cure: "stop writing; acquire the lock again",
        cures: &["relay lock history RESOURCE"],
    },
    Entry {
        code: "lease_expired",
        meaning: "The lease ended before the renewal came; nobody may have taken the lock yet.",
        causes: &[
            "a paused or overloaded holder",
            "a network that was away for longer than the lease",
        ],
        first_cure: "stop writing; acquire the lock again, perhaps with a longer --lease",
        cures: &["relay lock history RESOURCE"],
    },
    Entry {
        code: "fenced",
        meaning: "The event was to be stored only by the holder of a lock, and its author is not.",
        causes: &[
            "the lock was lost between taking it and writing",
            "another key wrote than the one that holds the lock",
        ],
        first_cure: "acquire the lock again, look at what is there now, and decide anew",
        cures: &["relay lock inspect RESOURCE"],
    },
    Entry {
        code: "gone",
        meaning: "It was there, and was removed for good.",
        causes: &["the retention policy of the namespace"],
        first_cure: "start from what is kept: relay event query",
        cures: &[],
    },
    Entry {
        code: "replay_window_exceeded",
        meaning: "The cursor points before what the relay still keeps.",
        causes: &["a reader that was away for longer than the retention"],
        first_cure: "start anew: --after begin",
        cures: &["the answer's member 'earliest' is the first position kept"],
    },
    Entry {
        code: "too_large",
        meaning: "It is larger than the relay accepts.",
        causes: &[
            "an event over 128 KiB, a content over 64 KiB, a batch over 8 MiB or 1000 events",
        ],
        first_cure: "put the data into an object store and publish its hash and address",
        cures: &["relay api GET /v1/info   (the limits of this relay)"],
    },
    Entry {
        code: "rate_limited",
        meaning: "Too much at once; the same request succeeds later.",
        causes: &["a loop without pauses", "several programs with one key"],
        first_cure: "wait as long as retry_after_ms says",
        cures: &["publish in batches: relay event import", "relay quota show"],
    },
    Entry {
        code: "quota_exceeded",
        meaning: "The tenant has used up what it may use.",
        causes: &["bytes, events a day, subscriptions, locks"],
        first_cure: "relay quota show",
        cures: &["ask the relay's operator to raise the quota"],
    },
    Entry {
        code: "limit_exceeded",
        meaning: "One request asks for more than a request may.",
        causes: &["too many filters or too many terms in one"],
        first_cure: "split the request",
        cures: &["relay api GET /v1/info   (the limits of this relay)"],
    },
    Entry {
        code: "unsupported_version",
        meaning: "The relay does not speak this version of the protocol.",
        causes: &["a client much newer or older than the relay"],
        first_cure: "relay version",
        cures: &["relay api GET /v1/info"],
    },
    Entry {
        code: "resume_failed",
        meaning: "The session cannot be carried on.",
        causes: &["it ended, was revoked, or its token was used by another process"],
        first_cure: "relay login",
        cures: &["relay session ls"],
    },
    Entry {
        code: "slow_consumer",
        meaning: "The connection made no progress for 30 s and was closed; nothing stored is lost.",
        causes: &["a reader that does not read", "a stalled network"],
        first_cure: "resume from the last cursor: relay event stream --cursor-file FILE",
        cures: &[],
    },
    Entry {
        code: "home_unreachable",
        meaning: "The relay, or the one that is home to the thing asked for, cannot serve it now.",
        causes: &["it is starting, stopping or overloaded", "its database is away"],
        first_cure: "try again shortly; writes are safe to repeat",
        cures: &["relay check relay", "relay doctor"],
    },
    Entry {
        code: "timeout",
        meaning: "No answer in time. A write may have had its effect.",
        causes: &["an overloaded relay or network", "a --timeout that is too short"],
        first_cure: "repeat it: writes carry an idempotency key",
        cures: &["--timeout 60s"],
    },
    Entry {
        code: "loop_detected",
        meaning: "Relays pass the request around in a circle.",
        causes: &["two relays that each believe the other to be the home"],
        first_cure: "check the 'home' of the namespace on both relays",
        cures: &[],
    },
    Entry {
        code: "internal_error",
        meaning: "The relay failed; its log says why, under the request id.",
        causes: &["a full or broken disk", "a defect"],
        first_cure: "look for the request id in the relay's log",
        cures: &["relay doctor"],
    },
    Entry {
        code: "unreachable",
        meaning: "No connection to the relay.",
        causes: &[
            "it does not run",
            "a wrong address or port",
            "a firewall, TLS or name resolution",
        ],
        first_cure: "relay check relay",
        cures: &["relay context ls", "relay doctor"],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_code() {
        assert_eq!(similar("lockheld"), Some("lock_held"));
        assert_eq!(similar("lock-held"), Some("lock_held"));
        assert_eq!(similar("stale"), Some("stale_token"));
        assert_eq!(similar("zzz"), None);
    }
}
