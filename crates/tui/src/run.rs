//! The loop: what comes from the terminal and the chat goes into the [`App`], what comes out of it is done.

use std::{
    collections::VecDeque,
    io,
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crossterm::event::{Event as TerminalEvent, EventStream, KeyEventKind};
use futures_util::StreamExt;
use relay_chat::views::Event;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{
        broadcast::{self, error::RecvError, error::TryRecvError},
        mpsc,
    },
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    app::{App, Effect, Input},
    backend::{Act, Backend, Done, Question},
    config::Settings,
    terminal::Screen,
};

/// Acts that wait for their turn; one more is refused with a sentence.
const LANE: usize = 64;
/// Things that are taken in before the screen is drawn.
const BATCH: usize = 256;
/// Long acts and searches under way at once; one more is refused.
const MAX_TASKS: usize = 16;
/// What was begun before quitting may take so long.
const GRACE: Duration = Duration::from_secs(2);
/// Clock and countdown.
const TICK: Duration = Duration::from_secs(1);

/// Why the screen could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The terminal does not do as it is told.
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
}

/// Shows the chat until the user quits, the terminal goes away, or the program is told to end; first this conversation, else
/// the first of the list.
///
/// # Errors
/// [`Error::Terminal`].
pub async fn run<B: Backend>(
    backend: B,
    settings: Settings,
    first: Option<String>,
) -> Result<(), Error> {
    let events = backend.events();
    let screen = Screen::enter()?;
    let size = screen.size()?;
    let (app, mut effects) = App::new(settings, size, now_ms());
    effects.extend(first.map(|conversation| Effect::Do(Act::Find { conversation })));
    let mut shell = Shell::new(backend, screen, app);
    shell.perform(effects)?;
    shell.settle()?;
    let done = shell.follow(events).await;
    shell.end().await;
    done
}

struct Shell<B> {
    backend: Arc<B>,
    screen: Screen,
    app: App,
    /// Acts that keep their order, done by `worker`.
    lane: mpsc::Sender<Act>,
    done: mpsc::Receiver<Input>,
    worker: JoinHandle<()>,
    /// From the terminal, read by `reader`.
    keys: mpsc::Receiver<io::Result<Input>>,
    reader: JoinHandle<()>,
    /// What takes longer, and links that are open.
    tasks: JoinSet<Option<Input>>,
    quit: bool,
}

impl<B: Backend> Shell<B> {
    fn new(backend: B, screen: Screen, app: App) -> Self {
        let backend = Arc::new(backend);
        let (lane, acts) = mpsc::channel(LANE);
        let (results, done) = mpsc::channel(LANE);
        let worker = tokio::spawn(work(backend.clone(), acts, results));
        let (pressed, keys) = mpsc::channel(BATCH);
        let reader = tokio::spawn(read(pressed));
        let tasks = JoinSet::new();
        Self { backend, screen, app, lane, done, worker, keys, reader, tasks, quit: false }
    }

