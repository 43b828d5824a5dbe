//! Several sockets of one address: what they are to strangers, and how one of them ends.

use crate::netns::{Holder, Thief, in_netns};
use crate::support::{Client, SERVICE, address, bind, connect, is_reserved, tcp, udp};
use portbroker::config::SocketOptions;
use portbroker::kernel::socket::{ListenerSocket, Mended, SocketState};
use portbroker::model::Endpoint;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

const TCP: &str = "127.0.0.1:3306";
const UDP: &str = "127.0.0.1:53";
const MIGRATE: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

fn group(endpoint: &Endpoint, shards: u16) -> Vec<ListenerSocket> {
    let options = SocketOptions { shards, ..SocketOptions::default() };
    (0..shards).map(|_| ListenerSocket::bind(endpoint, &options).expect("a shard is bound")).collect()
}

fn listening(endpoint: &Endpoint, shards: u16) -> Vec<ListenerSocket> {
    let mut sockets = group(endpoint, shards);
    sockets.iter_mut().for_each(|socket| socket.listen().expect("a shard listens"));
    sockets
}

fn waiting(socket: &ListenerSocket) -> u32 {
    socket.queue().expect("its queue").waiting
}

fn clients(count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(TCP).expect("a client connects")).collect()
}

fn send(count: usize, to: &str) {
    for _ in 0..count {
        let client = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        client.send_to(b"x", to).expect("a datagram is sent");
    }
}

#[test]
fn no_other_user_gets_into_a_group_whatever_its_state() {
    in_netns(|| {
        let mut shards = group(&tcp(TCP, false), 4);
        let mut datagrams = group(&udp("0.0.0.0:53", false), 4);
        for listens in [false, true, false] {
            for socket in shards.iter_mut().chain(&mut datagrams) {
                if listens { socket.listen().unwrap() } else { socket.refuse().unwrap() }
            }
            let thieves =
                [Thief::tcp(address(TCP)), Thief::udp(address(UDP)), Thief::udp(address("0.0.0.0:53"))];
            std::thread::sleep(Duration::from_millis(200));
            for loot in thieves.map(Thief::stop) {
                assert_eq!((loot.binds, loot.listens, loot.receives), (0, 0, 0), "{loot:?}");
            }
        }
        // A holder has the same rights over its shards as over a single socket, and no more.
        let _holder = Holder::new(&shards[1], SERVICE, "s.setsockopt(S, P, 0)");
        let loot = {
            let thief = Thief::tcp(address(TCP));
            std::thread::sleep(Duration::from_millis(200));
            thief.stop()
        };
        assert_eq!(loot.binds, 0, "{loot:?}");
    });
}

#[test]
fn clients_are_spread_over_the_shards_and_what_waits_is_told() {
    in_netns(|| {
        let shards = listening(&tcp(TCP, false), 4);
        let _clients = clients(200);
        let queues: Vec<u32> = shards.iter().map(waiting).collect();
        assert_eq!(queues.iter().sum::<u32>(), 200);
        assert!(queues.iter().all(|queue| *queue > 10), "{queues:?}");
        let datagrams = listening(&udp(UDP, false), 4);
        send(200, UDP);
        let queues: Vec<u32> = datagrams.iter().map(waiting).collect();
        assert!(queues.iter().all(|queue| *queue > 0), "{queues:?}");
    });
}

#[test]
fn a_group_refuses_and_serves_as_one_socket_does() {
    in_netns(|| {
        let mut shards = group(&tcp(TCP, false), 3);
        let mut datagrams = group(&udp(UDP, false), 3);
        for _ in 0..2 {
            assert_eq!(connect(TCP), Client::Refused);
            send(50, UDP);
            shards.iter_mut().chain(&mut datagrams).for_each(|socket| socket.listen().unwrap());
            assert_eq!(connect(TCP), Client::Connected);
            assert_eq!(datagrams.iter().map(waiting).sum::<u32>(), 0, "they drop");
            send(200, UDP);
            assert!(datagrams.iter().all(|socket| waiting(socket) > 0));
            shards.iter_mut().chain(&mut datagrams).for_each(|socket| socket.refuse().unwrap());
        }
    });
}

