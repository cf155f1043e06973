//! Telling others that a device is lost, and hearing of theirs: signed events of the users themselves, which the relay can
//! hold back and not invent.

use std::sync::Arc;

use relay_client::{Client, Query};
use relay_proto::{
    Filter, NodeId,
    event::{Draft, Tags, reserved},
};

use super::{Shared, now_ms};
use crate::{error::Result, views::Event};

/// Authors of one question, and pages of its answer.
const AUTHORS: usize = 100;
const MAX_PAGES: usize = 10;
const PAGE: u32 = 1_000;

/// Publishes that a device is not this user's any more.
pub(crate) async fn publish(shared: &Shared, client: &Client, device_id: &str) -> Result<()> {
    let mut tags = Tags::new();
    tags.push(["d", device_id]);
    let draft = Draft {
        kind: reserved::DEVICE_REVOCATION,
        created_at_ns: relay_client::unix_ns(),
        tags,
        content: String::new(),
    };
    let event = shared.signer.sign_event(&draft)?;
    client.publish(&event).await?;
    Ok(())
}

/// Looks for revocations of everybody whom this device talks to; gives the conversations that have something to do.
pub(crate) async fn heed(shared: &Arc<Shared>, client: &Client) -> Result<Vec<String>> {
    let users = shared.on_core(|core| core.acquaintances()).await?;
    let mut revoked: Vec<(NodeId, String)> = Vec::new();
    for authors in users.chunks(AUTHORS) {
        let filter = Filter {
            authors: authors.to_vec(),
            kinds: vec![reserved::DEVICE_REVOCATION],
            ..Filter::default()
        };
        let mut query = Query { filter, limit: Some(PAGE), ..Query::default() };
        for _ in 0..MAX_PAGES {
            let page = client.query(&query).await?;
            // The relay is not trusted with the filter either.
            let ours = page.events.iter().filter(|event| query.filter.matches(event));
            revoked.extend(ours.filter_map(|event| {
                let device = event.tags().values("d").next()?;
                Some((event.pubkey(), device.to_owned()))
            }));
            query.cursor = page.cursor;
            if query.cursor.is_none() {
                break;
            }
        }
    }
    let events = shared.on_core(move |core| core.revoked(&revoked, now_ms())).await?;
    let convs = events.iter().filter_map(|event| match event {
        Event::Conversation { conv_id } => Some(conv_id.clone()),
        _ => None,
    });
    let convs = convs.collect();
    shared.tell(events);
    Ok(convs)
}
