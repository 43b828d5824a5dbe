//! Hang-ups of sockets, and holders that go.

use crate::netns::{Holder, in_netns, spawn};
use crate::support::{SERVICE, bind, tcp, udp, unix};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portbroker::kernel::hangups::HangupWatch;
use portbroker::kernel::holder::{HolderClaim, HolderWatch, Presence};
use portbroker::kernel::peer::Peer;
use portbroker::kernel::socket::{Mended, SocketState};
use portbroker::model::{SocketKind, UnitName};
use std::fs;
use std::future::Future;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(100);

/// Runs a task on a runtime of one thread, the calling one, and so in its network namespace.
fn run<F: Future>(task: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(task)
}

async fn soon(task: impl Future<Output = u64>) -> u64 {
    tokio::time::timeout(SOON, task).await.expect("an event")
}

async fn is_quiet(task: impl Future<Output = u64>) -> bool {
    tokio::time::timeout(QUIET, task).await.is_err()
}

#[test]
fn a_holder_that_un_listens_is_noticed_and_connections_wake_nobody() {
    in_netns(|| {
        run(async {
            let watch = HangupWatch::new().unwrap();
            let mut sockets = [bind(&tcp("127.0.0.1:80", false)), bind(&tcp("127.0.0.1:81", false))];
            for (number, socket) in (0..).zip(&mut sockets) {
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
            for (number, (endpoint, program)) in (0..).zip(kinds) {
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
fn a_socket_that_was_replaced_is_watched_anew_and_the_old_one_is_told_once_at_most() {
    in_netns(|| {
        run(async {
            let watch = HangupWatch::new().unwrap();
            let mut socket = bind(&tcp("127.0.0.1:80", false));
            socket.listen().unwrap();
            watch.add(7, socket.as_fd()).unwrap();
            let _keeps = Holder::new(&socket, SERVICE, "s.setsockopt(S, 44, 1)");
            assert!(matches!(socket.mend(SocketState::Listening).unwrap(), Mended::Replaced(_)));
            watch.add(7, socket.as_fd()).unwrap();
            // The old one hung up when it was replaced; its successor has nothing to tell.
            assert_eq!(soon(watch.next()).await, 7);
            assert_eq!(socket.inspect(), []);
            assert!(is_quiet(watch.next()).await);
            drop(Holder::new(&socket, SERVICE, "unspec()"));
            assert_eq!(soon(watch.next()).await, 7);
        });
    });
}

#[test]
fn a_process_that_ends_is_told() {
    run(async {
        let mut watch = HolderWatch::new().unwrap();
        let mut children: Vec<_> = (0..3).map(|_| spawn(Command::new("cat").stdin(Stdio::piped()))).collect();
        for (id, child) in (0..).zip(&children) {
            let peer = Peer::of_process(child.id().cast_signed(), 0, Vec::new());
            let claim = HolderClaim::process_of(&peer).unwrap();
            assert_eq!(watch.add(id, claim).unwrap(), Presence::There);
        }
        assert!(is_quiet(watch.next()).await);
        let pid = Pid::from_raw(children[1].id().cast_signed());
        kill(pid, Signal::SIGKILL).unwrap();
        assert_eq!(soon(watch.next()).await, 1);
        watch.remove(1);
        watch.remove(0);
        drop(children[0].stdin.take());
        assert!(is_quiet(watch.next()).await);
        drop(children[2].stdin.take());
        assert_eq!(soon(watch.next()).await, 2);
        for mut child in children {
            child.wait().unwrap();
        }
    });
}

/// A slice in whichever cgroup hierarchy there is; removed with everything below.
struct Slice {
    directory: PathBuf,
    path: String,
}

impl Slice {
    fn new(name: &str) -> Self {
        let path = format!("/portbroker-{name}-{}.slice", std::process::id());
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup"];
        let writable = |mount: &&&str| {
            Path::new(mount).join("cgroup.procs").exists() && fs::create_dir(format!("{mount}{path}")).is_ok()
        };
        let mount = mounts.iter().find(writable).expect("needs a cgroup hierarchy, and root");
        Self { directory: PathBuf::from(format!("{mount}{path}")), path }
    }

    fn unit(&self, name: &str) -> (HolderClaim, PathBuf) {
        let directory = self.directory.join(name);
        fs::create_dir(&directory).unwrap();
        let unit = UnitName::try_from(name).unwrap();
        (HolderClaim::Unit { unit, cgroup: format!("{}/{name}", self.path), life: None }, directory)
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        for unit in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(unit.path());
        }
        let _ = fs::remove_dir(&self.directory);
    }
}

#[test]
fn a_unit_is_gone_when_its_cgroup_is_removed_and_not_while_it_is_empty() {
    let slice = Slice::new("unit");
    run(async {
        let mut watch = HolderWatch::new().unwrap();
        let (a, directory) = slice.unit("a.service");
        let (b, other_directory) = slice.unit("b.service");
        assert_eq!(watch.add(1, a).unwrap(), Presence::There);
        assert_eq!(watch.add(2, b.clone()).unwrap(), Presence::There);
        // ExecStartPre= ends, ExecStart= begins: a process comes and goes, the directory stays.
        let mut child = spawn(Command::new("cat").stdin(Stdio::piped()));
        fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(is_quiet(watch.next()).await);
        fs::remove_dir(&directory).unwrap();
        assert_eq!(soon(watch.next()).await, 1);
        watch.remove(1);
        assert!(is_quiet(watch.next()).await, "b is there");
        fs::remove_dir(&other_directory).unwrap();
        assert_eq!(soon(watch.next()).await, 2);
        watch.remove(2);
        assert_eq!(watch.add(3, b).unwrap(), Presence::Gone);
    });
}

#[test]
fn a_unit_that_was_restarted_is_another_holder() {
    let slice = Slice::new("restart");
    run(async {
        let mut watch = HolderWatch::new().unwrap();
        let (claim, directory) = slice.unit("a.service");
        watch.add(1, claim.clone()).unwrap();
        fs::remove_dir(&directory).unwrap();
        fs::create_dir(&directory).unwrap();
        watch.add(2, claim).unwrap();
        assert_eq!(soon(watch.next()).await, 1);
        watch.remove(1);
        assert!(is_quiet(watch.next()).await);
        fs::remove_dir(&directory).unwrap();
        assert_eq!(soon(watch.next()).await, 2);
    });
}
