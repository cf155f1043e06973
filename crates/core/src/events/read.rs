//! Reading: pages, counts, single events, live subscriptions.

use std::sync::{PoisonError, atomic::Ordering};

use relay_proto::{
    Cursor, Event, EventId, Filter, Namespace, NodeId, Position, Problem, event::Class,
    event::class_of,
};
use relay_store::{Coordinate, EventQuery, FoundEvent, Order, Page, StoreError, StoredEvent};

use super::{
    ephemeral::Kept,
    publish::{Events, Shared},
};
use crate::{failure::store_problem, fanout::ReadScope};

/// Longest page.
pub const MAX_LIMIT: usize = 1_000;
/// Alternatives that the filters of one question may list in all.
pub const MAX_TERMS: usize = 2_000;
/// Filters of one question.
pub const MAX_FILTERS: usize = 64;

/// A question as it came to the door.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Alternatives; none asks for everything.
    pub filters: Vec<Filter>,
    pub history: bool,
    pub order: Order,
    /// At least 1; more than [`MAX_LIMIT`] counts as that.
    pub limit: usize,
    /// A cursor as the relay gave it.
    pub cursor: Option<String>,
}

impl Events {
    /// The newest committed `seq`.
    pub fn committed_seq(&self) -> u64 {
        self.shared.store.committed_seq()
    }

    /// Names the log in cursors.
    pub fn log_id(&self) -> u32 {
        self.shared.store.log_id()
    }

    /// Text of the cursor at a position.
    pub fn cursor(&self, position: Position) -> String {
        Cursor { log: self.log_id(), position }.encode()
    }

    /// One page of events that the reader may see, and the cursor of the next.
    ///
    /// # Errors
    /// `invalid_request`, `limit_exceeded`, `forbidden` (a named namespace is not readable),
    /// `replay_window_exceeded`.
    pub async fn page(
        &self,
        reader: &dyn ReadScope,
        question: Question,
    ) -> Result<(Page, Option<String>), Problem> {
        // Before the namespaces are looked at.
        let noted_seq = self.shared.noted_seq.load(Ordering::Acquire);
        let (mut query, ephemeral) = self.shared.query(reader, &question)?;
        query.from = match &question.cursor {
            None => None,
            Some(text) => Some(position(text, self.log_id(), question.order)?),
        };
        let pruned = self.shared.pruned(&query).await?;
        let mut page =
            self.shared.store.page(query.clone()).await.map_err(|e| store_problem(&e))?;
        if let Some(problem) = pruned {
            return Err(problem);
        }
        if question.order == Order::Seq {
            stay_within(&mut page, noted_seq);
        }
        if ephemeral {
            self.shared.add_ephemerals(reader, &query, &mut page);
        }
        let next = match (page.next, question.order) {
            (Some(next), _) => Some(next),
            (None, Order::Seq) => Some(Position::AfterSeq(page.through_seq)),
            (None, _) => None,
        };
        Ok((page, next.map(|position| self.cursor(position))))
    }

    /// Whether a walk from the question's cursor can still be complete.
    ///
    /// # Errors
    /// `replay_window_exceeded` with `earliest`; and as [`Self::page`].
    pub async fn check_window(
        &self,
        reader: &dyn ReadScope,
        question: &Question,
    ) -> Result<(), Problem> {
        let (mut query, _) = self.shared.query(reader, question)?;
        query.from = match &question.cursor {
            None => None,
            Some(text) => Some(position(text, self.log_id(), question.order)?),
        };
        self.shared.pruned(&query).await?.map_or(Ok(()), Err)
    }

    /// How many events match.
    ///
    /// # Errors
    /// As [`Self::page`].
    pub async fn count(&self, reader: &dyn ReadScope, question: Question) -> Result<u64, Problem> {
        let (query, ephemeral) = self.shared.query(reader, &question)?;
        let kept = if ephemeral { self.shared.ephemerals(reader, &query).len() as u64 } else { 0 };
        let stored = self.shared.store.count(query).await.map_err(|e| store_problem(&e))?;
        Ok(stored + kept)
    }

    /// One event by id, and its namespace.
    ///
    /// # Errors
    /// `not_found`, also where the reader may not see it.
    pub async fn get(&self, reader: &dyn ReadScope, id: EventId) -> Result<FoundEvent, Problem> {
        let found = self.shared.store.find(vec![id]).await.map_err(|e| store_problem(&e))?;
        self.shared.visible(reader, found.into_iter().flatten().next())
    }

