//! Finding messages by words.

use super::MAX_PAGE;
use crate::{
    core::{Core, conv},
    error::{Refusal, Result},
    views::{MessageBody, SearchCursor, SearchHit, SearchPage},
};

/// Messages that one call looks at.
const SEARCHED: usize = 50_000;
const STRIDE: usize = 1_000;

impl Core {
    /// Looks through what is stored, newest first; there is no index that could tell anything to somebody else.
    pub fn search(
        &self,
        text: &str,
        within: Option<&str>,
        from: Option<SearchCursor>,
        limit: usize,
    ) -> Result<SearchPage> {
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        if words.is_empty() {
            return Err(Refusal::Invalid("give at least one word".into()).into());
        }
        let limit = limit.clamp(1, MAX_PAGE);
        self.store.read(|tx| {
            let mut rows = match within {
                Some(conv_id) => vec![conv(tx, conv_id)?],
                None => tx.convs()?,
            };
            rows.sort_by_key(|row| row.n);
            let mut items = Vec::new();
            let mut looked = 0;
            for row in &rows {
                let mut before = match from {
                    Some(cursor) if cursor.conv > row.n => continue,
                    Some(cursor) if cursor.conv == row.n => cursor.before,
                    _ => u64::MAX,
                };
                loop {
                    let lines = tx.messages_before(row.n, before, STRIDE)?;
                    let Some(last) = lines.last() else { break };
                    let lowest = last.seq;
                    for line in &lines {
                        before = line.seq;
                        if matches(&line.body, &words) {
                            let message = self.view(tx, row, line)?;
                            let conv_name = self.conv_name(tx, row)?;
                            items.push(SearchHit { conv_name, message });
                        }
                        if items.len() >= limit {
                            let next = Some(SearchCursor { conv: row.n, before });
                            return Ok(SearchPage { items, next });
                        }
                    }
                    before = lowest;
                    looked += lines.len();
                    if looked >= SEARCHED {
                        let next = Some(SearchCursor { conv: row.n, before });
                        return Ok(SearchPage { items, next });
                    }
                }
            }
            Ok(SearchPage { items, next: None })
        })
    }
}

fn matches(body: &MessageBody, words: &[String]) -> bool {
    let text = match body {
        MessageBody::Text { text } => text,
        MessageBody::File { file } => &file.name,
        _ => return false,
    };
    let text = text.to_lowercase();
    words.iter().all(|word| text.contains(word))
}
