//! The terminal as a screen: taken, drawn on, and given back however this process ends.
//!
//! Raw, on the alternate screen and without its cursor a terminal is of no use to whoever comes after. So it is given
//! back by [`Drop`], before a panic says what it has to say, and before this process stops.

use crate::terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use std::io::{self, BufWriter, Stdout};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether it is ours at the moment.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The screen.
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

fn area() -> Rect {
    let (width, height) = terminal::size();
    Rect { x: 0, y: 0, width, height }
}

fn take() -> io::Result<()> {
    TAKEN.store(true, Ordering::SeqCst);
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, Hide)
}

/// As it was before. Where it is gone there is nobody to give it back to.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

impl Screen {
    pub(crate) fn take() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                before(panic);
            }));
        });
        let options = TerminalOptions { viewport: Viewport::Fixed(area()) };
        let terminal = Terminal::with_options(CrosstermBackend::new(BufWriter::new(io::stdout())), options)?;
        let mut screen = Self { terminal };
        screen.resume()?;
        Ok(screen)
    }

    /// Draws what is not there already.
    pub(crate) fn draw(&mut self, picture: impl FnOnce(Rect, &mut Buffer)) -> io::Result<()> {
        self.terminal.draw(|frame| picture(frame.area(), frame.buffer_mut())).map(drop)
    }

    /// Its size may be another one; everything is drawn anew.
    pub(crate) fn resize(&mut self) -> io::Result<()> {
        self.terminal.resize(area())
    }

    /// Gives it back for a time.
    pub(crate) fn suspend(&self) {
        give_back();
    }

    /// Takes it again, whatever others did to it meanwhile.
    pub(crate) fn resume(&mut self) -> io::Result<()> {
        // What was remembered of the terminal's modes is of before.
        let _ = disable_raw_mode();
        take()?;
        self.resize()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    #[ignore = "on a terminal of its own, for the test below"]
    fn panics_on_a_screen() {
        let mut screen = Screen::take().unwrap();
        screen
            .draw(|_, buffer| {
                buffer.set_string(0, 0, "drawn", ratatui::style::Style::new());
            })
            .unwrap();
        panic!("what has to be read");
    }

    #[test]
    fn a_panic_is_read_on_a_terminal_that_was_given_back() {
        let test = format!(
            "'{}' --exact top::screen::tests::panics_on_a_screen --ignored --nocapture; stty -a",
            std::env::current_exe().unwrap().display()
        );
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &test, "/dev/null"]).env("TERM", "xterm");
        let output = script.stdin(Stdio::null()).output().expect("needs script");
        let text = String::from_utf8(output.stdout).unwrap();
        let (drawn, after) = text.split_once("\x1b[?1049l").expect("the alternate screen was left");
        assert!(
            drawn.contains("\x1b[?1049h") && drawn.contains("drawn") && drawn.contains("\x1b[?25h"),
            "{text}"
        );
        assert!(after.contains("what has to be read") && after.contains(" icanon"), "{text}");
    }
}
