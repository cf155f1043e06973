//! Users and conversations of several homes: who lives here, which other homes have conversations of theirs, and what
//! other homes have to be told (`federation.md`, Homes).
//!
//! Mail is written in the transaction of what it tells of, and deleted when the user's home has it. For one user it is
//! numbered in the order of its commits, and taken in this order: what comes twice is known by its number.

use relay_proto::{
    NodeId,
    auth::DeviceId,
    conv::{ConvId, Mail, NumberedMail},
};
use serde_json::json;

use super::{
    InboxPost,
    conversations::{blocked, member},
    inbox,
};
use crate::{
    Store,
    error::Result,
    sql::{Arg, EMPTY, Row, Sql, damaged, exists, look, one, transact},
};

/// Devices of a user that are told of something.
const MAX_DEVICES: u64 = 32;

/// Where a user finds a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The user is in one of this name here.
    Here,
    /// At this relay, as that relay says.
    At(String),
    /// Nobody said anything.
    Unknown,
}

/// Mail of another relay.
#[derive(Debug, Clone)]
pub struct MailTake {
    /// The relay that tells; `None` where it is this one, and the user came to live here after the mail was written.
    pub source: Option<String>,
    pub items: Vec<NumberedMail>,
    pub at_ms: u64,
    pub max_inbox: u64,
    pub max_per_user: u64,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailTaken {
    /// Whose mail of which numbers need not come again.
    pub taken: Vec<(NodeId, u64)>,
    /// What lies in inboxes now.
    pub delivered: Vec<InboxPost>,
    pub blocks: Vec<BlockHeard>,
    /// Who is not to be in the conversation that the mail of this number brings them into.
    pub refused: Vec<(NodeId, u64)>,
}

/// Somebody who lives elsewhere blocks a user who lives here, or does so no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockHeard {
    pub by: NodeId,
    pub user: NodeId,
    pub is_blocked: bool,
}

/// A device that wants to be added to a conversation again.
#[derive(Debug, Clone)]
pub struct RejoinAsked {
    pub conv: ConvId,
    pub user: NodeId,
    pub device: DeviceId,
    /// Whom to ask; those who may invite where nobody is named.
    pub members: Vec<NodeId>,
    pub max_asked: u64,
    pub at_ms: u64,
    pub max_inbox: u64,
    /// Whether users who do not live here are told at their homes.
    pub mail: bool,
}

impl Store {
    /// Notes that the user lives here; whether this is new.
    pub async fn add_home_user(&self, user: NodeId, at_ms: u64) -> Result<bool> {
        let asked = (user, at_ms);
        transact!(self, asked, add_home_user)
    }

    /// Whether the user lives here.
    pub async fn is_home_user(&self, user: NodeId) -> Result<bool> {
        look!(self, user, is_home_user)
    }

    /// Where the user finds a conversation of this name.
    pub async fn conversation_place(&self, conv: ConvId, user: NodeId) -> Result<Place> {
        let asked = (conv, user);
        look!(self, asked, place)
    }

    /// The other homes of the user's conversations.
    pub async fn other_homes(&self, user: NodeId) -> Result<Vec<String>> {
        look!(self, user, other_homes)
    }

    /// Users for whom mail waits, by their keys, those after `after`.
    pub async fn mail_users(&self, after: Option<NodeId>, limit: u64) -> Result<Vec<NodeId>> {
        let asked = (after, limit);
        look!(self, asked, users)
    }

    /// The oldest mail that waits for these users. There is none where nobody is named.
    pub async fn mail_of(&self, users: Vec<NodeId>, limit: u64) -> Result<Vec<NumberedMail>> {
        let asked = (users, limit);
        look!(self, asked, mail_of)
    }

    /// Deletes mail that has arrived, and what nobody has taken since `before_ms`.
    pub async fn delete_mail(&self, mail: Vec<(NodeId, u64)>, before_ms: u64) -> Result<()> {
        let asked = (mail, before_ms);
        transact!(self, asked, delete)
    }

