//! `relay event`: signed events.

mod filters;
mod offline;
mod publish;
mod query;
mod stream;
mod transfer;

use clap::{Args, Subcommand};

pub use filters::parse_tag;

use crate::{app::App, error::Outcome};

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct EventGroup {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Sign and publish an event, and print its id
    #[command(after_help = publish::EXAMPLES)]
    Publish(publish::Publish),
    /// Find events
    #[command(after_help = query::QUERY_EXAMPLES)]
    Query(query::Query),
    /// Count events
    #[command(after_help = query::COUNT_EXAMPLES)]
    Count(query::Count),
    /// Show one event
    #[command(after_help = query::GET_EXAMPLES)]
    Get(query::Get),
    /// Show the latest event of an address, or its history
    #[command(after_help = query::ADDR_EXAMPLES)]
    Addr(query::Addr),
    /// Follow events as they come
    #[command(after_help = stream::EXAMPLES)]
    Stream(stream::Stream),
    /// Sign drafts from stdin
    #[command(after_help = offline::SIGN_EXAMPLES)]
    Sign(offline::Sign),
    /// Check ids and signatures of events on stdin
    #[command(after_help = offline::VERIFY_EXAMPLES)]
    Verify,
    /// Decrypt an event or an age ciphertext from stdin
    #[command(after_help = offline::DECRYPT_EXAMPLES)]
    Decrypt,
    /// Compute the ids of events or drafts on stdin
    #[command(after_help = offline::ID_EXAMPLES)]
    Id,
    /// Write events to a file, in the order of their arrival
    #[command(after_help = transfer::EXPORT_EXAMPLES)]
    Export(transfer::Export),
    /// Publish many signed events from NDJSON
    #[command(after_help = transfer::IMPORT_EXAMPLES)]
    Import(transfer::Import),
}

impl EventGroup {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb {
            Verb::Publish(publish) => publish.run(app).await,
            Verb::Query(query) => query.run(app).await,
            Verb::Count(count) => count.run(app).await,
            Verb::Get(get) => get.run(app).await,
            Verb::Addr(addr) => addr.run(app).await,
            Verb::Stream(stream) => stream.run(app).await,
            Verb::Sign(sign) => sign.run(app),
            Verb::Verify => offline::verify(app),
            Verb::Decrypt => offline::decrypt(app),
            Verb::Id => offline::id(app),
            Verb::Export(export) => export.run(app).await,
            Verb::Import(import) => import.run(app).await,
        }
    }
}
