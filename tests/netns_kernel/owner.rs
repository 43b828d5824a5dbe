//! What is said of a socket that is in the way of a bind.

use crate::netns::{Holder, in_netns, undisturbed};
use crate::support::{bind, tcp, udp, unix};
use portbroker::kernel::socket_owner::{Usage, Who, explain, owners_of};
use portbroker::model::SocketKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;

/// How this test's process is named.
fn me() -> String {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    format!("{} (pid {})", name.trim_end(), std::process::id())
}

#[test]
fn a_listener_is_told_with_its_process() {
    in_netns(|| {
        let _listener = TcpListener::bind("127.0.0.1:3306").unwrap();
        let said = format!("{} listens on it", me());
        assert_eq!(explain(&tcp("127.0.0.1:3306", false)).unwrap(), said);
        assert_eq!(explain(&tcp("0.0.0.0:3306", false)).unwrap(), said);
        assert_eq!(explain(&tcp("[::]:3306", false)).unwrap(), said);
        assert_eq!(explain(&tcp("127.0.0.2:3306", false)), None);
        assert_eq!(explain(&tcp("[::]:3306", true)), None);
        assert_eq!(explain(&udp("127.0.0.1:3306", false)), None);
    });
}

#[test]
fn a_source_port_is_told_with_the_connection() {
    in_netns(|| {
        let listener = TcpListener::bind("127.0.0.1:443").unwrap();
        let client = TcpStream::connect("127.0.0.1:443").unwrap();
        let _accepted = listener.accept().unwrap();
        let own = client.local_addr().unwrap();
        let said = format!("it is the source port of a connection of {} to 127.0.0.1:443", me());
        assert_eq!(explain(&tcp(&own.to_string(), false)).unwrap(), said);
    });
}

#[test]
fn a_connection_in_time_wait_is_told_as_such() {
    in_netns(|| {
        let listener = TcpListener::bind("127.0.0.1:3306").unwrap();
        let client = TcpStream::connect("127.0.0.1:3306").unwrap();
        let peer = client.local_addr().unwrap();
        undisturbed(|| drop(listener.accept().unwrap()));
        undisturbed(|| drop((client, listener)));
        let owners = owners_of(&tcp("127.0.0.1:3306", false)).unwrap();
        assert_eq!(owners.iter().map(|owner| &owner.usage).collect::<Vec<_>>(), [&Usage::TimeWait(peer)]);
        let said = format!("a connection to {peer} is in TIME_WAIT there, for at most a minute");
        assert_eq!(explain(&tcp("127.0.0.1:3306", false)).unwrap(), said);
    });
}

#[test]
fn a_socket_that_is_only_bound_is_told() {
    in_netns(|| {
        let _held = bind(&tcp("127.0.0.1:3306", false));
        let said = format!("{} has bound it", me());
        assert_eq!(explain(&tcp("127.0.0.1:3306", false)).unwrap(), said);
    });
}

#[test]
fn udp_and_unix_sockets_are_told() {
    in_netns(|| {
        let _udp = UdpSocket::bind("127.0.0.1:53").unwrap();
        assert_eq!(explain(&udp("0.0.0.0:53", false)).unwrap(), format!("{} listens on it", me()));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let _unix = UnixListener::bind(&path).unwrap();
        let endpoint = unix(SocketKind::Stream, path.to_str().unwrap());
        assert_eq!(explain(&endpoint).unwrap(), format!("{} listens on it", me()));
        let _abstract = bind(&unix(SocketKind::Stream, "@portbroker-owner"));
        let endpoint = unix(SocketKind::Stream, "@portbroker-owner");
        assert_eq!(explain(&endpoint).unwrap(), format!("{} has bound it", me()));
    });
}

#[test]
fn a_process_of_another_user_is_named_by_root() {
    in_netns(|| {
        let listener = TcpListener::bind("127.0.0.1:3306").unwrap();
        let holder = Holder::new(&listener, 1001, "");
        undisturbed(|| drop(listener));
        let owners = owners_of(&tcp("127.0.0.1:3306", false)).unwrap();
        let who = owners[0].who.clone().unwrap();
        assert_eq!(who, Who::Process("python3".into(), holder.pid(), None));
    });
}
