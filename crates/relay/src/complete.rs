//! Completion in shells: the command tree, and live values such as the names of locks.
//!
//! The scripts of `relay completions` call this program with `RELAY_COMPLETE` set. What has to be asked
//! of a relay is there within [`PATIENCE`] or left out: a shell must not hang on Tab. Nothing is
//! asked of the person, and no session is resumed (an answer that comes too late would lose it).

use std::{ffi::OsStr, future::Future, time::Duration};

use clap_complete::{
    CompletionCandidate,
    engine::ArgValueCompleter,
    env::{CompleteEnv, EnvCompleter},
};
use relay_client::{Client, Request, keys};
use serde_json::Value;

use crate::{app, cli, contexts, contexts::Contexts, explain, prompt};

/// Time for a relay to answer; with the start of the program it stays below 300 ms.
const PATIENCE: Duration = Duration::from_millis(200);
/// The variable in which the scripts name their shell.
const VARIABLE: &str = "RELAY_COMPLETE";
/// More would help nobody.
const MOST: &str = "100";

/// Answers a shell that asks for completions, and ends the process then.
pub fn answer_shell() {
    CompleteEnv::with_factory(cli::command)
        .var(VARIABLE)
        .bin("relay")
        .completer("relay")
        .complete();
}

/// The script that makes a shell ask.
pub fn script(shell: clap_complete::Shell) -> std::io::Result<Vec<u8>> {
    use clap_complete::{Shell, env};
    let shell: &dyn EnvCompleter = match shell {
        Shell::Bash => &env::Bash,
        Shell::Zsh => &env::Zsh,
        Shell::Fish => &env::Fish,
        Shell::PowerShell => &env::Powershell,
        Shell::Elvish => &env::Elvish,
        other => return Err(std::io::Error::other(format!("no completion for {other}"))),
    };
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "relay", "relay", "relay", &mut script)?;
    Ok(script)
}

/// Names of saved relays.
pub fn context_names() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let names = Contexts::load().map(|contexts| contexts.context.into_keys().collect());
        matching(current, names.unwrap_or_default())
    })
}

/// Names of keys among ours.
pub fn key_names() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let dir = app::key_dir().ok().and_then(|dir| std::fs::read_dir(dir).ok());
        let names = dir.into_iter().flatten().filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            contexts::is_name(&name).then_some(name)
        });
        matching(current, names.collect())
    })
}

/// Codes that can be explained.
pub fn codes() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        matching(current, explain::ENTRIES.iter().map(|entry| entry.code.to_owned()).collect())
    })
}

/// Resources that are locked in the namespace of the command line.
pub fn resources() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let prefix = current.to_string_lossy().into_owned();
        live(current, |asked| async move {
            let request = Request::get("/v1/locks")
                .query("ns", asked.ns)
                .query("prefix", Some(prefix))
                .query("limit", Some(MOST));
            texts(&asked.client.call(request).await.ok()?, "items", "resource")
        })
    })
}

/// Namespaces: those of saved relays, and the tenants that the relay tells to admins.
pub fn namespaces() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let mut found = live(current, |asked| async move {
            texts(&asked.client.call(Request::get("/v1/quota")).await.ok()?, "tenants", "tenant")
        });
        let saved = Contexts::load().map(|contexts| contexts.context).unwrap_or_default();
        let saved = saved.into_values().filter_map(|context| context.ns);
        found.extend(matching(current, saved.chain(["default".to_owned()]).collect()));
        found.sort();
        found.dedup();
        found
    })
}

/// Ids of one's sessions.
pub fn sessions() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        live(current, |asked| async move {
            let list = asked.client.sessions().await.ok()?;
            texts(&list, "sessions", "session_id")
        })
    })
}

/// Ids of operators' tokens.
pub fn tokens() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        live(current, |asked| async move {
            texts(&asked.client.call(Request::get("/v1/tokens")).await.ok()?, "items", "id")
        })
    })
}

/// The relay that the command line means, as far as it is typed.
struct Asked {
    client: Client,
    ns: Option<String>,
}

/// Asks a relay; nothing where it does not answer in time.
fn live<F, Fut>(current: &OsStr, ask: F) -> Vec<CompletionCandidate>
where
    F: FnOnce(Asked) -> Fut,
    Fut: Future<Output = Option<Vec<String>>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Some(asked), Ok(runtime)) = (asked(), runtime) else { return Vec::new() };
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(asked)).await });
    // A name that is still being resolved must not hold the shell up.
    runtime.shutdown_background();
    matching(current, answer.ok().flatten().unwrap_or_default())
}

fn asked() -> Option<Asked> {
    let app = app::App::new(cli::Global::of_words(typed(std::env::args().collect()))?);
    let target = app.target().ok()?;
    let mut builder = Client::builder(&target.url).ok()?.timeout(PATIENCE);
    let token_file = app.global.token_file.as_ref().or(target.context.token_file.as_ref());
    let now_ms = relay_client::unix_ns() / 1_000_000;
    let session = target.name.as_deref().and_then(|name| contexts::session(name).ok().flatten());
    let session = session.filter(|session| session.expires_at > now_ms);
    if let Some(path) = token_file.filter(|path| path.as_os_str() != "-") {
        builder = builder.token(prompt::secret_file(path).ok()?.as_str());
    } else if let Some(session) = session.filter(|_| app.global.key.is_none()) {
        builder = builder.token(session.session_token);
    } else if !target.url.starts_with("unix:")
        && let Some(path) = app.key_path(&target).ok().flatten()
        // A key with a passphrase is left alone; the relay then tells what it tells anybody.
        && let Ok(key) = keys::load(&path, || None)
    {
        builder = builder.key(key);
    }
    let ns = app.chosen_ns(&target).ok().flatten().map(|ns| ns.to_string());
    Some(Asked { client: builder.build().ok()?, ns })
}

/// The flags that say which relay is meant, of what stands behind `--` in a shell's question.
fn typed(args: Vec<String>) -> Vec<String> {
    const WANTED: [&str; 6] = ["--url", "--context", "--ns", "-n", "--key", "--token-file"];
    let words: Vec<String> = args.into_iter().skip_while(|word| word != "--").skip(2).collect();
    let mut found = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let name = word.split_once('=').map_or(word.as_str(), |(name, _)| name);
        if !WANTED.contains(&name) {
            continue;
        }
        if word.contains('=') {
            found.push(word.clone());
        } else if let Some(value) = words.get(index + 1).filter(|value| !value.is_empty()) {
            found.extend([word.clone(), value.clone()]);
        }
    }
    found
}

fn texts(answer: &Value, list: &str, member: &str) -> Option<Vec<String>> {
    let items = answer[list].as_array()?.iter();
    Some(items.filter_map(|item| item[member].as_str().map(str::to_owned)).collect())
}

fn matching(current: &OsStr, values: Vec<String>) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let fits = values.into_iter().filter(|value| value.starts_with(&*current));
    fits.map(CompletionCandidate::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_says_which_relay_is_found_wherever_it_stands() {
        let found = typed(words("relay -- relay lock --url https://a -n x/y inspect --ns=z"));
        assert_eq!(found, words("--url https://a -n x/y --ns=z"));
        assert_eq!(typed(words("relay -- relay lock inspect --url")), Vec::<String>::new());
    }
}
