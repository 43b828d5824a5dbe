//! What the kernel tells of TCP sockets that end, and when; and that a burst is told as such.

use crate::netns::{in_netns, undisturbed};
use crate::outbound_support::{D1, S1, close, connect, cookie, leased, pair, pair_as, reset, tcp};
use crate::support::address;
use portbroker::kernel::destroyed::{Closed, Destroyed, Overflow, ROOM};
use portbroker::kernel::tuples::Lookup;
use portbroker::model::Seen;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

/// Runs a task on a runtime of one thread, the calling one, and so in its network namespace.
fn run<F: Future>(task: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(task)
}

/// The kernel tells it when it has the time.
async fn soon(events: &mut Destroyed) -> Result<Closed, Overflow> {
    tokio::time::timeout(Duration::from_secs(20), events.next()).await.expect("an event")
}

/// What is told of these sockets; others may be told of before.
async fn ends_of(events: &mut Destroyed, cookies: &[u64]) -> Result<Vec<Closed>, Overflow> {
    let mut told = BTreeMap::new();
    while !cookies.iter().all(|cookie| told.contains_key(cookie)) {
        let closed = soon(events).await?;
        told.insert(closed.cookie, closed);
    }
    Ok(cookies.iter().map(|cookie| told[cookie]).collect())
}

/// All that is told until it is quiet for a while.
async fn rest(events: &mut Destroyed) -> Vec<Result<Closed, Overflow>> {
    let mut told = Vec::new();
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(200), events.next()).await {
        told.push(event);
    }
    told
}

#[test]
fn the_end_of_a_socket_is_told_when_its_time_wait_begins_and_not_when_that_is_over() {
    in_netns(|| {
        run(async {
            let mut events = Destroyed::subscribe(ROOM).unwrap();
            let listener = TcpListener::bind(D1).unwrap();
            let (client, accepted) = pair(S1, &listener);
            let (near, far) = (cookie(&client), cookie(&accepted));
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(rest(&mut events).await, [], "FIN_WAIT2 of an owner is no end");
            undisturbed(|| drop(accepted));
            undisturbed(|| drop(client));
            let told = ends_of(&mut events, &[near, far]).await.unwrap();
            assert_eq!((told[0].local, told[0].remote), (address(S1), address(D1)));
            assert_eq!((told[1].local, told[1].remote), (address(D1), address(S1)));
            let seen = Lookup::new().unwrap().look(&tcp(S1, D1)).unwrap();
            assert!(matches!(seen, Seen::TimeWait(_)), "{seen:?}");
            assert_eq!(rest(&mut events).await, []);
        });
    });
}

#[test]
fn a_socket_in_fin_wait_2_that_nobody_has_any_more_is_told_as_ended_and_still_holds_its_tuple() {
    in_netns(|| {
        run(async {
            let mut events = Destroyed::subscribe(ROOM).unwrap();
            let listener = TcpListener::bind(D1).unwrap();
            let (client, accepted) = pair(S1, &listener);
            let near = cookie(&client);
            undisturbed(|| drop(client));
            assert_eq!(soon(&mut events).await.unwrap().cookie, near);
            let seen = Lookup::new().unwrap().look(&tcp(S1, D1)).unwrap();
            assert!(matches!(seen, Seen::Open { cookie, .. } if cookie == near), "{seen:?}");
            drop(accepted);
        });
    });
}

#[test]
fn after_a_reset_and_a_refusal_only_the_cookie_tells_which_socket_it_was() {
    in_netns(|| {
        run(async {
            let mut events = Destroyed::subscribe(ROOM).unwrap();
            let listener = TcpListener::bind(D1).unwrap();
            let (client, accepted) = pair(S1, &listener);
            let (near, far) = (cookie(&client), cookie(&accepted));
            reset(&client);
            undisturbed(|| drop(client));
            undisturbed(|| drop(accepted));
            let told = ends_of(&mut events, &[near, far]).await.unwrap();
            assert_eq!((told[0].local, told[0].remote.port()), (address(S1), 0), "who resets forgets whom");
            let refused = leased("127.0.0.1:46001").unwrap();
            let own = cookie(&refused);
            assert!(connect(&refused, "127.0.0.9:9999").is_err());
            assert_eq!(rest(&mut events).await, [], "it is open");
            undisturbed(|| drop(refused));
            let closed = soon(&mut events).await.unwrap();
            assert_eq!((closed.cookie, closed.remote.port()), (own, 0));
        });
    });
}

