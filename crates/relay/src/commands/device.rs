//! `relay device`: the devices of your chats.

use clap::{Args, Subcommand};
use serde_json::json;

use super::chat::{OrFail, connected, current, to_json};
use crate::{
    app::App,
    error::{Failure, Outcome},
};

#[derive(Debug, Args)]
pub struct DeviceGroup {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List your devices
    #[command(after_help = "\
Examples:
  relay device ls
  relay device ls --json")]
    Ls,
    /// Take your other devices into all your conversations; run it where you have them
    #[command(after_help = "\
Examples:
  relay device link
  relay device link --json")]
    Link,
    /// Come back into your conversations on a new device, by your key alone
    #[command(after_help = "\
Examples:
  relay device recover
  relay device recover --others-lost --yes")]
    Recover {
        /// Your other devices are lost: take them out
        #[arg(long)]
        others_lost: bool,
    },
    /// Take a device out of all your conversations and end its sessions
    #[command(after_help = "\
Examples:
  relay device revoke bXkgbGFwdG9wIDEyMw
  relay device revoke bXkgbGFwdG9wIDEyMw --yes")]
    Revoke {
        /// Its id
        device: String,
    },
}

impl DeviceGroup {
    pub async fn run(self, app: &App) -> Outcome {
        match self.verb.unwrap_or(Verb::Ls) {
            Verb::Ls => {
                let chat = current(app).await?;
                let items = to_json(&chat.devices().await.or_fail("your devices")?)?;
                chat.close().await;
                let items = items.as_array().cloned().unwrap_or_default();
                let columns =
                    ["current", "device_id", "conversations", "key_packages", "binding_until_s"];
                app.out.list(&json!({ "items": items }), &items, &columns)?;
                Ok(0)
            }
            Verb::Link => {
                let chat = connected(app).await?;
                chat.add_own_devices().await.or_fail("your devices")?;
                settle(app, &chat).await?;
                let items = to_json(&chat.devices().await.or_fail("your devices")?)?;
                chat.close().await;
                let items = items.as_array().cloned().unwrap_or_default();
                app.out.list(
                    &json!({ "items": items }),
                    &items,
                    &["current", "device_id", "conversations"],
                )?;
                Ok(0)
            }
            Verb::Recover { others_lost } => {
                if others_lost {
                    app.confirm("take out", "others")?;
                }
                let chat = connected(app).await?;
                let recovered = chat.recover(others_lost).await.or_fail("your conversations")?;
                settle(app, &chat).await?;
                chat.close().await;
                app.out.one(&to_json(&recovered)?, &["conversations", "without_key"])?;
                if recovered.without_key > 0 {
                    app.notice("some conversations are not in your vault: ask somebody in them to take this device in");
                }
                Ok(0)
            }
            Verb::Revoke { device } => {
                app.confirm("revoke", &device)?;
                let chat = connected(app).await?;
                chat.revoke_device(&device).await.or_fail(&format!("device {device}"))?;
                settle(app, &chat).await?;
                chat.close().await;
                app.out.one(
                    &json!({ "status": "ok", "device_id": device }),
                    &["status", "device_id"],
                )?;
                Ok(0)
            }
        }
    }
}

async fn settle(app: &App, chat: &relay_chat::Chat) -> Result<(), Failure> {
    match tokio::time::timeout(app.timeout(), chat.settled()).await {
        Ok(settled) => settled.map(|_| ()).or_fail("the outbox"),
        Err(_) => {
            app.notice("some of it is still under way; it goes on when one of your programs runs");
            Ok(())
        }
    }
}
