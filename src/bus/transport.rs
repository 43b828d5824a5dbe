//! The private socket's byte stream under zbus: as zbus's own, and with a limit to what a caller can make us
//! allocate, and without the descriptors that a caller might send.
//!
//! zbus allocates a message when it has its first 16 bytes, up to 128 MiB of it. So the length is looked at
//! here, before zbus sees these bytes. To know where messages begin, zbus is given nothing beyond the line with
//! which the authentication ends. What the kernel has is read at once and given to zbus in these pieces: a call
//! is one read.

use super::incoming::Incoming;
use super::outgoing::Outgoing;
use crate::kernel::stream;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader, Interest};
use tokio::net::unix::OwnedReadHalf;
use tokio::time::Instant;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;
use zbus::fdo::ConnectionCredentials;

/// The longest message that is taken: 253 names of listeners, each of the greatest length, and room.
pub(super) const MAX_MESSAGE: usize = 128 * 1024;
/// The longest line of the authentication.
const MAX_LINE: usize = 1024;
/// What the length of a message can be told from.
const PREFIX: usize = 16;
/// How long to wait where the kernel has no more room for descriptors in flight, and how often at most: nobody knows
/// when there is some again.
const NO_ROOM: Duration = Duration::from_millis(50);
const NO_ROOM_TIMES: u32 = 200;
/// How much is read at once: most calls, and little memory for a connection that is idle.
const READ_AHEAD: usize = 1024;

/// A connection to the private socket.
#[derive(Debug)]
pub(super) struct Transport {
    reader: OwnedReadHalf,
    incoming: Arc<Incoming>,
    outgoing: Arc<Outgoing>,
    uid: u32,
}

impl Transport {
    /// Takes the halves of a connected stream, and what the kernel says of its peer.
    pub(super) fn new(
        reader: OwnedReadHalf,
        incoming: Arc<Incoming>,
        outgoing: Arc<Outgoing>,
        uid: u32,
    ) -> Self {
        Self { reader, incoming, outgoing, uid }
    }
}

impl Socket for Transport {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let credentials = Credentials(self.uid);
        let accepted = Arc::new(AtomicBool::new(false));
        let reader = Reader {
            stream: BufReader::with_capacity(READ_AHEAD, self.reader),
            incoming: self.incoming,
            deadline: None,
            credentials,
            phase: Phase::Line(Vec::new()),
            accepted: Arc::clone(&accepted),
        };
        Split::new(reader, Writer { outgoing: self.outgoing, credentials, accepted })
    }
}

#[derive(Debug, Clone, Copy)]
struct Credentials(u32);

impl Credentials {
    fn get(self) -> ConnectionCredentials {
        ConnectionCredentials::default().set_unix_user_id(self.0)
    }
}

/// Where in the stream we are.
#[derive(Debug)]
enum Phase {
    /// In a line of the authentication, of which this much was read.
    Line(Vec<u8>),
    /// In the first bytes of a message.
    Prefix(Vec<u8>),
    /// So many bytes before the end of a message.
    Rest(usize),
}

impl Phase {
    /// Goes on by what was read.
    fn advance(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Line(line) => {
                line.extend_from_slice(bytes);
                if line.len() > MAX_LINE {
                    return Err(invalid("a line of the authentication is too long"));
                }
                if line.ends_with(b"\n") {
                    if !line.ends_with(b"\r\n") {
                        return Err(invalid("a line of the authentication does not end in CR LF"));
                    }
                    *self = if begins(line) { Self::message() } else { Self::Line(Vec::new()) };
                }
            }
            Self::Prefix(prefix) => {
                prefix.extend_from_slice(bytes);
                if prefix.len() == PREFIX {
                    *self = Self::rest(taken_length(prefix)? - PREFIX);
                }
            }
            Self::Rest(rest) => *self = Self::rest(rest.saturating_sub(bytes.len())),
        }
        Ok(())
    }

    /// The length of the message of which so much can be told with what comes next.
    fn begins(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Prefix(prefix) if prefix.len() + bytes.len() == PREFIX => {
                taken_length(&[prefix, bytes].concat()).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn message() -> Self {
        Self::Prefix(Vec::with_capacity(PREFIX))
    }

    fn rest(bytes: usize) -> Self {
        if bytes == 0 { Self::message() } else { Self::Rest(bytes) }
    }

    /// How much of what is there may be read now.
    fn take(&self, there: &[u8]) -> usize {
        match self {
            Self::Line(_) => there.iter().position(|&byte| byte == b'\n').map_or(there.len(), |end| end + 1),
            Self::Prefix(prefix) => there.len().min(PREFIX - prefix.len()),
            Self::Rest(rest) => there.len().min(*rest),
        }
    }
}

/// Whether the messages begin after this line. It is told as zbus tells it, by the first word, whatever blanks and
/// words are around it: else zbus would read messages where nobody looks at their length.
fn begins(line: &[u8]) -> bool {
    line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()) == Some(b"BEGIN")
}

