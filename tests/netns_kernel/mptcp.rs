//! MPTCP listeners: reserved, listening and refusing as TCP's are, unstealable, and TCP where there is no MPTCP.

use crate::netns::{Holder, Thief, in_netns, undisturbed};
use crate::support::{Client, SERVICE, address, connect, is_reserved, tcp};
use portbroker::config::{SocketOptions, StreamProtocol};
use portbroker::kernel::socket::{ListenerSocket, Mended, SocketState, Unmet};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::ErrorKind;
use std::os::fd::AsFd;

fn mptcp() -> SocketOptions {
    SocketOptions { protocol: StreamProtocol::Mptcp, ..SocketOptions::default() }
}

/// The switch of the test's own network namespace.
fn switch(on: bool) {
    let file = "/proc/sys/net/mptcp/enabled";
    std::fs::write(file, if on { "1\n" } else { "0\n" }).expect("the kernel of these tests has MPTCP");
}

fn speaks_mptcp(socket: &impl AsFd) -> bool {
    socket2::SockRef::from(socket).protocol().unwrap() == Some(socket2::Protocol::MPTCP)
}

/// A client that speaks MPTCP.
fn client(to: &str) -> Result<Socket, ErrorKind> {
    let client = Socket::new(Domain::IPV4, Type::STREAM, Some(socket2::Protocol::MPTCP)).unwrap();
    client.connect(&SockAddr::from(address(to))).map(|()| client).map_err(|error| error.kind())
}

#[test]
fn an_mptcp_port_is_reserved_listens_and_refuses_as_a_tcp_port_does() {
    for (endpoint, v6only) in [("127.0.0.1:3306", false), ("[::]:3306", false)] {
        in_netns(|| {
            switch(true);
            let mut socket = ListenerSocket::bind(&tcp(endpoint, v6only), &mptcp()).unwrap();
            assert!(speaks_mptcp(&socket));
            for round in 0..3 {
                assert!(is_reserved(&socket));
                assert_eq!(connect("127.0.0.1:3306"), Client::Refused, "{endpoint}, round {round}");
                assert_eq!(client("127.0.0.1:3306").unwrap_err(), ErrorKind::ConnectionRefused);
                socket.listen().unwrap();
                assert!(!is_reserved(&socket));
                let _client = client("127.0.0.1:3306").unwrap();
                let (accepted, _) = socket2::SockRef::from(&socket).accept().unwrap();
                assert!(speaks_mptcp(&accepted));
                assert_eq!(connect("127.0.0.1:3306"), Client::Connected, "clients of TCP too");
                socket.refuse().unwrap();
            }
            assert_eq!((socket.inspect(), socket.unmet()), (vec![], vec![]));
            // A later daemon knows it again.
            let copy = socket.as_fd().try_clone_to_owned().unwrap();
            drop(socket);
            let again = ListenerSocket::adopt(copy, &tcp(endpoint, v6only), &mptcp()).unwrap();
            assert_eq!((again.inspect(), again.unmet()), (vec![], vec![]));
        });
    }
}

#[test]
fn nobody_else_gets_an_mptcp_port_while_it_comes_and_goes_beside_live_connections() {
    in_netns(|| {
        switch(true);
        let mut socket = ListenerSocket::bind(&tcp("127.0.0.1:3306", false), &mptcp()).unwrap();
        socket.listen().unwrap();
        let _clients =
            (client("127.0.0.1:3306").unwrap(), std::net::TcpStream::connect("127.0.0.1:3306").unwrap());
        let _service = Holder::new(&socket, SERVICE, "accept(); accept()");
        let thief = Thief::tcp(address("127.0.0.1:3306"));
        for round in 0..5_000 {
            socket.listen().unwrap_or_else(|error| panic!("round {round}: {error:?}"));
            socket.refuse().unwrap();
        }
        let loot = thief.stop();
        assert_eq!((loot.listens, loot.accepts), (0, 0), "{loot:?}");
    });
}

#[test]
fn what_a_holder_spoils_of_an_mptcp_socket_is_mended_or_replaced() {
    in_netns(|| {
        switch(true);
        let mut socket = ListenerSocket::bind(&tcp("127.0.0.1:3306", false), &mptcp()).unwrap();
        socket.listen().unwrap();
        drop(Holder::new(
            &socket,
            SERVICE,
            "s.shutdown(socket.SHUT_RD); s.setsockopt(S, socket.SO_KEEPALIVE, 1)",
        ));
        assert!(matches!(socket.mend(SocketState::Listening), Ok(Mended::InPlace(_))));
        assert!(client("127.0.0.1:3306").is_ok());
        // Filters it does not take. A new socket beside it, as for `renew`, speaks MPTCP too.
        let inode = socket.inode().unwrap();
        let mut beside = ListenerSocket::bind(&tcp("127.0.0.1:3306", false), &mptcp()).unwrap();
        beside.listen().unwrap();
        undisturbed(|| drop(std::mem::replace(&mut socket, beside)));
        assert_ne!(socket.inode().unwrap(), inode);
        assert!(speaks_mptcp(&socket));
        assert!(client("127.0.0.1:3306").is_ok());
        assert_eq!(socket.inspect(), []);
    });
}

#[test]
fn where_there_is_no_mptcp_tcp_serves_and_that_is_said() {
    in_netns(|| {
        switch(false);
        let mut socket = ListenerSocket::bind(&tcp("127.0.0.1:3306", false), &mptcp()).unwrap();
        assert!(!speaks_mptcp(&socket));
        assert_eq!(socket.unmet(), [Unmet::NoMptcp]);
        assert!(socket.unmet()[0].to_string().contains("net.mptcp.enabled is 0: TCP serves in its place"));
        socket.listen().unwrap();
        assert_eq!(connect("127.0.0.1:3306"), Client::Connected);
        // It is there later: a socket that lives does not change.
        switch(true);
        assert_eq!(socket.unmet(), [Unmet::Protocol { wanted: "mptcp" }]);
        socket.adjust(&SocketOptions::default()).unwrap();
        assert_eq!(socket.unmet(), []);
        let mut multipath = ListenerSocket::bind(&tcp("127.0.0.1:3307", false), &mptcp()).unwrap();
        multipath.adjust(&SocketOptions::default()).unwrap();
        assert_eq!(multipath.unmet(), [Unmet::Protocol { wanted: "tcp" }]);
    });
}

#[test]
fn a_listener_goes_over_to_mptcp_by_a_new_socket_beside_the_old_one() {
    in_netns(|| {
        switch(true);
        let mut old = ListenerSocket::bind(&tcp("127.0.0.1:3306", false), &SocketOptions::default()).unwrap();
        old.listen().unwrap();
        for options in [mptcp(), SocketOptions::default()] {
            old.adjust(&options).unwrap();
            assert!(matches!(old.unmet()[..], [Unmet::Protocol { .. }]));
            let mut new = old.successor().unwrap();
            assert_eq!((new.unmet(), speaks_mptcp(&new)), (vec![], options == mptcp()));
            new.listen().unwrap();
            let queued = connect("127.0.0.1:3306");
            assert_eq!(queued, Client::Connected);
            old.quieten().unwrap();
            old.queue().unwrap();
            undisturbed(|| std::mem::replace(&mut old, new).retire());
            assert_eq!(connect("127.0.0.1:3306"), Client::Connected);
        }
    });
}
