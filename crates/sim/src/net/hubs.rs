//! A dialer among hubs that come, go and freeze.

use std::time::Duration;

use relay_proto::link::dialer::{Action, Dialer, Plan};

use crate::rng::Rng;

/// What a hub is like at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Up,
    /// Connections are refused at once.
    Down,
    /// Nothing is answered; links die by silence, dials by time-out.
    Frozen,
}

/// Something that will be known to the dialer at a time.
#[derive(Debug, Clone, Copy)]
enum News {
    Linked(usize),
    Failed(usize),
    Lost(usize),
}

/// How long silence takes to be noticed, and a dial to time out.
const SILENCE: Duration = Duration::from_millis(4_500);
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The usual time to a link, or to a refusal.
const DIAL: Duration = Duration::from_millis(30);

/// One relay and its hubs.
#[derive(Debug)]
pub struct Hubs {
    dialer: Dialer,
    states: Vec<State>,
    /// How long each hub takes from dial to link.
    delays: Vec<Duration>,
    /// Which hubs have a link.
    links: Vec<bool>,
    news: Vec<(Duration, News)>,
    rng: Rng,
    now: Duration,
    /// Dials made.
    pub dials: u64,
    /// The longest time without a link in use.
    pub longest_gap: Duration,
    gap_since: Option<Duration>,
}

impl Hubs {
    pub fn new(seed: u64, plan: Plan) -> Self {
        Self {
            dialer: Dialer::new(plan),
            states: vec![State::Up; plan.hubs],
            delays: vec![DIAL; plan.hubs],
            links: vec![false; plan.hubs],
            news: Vec::new(),
            rng: Rng::new(seed),
            now: Duration::ZERO,
            dials: 0,
            longest_gap: Duration::ZERO,
            gap_since: Some(Duration::ZERO),
        }
    }

    /// The hub in use that answers.
    pub fn served_by(&self) -> Option<usize> {
        self.dialer.active().filter(|hub| self.states[*hub] == State::Up)
    }

    /// The hubs that have a link.
    pub fn linked(&self) -> Vec<usize> {
        (0..self.links.len()).filter(|hub| self.links[*hub]).collect()
    }

    /// How long a hub takes from dial to link, from now on.
    pub fn delay(&mut self, hub: usize, delay: Duration) {
        self.delays[hub] = delay;
    }

    /// A hub changes.
    pub fn set(&mut self, hub: usize, state: State) {
        self.states[hub] = state;
        if !self.links[hub] {
            return;
        }
        let after = match state {
            State::Up => return,
            State::Down => Duration::from_millis(1),
            State::Frozen => SILENCE,
        };
        self.news.push((self.now + after, News::Lost(hub)));
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.act();
            let news = self.news.iter().map(|(at, _)| *at).min();
            let next = news.into_iter().chain(self.dialer.wake_at()).fold(until, Duration::min);
            self.now = next.max(self.now).min(until);
            self.note_gap();
            if self.now >= until && news.is_none_or(|at| at > self.now) {
                self.act();
                return;
            }
            self.learn();
        }
    }

    fn act(&mut self) {
        for action in self.dialer.act(self.now) {
            match action {
                Action::Dial { hub, .. } => {
                    self.dials += 1;
                    let news = match self.states[hub] {
                        State::Up => (self.now + self.delays[hub], News::Linked(hub)),
                        State::Down => (self.now + DIAL, News::Failed(hub)),
                        State::Frozen => (self.now + DIAL_TIMEOUT, News::Failed(hub)),
                    };
                    self.news.push(news);
                }
                Action::Drain(hub) => self.news.push((self.now + DIAL, News::Lost(hub))),
                Action::Promote(_) => {}
            }
        }
        self.note_gap();
    }

    fn learn(&mut self) {
        let now = self.now;
        let due: Vec<News> =
            self.news.extract_if(.., |(at, _)| *at <= now).map(|(_, news)| news).collect();
        for news in due {
            let random = self.rng.draw();
            match news {
                News::Linked(hub) if self.states[hub] == State::Up => {
                    self.links[hub] = true;
                    self.dialer.linked(now, hub);
                }
                News::Linked(hub) | News::Failed(hub) => self.dialer.failed(now, hub, random),
                // A link that was already lost is not lost again.
                News::Lost(hub) if self.links[hub] => {
                    self.links[hub] = false;
                    self.dialer.lost(now, hub, None, random);
                }
                News::Lost(_) => {}
            }
        }
        self.act();
    }

    fn note_gap(&mut self) {
        match (self.served_by(), self.gap_since) {
            (None, None) => self.gap_since = Some(self.now),
            (Some(_), Some(since)) => {
                self.longest_gap = self.longest_gap.max(self.now - since);
                self.gap_since = None;
            }
            _ => {}
        }
    }

    /// Forgets the gaps so far.
    pub fn reset_gap(&mut self) {
        self.longest_gap = Duration::ZERO;
    }
}