    /// The latest version of `kind:author:d`, over all namespaces that the reader may see.
    ///
    /// # Errors
    /// `not_found`; `invalid_request` for kinds that have no coordinates.
    pub async fn latest(
        &self,
        reader: &dyn ReadScope,
        kind: u16,
        author: NodeId,
        d: &str,
    ) -> Result<FoundEvent, Problem> {
        if !matches!(class_of(kind), Class::Replaceable | Class::Addressable) {
            return Err(Problem::invalid("only kinds 10000-19999 and 30000-39999 have addresses"));
        }
        let mut best: Option<FoundEvent> = None;
        for namespace in self.shared.readable(reader) {
            let coordinate = Coordinate { namespace, author, kind, d: d.to_owned() };
            let found =
                self.shared.store.latest(coordinate).await.map_err(|e| store_problem(&e))?;
            let rank = |found: &FoundEvent| (found.event.created_at_ns, found.id);
            if let Some(found) = found
                && best.as_ref().is_none_or(|best| rank(best) < rank(&found))
            {
                best = Some(found);
            }
        }
        self.shared.visible(reader, best)
    }
}

impl Shared {
    /// Namespaces that hold events and that the reader may see.
    fn readable(&self, reader: &dyn ReadScope) -> Vec<Namespace> {
        let known = self.namespaces.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter(|ns| reader.may_read(ns)).cloned().collect()
    }

    /// Checks the question and adds what the reader may see. Also tells whether ephemeral events may match.
    fn query(
        &self,
        reader: &dyn ReadScope,
        question: &Question,
    ) -> Result<(EventQuery, bool), Problem> {
        check_filters(&question.filters)?;
        for ns in question.filters.iter().flat_map(|filter| &filter.ns) {
            if !reader.may_read(ns) {
                return Err(Problem::forbidden(format!("namespace {ns} is not readable for you")));
            }
        }
        let ephemeral = question.filters.is_empty()
            || question.filters.iter().any(|filter| {
                filter.kinds.is_empty()
                    || filter.kinds.iter().any(|&kind| class_of(kind) == Class::Ephemeral)
            });
        let query = EventQuery {
            filters: question.filters.clone(),
            namespaces: self.readable(reader),
            history: question.history,
            order: question.order,
            from: None,
            limit: question.limit.clamp(1, MAX_LIMIT),
            now_s: self.clock.wall_ns() / 1_000_000_000,
        };
        Ok((query, ephemeral))
    }

    /// A walk in order of arrival that begins before what retention removed would be silently incomplete.
    async fn pruned(&self, query: &EventQuery) -> Result<Option<Problem>, Problem> {
        let Some(Position::AfterSeq(after)) = query.from else { return Ok(None) };
        if after == 0 {
            return Ok(None);
        }
        let infos = self.store.namespaces().await.map_err(|e| store_problem(&e))?;
        let asked = |ns: &Namespace| {
            query.namespaces.contains(ns)
                && (query.filters.is_empty()
                    || query.filters.iter().any(|f| f.ns.is_empty() || f.ns.contains(ns)))
        };
        let pruned = infos
            .iter()
            .filter(|info| asked(&info.name))
            .map(|info| info.pruned_through_seq)
            .max()
            .unwrap_or(0);
        Ok((after < pruned).then(|| {
            let earliest =
                Cursor { log: self.store.log_id(), position: Position::AfterSeq(pruned) };
            Problem::new(
                relay_proto::Code::ReplayWindowExceeded,
                "events after this cursor were removed by the namespace's retention policy",
            )
            .with("earliest", earliest.encode())
        }))
    }

    fn visible(
        &self,
        reader: &dyn ReadScope,
        found: Option<FoundEvent>,
    ) -> Result<FoundEvent, Problem> {
        let now_s = self.clock.wall_ns() / 1_000_000_000;
        found
            .filter(|found| reader.may_read(&found.namespace))
            .filter(|found| {
                Event::from_stored(found.event.json.clone())
                    .is_ok_and(|event| event.expires_at_s().is_none_or(|at| at > now_s))
            })
            .ok_or_else(|| Problem::not_found("no such event"))
    }

