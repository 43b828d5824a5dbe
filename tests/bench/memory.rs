//! What the daemon keeps in memory when it has nothing to do, with few listeners and with many.

use crate::daemon::Daemon;
use crate::measure::{Samples, Table, Target, row};
use crate::place::{daemon_at, listener};
use std::time::Duration;

pub(crate) fn measure() -> Table {
    of(10, 10.0)
}

pub(crate) fn measure_many() -> Table {
    of(10_000, 30.0)
}

/// So many listeners, and the most megabytes that should be resident.
fn of(listeners: u16, limit: f64) -> Table {
    let tables: String = (0..listeners).map(|n| listener(&format!("l{n}"), 7800 + n)).collect();
    let daemon = Daemon::start(&tables);
    std::thread::sleep(Duration::from_secs(1));
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon_at(&daemon.socket()))).unwrap();
    let megabytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        Samples::from(line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6)
    };
    Table {
        title: format!("memory of a daemon with {listeners} listeners, after a second"),
        unit: "MB",
        ours: row("VmRSS: all that is resident", megabytes("VmRSS")),
        target: Target { limit, says: format!("at most {limit} MB") },
        others: vec![
            row("RssAnon: its own", megabytes("RssAnon")),
            row("RssFile: of its files, shared and dropped when need be", megabytes("RssFile")),
        ],
    }
}
