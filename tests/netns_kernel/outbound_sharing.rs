//! The rules of the kernel by which one TCP source goes to many destinations, each with bare sockets.

use crate::netns::{in_netns, undisturbed};
use crate::outbound_support::{
    D1, D2, S1, S2, bound, connect, errno, eventually, leased, pair, reset, sysctl,
};
use crate::support::address;
use nix::libc::{EADDRINUSE, EADDRNOTAVAIL};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

fn listeners() -> [TcpListener; 2] {
    [D1, D2].map(|to| TcpListener::bind(to).unwrap())
}

#[test]
fn one_source_goes_to_many_destinations_and_connect_refuses_a_tuple_that_is_there() {
    in_netns(|| {
        let _listeners = listeners();
        let first = leased(S1).unwrap();
        connect(&first, D1).unwrap();
        let second = leased(S1).unwrap();
        connect(&second, D2).unwrap();
        let third = leased(S1).unwrap();
        assert_eq!(errno(connect(&third, D1)), Some(EADDRNOTAVAIL));
        // The refused socket is good for another destination.
        let _other = TcpListener::bind("127.0.0.9:8083").unwrap();
        connect(&third, "127.0.0.9:8083").unwrap();
        for socket in [first, second, third] {
            assert_eq!(socket.local_addr().unwrap().as_socket(), Some(address(S1)));
        }
    });
}

#[test]
fn every_owner_of_a_shared_source_has_reuse_address() {
    in_netns(|| {
        let _listeners = listeners();
        let first = leased(S1).unwrap();
        connect(&first, D1).unwrap();
        assert_eq!(errno(bound(S1, false)), Some(EADDRINUSE));
        let _alone = bound(S2, false).unwrap();
        assert_eq!(errno(leased(S2)), Some(EADDRINUSE));
    });
}

#[test]
fn an_explicit_source_may_be_outside_of_the_kernels_range_and_reserved() {
    in_netns(|| {
        let _listeners = listeners();
        sysctl("ip_local_port_range", "40000 40010\n");
        sysctl("ip_local_reserved_ports", "46000,40005\n");
        for source in [S1, "127.0.0.1:40005", "127.0.0.1:20000"] {
            connect(&leased(source).unwrap(), D1).unwrap();
        }
    });
}

/// A service as nearly all are: it listens with SO_REUSEADDR.
fn service(port: u16) -> std::io::Result<Socket> {
    let socket = bound(&format!("0.0.0.0:{port}"), true)?;
    socket.listen(5)?;
    Ok(socket)
}

#[test]
fn a_service_starts_on_an_explicit_source_port_and_further_binds_fail_then() {
    in_netns(|| {
        let _listeners = listeners();
        let first = leased("127.0.0.1:3306").unwrap();
        connect(&first, D1).unwrap();
        let listening = service(3306).unwrap();
        assert_eq!(errno(leased("127.0.0.1:3306")), Some(EADDRINUSE));
        assert_eq!(errno(leased("127.0.0.2:3306")), Some(EADDRINUSE));
        assert_eq!((&first).write(b"x").unwrap(), 1, "the connection lives on");
        TcpStream::connect("127.0.0.1:3306").unwrap();
        undisturbed(|| drop(listening));
        eventually(|| leased("127.0.0.1:3306"));
    });
}

#[test]
fn a_service_does_not_start_on_a_source_port_that_the_kernel_chose() {
    in_netns(|| {
        let _listeners = listeners();
        sysctl("ip_local_port_range", "3306 3307\n");
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        connect(&client, D1).unwrap();
        let port = client.local_addr().unwrap().as_socket().unwrap().port();
        for reuse_address in [false, true] {
            assert_eq!(errno(bound(&format!("0.0.0.0:{port}"), reuse_address)), Some(EADDRINUSE));
        }
        // Few programs do it, and those are in nobody's way either.
        let friendly = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        friendly.set_reuse_address(true).unwrap();
        connect(&friendly, D1).unwrap();
        let port = friendly.local_addr().unwrap().as_socket().unwrap().port();
        service(port).unwrap();
    });
}

#[test]
fn one_explicit_bind_keeps_the_kernel_from_choosing_that_port_on_every_address() {
    in_netns(|| {
        let _listeners = listeners();
        sysctl("ip_local_port_range", "46000 46000\n");
        let automatic = |from: &str| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            // The address is chosen, the port not before connect(2).
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&SockAddr::from(SocketAddr::new(from.parse().unwrap(), 0)))?;
            connect(&socket, D1)?;
            Ok(socket)
        };
        let held = leased(S2).unwrap();
        connect(&held, D2).unwrap();
        for from in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
            assert_eq!(errno(automatic(from)), Some(EADDRNOTAVAIL), "{from}");
        }
        assert_eq!(errno(TcpStream::connect(D1)), Some(EADDRNOTAVAIL));
        // A reset, so that nothing is left of it.
        reset(&held);
        undisturbed(|| drop(held));
        eventually(|| automatic("127.0.0.1"));
    });
}

#[test]
fn a_leased_socket_that_listens_blocks_its_source_for_others() {
    in_netns(|| {
        let _listeners = listeners();
        let bad = leased(S1).unwrap();
        let first = leased(S1).unwrap();
        connect(&first, D1).unwrap();
        bad.listen(1).unwrap();
        assert_eq!(errno(leased(S1)), Some(EADDRINUSE));
        undisturbed(|| drop(bad));
        eventually(|| leased(S1));
    });
}

#[test]
fn a_bind_costs_microseconds_while_few_share_the_source() {
    in_netns(|| {
        let listener = TcpListener::bind("127.0.0.9:9000").unwrap();
        let mut held = Vec::new();
        let mut cost = |sharers: u16| {
            while held.len() < usize::from(sharers) {
                let to = TcpListener::bind(format!("127.0.1.{}:9000", held.len() + 1)).unwrap();
                held.push((pair(S1, &to), to));
            }
            let one = || {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_reuse_address(true).unwrap();
                let begin = Instant::now();
                socket.bind(&SockAddr::from(address(S1))).unwrap();
                begin.elapsed()
            };
            let mut costs: Vec<Duration> = (0..200).map(|_| one()).collect();
            costs.sort_unstable();
            costs[100]
        };
        let (few, more) = (cost(1), cost(200));
        assert!(few < Duration::from_micros(50) && more < Duration::from_micros(200), "{few:?}, {more:?}");
        drop(listener);
    });
}
