//! `relay run`: a script, on the relay of this machine or in one of its own.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use relay_client::{Attachment, Error, Served};
use relay_proto::ServiceName;

use super::{
    attached::{self, Ending, attach},
    node_flags::NodeFlags,
    serve::{CommandLine, log},
};
use crate::{
    app::{App, Target},
    error::{Failure, Outcome},
    files, output,
    serve::OwnScript,
};

/// How often a watched file is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(300);
/// The types that editors use, as `--types` prints them.
const TYPES: &str = include_str!("../../../../packaging/relay.d.ts");

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay run blog.rl --watch
  relay run blog.rl --standalone --connect wss://relay.example.com --node-id alice.home
  relay run --types > relay.d.ts")]
pub struct Run {
    /// The script
    #[arg(value_name = "FILE.rl", required_unless_present = "types")]
    file: Option<PathBuf>,
    /// Host only this one of its services
    #[arg(long, value_name = "NAME")]
    service: Option<ServiceName>,
    /// Take over the file whenever it changes; a broken one leaves the running version
    #[arg(long)]
    watch: bool,
    /// In a relay of its own, also where one runs here
    #[arg(long)]
    standalone: bool,
    #[command(flatten)]
    node: NodeFlags,
    /// Print the types of scripts for editors
    #[arg(long, conflicts_with = "file")]
    types: bool,
}

impl Run {
    pub async fn run(self, app: &App) -> Outcome {
        let Some(file) = self.file.clone().filter(|_| !self.types) else {
            output::write(TYPES)?;
            return Ok(0);
        };
        if !file.is_file() {
            return Err(Failure::usage(format!("{}: no such file", file.display())));
        }
        let own = self.standalone || self.node.is_given();
        match app.local_target()?.filter(|_| !own) {
            Some(target) => self.attached(app, &target, &file).await,
            None => self.standalone(app, file).await,
        }
    }

    /// On the relay that runs here, for as long as this command does.
    async fn attached(&self, app: &App, target: &Target, file: &Path) -> Outcome {
        log(&app.global);
        let (client, mut attachment) = attach(app, target).await?;
        let mut ending = Ending::new()?;
        let relay = attached::relay_name(&client).await;
        let mut text = read(file)?;
        match self.load(&mut attachment, file, &text).await {
            Ok(services) => app.notice(&format!(
                "{} runs on {relay}: {} (Ctrl-C ends it)",
                file.display(),
                names(&services),
            )),
            Err(failure) if self.watch => failure.report(app.out.is_json()),
            Err(failure) => return Err(failure),
        }
        let mut look = tokio::time::interval(WATCH_INTERVAL);
        loop {
            tokio::select! {
                () = ending.asked() => return Ok(0),
                served = attachment.next() => match served {
                    Ok(Served::Log(line)) => attached::show(app, &line),
                    Ok(_) => {}
                    Err(lost) => {
                        let offer = async |attachment: &mut Attachment| {
                            match self.offer(attachment, file, &text).await {
                                // As at the start: it is taken when it is mended.
                                Err(error) if self.watch && is_broken(&error) => Ok(Vec::new()),
                                loaded => loaded,
                            }
                        };
                        match attached::reattach(app, target, &lost, &mut ending, offer).await? {
                            Some((again, _)) => attachment = again,
                            None => return Ok(0),
                        }
                    }
                },
                _ = look.tick(), if self.watch => {
                    // Editors replace files: one that is gone for a moment is no news.
                    let Ok(now) = read(file) else { continue };
                    if now == text {
                        continue;
                    }
                    text = now;
                    match self.load(&mut attachment, file, &text).await {
                        Ok(services) => app.notice(&format!("taken over: {}", names(&services))),
                        Err(failure) => failure.report(app.out.is_json()),
                    }
                }
            }
        }
    }

    async fn load(
        &self,
        attachment: &mut Attachment,
        file: &Path,
        text: &str,
    ) -> Result<Vec<ServiceName>, Failure> {
        self.offer(attachment, file, text).await.map_err(|error| match error {
            // The message begins with the file, the line and the column.
            Error::Refused { problem, .. } if problem.extra.contains_key("file") => {
                Failure::failed(problem.message).hint("relay run --types", "what scripts may use")
            }
            error => Failure::of(error, &file.display().to_string()),
        })
    }

    async fn offer(
        &self,
        attachment: &mut Attachment,
        file: &Path,
        text: &str,
    ) -> Result<Vec<ServiceName>, Error> {
        let name = relay_node::services::file_name(file);
        attachment.script(&name, text, self.service.as_ref()).await
    }

    /// In a relay of its own, on loopback: on a free port where nothing is said.
    async fn standalone(mut self, app: &App, file: PathBuf) -> Outcome {
        if self.node.listen.is_empty() {
            self.node.listen = vec![format!("127.0.0.1:{}", self.node.port.take().unwrap_or(0))];
        }
        let script = OwnScript { path: file, only: self.service, watch: self.watch };
        CommandLine::new(app, self.node, Vec::new()).serve(Some(script)).await
    }
}

/// Whether the script cannot be taken as it is.
fn is_broken(error: &Error) -> bool {
    matches!(error, Error::Refused { problem, .. } if problem.extra.contains_key("file"))
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| files::at(file, &error))
}

fn names(services: &[ServiceName]) -> String {
    services.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