#[test]
fn a_tcp_shard_that_refuses_takes_no_client_from_those_that_listen() {
    in_netns(|| {
        let mut shards = group(&tcp(TCP, false), 2);
        shards[0].listen().unwrap();
        let _clients = clients(50);
        assert_eq!(waiting(&shards[0]), 50);
    });
}

#[test]
fn a_udp_socket_of_a_group_that_a_holder_connects_is_replaced() {
    in_netns(|| {
        let mut shards = listening(&udp(UDP, false), 2);
        drop(Holder::new(&shards[1], SERVICE, "s.connect(('127.0.0.1', 9))"));
        let mended = shards[1].mend(SocketState::Listening).unwrap();
        assert!(matches!(mended, Mended::Replaced(_)), "{mended:?}");
        send(200, UDP);
        let queues: Vec<u32> = shards.iter().map(waiting).collect();
        assert!(queues.iter().all(|queue| *queue > 0), "{queues:?}");
    });
}

#[test]
fn a_udp_socket_that_gets_company_stays_joinable_for_ever() {
    in_netns(|| {
        let mut first = bind(&udp(UDP, false));
        first.listen().unwrap();
        let options = SocketOptions { shards: 2, ..SocketOptions::default() };
        assert!(ListenerSocket::bind(&udp(UDP, false), &options).is_err(), "it is not shared yet");
        first.adjust(&options).unwrap();
        let second = ListenerSocket::bind(&udp(UDP, false), &options).unwrap();
        first.adjust(&SocketOptions::default()).unwrap();
        assert!(matches!(first.mend(SocketState::Listening), Ok(Mended::Nothing)));
        drop(second);
        assert!(ListenerSocket::bind(&udp(UDP, false), &options).is_ok());
    });
}

#[test]
fn what_waits_goes_over_to_a_sibling_where_the_kernel_does_that() {
    in_netns(|| {
        std::fs::write(MIGRATE, "1\n").unwrap();
        let mut shards = listening(&tcp(TCP, false), 2);
        let _clients = clients(60);
        assert!(shards.iter().all(|socket| waiting(socket) > 0));
        // Somebody has a copy, such as the descriptor store of a unit.
        let _copy = shards[1].as_fd().try_clone_to_owned().unwrap();
        shards.remove(1).retire();
        assert_eq!(waiting(&shards[0]), 60);
        let _more = clients(20);
        assert_eq!(waiting(&shards[0]), 80);
    });
}

