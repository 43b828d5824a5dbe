//! What sock_diag answers of a tuple, in each state that it can be in; what a range shows; and what it costs.

use crate::netns::{in_netns, undisturbed};
use crate::outbound_support::{
    D1, D2, S1, S2, close, connect, cookie, leased, open, pair, reset, run, tcp, tuple, until,
};
use crate::support::address;
use portbroker::kernel::tuples::Lookup;
use portbroker::model::{PortRange, Protocol, Seen, SourceRange};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

fn ports(address: &str, first: u16, last: u16) -> SourceRange {
    let ports = PortRange::new(first, last).unwrap();
    SourceRange { address: address.parse().unwrap(), ports }
}

#[test]
fn a_tuple_is_free_until_it_is_connected_and_open_with_cookie_and_owner_then() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind(D1).unwrap();
        assert_eq!(lookup.look(&tcp(S1, D1)).unwrap(), Seen::Free);
        let client = leased(S1).unwrap();
        assert_eq!(lookup.look(&tcp(S1, D1)).unwrap(), Seen::Free, "bound, and not connected");
        connect(&client, D1).unwrap();
        let seen = lookup.look(&tcp(S1, D1)).unwrap();
        let Seen::Open { cookie: found, uid: 0, cgroup } = seen else { panic!("{seen:?}") };
        assert_eq!(found, cookie(&client));
        assert_ne!(cgroup, 0);
        for other in [tcp(S1, D2), tcp(S2, D1), tcp("127.0.0.1:46001", D1)] {
            assert_eq!(lookup.look(&other).unwrap(), Seen::Free, "{other:?}");
        }
        drop(listener);
    });
}

#[test]
fn a_syn_that_is_not_answered_holds_the_tuple() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SockAddr::from(address(D1))).unwrap();
        full.listen(0).unwrap();
        let _first = TcpStream::connect(D1).unwrap();
        let client = leased(S1).unwrap();
        client.set_nonblocking(true).unwrap();
        let _ = connect(&client, D1);
        std::thread::sleep(Duration::from_millis(50));
        assert!(client.peer_addr().is_err(), "still in SYN_SENT");
        assert_eq!(open(lookup.look(&tcp(S1, D1)).unwrap()), Some(cookie(&client)));
        undisturbed(|| drop(client));
        until("the tuple is free", || lookup.look(&tcp(S1, D1)).unwrap() == Seen::Free);
    });
}

#[test]
fn each_state_of_a_connection_that_ends_is_told() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind(D1).unwrap();
        // FIN_WAIT2 here and CLOSE_WAIT there; then LAST_ACK, and TIME_WAIT with its time.
        let (client, accepted) = pair(S1, &listener);
        let (near, far) = (tcp(S1, D1), tcp(D1, S1));
        let (near_cookie, far_cookie) = (cookie(&client), cookie(&accepted));
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(open(lookup.look(&near).unwrap()), Some(near_cookie), "FIN_WAIT2");
        assert_eq!(open(lookup.look(&far).unwrap()), Some(far_cookie), "CLOSE_WAIT");
        undisturbed(|| drop(client));
        assert!(open(lookup.look(&near).unwrap()).is_some(), "FIN_WAIT2 of nobody");
        undisturbed(|| drop(accepted));
        until("TIME_WAIT", || matches!(lookup.look(&near).unwrap(), Seen::TimeWait(_)));
        let Seen::TimeWait(left) = lookup.look(&near).unwrap() else { panic!("TIME_WAIT is over") };
        assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(61), "{left:?}");
        std::thread::sleep(Duration::from_millis(200));
        let Seen::TimeWait(later) = lookup.look(&near).unwrap() else { panic!("TIME_WAIT is over") };
        assert!(later < left, "{later:?} after {left:?}");
        until("who closes last keeps nothing", || lookup.look(&far).unwrap() == Seen::Free);
        // A reset ends it at once.
        let (client, accepted) = pair(S2, &listener);
        reset(&client);
        undisturbed(|| drop(client));
        until("a reset leaves nothing", || lookup.look(&tcp(S2, D1)).unwrap() == Seen::Free);
        drop(accepted);
    });
}

