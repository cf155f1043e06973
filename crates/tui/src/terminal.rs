//! The terminal: into its raw mode and back, and the few things that are said to it beside the screen.

use std::io::{self, Stdout, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use crossterm::{
    event::{DisableBracketedPaste, DisableFocusChange, EnableBracketedPaste, EnableFocusChange},
    execute, queue,
    terminal::{
        BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
        SetTitle, disable_raw_mode, enable_raw_mode,
    },
};
use ratatui::{Terminal, backend::CrosstermBackend, layout::Rect};

use crate::{app::App, text, view};

/// Bytes of one copy to the clipboard: terminals drop longer ones.
const MAX_COPY: usize = 64 << 10;

/// The terminal while it is ours. Whatever ends the program, it is given back as it was.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

impl Screen {
    pub fn enter() -> io::Result<Self> {
        enable_raw_mode()?;
        // From here on the guard gives it back.
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()));
        let terminal = terminal.inspect_err(|_| give_back())?;
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            hook(panic);
        }));
        let mut screen = Self { terminal };
        execute!(
            screen.terminal.backend_mut(),
            EnterAlternateScreen,
            EnableBracketedPaste,
            EnableFocusChange
        )?;
        Ok(screen)
    }

    pub fn size(&self) -> io::Result<(u16, u16)> {
        self.terminal.size().map(|size| (size.width, size.height))
    }

    /// Draws what has changed, in one piece where the terminal can do that.
    pub fn draw(&mut self, app: &App) -> io::Result<()> {
        queue!(self.terminal.backend_mut(), BeginSynchronizedUpdate)?;
        self.terminal.draw(|frame| view::draw(app, frame))?;
        execute!(self.terminal.backend_mut(), EndSynchronizedUpdate)
    }

    /// Draws everything at the next time.
    pub fn forget(&mut self) -> io::Result<()> {
        // `clear` would ask the terminal where the cursor is, and the answer would go to whoever reads the keys.
        let (width, height) = self.size()?;
        self.terminal.resize(Rect { x: 0, y: 0, width, height })
    }

    pub fn title(&mut self, title: &str) -> io::Result<()> {
        execute!(self.terminal.backend_mut(), SetTitle(text::clean(title)))
    }

    pub fn bell(&mut self) -> io::Result<()> {
        self.raw("\x07")
    }

    /// OSC 9: a notification of the desktop, in terminals that know it.
    pub fn notify(&mut self, text: &str) -> io::Result<()> {
        self.raw(&format!("\x1b]9;{}\x1b\\", text::clean(text)))
    }

    /// OSC 52: into the clipboard, over ssh too; `false` where it is too much.
    pub fn copy(&mut self, text: &str) -> io::Result<bool> {
        if text.len() > MAX_COPY {
            return Ok(false);
        }
        self.raw(&format!("\x1b]52;c;{}\x1b\\", STANDARD.encode(text)))?;
        Ok(true)
    }

    fn raw(&mut self, bytes: &str) -> io::Result<()> {
        let out = self.terminal.backend_mut();
        out.write_all(bytes.as_bytes())?;
        Write::flush(out)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    let mut out = io::stdout();
    // There is nobody left to tell that it fails.
    let _ = execute!(
        out,
        SetTitle(""),
        DisableFocusChange,
        DisableBracketedPaste,
        LeaveAlternateScreen,
        crossterm::cursor::Show
    );
    let _ = disable_raw_mode();
}
