//! Everything at once on a real daemon, and after it everything as it was: memory, descriptors, what the service manager
//! stores, reserved ports, files, leases, sessions, holders. Meanwhile no connection is refused and no source is given
//! out twice.
//!
//! PORTBROKER_SOAK is how many seconds it takes, by default 30; `tests/long` gives it 600.

#![cfg(test)]

#[path = "../support/bus.rs"]
mod bus;
mod callers;
mod holder;
mod lessee;
#[path = "../support/manager.rs"]
#[expect(dead_code, reason = "it is always there")]
mod manager;
#[path = "../support/netns.rs"]
#[expect(dead_code, reason = "nobody is robbed here")]
mod netns;
#[path = "../bench/place.rs"]
#[expect(dead_code, reason = "figures are for the bench")]
mod place;
#[path = "../bench/load/churn/record.rs"]
#[expect(dead_code, reason = "it is the clock that is needed")]
mod record;
mod site;
mod traffic;

use holder::{HOLDER, LISTENERS};
use lessee::{LESSEE, Report};
use netns::{in_netns, ip};
use site::{Figures, Site};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Memory may be more than before by this, in kB: what the allocator keeps of its largest use.
const MARGIN: u64 = 2048;

/// How often each thing was done.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) kills: AtomicU64,
    pub(crate) reloads: AtomicU64,
    pub(crate) faulty_reloads: AtomicU64,
    pub(crate) services: AtomicU64,
    pub(crate) holders: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) bus_calls: AtomicU64,
    pub(crate) floods: AtomicU64,
    pub(crate) addresses: AtomicU64,
    pub(crate) wipes: AtomicU64,
    pub(crate) lessees_killed: AtomicU64,
}

pub(crate) fn count(of: &AtomicU64) {
    of.fetch_add(1, Ordering::Relaxed);
}

/// What all threads have in common.
pub(crate) struct Scene<'a> {
    pub(crate) site: &'a Site,
    pub(crate) bus: &'a str,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) kills: &'a AtomicBool,
    pub(crate) tally: &'a Tally,
}

impl Scene<'_> {
    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// With the listeners that come and go, or without.
pub(crate) fn configuration(folder: &std::path::Path, more: bool) -> String {
    let own = |n: u16| {
        format!("[[listener]]\nname = \"{}\"\nstream = \"127.0.0.1:{}\"\n", holder::name(n), 7010 + n)
    };
    let mut text = format!(
        "[[pool]]\nname = \"egress\"\naddresses = [\"192.0.2.1-192.0.2.4\", \"192.0.2.77\"]\nports = \"10000-10999\"\n\
         [[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7000\"\n\
         [[listener]]\nname = \"path\"\nstream = \"{}\"\nidle = \"refuse\"\n",
        folder.join("path.sock").display()
    );
    text.extend((0..LISTENERS).map(own));
    if more {
        let shards = "[[listener]]\nname = \"shards\"\nstream = \"127.0.0.1:7100\"\nreuse-port = 4\n";
        text.push_str(shards);
        text.extend((20..60).map(own));
    }
    text
}

/// A process of a role: this program again.
pub(crate) fn in_role(role: &str) -> std::process::Command {
    let mut command = place::in_role(role);
    command.args(["--ignored", "--exact", "role"]);
    command
}

#[test]
#[ignore = "no test: what the processes of the other do"]
fn role() {
    match place::role().as_deref() {
        Some(LESSEE) => lessee::work(),
        Some(HOLDER) => holder::hold(),
        other => panic!("no role {other:?}: the other test starts this one"),
    }
}

/// Everything for so long; the kills end before, so that one daemon sees much of it and the end.
fn bustle(site: &Site, bus: &str, seconds: u64, tally: &Tally, report: &mut Report) {
    let (stop, kills) = (AtomicBool::new(false), AtomicBool::new(true));
    let scene = Scene { site, bus, stop: &stop, kills: &kills, tally };
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        traffic::start(scope, &scene, folder.path());
        callers::start(scope, &scene);
        let begin = Instant::now();
        let (half, whole) = (Duration::from_secs(seconds / 2), Duration::from_secs(seconds));
        while begin.elapsed() < whole {
            kills.store(begin.elapsed() < half, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::Relaxed);
    });
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        report.read(&entry.unwrap().path());
    }
}

/// Waits until nothing is left of it; what cools does so for up to a minute.
fn quiet(site: &Site) -> Figures {
    site.configure(&configuration(site.folder(), false));
    let deadline = Instant::now() + Duration::from_secs(150);
    let (status, text) = site.run(&["reload"]);
    assert_eq!(status, Some(0), "{text}");
    let mut steady = 0;
    let mut last = site.figures();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        site.catch_up();
        let now = site.figures();
        let is_quiet = (now.leases, now.sessions, now.holders) == (0, 0, 0);
        steady = if is_quiet && now.but_memory() == last.but_memory() { steady + 1 } else { 0 };
        if steady >= 4 {
            return now;
        }
        assert!(Instant::now() < deadline, "it does not come to rest: {now:?}");
        last = now;
    }
}

#[test]
fn everything_at_once_and_then_all_is_as_it_was() {
    let seconds = std::env::var("PORTBROKER_SOAK").map_or(30, |text| text.parse().expect("seconds"));
    in_netns(|| {
        for n in [1, 2, 3, 4, 9] {
            ip(&format!("address add 192.0.2.{n}/32 dev lo"));
        }
        let folder = tempfile::tempdir().unwrap();
        let bus = bus::Bus::start(folder.path());
        let place = tempfile::tempdir().unwrap();
        let site = Site::start(&configuration(place.path(), false), &bus.address);
        site.configure(&configuration(site.folder(), false));
        assert_eq!(site.run(&["reload"]).0, Some(0));
        let begin = Instant::now();
        let inodes = site.inodes();

        // Of a daemon that has seen everything once.
        let (warm, mut report) = (Tally::default(), Report::default());
        bustle(&site, &bus.address, 6.max(seconds / 20), &warm, &mut report);
        let before = quiet(&site);
        let tally = Tally::default();
        bustle(&site, &bus.address, seconds, &tally, &mut report);
        let after = quiet(&site);

        println!("{:.0} s: {tally:?}", begin.elapsed().as_secs_f64());
        println!(
            "{} sources were somebody's; errors of clients while the daemon was killed: {:#?}",
            report.had.len(),
            report.errors
        );
        println!("before: {before:?}\nafter:  {after:?}");
        assert_eq!(report.given_twice(), None);
        assert_eq!(site.inodes(), inodes, "a socket was closed");
        assert!(
            after.memory <= before.memory + MARGIN,
            "memory: {} kB, then {} kB",
            before.memory,
            after.memory
        );
        assert!(after.descriptors <= before.descriptors, "descriptors");
        let rest = |figures: &Figures| Figures { descriptors: 0, ..figures.but_memory() };
        assert_eq!(rest(&after), rest(&before));
        let (status, text) = site.run(&["status"]);
        assert!(status == Some(1) && text.contains("192.0.2.77"), "an address of the pool is away: {text}");
        ip("address add 192.0.2.77/32 dev lo");
        let deadline = Instant::now() + Duration::from_secs(10);
        while site.run(&["status"]).0 != Some(0) {
            assert!(Instant::now() < deadline, "not well: {}", site.run(&["status"]).1);
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}
