//! The words of texts, made anew out of the events: a copied store has none.

use relay_proto::polycentric::{Body, content};

use super::stored;
use crate::{
    error::Result,
    sql::{Sql, Words, add_words, args},
};

/// Events read at once.
const SLICE: u64 = 500;

/// Makes every live post, and every current username and description, findable.
pub(crate) async fn rebuild<S: Sql>(sql: &S) -> Result<()> {
    let mut after = 0;
    loop {
        let rows = sql
            .rows(
                "SELECT seq, content_type, raw FROM social_events WHERE seq > ?1
                 ORDER BY seq LIMIT ?2",
                args![after, SLICE],
            )
            .await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.int(0)?;
        for row in &rows {
            let (seq, content_type) = (row.int(0)?, row.int(1)? as u64);
            let words = match content_type {
                content::POST => Words::Posts,
                content::USERNAME | content::DESCRIPTION => Words::Profiles,
                _ => continue,
            };
            let event = stored::event(&row.shared(2)?)?;
            let Body::Text(text) = event.body() else { continue };
            if words == Words::Posts || is_current(sql, seq, content_type).await? {
                add_words(sql, words, seq, text).await?;
            }
        }
    }
}

/// Whether the event is the newest of its kind of its system.
async fn is_current<S: Sql>(sql: &S, seq: i64, content_type: u64) -> Result<bool> {
    let rows = sql
        .rows(
            "SELECT l.seq FROM social_events e JOIN social_processes p ON p.n = e.process
             JOIN social_lww l ON l.subject = ?2 AND l.system = p.system AND l.content_type = ?3
             WHERE e.seq = ?1 ORDER BY l.unix_ms DESC, l.process DESC, l.clock DESC LIMIT 1",
            args![seq, &[0_u8; 16], content_type],
        )
        .await?;
    Ok(rows.first().map_or(Ok(0), |row| row.int(0))? == seq)
}
