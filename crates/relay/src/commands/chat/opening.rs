//! From flags to an open chat, and from its errors to what a person reads.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use relay_chat::{Chat, Error, Options, Refusal, StateError, Unlock};
use zeroize::Zeroizing;

use crate::{
    app::{App, Target},
    checks,
    error::{Failure, exit},
    files, prompt,
};

/// Two commands in a row overlap for a moment; so long one waits for the other.
const HANDOVER: Duration = Duration::from_secs(3);

/// Opens the profile of the chosen relay and begins to connect.
pub async fn opened(app: &App) -> Result<Chat, Failure> {
    let target = app.target()?;
    let options = options(app, &target)?;
    let begun = Instant::now();
    loop {
        match Chat::open(options.clone()).await {
            Err(Error::State(StateError::InUse(_))) if begun.elapsed() < HANDOVER => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(failure(&error, "your chats")),
            Ok(chat) => return Ok(chat),
        }
    }
}

/// An open chat that has taken in what the relay has. Where the relay is not reached in time, what is here must do.
pub async fn current(app: &App) -> Result<Chat, Failure> {
    let chat = opened(app).await?;
    match tokio::time::timeout(app.timeout(), chat.caught_up()).await {
        Ok(Ok(())) => warn_of_clock(app, &chat).await,
        Ok(Err(error)) => return Err(not_let_in(&chat, &error).await),
        Err(_) => app.notice("the relay is not reached; this is what was stored here"),
    }
    Ok(chat)
}

/// An open chat that is connected, for what cannot be done without.
pub async fn connected(app: &App) -> Result<Chat, Failure> {
    let chat = opened(app).await?;
    let what = "your chats";
    match tokio::time::timeout(app.timeout(), chat.caught_up()).await {
        Ok(Ok(())) => {
            warn_of_clock(app, &chat).await;
            Ok(chat)
        }
        Ok(Err(error)) => Err(not_let_in(&chat, &error).await),
        Err(_) => {
            let why = match chat.connection() {
                relay_chat::views::Connection::Offline { why, .. } => why,
                _ => "no answer in time".into(),
            };
            Err(Failure::new(exit::UNREACHABLE, format!("{what}: the relay is not reached"))
                .fact(why)
                .hint("relay check relay", "is it up?")
                .hint("relay context ls", "is it the right one?"))
        }
    }
}

/// Says so where this machine's clock is far from the relay's: the keys by which others invite this device are dated, and
/// are refused then.
async fn warn_of_clock(app: &App, chat: &Chat) {
    let Ok(client) = chat.client() else { return };
    if let Some(told) = clock_off(&client).await {
        app.notice(&format!("{told}: others may not be able to invite you. {SET_CLOCK}"));
    }
}

/// Why the relay does not let this device in, and whether it is for the clock: sessions are dated too.
async fn not_let_in(chat: &Chat, error: &Error) -> Failure {
    let failure = failure(error, "your chats");
    let Ok(me) = chat.me() else { return failure };
    let client = relay_client::Client::builder(&me.relay_url).and_then(|builder| builder.build());
    let Ok(client) = client else { return failure };
    match clock_off(&client).await {
        Some(told) => failure.fact(format!("{told}. {SET_CLOCK}")),
        None => failure,
    }
}

async fn clock_off(client: &relay_client::Client) -> Option<String> {
    let probe = client.probe().await.ok()?;
    let found = checks::clock(&probe, CLOCK_S, CLOCK_S);
    (found.level != checks::Level::Ok).then(|| {
        format!("the clocks of this machine and of the relay are far apart ({})", found.value)
    })
}

const SET_CLOCK: &str = "Set the wrong one: timedatectl set-ntp true";

/// Clocks may differ so much, as the profile tolerates it.
const CLOCK_S: f64 = 300.0;

/// The conversation that a person names. One that is not known here may be news that the relay has.
pub async fn found(app: &App, chat: &Chat, text: &str) -> Result<String, Failure> {
    match chat.find(text) {
        Err(Error::Refused(Refusal::NoConversation)) => {
            // Not reached in time: then what is here must do.
            let _ = tokio::time::timeout(app.timeout(), chat.caught_up()).await;
            chat.find(text).or_fail("the conversation")
        }
        other => other.or_fail("the conversation"),
    }
}

/// What still waits gets a moment to leave, where the relay is reached; then the chat is closed.
pub async fn ended(app: &App, chat: Chat) -> Result<(), Failure> {
    if matches!(chat.connection(), relay_chat::views::Connection::Online { .. }) {
        let settled = tokio::time::timeout(app.timeout().min(LAST_SENDS), chat.settled());
        if let Ok(settled) = settled.await {
            settled.or_fail("the outbox")?;
        }
    }
    chat.close().await;
    Ok(())
}