    /// Takes mail for users who live here.
    pub async fn take_mail(&self, take: MailTake) -> Result<MailTaken> {
        transact!(self, take, take_all)
    }

    /// Puts a request into the inboxes of members' devices; `None` where the user is no member, else how many members
    /// are asked.
    pub async fn ask_rejoin(&self, asked: RejoinAsked) -> Result<Option<(u64, Vec<InboxPost>)>> {
        transact!(self, asked, ask_rejoin)
    }
}

async fn add_home_user<S: Sql>(sql: &S, (user, at_ms): &(NodeId, u64)) -> Result<bool> {
    let text = "INSERT INTO home_users (user_key, since_ms) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    Ok(sql.run(text, &[user.into(), (*at_ms).into()]).await? > 0)
}

pub(super) async fn is_home_user<S: Sql>(sql: &S, user: &NodeId) -> Result<bool> {
    exists(sql, "SELECT since_ms FROM home_users WHERE user_key = ?1", &[user.into()]).await
}

async fn place<S: Sql>(sql: &S, (conv, user): &(ConvId, NodeId)) -> Result<Place> {
    let here = "SELECT m.role FROM conversations c JOIN conversation_members m ON m.conv = c.n
                WHERE c.conv_id = ?1 AND m.user_key = ?2";
    if exists(sql, here, &[conv.into(), user.into()]).await? {
        return Ok(Place::Here);
    }
    let there = "SELECT home FROM conversation_routes WHERE user_key = ?1 AND conv_id = ?2";
    Ok(match one(sql, there, &[user.into(), conv.into()]).await? {
        Some(mut row) => Place::At(row.text(0)?),
        None => Place::Unknown,
    })
}

async fn other_homes<S: Sql>(sql: &S, user: &NodeId) -> Result<Vec<String>> {
    let text = "SELECT DISTINCT home FROM conversation_routes WHERE user_key = ?1 ORDER BY home";
    let rows = sql.rows(text, &[user.into()]).await?;
    rows.into_iter().map(|mut row| row.text(0)).collect()
}

/// Writes mail for a user, unless the user lives here; whether it was written.
pub(super) async fn write<S: Sql>(sql: &S, user: &NodeId, mail: &Mail, at_ms: u64) -> Result<bool> {
    if is_home_user(sql, user).await? {
        return Ok(false);
    }
    // Until the end of the transaction, so that numbers rise in the order of commits.
    sql.lock_user(user).await?;
    let body = serde_json::to_vec(mail).map_err(|_| damaged("mail cannot be written"))?;
    let head = one(
        sql,
        "INSERT INTO home_mail_heads (user_key, n) VALUES (?1, ?2)
         ON CONFLICT (user_key) DO UPDATE SET n = CASE
             WHEN home_mail_heads.n < excluded.n THEN excluded.n ELSE home_mail_heads.n + 1 END
         RETURNING n",
        &[user.into(), at_ms.saturating_mul(1_000).into()],
    )
    .await?;
    let n = head.ok_or_else(|| damaged("mail without a number"))?.number(0)?;
    let text = "INSERT INTO home_mail (user_key, n, body, at_ms) VALUES (?1, ?2, ?3, ?4)";
    sql.run(text, &[user.into(), n.into(), (&body[..]).into(), at_ms.into()]).await?;
    Ok(true)
}

async fn users<S: Sql>(sql: &S, (after, limit): &(Option<NodeId>, u64)) -> Result<Vec<NodeId>> {
    let text =
        "SELECT DISTINCT user_key FROM home_mail WHERE user_key > ?1 ORDER BY user_key LIMIT ?2";
    let after: Arg<'_> = after.as_ref().map_or(EMPTY, |user| &user.as_bytes()[..]).into();
    let rows = sql.rows(text, &[after, (*limit).into()]).await?;
    rows.into_iter().map(|mut row| row.key(0)).collect()
}