    /// Ephemeral events within their window have a place in walks by time; they have none in the order of
    /// arrival, since nothing is numbered that is not stored.
    fn add_ephemerals(&self, reader: &dyn ReadScope, query: &EventQuery, page: &mut Page) {
        let descending = match query.order {
            Order::Time => false,
            Order::TimeDescending => true,
            Order::Seq | Order::SeqDescending => return,
        };
        let (from, until) = (query.from.and_then(time), page.next.and_then(time));
        let on_page = |place: (u64, u64)| {
            let (after, before) = if descending { (until, from) } else { (from, until) };
            // A cursor is the place of the last event that was given: outside at the start, inside at the end.
            after.is_none_or(|at| place > at || descending && place == at)
                && before.is_none_or(|at| place < at || !descending && place == at)
        };
        let kept = self.ephemerals(reader, query).into_iter().map(|kept| StoredEvent {
            seq: kept.number,
            created_at_ns: kept.event.created_at_ns(),
            json: kept.event.json().clone(),
        });
        let kept: Vec<_> = kept.filter(|event| on_page((event.created_at_ns, event.seq))).collect();
        if kept.is_empty() {
            return;
        }
        page.events.extend(kept);
        page.events.sort_by_key(|event| (event.created_at_ns, event.seq));
        if descending {
            page.events.reverse();
        }
        if page.events.len() > query.limit {
            page.events.truncate(query.limit);
            page.next = page.events.last().map(|last| match descending {
                true => Position::BeforeTime(last.created_at_ns, last.seq),
                false => Position::AfterTime(last.created_at_ns, last.seq),
            });
        }
    }

    /// Ephemeral events within their window that the reader may see and the question asks for.
    fn ephemerals(&self, reader: &dyn ReadScope, query: &EventQuery) -> Vec<Kept> {
        let now_ns = self.clock.wall_ns();
        let mut kept = self.ephemerals.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = kept.recent(now_ns).filter(|kept| {
            let event = &kept.event;
            reader.may_read(event.namespace())
                && event.expires_at_s().is_none_or(|at| at > query.now_s)
                && (query.filters.is_empty() || query.filters.iter().any(|f| f.matches(event)))
        });
        wanted.cloned().collect()
    }

    /// Whether a stored event is the latest of its coordinate.
    pub(super) async fn is_latest(&self, found: &FoundEvent) -> Result<bool, StoreError> {
        let coordinate = Event::from_stored(found.event.json.clone())
            .ok()
            .and_then(|event| Coordinate::of(&event));
        let Some(coordinate) = coordinate else { return Ok(true) };
        let latest = self.store.latest(coordinate).await?;
        Ok(latest.is_none_or(|latest| latest.id == found.id))
    }
}

/// Ends a page of a walk in order of arrival at `last`. What a commit after that brought may lie in a namespace
/// that was not known when the question was put together; whoever walks on must still meet it.
fn stay_within(page: &mut Page, last: u64) {
    if page.through_seq <= last {
        return;
    }
    page.events.retain(|event| event.seq <= last);
    page.next = None;
    page.through_seq = last;
}

fn time(position: Position) -> Option<(u64, u64)> {
    match position {
        Position::AfterTime(ns, seq) | Position::BeforeTime(ns, seq) => Some((ns, seq)),
        Position::AfterSeq(_) | Position::BeforeSeq(_) => None,
    }
}

/// Bounds of filters.
///
/// # Errors
/// `limit_exceeded`.
pub fn check_filters(filters: &[Filter]) -> Result<(), Problem> {
    let terms: usize = filters.iter().map(Filter::terms).sum();
    if filters.len() > MAX_FILTERS || terms > MAX_TERMS {
        return Err(Problem::new(
            relay_proto::Code::LimitExceeded,
            format!("at most {MAX_FILTERS} filters with {MAX_TERMS} values in all"),
        ));
    }
    Ok(())
}

fn position(text: &str, log: u32, order: Order) -> Result<Position, Problem> {
    if text.is_empty() && order == Order::Seq {
        return Ok(Position::AfterSeq(0));
    }
    let position = Cursor::decode(text, log)?.position;
    let fits = matches!(
        (order, position),
        (Order::Seq, Position::AfterSeq(_))
            | (Order::SeqDescending, Position::BeforeSeq(_))
            | (Order::Time, Position::AfterTime(..))
            | (Order::TimeDescending, Position::BeforeTime(..))
    );
    if fits { Ok(position) } else { Err(Problem::invalid("the cursor belongs to another order")) }
}