/// How long a command that only looks waits for what is to be sent.
const LAST_SENDS: Duration = Duration::from_secs(5);

fn options(app: &App, target: &Target) -> Result<Options, Failure> {
    let profile = profile(target)?;
    let unlock = unlock(app, &profile)?;
    Ok(Options {
        profile,
        unlock,
        user: app.key(target)?,
        relay_url: target.url.clone(),
        label: "relay-chat".into(),
        timeout: app.timeout(),
    })
}

/// Where the chats with this relay are kept.
pub fn profile(target: &Target) -> Result<PathBuf, Failure> {
    let name = target.name.clone().unwrap_or_else(|| super::super::session::name_of(&target.url));
    Ok(files::state_dir()?.join("chat").join(name))
}

/// What opens the profile: the passphrase that it asks for, else the key in the keyring, else its key file, made with the
/// profile.
pub fn unlock(app: &App, profile: &Path) -> Result<Unlock, Failure> {
    let needs = Chat::needs_passphrase(profile).map_err(|error| failure(&error, "your chats"))?;
    if needs == Some(true) {
        let passphrase = app.passphrase("Passphrase of your chats")?.ok_or_else(|| {
            Failure::usage("your chats are protected by a passphrase")
                .hint("--passphrase-file PATH", "read it from a file")
        })?;
        return Ok(Unlock::Passphrase(passphrase));
    }
    if let Some(name) = super::keyring::name(profile) {
        return super::keyring::lookup(&name, app.timeout()).map(Unlock::Key);
    }
    key_file(profile).map(Unlock::Key)
}

/// The key file of a profile. It lies beside the profile's folder, so that a copy of the one without the other is worth
/// nothing.
pub fn key_file(profile: &Path) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let path = profile.with_extension("key");
    if let Some(parent) = path.parent() {
        files::private_dir(parent)?;
    }
    if !path.exists() {
        let mut key = Zeroizing::new([0; 32]);
        rand_core::RngCore::fill_bytes(&mut rand_core::OsRng, &mut *key);
        let text = Zeroizing::new(hex::encode(*key));
        relay_client::keys::write_secret(&path, text.as_bytes())
            .map_err(|error| Failure::failed(error.to_string()))?;
        return Ok(key);
    }
    let text = prompt::secret_file(&path)?;
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.as_str(), &mut *key)
        .map_err(|_| Failure::usage(format!("{}: not a key of 64 hex digits", path.display())))?;
    Ok(key)
}

/// What a person reads of an error.
pub fn failure(error: &Error, object: &str) -> Failure {
    let text = format!("{object}: {error}");
    match error {
        Error::Relay(error) => {
            let code = error.code();
            let exit = crate::error::exit_of(error);
            let mut failure = Failure::new(exit, text);
            failure.code = code.map(relay_proto::Code::as_str);
            failure
        }
        Error::State(StateError::InUse(_)) => Failure::new(exit::TAKEN, text)
            .hint("relay chat tail --commands", "one program may serve many: see docs/chat.md"),
        Error::State(StateError::WrongPassphrase) => Failure::new(exit::NOT_ALLOWED, text)
            .hint("--passphrase-file PATH", "read it from a file")
            .hint("relay device recover", "in a new profile, where it is lost"),
        Error::State(StateError::WrongKey) => Failure::new(exit::NOT_ALLOWED, text),
        Error::State(_) => Failure::failed(text),
        Error::Refused(Refusal::NoConversation) => Failure::new(exit::NOT_FOUND, text)
            .hint("relay chat ls", "those there are")
            .hint("relay chat dm KEY", "begin one"),
        Error::Refused(Refusal::NoPerson(_)) => {
            Failure::new(exit::NOT_FOUND, text).hint("relay chat name", "whom you know")
        }
        Error::Refused(Refusal::NoMessage | Refusal::NotWaiting) => {
            Failure::new(exit::NOT_FOUND, text)
        }
        Error::Refused(Refusal::NotAllowed | Refusal::NotYours | Refusal::NotIn) => {
            Failure::new(exit::NOT_ALLOWED, text)
        }
        Error::Refused(_) => Failure::usage(text),
        _ => Failure::failed(text),
    }
}

/// Turns errors of the chat into failures.
pub trait OrFail<T> {
    fn or_fail(self, object: &str) -> Result<T, Failure>;
}

impl<T> OrFail<T> for relay_chat::Result<T> {
    fn or_fail(self, object: &str) -> Result<T, Failure> {
        self.map_err(|error| failure(&error, object))
    }
}
