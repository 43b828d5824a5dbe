//! Records for systemd's journal, systemd.journal-fields(7), in its native form.
//!
//! As tracing-journald makes them, and for one reason not by it: it waits in each record for a journal that takes none.

use super::log::Log;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::Context;

const SOCKET: &str = "/run/systemd/journal/socket";
const IDENTIFIER: &str = "portbrokerd";
/// What fields of ours begin with.
const PREFIX: &str = "PORTBROKER_";

/// Sends a record. One that is too long for a datagram goes as a sealed file.
pub(super) fn send(socket: &UnixDatagram, record: &[u8]) -> io::Result<()> {
    match socket.send_to(record, SOCKET) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {}
        sent => return sent.map(drop),
    }
    let mut file =
        File::from(memfd_create(c"portbroker-log", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC)?);
    file.write_all(record)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
    let rights = [file.as_raw_fd()];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg(
        socket.as_raw_fd(),
        &[],
        &[ControlMessage::ScmRights(&rights)],
        flags,
        Some(&UnixAddr::new(SOCKET)?),
    )?;
    Ok(())
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
    record.put(&format!("{PREFIX}EVENT"), "lost");
    record.put(&format!("{PREFIX}LINES"), &lost.to_string());
    record.0
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
