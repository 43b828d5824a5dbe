//! Asks the kernel what waits in one unix socket, by `NETLINK_SOCK_DIAG` (sock_diag(7)): by its inode, so that the
//! answer is one message, however many sockets there are.
//!
//! It is asked on the network namespace of the calling thread.

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::unix::nlas::Nla;
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use std::io;

/// Room for one answer, which has no path in it.
const BUFFER: usize = 4096;

/// Of a socket that listens: how many connections wait, and the backlog. Of others: the length of the first message
/// that waits, and what it has sent.
pub(crate) fn queue(inode: u64) -> io::Result<(u32, u32)> {
    let inode = u32::try_from(inode).map_err(|_| io::Error::other("an inode that sock_diag cannot name"))?;
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    socket.send(&request(inode), 0)?;
    let mut buffer = vec![0; BUFFER];
    let length = socket.recv(&mut &mut *buffer, 0)?;
    let message = <NetlinkMessage<SockDiagMessage>>::deserialize(buffer.get(..length).unwrap_or_default())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match message.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(response)) => {
            let lengths = response.nlas.iter().find_map(|nla| match nla {
                Nla::ReceiveQueueLength(waiting, limit) => Some((*waiting, *limit)),
                _ => None,
            });
            lengths.ok_or_else(|| io::Error::other("the kernel does not tell the length of the queue"))
        }
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::other("the kernel does not answer what it was asked")),
    }
}

fn request(inode: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let unix = UnixRequest {
        state_flags: StateFlags::all(),
        inode,
        show_flags: ShowFlags::RQLEN,
        // Whichever socket has the inode.
        cookie: [0xff; 8],
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::UnixRequest(unix).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
