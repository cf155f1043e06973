//! The social layer.

use std::time::Duration;

use crate::config::{
    reader::section,
    value::{SecretFile, Size, choice},
};

choice! {
    /// What is shown of posts, descriptions and avatars that nobody has approved.
    pub enum Moderation {
        /// Everything; nothing is tagged.
        Off = "off",
        /// Everything but what tags exclude.
        Lazy = "lazy",
        /// Nothing.
        Strong = "strong",
    }
}

section! {
    /// The social layer, for clients of Polycentric. Needs a restart.
    pub struct Social {
        /// Whether it is served.
        enabled: bool = true;
        /// A path under which it is served as well as at the root, such as "/polycentric". "" = only at the root.
        prefix: String = String::new();
        /// Whether identities claim their handles themselves; else an operator gives them.
        open_registration: bool = true;
        /// Whether posts and profiles can be searched.
        search: bool = true;
        /// Longest request body. Clients send twenty pieces of a picture of 512 KiB at once, so less than 16 MiB would stop them.
        max_body: Size = Size::mib(32), in Size::mib(16)..=Size::mib(64);
        /// Bytes of events of one identity. "0" = no limit.
        identity_bytes: Option<Size> = None;
        /// Events a second of one identity. 0 = no limit.
        identity_events_per_sec: Option<u64> = None;
        /// Events a second from one address. 0 = no limit.
        address_events_per_sec: Option<u64> = None;
        /// Events that an identity or an address may send at once before its rate counts.
        burst: u64 = 2_000, in 20..=1_000_000;
        /// How long caches between here and the reader may keep feeds and profiles without asking again.
        shared_max_age: Duration = Duration::from_secs(10), in Duration::ZERO..=Duration::from_secs(3_600);
        /// Whether caches may keep whole ranges of events for ever. A copy in a cache survives the deletion of an event.
        immutable_ranges: bool = true;
        /// How far ahead of the relay's clock a post may be dated and still be among the newest of everybody.
        max_future: Duration = Duration::from_secs(300), in Duration::ZERO..=Duration::from_secs(86_400);
        /// What is shown of what nobody has approved: "off", "lazy" or "strong".
        moderation: Moderation = Moderation::Off;
        /// A service that is asked about what waits, such as "https://judge.example.com/posts". "" = nobody is asked.
        moderation_url: String = String::new();
        /// Signs the requests to it: "whsec_" and at least 24 bytes in base64.
        moderation_secret_file: Option<SecretFile> = None;
        /// Whether the service may have a private address, and be spoken to without TLS.
        moderation_private: bool = false;
        /// Words that give tags to texts; texts that went through the rules count as approved.
        rule: Vec<SocialRule> = Vec::new();
        /// Identities that are fetched from other servers: "KEY URL", the key as ed25519:… and the server's base URL.
        follow: Vec<String> = Vec::new();
        /// How often followed identities are looked for.
        follow_every: Duration = Duration::from_secs(60), in Duration::from_secs(1)..=Duration::from_secs(86_400);
    }
}

section! {
    /// A word and the tag that texts with it get.
    pub struct SocialRule {
        /// Found anywhere in the text, upper or lower case. Required.
        word: String = String::new();
        /// Such as "hate", "sexual", "violence". Required.
        tag: String = String::new();
        /// From 0 (harmless) on; readers say up to which level they want to see.
        level: u64 = 3, in 0..=10;
    }
}
