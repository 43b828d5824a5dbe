//! The rules of the kernel that holding a port rests on, each with bare sockets: where a kernel changes one,
//! its test says so before a listener misbehaves.

use crate::netns::{Holder, Thief, in_netns, undisturbed};
use crate::support::{Client, SERVICE, address, connect};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

const PORT: &str = "127.0.0.1:3306";

/// A TCP socket bound with these options.
fn bound(reuse_address: bool, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(reuse_address)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&SockAddr::from(address(PORT)))?;
    Ok(socket)
}

fn in_use(result: io::Result<()>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

#[test]
fn a_bound_socket_that_does_not_listen_refuses_and_with_reuse_port_alone_nobody_else_binds() {
    in_netns(|| {
        let socket = bound(true, true).unwrap();
        socket.set_reuse_address(false).unwrap();
        assert_eq!(connect(PORT), Client::Refused);
        let loot = run(Thief::tcp(address(PORT)));
        assert_eq!((loot.binds, loot.listens), (0, 0), "{loot:?}");
    });
}

fn run(thief: Thief) -> crate::netns::Loot {
    std::thread::sleep(std::time::Duration::from_millis(200));
    thief.stop()
}

#[test]
fn with_reuse_address_left_on_while_not_listening_any_user_takes_the_port() {
    in_netns(|| {
        let socket = bound(true, true).unwrap();
        let loot = run(Thief::tcp(address(PORT)));
        assert!(loot.binds > 0 && loot.listens > 0, "{loot:?}");
        let thief = Thief::start(&format!(
            "s = socket.socket(); s.setsockopt(S, R, 1); s.bind(('127.0.0.1', {})); s.listen()\n\
             def attempt(count): count['tries'] += 1",
            address(PORT).port()
        ));
        assert!(in_use(socket.listen(5)), "our own listen fails then");
        thief.stop();
        socket.listen(5).unwrap();
    });
}

#[test]
fn with_reuse_address_on_while_listening_nobody_binds_and_accepted_sockets_inherit_it() {
    in_netns(|| {
        let socket = bound(false, true).unwrap();
        socket.listen(5).unwrap();
        socket.set_reuse_address(true).unwrap();
        let loot = run(Thief::tcp(address(PORT)));
        assert_eq!((loot.binds, loot.listens), (0, 0), "{loot:?}");
        let _client = TcpStream::connect(PORT).unwrap();
        let accepted = socket.accept().unwrap().0;
        assert!(accepted.reuse_address().unwrap() && accepted.reuse_port().unwrap());
    });
}

#[test]
fn without_both_reuse_options_an_accepted_connection_keeps_listen_out_and_so_does_its_time_wait() {
    in_netns(|| {
        let socket = bound(false, false).unwrap();
        socket.listen(5).unwrap();
        let client = TcpStream::connect(PORT).unwrap();
        let accepted = socket.accept().unwrap().0;
        socket.shutdown(Shutdown::Read).unwrap();
        assert!(in_use(socket.listen(5)));
        drop(accepted);
        drop(client);
        assert!(in_use(socket.listen(5)), "TIME_WAIT");
    });
}

#[test]
fn with_reuse_port_switched_off_in_a_group_listen_fails() {
    in_netns(|| {
        let socket = bound(false, true).unwrap();
        let _other = bound(false, true).unwrap();
        socket.set_reuse_port(false).unwrap();
        assert!(in_use(socket.listen(5)));
        socket.set_reuse_port(true).unwrap();
        socket.listen(5).unwrap();
    });
}

#[test]
fn shutting_the_receiving_half_un_listens_and_keeps_the_port() {
    in_netns(|| {
        let socket = bound(false, true).unwrap();
        socket.listen(5).unwrap();
        socket.shutdown(Shutdown::Read).unwrap();
        assert!(!socket.is_listener().unwrap());
        assert_eq!(socket.local_addr().unwrap().as_socket(), Some(address(PORT)));
        assert_eq!(connect(PORT), Client::Refused);
        socket.listen(5).unwrap();
        assert_eq!(connect(PORT), Client::Connected);
    });
}

#[test]
fn a_connection_accepted_by_another_user_passes_listen_only_while_the_group_is_remembered() {
    in_netns(|| {
        let socket = bound(false, true).unwrap();
        socket.listen(5).unwrap();
        socket.set_reuse_address(true).unwrap();
        let _client = TcpStream::connect(PORT).unwrap();
        let _service = Holder::new(&socket, SERVICE, "accept(); s.close()");
        socket.set_reuse_address(false).unwrap();
        socket.shutdown(Shutdown::Read).unwrap();
        socket.listen(5).unwrap();
        socket.shutdown(Shutdown::Read).unwrap();
        // Another address: all that they share is the number.
        drop(TcpListener::bind("127.0.0.2:3306").unwrap());
        assert!(in_use(socket.listen(5)), "forgotten, although the other is gone");
        drop(bound(true, true).unwrap());
        socket.listen(5).unwrap();
    });
}

#[test]
fn a_locked_filter_survives_shutdown_and_a_new_listen() {
    in_netns(|| {
        let socket = bound(false, true).unwrap();
        socket.listen(5).unwrap();
        socket.attach_filter(&[socket2::SockFilter::new(6, 0, 0, 0)]).unwrap();
        drop(Holder::new(&socket, SERVICE, "s.setsockopt(S, 44, 1)"));
        socket.shutdown(Shutdown::Read).unwrap();
        socket.listen(5).unwrap();
        assert!(socket.detach_filter().is_err());
        let shut = TcpStream::connect_timeout(&address(PORT), std::time::Duration::from_millis(300));
        assert_eq!(shut.unwrap_err().kind(), ErrorKind::TimedOut);
        let beside = bound(false, true).unwrap();
        beside.listen(5).unwrap();
        undisturbed(|| drop(socket));
        assert_eq!(connect(PORT), Client::Connected);
    });
}

#[test]
fn the_kernels_choice_skips_a_port_that_is_bound_on_any_address() {
    in_netns(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "30000 30003\n").unwrap();
        let _held: Vec<_> = ["127.0.0.7:30000", "127.0.0.7:30001", "127.0.0.7:30003"]
            .map(|text| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.bind(&SockAddr::from(address(text))).unwrap();
                socket
            })
            .into();
        let listeners = ["127.0.0.1:1000", "127.0.0.1:1001"].map(|text| TcpListener::bind(text).unwrap());
        for listener in &listeners {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert_eq!(client.local_addr().unwrap().port(), 30002);
        }
    });
}

