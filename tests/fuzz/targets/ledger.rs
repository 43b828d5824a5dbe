//! Commands to the ledger, each held against plain sets of tuples that are searched from end to end.

#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use portbroker::config::{Quota, Spread};
use portbroker::leases::tests::world::{Command, World};
use portbroker::leases::{Guarantee, Kind};
use portbroker::model::Owner;

/// The naive ledger takes some tenths of a millisecond for each.
const MOST: usize = 40;

fn command(input: &mut Unstructured<'_>) -> Result<Command> {
    let which = |input: &mut Unstructured<'_>| input.int_in_range(0_usize..=99);
    Ok(match input.int_in_range(0_u8..=19)? {
        0 => Command::Open { owner: input.int_in_range(0..=2)? },
        1..=6 => {
            let (session, pool) = (which(input)?, input.int_in_range(0..=1)?);
            let (udp, to) = (input.ratio(1_u8, 5)?, input.int_in_range(0..=3)?);
            let kind = *input.choose(&[Kind::Pairs, Kind::Blocks, Kind::Sockets])?;
            let ports = input.int_in_range(1_u32..=700)?;
            let minimum = input.int_in_range(1_u32..=200)?;
            Command::Lease { session, pool, udp, to, kind, ports, minimum }
        }
        7 | 8 => Command::Release { lease: which(input)?, fate: u8::arbitrary(input)? },
        9 => Command::End { session: which(input)?, fate: u8::arbitrary(input)? },
        10 => Command::Replace { lease: which(input)?, port: input.int_in_range(0..=999)? },
        11 | 12 => Command::Look { most: input.int_in_range(1..=299)? },
        13 => Command::Fail,
        14 => Command::Close { socket: which(input)?, told: bool::arbitrary(input)? },
        15 => Command::Overflow,
        16 => Command::Wait { milliseconds: input.int_in_range(1..=20_000)? },
        17 => Command::Addresses { pool: input.int_in_range(0..=1)?, mask: u8::arbitrary(input)? },
        18 => Command::Zone { pool: input.int_in_range(0..=1)?, zone: input.int_in_range(0..=2)? },
        _ => match u8::arbitrary(input)? % 8 {
            1 | 3 | 5 | 7 => Command::Drain { address: input.int_in_range(0..=4)? },
            6 => Command::Guarantee { pool: input.int_in_range(0..=1)?, guarantee: guarantee(input)? },
            _ => Command::Restart { snapshot: bool::arbitrary(input)? },
        },
    })
}

fn guarantee(input: &mut Unstructured<'_>) -> Result<Option<Guarantee>> {
    if !bool::arbitrary(input)? {
        return Ok(None);
    }
    let ports = input.int_in_range(1..=200)?;
    let named = if ports % 2 == 0 { vec![Owner::User(1), Owner::User(9)] } else { Vec::new() };
    Ok(Some(Guarantee { ports, named: named.into_iter().collect(), others: ports % 3 == 0 }))
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Unstructured::new(bytes);
    let spread = input.choose(&[Spread::LeastUsed, Spread::RoundRobin, Spread::Sticky]);
    let spread = *spread.unwrap_or(&Spread::LeastUsed);
    let quota = input.choose(&[Quota::None, Quota::PortsPerCaller(300), Quota::Quarter]);
    let quota = *quota.unwrap_or(&Quota::None);
    let guarantee = guarantee(&mut input).unwrap_or_default();
    let commands = std::iter::from_fn(|| if input.is_empty() { None } else { command(&mut input).ok() });
    World::new([spread, Spread::LeastUsed], [quota, Quota::None], guarantee).run_all(commands.take(MOST));
});
