//! Who is at the other end: groups, unit, and which uid 0 is root.

use crate::netns::NOBODY;
use portbroker::kernel::peer::Peer;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A client that connects to `path` after it has become whatever `command` makes it.
fn client(path: &Path, wrapper: &[&str], program: &str) -> Child {
    let connect = "import os, socket, sys, time\n";
    let rest = "\nc = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1]); sys.stdin.read()";
    let mut words: Vec<&str> = wrapper.to_vec();
    let python = format!("{connect}{program}{rest}");
    let path = path.to_str().unwrap();
    words.extend(["python3", "-c", &python, path]);
    Command::new(words[0]).args(&words[1..]).stdin(Stdio::piped()).spawn().expect("needs python3 and unshare")
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

/// What the daemon takes for root.
fn is_root(peer: &Peer) -> bool {
    peer.uid == 0 && peer.in_initial_namespaces()
}

#[test]
fn root_of_the_host_is_root_and_other_users_are_not() {
    let (peer, child) = peer_of(&[], "");
    assert_eq!((peer.uid, peer.pid.cast_unsigned()), (0, child.id()));
    assert!(is_root(&peer));
    end(child);
    let (peer, child) = peer_of(&[], &format!("os.setgroups([]); os.setuid({NOBODY})"));
    assert_eq!(peer.uid, NOBODY);
    assert!(!is_root(&peer) && peer.in_initial_namespaces());
    end(child);
}

#[test]
fn all_groups_of_a_caller_are_told_however_many() {
    for count in [0, 3, 63, 64, 65, 1000] {
        let program = format!("os.setgroups(range(5000, 5000 + {count})); os.setgid(77)");
        let (peer, child) = peer_of(&[], &program);
        let expected: Vec<u32> = (5000..5000 + count).chain([77]).collect();
        assert_eq!(peer.groups, expected);
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
    assert_eq!(peer.cgroup(), None);
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
    let inside = Command::new("unshare")
        .args(["--pid", "--mount-proc", "--fork", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("needs unshare");
    assert!(inside.success());
}

/// A process that has this very pid; threads of this program may take it first.
fn process_with_pid(wanted: u32) -> Child {
    for _ in 0..1000 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (wanted - 1).to_string()).unwrap();
        let mut command = Command::new("cat");
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
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
    assert!(is_root(&early) && early.cgroup().is_some());
    end(caller);
    let other = process_with_pid(pid);
    // /proc answers for that pid, and not for the caller.
    assert!(Path::new(&format!("/proc/{pid}/cgroup")).exists());
    assert_eq!(early.cgroup(), None);
    assert!(!is_root(&early));
    // The same where the call is looked at only now.
    let late = Peer::of_stream(&stream).unwrap();
    assert_eq!(late.cgroup(), None);
    assert!(!is_root(&late));
    // The process that has the pid now would have been believed.
    assert!(Peer::of_process(pid.cast_signed(), 0, Vec::new()).cgroup().is_some());
    end(other);
}