async fn mail_of<S: Sql>(
    sql: &S,
    (users, limit): &(Vec<NodeId>, u64),
) -> Result<Vec<NumberedMail>> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let mut args: Vec<Arg<'_>> = vec![(*limit).into()];
    args.extend(users.iter().map(Arg::from));
    let places: Vec<String> = (2..=args.len()).map(|n| format!("?{n}")).collect();
    let text = format!(
        "SELECT n, user_key, body FROM home_mail WHERE user_key IN ({})
         ORDER BY n, user_key LIMIT ?1",
        places.join(", ")
    );
    let rows = sql.rows(&text, &args).await?;
    let read = |mut row: Row| {
        Ok(NumberedMail {
            n: row.number(0)?,
            user_id: row.key(1)?,
            mail: serde_json::from_slice(&row.bytes(2)?).map_err(|_| damaged("no mail"))?,
        })
    };
    rows.into_iter().map(read).collect()
}

async fn delete<S: Sql>(sql: &S, (mail, before_ms): &(Vec<(NodeId, u64)>, u64)) -> Result<()> {
    for (user, n) in mail {
        let text = "DELETE FROM home_mail WHERE user_key = ?1 AND n = ?2";
        sql.run(text, &[user.into(), (*n).into()]).await?;
    }
    sql.run("DELETE FROM home_mail WHERE at_ms < ?1", &[(*before_ms).into()]).await?;
    Ok(())
}

async fn take_all<S: Sql>(sql: &S, take: &MailTake) -> Result<MailTaken> {
    let mut done = MailTaken::default();
    // Users in one order, whoever takes or writes; the mail of each stays in its own.
    let mut items: Vec<&NumberedMail> = take.items.iter().collect();
    items.sort_by_key(|item| (item.user_id, item.n));
    for item in items {
        let user = &item.user_id;
        if !is_home_user(sql, user).await? {
            continue;
        }
        sql.lock_user(user).await?;
        let is_new = match &take.source {
            // Deleted in the end by whoever took it; what it does twice it does once.
            None => true,
            Some(source) => move_mark(sql, source, item).await?,
        };
        if is_new {
            let delivered = apply(sql, take, item, &mut done.blocks).await?;
            done.delivered.extend(delivered);
        }
        // Whether it comes for the first time or again: the answer may have been lost.
        if is_refused(sql, take, item).await? {
            done.refused.push((item.user_id, item.n));
        }
        done.taken.push((item.user_id, item.n));
    }
    Ok(done)
}

/// Notes that mail was taken; whether it was not before.
async fn move_mark<S: Sql>(sql: &S, source: &str, item: &NumberedMail) -> Result<bool> {
    let moved = sql
        .run(
            "INSERT INTO home_mail_taken (source, user_key, n) VALUES (?1, ?2, ?3)
             ON CONFLICT (source, user_key) DO UPDATE SET n = excluded.n WHERE home_mail_taken.n < excluded.n",
            &[source.into(), (&item.user_id).into(), item.n.into()],
        )
        .await?;
    Ok(moved > 0)
}

