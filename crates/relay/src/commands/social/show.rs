//! Events as rows.

use relay_client::{
    proto::polycentric::{Body, Event, content},
    social::{Counted, event_name},
};
use serde_json::{Value, json};

pub const COLUMNS: [&str; 4] = ["at_ms", "system", "text", "id"];
pub const COUNTED: [&str; 7] = ["at_ms", "system", "text", "likes", "dislikes", "replies", "id"];

pub fn row(event: &Event) -> Value {
    let text = match event.body() {
        Body::Text(text) => Some(text.as_str()),
        _ => None,
    };
    let kind = match event.content_type() {
        content::DELETE => "deleted",
        content::POST => "post",
        content::USERNAME => "username",
        content::DESCRIPTION => "description",
        content::CLAIM => "claim",
        _ => "event",
    };
    json!({
        "id": event_name(&event.key()),
        "system": event.system().to_string(),
        "kind": kind,
        "content_type": event.content_type(),
        "at_ms": event.unix_ms(),
        "text": text,
    })
}

pub fn counted(counted: &Counted) -> Value {
    let mut value = row(&counted.event);
    value["likes"] = counted.likes.into();
    value["dislikes"] = counted.dislikes.into();
    value["replies"] = counted.replies.into();
    value
}
