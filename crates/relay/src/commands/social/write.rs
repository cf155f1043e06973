//! Writing.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use prost::Message;
use relay_client::{
    proto::polycentric::{
        Draft, Event, EventKey, ImageBundle, ImageManifest, Post as PostMessage, Reference,
        SystemKey, content,
    },
    social::{Author, Social, now_ms},
};

use super::{
    author, failure, images, parse_event, parse_system, reference_to, show, system_or_own,
};
use crate::{
    app::App,
    error::{Failure, Outcome},
    files,
    progress::Progress,
};

pub const POST_EXAMPLES: &str = "\
Examples:
  relay social post 'hello' --topic /birds
  relay social post 'look' --image heron.jpg";
pub const REPLY_EXAMPLES: &str = "\
Examples:
  relay social reply ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541/00112233445566778899aabbccddeeff/17 'well said'
  relay social reply ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541/00112233445566778899aabbccddeeff/17 - < answer.txt";
pub const PROFILE_EXAMPLES: &str = "\
Examples:
  relay social profile ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541
  relay social profile --name alice --description 'a keeper of kestrels' --avatar me.png";
pub const FOLLOW_EXAMPLES: &str = "\
Examples:
  relay social follow ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541
  relay social block --remove ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541";
pub const CLAIM_EXAMPLES: &str = "\
Examples:
  relay social claim --type 10 alice
  relay social vouch ed25519:56d838421f39b26c8f7e07121f8239b7c0671c5a04e632456790fda7db00e541/00112233445566778899aabbccddeeff/17";

#[derive(Debug, Args)]
pub struct Post {
    /// The text; - is stdin
    text: String,
    /// About a topic or URL
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// With a picture
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

impl Post {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let mut author = author(app, &client).await?;
        let about = self.topic.map(|topic| Reference::Bytes(Bytes::from(topic)));
        write(app, &mut author, &self.text, about, self.image.as_deref()).await
    }
}

#[derive(Debug, Args)]
pub struct Reply {
    /// The post
    #[arg(value_parser = parse_event, value_name = "EVENT")]
    event: EventKey,
    /// The text; - is stdin
    text: String,
    /// With a picture
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

impl Reply {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let about = reference_to(Social(&client), &self.event).await?;
        let mut author = author(app, &client).await?;
        write(app, &mut author, &self.text, Some(about), self.image.as_deref()).await
    }
}

async fn write(
    app: &App,
    author: &mut Author<'_>,
    text: &str,
    about: Option<Reference>,
    image: Option<&Path>,
) -> Outcome {
    let text = match text {
        "-" => std::io::read_to_string(std::io::stdin())
            .map_err(|error| Failure::failed(format!("stdin: {error}")))?,
        text => text.to_owned(),
    };
    let image = match image {
        Some(path) => Some(upload(app, author, path).await?),
        None => None,
    };
    let post = PostMessage { content: Some(text), image };
    let draft = Draft {
        references: about.into_iter().collect(),
        ..Draft::of_message(content::POST, &post)
    };
    written(app, &author.publish(draft).await.map_err(failure)?)
}

/// Uploads a picture in pieces.
async fn upload(app: &App, author: &mut Author<'_>, path: &Path) -> Result<ImageManifest, Failure> {
    let bytes = std::fs::read(path).map_err(|error| files::at(path, &error))?;
    let (mime, size) = images::inspect(&bytes).ok_or_else(|| {
        Failure::usage(format!("{}: no PNG, JPEG, GIF or WebP picture", path.display()))
    })?;
    let total = bytes.len() as u64;
    let mut bar =
        Progress::new("picture", "bytes", Some(total), app.global.progress, app.global.plain);
    let manifest =
        author.upload_image(mime, size, &bytes, |done| bar.set(done)).await.map_err(failure)?;
    bar.finish(total, "uploaded");
    Ok(manifest)
}

fn written(app: &App, event: &Event) -> Outcome {
    app.out.one(&show::row(event), &["id"])?;
    Ok(0)
}