#[test]
fn what_waits_for_the_other_side_holds_the_tuple_at_both_ends() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind(D1).unwrap();
        let (first, first_accepted) = pair(S1, &listener);
        let (second, second_accepted) = pair(S2, &listener);
        second.shutdown(Shutdown::Write).unwrap();
        until("CLOSE_WAIT", || matches!((&second_accepted).read(&mut [0]), Ok(0)));
        // From now on no packet arrives.
        run("ip", &["link", "set", "lo", "down"]);
        let cookies = (cookie(&first), cookie(&second_accepted));
        undisturbed(|| drop(first));
        assert_eq!(open(lookup.look(&tcp(S1, D1)).unwrap()), Some(cookies.0), "FIN_WAIT1");
        undisturbed(|| drop(second_accepted));
        assert_eq!(open(lookup.look(&tcp(D1, S2)).unwrap()), Some(cookies.1), "LAST_ACK");
        drop(first_accepted);
    });
}

#[test]
fn who_only_listens_on_the_source_does_not_have_the_tuple() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        for address in [S1, "0.0.0.0:46001"] {
            let _listener = TcpListener::bind(address).unwrap();
            assert_eq!(lookup.look(&tcp(&address.replace("0.0.0.0", "127.0.0.1"), D1)).unwrap(), Seen::Free);
        }
    });
}

#[test]
fn an_ipv6_socket_that_talks_ipv4_has_an_ipv4_tuple() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind(D1).unwrap();
        let client = leased("[::ffff:127.0.0.1]:46000").unwrap();
        let bound = lookup.range(Protocol::Tcp, &ports("127.0.0.1", 46000, 46000)).unwrap();
        assert_eq!(bound.len(), 1);
        assert_eq!(bound[0].0, address(S1));
        connect(&client, "[::ffff:127.0.0.9]:8081").unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(open(lookup.look(&tcp(S1, D1)).unwrap()), Some(cookie(&client)));
        let found = lookup.range(Protocol::Tcp, &ports("127.0.0.1", 46000, 46000)).unwrap();
        assert_eq!(found.iter().map(|row| (row.0, row.1)).collect::<Vec<_>>(), [(address(S1), address(D1))]);
        close((client, accepted));
        until("TIME_WAIT", || matches!(lookup.look(&tcp(S1, D1)).unwrap(), Seen::TimeWait(_)));
    });
}

#[test]
fn a_range_shows_what_is_bound_connected_and_waits_on_it_and_nothing_else() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind(D1).unwrap();
        let idle = leased("127.0.0.1:46001").unwrap();
        let (client, accepted) = pair("127.0.0.1:46002", &listener);
        close(pair("127.0.0.1:46003", &listener));
        let _listens = TcpListener::bind("127.0.0.1:46004").unwrap();
        let _outside =
            ["127.0.0.1:46000", "127.0.0.1:46005", "127.0.0.2:46002"].map(|at| leased(at).unwrap());
        let wanted = ports("127.0.0.1", 46001, 46004);
        until("TIME_WAIT", || {
            lookup.range(Protocol::Tcp, &wanted).unwrap().iter().any(|row| matches!(row.2, Seen::TimeWait(_)))
        });
        let mut found = lookup.range(Protocol::Tcp, &wanted).unwrap();
        found.sort_by_key(|row| row.0.port());
        let shown: Vec<_> = found.iter().map(|row| (row.0.port(), row.1.port(), open(row.2))).collect();
        assert_eq!(shown[0], (46001, 0, Some(cookie(&idle))), "bound and idle, from Linux 6.8 on");
        assert_eq!(shown[1], (46002, 8081, Some(cookie(&client))));
        assert_eq!(shown[2], (46003, 8081, None));
        assert_eq!((shown[3].0, shown[3].1, shown.len()), (46004, 0, 4));
        let any = tuple(Protocol::Tcp, address("127.0.0.1:46001"), None);
        assert_eq!(open(lookup.look(&any).unwrap()), Some(cookie(&idle)));
        drop(accepted);
    });
}

