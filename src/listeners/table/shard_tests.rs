//! Shards in the table: growing, shrinking, renewing.

use super::tests::{name, obey, tcp};
use super::*;
use crate::config::{Idle, ListenerConfig, Origin, SocketOptions};
use crate::model::{InetEndpoint, SocketKind};
use proptest::prelude::*;
use std::sync::Arc;

fn udp() -> Endpoint {
    let address = "127.0.0.1:53".parse().unwrap();
    Endpoint::Inet(InetEndpoint::new(SocketKind::Datagram, address, false, None).unwrap())
}

fn wanted(endpoints: &[Endpoint], shards: u16) -> BTreeMap<ListenerName, Arc<ListenerConfig>> {
    let config = ListenerConfig {
        endpoints: endpoints.to_vec(),
        allow: Vec::new(),
        idle: Idle::Queue,
        options: SocketOptions { shards, ..SocketOptions::default() },
        activate: None,
        origin: Origin::default(),
    };
    BTreeMap::from([(name("web"), config.into())])
}

fn states(table: &Table) -> Vec<Option<Target>> {
    table.get("web").unwrap().1.slots.iter().map(|slot| slot.state).collect()
}

const LISTENS: Option<Target> = Some(Target::Listening);
const REFUSES: Option<Target> = Some(Target::Refusing);

#[test]
fn each_endpoint_has_its_shards_one_after_the_other() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.configure(&wanted(&[tcp(1), tcp(2)], 2), now);
    obey(&mut table, now);
    let slots = &table.get("web").unwrap().1.slots;
    let order: Vec<_> = slots.iter().map(|slot| (slot.endpoint.clone(), slot.shard)).collect();
    assert_eq!(order, [(tcp(1), 0), (tcp(1), 1), (tcp(2), 0), (tcp(2), 1)]);
    assert_eq!(states(&table), [LISTENS; 4]);
}

#[test]
fn a_shard_that_no_holder_has_takes_no_clients_until_it_is_handed_over() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.configure(&wanted(&[tcp(1), udp()], 1), now);
    obey(&mut table, now);
    table.hold(&name("web"), HolderId(1), now);
    table.configure(&wanted(&[tcp(1), udp()], 3), now);
    obey(&mut table, now);
    assert_eq!(states(&table), [LISTENS, REFUSES, REFUSES, LISTENS, None, None]);
    assert_eq!(table.next_due(), None);
    let opened = table.open(&name("web"), now);
    assert_eq!(opened.len(), 4);
    table.wait_again(&name("web"), &opened, now);
    obey(&mut table, now);
    assert_eq!(states(&table), [LISTENS, REFUSES, REFUSES, LISTENS, None, None]);
    table.open(&name("web"), now);
    obey(&mut table, now);
    table.hold(&name("web"), HolderId(2), now);
    assert_eq!(states(&table), [LISTENS; 6]);
}

#[test]
fn when_nobody_holds_it_any_more_all_shards_take_clients() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.configure(&wanted(&[tcp(1)], 1), now);
    obey(&mut table, now);
    table.hold(&name("web"), HolderId(1), now);
    table.configure(&wanted(&[tcp(1)], 2), now);
    obey(&mut table, now);
    assert_eq!(states(&table), [LISTENS, REFUSES]);
    table.release(HolderId(1), now);
    obey(&mut table, now);
    assert_eq!(states(&table), [LISTENS; 2]);
}

#[test]
fn surplus_shards_are_drained_and_closed_with_their_endpoint() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.configure(&wanted(&[tcp(1), tcp(2)], 3), now);
    obey(&mut table, now);
    table.hold(&name("web"), HolderId(1), now);
    let ids: Vec<_> = table.get("web").unwrap().1.slots.iter().map(|slot| slot.id).collect();
    let change = table.configure(&wanted(&[tcp(1), tcp(2)], 2), now);
    assert_eq!(change.close, []);
    let draining: Vec<_> = table.draining().iter().map(|(id, drain)| (id, drain.holders.len())).collect();
    assert_eq!(draining, [(ids[2], 1), (ids[5], 1)]);
    let change = table.configure(&wanted(&[tcp(2)], 2), now);
    assert_eq!((change.close, change.linger), (vec![], vec![ids[0], ids[1], ids[2]]));
    let ended = table.release(HolderId(1), now).ended;
    assert_eq!(ended.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids[..3]);
    assert_eq!(table.draining().unheld().collect::<Vec<_>>(), [ids[5]]);
}