async fn apply<S: Sql>(
    sql: &S,
    take: &MailTake,
    item: &NumberedMail,
    blocks: &mut Vec<BlockHeard>,
) -> Result<Vec<InboxPost>> {
    let user = &item.user_id;
    match (&item.mail, &take.source) {
        // Both live here: what is kept here says it all.
        (Mail::Joined { .. } | Mail::Left { .. } | Mail::Blocked { .. }, None) => Ok(Vec::new()),
        (Mail::Blocked { by, is_blocked }, Some(_)) => {
            let heard = BlockHeard { by: *by, user: *user, is_blocked: *is_blocked };
            note_block(sql, &heard).await?;
            blocks.push(heard);
            Ok(Vec::new())
        }
        (Mail::Joined { conv_id, .. }, Some(source)) => {
            if !is_refused(sql, take, item).await? {
                add_route(sql, user, conv_id, source, take.max_per_user).await?;
            }
            Ok(Vec::new())
        }
        (Mail::Left { conv_id }, Some(source)) => {
            sql.run(
                "DELETE FROM conversation_routes WHERE user_key = ?1 AND conv_id = ?2 AND home = ?3",
                &[user.into(), conv_id.into(), source.as_str().into()],
            )
            .await?;
            Ok(Vec::new())
        }
        (Mail::Welcome { device_id, conv_id, conv_seq, inviter, key_package_ref, env }, source) => {
            let given = match hex_reference(key_package_ref) {
                Some(reference) => was_given(sql, &reference, inviter, user, device_id).await?,
                None => false,
            };
            if !given || blocked(sql, inviter, user).await? {
                return Ok(Vec::new());
            }
            let home = match source {
                Some(source) => {
                    add_route(sql, user, conv_id, source, take.max_per_user).await?;
                    source.clone()
                }
                None => home_of(sql, conv_id).await?,
            };
            let body = inbox::welcome_body(conv_id, &home, *conv_seq, inviter, env);
            let entry = inbox::put(sql, user, device_id, body, take.at_ms, take.max_inbox).await?;
            Ok(vec![InboxPost { user: *user, device: device_id.clone(), entry }])
        }
        (Mail::RejoinRequest { conv_id, user_id, device_id }, source) => {
            let home = match source {
                Some(source) => source.clone(),
                None => home_of(sql, conv_id).await?,
            };
            let body = rejoin_body(conv_id, &home, user_id, device_id);
            tell_devices(sql, user, &body, take.at_ms, take.max_inbox).await
        }
    }
}

/// Whether it tells of a user that somebody brought them into a conversation who blocks them, or whom they block: the
/// conversation's home may not have known.
async fn is_refused<S: Sql>(sql: &S, take: &MailTake, item: &NumberedMail) -> Result<bool> {
    match (&item.mail, &take.source) {
        (Mail::Joined { by: Some(by), .. }, Some(_)) => blocked(sql, by, &item.user_id).await,
        _ => Ok(false),
    }
}

/// Keeps a block beside those of users of this relay: whoever asks whether two block each other finds it.
async fn note_block<S: Sql>(sql: &S, heard: &BlockHeard) -> Result<()> {
    let text = match heard.is_blocked {
        true => "INSERT INTO blocks (user_key, target) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        false => "DELETE FROM blocks WHERE user_key = ?1 AND target = ?2",
    };
    sql.run(text, &[(&heard.by).into(), (&heard.user).into()]).await?;
    Ok(())
}

async fn add_route<S: Sql>(
    sql: &S,
    user: &NodeId,
    conv: &ConvId,
    home: &str,
    max: u64,
) -> Result<()> {
    let count = "SELECT count(*) FROM conversation_routes WHERE user_key = ?1";
    let count = one(sql, count, &[user.into()]).await?.map_or(Ok(0), |row| row.number(0))?;
    if count >= max {
        return Ok(());
    }
    // Whoever told first stays: names are chosen by clients, and may be in use elsewhere.
    let text = "INSERT INTO conversation_routes (user_key, conv_id, home) VALUES (?1, ?2, ?3)
                ON CONFLICT DO NOTHING";
    sql.run(text, &[user.into(), conv.into(), home.into()]).await?;
    Ok(())
}

async fn home_of<S: Sql>(sql: &S, conv: &ConvId) -> Result<String> {
    let row = one(sql, "SELECT home FROM conversations WHERE conv_id = ?1", &[conv.into()]).await?;
    row.map_or(Ok(String::new()), |mut row| row.text(0))
}

