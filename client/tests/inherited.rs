//! Sockets that a process is started with, found by name. The test starts itself again as that process.

#![cfg(test)]

use portbroker_client::{Source, listen};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

const CHILD: &str = "PORTBROKER_TEST_CHILD";

#[test]
fn inherited_sockets_are_found_by_name_and_taken_once() {
    if std::env::var_os(CHILD).is_some() {
        return take_them();
    }
    let folder = tempfile::tempdir().unwrap();
    let unix = OwnedFd::from(UnixListener::bind(folder.path().join("web.sock")).unwrap());
    let udp = OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let mut shell = Command::new("sh");
    // The sockets come as standard input and output, and go where LISTEN_FDS has them.
    shell.args(["-c", r#"export LISTEN_PID=$$; exec "$0" --exact "$1" 3<&1 4<&0 5<&1 0</dev/null 1>&2"#]);
    shell.arg(std::env::current_exe().unwrap());
    shell.arg("inherited_sockets_are_found_by_name_and_taken_once");
    shell.envs([("LISTEN_FDS", "3"), ("LISTEN_FDNAMES", "dns:web:dns"), (CHILD, "1")]);
    // Whoever asks a broker fails here.
    shell.env("PORTBROKER_SOCKET", folder.path().join("nowhere"));
    let child =
        shell.stdin(Stdio::from(unix)).stdout(Stdio::from(udp)).stderr(Stdio::piped()).output().unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

fn take_them() {
    let mut web = listen("web").blocking().unwrap();
    assert_eq!((web.source(), web.len()), (Source::Inherited, 1));
    let address = web.unix_listener().unwrap().local_addr().unwrap();
    assert!(address.as_pathname().unwrap().ends_with("web.sock"));
    let mut dns = listen("dns").blocking().unwrap();
    assert_eq!(dns.len(), 2);
    dns.udp_socket().unwrap();
    dns.udp_socket().unwrap();
    assert!(listen("mail").blocking().unwrap_err().to_string().contains("not reachable"));
    assert!(listen("web").blocking().unwrap_err().to_string().contains("not reachable"));
}