#[test]
fn a_successor_waits_where_the_old_socket_serves_its_holders() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.configure(&wanted(&[tcp(1)], 1), now);
    obey(&mut table, now);
    let id = table.get("web").unwrap().1.slots[0].id;
    let second = table.succeed(id, true, now).unwrap();
    obey(&mut table, now);
    assert_eq!(states(&table), [LISTENS], "nobody holds it, so nobody serves the old one");
    table.hold(&name("web"), HolderId(1), now);
    let third = table.succeed(second, true, now).unwrap();
    obey(&mut table, now);
    assert_eq!(states(&table), [REFUSES]);
    assert!(table.slot(second).is_none() && table.slot(third).is_some());
    assert_eq!(table.draining().unheld().collect::<Vec<_>>(), [id]);
    table.succeed(third, false, now).unwrap();
    obey(&mut table, now);
    assert_eq!(states(&table), [LISTENS], "the old one keeps clients out");
}

#[test]
fn after_a_start_what_does_not_listen_beside_one_that_is_served_waits() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.configure(&wanted(&[tcp(1)], 2), now);
    let ids: Vec<_> = table.get("web").unwrap().1.slots.iter().map(|slot| slot.id).collect();
    table.succeeded(ids[0], Target::Listening, now);
    table.succeeded(ids[1], Target::Refusing, now);
    table.hold(&name("web"), HolderId(1), now);
    table.wait_where_served();
    obey(&mut table, now);
    assert_eq!(states(&table), [LISTENS, REFUSES]);
    // The same beside an old socket that its holder has.
    let mut table = Table::default();
    table.configure(&wanted(&[tcp(1)], 1), now);
    let id = table.get("web").unwrap().1.slots[0].id;
    table.succeeded(id, Target::Refusing, now);
    table.hold(&name("web"), HolderId(1), now);
    table.adopt_draining(&tcp(1), BTreeSet::from([HolderId(1)]));
    table.wait_where_served();
    obey(&mut table, now);
    assert_eq!(states(&table), [REFUSES]);
    table.release(HolderId(1), now);
    obey(&mut table, now);
    assert_eq!(states(&table), [LISTENS]);
}

proptest! {
    /// However the number of shards changes while holders come and go: no socket that is bound is closed while its
    /// endpoint is configured, each endpoint has at least one that listens, and when nobody holds it all of them do.
    #[test]
    fn no_socket_is_lost_and_each_endpoint_is_served(
        events in proptest::collection::vec((0u8..4, 1u16..6, 0u64..3), 1..40),
    ) {
        let (mut table, now) = (Table::default(), Instant::now());
        let web = name("web");
        let mut sockets = HashSet::new();
        table.configure(&wanted(&[tcp(1)], 1), now);
        for (event, shards, holder) in events {
            match event {
                0 => prop_assert_eq!(table.configure(&wanted(&[tcp(1)], shards), now).close, []),
                1 => {
                    table.open(&web, now);
                    obey(&mut table, now);
                    table.hold(&web, HolderId(holder), now);
                    prop_assert!(states(&table).iter().all(|state| *state == LISTENS));
                }
                2 => drop(table.release(HolderId(holder), now)),
                _ => {
                    let id = table.get("web").unwrap().1.slots[0].id;
                    if table.slot(id).unwrap().state.is_some() {
                        table.succeed(id, holder == 0, now).unwrap();
                    }
                }
            }
            obey(&mut table, now);
            let (_, listener) = table.get("web").unwrap();
            let there: HashSet<SocketId> = listener
                .slots
                .iter()
                .map(|slot| slot.id)
                .chain(table.draining().iter().map(|(id, _)| id))
                .collect();
            sockets.extend(there.iter().copied());
            prop_assert_eq!(&sockets, &there);
            let held: usize = table.draining().iter().filter(|(_, drain)| !drain.holders.is_empty()).count();
            let listens = listener.slots.iter().any(|slot| slot.state == LISTENS);
            prop_assert!(listens || held > 0, "nobody serves it: {listener:?}");
            if listener.holders.is_empty() {
                prop_assert!(listener.slots.iter().all(|slot| slot.state == LISTENS));
            }
        }
    }
}
