//! What clients ask (`polycentric.md` sections 6.1 to 6.9), as messages ready to be sent.

use bytes::Bytes;
use relay_proto::{
    Problem,
    polycentric::{
        ClaimMatch, CountLwwElementReferences, CountReferences, Event, EventKey, Events,
        FindClaimAndVouchRequest, FindClaimAndVouchResponse, ProcessId, PublicKeys,
        QueryClaimToSystemRequest, QueryClaimToSystemResponse, QueryIndexResponse,
        QueryReferencesRequest, QueryReferencesResponse, QueryReferencesResponseEventItem, Ranges,
        RangesForProcess, RangesForSystem, Reference, ResultEventsAndRelatedEventsAndCursor,
        SignedEvent, Subject, SystemKey, WireError, big_cursor, content, parse_big_cursor,
        parse_small_cursor, small_cursor,
    },
};
use relay_store::{ClaimsQuery, Count, IndexQuery, RefsQuery, SocialEvent, StoreError, Words};

use super::{
    Filter, Freshness, Mode, Social,
    moderation::{is_shown, with_usual},
};
use crate::failure::store_problem;

/// Longest page; what asks for more gets this much.
pub const MAX_LIMIT: usize = 100;
/// Events of one page of `query_references`, fixed by the protocol.
const REFERENCES_PAGE: usize = 20;
/// Counters that one question may ask for.
const MAX_COUNTS: usize = 64;
/// Further byte references of one question.
const MAX_EXTRA: usize = 32;
/// Types of one `query_latest`.
const MAX_TYPES: usize = 64;
/// Processes of one question about ranges.
const MAX_PROCESSES: usize = 1_024;
/// Pages looked through for one that is not hidden whole.
const MAX_HIDDEN_PAGES: usize = 20;
/// Matches of a claim.
const MAX_MATCHES: usize = 100;
/// Longest search in bytes.
const MAX_SEARCH: usize = 1_024;
/// A search can be paged no further.
const MAX_SEARCH_OFFSET: u64 = 10_000;

/// Asks for the newest posts of everybody.
#[derive(Debug, Clone)]
pub struct ExploreQuestion {
    pub limit: usize,
    pub cursor: Option<Bytes>,
    pub filters: Vec<Filter>,
}

/// Asks for events that hold words.
#[derive(Debug, Clone)]
pub struct SearchQuestion {
    pub text: String,
    pub profiles: bool,
    pub limit: usize,
    pub cursor: Option<Bytes>,
    pub filters: Vec<Filter>,
}

