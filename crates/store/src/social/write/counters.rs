//! Counters, versions and the order of answers, written once a request from what was summed up.

use std::collections::BTreeSet;

use relay_proto::polycentric::{Event, Pointer, Subject, opinion};

use super::{
    super::{
        deltas::{ANY_TYPE, Counted},
        stored,
    },
    Work, subjects_of,
};
use crate::{
    error::Result,
    sql::{Arg, EMPTY, Row, Sql, args},
};

const SCORE: &str = "SELECT value, n FROM social_counts WHERE subject = ?1 AND kind = 1
                     AND from_type = -1 AND value IN (?2, ?3)";

fn score(rows: &[Row]) -> Result<i64> {
    let mut score = 0;
    for row in rows {
        score += if row.shared(0)? == opinion::LIKE { row.int(1)? } else { -row.int(1)? };
    }
    Ok(score)
}

impl<S: Sql> Work<'_, S> {
    pub(super) async fn load_scores(&mut self, subjects: BTreeSet<Subject>) -> Result<()> {
        let asked: Vec<[Arg<'_>; 3]> = subjects
            .iter()
            .map(|subject| {
                [subject.as_bytes().into(), opinion::LIKE.into(), opinion::DISLIKE.into()]
            })
            .collect();
        let found = self.sql.rows_of_each(SCORE, &asked).await?;
        for (subject, rows) in subjects.into_iter().zip(found) {
            self.scores.insert(subject, score(&rows)?);
        }
        Ok(())
    }

    /// Likes less dislikes, before what this write changes.
    pub(super) async fn score_of(&mut self, subject: Subject) -> Result<i64> {
        if let Some(&known) = self.scores.get(&subject) {
            return Ok(known);
        }
        let given = args![subject.as_bytes(), opinion::LIKE, opinion::DISLIKE];
        let found = score(&self.sql.rows(SCORE, given).await?)?;
        self.scores.insert(subject, found);
        Ok(found)
    }

    /// Moves the events that others' opinions are about to their new place among the answers of their own subjects,
    /// and marks those subjects as changed.
    pub(super) async fn move_scores(&mut self, touched: &mut BTreeSet<Subject>) -> Result<()> {
        let changed = std::mem::take(&mut self.deltas.scores);
        let pointers: Vec<Pointer> = changed.values().map(|(pointer, _)| *pointer).collect();
        let found = self.find_all(&pointers).await?;
        let places: BTreeSet<Subject> = changed
            .iter()
            .zip(&found)
            .filter(|((subject, (_, change)), found)| {
                *change != 0
                    && !self.scores.contains_key(subject)
                    && found.as_ref().is_some_and(|(_, event)| !subjects_of(event).is_empty())
            })
            .map(|((subject, _), _)| *subject)
            .collect();
        self.load_scores(places).await?;
        for ((subject, (_, change)), found) in changed.into_iter().zip(found) {
            let Some((seq, event)) = found else { continue };
            let parents = subjects_of(&event);
            touched.extend(parents.keys());
            if change == 0 || parents.is_empty() {
                continue;
            }
            let score = self.score_of(subject).await?;
            for parent in parents.keys() {
                self.sql
                    .run_later(
                        "UPDATE social_refs SET score = ?5
                         WHERE subject = ?1 AND from_type = ?2 AND score = ?3 AND seq = ?4",
                        args![parent.as_bytes(), event.content_type(), score, seq, score + change],
                    )
                    .await?;
            }
        }
        Ok(())
    }

    /// For each pointer the stored event with these very bytes.
    async fn find_all(&self, pointers: &[Pointer]) -> Result<Vec<Option<(i64, Event)>>> {
        let asked: Vec<[Arg<'_>; 3]> = pointers
            .iter()
            .map(|pointer| {
                let key = &pointer.key;
                [key.system.as_bytes().into(), key.process.as_bytes().into(), key.clock.into()]
            })
            .collect();
        let found = self
            .sql
            .rows_of_each(
                "SELECT e.seq, e.raw FROM social_systems s
                 JOIN social_processes p ON p.system = s.n AND p.process = ?2
                 JOIN social_events e ON e.process = p.n AND e.clock = ?3
                 WHERE s.key = ?1",
                &asked,
            )
            .await?;
        let matching = |(pointer, rows): (&Pointer, Vec<Row>)| -> Result<Option<(i64, Event)>> {
            let Some(row) = rows.first() else { return Ok(None) };
            let event = stored::event(&row.shared(1)?)?;
            Ok((event.pointer() == *pointer).then_some((row.int(0)?, event)))
        };
        pointers.iter().zip(found).map(matching).collect()
    }

    pub(super) async fn write_counts(&mut self) -> Result<()> {
        for (counter, by) in std::mem::take(&mut self.deltas.counters) {
            if by == 0 {
                continue;
            }
            let named: [Arg<'_>; 5] = [
                counter.subject.as_bytes().into(),
                Arg::Number(counter.counted as i64),
                counter.from_type.into(),
                (&counter.value).into(),
                by.into(),
            ];
            self.sql
                .run_later(
                    "INSERT INTO social_counts (subject, kind, from_type, value, n)
                     VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (subject, kind, from_type, value)
                     DO UPDATE SET n = social_counts.n + excluded.n",
                    &named,
                )
                .await?;
            if by < 0 {
                self.sql
                    .run_later(
                        "DELETE FROM social_counts WHERE subject = ?1 AND kind = ?2
                         AND from_type = ?3 AND value = ?4 AND n <= 0",
                        &named[..4],
                    )
                    .await?;
            }
        }
        for ((hour, topic), by) in std::mem::take(&mut self.deltas.topics) {
            self.sql
                .run_later(
                    "INSERT INTO social_topics (hour, topic, posts) VALUES (?1, ?2, ?3)
                     ON CONFLICT (hour, topic) DO UPDATE SET posts = social_topics.posts + excluded.posts",
                    args![hour, &topic, by],
                )
                .await?;
            if by < 0 {
                self.sql
                    .run_later(
                        "DELETE FROM social_topics WHERE hour = ?1 AND topic = ?2 AND posts <= 0",
                        args![hour, &topic],
                    )
                    .await?;
            }
        }
        Ok(())
    }

    /// Numbers the change of each subject.
    pub(super) async fn write_versions(
        &self,
        subjects: &BTreeSet<Subject>,
        version: i64,
    ) -> Result<()> {
        for subject in subjects {
            self.sql
                .run_later(
                    "INSERT INTO social_counts (subject, kind, from_type, value, n)
                     VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (subject, kind, from_type, value) DO UPDATE SET n = excluded.n",
                    args![subject.as_bytes(), Counted::Version as i64, ANY_TYPE, EMPTY, version],
                )
                .await?;
        }
        Ok(())
    }
}