#[test]
fn ipv6_sockets_are_told_of_too() {
    in_netns(|| {
        run(async {
            let mut events = Destroyed::subscribe(ROOM).unwrap();
            let listener = TcpListener::bind("[::1]:8081").unwrap();
            let (client, accepted) = pair("[::1]:46000", &listener);
            let near = cookie(&client);
            undisturbed(|| drop(client));
            undisturbed(|| drop(accepted));
            let closed = ends_of(&mut events, &[near]).await.unwrap()[0];
            assert_eq!((closed.local, closed.remote), (address("[::1]:46000"), address("[::1]:8081")));
            // An IPv6 socket that talks IPv4 has an IPv4 tuple here too.
            let listener = TcpListener::bind(D1).unwrap();
            let (client, accepted) =
                pair_as("[::ffff:127.0.0.1]:46000", "[::ffff:127.0.0.9]:8081", &listener);
            let near = cookie(&client);
            undisturbed(|| drop(client));
            undisturbed(|| drop(accepted));
            let closed = ends_of(&mut events, &[near]).await.unwrap()[0];
            assert_eq!((closed.local, closed.remote), (address(S1), address(D1)));
        });
    });
}

#[test]
fn another_network_namespace_is_not_told_of() {
    in_netns(|| {
        run(async {
            let mut events = Destroyed::subscribe(ROOM).unwrap();
            in_netns(|| {
                let listener = TcpListener::bind(D1).unwrap();
                drop(pair(S1, &listener));
            });
            assert_eq!(rest(&mut events).await, []);
        });
    });
}

#[test]
fn a_burst_is_told_as_an_overflow_and_what_comes_later_is_told_again() {
    in_netns(|| {
        run(async {
            let mut events = Destroyed::subscribe(32 << 10).unwrap();
            let listener = TcpListener::bind(D1).unwrap();
            for _ in 0..3 {
                burst_until_overflow(&mut events, &listener).await;
                let later = async || {
                    let (client, accepted) = pair(S1, &listener);
                    let near = cookie(&client);
                    close((client, accepted));
                    ends_of(&mut events, &[near]).await
                };
                assert!(until_whole(later).await);
            }
        });
    });
}

/// Ends more sockets at once than there is room for, and reads no sooner than they all ended.
async fn burst_until_overflow(events: &mut Destroyed, listener: &TcpListener) {
    for _ in 0..20 {
        let burst: Vec<_> =
            (20_000..20_400).map(|port| pair(&format!("127.0.0.1:{port}"), listener)).collect();
        burst.iter().for_each(|(client, _)| reset(client));
        undisturbed(|| drop(burst));
        std::thread::sleep(Duration::from_millis(300));
        // Whoever looks at everything then must not miss what ends from that moment on.
        while let Ok(event) = tokio::time::timeout(Duration::from_millis(200), events.next()).await {
            if event == Err(Overflow) {
                return;
            }
        }
    }
    panic!("no overflow");
}

/// Of what is left of the burst some may be lost too.
async fn until_whole(mut act: impl AsyncFnMut() -> Result<Vec<Closed>, Overflow>) -> bool {
    for _ in 0..100 {
        if act().await.is_ok() {
            return true;
        }
    }
    false
}

#[test]
fn a_burst_that_fits_is_told_whole() {
    in_netns(|| {
        run(async {
            let mut events = Destroyed::subscribe(ROOM).unwrap();
            let listener = TcpListener::bind(D1).unwrap();
            let burst: Vec<_> =
                (20_000..20_400).map(|port| pair(&format!("127.0.0.1:{port}"), &listener)).collect();
            let cookies: Vec<_> = burst.iter().map(|(client, _)| cookie(client)).collect();
            undisturbed(|| drop(burst));
            assert_eq!(ends_of(&mut events, &cookies).await.unwrap().len(), 400);
        });
    });
}
