//! `portbroker deposit`: what it tells the service manager, in which order, and what a refusal is.

use super::*;

/// A service manager that reads notifications and takes the descriptors, as systemd does.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        Self { socket, folder }
    }

    fn read(&self) -> (String, Vec<OwnedFd>) {
        let mut text = [0; 4096];
        let mut control = nix::cmsg_space!([std::os::fd::RawFd; 253]);
        let mut parts = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags).unwrap();
        let mut fds = Vec::new();
        for part in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(received) = part {
                fds.extend(received.into_iter().map(own));
            }
        }
        let length = message.bytes;
        (String::from_utf8(text[..length].to_vec()).unwrap(), fds)
    }

    /// Everything up to the barrier, each message with the inodes of its sockets; then answers the barrier.
    fn messages(&self) -> Vec<(String, Vec<u64>)> {
        let mut messages = Vec::new();
        loop {
            let (text, fds) = self.read();
            if text == "BARRIER=1\n" {
                assert_eq!(fds.len(), 1);
                return messages;
            }
            messages.push((text, fds.iter().map(inode).collect()));
        }
    }

    fn command(&self, socket: &Path, arguments: &str) -> Command {
        let mut command = portbroker(socket, arguments);
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command
    }
}

#[expect(unsafe_code, reason = "nix gives received descriptors as numbers")]
fn own(fd: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: recvmsg(2) has just made it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn deposited(peer: &Peer, arguments: &str) -> (Vec<(String, Vec<u64>)>, String) {
    let manager = Manager::new();
    let mut command = manager.command(peer.path(), arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let messages = manager.messages();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (messages, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn its_names_are_taken_out_of_the_store_and_then_put_in() {
    let (peer, inodes) = giver(2);
    let (messages, text) = deposited(&peer, "--json deposit web admin");
    let expected = [
        ("FDSTOREREMOVE=1\nFDNAME=admin\n".to_owned(), vec![]),
        ("FDSTOREREMOVE=1\nFDNAME=web\n".to_owned(), vec![]),
        // One by one and the last first: what systemd stored last it hands out first.
        ("FDSTORE=1\nFDNAME=admin\nFDPOLL=0\n".to_owned(), vec![inodes[1]]),
        ("FDSTORE=1\nFDNAME=admin\nFDPOLL=0\n".to_owned(), vec![inodes[0]]),
        ("FDSTORE=1\nFDNAME=web\nFDPOLL=0\n".to_owned(), vec![inodes[1]]),
        ("FDSTORE=1\nFDNAME=web\nFDPOLL=0\n".to_owned(), vec![inodes[0]]),
    ];
    assert_eq!(messages, expected);
    assert_eq!(
        text,
        "{\"deposited\":[{\"name\":\"admin\",\"sockets\":2},{\"name\":\"web\",\"sockets\":2}]}\n"
    );
    let call = peer.calls().remove(0);
    assert_eq!(
        (call.holder.as_str(), call.names.as_slice()),
        ("unit", &["web".to_owned(), "admin".to_owned()][..])
    );
}

#[test]
fn a_name_that_the_broker_does_not_know_yet_is_worth_one_reload() {
    let socket = OwnedFd::from(UnixDatagram::unbound().unwrap());
    let reloaded = std::sync::atomic::AtomicBool::new(false);
    let peer = Peer::start(move |call| {
        use std::sync::atomic::Ordering::SeqCst;
        match call.member.as_str() {
            "Reload" => {
                reloaded.store(true, SeqCst);
                Reply::Done
            }
            _ if reloaded.load(SeqCst) => Reply::Sockets(vec![("web".into(), socket.try_clone().unwrap())]),
            _ => Reply::Error(NO_SUCH_LISTENER, "no listener is named \"web\""),
        }
    });
    assert_eq!(deposited(&peer, "deposit web").0.len(), 2);
    let members: Vec<String> = peer.calls().into_iter().map(|call| call.member).collect();
    assert_eq!(members, ["AcquireListeners", "Reload", "AcquireListeners", "ListDeposits"]);
}

#[test]
fn a_name_that_nobody_knows_fails_the_unit() {
    let peer = Peer::start(|call| match call.member.as_str() {
        "Reload" => Reply::Done,
        _ => Reply::Error(NO_SUCH_LISTENER, "no listener is named \"web\""),
    });
    let manager = Manager::new();
    let (status, _, text) = run(&mut manager.command(peer.path(), "deposit web"));
    assert_eq!(status, 1);
    assert!(text.starts_with(NO_SUCH_LISTENER), "{text}");
    assert_eq!(peer.calls().len(), 3);

    let invalid = "org.portbroker.PortBroker1.Error.InvalidConfiguration";
    let peer = Peer::start(move |call| match call.member.as_str() {
        "Reload" => Reply::Error(invalid, "x.toml:1:1: unknown key"),
        _ => Reply::Error(NO_SUCH_LISTENER, "no listener is named \"web\""),
    });
    let (status, _, text) = run(&mut manager.command(peer.path(), "deposit web"));
    assert_eq!(status, 78);
    assert!(text.starts_with(NO_SUCH_LISTENER) && text.contains("x.toml:1:1: unknown key"), "{text}");
}

#[test]
fn more_sockets_than_a_message_takes_come_name_by_name() {
    let socket = OwnedFd::from(UnixDatagram::unbound().unwrap());
    let peer = Peer::start(move |call| match call.names.as_slice() {
        [name] => Reply::Sockets(vec![(name.clone(), socket.try_clone().unwrap())]),
        _ => Reply::Error("org.portbroker.PortBroker1.Error.TooManySockets", "20 sockets"),
    });
    assert_eq!(deposited(&peer, "deposit a b").0.len(), 4);
    let asked = peer.calls().into_iter().filter(|call| call.member == "AcquireListeners").count();
    assert_eq!(asked, 3);
}

#[test]
fn without_a_broker_the_service_starts_unless_it_requires_one() {
    let manager = Manager::new();
    let nowhere = Path::new("/nonexistent/bus");
    let (status, _, text) = run(&mut manager.command(nowhere, "deposit web"));
    assert_eq!(status, 0);
    assert!(text.contains("not reachable") && text.contains("binds web for itself"), "{text}");
    let (status, _, text) = run(&mut manager.command(nowhere, "deposit --required web"));
    assert_eq!(status, 69);
    assert!(text.contains("not reachable"), "{text}");
}

#[test]
fn a_refusal_fails_the_unit() {
    let manager = Manager::new();
    let peer = Peer::start(|_| Reply::Error("org.portbroker.PortBroker1.Error.NotAllowed", "no grant"));
    let (status, _, text) = run(&mut manager.command(peer.path(), "deposit web"));
    assert_eq!(status, 77);
    assert_eq!(text, "org.portbroker.PortBroker1.Error.NotAllowed: no grant\n");
}

#[test]
fn outside_of_a_unit_it_says_where_it_belongs() {
    let (peer, _) = giver(1);
    let (status, _, text) = run(&mut portbroker(peer.path(), "deposit web"));
    assert_eq!(status, 1);
    assert!(text.contains("NOTIFY_SOCKET") && text.contains("ExecStartPre="), "{text}");
    assert!(peer.calls().is_empty());
    let mut command = portbroker(peer.path(), "deposit web");
    let (status, _, text) = run(command.env("NOTIFY_SOCKET", "/nonexistent/notify"));
    assert_eq!(status, 1);
    assert!(text.contains("/nonexistent/notify") && text.contains("No such file"), "{text}");
}

#[test]
fn a_manager_that_does_not_read_is_not_waited_for_for_ever() {
    let (peer, _) = giver(1);
    let manager = Manager::new();
    let begin = std::time::Instant::now();
    let (status, _, text) = run(&mut manager.command(peer.path(), "deposit web"));
    assert_eq!(status, 1);
    assert!(text.contains("within 5s"), "{text}");
    assert!(begin.elapsed() < std::time::Duration::from_secs(9));
}
