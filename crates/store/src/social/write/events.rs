//! Events come and go, with everything that is derived from them.

use std::collections::BTreeMap;

use relay_proto::polycentric::{
    Body, ClaimFieldEntry, Event, EventKey, Reference, Subject, SystemKey, Target, content,
};

use super::{super::stored, Work, subjects_of};
use crate::{
    error::Result,
    sql::{Sql, Words, add_words, args, drop_words, exists, one},
};

/// Topics longer than this are counted as subjects, but not listed.
const MAX_TOPIC: usize = 256;
const HOUR_MS: u64 = 3_600_000;

impl<S: Sql> Work<'_, S> {
    /// Makes room for a Delete: its target is taken out, of the request or of the store. Says whether there is
    /// anything to be buried; what deletes a Delete is kept as an event and changes nothing.
    pub(super) async fn delete(
        &mut self,
        by: EventKey,
        target: &Target,
        fresh: &mut BTreeMap<EventKey, Event>,
    ) -> Result<bool> {
        let key = EventKey { system: by.system, process: target.process, clock: target.clock };
        if target.content_type == content::DELETE || key == by {
            return Ok(false);
        }
        let process = self.load_process(key.system, key.process).await?;
        if let Some(event) = fresh.get(&key) {
            if event.content_type() == content::DELETE {
                return Ok(false);
            }
            fresh.remove(&key);
            self.hold(key)?;
            return Ok(true);
        }
        let found = one(
            self.sql,
            "SELECT seq, content_type, raw FROM social_events WHERE process = ?1 AND clock = ?2",
            args![process, key.clock],
        )
        .await?;
        match found {
            Some(row) if row.number(1)? == content::DELETE => return Ok(false),
            Some(row) => self.remove(row.int(0)?, &stored::event(&row.shared(2)?)?).await?,
            None => {
                let buried = "SELECT 1 FROM social_tombstones WHERE process = ?1 AND clock = ?2";
                if exists(self.sql, buried, args![process, key.clock]).await? {
                    return Ok(false);
                }
            }
        }
        self.hold(key)?;
        Ok(true)
    }

    pub(super) async fn bury(
        &mut self,
        system: SystemKey,
        target: &Target,
        seq: i64,
    ) -> Result<()> {
        let process = self.load_process(system, target.process).await?;
        self.sql
            .run_later(
                "INSERT INTO social_tombstones (process, clock, content_type, unix_ms, seq)
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
                args![process, target.clock, target.content_type, target.unix_ms, seq],
            )
            .await
    }

    pub(super) async fn insert(&mut self, event: &Event) -> Result<i64> {
        let seq = self.next_seq;
        self.next_seq += 1;
        let process = self.hold(event.key())?;
        self.sql
            .run_later(
                "INSERT INTO social_events (seq, process, clock, content_type, unix_ms, raw)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                args![
                    seq,
                    process,
                    event.clock(),
                    event.content_type(),
                    event.unix_ms(),
                    &stored::raw(event),
                ],
            )
            .await?;
        self.account(event, 1)?;
        let subjects = subjects_of(event);
        self.insert_references(event, &subjects, seq).await?;
        self.count(event, &subjects, 1);
        self.write_value(event, seq, true).await?;
        match event.body() {
            Body::Claim { .. } => self.insert_claim(event, seq).await?,
            Body::Text(text) if event.content_type() == content::POST => {
                add_words(self.sql, Words::Posts, seq, text).await?;
            }
            _ => {}
        }
        Ok(seq)
    }

    async fn insert_references(
        &mut self,
        event: &Event,
        subjects: &BTreeMap<Subject, &Reference>,
        seq: i64,
    ) -> Result<()> {
        if subjects.is_empty() {
            return Ok(());
        }
        let score = self.score_of(event.subject()).await?;
        for subject in subjects.keys() {
            self.sql
                .run_later(
                    "INSERT INTO social_refs (subject, from_type, score, seq)
                     VALUES (?1, ?2, ?3, ?4)",
                    args![subject.as_bytes(), event.content_type(), score, seq],
                )
                .await?;
        }
        if event.content_type() == content::VOUCH {
            let system = self.load_system(event.system()).await?.n;
            for subject in subjects.keys() {
                self.sql
                    .run_later(
                        "INSERT INTO social_vouches (system, subject, seq) VALUES (?1, ?2, ?3)",
                        args![system, subject.as_bytes(), seq],
                    )
                    .await?;
            }
        }
        Ok(())
    }

    /// Takes a stored event out, with everything derived from it.
    pub async fn remove(&mut self, seq: i64, event: &Event) -> Result<()> {
        self.load_system(event.system()).await?;
        let subjects = subjects_of(event);
        self.delete_references(event, &subjects, seq).await?;
        self.account(event, -1)?;
        self.count(event, &subjects, -1);
        self.write_value(event, seq, false).await?;
        match event.body() {
            Body::Claim { .. } => self.delete_claim(event, seq).await?,
            Body::Text(_) if event.content_type() == content::POST => {
                drop_words(self.sql, Words::Posts, seq).await?;
            }
            _ => {}
        }
        for delete in [
            "DELETE FROM social_moderation WHERE seq = ?1",
            "DELETE FROM social_events WHERE seq = ?1",
        ] {
            self.sql.run_later(delete, args![seq]).await?;
        }
        Ok(())
    }

    async fn delete_references(
        &mut self,
        event: &Event,
        subjects: &BTreeMap<Subject, &Reference>,
        seq: i64,
    ) -> Result<()> {
        if subjects.is_empty() {
            return Ok(());
        }
        let score = self.score_of(event.subject()).await?;
        for subject in subjects.keys() {
            self.sql
                .run_later(
                    "DELETE FROM social_refs
                     WHERE subject = ?1 AND from_type = ?2 AND score = ?3 AND seq = ?4",
                    args![subject.as_bytes(), event.content_type(), score, seq],
                )
                .await?;
        }
        if event.content_type() == content::VOUCH {
            let system = self.load_system(event.system()).await?.n;
            for subject in subjects.keys() {
                self.sql
                    .run_later(
                        "DELETE FROM social_vouches WHERE system = ?1 AND subject = ?2 AND seq = ?3",
                        args![system, subject.as_bytes(), seq],
                    )
                    .await?;
            }
        }
        Ok(())
    }

    fn count(&mut self, event: &Event, subjects: &BTreeMap<Subject, &Reference>, by: i64) {
        for reference in subjects.values() {
            self.deltas.refer(reference, event.content_type() as i64, by);
            if let (Reference::Bytes(topic), content::POST, Some(unix_ms)) =
                (reference, event.content_type(), event.unix_ms())
                && topic.len() <= MAX_TOPIC
            {
                self.deltas.topic((unix_ms / HOUR_MS) as i64, topic, by);
            }
        }
    }

    async fn insert_claim(&mut self, event: &Event, seq: i64) -> Result<()> {
        let Body::Claim { claim_type, fields } = event.body() else { return Ok(()) };
        let system = self.load_system(event.system()).await?.n;
        let subject = event.subject();
        for (value, key) in claim_rows(fields) {
            self.sql
                .run_later(
                    "INSERT INTO social_claims (claim_type, value, key, system, seq, subject)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
                    args![*claim_type, &value, key, system, seq, subject.as_bytes()],
                )
                .await?;
        }
        Ok(())
    }

    async fn delete_claim(&mut self, event: &Event, seq: i64) -> Result<()> {
        let Body::Claim { claim_type, fields } = event.body() else { return Ok(()) };
        let system = self.load_system(event.system()).await?.n;
        for (value, key) in claim_rows(fields) {
            self.sql
                .run_later(
                    "DELETE FROM social_claims WHERE claim_type = ?1 AND value = ?2
                     AND key = ?3 AND system = ?4 AND seq = ?5",
                    args![*claim_type, &value, key, system, seq],
                )
                .await?;
        }
        Ok(())
    }
}

/// The rows of a claim: its fields by the hash of their value, and one for the claim itself.
fn claim_rows(fields: &[ClaimFieldEntry]) -> impl Iterator<Item = ([u8; 16], i64)> {
    let rows = fields.iter().map(|field| (field_hash(&field.value), field.key as i64));
    rows.chain([([0; 16], -1)])
}

/// Under what a field's value is found.
pub(in super::super) fn field_hash(value: &str) -> [u8; 16] {
    *Subject::of_bytes(value.as_bytes()).as_bytes()
}
