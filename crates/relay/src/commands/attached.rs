//! What `run` and `expose` share: a connection to the relay of this machine that lasts as long as
//! the command.

use std::time::Duration;

use relay_client::{Attachment, Client, ServiceLog};
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
