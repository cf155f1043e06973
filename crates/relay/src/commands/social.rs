//! `relay social`: posts, people, topics, on the same key as everything else.

mod images;
mod operator;
mod quota;
mod read;
mod show;
mod transfer;
mod write;

use clap::{Args, Subcommand};
use relay_client::{
    Client,
    proto::polycentric::{EventKey, Pointer, Reference, SystemKey},
    social::{Author, AuthorError, Social, parse_event_name},
};

use crate::{
    app::App,
    error::{Failure, Outcome},
};

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct SocialGroup {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write a post, and print its name
    #[command(after_help = write::POST_EXAMPLES)]
    Post(write::Post),
    /// Answer a post
    #[command(after_help = write::REPLY_EXAMPLES)]
    Reply(write::Reply),
    /// Newest posts: of whom you follow, of somebody, of everybody, about a topic
    #[command(after_help = read::FEED_EXAMPLES)]
    Feed(read::Feed),
    /// A post and its answers
    #[command(after_help = read::THREAD_EXAMPLES)]
    Thread(read::Thread),
    /// Show somebody's profile, or change your own
    #[command(after_help = write::PROFILE_EXAMPLES)]
    Profile(write::Profile),
    /// Follow somebody
    #[command(after_help = write::FOLLOW_EXAMPLES)]
    Follow(write::Person),
    /// Follow somebody no more
    #[command(after_help = write::FOLLOW_EXAMPLES)]
    Unfollow(write::Person),
    /// Block somebody
    #[command(after_help = write::FOLLOW_EXAMPLES)]
    Block(write::Block),
    /// Find posts or people by words
    #[command(after_help = read::SEARCH_EXAMPLES)]
    Search(read::Search),
    /// The most used topics
    #[command(after_help = read::TOPICS_EXAMPLES)]
    Topics(read::Topics),
    /// Which servers somebody uses and how much this relay holds; what this relay follows elsewhere
    #[command(after_help = read::SERVERS_EXAMPLES)]
    Servers(read::Servers),
    /// Vouch for a claim
    #[command(after_help = write::CLAIM_EXAMPLES)]
    Vouch(write::Vouch),
    /// Claim something about yourself
    #[command(after_help = write::CLAIM_EXAMPLES)]
    Claim(write::Claim),
    /// For operators: hide an identity or an event from search, explore and recommendations
    #[command(after_help = operator::CENSOR_EXAMPLES)]
    Censor(operator::Censor),
    /// For operators: show it again
    #[command(after_help = operator::CENSOR_EXAMPLES)]
    Uncensor(operator::Uncensor),
    /// For operators: what is hidden or refused
    #[command(after_help = operator::CENSORED_EXAMPLES)]
    Censored,
    /// For operators: what waits for a verdict while moderation is on
    #[command(after_help = operator::QUEUE_EXAMPLES)]
    Queue(operator::Queue),
    /// For operators: show an event of the queue
    #[command(after_help = operator::JUDGE_EXAMPLES)]
    Approve(operator::Judge),
    /// For operators: do not show an event of the queue
    #[command(after_help = operator::JUDGE_EXAMPLES)]
    Hide(operator::Judge),
    /// For operators: remove an identity whole
    #[command(after_help = operator::PURGE_EXAMPLES)]
    Purge(operator::Purge),
    /// For operators: how much identities hold, and how much they may
    #[command(after_help = operator::USAGE_EXAMPLES)]
    Usage(operator::Usage),
    /// For operators: what single identities may hold and write, in place of what all may
    #[command(after_help = quota::EXAMPLES)]
    Quota(quota::Quota),
    /// Write everything that the relay holds of you to a file
    #[command(after_help = transfer::EXAMPLES)]
    Export(transfer::Export),
    /// Upload a file of events
    #[command(after_help = transfer::EXAMPLES)]
    Import(transfer::Import),
}

impl SocialGroup {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb {
            Verb::Post(post) => post.run(app).await,
            Verb::Reply(reply) => reply.run(app).await,
            Verb::Feed(feed) => feed.run(app).await,
            Verb::Thread(thread) => thread.run(app).await,
            Verb::Profile(profile) => profile.run(app).await,
            Verb::Follow(person) => person.follow(app, true).await,
            Verb::Unfollow(person) => person.follow(app, false).await,
            Verb::Block(block) => block.run(app).await,
            Verb::Search(search) => search.run(app).await,
            Verb::Topics(topics) => topics.run(app).await,
            Verb::Servers(servers) => servers.run(app).await,
            Verb::Vouch(vouch) => vouch.run(app).await,
            Verb::Claim(claim) => claim.run(app).await,
            Verb::Censor(censor) => censor.run(app).await,
            Verb::Uncensor(uncensor) => uncensor.run(app).await,
            Verb::Censored => operator::censored(app).await,
            Verb::Queue(queue) => queue.run(app).await,
            Verb::Approve(judge) => judge.run(app, true).await,
            Verb::Hide(judge) => judge.run(app, false).await,
            Verb::Purge(purge) => purge.run(app).await,
            Verb::Usage(usage) => usage.run(app).await,
            Verb::Quota(quota) => quota.run(app).await,
            Verb::Export(export) => export.run(app).await,
            Verb::Import(import) => import.run(app).await,
        }
    }
}

/// A key as it is typed.
fn parse_system(text: &str) -> Result<SystemKey, String> {
    let key: relay_client::proto::NodeId =
        text.parse().map_err(|error: relay_client::proto::key::KeyError| error.to_string())?;
    Ok(SystemKey::from(key))
}

/// An event's name as it is typed.
fn parse_event(text: &str) -> Result<EventKey, String> {
    parse_event_name(text).ok_or_else(|| {
        "an event is named ed25519:…/PROCESS/CLOCK, as the lists print it".to_owned()
    })
}

/// Whoever is meant: given, or oneself.
fn system_or_own(app: &App, given: Option<SystemKey>) -> Result<SystemKey, Failure> {
    match given {
        Some(system) => Ok(system),
        None => Ok(SystemKey::from(app.key(&app.target()?)?.node_id())),
    }
}

/// The writing side of this device for the key of the command.
async fn author<'c>(app: &App, client: &'c Client) -> Result<Author<'c>, Failure> {
    let key = app.key(&app.target()?)?;
    let name = key.node_id().to_string().replace(':', "-");
    let file = crate::files::config_dir()?.join("social").join(name);
    Author::open(client, key, file).await.map_err(failure)
}

fn failure(error: AuthorError) -> Failure {
    match error {
        AuthorError::Client(error) => Failure::of(error, "the social layer"),
        other => Failure::failed(other.to_string()),
    }
}

/// A reference to an event that the relay has.
async fn reference_to(social: Social<'_>, key: &EventKey) -> Result<Reference, Failure> {
    let found = social.event(key).await.map_err(|error| Failure::of(error, "the event"))?;
    let event = found.ok_or_else(|| {
        let name = relay_client::social::event_name(key);
        Failure::new(crate::error::exit::NOT_FOUND, format!("the relay has no event {name}"))
    })?;
    let pointer: Pointer = event.pointer();
    Ok(Reference::Event(pointer))
}
