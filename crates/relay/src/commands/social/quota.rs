//! What an operator allows single identities.

use clap::{Args, Subcommand};
use relay_client::{Request, proto::polycentric::SystemKey};
use relay_node::config::Size;
use serde_json::json;

use super::{
    operator::{call, list, post},
    parse_system,
};
use crate::{app::App, error::Outcome};

pub const EXAMPLES: &str = "\
Examples:
  relay social quota show
  relay social quota set ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541 --bytes 10GB
  relay social quota remove ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541";

const COLUMNS: [&str; 4] = ["system", "bytes", "events_per_sec", "set_at_ms"];

#[derive(Debug, Args)]
pub struct Quota {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The quotas that are set
    #[command(after_help = EXAMPLES)]
    Show {
        /// One identity; all that have a quota of their own, where absent
        #[arg(value_parser = parse_system, value_name = "KEY")]
        who: Option<SystemKey>,
    },
    /// Set what one identity may; what is not named is as for all
    #[command(after_help = EXAMPLES)]
    Set(Limits),
    /// Allow one identity what all are allowed
    #[command(after_help = EXAMPLES)]
    Remove {
        /// The identity
        #[arg(value_parser = parse_system, value_name = "KEY")]
        who: SystemKey,
    },
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("limit").required(true).multiple(true)))]
struct Limits {
    /// The identity
    #[arg(value_parser = parse_system, value_name = "KEY")]
    who: SystemKey,
    /// What is held of it at most, such as 500MB; 0: no limit
    #[arg(long, value_name = "SIZE", group = "limit")]
    bytes: Option<Size>,
    /// Its events a second in the long run; 0: no limit
    #[arg(long, value_name = "N", group = "limit")]
    events_per_sec: Option<u32>,
}

impl Quota {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb.unwrap_or(Verb::Show { who: None }) {
            Verb::Show { who } => {
                let system = who.map(|who| who.to_string());
                let request = Request::get("/v1/social/quotas").query("system", system);
                let answer = call(app, request).await?;
                list(app, &answer, &COLUMNS, "nobody has a quota of their own")
            }
            Verb::Set(limits) => {
                let body = json!({
                    "system": limits.who.to_string(),
                    "bytes": limits.bytes.map(Size::bytes),
                    "events_per_sec": limits.events_per_sec,
                });
                post(app, "/v1/social/quotas/set", &body).await
            }
            Verb::Remove { who } => {
                let body = json!({ "system": who.to_string() });
                post(app, "/v1/social/quotas/remove", &body).await
            }
        }
    }
}