#[test]
fn udp_with_reuse_address_can_be_robbed_and_without_it_cannot() {
    in_netns(|| {
        let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
        assert_eq!(run(Thief::udp(address("127.0.0.1:53"))).binds, 0);
        socket2::SockRef::from(&socket).set_reuse_address(true).unwrap();
        assert!(run(Thief::udp(address("127.0.0.1:53"))).binds > 0);
    });
}

#[test]
fn connecting_a_udp_wildcard_gives_its_other_addresses_away() {
    in_netns(|| {
        let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
        assert_eq!(run(Thief::udp(address("127.0.0.2:53"))).binds, 0);
        socket.connect("127.0.0.1:9").unwrap();
        assert_eq!(socket.local_addr().unwrap(), address("127.0.0.1:53"));
        assert!(run(Thief::udp(address("127.0.0.2:53"))).binds > 0);
    });
}

#[test]
fn a_unix_stream_that_was_shut_down_refuses_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = socket2::SockRef::from(&listener);
    socket.shutdown(Shutdown::Read).unwrap();
    assert!(UnixStream::connect(&path).is_err());
    socket.listen(5).unwrap();
    assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_unix_socket_that_was_renamed_keeps_the_name_of_its_bind() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("first"), directory.path().join("second"));
    let listener = UnixListener::bind(&first).unwrap();
    std::fs::rename(&first, &second).unwrap();
    let client = UnixStream::connect(&second).unwrap();
    assert_eq!(client.peer_addr().unwrap().as_pathname(), Some(first.as_path()));
    drop(listener);
}

#[test]
fn a_probe_of_another_type_tells_a_living_unix_socket_from_a_dead_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let bound = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    bound.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    let probe = UnixDatagram::unbound().unwrap();
    assert_eq!(probe.connect(&path).unwrap_err().raw_os_error(), Some(nix::libc::EPROTOTYPE));
    undisturbed(|| drop(bound));
    assert_eq!(probe.connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
