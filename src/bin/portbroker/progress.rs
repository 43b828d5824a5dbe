//! A line on standard error while something takes longer than a second: what is done, and for how long.
//!
//! Only where a person reads it: on a terminal. It is written over, and gone when the work is done. There is no thread
//! where there is no terminal.

use crate::output::{cut, printable};
use crate::terminal;
use std::io::{self, Write as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What takes no longer needs no word.
const QUIET: Duration = Duration::from_secs(1);
const BETWEEN: Duration = Duration::from_millis(250);
/// The line goes on turning, so that one sees that this process lives.
const WHEEL: [&str; 4] = ["|", "/", "-", "\\"];

/// Tells, until it is dropped.
#[derive(Debug)]
pub(crate) struct Progress(Option<(Sender<String>, JoinHandle<()>)>);

impl Progress {
    /// Something begins: `asking the broker`.
    pub(crate) fn begin(what: impl Into<String>) -> Self {
        let what = what.into();
        if !terminal::has_live_errors() {
            return Self(None);
        }
        let (sender, news) = channel();
        let thread = std::thread::Builder::new().name("progress".to_owned());
        // Without it the work is done all the same.
        Self(thread.spawn(move || tell(what, &news)).ok().map(|thread| (sender, thread)))
    }

    /// It has come so far: `12 of 40 files`.
    #[expect(dead_code, reason = "nothing that is asked of the broker has parts")]
    pub(crate) fn say(&self, what: impl Into<String>) {
        if let Some((sender, _)) = &self.0 {
            let _ = sender.send(what.into());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.0.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

fn tell(mut what: String, news: &Receiver<String>) {
    let begin = Instant::now();
    let mut next = begin + QUIET;
    for turn in WHEEL.into_iter().cycle() {
        loop {
            match news.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(newer) => what = newer,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return erase(begin),
            }
        }
        next = Instant::now() + BETWEEN;
        let text = line(turn, &what, begin.elapsed(), terminal::size().0);
        let _ = write!(io::stderr(), "\r{text}\x1b[K");
    }
}

fn line(turn: &str, what: &str, since: Duration, columns: u16) -> String {
    let text = format!("{turn} {}, for {} s", printable(what).replace('\n', " "), since.as_secs());
    // The last column is left free: some terminals go on to the next line there.
    cut(&text, usize::from(columns).saturating_sub(1)).to_owned()
}

fn erase(begin: Instant) {
    if begin.elapsed() >= QUIET {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_no_wider_than_the_terminal() {
        let at = |columns| line("|", "asking the broker", Duration::from_secs(12), columns);
        assert_eq!(at(80), "| asking the broker, for 12 s");
        assert_eq!(at(10), "| asking ");
        assert_eq!((at(1), at(0)), (String::new(), String::new()));
        assert_eq!(line("|", "a\x1bb\nc", QUIET, 80), "| a\\u{1b}b c, for 1 s");
    }
}