#[derive(Debug, Args)]
pub struct Profile {
    /// Whose; yours, where absent
    #[arg(value_parser = parse_system, value_name = "KEY")]
    who: Option<SystemKey>,
    /// Change your name
    #[arg(long, conflicts_with = "who")]
    name: Option<String>,
    /// Change your description
    #[arg(long, conflicts_with = "who")]
    description: Option<String>,
    /// Change your picture
    #[arg(long, value_name = "FILE", conflicts_with = "who")]
    avatar: Option<PathBuf>,
    /// Name a server that has what you write
    #[arg(long, value_name = "URL", conflicts_with = "who")]
    add_server: Vec<String>,
}

impl Profile {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let system = system_or_own(app, self.who)?;
        let mut drafts = Vec::new();
        let texts = [(content::USERNAME, self.name), (content::DESCRIPTION, self.description)];
        for (content_type, text) in texts {
            drafts.extend(text.map(|text| Draft::element(content_type, text, now_ms())));
        }
        for server in self.add_server {
            let server = server.trim_end_matches('/').to_owned();
            drafts.push(Draft::set(content::SERVER, true, server, now_ms()));
        }
        if !drafts.is_empty() || self.avatar.is_some() {
            let mut author = author(app, &client).await?;
            for draft in drafts {
                author.publish(draft).await.map_err(failure)?;
            }
            if let Some(path) = &self.avatar {
                let manifest = upload(app, &mut author, path).await?;
                let bundle = ImageBundle { image_manifests: vec![manifest] }.encode_to_vec();
                let draft = Draft::element(content::AVATAR, bundle, now_ms());
                author.publish(draft).await.map_err(failure)?;
            }
        }
        let profile = Social(&client)
            .profile(system)
            .await
            .map_err(|error| Failure::of(error, "the profile"))?;
        let shown = serde_json::json!({
            "system": system.to_string(),
            "username": profile.username,
            "description": profile.description,
            "events_held": profile.events_held,
        });
        app.out.one(&shown, &["username", "description", "system", "events_held"])?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub struct Person {
    /// Whom
    #[arg(value_parser = parse_system, value_name = "KEY")]
    who: SystemKey,
}

impl Person {
    pub async fn follow(self, app: &App, add: bool) -> Outcome {
        change_set(app, content::FOLLOW, add, self.who).await
    }
}

#[derive(Debug, Args)]
pub struct Block {
    /// Whom
    #[arg(value_parser = parse_system, value_name = "KEY")]
    who: SystemKey,
    /// Block no more
    #[arg(long)]
    remove: bool,
}

impl Block {
    pub async fn run(self, app: &App) -> Outcome {
        change_set(app, content::BLOCK, !self.remove, self.who).await
    }
}

async fn change_set(app: &App, content_type: u64, add: bool, who: SystemKey) -> Outcome {
    let client = app.client().await?;
    let mut author = author(app, &client).await?;
    let value = who.to_message().encode_to_vec();
    let draft = Draft::set(content_type, add, value, now_ms());
    written(app, &author.publish(draft).await.map_err(failure)?)
}

#[derive(Debug, Args)]
pub struct Vouch {
    /// The claim
    #[arg(value_parser = parse_event, value_name = "EVENT")]
    event: EventKey,
}

impl Vouch {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let about = reference_to(Social(&client), &self.event).await?;
        let mut author = author(app, &client).await?;
        written(app, &author.publish(Draft::vouch(about)).await.map_err(failure)?)
    }
}

#[derive(Debug, Args)]
pub struct Claim {
    /// What is claimed: a name on a platform, a text
    value: String,
    /// The number of the kind of claim: 7 generic, 10 GitHub, 15 website, 22 skill …
    #[arg(long, default_value_t = 7)]
    r#type: u64,
}

impl Claim {
    pub async fn run(self, app: &App) -> Outcome {
        let client = app.client().await?;
        let mut author = author(app, &client).await?;
        let event = author.claim(self.r#type, &self.value).await.map_err(failure)?;
        written(app, &event)
    }
}
