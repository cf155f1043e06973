//! `relay doctor` and `relay check`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use relay_client::Client;
use serde_json::json;

use crate::{
    app::App,
    checks::{self, Finding, Level},
    error::{Failure, Outcome},
    output, times,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay doctor
  relay doctor --url https://relay.example.com --slow
  relay doctor --from https://hub.example.com --json

Exit codes:
  0 all good   1 something to look at   2 something is broken")]
pub struct Doctor {
    /// Also leave a socket alone for a minute and see whether a proxy cuts it
    #[arg(long)]
    slow: bool,
    /// Also ask this hub what it sees of our relay
    #[arg(long, value_name = "HUB")]
    from: Option<String>,
}

/// How long `--slow` is silent: what proxies cut, they mostly cut after 60 s.
const QUIET: Duration = Duration::from_secs(61);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay check relay --warn 200ms --crit 2s
  relay check disk --warn 80 --crit 95 --format nagios

Exit codes:
  0 ok   1 warning   2 critical   3 unknown")]
pub struct Check {
    name: Name,
    /// From here on a warning: a duration, a number, days or percent, by what is checked
    #[arg(long, value_name = "X")]
    warn: Option<String>,
    /// From here on critical
    #[arg(long, value_name = "Y")]
    crit: Option<String>,
    #[arg(long, default_value = "human")]
    format: CheckFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// It answers and is ready (durations; 1s and 5s)
    Relay,
    /// Our clock against the relay's (durations; 5s and 60s)
    Clock,
    /// Use of the disk with the data (percent; 85 and 95)
    Disk,
    /// How long the relay's certificate is still good (days left; 21 and 7)
    Cert,
    /// From an event's arrival to its commit, 99 of 100 since the start (durations; 250ms and 2s)
    Lag,
    /// How many wait for the busiest lock of the namespace (numbers; 100 and 1000)
    Locks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckFormat {
    Human,
    Nagios,
    Json,
}

/// `relay check`: what is asked cannot be found out.
const UNKNOWN: u8 = 3;

impl Doctor {
    pub async fn run(self, app: &App) -> Outcome {
        let mut findings = Vec::new();
        let (configuration, loaded) = checks::configuration(app);
        findings.push(configuration);
        findings.push(checks::key(app));
        if let Some(loaded) = loaded {
            let dir = loaded.config.node.data_dir();
            findings.push(checks::disk(&dir, 85.0, 95.0));
            findings.push(checks::sync_time(&dir));
        }
        findings.push(checks::file_limit());
        match relay(app) {
            Ok((url, client)) => {
                let probe = client.probe().await;
                findings.push(checks::relay(
                    &url,
                    &probe,
                    Duration::from_secs(1),
                    Duration::from_secs(5),
                ));
                if url.starts_with("https://") {
                    findings.push(checks::certificate(&url, app.timeout(), 21.0, 7.0).await);
                }
                if let Ok(probe) = &probe {
                    findings.push(checks::clock(probe, 5.0, 60.0));
                    findings.push(checks::socket(&client).await);
                    findings.extend(checks::link(&client).await);
                }
                if let Some(hub) = &self.from {
                    findings.push(checks::seen_from(&at(app, hub)?, &client).await);
                }
                if self.slow && probe.is_ok() {
                    app.notice("a minute of silence, to see whether the socket lives through it");
                    findings.push(checks::idle_socket(&client, QUIET).await);
                }
            }
            Err(failure) => findings.push(Finding {
                name: "relay",
                level: Level::Warn,
                value: failure.what,
                cure: Some("relay serve".into()),
            }),
        }
        tell(app, &findings)?;
        let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
        Ok(worst as u8)
    }
}

fn relay(app: &App) -> Result<(String, Client), Failure> {
    let target = app.target()?;
    let client = at(app, &target.url)?;
    Ok((target.url, client))
}

/// A client without a key: what is looked at is open to everybody.
fn at(app: &App, url: &str) -> Result<Client, Failure> {
    Client::builder(url)
        .and_then(|builder| builder.timeout(app.timeout()).build())
        .map_err(|error| Failure::usage(error.to_string()))
}

fn tell(app: &App, findings: &[Finding]) -> Result<(), Failure> {
    if app.out.is_json() {
        output::line(&json!({ "items": findings }).to_string())?;
        return Ok(());
    }
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    for Finding { name, level, value, cure } in findings {
        let level = word(*level);
        output::line(&format!("{level:<4}  {name:<width$}  {value}"))?;
        if let Some(cure) = cure {
            output::line(&format!("{:6}{:<width$}  -> {cure}", "", ""))?;
        }
    }
    Ok(())
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Warn => "warn",
        Level::Fail => "fail",
    }
}

impl Check {
    pub async fn run(self, app: &App) -> Outcome {
        let finding = match self.look(app).await {
            Ok(finding) => finding,
            Err(failure) => {
                output::line(&format!("UNKNOWN - {}", failure.what))?;
                return Ok(UNKNOWN);
            }
        };
        let state = match finding.level {
            Level::Ok => "OK",
            Level::Warn => "WARNING",
            Level::Fail => "CRITICAL",
        };
        match self.format {
            CheckFormat::Json => output::line(&json!(finding).to_string())?,
            CheckFormat::Nagios => {
                output::line(&format!(
                    "RELAY {} {state} - {}",
                    finding.name.to_uppercase(),
                    finding.value
                ))?;
            }
            CheckFormat::Human => output::line(&format!("{state}: {}", finding.value))?,
        }
        Ok(finding.level as u8)
    }

    async fn look(&self, app: &App) -> Result<Finding, Failure> {
        match self.name {
            Name::Relay => {
                let (url, client) = relay(app)?;
                let warn = self.duration(&self.warn, Duration::from_secs(1))?;
                let crit = self.duration(&self.crit, Duration::from_secs(5))?;
                Ok(checks::relay(&url, &client.probe().await, warn, crit))
            }
            Name::Clock => {
                let (_, client) = relay(app)?;
                let probe =
                    client.probe().await.map_err(|error| Failure::of(error, "the clock"))?;
                let warn = self.duration(&self.warn, Duration::from_secs(5))?;
                let crit = self.duration(&self.crit, Duration::from_secs(60))?;
                Ok(checks::clock(&probe, warn.as_secs_f64(), crit.as_secs_f64()))
            }
            Name::Cert => {
                let target = app.target()?;
                let (warn, crit) = (number(&self.warn, 21.0)?, number(&self.crit, 7.0)?);
                Ok(checks::certificate(&target.url, app.timeout(), warn, crit).await)
            }
            Name::Lag => {
                let client = app.client().await?;
                let warn = self.duration(&self.warn, Duration::from_millis(250))?;
                let crit = self.duration(&self.crit, Duration::from_secs(2))?;
                checks::lag(&client, warn, crit).await
            }
            Name::Locks => {
                let target = app.target()?;
                let (client, ns) = (app.client().await?, app.ns(&target)?);
                let (warn, crit) = (number(&self.warn, 100.0)?, number(&self.crit, 1_000.0)?);
                checks::locks(&client, &ns, warn, crit).await
            }
            Name::Disk => {
                let (finding, loaded) = checks::configuration(app);
                let loaded = loaded.ok_or_else(|| Failure::usage(finding.value))?;
                let (warn, crit) = (percent(&self.warn, 85.0)?, percent(&self.crit, 95.0)?);
                Ok(checks::disk(&loaded.config.node.data_dir(), warn, crit))
            }
        }
    }

    fn duration(&self, given: &Option<String>, default: Duration) -> Result<Duration, Failure> {
        given
            .as_deref()
            .map_or(Ok(default), |text| times::parse_duration(text).map_err(Failure::usage))
    }
}

fn number(given: &Option<String>, default: f64) -> Result<f64, Failure> {
    let Some(text) = given else { return Ok(default) };
    let number = text.trim_end_matches('d').parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| Failure::usage(format!("'{text}' is no number")))
}

fn percent(given: &Option<String>, default: f64) -> Result<f64, Failure> {
    let Some(text) = given else { return Ok(default) };
    let number =
        text.trim_end_matches('%').parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| Failure::usage(format!("'{text}' is no percentage")))
}
