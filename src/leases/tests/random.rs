//! Random commands, held against the naive ledger.

use super::super::*;
use super::world::{Command, World};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn command() -> impl Strategy<Value = Command> {
    let kind = prop_oneof![Just(Kind::Pairs), Just(Kind::Blocks), Just(Kind::Sockets)];
    let ports = prop_oneof![1u32..8, 1u32..80, Just(64), 100u32..700];
    let which = 0usize..100;
    prop_oneof![
        1 => (0u32..3).prop_map(|owner| Command::Open { owner }),
        10 => (which.clone(), 0usize..2, prop::bool::weighted(0.2), 0usize..4, kind, ports, 1u32..200).prop_map(
            |(session, pool, udp, to, kind, ports, minimum)| Command::Lease {
                session, pool, udp, to, kind, ports, minimum
            }
        ),
        4 => (which.clone(), any::<u8>()).prop_map(|(lease, fate)| Command::Release { lease, fate }),
        1 => (which.clone(), any::<u8>()).prop_map(|(session, fate)| Command::End { session, fate }),
        1 => (which.clone(), 0usize..1000).prop_map(|(lease, port)| Command::Replace { lease, port }),
        5 => (1usize..300).prop_map(|most| Command::Look { most }),
        1 => Just(Command::Fail),
        1 => (which.clone(), any::<bool>()).prop_map(|(socket, told)| Command::Close { socket, told }),
        1 => Just(Command::Overflow),
        4 => (1u64..20_000).prop_map(|milliseconds| Command::Wait { milliseconds }),
        1 => (0usize..2, any::<u8>()).prop_map(|(pool, mask)| Command::Addresses { pool, mask }),
        1 => (0usize..2, 0usize..3).prop_map(|(pool, zone)| Command::Zone { pool, zone }),
        1 => (0usize..5).prop_map(|address| Command::Drain { address }),
        1 => (0usize..2, guarantee()).prop_map(|(pool, guarantee)| Command::Guarantee { pool, guarantee }),
        1 => any::<bool>().prop_map(|snapshot| Command::Restart { snapshot }),
    ]
}

fn guarantee() -> impl Strategy<Value = Option<Guarantee>> {
    let guarantee = (prop_oneof![1u32..20, 50u32..200], any::<bool>(), any::<bool>());
    prop::option::of(guarantee.prop_map(|(ports, named, others)| {
        let named = [Owner::User(1), Owner::User(9)].into_iter().filter(|_| named).collect();
        Guarantee { ports, named, others }
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_ledger_is_what_plain_sets_of_tuples_are(
        spread in prop_oneof![Just(Spread::LeastUsed), Just(Spread::RoundRobin), Just(Spread::Sticky)],
        quota in prop_oneof![Just(Quota::None), Just(Quota::PortsPerCaller(300)), Just(Quota::Quarter)],
        guarantee in guarantee(),
        commands in prop::collection::vec(command(), 1..60),
    ) {
        World::new([spread, Spread::LeastUsed], [quota, Quota::None], guarantee).run_all(commands);
    }
}

/// What the fuzzer found, with the fewest commands that show it.
fn found(guarantee: Option<Guarantee>, commands: impl IntoIterator<Item = Command>) {
    World::new([Spread::LeastUsed; 2], [Quota::None; 2], guarantee).run_all(commands);
}

/// So many ports, or as blocks at most so many.
fn lease(kind: Kind, session: usize, pool: usize, to: usize, ports: u32) -> Command {
    Command::Lease { session, pool, udp: false, to, kind, ports, minimum: 1 }
}

#[test]
fn a_caller_that_comes_back_without_asking_is_kept_nothing() {
    let guarantee = Guarantee { ports: 94, named: [Owner::User(1), Owner::User(9)].into(), others: false };
    found(
        Some(guarantee),
        [
            Command::Open { owner: 2 },
            lease(Kind::Pairs, 0, 0, 2, 447),
            Command::End { session: 0, fate: 0 },
            Command::Open { owner: 0 },
            lease(Kind::Pairs, 0, 0, 0, 591),
        ],
    );
}

#[test]
fn what_cools_of_another_pool_is_nobodys_of_this_one() {
    let guarantee = Guarantee { ports: 27, named: BTreeSet::new(), others: true };
    found(
        None,
        [
            lease(Kind::Pairs, 0, 1, 2, 334),
            Command::Release { lease: 0, fate: 176 },
            lease(Kind::Pairs, 0, 0, 2, 237),
            Command::Guarantee { pool: 1, guarantee: Some(guarantee) },
            Command::Release { lease: 0, fate: 140 },
            lease(Kind::Blocks, 0, 1, 3, 63),
        ],
    );
}

#[test]
fn what_is_used_after_a_lease_is_its_owners_though_another_had_it_since() {
    let guarantee = Guarantee { ports: 11, named: BTreeSet::new(), others: false };
    found(
        None,
        [
            Command::Open { owner: 1 },
            lease(Kind::Pairs, 0, 0, 0, 1),
            Command::Release { lease: 0, fate: 7 },
            Command::Look { most: 10 },
            Command::Wait { milliseconds: 500 },
            lease(Kind::Pairs, 1, 0, 0, 1),
            Command::Release { lease: 0, fate: 0 },
            Command::Look { most: 10 },
            Command::Wait { milliseconds: 1600 },
            Command::Look { most: 1 },
            Command::Guarantee { pool: 0, guarantee: Some(guarantee) },
            lease(Kind::Pairs, 1, 0, 0, 600),
        ],
    );
}
