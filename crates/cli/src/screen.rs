//! Where words go: standard output, standard error, and a few live lines below them on a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::exit::Failure;
use crate::paint::Paint;

/// The two streams and what is drawn on them. All that the program says goes through here, so that a
/// log line never ends up inside the live lines.
#[derive(Debug)]
pub(crate) struct Screen {
    out: Stream,
    err: Stream,
    /// The live lines that stand on the terminal now.
    live: Mutex<Vec<String>>,
}

/// What one stream can show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    /// Whether a person looks at it.
    pub(crate) is_terminal: bool,
    /// Whether it takes colours.
    pub(crate) paint: Paint,
}

impl Stream {
    fn of(stream: &impl IsTerminal) -> Self {
        let is_terminal = stream.is_terminal();
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let paint = if is_terminal && !set("NO_COLOR") && !dumb {
            Paint::Colours
        } else {
            Paint::Plain
        };
        Self { is_terminal, paint }
    }

    /// How many columns it has; none when it is no terminal.
    pub(crate) fn columns(self) -> Option<usize> {
        let size = self.is_terminal.then(terminal_size::terminal_size)?;
        size.map(|(width, _)| usize::from(width.0).max(20))
    }

    fn rows(self) -> Option<usize> {
        let size = self.is_terminal.then(terminal_size::terminal_size)?;
        size.map(|(_, height)| usize::from(height.0))
    }
}

impl Screen {
    /// The process's own streams.
    pub(crate) fn of_process() -> Self {
        Self {
            out: Stream::of(&io::stdout()),
            err: Stream::of(&io::stderr()),
            live: Mutex::default(),
        }
    }

    /// Standard output.
    pub(crate) fn out(&self) -> Stream {
        self.out
    }

    /// Standard error.
    pub(crate) fn err(&self) -> Stream {
        self.err
    }

    /// Says something on standard output; the text has its own line ends.
    ///
    /// # Errors
    /// `Closed` when nobody reads any more, which ends the program quietly.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        let live = self.lock();
        let write = || {
            self.live_text(&erasing(&live))?;
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()?;
            self.live_text(&drawing(&live))
        };
        write().map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::failed(format!("cannot write to standard output: {error}")),
        })
    }

    /// Says something on standard error. That nobody hears it is no failure.
    pub(crate) fn tell(&self, text: &str) {
        let live = self.lock();
        let text = format!("{}{text}{}", erasing(&live), drawing(&live));
        drop(io::stderr().lock().write_all(text.as_bytes()));
    }

    /// Shows these live lines below everything else, in the place of those before; none takes them away.
    /// Does nothing where standard error is no terminal. Lines must not be wider than the terminal.
    pub(crate) fn show(&self, mut lines: Vec<String>) {
        let Some(rows) = self.err.rows() else { return };
        let room = rows.saturating_sub(2).max(1);
        if lines.len() > room {
            let hidden = lines.len() - room + 1;
            lines.truncate(room - 1);
            lines.push(format!("… and {hidden} more"));
        }
        let mut live = self.lock();
        let before = std::mem::replace(&mut *live, lines);
        // In one piece, so that nothing flickers.
        let text = erasing(&before) + &drawing(&live);
        drop(io::stderr().lock().write_all(text.as_bytes()));
    }

    fn live_text(&self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(()); // standard error may be closed where there is no terminal
        }
        io::stderr().lock().write_all(text.as_bytes())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the live lines off the terminal; the cursor stands where they began.
fn erasing(live: &[String]) -> String {
    match live.len() {
        0 => String::new(),
        // To the first of them, and everything below away: also a `^C` that the terminal has shown.
        lines => format!("\x1b[{lines}F\x1b[J"),
    }
}

fn drawing(live: &[String]) -> String {
    live.iter().map(|line| format!("{line}\n")).collect()
}
