use super::*;
use crate::model::{InetEndpoint, UnixAddress, UnixEndpoint};
use proptest::prelude::*;

fn inet(kind: SocketKind) -> Endpoint {
    Endpoint::Inet(InetEndpoint::new(kind, "127.0.0.1:1".parse().unwrap(), false, None).unwrap())
}

fn unix() -> Endpoint {
    Endpoint::Unix(UnixEndpoint { kind: SocketKind::Stream, address: UnixAddress::parse("/run/x").unwrap() })
}

const ID: SocketId = SocketId::first();
const FACTS: Facts = Facts { waiting: false, listens: true, migrates: false };

fn one(endpoint: Endpoint) -> Draining {
    let mut draining = Draining::default();
    draining.add(ID, endpoint, BTreeSet::from([HolderId(1), HolderId(2)]));
    draining
}

fn released(endpoint: Endpoint) -> Draining {
    let mut draining = one(endpoint);
    draining.release(HolderId(1));
    draining.release(HolderId(2));
    draining
}

#[test]
fn it_is_its_holders_as_long_as_one_of_them_lives() {
    let (mut draining, now) = (one(inet(SocketKind::Stream)), Instant::now());
    assert_eq!(draining.step(ID, FACTS, now), DrainStep::Leave);
    draining.release(HolderId(1));
    assert_eq!((draining.unheld().count(), draining.step(ID, FACTS, now)), (0, DrainStep::Leave));
    draining.release(HolderId(2));
    assert_eq!(draining.unheld().collect::<Vec<_>>(), [ID]);
}

#[test]
fn where_what_waits_goes_over_it_is_closed_at_once() {
    let mut draining = released(inet(SocketKind::Stream));
    let facts = Facts { waiting: true, migrates: true, ..FACTS };
    assert_eq!(draining.step(ID, facts, Instant::now()), DrainStep::Close);
    assert_eq!(draining.iter().count(), 0);
}

#[test]
fn else_it_is_quiet_before_it_is_closed_and_takes_clients_again_where_some_had_come() {
    let (mut draining, start) = (released(inet(SocketKind::Stream)), Instant::now());
    let waiting = Facts { waiting: true, ..FACTS };
    assert_eq!(draining.step(ID, waiting, start), DrainStep::Leave, "for the next holder");
    assert_eq!(draining.next_due(), None, "nothing changes by itself");
    assert_eq!(draining.step(ID, FACTS, start), DrainStep::Quieten);
    assert_eq!(draining.next_due(), Some(start + QUIET));
    assert_eq!(draining.step(ID, waiting, start + QUIET / 2), DrainStep::Leave);
    assert_eq!(draining.step(ID, waiting, start + QUIET), DrainStep::Reopen);
    assert_eq!(draining.step(ID, FACTS, start + QUIET), DrainStep::Quieten);
    assert_eq!(draining.step(ID, FACTS, start + QUIET * 2), DrainStep::Close);
    assert_eq!(draining.next_due(), None);
}

#[test]
fn datagrams_and_unix_clients_that_wait_are_for_the_next_holder_and_no_more_come() {
    let now = Instant::now();
    let waiting = Facts { waiting: true, ..FACTS };
    let mut udp = released(inet(SocketKind::Datagram));
    assert_eq!(udp.step(ID, waiting, now), DrainStep::Quieten);
    assert_eq!((udp.step(ID, waiting, now), udp.next_due()), (DrainStep::Leave, None));
    udp.hold(ID, HolderId(3));
    assert_eq!(udp.step(ID, FACTS, now), DrainStep::Leave);
    udp.release(HolderId(3));
    assert_eq!(udp.step(ID, FACTS, now), DrainStep::Close);
    let mut unix = released(unix());
    assert_eq!(unix.step(ID, waiting, now), DrainStep::Leave);
    assert_eq!(unix.step(ID, FACTS, now), DrainStep::Close);
}

#[test]
fn where_clients_are_refused_anyway_nothing_is_waited_for() {
    for endpoint in [inet(SocketKind::Stream), inet(SocketKind::Datagram), unix()] {
        let facts = Facts { waiting: true, listens: false, migrates: false };
        assert_eq!(released(endpoint).step(ID, facts, Instant::now()), DrainStep::Close);
    }
}

proptest! {
    /// Whatever happens: what waits is lost only where it goes over or clients are refused; nobody's socket is closed
    /// under him; and what nobody has and in which nothing waits is closed after a finite time.
    #[test]
    fn nothing_that_waits_is_closed_and_nothing_else_stays(
        kind in 0usize..3,
        events in proptest::collection::vec((any::<bool>(), any::<bool>(), 0u64..1500, 0u64..3), 0..20),
    ) {
        let endpoint = [inet(SocketKind::Stream), inet(SocketKind::Datagram), unix()][kind].clone();
        let (mut draining, mut now) = (one(endpoint.clone()), Instant::now());
        let tcp = kind == 0;
        for (waiting, migrates, millis, holder) in events {
            now += Duration::from_millis(millis);
            draining.release(HolderId(holder));
            let held = draining.unheld().count() == 0;
            let facts = Facts { waiting, migrates, listens: true };
            let step = draining.step(ID, facts, now);
            if step == DrainStep::Close {
                prop_assert!(!held && (!waiting || (migrates && tcp)));
                return Ok(());
            }
            prop_assert!(!held || step == DrainStep::Leave);
        }
        for holder in 0..3 {
            draining.release(HolderId(holder));
        }
        for _ in 0..4 {
            if draining.step(ID, FACTS, now) == DrainStep::Close {
                return Ok(());
            }
            now = draining.next_due().unwrap_or(now);
        }
        prop_assert!(false, "it stays for ever: {draining:?}");
    }
}
