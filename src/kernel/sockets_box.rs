//! Sockets in flight: a socketpair that nobody reads, whose queue carries any number of sockets.
//!
//! Whoever has a copy of its two ends keeps all of them alive, and so systemd's descriptor store, whose work grows
//! with the square of what is in it, takes ten thousand sockets as two descriptors.
//!
//! - A message is a byte, the version of this, and as many sockets as a message takes. It is queued whole or not.
//! - Messages are looked at and never taken (`MSG_PEEK` behind `SO_PEEK_OFF`), so that there is no moment at which a
//!   kill loses a socket. What is put in stays in; what is to go takes a new box without it.
//! - No more is taken copies of than leaves the process descriptors to work with. The others stay in.
//!
//! It must not know which sockets these are, nor what the store has.

use super::descriptors::{Purpose, leaves_room};
use super::received::{MOST_IN_A_MESSAGE, receive};
use super::sockopt::set_int;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, recv, sendmsg, socketpair,
};
use nix::sys::stat::fstat;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The first byte of a message.
const VERSION: u8 = 1;
/// What may be queued, in bytes as the kernel counts them: about 768 a message, whatever is in it. Ten thousand
/// sockets are 40 messages, or ten thousand where each came by itself.
const QUEUE: i32 = 16 << 20;

/// The two ends.
#[derive(Debug)]
pub(super) struct SocketsBox {
    /// Messages go in here.
    inlet: OwnedFd,
    /// And wait here.
    queue: OwnedFd,
    inode: u64,
    messages: usize,
    whole: bool,
}

/// What a look at a box has found.
#[derive(Debug)]
pub(super) struct Look {
    /// Copies of its sockets, which stay in it.
    pub(super) sockets: Vec<OwnedFd>,
    /// Why these are not all, if so.
    pub(super) unseen: Option<Unseen>,
}

/// Why not all sockets of a box could be looked at.
#[derive(Debug)]
pub(super) enum Unseen {
    /// This process may have no more open: so many are left, where the kernel tells it.
    NoRoom(Option<u64>),
    /// What the kernel said, or what is wrong with a message.
    Failed(io::Error),
}

impl SocketsBox {
    /// An empty one.
    pub(super) fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Messages keep their borders, and each is looked at by one call.
        let (inlet, queue) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        // Without the right to more, the system's own limit is what there is.
        let _ = set_int(&inlet, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, QUEUE)
            .or_else(|_| set_int(&inlet, libc::SOL_SOCKET, libc::SO_SNDBUF, QUEUE));
        let inode = inode_of(&queue)?;
        Ok(Self { inlet, queue, inode, messages: 0, whole: true })
    }

    /// The box again of which these are the ends, in whatever order; `None` where they are not.
    pub(super) fn from_ends(inode: u64, ends: [OwnedFd; 2]) -> Option<Self> {
        let [a, b] = ends;
        let (inlet, queue) = match (inode_of(&a).ok()? == inode, inode_of(&b).ok()? == inode) {
            (false, true) => (a, b),
            (true, false) => (b, a),
            _ => return None,
        };
        Some(Self { inlet, queue, inode, messages: 0, whole: false })
    }

    /// The number by which it is known: the inode of the end where the messages wait.
    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    /// What has to be kept so that all that is in it is kept.
    pub(super) fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.inlet.as_fd(), self.queue.as_fd()]
    }

    /// How many messages are in it: looking at them takes a time that grows with the square of it.
    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    /// Whether all that is in it could be looked at. A box that is not whole must not be given up.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Puts sockets in, and returns how many are in it. Fewer than there are: the queue is full, or so many of this
    /// user's descriptors are in flight as one of its processes may have open (`RLIMIT_NOFILE`).
    pub(super) fn append(&mut self, sockets: &[BorrowedFd<'_>]) -> (usize, Option<io::Error>) {
        let mut done = 0;
        for part in sockets.chunks(MOST_IN_A_MESSAGE) {
            let raw: Vec<RawFd> = part.iter().map(AsRawFd::as_raw_fd).collect();
            let rights = [ControlMessage::ScmRights(&raw)];
            let byte = [VERSION];
            let sent = sendmsg::<UnixAddr>(
                self.inlet.as_raw_fd(),
                &[IoSlice::new(&byte)],
                &rights,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
                None,
            );
            if let Err(error) = sent {
                return (done, Some(error.into()));
            }
            done += part.len();
            self.messages += 1;
        }
        (done, None)
    }

    /// Copies of the sockets that are in it, which stay there, as many as leave descriptors to work with. Where these
    /// are not all, the box is not whole from then on.
    pub(super) fn look(&mut self) -> Look {
        let mut sockets = Vec::new();
        self.messages = 0;
        // The offset belongs to the socket, and an earlier process may have left any.
        let result = set_int(&self.queue, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0)
            .map_err(Unseen::Failed)
            .and_then(|()| self.look_from_offset(&mut sockets));
        self.whole = result.is_ok();
        let unseen = result.err().map(|unseen| match unseen {
            Unseen::NoRoom(_) => {
                Unseen::NoRoom(self.in_flight().map(|all| all.saturating_sub(count(&sockets))))
            }
            failed @ Unseen::Failed(_) => failed,
        });
        Look { sockets, unseen }
    }

    fn look_from_offset(&mut self, found: &mut Vec<OwnedFd>) -> Result<(), Unseen> {
        let mut byte = [0];
        loop {
            let message = match receive(&self.queue, &mut byte, MsgFlags::MSG_PEEK) {
                Ok(message) => message,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Unseen::Failed(error)),
            };
            if message.length == 0 {
                // The other end is closed, and nothing more can come.
                return Ok(());
            }
            if byte != [VERSION] {
                let text = format!("it has a message of version {}", byte[0]);
                return Err(Unseen::Failed(io::Error::other(text)));
            }
            let (before, all) = (found.len(), message.descriptors.len());
            let has_room = |socket: &OwnedFd| leaves_room(socket, Purpose::Takeover);
            found.extend(message.descriptors.into_iter().filter(has_room));
            if message.lacks_descriptors || found.len() - before < all {
                return Err(Unseen::NoRoom(None));
            }
            self.messages += 1;
        }
    }

    /// How many sockets are in it (proc_pid_fdinfo(5), `scm_fds`, from Linux 5.7 on).
    fn in_flight(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.queue.as_raw_fd())).ok()?;
        text.lines().find_map(|line| line.strip_prefix("scm_fds:"))?.trim().parse().ok()
    }

    /// Takes everything out, so that what nobody else has is closed now, whoever still has the ends.
    pub(super) fn clear(self) {
        // Without room for sockets the kernel closes those of a message.
        while matches!(recv(self.queue.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT), Ok(1..)) {}
    }
}