/// Whether a KeyPackage of a device was handed out to somebody.
pub(super) async fn was_given<S: Sql>(
    sql: &S,
    reference: &[u8; 32],
    to: &NodeId,
    user: &NodeId,
    device: &DeviceId,
) -> Result<bool> {
    exists(
        sql,
        "SELECT i.issued_at_ms FROM key_package_issues i JOIN key_packages k ON k.reference = i.reference
         WHERE i.reference = ?1 AND i.issued_to = ?2 AND k.user_key = ?3 AND k.device_id = ?4",
        &[reference.into(), to.into(), user.into(), device.into()],
    )
    .await
}

pub(super) fn reference_hex(reference: &[u8; 32]) -> String {
    reference.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex_reference(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let mut reference = [0; 32];
    for (byte, pair) in reference.iter_mut().zip(text.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(reference)
}

fn rejoin_body(conv: &ConvId, home: &str, user: &NodeId, device: &DeviceId) -> String {
    json!({
        "kind": "rejoin_request", "conv_id": conv, "conv_home": home, "user_id": user, "device_id": device,
    })
    .to_string()
}

/// Puts an entry into the inbox of each device that the relay knows of a user.
async fn tell_devices<S: Sql>(
    sql: &S,
    user: &NodeId,
    body: &str,
    at_ms: u64,
    max_inbox: u64,
) -> Result<Vec<InboxPost>> {
    let rows = sql
        .rows(
            "SELECT device_id FROM (
                 SELECT device_id FROM inboxes WHERE user_key = ?1
                 UNION SELECT device_id FROM key_packages WHERE user_key = ?1 AND bytes IS NOT NULL) x
             ORDER BY device_id LIMIT ?2",
            &[user.into(), MAX_DEVICES.into()],
        )
        .await?;
    let mut posts = Vec::with_capacity(rows.len());
    for mut row in rows {
        let device = row.device(0)?;
        let entry = inbox::put(sql, user, &device, body.to_owned(), at_ms, max_inbox).await?;
        posts.push(InboxPost { user: *user, device, entry });
    }
    Ok(posts)
}

async fn ask_rejoin<S: Sql>(sql: &S, asked: &RejoinAsked) -> Result<Option<(u64, Vec<InboxPost>)>> {
    let text = "SELECT n, home FROM conversations WHERE conv_id = ?1";
    let Some(mut row) = one(sql, text, &[(&asked.conv).into()]).await? else { return Ok(None) };
    let (n, home) = (row.number(0)? as i64, row.text(1)?);
    if member(sql, n, &asked.user).await?.is_none() {
        return Ok(None);
    }
    let rows = sql
        .rows(
            "SELECT user_key, role FROM conversation_members WHERE conv = ?1 ORDER BY role, user_key",
            &[n.into()],
        )
        .await?;
    // Roles up to 1 may invite; of two the other one is asked whatever their role.
    let all = rows.len() <= 2;
    let mut targets = Vec::new();
    for mut row in rows {
        let (user, role) = (row.key(0)?, row.number(1)?);
        let is_asked = match asked.members.is_empty() {
            true => all || role <= 1 || user == asked.user,
            false => asked.members.contains(&user),
        };
        if is_asked && (targets.len() as u64) < asked.max_asked {
            targets.push(user);
        }
    }
    targets.sort_unstable();
    let body = rejoin_body(&asked.conv, &home, &asked.user, &asked.device);
    let mut posts = Vec::new();
    for user in &targets {
        let mail = Mail::RejoinRequest {
            conv_id: asked.conv.clone(),
            user_id: asked.user,
            device_id: asked.device.clone(),
        };
        if asked.mail && write(sql, user, &mail, asked.at_ms).await? {
            continue;
        }
        let told = tell_devices(sql, user, &body, asked.at_ms, asked.max_inbox).await?;
        let own = |post: &InboxPost| post.user == asked.user && post.device == asked.device;
        posts.extend(told.into_iter().filter(|post| !own(post)));
    }
    Ok(Some((targets.len() as u64, posts)))
}
