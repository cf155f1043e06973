//! What is asked over HTTP, beside the socket.

use relay_client::{Client, Error as RelayError, Request};
use relay_proto::{Code, NodeId};
use serde_json::{Value, json};

use super::Link;
use crate::{
    core::{Core, Events, Refused, Step},
    engine::{now_ms, requests, revocations, uploads},
    error::Error,
};

/// How long a presence lease lasts.
const LEASE_S: u64 = 120;

/// What came of a request over HTTP.
pub(super) struct Answered {
    pub conv_id: String,
    pub outcome: Outcome,
}

pub(super) enum Outcome {
    Created(i64),
    Packages(i64, NodeId, Vec<(String, String)>),
    GroupInfo(i64, u64, String),
    Left(i64),
    Asked(i64, u64),
    Refused(i64, Refused),
    /// An attachment was handed in, or not.
    Uploaded {
        conv_id: String,
        n: i64,
        done: Result<(), Refused>,
    },
    /// The state here does not work.
    Failed(Error),
    /// Nobody knows whether it was done.
    Broken(RelayError),
    /// These conversations have something to do.
    Wake(Vec<String>),
    Nothing,
}

/// Asks over HTTP.
pub(super) async fn request(
    client: &Client,
    conv_id: &str,
    step: Step,
    me: NodeId,
    own: &str,
) -> Outcome {
    let (n, done) = match step {
        Step::Create { n, path, body } => {
            let asked = client.call::<Value>(Request::post(path, &body)).await;
            (n, asked.map(|_| Outcome::Created(n)))
        }
        Step::Fetch { n, user } => (n, packages(client, n, user, me, own).await),
        Step::GroupInfo { n } => {
            let asked = requests::group_info(client, conv_id).await;
            (n, asked.map(|(epoch, sealed)| Outcome::GroupInfo(n, epoch, sealed)))
        }
        Step::AskRejoin { n } => {
            (n, requests::ask_rejoin(client, conv_id).await.map(|asked| Outcome::Asked(n, asked)))
        }
        Step::Leave { n } => {
            let body = json!({ "conv_id": conv_id, "members": [me] });
            let asked = client.call::<Value>(Request::post("/v1/rooms/remove", &body)).await;
            let left = match asked {
                // Direct messages have no list to come off, and who is off it already is off it.
                Err(error) if requests::refused(&error).is_some_and(|why| is_final(&why)) => {
                    Ok(Outcome::Left(n))
                }
                other => other.map(|_| Outcome::Left(n)),
            };
            (n, left)
        }
        Step::Commit { .. } | Step::Send { .. } | Step::Wait { .. } => return Outcome::Nothing,
    };
    match done {
        Ok(outcome) => outcome,
        Err(error) => match requests::refused(&error) {
            Some(why) => Outcome::Refused(n, why),
            None => Outcome::Broken(error),
        },
    }
}

fn is_final(why: &Refused) -> bool {
    matches!(why.code, Code::InvalidRequest | Code::Forbidden | Code::NotFound)
}

/// KeyPackages of a user's devices. The own ones are only fetched where there is another device than this one.
async fn packages(
    client: &Client,
    n: i64,
    user: NodeId,
    me: NodeId,
    own: &str,
) -> Result<Outcome, RelayError> {
    if user == me {
        let devices = requests::pool(client).await?;
        if devices.iter().all(|(device, _)| device == own) {
            return Ok(Outcome::Packages(n, user, Vec::new()));
        }
    }
    let mut devices = requests::fetch_packages(client, &user).await?;
    devices.retain(|(device, _)| device != own || user != me);
    Ok(Outcome::Packages(n, user, devices))
}

impl Link {
    /// Writes the vault, where something is new; a failure is made good with the next connection.
    pub(super) fn keep_vault(&mut self) {
        let (shared, client) = (self.shared.clone(), self.client.clone());
        self.requests.spawn(async move {
            if let Err(error) = crate::chat::keep_vault(&shared, &client).await {
                tracing::debug!(%error, "the vault was not written");
            }
            Answered { conv_id: String::new(), outcome: Outcome::Nothing }
        });
    }

    /// Takes in which devices their users have revoked.
    pub(super) fn heed_revocations(&mut self) {
        let (shared, client) = (self.shared.clone(), self.client.clone());
        self.requests.spawn(async move {
            let outcome = match revocations::heed(&shared, &client).await {
                Ok(convs) => Outcome::Wake(convs),
                Err(error) => {
                    tracing::debug!(%error, "no word of revoked devices");
                    Outcome::Nothing
                }
            };
            Answered { conv_id: String::new(), outcome }
        });
    }

    /// Hands in an attachment, after the one that is under way.
    pub(super) fn upload(&mut self, conv_id: &str, n: i64) {
        match self.uploading {
            Some(under_way) if under_way == n => {}
            Some(_) => drop(self.held.insert(conv_id.to_owned())),
            None => {
                self.uploading = Some(n);
                let (shared, client) = (self.shared.clone(), self.client.clone());
                let conv_id = conv_id.to_owned();
                self.requests.spawn(async move {
                    let outcome = match uploads::upload(&shared, &client, &conv_id, n).await {
                        Ok(done) => Outcome::Uploaded { conv_id, n, done },
                        Err(error) => Outcome::Failed(error),
                    };
                    // The conversation is not held up by it.
                    Answered { conv_id: String::new(), outcome }
                });
            }
        }
    }

    /// Takes in what became of it, and looks who is next.
    pub(super) async fn uploaded(
        &mut self,
        conv_id: String,
        n: i64,
        done: Result<(), Refused>,
    ) -> crate::error::Result<Events> {
        self.uploading = None;
        self.queue.append(&mut self.held);
        self.queue.insert(conv_id);
        let noted = move |core: &Core| match done {
            Ok(()) => core.uploaded(n),
            Err(why) => core.not_uploaded(n, &why, now_ms()),
        };
        self.shared.on_core(noted).await
    }

    /// Keeps the user shown as there, where they want it.
    pub(super) fn renew_lease(&mut self) {
        let Some(invisible) = self.appear else { return };
        let client = self.client.clone();
        let body = json!({
            "device_id": self.shared.core.device().device_id(), "ttl_seconds": LEASE_S, "invisible": invisible,
        });
        self.requests.spawn(async move {
            // A lease that is not renewed runs out; the next one is tried in a minute.
            let _: Result<Value, _> = client.call(Request::post("/v1/presence/lease", &body)).await;
            Answered { conv_id: String::new(), outcome: Outcome::Nothing }
        });
    }
}
