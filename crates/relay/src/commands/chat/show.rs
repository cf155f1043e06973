//! Messages as lines: for every terminal, read in order, no cursor movement.

use jiff::Timestamp;
use relay_chat::views::{Delivery, MessageBody, MessageView, Notice};

/// One message in one line, or several where its text has several.
pub fn message(message: &MessageView, names: &dyn Fn(&relay_proto::NodeId) -> String) -> String {
    let number = match (message.seq, message.local) {
        (Some(seq), _) => seq.to_string(),
        (None, Some(local)) => format!("out {local}"),
        (None, None) => String::new(),
    };
    let mut line = format!("[{number}] {} ", clock(message.at_ms));
    if let Some(reply) = &message.reply_to {
        line.push_str(&format!("(to {}: {}) ", reply.from_name, clean(&reply.excerpt)));
    }
    let from = clean(&message.from_name);
    match &message.body {
        MessageBody::Text { text } => line.push_str(&format!("{from}: {}", clean_lines(text))),
        MessageBody::File { file } => line.push_str(&format!(
            "{from} sent a file: {} ({} bytes)",
            clean(&file.name),
            file.size
        )),
        MessageBody::Deleted => line.push_str(&format!("{from}: (deleted)")),
        MessageBody::Unsupported { kind } => {
            line.push_str(&format!("{from}: (not supported here: {})", clean(kind)));
        }
        MessageBody::Unreadable { why } => line.push_str(&format!("* {why}")),
        MessageBody::Notice { notice } => line.push_str(&format!("* {}", noticed(notice, names))),
    }
    if message.edited {
        line.push_str(" (edited)");
    }
    for reaction in &message.reactions {
        line.push_str(&format!(" [{} {}]", clean(&reaction.emoji), reaction.by.join(", ")));
    }
    match &message.delivery {
        Delivery::Stored => {}
        Delivery::Sending => line.push_str(" (sending)"),
        Delivery::Waiting { why: None } => line.push_str(" (waiting for the connection)"),
        Delivery::Waiting { why: Some(why) } => line.push_str(&format!(" (waiting: {why})")),
        Delivery::Failed { why } => line.push_str(&format!(" (not sent: {why})")),
    }
    line
}

fn noticed(notice: &Notice, names: &dyn Fn(&relay_proto::NodeId) -> String) -> String {
    let all = |users: &[relay_proto::NodeId]| {
        users.iter().map(|user| clean(&names(user))).collect::<Vec<_>>().join(", ")
    };
    match notice {
        Notice::Created => "the conversation began".into(),
        Notice::Joined { users } => format!("{} joined", all(users)),
        Notice::Gone { users } => format!("{} is gone", all(users)),
        Notice::DeviceAdded { user } => format!("{} added a device", clean(&names(user))),
        Notice::DeviceRemoved { user } => format!("{} has one device less", clean(&names(user))),
        Notice::Renamed { name, topic } => {
            let parts = [("name", name), ("topic", topic)];
            let told = parts.iter().filter_map(|(what, text)| {
                text.as_ref().map(|text| format!("the {what} is now: {}", clean(text)))
            });
            told.collect::<Vec<_>>().join("; ")
        }
        Notice::Roles => "roles changed".into(),
        Notice::Mismatch => "a change of the group was told to the relay differently".into(),
        Notice::Rejoined => "this device is in again".into(),
    }
}

/// Local time of day, with the date where it was not today.
pub fn clock(at_ms: u64) -> String {
    let zone = jiff::tz::TimeZone::system();
    let at = Timestamp::from_millisecond(i64::try_from(at_ms).unwrap_or(0)).unwrap_or_default();
    let (at, now) = (at.to_zoned(zone.clone()), Timestamp::now().to_zoned(zone));
    if at.date() == now.date() {
        at.strftime("%H:%M").to_string()
    } else {
        at.strftime("%Y-%m-%d %H:%M").to_string()
    }
}

/// A stranger's text without anything that moves the cursor or rings.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n    ")
}
