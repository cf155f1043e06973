//! What scripts follow where another relay is the home: one stream from there, asked for again after the last event
//! whenever the way to it breaks.

use std::{sync::Arc, time::Duration};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use relay_actors::{BodyStream, script::HostEvent};
use relay_proto::{Code, Filter, Problem, RelayId, SigningKey};
use relay_store::Clock;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    far::{Asked, Far},
    outside::for_script,
};
use crate::homes::sse::{Event, Parser};

/// The first wait before the home is asked again; doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A home says something every 15 seconds.
const LONGEST_SILENCE: Duration = Duration::from_secs(45);

/// One subscription of a service.
pub(super) struct Following {
    far: Far,
    home: RelayId,
    key: SigningKey,
    clock: Arc<dyn Clock>,
    filter: Filter,
    /// The home's cursor behind what was read.
    after: Option<String>,
    pieces: Option<BodyStream>,
    parser: Parser,
}

/// The way broke, or the home ended it.
struct Broken;

impl Following {
    /// Begins behind a cursor of the home, or with what comes from now on.
    ///
    /// # Errors
    /// The home's refusal; `home_unreachable` where it cannot be asked now.
    pub async fn open(
        far: Far,
        home: RelayId,
        key: SigningKey,
        clock: Arc<dyn Clock>,
        filter: Filter,
        after: Option<String>,
    ) -> Result<BoxStream<'static, HostEvent>, Problem> {
        let parser = Parser::default();
        let mut following = Self { far, home, key, clock, filter, after, pieces: None, parser };
        following.ask().await?;
        // Where it begins has to be known before anything can be missed.
        let mut first = Vec::new();
        while following.after.is_none() {
            match following.read().await {
                Ok(event) => first.extend(event),
                Err(Broken) => return Err(unreachable(&following.home)),
            }
        }
        let rest = stream::unfold(following, |mut following| async move {
            let event = following.next().await?;
            Some((event, following))
        });
        Ok(stream::iter(first).chain(rest).boxed())
    }

    async fn ask(&mut self) -> Result<(), Problem> {
        let body = json!({ "sub": "script", "filters": [self.filter], "after": self.after });
        let now_ms = self.clock.wall_ns() / 1_000_000;
        let asked = Asked {
            operation: "event.read",
            path: "/v1/events/stream",
            body,
            wait: Duration::ZERO,
        };
        self.pieces = Some(self.far.open(&self.home, &self.key, now_ms, asked).await?);
        self.parser = Parser::default();
        Ok(())
    }

    /// The next event; `None` where the home does not go on with it.
    async fn next(&mut self) -> Option<HostEvent> {
        let mut wait = FIRST_WAIT;
        loop {
            while self.pieces.is_some() {
                match self.read().await {
                    Ok(Some(event)) => return Some(event),
                    Ok(None) => wait = FIRST_WAIT,
                    Err(Broken) => self.pieces = None,
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            match self.ask().await {
                Err(problem) if !passes(&problem) => {
                    tracing::warn!(%problem, home = %self.home, "the subscription of a script broke");
                    return None;
                }
                _ => {}
            }
        }
    }

    /// Reads one thing that the home says, and notes how far that is.
    async fn read(&mut self) -> Result<Option<HostEvent>, Broken> {
        let said = loop {
            if let Some(said) = self.parser.next() {
                break said;
            }
            let pieces = self.pieces.as_mut().ok_or(Broken)?;
            match tokio::time::timeout(LONGEST_SILENCE, pieces.next()).await {
                Ok(Some(Ok(bytes))) if self.parser.add(&bytes) => {}
                _ => return Err(Broken),
            }
        };
        match said {
            None => Ok(None),
            Some(said) => self.take(said),
        }
    }

    fn take(&mut self, said: Event) -> Result<Option<HostEvent>, Broken> {
        #[derive(Deserialize)]
        struct Frame {
            body: Body,
        }
        #[derive(Deserialize)]
        struct Body {
            event: Box<RawValue>,
        }
        if matches!(said.t.as_str(), "stream.closed" | "error") {
            return Err(Broken);
        }
        // What nobody can come back to has no cursor, and is not for scripts.
        let Some(cursor) = said.id else { return Ok(None) };
        self.after = Some(cursor.clone());
        if said.t != "stream.event" {
            return Ok(None);
        }
        let Frame { body } = serde_json::from_str(&said.data).map_err(|_| Broken)?;
        let event = for_script(body.event.get().as_bytes()).map_err(|_| Broken)?;
        Ok(Some(HostEvent { event, cursor }))
    }
}

/// Whether the home may well answer otherwise in a moment.
const fn passes(problem: &Problem) -> bool {
    matches!(
        problem.code,
        Code::HomeUnreachable | Code::Timeout | Code::RateLimited | Code::InternalError
    )
}

fn unreachable(home: &RelayId) -> Problem {
    Problem::new(Code::HomeUnreachable, format!("the home relay '{home}' cannot be reached"))
}
