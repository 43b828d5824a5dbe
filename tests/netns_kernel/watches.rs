//! Hang-ups of sockets.

use crate::netns::{Holder, in_netns};
use crate::support::{SERVICE, bind, tcp, udp, unix};
use portbroker::kernel::hangups::HangupWatch;
use portbroker::kernel::socket::{Mended, SocketState};
use portbroker::model::SocketKind;
use std::future::Future;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(100);

/// Runs a task on a runtime of one thread, the calling one, and so in its network namespace.
fn run<F: Future>(task: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(task)
}

async fn soon<T>(task: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, task).await.expect("an event")
}

async fn is_quiet<T>(task: impl Future<Output = T>) -> bool {
    tokio::time::timeout(QUIET, task).await.is_err()
}

#[test]
fn a_holder_that_un_listens_is_noticed_and_connections_wake_nobody() {
    in_netns(|| {
        run(async {
            let watch = HangupWatch::new().unwrap();
            let mut sockets = [bind(&tcp("127.0.0.1:80", false)), bind(&tcp("127.0.0.1:81", false))];
            for (number, socket) in (0u64..).zip(&mut sockets) {
                socket.listen().unwrap();
                watch.add(number, socket.as_fd()).unwrap();
            }
            let _clients: Vec<_> = (0..100).map(|_| TcpStream::connect("127.0.0.1:81").unwrap()).collect();
            assert!(is_quiet(watch.next()).await);
            drop(Holder::new(&sockets[1], SERVICE, "unspec()"));
            assert_eq!(soon(watch.next()).await, 1);
            assert!(is_quiet(watch.next()).await, "told once");
            assert!(matches!(sockets[1].mend(SocketState::Listening).unwrap(), Mended::InPlace(_)));
            drop(Holder::new(&sockets[1], SERVICE, "s.shutdown(socket.SHUT_RD)"));
            assert_eq!(soon(watch.next()).await, 1, "watched on");
            watch.remove(sockets[0].as_fd()).unwrap();
            sockets[0].refuse().unwrap();
            assert!(is_quiet(watch.next()).await);
        });
    });
}

#[test]
fn unix_and_udp_sockets_that_are_shut_down_are_noticed() {
    in_netns(|| {
        run(async {
            let watch = HangupWatch::new().unwrap();
            let kinds = [
                (unix(SocketKind::Stream, "@portbroker-a"), "s.shutdown(socket.SHUT_RD)"),
                (unix(SocketKind::Datagram, "@portbroker-b"), "s.shutdown(socket.SHUT_RD)"),
                (udp("127.0.0.1:53", false), "s.connect(('127.0.0.1', 9)); s.shutdown(socket.SHUT_RD)"),
            ];
            for (number, (endpoint, program)) in (0u64..).zip(kinds) {
                let mut socket = bind(&endpoint);
                socket.listen().unwrap();
                watch.add(number, socket.as_fd()).unwrap();
                assert!(is_quiet(watch.next()).await, "{endpoint}");
                drop(Holder::new(&socket, SERVICE, program));
                assert_eq!(soon(watch.next()).await, number, "{endpoint}");
            }
        });
    });
}

#[test]
fn a_replaced_socket_that_somebody_keeps_is_not_taken_for_its_successor() {
    in_netns(|| {
        run(async {
            let watch = HangupWatch::new().unwrap();
            let mut socket = bind(&tcp("127.0.0.1:80", false));
            socket.listen().unwrap();
            watch.add(7, socket.as_fd()).unwrap();
            let _keeps = Holder::new(&socket, SERVICE, "s.setsockopt(S, 44, 1)");
            assert!(matches!(socket.mend(SocketState::Listening).unwrap(), Mended::Replaced(_)));
            watch.add(7, socket.as_fd()).unwrap();
            assert!(is_quiet(watch.next()).await, "the old one hung up when it was replaced");
            drop(Holder::new(&socket, SERVICE, "unspec()"));
            assert_eq!(soon(watch.next()).await, 7);
        });
    });
}
