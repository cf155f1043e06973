//! Somebody in front of the screen: presses keys, and sees what is drawn.

use std::collections::VecDeque;

use futures_util::FutureExt;
use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};
use relay_chat::views::Event;
use relay_tui::{App, Backend, Effect, Input, Settings, keys::Key, view};
use tokio::sync::broadcast::{Receiver, error::TryRecvError};

use super::played::{NOW, Played};

pub struct Desk {
    pub app: App,
    pub played: Played,
    events: Receiver<Event>,
    pub now_ms: u64,
    /// What was said to the terminal.
    pub effects: Vec<Effect>,
}

impl Desk {
    pub fn at(played: &Played, width: u16, height: u16) -> Self {
        Self::with(played, Settings::default(), width, height)
    }

    pub fn with(played: &Played, settings: Settings, width: u16, height: u16) -> Self {
        let events = played.events();
        let (app, effects) = App::new(settings, (width, height), NOW);
        let mut desk =
            Self { app, played: played.clone(), events, now_ms: NOW, effects: Vec::new() };
        desk.perform(effects);
        desk.catch_up();
        desk
    }

    /// The usual three chats on a usual terminal.
    pub fn usual() -> Self {
        Self::at(&Played::usual(), 100, 24)
    }

    pub fn input(&mut self, input: Input) {
        let effects = self.app.update(self.now_ms, input);
        self.perform(effects);
        self.catch_up();
    }

    /// Presses keys, given by their names.
    pub fn press(&mut self, keys: &str) -> &mut Self {
        for key in keys.split(' ') {
            self.input(Input::Key(key.parse::<Key>().unwrap()));
        }
        self
    }

    pub fn write(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            self.input(Input::Key(Key::char(c)));
        }
        self
    }

    /// Takes in what the chat has told.
    pub fn catch_up(&mut self) {
        loop {
            let input = match self.events.try_recv() {
                Ok(event) => Input::Event(event),
                Err(TryRecvError::Lagged(_)) => Input::Missed,
                Err(_) => {
                    let effects = self.app.settle();
                    if effects.is_empty() {
                        return;
                    }
                    self.perform(effects);
                    continue;
                }
            };
            let effects = self.app.update(self.now_ms, input);
            self.perform(effects);
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let mut waiting = VecDeque::from(effects);
        while let Some(effect) = waiting.pop_front() {
            let input = match effect {
                Effect::Ask(question) => {
                    let answer = self.played.answer(&question);
                    Input::Answer(question, answer)
                }
                Effect::Do(act) => {
                    let done = self.played.act(act.clone()).now_or_never().unwrap();
                    Input::Acted(act, done)
                }
                effect => {
                    self.effects.push(effect);
                    continue;
                }
            };
            waiting.extend(self.app.update(self.now_ms, input));
        }
    }

    pub fn resize(&mut self, width: u16, height: u16) {
        self.input(Input::Resize(width, height));
    }

    pub fn buffer(&self) -> Buffer {
        let (width, height) = self.app.size;
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view::draw(&self.app, frame)).unwrap();
        terminal.backend().buffer().clone()
    }

    /// What is seen, line by line.
    pub fn screen(&self) -> String {
        let buffer = self.buffer();
        let mut lines = Vec::new();
        for y in 0..buffer.area.height {
            let mut line = String::new();
            let mut x = 0;
            while x < buffer.area.width {
                let symbol = buffer[(x, y)].symbol();
                line.push_str(symbol);
                x += u16::try_from(relay_tui::text::width(symbol).max(1)).unwrap();
            }
            lines.push(line.trim_end().to_owned());
        }
        lines.join("\n")
    }

    pub fn sees(&self, text: &str) -> bool {
        self.screen().contains(text)
    }

    #[track_caller]
    pub fn expect(&self, text: &str) -> &Self {
        assert!(self.sees(text), "no '{text}' on\n{}", self.screen());
        self
    }

    pub fn draft(&self) -> &str {
        self.app.draft().active().text()
    }
}