    async fn follow(&mut self, mut events: broadcast::Receiver<Event>) -> Result<(), Error> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ends = Ends::new()?;
        while !self.quit {
            let input = tokio::select! {
                key = self.keys.recv() => match key {
                    Some(input) => Some(input?),
                    None => return Ok(()),
                },
                event = events.recv() => match event {
                    Ok(event) => Some(Input::Event(event)),
                    Err(RecvError::Lagged(_)) => Some(Input::Missed),
                    Err(RecvError::Closed) => return Ok(()),
                },
                Some(input) = self.done.recv() => Some(input),
                Some(task) = self.tasks.join_next() => task.ok().flatten(),
                _ = ticks.tick() => Some(Input::Tick),
                () = ends.come() => return Ok(()),
            };
            self.take(input)?;
            // What is there already is seen in one picture.
            for _ in 0..BATCH {
                let input = match events.try_recv() {
                    Ok(event) => Some(Input::Event(event)),
                    Err(TryRecvError::Lagged(_)) => Some(Input::Missed),
                    Err(_) => match self.keys.try_recv() {
                        Ok(input) => Some(input?),
                        Err(_) => break,
                    },
                };
                self.take(input)?;
            }
            self.settle()?;
        }
        Ok(())
    }

    fn take(&mut self, input: Option<Input>) -> Result<(), Error> {
        let Some(input) = input else { return Ok(()) };
        let effects = self.app.update(now_ms(), input);
        self.perform(effects)
    }

    fn settle(&mut self) -> Result<(), Error> {
        let effects = self.app.settle();
        self.perform(effects)?;
        self.screen.draw(&self.app)?;
        Ok(())
    }

    /// Does what is to be done, and what comes of that.
    fn perform(&mut self, effects: Vec<Effect>) -> Result<(), Error> {
        let mut waiting = VecDeque::from(effects);
        while let Some(effect) = waiting.pop_front() {
            let input = match effect {
                Effect::Ask(question) => self.ask(question),
                Effect::Do(act) => self.act(act),
                Effect::Bell => self.screen.bell().map(|()| None)?,
                Effect::Notify(text) => self.screen.notify(&text).map(|()| None)?,
                Effect::Title(title) => self.screen.title(&title).map(|()| None)?,
                Effect::Copy(text) => {
                    self.screen.copy(&text)?;
                    None
                }
                Effect::OpenLink(link) => {
                    self.open(link);
                    None
                }
                Effect::Redraw => self.screen.forget().map(|()| None)?,
                Effect::Quit => {
                    self.quit = true;
                    None
                }
            };
            if let Some(input) = input {
                waiting.extend(self.app.update(now_ms(), input));
            }
        }
        Ok(())
    }

    fn ask(&mut self, question: Question) -> Option<Input> {
        if !question.is_long() {
            let answer = self.backend.answer(&question);
            return Some(Input::Answer(question, answer));
        }
        if self.tasks.len() >= MAX_TASKS {
            return Some(Input::Answer(question, Err(busy())));
        }
        let backend = self.backend.clone();
        self.tasks.spawn_blocking(move || {
            let answer = backend.answer(&question);
            Some(Input::Answer(question, answer))
        });
        None
    }

    fn act(&mut self, act: Act) -> Option<Input> {
        if act.is_long() {
            if self.tasks.len() >= MAX_TASKS {
                return Some(Input::Acted(act, Err(busy())));
            }
            let backend = self.backend.clone();
            self.tasks.spawn(async move {
                let done = backend.act(act.clone()).await;
                Some(Input::Acted(act, done))
            });
            return None;
        }
        let refused = self.lane.try_send(act).err()?;
        Some(Input::Acted(refused.into_inner(), Err(busy())))
    }

    /// Hands a web address to the desktop, which may not be there.
    fn open(&mut self, link: String) {
        if self.tasks.len() >= MAX_TASKS {
            return;
        }
        let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
        self.tasks.spawn(async move {
            let mut command = tokio::process::Command::new(opener);
            command.arg(&link).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let failed = match command.status().await {
                Ok(status) => !status.success(),
                Err(_) => true,
            };
            failed.then(|| {
                let text = format!("{opener} does not open {link}; c copies the message");
                Input::Event(Event::Note { text })
            })
        });
    }

    /// What was entered before quitting is still noted; what takes longer is given up.
    async fn end(self) {
        let Self { lane, worker, reader, mut tasks, mut done, .. } = self;
        reader.abort();
        drop(lane);
        let told = async { while done.recv().await.is_some() {} };
        let _ = timeout(GRACE, told).await;
        worker.abort();
        tasks.shutdown().await;
    }
}

async fn work<B: Backend>(
    backend: Arc<B>,
    mut acts: mpsc::Receiver<Act>,
    results: mpsc::Sender<Input>,
) {
    while let Some(act) = acts.recv().await {
        let done: Result<Done, String> = backend.act(act.clone()).await;
        if results.send(Input::Acted(act, done)).await.is_err() {
            return;
        }
    }
}

/// Reads the terminal; a queue that can be looked into is what the stream of crossterm is not, for it keeps the first waker.
async fn read(pressed: mpsc::Sender<io::Result<Input>>) {
    let mut events = EventStream::new();
    while let Some(event) = events.next().await {
        let Some(input) = event.map(of_terminal).transpose() else { continue };
        if pressed.send(input).await.is_err() {
            return;
        }
    }
}

/// What ends a program in a terminal.
struct Ends {
    terminate: Signal,
    hang_up: Signal,
}

impl Ends {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn come(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

fn of_terminal(event: TerminalEvent) -> Option<Input> {
    match event {
        TerminalEvent::Key(key) if key.kind != KeyEventKind::Release => {
            Some(Input::Key(key.into()))
        }
        TerminalEvent::Paste(text) => Some(Input::Paste(text)),
        TerminalEvent::Resize(width, height) => Some(Input::Resize(width, height)),
        TerminalEvent::FocusGained => Some(Input::Focus(true)),
        TerminalEvent::FocusLost => Some(Input::Focus(false)),
        _ => None,
    }
}

fn busy() -> String {
    "too much is under way; try again in a moment".into()
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
