//! Records for systemd's journal, systemd.journal-fields(7), in its native form.
//!
//! As tracing-journald makes them, and for one reason not by it: it waits in each record for a journal that takes none.

use super::events::message_id;
use super::log::Log;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::Context;

const SOCKET: &str = "/run/systemd/journal/socket";
const IDENTIFIER: &str = "portbrokerd";
/// What an event is, for the catalogue of messages: systemd.journal-fields(7).
const MESSAGE_ID: &str = "MESSAGE_ID";
/// What fields of ours begin with.
const PREFIX: &str = "PORTBROKER_";

/// The way to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// That of this host; an error where there is none.
    pub(super) fn open() -> io::Result<Self> {
        let journal = Self::at(SOCKET.into())?;
        // journald throws an empty record away.
        journal.send(&[])?;
        Ok(journal)
    }

    pub(super) fn at(path: PathBuf) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path })
    }

    /// Sends a record, without waiting. One that is too long for a datagram goes as a sealed file.
    pub(super) fn send(&self, record: &[u8]) -> io::Result<()> {
        match self.socket.send_to(record, &self.path) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {}
            sent => return sent.map(drop),
        }
        let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
        let mut file = File::from(memfd_create(c"portbroker-log", flags)?);
        file.write_all(record)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
        let rights = [file.as_raw_fd()];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let address = UnixAddr::new(&self.path)?;
        sendmsg(self.socket.as_raw_fd(), &[], &[ControlMessage::ScmRights(&rights)], flags, Some(&address))?;
        Ok(())
    }
}

/// The layer that makes a record of each event.
pub(super) struct Layer(pub(super) Log);

impl<S: Subscriber> tracing_subscriber::Layer<S> for Layer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut record = Record(Vec::with_capacity(512));
        let metadata = event.metadata();
        let priority = match *metadata.level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "5",
            Level::DEBUG => "6",
            Level::TRACE => "7",
        };
        record.put("PRIORITY", priority);
        record.put("TARGET", metadata.target());
        metadata.file().into_iter().for_each(|file| record.put("CODE_FILE", file));
        metadata.line().into_iter().for_each(|line| record.put("CODE_LINE", &line.to_string()));
        record.put("SYSLOG_IDENTIFIER", IDENTIFIER);
        event.record(&mut record);
        self.0.record(&record.0);
    }
}

/// A record about the log itself.
pub(super) fn record_of_our_own(message: &str, lost: u64) -> Vec<u8> {
    let mut record = Record(Vec::new());
    for (name, value) in [("PRIORITY", "4"), ("SYSLOG_IDENTIFIER", IDENTIFIER), ("MESSAGE", message)] {
        record.put(name, value);
    }
    message_id("lost").into_iter().for_each(|id| record.put(MESSAGE_ID, id));
    record.put(&format!("{PREFIX}EVENT"), "lost");
    record.put(&format!("{PREFIX}LINES"), &lost.to_string());
    record.0
}

/// A record as a line, for where there is no journal that takes it: its level as sd-daemon(3) has it, and its message.
pub(super) fn line_of(record: &[u8]) -> Vec<u8> {
    let level = fields(record).find(|(name, _)| *name == b"PRIORITY").map_or(&b"6"[..], |(_, level)| level);
    let text = fields(record).find(|(name, _)| *name == b"MESSAGE").map_or(&b""[..], |(_, text)| text);
    let mut line = [b"<", level, b">", text].concat();
    // A line is one line.
    line.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
    line.push(b'\n');
    line
}

/// The fields of a record that [`Record::put`] made.
fn fields(record: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = record;
    std::iter::from_fn(move || {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let (name, after) = rest.split_at_checked(end)?;
        let (length, after) = after.get(1..)?.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (value, after) = after.split_at_checked(length)?;
        rest = after.get(1..)?;
        Some((name, value))
    })
}

struct Record(Vec<u8>);

impl Record {
    /// A field: its name, and the length of its value before it, which may have any bytes.
    fn put(&mut self, name: &str, value: &str) {
        let length = u64::try_from(value.len()).unwrap_or_default();
        for part in [name.as_bytes(), b"\n", &length.to_le_bytes(), value.as_bytes(), b"\n"] {
            self.0.extend_from_slice(part);
        }
    }

    fn field(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            return self.put("MESSAGE", value);
        }
        if field.name() == "event" {
            message_id(value).into_iter().for_each(|id| self.put(MESSAGE_ID, id));
        }
        let name: String = field
            .name()
            .chars()
            .filter_map(|c| match c {
                '.' | '_' => Some('_'),
                c => c.is_ascii_alphanumeric().then(|| c.to_ascii_uppercase()),
            })
            .collect();
        self.put(&format!("{PREFIX}{name}"), value);
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_line_where_no_journal_takes_it() {
        let mut record = Record(Vec::new());
        for (name, value) in [("PRIORITY", "4"), ("CODE_FILE", "a=b\nc"), ("MESSAGE", "two\nlines")] {
            record.put(name, value);
        }
        assert_eq!(line_of(&record.0), b"<4>two lines\n");
        assert_eq!(line_of(b""), b"<6>\n");
        // Torn, or none of ours.
        assert_eq!(line_of(record.0.get(..record.0.len() - 3).unwrap()), b"<4>\n");
        assert_eq!(line_of(b"MESSAGE=x\n"), b"<6>\n");
    }

    #[test]
    fn what_the_log_says_of_itself_is_in_the_catalogue_too() {
        let record = record_of_our_own("5 lines", 5);
        let id = fields(&record).find(|(name, _)| *name == b"MESSAGE_ID").unwrap().1;
        assert_eq!(id, message_id("lost").unwrap().as_bytes());
    }
}