#[test]
fn a_quiet_socket_ends_without_a_loss_where_nothing_goes_over() {
    in_netns(|| {
        assert_eq!(std::fs::read_to_string(MIGRATE).unwrap().trim(), "0");
        let mut shards = listening(&tcp(TCP, false), 2);
        shards[1].quieten().unwrap();
        let storm: Vec<_> = (0..60)
            .map(|_| {
                std::thread::spawn(|| {
                    // A thread is in the namespace of the one that made it.
                    let start = Instant::now();
                    (TcpStream::connect_timeout(&address(TCP), Duration::from_secs(10)), start.elapsed())
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(800));
        assert_eq!(waiting(&shards[1]), 0, "new clients pass it over");
        assert!(waiting(&shards[0]) > 10);
        shards.remove(1).retire();
        let outcomes: Vec<_> = storm.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(outcomes.iter().all(|(client, _)| client.is_ok()), "{outcomes:?}");
        let late = outcomes.iter().filter(|(_, time)| *time > Duration::from_millis(900)).count();
        assert!(late > 5, "{late} came when the other was gone");
        assert_eq!(waiting(&shards[0]), 60);
    });
}

#[test]
fn a_quiet_socket_opens_again() {
    in_netns(|| {
        let shards = listening(&tcp(TCP, false), 1);
        shards[0].quieten().unwrap();
        let timeout = TcpStream::connect_timeout(&address(TCP), Duration::from_millis(300));
        assert!(timeout.is_err());
        shards[0].reopen().unwrap();
        assert_eq!(connect(TCP), Client::Connected);
        assert_eq!(shards[0].inspect(), []);
    });
}

#[test]
fn a_quiet_udp_socket_leaves_the_datagrams_to_the_others_and_keeps_what_it_has() {
    in_netns(|| {
        for (endpoint, to) in [("0.0.0.0:53", UDP), ("[::]:54", "[::1]:54"), ("127.0.0.1:55", "127.0.0.1:55")]
        {
            let shards = listening(&udp(endpoint, false), 2);
            let own = if to.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" };
            let send = |count| {
                for _ in 0..count {
                    UdpSocket::bind(own).unwrap().send_to(b"x", to).unwrap();
                }
            };
            send(100);
            let kept = waiting(&shards[1]);
            assert!(kept > 0);
            shards[1].quieten().unwrap();
            let before = waiting(&shards[0]);
            send(100);
            assert_eq!(waiting(&shards[1]), kept);
            assert!(waiting(&shards[0]) > before);
            let thief = Thief::udp(address(to));
            assert_eq!(thief.stop().binds, 0, "it is narrowed, the address is not given away");
        }
    });
}

#[test]
fn a_successor_serves_beside_a_socket_that_a_holder_has_locked() {
    in_netns(|| {
        let lock = "attach((6, 0, 0, 0)); s.setsockopt(S, 44, 1)";
        let mut old = bind(&tcp(TCP, false));
        old.listen().unwrap();
        assert!(!old.keeps_clients_out());
        // Newer kernels let only root attach a filter to a TCP socket.
        let holder = Holder::new(&old, 0, lock);
        assert!(old.keeps_clients_out());
        let mut new = old.successor().unwrap();
        assert!(is_reserved(&new) && new.inode().unwrap() != old.inode().unwrap());
        new.listen().unwrap();
        let thief = Thief::tcp(address(TCP));
        old.retire();
        for _ in 0..20 {
            assert_eq!(connect(TCP), Client::Connected);
        }
        assert_eq!(thief.stop().binds, 0);
        drop(holder);
        let mut old = bind(&udp(UDP, false));
        old.listen().unwrap();
        let _holder = Holder::new(&old, SERVICE, lock);
        let mut new = old.successor().unwrap();
        new.listen().unwrap();
        old.retire();
        send(20, UDP);
        assert!(waiting(&new) > 0);
        assert_eq!(new.inspect(), []);
    });
}

#[test]
fn a_unix_path_is_the_successors_and_what_waits_stays_with_the_old_one() {
    use portbroker::model::SocketKind;
    use std::os::unix::net::UnixStream;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let endpoint = crate::support::unix(SocketKind::Stream, path.to_str().unwrap());
    let mut old = bind(&endpoint);
    old.listen().unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    let mut new = old.successor().unwrap();
    new.listen().unwrap();
    let _others = [UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap()];
    assert_eq!((waiting(&old), waiting(&new)), (1, 2));
    let queue = new.queue().unwrap();
    assert_eq!((queue.limit, queue.overflows), (Some(SocketOptions::default().backlog), None));
    old.retire();
    assert!(path.exists());
    assert_eq!(new.inspect(), []);
}

#[test]
fn a_full_queue_is_counted() {
    in_netns(|| {
        let options = SocketOptions { backlog: 2, ..SocketOptions::default() };
        let mut socket = ListenerSocket::bind(&tcp(TCP, false), &options).unwrap();
        socket.listen().unwrap();
        let queue = socket.queue().unwrap();
        assert_eq!((queue.waiting, queue.limit, queue.overflows), (0, Some(2), Some(0)));
        let _clients = clients(3);
        let late = TcpStream::connect_timeout(&address(TCP), Duration::from_millis(300));
        assert!(late.is_err(), "there is no room for a fourth");
        let queue = socket.queue().unwrap();
        assert_eq!((queue.waiting, queue.limit), (3, Some(2)));
        assert!(queue.overflows > Some(0), "{queue:?}");
        socket.refuse().unwrap();
        assert_eq!(waiting(&socket), 0);
        let mut datagrams = bind(&udp(UDP, false));
        datagrams.listen().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..2000 {
            client.send_to(&[0; 512], UDP).unwrap();
        }
        let queue = datagrams.queue().unwrap();
        assert!(
            queue.waiting > 100_000 && queue.limit > Some(100_000) && queue.overflows > Some(0),
            "{queue:?}"
        );
    });
}

#[test]
fn a_service_that_binds_for_itself_is_no_part_of_the_group() {
    in_netns(|| {
        let shards = listening(&tcp(TCP, false), 2);
        assert!(TcpListener::bind(TCP).is_err());
        drop(shards);
        assert!(TcpListener::bind(TCP).is_ok());
    });
}
