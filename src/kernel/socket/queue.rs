//! What waits in a socket, and what it had no room for.
//!
//! TCP and UDP sockets tell it by themselves (`TCP_INFO`, `SO_MEMINFO`: the values that sock_diag(7) has for them),
//! unix sockets only by sock_diag.

use super::ListenerSocket;
use crate::kernel::sockopt::{accept_queue, memory};
use crate::kernel::unix_diag;
use crate::model::{Endpoint, SocketKind};
use std::io;

/// The queue of a socket: connections that nobody accepted, or bytes of datagrams that nobody read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// How much waits.
    pub waiting: u32,
    /// How much it has room for, a stream socket for one connection more; `None` where the kernel does not tell.
    pub limit: Option<u32>,
    /// How many connections or datagrams found no room, or were thrown away by a filter, since the socket was made;
    /// `None` where the kernel does not count.
    pub overflows: Option<u32>,
}

impl ListenerSocket {
    /// What waits in it now.
    pub fn queue(&self) -> io::Result<Queue> {
        match &self.endpoint {
            Endpoint::Inet(inet) if inet.kind == SocketKind::Stream => {
                // Of a socket that does not listen the fields mean something else.
                let (waiting, limit) =
                    if self.socket.is_listener()? { accept_queue(&self.socket)? } else { (0, 0) };
                Ok(Queue { waiting, limit: Some(limit), overflows: Some(memory(&self.socket)?.drops) })
            }
            Endpoint::Inet(_) => {
                let memory = memory(&self.socket)?;
                Ok(Queue {
                    waiting: memory.received,
                    limit: Some(memory.limit),
                    overflows: Some(memory.drops),
                })
            }
            Endpoint::Unix(unix) => {
                let (waiting, limit) = unix_diag::queue(self.inode()?)?;
                let limit = unix.kind.takes_connections().then_some(limit);
                Ok(Queue { waiting, limit, overflows: None })
            }
        }
    }
}
