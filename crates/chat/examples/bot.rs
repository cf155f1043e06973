//! A bot that accepts every invitation and answers every message.
//!
//! ```sh
//! cargo run -p relay-chat --example bot -- https://relay.example.com path/to/key path/to/profile
//! ```

use std::{error::Error, path::PathBuf, time::Duration};

use relay_chat::{
    Chat, Options, Unlock,
    views::{Event, MessageBody},
};
use relay_client::keys;
use zeroize::Zeroizing;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Only one provider is compiled in.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut args = std::env::args().skip(1);
    let mut next =
        |what: &str| args.next().ok_or(format!("usage: bot URL KEY PROFILE ({what} is missing)"));
    let (relay_url, key, profile) = (next("URL")?, next("KEY")?, PathBuf::from(next("PROFILE")?));
    let user = keys::load(&PathBuf::from(key), || None)?;
    // A bot that nobody watches has nobody who types a passphrase: its state opens by its own key. Protect the disk.
    let unlock = Unlock::Key(Zeroizing::new(*user.seed()));
    let chat = Chat::open(Options {
        profile,
        unlock,
        user: user.into(),
        relay_url,
        label: "bot".into(),
        timeout: Duration::from_secs(10),
    })
    .await?;
    let mut events = chat.events();
    println!("I am {}", chat.me()?.user_id);
    loop {
        match events.recv().await? {
            Event::Invited { conv_id, .. } => chat.accept(&conv_id).await?,
            Event::Message { message } if !message.own => {
                let MessageBody::Text { text } = &message.body else { continue };
                let answer = format!("you said: {text}");
                chat.send_text(&message.conv_id, answer, message.id.clone()).await?;
                chat.mark_read(&message.conv_id, message.seq).await?;
            }
            _ => {}
        }
    }
}
