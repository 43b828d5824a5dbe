//! `portbroker exec`: what it becomes, and what it says where it becomes nothing.

use super::*;

/// Prints the LISTEN_ variables and the inodes of descriptors from 3 on, then waits for its input to end.
const REPORT: &str = r#"echo $$; env | grep ^LISTEN_ | sort
    n=3; while [ -e /proc/$$/fd/$n ]; do readlink /proc/$$/fd/$n; n=$((n+1)); done; echo; read x"#;

fn report(count: usize, names: &str) -> (HashMap<String, String>, Vec<u64>, Vec<u64>, u32, u64) {
    let (peer, inodes) = giver(count);
    let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
    command.env("PORTBROKER_SOCKET", peer.path()).env("LISTEN_PIDFDID", "1");
    command.arg("exec").args(names.split(' ')).args(["--", "sh", "-c", REPORT]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with("\n\n") {
        child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        text.push(char::from(byte[0]));
    }
    let pidfd_inode = inode(pidfd(child.id()));
    drop(child.stdin.take());
    child.wait().unwrap();
    let pid = text.lines().next().unwrap().parse().unwrap();
    let variables = text.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let socket = |line: &str| line.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    assert_eq!(pid, child.id(), "the process did not replace itself");
    (variables, text.lines().filter_map(socket).collect(), inodes, pid, pidfd_inode)
}

#[expect(unsafe_code, reason = "nix has no pidfd_open")]
fn pidfd(pid: u32) -> OwnedFd {
    // SAFETY: pidfd_open(2) takes two integers.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: it has just been made.
    unsafe { OwnedFd::from_raw_fd(fd.try_into().unwrap()) }
}

#[test]
fn the_command_has_the_sockets_from_3_on_in_the_order_asked_for() {
    let (variables, got, inodes, pid, pidfd_inode) = report(2, "web admin");
    assert_eq!(got, [inodes.as_slice(), inodes.as_slice()].concat());
    assert_eq!(variables["LISTEN_FDS"], "4");
    assert_eq!(variables["LISTEN_FDNAMES"], "web:web:admin:admin");
    assert_eq!(variables["LISTEN_PID"], pid.to_string());
    // Where pidfds have inodes of their own, the variable is the process's; before Linux 6.9 it is unset.
    let pidfs = nix::sys::statfs::fstatfs(pidfd(std::process::id())).unwrap().filesystem_type();
    let expected = (pidfs.0 == 0x5049_4446).then(|| pidfd_inode.to_string());
    assert_eq!(variables.get("LISTEN_PIDFDID"), expected.as_ref());
}

#[test]
fn targets_that_are_sources_of_others_are_not_lost() {
    for count in [1, 7, 40, 250] {
        let (_, got, inodes, ..) = report(count, "web");
        assert_eq!(got, inodes, "{count}");
    }
}

#[test]
fn a_command_that_is_not_there_is_said_to_be() {
    let (peer, _) = giver(1);
    let (status, _, text) = run(&mut portbroker(peer.path(), "exec web -- /nonexistent/command"));
    assert_eq!(status, 1);
    assert!(text.contains("cannot run \"/nonexistent/command\": No such file"), "{text}");
}

#[test]
fn a_limit_of_open_files_that_is_too_low_is_named() {
    let (peer, _) = giver(9);
    let try_with = |limit: u32| {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"ulimit -n $1; exec "$0" exec web -- true"#]);
        shell.args([env!("CARGO_BIN_EXE_portbroker"), &limit.to_string()]);
        run(shell.env("PORTBROKER_SOCKET", peer.path()))
    };
    assert_eq!(try_with(64).0, 0);
    // Whichever step runs out of descriptors: receiving, copying, or lifting above the targets.
    for limit in 10..30 {
        let (status, _, text) = try_with(limit);
        assert!(status == 0 || text.contains("LimitNOFILE="), "{limit}: {text}");
    }
    assert_eq!(try_with(10).0, 1);
}

#[test]
fn the_answer_decides_the_exit_status() {
    let cases = [
        ("org.portbroker.PortBroker1.Error.NotAllowed", 77),
        (NO_SUCH_LISTENER, 1),
        ("org.portbroker.PortBroker1.Error.NotReady", 1),
        ("org.portbroker.PortBroker1.Error.InvalidConfiguration", 78),
    ];
    for (name, expected) in cases {
        let peer = Peer::start(move |_| Reply::Error(name, "because"));
        let (status, _, text) = run(&mut portbroker(peer.path(), "exec web -- true"));
        assert_eq!(status, expected, "{name}");
        assert_eq!(text, format!("{name}: because\n"));
    }
    let (status, _, text) = run(&mut portbroker(Path::new("/nonexistent/bus"), "exec web -- true"));
    assert_eq!(status, 69);
    assert!(text.contains("/nonexistent/bus"), "{text}");
}
