//! A stream of a home, followed from here.
//!
//! The home sends server-sent events whose ids are its cursors. When the way to it breaks, the stream is
//! asked for again after the last cursor that was passed on, so that nothing is missed and nothing comes
//! twice; an event of which only a part came is thrown away with the broken stream.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{body::Body, http::header, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use relay_node::{
    Node,
    homes::sse::{Event, Parser},
};
use relay_proto::{Code, Problem, RelayId, frame::encode};

use super::{Carried, Speaker, carry, refused};
use crate::held::{self, Held};

/// The first wait before the home is asked again; doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What comes next.
pub(crate) enum Piece {
    /// A frame.
    Event(Event),
    /// Nothing, but the stream goes on: readers who watch the clock are told.
    Quiet,
    /// The home never took it. The last piece.
    Refused(Problem),
    /// The home does not go on with it. The last piece.
    Ended { problem: Problem, cursor: Option<String> },
}

/// A stream of a home.
pub(crate) struct Tail {
    node: Arc<Node>,
    home: RelayId,
    asked: Carried,
    speaker: Speaker,
    pieces: Option<BoxStream<'static, Result<Bytes, axum::Error>>>,
    parser: Parser,
    /// The home's cursor behind what was passed on.
    cursor: Option<String>,
    /// Whether the home took it once: from then on a broken way is waited for.
    opened: bool,
    resumed: bool,
    told_live: bool,
    over: bool,
    wait: Duration,
}

impl Tail {
    /// A stream that is asked for when it is first read.
    pub fn new(node: Arc<Node>, home: RelayId, asked: Carried, speaker: Speaker) -> Self {
        Self {
            node,
            home,
            asked,
            speaker,
            pieces: None,
            parser: Parser::default(),
            cursor: None,
            opened: false,
            resumed: false,
            told_live: false,
            over: false,
            wait: FIRST_WAIT,
        }
    }

    /// Asks for a stream now; gives the home's refusal back as it is.
    ///
    /// # Errors
    /// Where there was no answer.
    pub async fn open(
        node: Arc<Node>,
        home: RelayId,
        asked: Carried,
        speaker: Speaker,
    ) -> Result<Result<Self, Response>, Problem> {
        let mut tail = Self::new(node, home, asked, speaker);
        let response = tail.ask().await?;
        if !response.status().is_success() {
            return Ok(Err(response));
        }
        tail.take_up(response);
        Ok(Ok(tail))
    }

    fn ask(&self) -> impl Future<Output = Result<Response, Problem>> + Send + use<> {
        let asked = match &self.cursor {
            Some(cursor) => carry::resumed_at(self.asked.clone(), cursor),
            None => self.asked.clone(),
        };
        let (node, home) = (self.node.clone(), self.home.clone());
        let grant = self.speaker.grant(&node);
        async move { carry::exchange(&node, &home, &asked, grant).await }
    }

    fn take_up(&mut self, response: Response) {
        self.resumed = self.opened;
        self.opened = true;
        self.wait = FIRST_WAIT;
        self.parser = Parser::default();
        self.pieces = Some(response.into_body().into_data_stream().boxed());
    }

    /// The next piece; `None` when it is over.
    pub async fn next(&mut self) -> Option<Piece> {
        loop {
            if self.over {
                return None;
            }
            while let Some(found) = self.parser.next() {
                match found {
                    None => return Some(Piece::Quiet),
                    Some(event) => {
                        if let Some(event) = self.pass(event) {
                            return Some(Piece::Event(event));
                        }
                    }
                }
            }
            let Some(pieces) = &mut self.pieces else {
                match self.ask_again().await {
                    Some(piece) => return Some(piece),
                    None => continue,
                }
            };
            match pieces.next().await {
                Some(Ok(bytes)) if self.parser.add(&bytes) => {}
                _ => self.pieces = None,
            }
        }
    }

    /// Notes how far the reader is; drops what it was told before.
    fn pass(&mut self, mut event: Event) -> Option<Event> {
        if event.id.is_some() {
            self.cursor.clone_from(&event.id);
        }
        if event.t == "stream.live" && std::mem::replace(&mut self.told_live, true) {
            return None;
        }
        self.over = matches!(event.t.as_str(), "stream.closed" | "error");
        event.resumed = self.resumed;
        Some(event)
    }

    async fn ask_again(&mut self) -> Option<Piece> {
        if self.opened {
            // A link that is back is noticed sooner than the wait is over.
            let mut changes = self.node.federated().federation.changes();
            tokio::time::sleep(FIRST_WAIT).await;
            let _ = tokio::time::timeout(self.wait, changes.changed()).await;
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
        let problem = match self.ask().await {
            Ok(response) if response.status().is_success() => {
                self.take_up(response);
                return None;
            }
            Ok(response) => match carry::frame_answer(response).await {
                Err(problem) => self.speaker.told(&self.node, problem),
                Ok(_) => return Some(Piece::Quiet),
            },
            Err(problem) => problem,
        };
        let passes = matches!(
            problem.code,
            Code::HomeUnreachable | Code::Timeout | Code::RateLimited | Code::InternalError
        );
        if self.opened && passes {
            return Some(Piece::Quiet);
        }
        self.over = true;
        let cursor = self.cursor.clone();
        Some(if self.opened { Piece::Ended { problem, cursor } } else { Piece::Refused(problem) })
    }

    /// The stream as the answer to a client, until its session is over.
    pub fn into_response(self, held: Held) -> Response {
        let node = self.node.clone();
        let chunks = futures_util::stream::unfold(Some((self, held)), move |state| {
            let stop = node.stop.clone();
            async move {
                let (mut tail, mut held) = state?;
                let piece = tokio::select! {
                    biased;
                    () = stop.cancelled() => return None,
                    over = held.over() => {
                        let text = held::farewell(over);
                        let last = format!("event: error\ndata: {text}\n\n");
                        return Some((Ok::<_, Infallible>(Bytes::from(last)), None));
                    }
                    piece = tail.next() => piece?,
                };
                let chunk = match piece {
                    Piece::Quiet => Bytes::from_static(b": ping\n\n"),
                    Piece::Event(event) => event.encode().into(),
                    Piece::Refused(problem) | Piece::Ended { problem, .. } => {
                        let mut body = problem.members();
                        body.insert("cursor".into(), tail.cursor.clone().into());
                        let data = encode("stream.closed", None, &body);
                        Event { t: "stream.closed".into(), data, ..Event::default() }
                            .encode()
                            .into()
                    }
                };
                Some((Ok(chunk), Some((tail, held))))
            }
        });
        let answer = http::Response::builder()
            .header(header::CONTENT_TYPE, "text/event-stream")
            .header(header::CACHE_CONTROL, "no-store")
            // nginx holds answers back otherwise.
            .header("x-accel-buffering", "no")
            .body(Body::from_stream(chunks));
        let lost = |_| refused(Problem::new(Code::InternalError, "no answer could be made"));
        answer.unwrap_or_else(lost)
    }
}