#[test]
fn many_ranges_of_both_families_are_asked_for_at_once() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let held = ["127.0.0.3:46007", "[::1]:46010", "127.0.0.1:46099"].map(|at| leased(at).unwrap());
        let _not = ["127.0.0.3:46008", "[::1]:46009", "127.0.0.2:46099"].map(|at| leased(at).unwrap());
        let mut ranges = vec![ports("127.0.0.3", 46000, 46007), ports("::1", 46010, 46012)];
        ranges.extend((1..100).map(|n| ports("127.0.0.1", 46000 + n, 46000 + n)));
        let mut found: Vec<_> = lookup
            .ranges(Protocol::Tcp, &ranges)
            .unwrap()
            .into_iter()
            .map(|row| open(row.2).unwrap())
            .collect();
        found.sort_unstable();
        let mut expected = held.each_ref().map(cookie);
        expected.sort_unstable();
        assert_eq!(found, expected);
    });
}

#[test]
fn a_socket_that_is_bound_to_a_device_is_seen_by_a_range_only_and_guards_nothing() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind(D1).unwrap();
        let client = leased(S1).unwrap();
        client.bind_device(Some(b"lo")).unwrap();
        connect(&client, D1).unwrap();
        let _accepted = listener.accept().unwrap();
        let found = lookup.range(Protocol::Tcp, &ports("127.0.0.1", 46000, 46000)).unwrap();
        assert_eq!(open(found[0].2), Some(cookie(&client)));
        assert_eq!(lookup.look(&tcp(S1, D1)).unwrap(), Seen::Free);
        // Nor does the kernel keep others from connecting the same tuple.
        connect(&leased(S1).unwrap(), D1).unwrap();
    });
}

#[test]
fn ipv6_tuples_and_udp_are_seen() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind("[::1]:8081").unwrap();
        let client = leased("[::1]:46000").unwrap();
        connect(&client, "[::1]:8081").unwrap();
        let _accepted = listener.accept().unwrap();
        assert_eq!(open(lookup.look(&tcp("[::1]:46000", "[::1]:8081")).unwrap()), Some(cookie(&client)));
        assert_eq!(lookup.look(&tcp("[::1]:46001", "[::1]:8081")).unwrap(), Seen::Free);
        for source in ["127.0.0.1:46000", "[::1]:46000"] {
            let of_udp = |to| tuple(Protocol::Udp, address(source), to);
            assert_eq!(lookup.look(&of_udp(None)).unwrap(), Seen::Free);
            let udp = UdpSocket::bind(source).unwrap();
            assert_eq!(open(lookup.look(&of_udp(None)).unwrap()), Some(cookie(&udp)));
            let to = address(&source.replace("46000", "9"));
            udp.connect(to).unwrap();
            // Leases of UDP have the source for themselves, wherever they go.
            assert_eq!(open(lookup.look(&of_udp(None)).unwrap()), Some(cookie(&udp)));
            assert_eq!(open(lookup.look(&of_udp(Some(to))).unwrap()), Some(cookie(&udp)));
            assert_eq!(lookup.look(&of_udp(None)).unwrap(), lookup.look(&of_udp(Some(to))).unwrap());
        }
    });
}

#[test]
fn an_exact_look_up_takes_microseconds_however_many_sockets_there_are() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind(D1).unwrap();
        let _held: Vec<_> =
            (20_000..20_400).map(|port| pair(&format!("127.0.0.1:{port}"), &listener)).collect();
        // A few at a time: other tests take the processor away now and then.
        let few = |first: u16| {
            let tuples: Vec<_> =
                (first..first + 10).map(|port| tcp(&format!("127.0.0.1:{port}"), D1)).collect();
            let begin = Instant::now();
            assert!(tuples.iter().all(|tuple| open(lookup.look(tuple).unwrap()).is_some()));
            begin.elapsed() / 10
        };
        let best = (20_000..20_400).step_by(10).cycle().take(400).map(few).min().unwrap();
        std::io::stderr().write_all(format!("exact look-up: {best:?}\n").as_bytes()).unwrap();
        // 3 to 7 µs where the code is optimised.
        assert!(best < Duration::from_micros(40), "{best:?}");
    });
}
