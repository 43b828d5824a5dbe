//! What the kernel tells of TCP sockets that end, and when; and that a burst is told as such.

use crate::netns::{in_netns, undisturbed};
use crate::outbound_support::{D1, S1, connect, cookie, leased, pair, pair_as, reset, tcp};
use crate::support::address;
use portbroker::kernel::destroyed::{Closed, Destroyed, Overflow, ROOM};
use portbroker::kernel::tuples::Lookup;
use portbroker::model::Seen;
use std::future::Future;
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

/// Runs a task on a runtime of one thread, the calling one, and so in its network namespace.
fn run<F: Future>(task: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(task)
}

async fn soon(events: &mut Destroyed) -> Result<Closed, Overflow> {
    tokio::time::timeout(Duration::from_secs(5), events.next()).await.expect("an event")
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
            let told = [soon(&mut events).await.unwrap(), soon(&mut events).await.unwrap()];
            let of = |cookie| *told.iter().find(|closed| closed.cookie == cookie).unwrap();
            assert_eq!((of(near).local, of(near).remote), (address(S1), address(D1)));
            assert_eq!((of(far).local, of(far).remote), (address(D1), address(S1)));
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
            let told = [soon(&mut events).await.unwrap(), soon(&mut events).await.unwrap()];
            let mut cookies = told.map(|closed| closed.cookie);
            cookies.sort_unstable();
            assert_eq!(cookies, [near.min(far), near.max(far)]);
            let of = told.iter().find(|closed| closed.cookie == near).unwrap();
            assert_eq!((of.local, of.remote.port()), (address(S1), 0), "who resets forgets whom");
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
            let told = rest(&mut events).await;
            let closed = told.iter().flatten().find(|closed| closed.cookie == near).unwrap();
            assert_eq!((closed.local, closed.remote), (address("[::1]:46000"), address("[::1]:8081")));
            // An IPv6 socket that talks IPv4 has an IPv4 tuple here too.
            let listener = TcpListener::bind(D1).unwrap();
            let (client, accepted) =
                pair_as("[::ffff:127.0.0.1]:46000", "[::ffff:127.0.0.9]:8081", &listener);
            let near = cookie(&client);
            undisturbed(|| drop(client));
            undisturbed(|| drop(accepted));
            let told = rest(&mut events).await;
            let closed = told.iter().flatten().find(|closed| closed.cookie == near).unwrap();
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
            let mut events = Destroyed::subscribe(1).unwrap();
            let listener = TcpListener::bind(D1).unwrap();
            let burst: Vec<_> =
                (20_000..20_200).map(|port| pair(&format!("127.0.0.1:{port}"), &listener)).collect();
            undisturbed(|| drop(burst));
            tokio::time::sleep(Duration::from_millis(300)).await;
            let told = rest(&mut events).await;
            assert!(told.contains(&Err(Overflow)), "{} events", told.len());
            assert!(told.len() < 400, "{} events", told.len());
            let (client, accepted) = pair(S1, &listener);
            let near = cookie(&client);
            undisturbed(|| drop(client));
            undisturbed(|| drop(accepted));
            let later = rest(&mut events).await;
            assert!(later.iter().flatten().any(|closed| closed.cookie == near), "{later:?}");
        });
    });
}

#[test]
fn a_burst_that_fits_is_told_whole() {
    in_netns(|| {
        run(async {
            let mut events = Destroyed::subscribe(ROOM).unwrap();
            let listener = TcpListener::bind(D1).unwrap();
            let burst: Vec<_> =
                (20_000..20_400).map(|port| pair(&format!("127.0.0.1:{port}"), &listener)).collect();
            let mut cookies: Vec<_> = burst.iter().map(|(client, _)| cookie(client)).collect();
            undisturbed(|| drop(burst));
            let told = rest(&mut events).await;
            cookies.retain(|own| !told.iter().flatten().any(|closed| closed.cookie == *own));
            assert!(cookies.is_empty(), "{cookies:?}");
        });
    });
}
