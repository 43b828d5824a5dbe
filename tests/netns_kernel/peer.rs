//! Who is at the other end: groups, unit, and which uid 0 is root.

use crate::netns::{NOBODY, spawn};
use portbroker::kernel::holder::HolderClaim;
use portbroker::kernel::peer::Peer;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// As the broker decides it.
fn is_root(peer: &Peer) -> bool {
    peer.uid == 0 && peer.in_initial_namespaces()
}

/// A client that connects to `path` after it has become whatever `command` makes it.
fn client(path: &Path, wrapper: &[&str], program: &str) -> Child {
    let connect = "import os, socket, sys, time\n";
    let rest = "\nc = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1]); sys.stdin.read()";
    let mut words: Vec<&str> = wrapper.to_vec();
    let python = format!("{connect}{program}{rest}");
    let path = path.to_str().unwrap();
    words.extend(["python3", "-c", &python, path]);
    spawn(Command::new(words[0]).args(&words[1..]).stdin(Stdio::piped()))
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// What the broker sees of such a client.
fn peer_of(wrapper: &[&str], program: &str) -> (Peer, Child) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    let child = client(&path, wrapper, program);
    let (stream, _) = listener.accept().unwrap();
    (Peer::of_stream(&stream).unwrap(), child)
}

#[test]
fn root_of_the_host_is_root_and_other_users_are_not() {
    let (peer, child) = peer_of(&[], "");
    assert_eq!((peer.uid, peer.pid), (0, child.id().cast_signed()));
    assert!(is_root(&peer));
    assert!(HolderClaim::process_of(&peer).unwrap().to_string().starts_with("python3["));
    end(child);
    let (peer, child) = peer_of(&[], &format!("os.setgroups([]); os.setuid({NOBODY})"));
    assert_eq!(peer.uid, NOBODY);
    assert!(!is_root(&peer));
    assert!(peer.in_initial_namespaces());
    end(child);
}

#[test]
fn all_groups_of_a_caller_are_told_however_many() {
    for count in [0, 3, 63, 64, 65, 1000] {
        let program = format!("os.setgroups(range(5000, 5000 + {count})); os.setgid(77)");
        let (peer, child) = peer_of(&[], &program);
        assert_eq!(peer.groups, (5000..5000 + count).chain([77]).collect::<Vec<u32>>());
        end(child);
    }
}

#[test]
fn uid_0_in_a_container_is_not_root() {
    // Each namespace by itself is enough; a process of a container has all of them.
    let namespaces: [&[&str]; 4] = [
        &["unshare", "--mount"],
        &["unshare", "--pid", "--fork", "--kill-child"],
        &["unshare", "--user", "--map-root-user"],
        &["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"],
    ];
    for wrapper in namespaces {
        let (peer, child) = peer_of(wrapper, "");
        assert_eq!(peer.uid, 0, "{wrapper:?}");
        assert!(peer.pidfd.is_some());
        assert!(!is_root(&peer), "{wrapper:?}");
        end(child);
    }
}

#[test]
fn a_root_that_changed_its_root_directory_is_not_root() {
    let directory = tempfile::tempdir().unwrap();
    let program = format!(
        "c = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1]); os.chroot({:?}); sys.stdin.read(); sys.exit()",
        directory.path()
    );
    let (peer, child) = peer_of(&[], &program);
    // It connects first and changes its root then.
    let root = format!("/proc/{}/root", peer.pid);
    while std::fs::read_link(&root).unwrap() == Path::new("/") {
        std::thread::yield_now();
    }
    assert!(!is_root(&peer));
    end(child);
}

#[test]
fn nothing_is_known_of_a_caller_that_went_while_its_call_was_under_way() {
    let (peer, child) = peer_of(&[], "");
    assert!(peer.cgroup().is_some());
    end(child);
    assert_eq!((peer.cgroup(), peer.unit()), (None, None));
    assert!(HolderClaim::process_of(&peer).is_none() && HolderClaim::unit_of(&peer).is_none());
    assert!(!is_root(&peer));
}

/// Set where this program runs again in a pid namespace of its own, in which pids can be chosen.
const INSIDE: &str = "PORTBROKER_TEST_IN_PID_NAMESPACE";

#[test]
fn a_pid_that_was_given_to_another_process_is_not_taken_for_the_caller() {
    if std::env::var_os(INSIDE).is_some() {
        return reuse_a_pid();
    }
    let name = "peer::a_pid_that_was_given_to_another_process_is_not_taken_for_the_caller";
    let mut inside = spawn(
        Command::new("unshare")
            .args(["--pid", "--mount-proc", "--fork", "--kill-child"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1"),
    );
    assert!(inside.wait().unwrap().success());
}

/// A process of another user that has this very pid; threads of this program may take it first.
fn process_with_pid(wanted: u32) -> Child {
    for _ in 0..1000 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (wanted - 1).to_string()).unwrap();
        let child = spawn(Command::new("cat").uid(NOBODY).stdin(Stdio::piped()).stdout(Stdio::null()));
        if child.id() == wanted {
            return child;
        }
        end(child);
    }
    panic!("pid {wanted} cannot be had");
}

fn reuse_a_pid() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    let caller = client(&path, &[], "");
    let pid = caller.id();
    let (stream, _) = listener.accept().unwrap();
    let early = Peer::of_stream(&stream).unwrap();
    assert!(is_root(&early));
    end(caller);
    let other = process_with_pid(pid);
    // /proc answers for that pid, and not for the caller.
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "cat\n");
    assert_eq!(early.cgroup(), None);
    assert!(HolderClaim::process_of(&early).is_none());
    assert!(!is_root(&early));
    // The same where the call is looked at only now.
    let late = Peer::of_stream(&stream).unwrap();
    assert!(late.cgroup().is_none());
    assert!(!is_root(&late));
    // And where the kernel has no descriptor for a peer, and the user is all that tells them apart.
    assert!(Peer::of_process(pid.cast_signed(), 0, vec![]).pidfd.is_none());
    end(other);
}

#[test]
fn a_caller_that_a_bus_told_is_known_by_its_pid_and_user() {
    let (peer, child) = peer_of(&[], &format!("os.setgroups([]); os.setuid({NOBODY})"));
    let pid = peer.pid;
    let told = Peer::of_process(pid, NOBODY, vec![7]);
    assert!(told.pidfd.is_some());
    assert_eq!((told.pid, &told.groups[..]), (pid, &[7][..]));
    assert!(Peer::of_process(pid, 0, vec![]).pidfd.is_none(), "the pid is another user's");
    end(child);
    assert!(Peer::of_process(pid, NOBODY, vec![]).pidfd.is_none());
}

#[test]
fn the_network_of_a_caller_is_that_of_its_socket_or_of_its_process() {
    let (peer, child) = peer_of(&[], "");
    assert!(peer.is_in_our_network());
    assert!(Peer::of_process(peer.pid, 0, Vec::new()).is_in_our_network());
    end(child);
    let (peer, child) = peer_of(&["unshare", "-n"], "");
    assert!(!peer.is_in_our_network());
    assert!(!Peer::of_process(peer.pid, 0, Vec::new()).is_in_our_network());
    let pid = peer.pid;
    end(child);
    assert!(!Peer::of_process(pid, 0, Vec::new()).is_in_our_network(), "who is gone is nowhere");
}
