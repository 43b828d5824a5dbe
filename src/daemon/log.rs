//! The log, which nobody waits for.
//!
//! A journal that is stopped, or a pipe that nobody reads, takes nothing more after a while, and whoever writes to it
//! waits. The daemon does not: what cannot be written at once waits in a buffer, and what finds no room there is
//! counted, and told of by a line of its own as soon as lines are taken again. In a daemon whose log is well, a line is
//! written when it is made, and there is no thread.

use super::journal::{self, Journal};
use crate::broker::LogGauge;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often it is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Where lines go.
#[derive(Debug)]
pub(super) enum Sink {
    /// systemd's journal, a datagram a record; and where its messages go as lines while there is no journal.
    Journal(Journal, Option<Box<Sink>>),
    /// A file; or a pipe or terminal, opened anew so that our writing does not wait and others' does as before.
    File(File),
    /// A socket, as of the journal's for standard error.
    Socket(OwnedFd),
    /// One of which we have only what we were given: written to when poll(2) says that it takes something.
    Given(File),
}

impl Sink {
    /// Standard error.
    pub(super) fn stderr() -> io::Result<Self> {
        let own = io::stderr().as_fd().try_clone_to_owned()?;
        let given = File::from(own);
        let kind = given.metadata()?.file_type();
        if kind.is_socket() {
            return Ok(Self::Socket(given.into()));
        }
        if kind.is_file() {
            // It keeps nobody waiting, and who else writes to it goes on where we end.
            return Ok(Self::File(given));
        }
        let anew = OpenOptions::new()
            .append(true)
            .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY)
            .open("/proc/self/fd/2");
        Ok(anew.map_or(Self::Given(given), Self::File))
    }

    /// The journal.
    pub(super) fn journal() -> io::Result<Self> {
        Ok(Self::Journal(Journal::open()?, Self::stderr().ok().map(Box::new)))
    }

    /// Writes without waiting; how much of it was taken.
    fn write(&self, record: &[u8]) -> io::Result<usize> {
        match self {
            Self::Journal(journal, lines) => match (journal.send(record), lines) {
                (Ok(()), _) => Ok(record.len()),
                // It is full, and takes more in a while.
                (Err(error), _) if is_for_now(&error) => Err(error),
                (Err(error), None) => Err(error),
                // It is not there. Of a line that is taken in part the rest is not worth a wait.
                (Err(_), Some(lines)) => lines.write(&journal::line_of(record)).map(|_| record.len()),
            },
            Self::File(file) => (&*file).write(record),
            Self::Socket(socket) => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                Ok(send(socket.as_raw_fd(), record, flags)?)
            }
            Self::Given(file) => {
                let mut ready = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                poll(&mut ready, PollTimeout::ZERO)?;
                let takes =
                    ready.iter().any(|fd| fd.revents().is_some_and(|r| r.contains(PollFlags::POLLOUT)));
                if !takes {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                // A pipe that takes something takes a page.
                (&*file).write(record.get(..4096).unwrap_or(record))
            }
        }
    }

    fn lost(&self, lines: u64) -> Vec<u8> {
        let text = format!("{lines} lines of the log were lost: it took nothing for a while");
        match self {
            Self::Journal(..) => journal::record_of_our_own(&text, lines),
            _ => format!("portbrokerd: {text}\n").into_bytes(),
        }
    }
}

/// Whether it would have to wait.
fn is_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    lost: u64,
    /// A thread is about to try again.
    retries: bool,
}

/// The log.
#[derive(Debug, Clone)]
pub(super) struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sink: Sink,
    gauge: LogGauge,
    state: Mutex<State>,
}

impl Log {
    pub(super) fn new(sink: Sink) -> Self {
        Self(Arc::new(Inner { sink, gauge: LogGauge::default(), state: Mutex::default() }))
    }

