//! What an earlier daemon wrote down: read, or refused; what is read is the same when it is written and read again.
//!
//! The first byte chooses the table.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portbroker::kernel::journal::understood;
use portbroker::learn;
use portbroker::leases::{Event, Ledger};
use portbroker::state::{Deposits, Drained, Holders, MigrateRequests, ReservedPorts, Table, read, write};
use std::fmt::Debug;
use std::time::Instant;

const BOOT: &str = "11111111-2222-3333-4444-555555555555";

fn table<T: Table + PartialEq + Debug>(text: &str) {
    let Ok(Some(table)) = read::<T>(text, BOOT) else { return };
    let written = write(&table, BOOT).unwrap();
    let again: T = read(&written, BOOT).unwrap().unwrap();
    assert_eq!(write(&again, BOOT).unwrap(), written);
}

fn events(records: &[Vec<u8>]) {
    let Ok(events) = records.iter().map(|record| Event::all_of(record)).collect::<Result<Vec<_>, _>>() else {
        return;
    };
    let events: Vec<Event> = events.into_iter().flatten().collect();
    for event in &events {
        assert_eq!(Event::from_bytes(&event.to_bytes().unwrap()).as_ref(), Ok(event));
    }
    let now = Instant::now();
    let ledger = Ledger::restore(events, now);
    let again = Ledger::restore(ledger.snapshot(), now);
    assert_eq!(again.contradictions(), 0);
    let rows = |ledger: &Ledger| {
        let mut rows = ledger.rows(None, portbroker::model::LeaseId(0), usize::MAX);
        rows.iter_mut().for_each(|row| row.ranges.sort_unstable());
        rows
    };
    assert_eq!(rows(&again), rows(&ledger));
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, rest)) = bytes.split_first() else { return };
    let text = || std::str::from_utf8(rest).unwrap_or_default();
    match which % 9 {
        0 => table::<Holders>(text()),
        1 => table::<Deposits>(text()),
        2 => table::<ReservedPorts>(text()),
        3 => table::<MigrateRequests>(text()),
        4 => table::<Drained>(text()),
        5 => {
            let Ok(memory) = learn::from_text(text()) else { return };
            let written = memory.to_text().unwrap();
            assert_eq!(learn::from_text(&written).unwrap().to_text().unwrap(), written);
        }
        6 => {
            let Ok(content) = understood(rest, BOOT) else { return };
            assert!(content.whole <= rest.len());
            events(&content.records);
        }
        // Nobody guesses a checksum: records without their frame.
        7 => events(&[rest.to_vec()]),
        _ => {
            let events_of = rest.split(|byte| *byte == 0xff).filter_map(|bytes| Event::from_bytes(bytes).ok());
            let mut record = Vec::new();
            events_of.for_each(|event| event.append_to(&mut record).unwrap());
            events(&[record]);
        }
    }
});
