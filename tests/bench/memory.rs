//! What the daemon keeps in memory when it has nothing to do.

use crate::daemon::Daemon;
use crate::measure::{Samples, Table, Target, row};
use crate::place::{daemon_at, listener};
use std::time::Duration;

const LISTENERS: u16 = 10;

/// The most that should be resident.
const MEGABYTES: f64 = 10.0;

pub(crate) fn measure() -> Table {
    let tables: String = (0..LISTENERS).map(|n| listener(&format!("l{n}"), 7800 + n)).collect();
    let daemon = Daemon::start(&tables);
    std::thread::sleep(Duration::from_secs(1));
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon_at(&daemon.socket()))).unwrap();
    let megabytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        Samples::from(line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6)
    };
    Table {
        title: format!("memory of a daemon with {LISTENERS} listeners, after a second"),
        unit: "MB",
        ours: row("VmRSS: all that is resident", megabytes("VmRSS")),
        target: Target { limit: MEGABYTES, says: format!("at most {MEGABYTES} MB") },
        others: vec![
            row("RssAnon: its own", megabytes("RssAnon")),
            row("RssFile: of its files, shared and dropped when need be", megabytes("RssFile")),
        ],
    }
}