impl Social {
    /// Which clocks the relay holds of each process.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn ranges(&self, system: SystemKey) -> Result<RangesForSystem, Problem> {
        let held = self.store.social_ranges(system).await.map_err(failed)?;
        let ranges_for_processes = held
            .into_iter()
            .map(|(process, ranges)| RangesForProcess {
                process: Some(process.to_message()),
                ranges: ranges.to_wire(),
            })
            .collect();
        Ok(RangesForSystem { ranges_for_processes })
    }

    /// Stored events with these clocks.
    ///
    /// # Errors
    /// `invalid_request` for ranges that are none.
    pub async fn events(
        &self,
        system: SystemKey,
        wanted: &RangesForSystem,
        filters: &[Filter],
    ) -> Result<Events, Problem> {
        if wanted.ranges_for_processes.len() > MAX_PROCESSES {
            return Err(Problem::invalid(format!("at most {MAX_PROCESSES} processes")));
        }
        let wanted: Result<Vec<(ProcessId, Ranges)>, WireError> = wanted
            .ranges_for_processes
            .iter()
            .map(|of| {
                let process = ProcessId::required(of.process.as_ref())?;
                Ok((process, Ranges::from_wire(&of.ranges)?))
            })
            .collect();
        let found = self.store.social_events(system, wanted.map_err(refused)?).await;
        let found = found.map_err(failed)?;
        Ok(Events { events: self.shown(found, filters)?.into_iter().map(wire).collect() })
    }

    /// The newest event of each process, and the list of processes that goes with it.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn head(&self, system: SystemKey, filters: &[Filter]) -> Result<Events, Problem> {
        let heads = self.store.social_heads(system).await.map_err(failed)?;
        let mut lists: Vec<(ProcessId, Ranges)> = Vec::new();
        for head in &heads {
            let event = head.parse().map_err(failed)?;
            if event.content_type() != content::SYSTEM_PROCESSES
                && let Some(clock) = event.previous(content::SYSTEM_PROCESSES)
            {
                lists.push((event.process(), [clock].into_iter().collect()));
            }
        }
        let mut all = self.shown(heads, filters)?;
        if !lists.is_empty() {
            let found = self.store.social_events(system, lists).await.map_err(failed)?;
            let is_list = |event: &SocialEvent| {
                event.parse().is_ok_and(|event| event.content_type() == content::SYSTEM_PROCESSES)
            };
            all.extend(found.into_iter().filter(is_list));
        }
        Ok(Events { events: all.into_iter().map(wire).collect() })
    }

    /// The newest event of each of these types and each process.
    ///
    /// # Errors
    /// `invalid_request` for too many types.
    pub async fn latest(&self, system: SystemKey, mut types: Vec<u64>) -> Result<Events, Problem> {
        types.sort_unstable();
        types.dedup();
        if types.len() > MAX_TYPES {
            return Err(Problem::invalid(format!("at most {MAX_TYPES} event types")));
        }
        let found = self.store.social_latest(system, types).await.map_err(failed)?;
        Ok(Events { events: found.into_iter().map(wire).collect() })
    }

    /// A page of a feed, newest first, with its proof.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn index(
        &self,
        query: IndexQuery,
        filters: Vec<Filter>,
    ) -> Result<QueryIndexResponse, Problem> {
        let query = IndexQuery { limit: query.limit.clamp(1, MAX_LIMIT), ..query };
        let page = self.store.social_index(query).await.map_err(failed)?;
        let filters = with_usual(filters);
        let events = self.shown(page.events, &filters)?;
        let proof = if events.is_empty() { Vec::new() } else { page.proof };
        Ok(QueryIndexResponse {
            events: events.into_iter().map(wire).collect(),
            proof: proof.into_iter().map(wire).collect(),
        })
    }

    /// The subjects that a question is about.
    ///
    /// # Errors
    /// `invalid_request` for a reference that is none, to a system, or with extra bytes that do not go with it.
    pub fn subjects_of(request: &QueryReferencesRequest) -> Result<Vec<Subject>, Problem> {
        let reference = request.reference.as_ref().ok_or(WireError::Missing("reference"));
        let reference = Reference::from_message(reference.map_err(refused)?).map_err(refused)?;
        let subject = reference
            .subject()
            .ok_or_else(|| Problem::invalid("references to systems are not indexed"))?;
        let extra = &request.extra_byte_references;
        if !extra.is_empty() && !matches!(reference, Reference::Bytes(_)) {
            return Err(Problem::invalid("extra_byte_references go with a reference of type 3"));
        }
        if extra.len() > MAX_EXTRA {
            return Err(Problem::invalid(format!("at most {MAX_EXTRA} extra_byte_references")));
        }
        let mut subjects = vec![subject];
        for bytes in extra {
            let subject = Subject::of_bytes(bytes);
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
        Ok(subjects)
    }

    /// Events about something, and how many there are.
    ///
    /// # Errors
    /// As [`Self::subjects_of`], and `invalid_request` for a cursor of another kind.
    pub async fn references(
        &self,
        request: &QueryReferencesRequest,
        filters: Vec<Filter>,
    ) -> Result<QueryReferencesResponse, Problem> {
        let subjects = Self::subjects_of(request)?;
        let mut response = QueryReferencesResponse::default();
        let top = counts_of(&request.count_lww_element_references, &request.count_references)?;
        let mut asked: Vec<(Vec<Subject>, Count)> =
            top.iter().map(|count| (subjects.clone(), count.clone())).collect();
        let mut items = Vec::new();
        let mut each = Vec::new();
        if let Some(wanted) = &request.request_events {
            each = counts_of(&wanted.count_lww_element_references, &wanted.count_references)?;
            let offset = match request.cursor.as_deref() {
                None | Some([]) => 0,
                Some(cursor) => parse_big_cursor(cursor).map_err(refused)?,
            };
            let query =
                RefsQuery { subjects, from_type: wanted.from_type, offset, limit: REFERENCES_PAGE };
            let page = self.store.social_refs(query).await.map_err(failed)?;
            if page.len() == REFERENCES_PAGE {
                response.cursor = Some(big_cursor(offset + REFERENCES_PAGE as u64));
            }
            let filters = with_usual(filters);
            let censors = self.censors.load();
            for event in page {
                let parsed = event.parse().map_err(failed)?;
                if !censors.silences(&parsed.key())
                    && is_shown(&event, parsed.content_type(), self.config.mode, &filters)
                {
                    let subject = parsed.subject();
                    asked.extend(each.iter().map(|count| (vec![subject], count.clone())));
                    items.push(event);
                }
            }
        }
        let counts = self.store.social_counts(asked).await.map_err(failed)?;
        let (of_subject, of_items) = counts.split_at(top.len());
        response.counts = of_subject.to_vec();
        let mut of_items = of_items.chunks(each.len().max(1));
        response.items = items
            .into_iter()
            .map(|event| QueryReferencesResponseEventItem {
                event: Some(wire(event)),
                counts: if each.is_empty() {
                    Vec::new()
                } else {
                    of_items.next().unwrap_or_default().to_vec()
                },
            })
            .collect();
        Ok(response)
    }

    /// Who made a claim that somebody vouches for.
    ///
    /// # Errors
    /// `invalid_request` where trust root or the kind of match is missing.
    pub async fn resolve_claim(
        &self,
        request: QueryClaimToSystemRequest,
    ) -> Result<QueryClaimToSystemResponse, Problem> {
        let root = SystemKey::required(request.trust_root.as_ref()).map_err(refused)?;
        let fields = match (request.match_any_field, request.match_all_fields) {
            (Some(value), None) => vec![(None, value)],
            (None, Some(all)) => {
                all.fields.into_iter().map(|field| (Some(field.key), field.value)).collect()
            }
            _ => return Err(Problem::invalid("one of match_any_field and match_all_fields")),
        };
        let matches = self.claims(request.claim_type, root, None, fields, MAX_MATCHES).await?;
        let matches = matches
            .into_iter()
            .map(|(claim, vouch)| ClaimMatch {
                claim: Some(wire(claim)),
                proof_chain: vec![wire(vouch)],
            })
            .collect();
        Ok(QueryClaimToSystemResponse { matches })
    }

    /// One system's claim and the newest vouch of another for it.
    ///
    /// # Errors
    /// `not_found` where there is none; `invalid_request`.
    pub async fn find_claim_and_vouch(
        &self,
        request: FindClaimAndVouchRequest,
    ) -> Result<FindClaimAndVouchResponse, Problem> {
        let root = SystemKey::required(request.vouching_system.as_ref()).map_err(refused)?;
        let claimer = SystemKey::required(request.claiming_system.as_ref()).map_err(refused)?;
        let fields =
            request.fields.into_iter().map(|field| (Some(field.key), field.value)).collect();
        let found = self.claims(request.claim_type, root, Some(claimer), fields, 1).await?;
        let (claim, vouch) = found
            .into_iter()
            .next()
            .ok_or_else(|| Problem::not_found("no such claim with a vouch"))?;
        Ok(FindClaimAndVouchResponse { vouch: Some(wire(vouch)), claim: Some(wire(claim)) })
    }

    async fn claims(
        &self,
        claim_type: u64,
        root: SystemKey,
        claimer: Option<SystemKey>,
        fields: Vec<(Option<u64>, String)>,
        limit: usize,
    ) -> Result<Vec<(SocialEvent, SocialEvent)>, Problem> {
        let query = ClaimsQuery { claim_type, root, claimer, fields, limit };
        self.store.social_claims(query).await.map_err(failed)
    }

    /// The newest posts of everybody.
    ///
    /// # Errors
    /// `invalid_request` for a cursor of another kind.
    pub async fn explore(
        &self,
        question: ExploreQuestion,
    ) -> Result<ResultEventsAndRelatedEventsAndCursor, Problem> {
        let mut before = match question.cursor.as_deref() {
            None | Some([]) => None,
            Some(cursor) => match parse_small_cursor(cursor).map_err(refused)?[..] {
                [ms, seq] => Some((ms, seq)),
                // A place among posts without a time, which this relay leaves out.
                _ => return Ok(page(Vec::new(), None)),
            },
        };
        let until_ms = self.now_ms().saturating_add(self.config.future_ms);
        let limit = question.limit.clamp(1, MAX_LIMIT);
        let filters = with_usual(question.filters);
        for _ in 0..MAX_HIDDEN_PAGES {
            let found = self.store.social_explore(before, until_ms, limit).await.map_err(failed)?;
            let Some(last) = found.last() else { return Ok(page(Vec::new(), None)) };
            let place = (last.unix_ms.unwrap_or(0), last.seq);
            before = Some(place);
            let shown = self.recommended(found, &filters)?;
            // The client stops at an empty page, so pages that are hidden whole are passed over.
            if !shown.is_empty() {
                return Ok(page(shown, Some(small_cursor(&[place.0, place.1]))));
            }
        }
        Ok(page(Vec::new(), before.map(|(ms, seq)| small_cursor(&[ms, seq]))))
    }

    /// Posts or profiles that hold all of the words.
    ///
    /// # Errors
    /// `invalid_request` for a text that is too long, a cursor of another kind, or where search is off.
    pub async fn search(
        &self,
        question: SearchQuestion,
    ) -> Result<ResultEventsAndRelatedEventsAndCursor, Problem> {
        if !self.config.search {
            return Err(Problem::invalid("this relay does not search"));
        }
        if question.text.len() > MAX_SEARCH {
            return Err(Problem::invalid(format!("a search has at most {MAX_SEARCH} bytes")));
        }
        let mut offset = match question.cursor.as_deref() {
            None | Some([]) => 0,
            Some(cursor) => match parse_small_cursor(cursor).map_err(refused)?[..] {
                [offset] => offset,
                _ => return Err(refused(WireError::Malformed)),
            },
        };
        let words = if question.profiles { Words::Profiles } else { Words::Posts };
        let limit = question.limit.clamp(1, MAX_LIMIT);
        for _ in 0..MAX_HIDDEN_PAGES {
            if offset > MAX_SEARCH_OFFSET {
                break;
            }
            let text = question.text.clone();
            let found = self.store.social_search(words, text, offset, limit).await;
            let found = found.map_err(failed)?;
            if found.is_empty() {
                break;
            }
            let full = found.len() == limit;
            offset += found.len() as u64;
            let shown = self.recommended(found, &question.filters)?;
            if !shown.is_empty() || !full {
                return Ok(page(shown, full.then(|| small_cursor(&[offset]))));
            }
        }
        Ok(page(Vec::new(), None))
    }

    /// Some systems with a name, others each time.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn recommended_profiles(&self, from: u64) -> Result<PublicKeys, Problem> {
        let found = self.store.social_some_systems(from, 10).await.map_err(failed)?;
        Ok(PublicKeys { systems: found.into_iter().map(SystemKey::to_message).collect() })
    }

    /// What a question about references depends on.
    ///
    /// # Errors
    /// As [`Self::subjects_of`].
    pub fn freshness_of(request: &QueryReferencesRequest) -> Result<Freshness, Problem> {
        Self::subjects_of(request).map(Freshness::Subjects)
    }

    /// What a reader with these filters sees.
    fn shown(
        &self,
        events: Vec<SocialEvent>,
        filters: &[Filter],
    ) -> Result<Vec<SocialEvent>, Problem> {
        if self.config.mode == Mode::Off {
            return Ok(events);
        }
        let mut shown = Vec::with_capacity(events.len());
        for event in events {
            let content_type = event.parse().map_err(failed)?.content_type();
            if is_shown(&event, content_type, self.config.mode, filters) {
                shown.push(event);
            }
        }
        Ok(shown)
    }

    /// What may be put before readers who did not ask for its author.
    fn recommended(
        &self,
        events: Vec<SocialEvent>,
        filters: &[Filter],
    ) -> Result<Vec<SocialEvent>, Problem> {
        let censors = self.censors.load();
        let mut shown = Vec::with_capacity(events.len());
        for event in self.shown(events, filters)? {
            let key: EventKey = event.parse().map(|event: Event| event.key()).map_err(failed)?;
            if !censors.hides(&key) {
                shown.push(event);
            }
        }
        Ok(shown)
    }
}

