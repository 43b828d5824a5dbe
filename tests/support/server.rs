//! A server that accepts, keeps what it accepted, and closes what it is told to.

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Connections by their peer; accepted until the test's process ends.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    accepted: Arc<Mutex<HashMap<SocketAddr, TcpStream>>>,
}

impl Server {
    #[expect(clippy::disallowed_methods, reason = "any server of the world")]
    pub(crate) fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let accepted = Arc::new(Mutex::new(HashMap::new()));
        let kept = Arc::clone(&accepted);
        std::thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                kept.lock().unwrap().insert(peer, stream);
            }
        });
        Self { address, accepted }
    }

    /// One that closes at once what it accepts.
    #[expect(clippy::disallowed_methods, reason = "any server of the world")]
    pub(crate) fn closing(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        std::thread::spawn(move || {
            // Also where there is no descriptor for one of them just then.
            listener.incoming().for_each(drop);
        });
        Self { address, accepted: Arc::default() }
    }

    /// The peers, once there are so many.
    pub(crate) fn peers(&self, count: usize) -> Vec<SocketAddr> {
        self.wait(|accepted| (accepted.len() >= count).then(|| accepted.keys().copied().collect()))
    }

    /// The connection of a peer, which is the test's from now on.
    pub(crate) fn take(&self, peer: SocketAddr) -> TcpStream {
        self.wait(|accepted| accepted.remove(&peer))
    }

    /// Closes the connection of a peer.
    pub(crate) fn close(&self, peer: SocketAddr) {
        close(&self.take(peer));
    }

    fn wait<T>(&self, find: impl Fn(&mut HashMap<SocketAddr, TcpStream>) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let found = find(&mut self.accepted.lock().unwrap());
            if let Some(found) = found {
                return found;
            }
            assert!(Instant::now() < deadline, "a connection did not come");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Closes a connection for sure: where another thread makes a process just then, that has a copy of the descriptor for
/// a moment.
fn close(stream: &TcpStream) {
    // A peer that is gone already has closed it.
    let _ = stream.shutdown(Shutdown::Both);
}
