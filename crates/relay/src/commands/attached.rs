//! What `run` and `expose` share: a connection to the relay of this machine that lasts as long as
//! the command, and is made anew when the relay is started again.

use std::time::{Duration, Instant};

use relay_client::{Attachment, Client, Error, ServiceLog};
use relay_proto::Code;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    app::{App, Target},
    error::Failure,
};

/// SIGINT and SIGTERM end the command, and are no failure.
pub(super) struct Ending {
    terminate: Signal,
    interrupt: Signal,
}

impl Ending {
    pub fn new() -> std::io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)? })
    }

    /// Resolves when the command is to end.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Attaches to the relay behind a local socket.
pub(super) async fn attach(app: &App, target: &Target) -> Result<(Client, Attachment), Failure> {
    // The uid speaks here, whatever key there is.
    let client = app.client_for(target, false).await?;
    let attachment = client.attach().await.map_err(|error| Failure::of(error, &target.url))?;
    Ok((client, attachment))
}

/// The first wait before the relay is tried again; doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long a name may still be taken by what this command had attached before.
const LEFTOVERS: Duration = Duration::from_secs(10);

/// After the connection was lost: attaches again until it works, and has `offer` say what is offered. One line
/// when it is lost, one when it is back. `None` when the command is to end.
pub(super) async fn reattach<T>(
    app: &App,
    target: &Target,
    lost: &Error,
    ending: &mut Ending,
    mut offer: impl AsyncFnMut(&mut Attachment) -> Result<T, Error>,
) -> Result<Option<(Attachment, T)>, Failure> {
    app.notice(&format!("the relay is lost: {}; waiting for it (Ctrl-C ends this)", cause(lost)));
    let (since, mut wait) = (Instant::now(), FIRST_WAIT);
    loop {
        tokio::select! {
            () = ending.asked() => return Ok(None),
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LONGEST_WAIT);
        let client = app.client_for(target, false).await?;
        let attempt = async {
            let mut attachment = client.attach().await?;
            let offered = offer(&mut attachment).await?;
            Ok((attachment, offered))
        };
        let attempt: Result<_, Error> = tokio::select! {
            () = ending.asked() => return Ok(None),
            attempt = attempt => attempt,
        };
        match attempt {
            Ok(back) => {
                let after = since.elapsed().as_secs_f64();
                app.notice(&format!("{} is back after {after:.1} s", relay_name(&client).await));
                return Ok(Some(back));
            }
            Err(error) if error.is_transient() => {}
            Err(error) if is_taken(&error) && since.elapsed() < LEFTOVERS => {}
            Err(error) => return Err(Failure::of(error, &target.url)),
        }
    }
}

fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Refused { problem, .. } if problem.code == Code::Conflict)
}

/// Why, without the address.
fn cause(error: &Error) -> String {
    match error {
        Error::Unreachable { cause, .. } => cause.clone(),
        other => other.to_string(),
    }
}

/// The relay's name, for messages.
pub(super) async fn relay_name(client: &Client) -> String {
    let info = tokio::time::timeout(Duration::from_secs(2), client.info()).await;
    let id =
        info.ok().and_then(Result::ok).and_then(|info| Some(info["relay_id"].as_str()?.to_owned()));
    id.unwrap_or_else(|| "the relay".to_owned())
}

/// Shows a line of a service's log on stderr.
pub(super) fn show(app: &App, line: &ServiceLog) {
    let quiet = match line.level.as_str() {
        "debug" => app.global.verbose == 0,
        "info" => app.global.quiet > 0,
        _ => false,
    };
    if !quiet {
        eprintln!("{:<5} {}: {}", line.level, line.service_name, line.message);
    }
}
