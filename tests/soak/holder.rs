//! A process that takes listeners, serves what waits there, and dies in the middle of it.

use crate::lessee::Random;
use portbroker_client::{Broker, Holder};
use socket2::Socket;
use std::path::Path;
use std::time::Duration;

pub(crate) const HOLDER: &str = "holder";

/// How many listeners there are of which each holder takes some.
pub(crate) const LISTENERS: u16 = 10;

pub(crate) fn name(n: u16) -> String {
    format!("api{n}")
}

/// Takes listeners, some times, and then is killed as it stands.
pub(crate) fn hold() {
    let socket = std::env::var(crate::lessee::SOCKET).unwrap();
    let mut random = Random(std::env::var(crate::lessee::SEED).unwrap().parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let broker = Broker::new().socket_path(Path::new(&socket)).timeout(Duration::from_secs(5));
    for _ in 0..random.next(20) {
        let first = u16::try_from(random.next(u64::from(LISTENERS) - 1)).unwrap();
        let names = [name(first), name(first + 1)];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // It may be killed just then.
        let Ok(taken) = runtime.block_on(broker.acquire(&names, Holder::Process)) else { continue };
        for (_, fd) in taken {
            let socket = Socket::from(fd);
            // As many services do, and none gives it back.
            socket.set_nonblocking(true).unwrap();
            while socket.accept().is_ok() {}
        }
        std::thread::sleep(Duration::from_millis(random.next(40)));
    }
    let own = nix::unistd::getpid();
    nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGKILL).unwrap();
}
