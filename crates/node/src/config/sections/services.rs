//! Services: who may call them, programs and scripts that are some.

use std::{path::PathBuf, time::Duration};

use crate::config::{
    reader::section,
    value::{Size, choice},
};

choice! {
    /// From where calls are taken without proof of a key.
    pub enum Anonymous {
        /// From nowhere.
        Never = "never",
        /// From this machine, proxies aside.
        Loopback = "loopback",
        /// From everywhere.
        Always = "always",
    }
}

choice! {
    /// What a rule does with a call that it fits.
    pub enum RuleEffect {
        /// It may pass.
        Allow = "allow",
        /// It is refused as forbidden.
        Deny = "deny",
    }
}

section! {
    /// Who may call services, and what is kept of calls.
    pub struct Calls {
        /// From where POST /rpc and /svc take calls without proof of a key: "never", "loopback" or "always".
        /// Anonymous callers reach public services only.
        anonymous: Anonymous = Anonymous::Loopback;
        /// Rules in order, before the `allow` of services. The first that fits a call decides; without any, everyone
        /// may call what is public.
        rule: Vec<CallRule> = Vec::new();
        /// How long the result of a call with an idempotency key is kept at least, room permitting.
        keep_results: Duration = Duration::from_secs(600), in Duration::from_secs(60)..=Duration::from_secs(7 * 86_400);
        /// Most results that are kept; the oldest go first.
        max_results: u64 = 10_000, in 100..=1_000_000;
        /// Most bytes of results that are kept, in memory and on disk.
        max_result_bytes: Size = Size::mib(16), in Size::mib(1)..=Size::mib(1_024);
    }
}

section! {
    /// One rule about calls; a member left out fits everything. `*` stands for any run of characters.
    pub struct CallRule {
        /// "allow" or "deny".
        effect: RuleEffect = RuleEffect::Deny;
        /// Services.
        service: String = "*".into();
        /// Methods.
        method: String = "*".into();
        /// Keys ("ed25519:…"), nodes ("alice.home@hub", "*@hub"), "local" for this node's operator and services, or "*".
        caller: String = "*".into();
    }
}

choice! {
    /// Whether other nodes see a service.
    pub enum Visibility {
        /// Registered with the hub, and callable over HTTP.
        Public = "public",
        /// For this node's operator and services only.
        Private = "private",
    }
}

section! {
    /// A local program as a service. One of `http`, `proxy` and `stdio` says how it is reached. Needs a restart.
    pub struct Service {
        /// The service's name: [A-Za-z0-9_][A-Za-z0-9._-]*. Required.
        name: String = String::new();
        /// URL of a program that speaks JSON-RPC over HTTP.
        http: String = String::new();
        /// Base URL of any HTTP server; callers name method, path, headers and body, or use /svc/NAME/….
        proxy: String = String::new();
        /// Command of a child process that speaks JSON-RPC, one message a line, on stdin and stdout.
        stdio: Vec<String> = Vec::new();
        /// Where the child process runs. "" = where the relay does.
        directory: Option<PathBuf> = None;
        /// "public" or "private".
        visibility: Visibility = Visibility::Public;
        /// Callers that may call it, as in [[calls.rule]]; the operator always may. Empty = nobody else.
        allow: Vec<String> = vec!["*".into()];
        /// Its version; callers may ask for a range.
        version: String = "1.0.0".into();
        /// Methods that it has, told to the registry. Empty = not told.
        methods: Vec<String> = Vec::new();
        /// Path that a health check asks; well means any 2xx. "" = not checked.
        health: String = String::new();
        /// How often its health is checked.
        health_every: Duration = Duration::from_secs(15), in Duration::from_secs(1)..=Duration::from_secs(3_600);
        /// Calls under way at once; further ones wait in its mailbox.
        concurrency: u64 = 64, in 1..=10_000;
    }
}

section! {
    /// A script whose services run here. Needs a restart; the script itself does not, with `watch`.
    pub struct Script {
        /// The `.rl` file. Required.
        file: PathBuf = PathBuf::new();
        /// Memory that each of its services may use, code and values together.
        memory: Size = Size::mib(64), in Size::mib(1)..=Size::mib(4_096);
        /// Processor time of one message.
        cpu: Duration = Duration::from_secs(1), in Duration::from_millis(1)..=Duration::from_secs(60);
        /// Time of one message with all that it waits for.
        wall: Duration = Duration::from_secs(60), in Duration::from_millis(10)..=Duration::from_secs(3_600);
        /// Most state of one service as JSON.
        state: Size = Size::mib(4), in Size::kib(1)..=Size::mib(64);
        /// Whether to take over a changed file; a broken one leaves the running version.
        watch: bool = false;
    }
}
