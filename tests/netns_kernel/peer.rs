//! Who is at the other end: groups, unit, and which uid 0 is root.

use crate::netns::NOBODY;
use portbroker::kernel::peer::Peer;
use portbroker::kernel::process::ProcessError;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
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

#[test]
fn root_of_the_host_is_root_and_other_users_are_not() {
    let (peer, child) = peer_of(&[], "");
    assert_eq!((peer.uid, peer.gid), (0, 0));
    assert!(peer.is_root());
    let process = peer.process.as_ref().unwrap();
    assert_eq!(process.pid(), child.id());
    assert_eq!(process.name().unwrap(), "python3");
    end(child);
    let (peer, child) = peer_of(&[], &format!("os.setgroups([]); os.setuid({NOBODY})"));
    assert_eq!(peer.uid, NOBODY);
    assert!(!peer.is_root());
    assert!(peer.process.as_ref().unwrap().in_initial_namespaces());
    end(child);
}

#[test]
fn all_groups_of_a_caller_are_told_however_many() {
    for count in [0, 3, 64, 65, 1000] {
        let program = format!("os.setgroups(range(5000, 5000 + {count})); os.setgid(77)");
        let (peer, child) = peer_of(&[], &program);
        assert_eq!(peer.gid, 77);
        assert_eq!(peer.groups, (5000..5000 + count).collect::<Vec<u32>>());
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
        assert!(peer.process.is_some());
        assert!(!peer.is_root(), "{wrapper:?}");
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
    let process = peer.process.as_ref().unwrap();
    let root = format!("/proc/{}/root", process.pid());
    while std::fs::read_link(&root).unwrap() == Path::new("/") {
        std::thread::yield_now();
    }
    assert!(!peer.is_root());
    end(child);
}

#[test]
fn nothing_is_known_of_a_caller_that_went_while_its_call_was_under_way() {
    let (peer, child) = peer_of(&[], "");
    let process = peer.process.as_ref().unwrap();
    assert!(process.cgroup().is_ok());
    end(child);
    assert!(matches!(process.cgroup(), Err(ProcessError::Gone { .. })));
    assert!(!peer.is_root());
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

/// A process of another user that has this very pid; threads of this program may take it first.
fn process_with_pid(wanted: u32) -> Child {
    for _ in 0..1000 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (wanted - 1).to_string()).unwrap();
        let mut command = Command::new("cat");
        let child = command.uid(NOBODY).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
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
    assert!(early.is_root());
    end(caller);
    let other = process_with_pid(pid);
    // /proc answers for that pid, and not for the caller.
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "cat\n");
    let process = early.process.as_ref().unwrap();
    assert!(matches!(process.cgroup(), Err(ProcessError::Gone { .. })));
    assert!(!early.is_root());
    // The same where the call is looked at only now.
    let late = Peer::of_stream(&stream).unwrap();
    assert!(late.process.as_ref().is_none_or(|process| process.cgroup().is_err()));
    assert!(!late.is_root());
    // And where the kernel has no descriptor for a peer, and the user is all that tells them apart.
    assert!(Peer::of_bus(0, 0, vec![], pid).process.is_none());
    end(other);
}

#[test]
fn a_caller_that_a_bus_told_is_known_by_its_pid_and_user() {
    let (peer, child) = peer_of(&[], &format!("os.setgroups([]); os.setuid({NOBODY})"));
    let pid = peer.process.as_ref().unwrap().pid();
    let told = Peer::of_bus(NOBODY, 0, vec![7], pid);
    assert_eq!(told.process.as_ref().unwrap().pid(), pid);
    assert_eq!(told.groups, [7]);
    assert!(Peer::of_bus(0, 0, vec![], pid).process.is_none(), "the pid is another user's");
    end(child);
    assert!(Peer::of_bus(NOBODY, 0, vec![], pid).process.is_none());
}
