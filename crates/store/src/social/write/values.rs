//! Last-writer-wins values: which of all that are stored is the current one.

use std::collections::BTreeSet;

use bytes::Bytes;
use relay_proto::polycentric::{Body, Event, ProcessId, Subject, content};

use super::{
    super::{deltas::kept_value, stored},
    Work,
};
use crate::{
    error::Result,
    sql::{Arg, Row, Sql, Words, add_words, args, drop_words, one},
};

/// What a value is of: a subject, a system's number, a content type.
pub(super) type Slot = (Subject, i64, i64);

/// The current value of a slot. The order is that of the rule: time, process, clock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Winner {
    unix_ms: i64,
    process: ProcessId,
    clock: i64,
    value: Bytes,
    seq: i64,
}

const WINNER: &str = "SELECT unix_ms, process, clock, value, seq FROM social_lww
                      WHERE subject = ?1 AND system = ?2 AND content_type = ?3
                      ORDER BY unix_ms DESC, process DESC, clock DESC LIMIT 1";

impl Winner {
    fn of(row: &Row) -> Result<Self> {
        Ok(Self {
            unix_ms: row.int(0)?,
            process: ProcessId::from_bytes(row.array(1)?),
            clock: row.int(2)?,
            value: row.shared(3)?,
            seq: row.int(4)?,
        })
    }
}

impl<S: Sql> Work<'_, S> {
    /// Where the event's value belongs, if it has one. Only the first reference carries it.
    pub(super) async fn slot_of(&mut self, event: &Event) -> Result<Option<Slot>> {
        if event.lww().is_none() {
            return Ok(None);
        }
        let subject = match event.references().first().map(|about| about.subject()) {
            None => Subject::NONE,
            Some(Some(subject)) => subject,
            Some(None) => return Ok(None),
        };
        let system = self.load_system(event.system()).await?.n;
        Ok(Some((subject, system, event.content_type() as i64)))
    }

    pub(super) async fn load_winners(&mut self, slots: BTreeSet<Slot>) -> Result<()> {
        let asked: Vec<[Arg<'_>; 3]> = slots
            .iter()
            .map(|(subject, system, content_type)| {
                [subject.as_bytes().into(), (*system).into(), (*content_type).into()]
            })
            .collect();
        let found = self.sql.rows_of_each(WINNER, &asked).await?;
        for (slot, rows) in slots.into_iter().zip(found) {
            let winner = rows.first().map(Winner::of).transpose()?;
            self.winners.insert(slot, winner);
        }
        Ok(())
    }

    async fn winner(&mut self, slot: Slot) -> Result<Option<Winner>> {
        if let Some(known) = self.winners.get(&slot) {
            return Ok(known.clone());
        }
        let found = one(self.sql, WINNER, args![slot.0.as_bytes(), slot.1, slot.2]).await?;
        let winner = found.as_ref().map(Winner::of).transpose()?;
        self.winners.insert(slot, winner.clone());
        Ok(winner)
    }

    /// Adds or removes the event's last-writer-wins value, and sees who wins then.
    pub(super) async fn write_value(&mut self, event: &Event, seq: i64, add: bool) -> Result<()> {
        let (Some(slot), Some(lww)) = (self.slot_of(event).await?, event.lww()) else {
            return Ok(());
        };
        let before = self.winner(slot).await?;
        let own = Winner {
            unix_ms: lww.unix_ms as i64,
            process: event.process(),
            clock: event.clock() as i64,
            value: kept_value(&lww.value),
            seq,
        };
        let (subject, system, content_type) = slot;
        let process = own.process;
        let after = if add {
            self.sql
                .run_later(
                    "INSERT INTO social_lww
                         (subject, system, content_type, unix_ms, process, clock, value, seq)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                    args![
                        subject.as_bytes(),
                        system,
                        content_type,
                        own.unix_ms,
                        process.as_bytes(),
                        own.clock,
                        &own.value,
                        seq,
                    ],
                )
                .await?;
            let after = before.clone().max(Some(own));
            self.winners.insert(slot, after.clone());
            after
        } else {
            self.sql
                .run_later(
                    "DELETE FROM social_lww WHERE subject = ?1 AND system = ?2 AND content_type = ?3
                     AND unix_ms = ?4 AND process = ?5 AND clock = ?6",
                    args![
                        subject.as_bytes(),
                        system,
                        content_type,
                        own.unix_ms,
                        process.as_bytes(),
                        own.clock,
                    ],
                )
                .await?;
            if before.as_ref().is_some_and(|winner| winner.seq == seq) {
                // The next newest takes its place.
                self.winners.remove(&slot);
            }
            self.winner(slot).await?
        };
        match event.references().first() {
            Some(about) => {
                let value = |winner: &Option<Winner>| winner.as_ref().map(|it| it.value.clone());
                let (before, after) = (value(&before), value(&after));
                self.deltas.vote(about, content_type, before.as_ref(), after.as_ref());
                Ok(())
            }
            None => {
                let seqs = (before.map(|it| it.seq), after.map(|it| it.seq));
                self.move_profile(event, seq, seqs).await
            }
        }
    }

    /// Only the current username and description of a system can be found.
    async fn move_profile(
        &mut self,
        event: &Event,
        seq: i64,
        (before, after): (Option<i64>, Option<i64>),
    ) -> Result<()> {
        let searched = matches!(event.content_type(), content::USERNAME | content::DESCRIPTION);
        if !searched || before == after {
            return Ok(());
        }
        if let Some(before) = before {
            drop_words(self.sql, Words::Profiles, before).await?;
        }
        let Some(after) = after else { return Ok(()) };
        let body = if after == seq {
            event.body().clone()
        } else {
            let find = "SELECT raw FROM social_events WHERE seq = ?1";
            match one(self.sql, find, args![after]).await? {
                Some(row) => stored::event(&row.shared(0)?)?.body().clone(),
                None => Body::Other,
            }
        };
        if let Body::Text(text) = body {
            add_words(self.sql, Words::Profiles, after, &text).await?;
        }
        Ok(())
    }
}
