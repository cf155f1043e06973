//! The text of the reading statements. One statement answers a page whatever the question: the index runs
//! that the plan names come in as lists, each run is an ordered and limited index scan, and the scans are merged.

use std::fmt::Write as _;

use crate::event::Order;

/// What a run reads; the numbers stand in the statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Author = 1,
    Kind = 2,
    Tag = 3,
    /// One event by its `seq`.
    Event = 4,
    /// The log itself, in order of arrival.
    Log = 5,
}

/// Values 1 to 13 of every statement are the columns of the runs.
const RUNS: &str = "WITH s AS MATERIALIZED (
    SELECT what, ns, author, kind, number, superseded, since, until, namespaces::int[] AS namespaces,
        authors::int[] AS authors, kinds::int[] AS kinds, tags::bigint[] AS tags, more::bigint[] AS more
    FROM unnest($1::smallint[], $2::int[], $3::int[], $4::int[], $5::bigint[], $6::bool[], $7::bigint[],
        $8::bigint[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[])
        AS given (what, ns, author, kind, number, superseded, since, until, namespaces, authors, kinds, tags, more)
)";

/// What can be told of a row beyond its run. Value 14 is the time of now.
const REST: &str = "e.created_at_ns >= s.since AND e.created_at_ns <= s.until
    AND (e.expires_at_s IS NULL OR e.expires_at_s > $14)
    AND (s.authors IS NULL OR e.author = ANY (s.authors))
    AND (s.kinds IS NULL OR e.kind = ANY (s.kinds))
    AND (s.tags IS NULL OR e.tags && s.tags)
    AND (s.more IS NULL OR e.tags && s.more)";

const AUTHOR: &str = "events e WHERE e.ns = s.ns AND e.author = s.author AND e.kind = s.kind
    AND e.superseded = s.superseded";
/// `kind >= 0` names the index, see V10.
const KIND: &str = "events e WHERE e.ns = s.ns AND e.kind = s.kind AND e.kind >= 0
    AND e.superseded = s.superseded";
const TAG: &str = "event_tags t JOIN events e ON e.seq = t.seq
    WHERE t.tag = s.number AND t.superseded = s.superseded
    AND t.created_at_ns >= s.since AND t.created_at_ns <= s.until";
const EVENT: &str = "events e WHERE e.seq = s.number AND (s.superseded OR NOT e.superseded)";
const LOG: &str = "events e WHERE e.ns = ANY (s.namespaces) AND (s.superseded OR NOT e.superseded)";

/// A page in `order`. Values 15 and 16 are time and `seq` where it begins, 17 is its length.
/// In the orders of arrival value 15 is not looked at.
pub(super) fn page(order: Order) -> String {
    match order {
        Order::Time => by_time(">", "ASC"),
        Order::TimeDescending => by_time("<", "DESC"),
        Order::Seq => by_seq(">", "ASC"),
        Order::SeqDescending => by_seq("<", "DESC"),
    }
}

fn by_time(sign: &str, direction: &str) -> String {
    let run = |what: What, from: &str, row: &str| {
        format!(
            "SELECT x.created_at_ns, x.seq FROM s CROSS JOIN LATERAL (
                 SELECT {row}.created_at_ns, {row}.seq FROM {from}
                     AND ({row}.created_at_ns, {row}.seq) {sign} ($15::bigint, $16::bigint) AND {REST}
                 ORDER BY {row}.created_at_ns {direction}, {row}.seq {direction} LIMIT $17
             ) x WHERE s.what = {}",
            what as i16
        )
    };
    let runs = [
        run(What::Author, AUTHOR, "e"),
        run(What::Kind, KIND, "e"),
        run(What::Tag, TAG, "t"),
        run(What::Event, EVENT, "e"),
    ]
    .join(" UNION ");
    format!(
        "{RUNS} SELECT e.seq, e.created_at_ns, e.json
         FROM (SELECT * FROM ({runs}) u
               ORDER BY created_at_ns {direction}, seq {direction} LIMIT $17) p
         JOIN events e ON e.seq = p.seq
         ORDER BY e.created_at_ns {direction}, e.seq {direction}"
    )
}