    /// How it is; and there its buffer is given another length.
    pub(super) fn gauge(&self) -> LogGauge {
        self.0.gauge.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a record, now or later or not at all.
    pub(super) fn record(&self, record: &[u8]) {
        let mut state = self.state();
        self.flush(&mut state);
        let taken = if state.waiting.is_empty() && state.lost == 0 { self.write_now(record) } else { 0 };
        let rest = record.get(taken..).unwrap_or_default();
        if rest.is_empty() && taken == record.len() {
            return;
        }
        // The rest of a line that was begun is written in any case.
        let most = usize::try_from(self.0.gauge.most()).unwrap_or(usize::MAX);
        if state.bytes.saturating_add(rest.len()) > most && taken == 0 {
            state.lost = state.lost.saturating_add(1);
            self.0.gauge.lost_one();
        } else {
            state.bytes = state.bytes.saturating_add(rest.len());
            state.waiting.push_back(rest.to_vec());
            self.measure(&state);
        }
        if !std::mem::replace(&mut state.retries, true) {
            let log = self.clone();
            let thread = std::thread::Builder::new().name("log".into()).stack_size(128 * 1024);
            state.retries = thread.spawn(move || log.retry()).is_ok();
        }
    }

    /// How much was taken. What cannot be written for another reason than that it would wait is nobody's to know.
    fn write_now(&self, record: &[u8]) -> usize {
        match self.0.sink.write(record) {
            Ok(taken) => taken,
            Err(error) if is_for_now(&error) => 0,
            Err(_) => record.len(),
        }
    }

    fn measure(&self, state: &State) {
        self.0.gauge.waits(u64::try_from(state.bytes).unwrap_or(u64::MAX));
    }

    /// Writes what waits, as far as it is taken.
    fn flush(&self, state: &mut State) {
        self.flush_some(state);
        self.measure(state);
    }

    fn flush_some(&self, state: &mut State) {
        while let Some(mut record) = state.waiting.pop_front() {
            let taken = self.write_now(&record);
            state.bytes = state.bytes.saturating_sub(taken);
            if taken < record.len() {
                record.drain(..taken);
                state.waiting.push_front(record);
                return;
            }
        }
        if state.lost > 0 {
            let told = self.0.sink.lost(state.lost);
            if self.write_now(&told) > 0 {
                state.lost = 0;
            }
        }
    }

    fn retry(&self) {
        loop {
            std::thread::sleep(RETRY);
            let mut state = self.state();
            self.flush(&mut state);
            if state.waiting.is_empty() && state.lost == 0 {
                state.waiting = VecDeque::new();
                state.retries = false;
                return;
            }
        }
    }

    /// Waits until all is written, and no longer than so.
    pub(super) fn finish(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.state().retries && Instant::now() < deadline {
            std::thread::sleep(RETRY / 10);
        }
    }
}

/// A line is written as a whole, by one call of the one who formats it.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.record(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixDatagram;

    /// The log into a pipe, and its reader.
    fn piped() -> (Log, File) {
        let (reader, writer) = io::pipe().unwrap();
        let anew = OpenOptions::new()
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", writer.as_raw_fd()))
            .unwrap();
        (Log::new(Sink::File(anew)), File::from(OwnedFd::from(reader)))
    }

    #[test]
    fn a_log_that_nobody_reads_stops_nobody_and_says_afterwards_what_was_lost() {
        let (log, mut reader) = piped();
        let line = |n: usize| format!("{n:06} {}\n", "x".repeat(200));
        const LINES: usize = 20_000;
        (0..LINES).for_each(|n| log.record(line(n).as_bytes()));
        let buffered = log.state().bytes;
        let most = usize::try_from(log.gauge().most()).unwrap();
        assert!(buffered <= most && log.state().lost > 0, "{buffered}");
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        log.finish(Duration::from_secs(60));
        log.record(line(LINES).as_bytes());
        drop(log);
        let text = read.join().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let told = lines.iter().position(|line| line.contains("lines of the log were lost")).unwrap();
        let lost: usize = lines[told].split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(told + lost, LINES, "every line is there or counted");
        for (n, found) in lines[..told].iter().enumerate() {
            assert_eq!(format!("{found}\n"), line(n), "in order, and none torn");
        }
        assert_eq!(lines[told + 1..].len(), 1);
    }

    #[test]
    fn what_no_journal_takes_is_a_line_and_what_it_takes_later_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let receiver = UnixDatagram::bind(&path).unwrap();
        receiver.set_nonblocking(true).unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let lines = Sink::Given(File::from(OwnedFd::from(writer)));
        let log = Log::new(Sink::Journal(Journal::at(path.clone()).unwrap(), Some(Box::new(lines))));
        let record = journal::record_of_our_own("of the journal", 1);
        log.record(&record);
        let mut bytes = [0; 1024];
        assert_eq!(receiver.recv(&mut bytes).unwrap(), record.len());
        // Nobody reads it: it is full after some, and takes the others when it is read again.
        (0..2000).for_each(|_| log.record(&record));
        assert!(log.state().bytes > 0, "it waits");
        let mut read = 0;
        while read < 2000 {
            read += usize::from(receiver.recv(&mut bytes).is_ok());
            log.flush(&mut log.state());
        }
        // It is gone.
        drop(receiver);
        std::fs::remove_file(&path).unwrap();
        log.record(&journal::record_of_our_own("plain", 2));
        let mut line = [0; 9];
        File::from(OwnedFd::from(reader)).read_exact(&mut line).unwrap();
        assert_eq!(&line, b"<4>plain\n");
    }

    #[test]
    fn a_log_that_is_well_is_written_at_once_without_a_thread() {
        let (log, mut reader) = piped();
        log.clone().write_all(b"one\n").unwrap();
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!((&bytes, log.state().retries), (b"one\n", false));
    }
}