fn count(sockets: &[OwnedFd]) -> u64 {
    u64::try_from(sockets.len()).unwrap_or(u64::MAX)
}

pub(super) fn inode_of(socket: impl AsFd) -> io::Result<u64> {
    Ok(fstat(socket)?.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::os::unix::net::UnixDatagram;

    fn sockets(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| UnixDatagram::unbound().unwrap().into()).collect()
    }

    fn inodes(sockets: &[OwnedFd]) -> BTreeSet<u64> {
        sockets.iter().map(|socket| inode_of(socket).unwrap()).collect()
    }

    fn borrowed(sockets: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
        sockets.iter().map(AsFd::as_fd).collect()
    }

    /// What another process gets that has the ends and nothing else.
    fn inherited(of: &SocketsBox) -> SocketsBox {
        let [a, b] = of.ends();
        let ends = [b.try_clone_to_owned().unwrap(), a.try_clone_to_owned().unwrap()];
        SocketsBox::from_ends(of.inode(), ends).unwrap()
    }

    #[test]
    fn what_is_put_in_is_there_however_often_it_is_looked_at() {
        let mut first = SocketsBox::new().unwrap();
        let many = sockets(600);
        let wanted = inodes(&many);
        assert!(matches!(first.append(&borrowed(&many)), (600, None)));
        assert_eq!(first.messages(), 3);
        drop(many);
        let mut second = inherited(&first);
        drop(first);
        for _ in 0..3 {
            let Look { sockets, unseen } = second.look();
            assert!(unseen.is_none() && second.is_whole());
            assert_eq!((sockets.len(), inodes(&sockets)), (600, wanted.clone()));
        }
        let more = sockets(1);
        assert!(matches!(second.append(&borrowed(&more)), (1, None)));
        let mut third = inherited(&second);
        drop(second);
        assert_eq!(third.look().sockets.len(), 601);
        assert_eq!(third.in_flight(), Some(601));
        assert_eq!(third.messages(), 4);
    }

    #[test]
    fn single_sockets_go_in_by_the_hundred() {
        let mut many = SocketsBox::new().unwrap();
        let sockets = sockets(1);
        for n in 0..500 {
            assert!(matches!(many.append(&borrowed(&sockets)), (1, None)), "the {n}th");
        }
        assert_eq!(many.look().sockets.len(), 500);
    }

    #[test]
    fn a_full_queue_takes_no_part_of_a_message_and_says_so() {
        let mut full = SocketsBox::new().unwrap();
        set_int(&full.inlet, libc::SOL_SOCKET, libc::SO_SNDBUF, 0).unwrap();
        let sockets = sockets(2000);
        let (done, error) = full.append(&borrowed(&sockets));
        assert!(done < 2000 && error.is_some(), "{done}");
        assert_eq!(full.look().sockets.len(), done);
    }

    #[test]
    fn what_is_cleared_is_closed_while_others_have_the_ends() {
        let mut first = SocketsBox::new().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        assert!(matches!(first.append(&[writer.as_fd()]), (1, None)));
        drop(writer);
        let mut second = inherited(&first);
        first.clear();
        assert_eq!(nix::unistd::read(&reader, &mut [0]).unwrap(), 0);
        let Look { sockets, unseen } = second.look();
        assert!(sockets.is_empty() && unseen.is_none());
    }

    #[test]
    fn other_descriptors_are_no_box() {
        let ends = <[OwnedFd; 2]>::try_from(sockets(2)).unwrap();
        assert!(SocketsBox::from_ends(1, ends).is_none());
    }
}
