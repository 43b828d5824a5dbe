//! The destination of connections that come and go: accepts all, and closes each when its client did.

use crate::crew::raise_limit;
use crate::ground;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

/// The role of the process.
pub(crate) const SERVER: &str = "server";

/// A process that serves; several can serve one destination, and have the connections evenly.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    stream: UnixStream,
}

impl Server {
    /// In the namespace of this thread; it listens when this returns.
    pub(crate) fn start(at: SocketAddr) -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let mut command = crate::in_role(SERVER);
        command.env("AT", at.to_string()).stdout(Stdio::null());
        let child = crate::netns::spawn(command.stdin(Stdio::from(OwnedFd::from(theirs))));
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert_eq!(line, "listening\n");
        Self { child, stream }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// What an event is about, beside the descriptors of clients.
const LISTENER: u64 = u64::MAX;
const ORDERS: u64 = u64::MAX - 1;

/// The whole life of a [`SERVER`]: until its standard input closes.
pub(crate) fn serve() {
    raise_limit();
    let at: SocketAddr = std::env::var("AT").unwrap().parse().unwrap();
    let listener = TcpListener::from(ground::listen(at));
    listener.set_nonblocking(true).unwrap();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER)).unwrap();
    let orders = std::io::stdin();
    epoll.add(&orders, EpollEvent::new(EpollFlags::EPOLLIN, ORDERS)).unwrap();
    nix::unistd::write(&orders, b"listening\n").unwrap();
    let mut clients = HashMap::new();
    let mut events = vec![EpollEvent::empty(); 512];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(Errno::EINTR) => continue,
            Err(error) => panic!("epoll: {error}"),
        };
        // Those that went make room for those that come.
        for event in &events[..count] {
            match event.data() {
                ORDERS => return,
                LISTENER => {}
                // Whatever it is, a client sends nothing: it is its end.
                client => drop(clients.remove(&client)),
            }
        }
        if events[..count].iter().any(|event| event.data() == LISTENER) {
            accept(&listener, &epoll, &mut clients);
        }
    }
}

fn accept(listener: &TcpListener, epoll: &Epoll, clients: &mut HashMap<u64, TcpStream>) {
    // Not all at once: those who went before shall not wait for long.
    for _ in 0..64 {
        match listener.accept() {
            Ok((client, _)) => {
                let name = u64::try_from(client.as_raw_fd()).unwrap();
                epoll.add(&client, EpollEvent::new(EpollFlags::EPOLLIN, name)).unwrap();
                clients.insert(name, client);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // It was reset meanwhile.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => panic!("accept: {error}"),
        }
    }
}