/// The length of a message, header included: D-Bus specification, "Message Format".
fn message_length(prefix: &[u8]) -> Option<usize> {
    let number = |at: usize| {
        let bytes: [u8; 4] = prefix.get(at..at + 4)?.try_into().ok()?;
        let number =
            if prefix.first() == Some(&b'B') { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        usize::try_from(number).ok()
    };
    let fields = number(12)?.checked_next_multiple_of(8)?;
    PREFIX.checked_add(fields)?.checked_add(number(4)?)
}

/// The same, where it is not too long.
fn taken_length(prefix: &[u8]) -> io::Result<usize> {
    let length = message_length(prefix).filter(|&length| length <= MAX_MESSAGE);
    length.ok_or_else(|| invalid("a message is longer than what is taken here"))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// The half that is read.
#[derive(Debug)]
pub(super) struct Reader {
    stream: BufReader<OwnedReadHalf>,
    incoming: Arc<Incoming>,
    /// When a long message has to be there.
    deadline: Option<Instant>,
    credentials: Credentials,
    phase: Phase,
    accepted: Arc<AtomicBool>,
}

#[async_trait]
impl ReadHalf for Reader {
    /// Descriptors that a caller sends along are closed by the kernel: nobody asked for them.
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let there = match self.deadline {
            None => self.stream.fill_buf().await?,
            Some(deadline) => tokio::time::timeout_at(deadline, self.stream.fill_buf())
                .await
                .map_err(|_| invalid("a message did not come in time"))??,
        };
        let there = there.get(..buffer.len()).unwrap_or(there);
        let count = self.phase.take(there);
        let given = there.get(..count).unwrap_or_default();
        // Before zbus sees how long it is, and makes room for it.
        if let Some(length) = self.phase.begins(given)? {
            let patience = self.incoming.begin(length).await;
            self.deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        }
        if let Some(buffer) = buffer.get_mut(..count) {
            buffer.copy_from_slice(given);
        }
        let in_line = matches!(self.phase, Phase::Line(_));
        self.phase.advance(given)?;
        self.stream.consume(count);
        if !matches!(self.phase, Phase::Rest(_)) {
            self.deadline = None;
        }
        // zbus answers a BEGIN that comes too early with an error and goes on with the authentication, and would
        // then begin with the messages at another place than we do.
        if in_line && matches!(self.phase, Phase::Prefix(_)) && !self.accepted.load(Ordering::Relaxed) {
            return Err(invalid("BEGIN comes before the authentication"));
        }
        Ok((count, Vec::new()))
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        Ok(self.credentials.get())
    }
}

/// The half that is written.
#[derive(Debug)]
pub(super) struct Writer {
    outgoing: Arc<Outgoing>,
    credentials: Credentials,
    /// Whether the authentication was accepted, by the last that was said of it.
    accepted: Arc<AtomicBool>,
}

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        // No message begins like these.
        if buffer.starts_with(b"OK ") {
            self.accepted.store(true, Ordering::Relaxed);
        } else if buffer.starts_with(b"REJECTED") {
            self.accepted.store(false, Ordering::Relaxed);
        }
        let stream = self.outgoing.stream();
        let mut times = 0;
        loop {
            match stream.async_io(Interest::WRITABLE, || stream::send(stream, buffer, fds)).await {
                Ok(bytes) => {
                    self.outgoing.sent(bytes, !fds.is_empty());
                    return Ok(bytes);
                }
                // Of this user somebody else has descriptors in flight too: systemd's store, another broker.
                Err(error) if stream::is_too_many_in_flight(&error) && times < NO_ROOM_TIMES => {
                    self.outgoing.no_room();
                    times += 1;
                    tokio::time::sleep(NO_ROOM).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        self.outgoing.shut_down();
        Ok(())
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        Ok(self.credentials.get())
    }
}

#[cfg(test)]
mod tests {
    use super::super::outgoing::Unreads;
    use super::*;
    use crate::broker::Gate;
    use crate::limits::Who;
    use proptest::prelude::*;
    use tokio::net::UnixStream;

    /// Feeds a stream to a phase in pieces as zbus would ask for them.
    fn feed(stream: &[u8], sizes: &[usize]) -> io::Result<Vec<usize>> {
        let (mut phase, mut at, mut pieces) = (Phase::Line(Vec::new()), 0, Vec::new());
        for size in sizes.iter().cycle() {
            let Some(there) = stream.get(at..).filter(|rest| !rest.is_empty()) else { break };
            let there = &there[..there.len().min(*size)];
            let taken = phase.take(there);
            phase.advance(&there[..taken])?;
            at += taken;
            pieces.push(at);
        }
        Ok(pieces)
    }

    fn message(body: usize) -> Vec<u8> {
        let length = u32::try_from(body).unwrap().to_le_bytes();
        let mut message = [&b"l\x01\0\x01"[..], &length, &[1, 0, 0, 0], &[5, 0, 0, 0], &[7; 8]].concat();
        message.resize(24 + body, 0);
        message
    }

    const AUTH: &[u8] = b"\0AUTH EXTERNAL 30\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n";

    proptest! {
        #[test]
        fn every_message_is_seen_from_its_first_byte_however_it_is_cut(bodies in proptest::collection::vec(0usize..90, 0..5), sizes in proptest::collection::vec(1usize..70, 1..9)) {
            let mut stream = AUTH.to_vec();
            let mut ends = vec![stream.len()];
            for body in &bodies {
                stream.extend(message(*body));
                ends.push(stream.len());
            }
            let pieces = feed(&stream, &sizes).unwrap();
            for end in ends {
                prop_assert!(pieces.contains(&end), "nothing is read across the end of a message");
            }
            // After all that, too long a message is still told from its first 16 bytes.
            let mut long = message(MAX_MESSAGE)[..PREFIX].to_vec();
            stream.append(&mut long);
            prop_assert!(feed(&stream, &sizes).is_err());
        }

        #[test]
        fn garbage_is_no_panic(garbage in proptest::collection::vec(any::<u8>(), 0..200), sizes in proptest::collection::vec(1usize..70, 1..9), authenticated: bool) {
            let head = if authenticated { AUTH } else { b"" };
            let _ = feed(&[head, &garbage].concat(), &sizes);
        }
    }

    #[test]
    fn whatever_zbus_takes_for_the_last_line_is_the_last_line() {
        for end in ["BEGIN\r\n", "BEGIN \r\n", " BEGIN\r\n", "BEGIN now\r\n", "\tBEGIN\t\r\n"] {
            let long = message(MAX_MESSAGE);
            let stream = [b"\0AUTH EXTERNAL 30\r\n", end.as_bytes(), &long[..PREFIX]].concat();
            assert!(feed(&stream, &[100]).is_err(), "a message of any length after {end:?}");
        }
        // zbus looks at the byte before the end of the line, and there is none.
        assert!(feed(b"\n", &[100]).is_err());
        assert!(feed(b"\0AUTH\n", &[100]).is_err());
    }

    #[tokio::test]
    async fn messages_begin_only_after_the_authentication_was_accepted() {
        for (said, begins) in [(&[][..], false), (&["OK 1"], true), (&["OK 1", "REJECTED EXTERNAL"], false)] {
            let (here, there) = UnixStream::pair().unwrap();
            let (read, write) = here.into_split();
            let outgoing = Unreads::default().begin(write, 0, 1, Gate::default());
            let incoming = Arc::new(Incoming::new(Gate::default(), Who::User(0)));
            let (mut reader, mut writer) = Transport::new(read, incoming, outgoing, 0).split().take();
            for line in said {
                writer.sendmsg(format!("{line}\r\n").as_bytes(), &[]).await.unwrap();
            }
            there.try_write(b"BEGIN\r\n").unwrap();
            assert_eq!(reader.recvmsg(&mut [0; 1024]).await.is_ok(), begins, "after {said:?}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_collected_for_ever() {
        assert!(feed(&[b'x'; MAX_LINE + 10], &[100]).is_err());
    }
}