fn counts_of(
    values: &[CountLwwElementReferences],
    references: &[CountReferences],
) -> Result<Vec<Count>, Problem> {
    if values.len() + references.len() > MAX_COUNTS {
        return Err(Problem::invalid(format!("at most {MAX_COUNTS} counts")));
    }
    let values = values
        .iter()
        .map(|asked| Count::Values { value: asked.value.clone(), from_type: asked.from_type });
    let references =
        references.iter().map(|asked| Count::References { from_type: asked.from_type });
    Ok(values.chain(references).collect())
}

fn page(events: Vec<SocialEvent>, cursor: Option<Bytes>) -> ResultEventsAndRelatedEventsAndCursor {
    ResultEventsAndRelatedEventsAndCursor {
        result_events: Some(Events { events: events.into_iter().map(wire).collect() }),
        related_events: Some(Events::default()),
        cursor,
    }
}

/// An event as it is sent, with the relay's own tags.
fn wire(event: SocialEvent) -> SignedEvent {
    SignedEvent {
        signature: Bytes::copy_from_slice(&event.signature),
        event: event.bytes,
        moderation_tags: event.tags,
    }
}

pub(super) fn failed(error: StoreError) -> Problem {
    store_problem(&error)
}

pub(super) fn refused(error: WireError) -> Problem {
    Problem::invalid(error.to_string())
}