fn by_seq(sign: &str, direction: &str) -> String {
    // `OFFSET 0` keeps the planner from walking the whole log where a short run only has to be sorted.
    let run = |what: What, from: &str| {
        format!(
            "SELECT y.seq FROM s CROSS JOIN LATERAL (
                 SELECT x.seq FROM (SELECT e.seq FROM {from} AND {REST} OFFSET 0) x
                 WHERE x.seq {sign} $16 ORDER BY x.seq {direction} LIMIT $17
             ) y WHERE s.what = {}",
            what as i16
        )
    };
    let mut runs = [
        run(What::Author, AUTHOR),
        run(What::Kind, KIND),
        run(What::Tag, TAG),
        run(What::Event, EVENT),
    ]
    .join(" UNION ");
    let _ = write!(
        runs,
        " UNION SELECT y.seq FROM s CROSS JOIN LATERAL (
             SELECT e.seq FROM {LOG} AND e.seq {sign} $16 AND {REST}
             ORDER BY e.seq {direction} LIMIT $17
         ) y WHERE s.what = {}",
        What::Log as i16
    );
    format!(
        "{RUNS} SELECT e.seq, e.created_at_ns, e.json
         FROM (SELECT * FROM ({runs}) u ORDER BY seq {direction} LIMIT $17) p
         JOIN events e ON e.seq = p.seq
         WHERE $15::bigint IS NOT NULL
         ORDER BY e.seq {direction}"
    )
}

/// How many different events the runs hold.
pub(super) fn count() -> String {
    let run = |what: What, from: &str| {
        format!(
            "SELECT x.seq FROM s CROSS JOIN LATERAL (SELECT e.seq FROM {from} AND {REST}) x
             WHERE s.what = {}",
            what as i16
        )
    };
    let runs = [
        run(What::Author, AUTHOR),
        run(What::Kind, KIND),
        run(What::Tag, TAG),
        run(What::Event, EVENT),
    ]
    .join(" UNION ");
    format!("{RUNS} SELECT count(*) FROM ({runs}) u")
}

/// How long each run is, counted no further than value 5; values 1 to 4 are what, numbers and `superseded`.
pub(super) fn sizes() -> String {
    let run = |what: What, from: &str| {
        format!(
            "SELECT s.at, x.n FROM s CROSS JOIN LATERAL
                 (SELECT count(*) AS n FROM (SELECT 1 FROM {from} LIMIT $7) y) x WHERE s.what = {}",
            what as i16
        )
    };
    let tag = "event_tags t WHERE t.tag = s.number AND t.superseded = s.superseded";
    let runs =
        [run(What::Author, AUTHOR), run(What::Kind, KIND), run(What::Tag, tag)].join(" UNION ALL ");
    format!(
        "WITH s AS MATERIALIZED (
             SELECT * FROM unnest($1::smallint[], $2::int[], $3::int[], $4::int[], $5::bigint[], $6::bool[])
                 WITH ORDINALITY AS given (what, ns, author, kind, number, superseded, at)
         ) {runs}"
    )
}

/// The kinds of each (namespace, author), found by jumping from one to the next; author 0 stands for all.
pub(super) const KINDS: &str = "
    SELECT s.at, k.kind FROM unnest($1::int[], $2::int[]) WITH ORDINALITY AS s (ns, author, at)
    CROSS JOIN LATERAL (
        WITH RECURSIVE k AS (
            (SELECT e.kind FROM events e WHERE e.ns = s.ns AND e.author = s.author
             ORDER BY e.kind LIMIT 1)
            UNION ALL
            SELECT (SELECT e.kind FROM events e WHERE e.ns = s.ns AND e.author = s.author
                        AND e.kind > k.kind ORDER BY e.kind LIMIT 1)
            FROM k WHERE k.kind IS NOT NULL
        ) SELECT kind FROM k WHERE kind IS NOT NULL
    ) k WHERE s.author <> 0
    UNION ALL
    SELECT s.at, k.kind FROM unnest($1::int[], $2::int[]) WITH ORDINALITY AS s (ns, author, at)
    CROSS JOIN LATERAL (
        WITH RECURSIVE k AS (
            (SELECT e.kind FROM events e WHERE e.ns = s.ns AND e.kind >= 0 ORDER BY e.kind LIMIT 1)
            UNION ALL
            SELECT (SELECT e.kind FROM events e WHERE e.ns = s.ns AND e.kind >= 0 AND e.kind > k.kind
                    ORDER BY e.kind LIMIT 1)
            FROM k WHERE k.kind IS NOT NULL
        ) SELECT kind FROM k WHERE kind IS NOT NULL
    ) k WHERE s.author = 0";
