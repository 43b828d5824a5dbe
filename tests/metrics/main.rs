//! Metrics of a real daemon, as those see them who scrape; what bad scrapers do to others; and that alert rules and
//! dashboard name nothing that is not there.

#![cfg(test)]

mod exposition;
mod scraper;

#[path = "../support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "../support/egress.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod egress;
#[path = "../support/leases.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod leases;
#[path = "../support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;

use daemon::{Daemon, run};
use egress::{POOL, TO, addresses, started};
use exposition::Exposition;
use leases::{Client, eventually};
use netns::{NOBODY, in_netns};
use scraper::{ask, connected, scrape, scrape_tcp};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const WEB: &str = "[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:5000\"\n";
const TCP: &str = "127.0.0.1:9188";

fn socket(daemon: &Daemon) -> PathBuf {
    daemon.folder().join("run/portbroker/metrics")
}

fn scraped(daemon: &Daemon) -> Exposition {
    Exposition::read(&scrape(&socket(daemon)))
}

/// Waits for a scrape that shows something: one is as good as a new one for a second.
fn shows(daemon: &Daemon, what: &str, is: impl Fn(&Exposition) -> bool) -> Exposition {
    let mut last = Exposition::default();
    eventually(what, || {
        last = scraped(daemon);
        is(&last)
    });
    last
}

#[test]
fn what_happens_is_counted() {
    in_netns(|| {
        // A name that has to be escaped, a listener of which connections wait, a pool.
        let odd = "[[listener]]\nname = \"o\\\"d\\\\d\"\nstream = \"127.0.0.1:5001\"\nidle = \"refuse\"\n";
        let daemon = started(&format!("{WEB}{odd}{POOL}"));
        let waiting: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect("127.0.0.1:5000").unwrap()).collect();
        let (status, ..) = run(&mut daemon.portbroker(&["exec", "web", "--", "true"]));
        assert_eq!(status, 0);
        let (status, ..) = run(&mut daemon.portbroker_as(NOBODY, &["exec", "web", "--", "true"]));
        assert_eq!(status, 77);
        let (status, ..) = run(&mut daemon.portbroker(&["exec", "none", "--", "true"]));
        assert_eq!(status, 1);
        let client = Client::of(&daemon);
        let session = client.open();
        let (lease, _) = client.pairs(&session, "egress", "tcp", TO, 30).unwrap();
        client.pairs(&session, "egress", "udp", TO, 10).unwrap();
        client.pairs(&session, "egress", "tcp", TO, 1000).unwrap_err();
        client.release(lease).unwrap();

        let seen =
            shows(&daemon, "all is counted", |seen| seen.one("portbroker_leases_ended_total", &[]) == 1.0);
        assert_eq!(seen.one("portbroker_listeners", &[("state", "listening")]), 1.0);
        assert_eq!(seen.one("portbroker_listeners", &[("state", "reserved")]), 1.0);
        assert_eq!(seen.one("portbroker_sockets", &[("state", "failed")]), 0.0);
        assert_eq!(seen.one("portbroker_listener_queue", &[("listener", "web")]), 3.0);
        assert!(seen.one("portbroker_listener_queue_limit", &[("listener", "web")]) >= 128.0);
        assert_eq!(seen.one("portbroker_listener_queue_overflows_total", &[("listener", "web")]), 0.0);
        assert_eq!(seen.one("portbroker_listener_queue", &[("listener", "o\"d\\d")]), 0.0);
        assert_eq!(seen.one("portbroker_handovers_total", &[]), 1.0);
        assert_eq!(seen.one("portbroker_handed_over_sockets_total", &[]), 1.0);
        let refused = |request, reason| {
            seen.one("portbroker_refusals_total", &[("request", request), ("reason", reason)])
        };
        assert_eq!(refused("acquire", "NotAllowed"), 1.0);
        assert_eq!(refused("acquire", "NoSuchListener"), 1.0);
        assert_eq!(refused("lease", "Exhausted"), 1.0);
        assert_eq!(seen.one("portbroker_leases_made_total", &[]), 2.0);
        assert_eq!(seen.one("portbroker_leased_ports_total", &[]), 40.0);
        assert_eq!(seen.one("portbroker_pool_capacity_ports", &[("pool", "egress")]), 400.0);
        assert_eq!(seen.one("portbroker_pool_leased_ports", &[("pool", "egress")]), 10.0);
        assert!(seen.one("portbroker_pool_leases", &[("pool", "egress")]) >= 1.0, "the other may cool");
        assert_eq!(seen.one("portbroker_pool_addresses", &[("pool", "egress")]), 4.0);
        let leased: f64 = seen.all("portbroker_address_ports", &[("state", "leased")]).iter().sum();
        assert_eq!(leased, 10.0, "four addresses");
        let udp = [("pool", "egress"), ("protocol", "udp"), ("destination", "0.0.0.0:0")];
        let ports =
            |state| seen.one("portbroker_destination_ports", &[&udp[..], &[("state", state)]].concat());
        assert_eq!((ports("used"), ports("cooling"), ports("free")), (10.0, 0.0, 390.0));
        assert_eq!(seen.one("portbroker_faults", &[]), 0.0);
        assert_eq!(seen.one("portbroker_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
        let resident = std::fs::read_to_string(format!("/proc/{}/statm", daemon.pid())).unwrap();
        let pages: f64 = resident.split(' ').nth(1).unwrap().parse().unwrap();
        let told = seen.one("process_resident_memory_bytes", &[]);
        assert!((told / (pages * 4096.0) - 1.0).abs() < 0.5, "{told} beside {pages} pages");
        let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
        let told = seen.one("process_open_fds", &[]);
        assert!((told - open as f64).abs() < 10.0, "{told} beside {open}");
        drop(waiting);
    });
}

/// Names of metrics in a text of PromQL.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("portbroker_") || word.starts_with("process_")).collect()
}

#[test]
fn alert_rules_and_dashboard_name_only_what_a_running_daemon_has() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/monitoring");
    let rules = std::fs::read_to_string(folder.join("portbroker.rules.yaml")).unwrap();
    let rules: serde_json::Value = serde_yaml_ng::from_str(&rules).unwrap();
    let mut texts = Vec::new();
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        for key in ["alert", "expr"] {
            assert!(rule[key].is_string(), "{key} of {rule}");
        }
        assert!(
            rule["annotations"]["summary"].is_string() && rule["labels"]["severity"].is_string(),
            "{rule}"
        );
        texts.push(rule["expr"].as_str().unwrap().to_owned());
    }
    assert!(texts.len() > 10);
    let dashboard = std::fs::read_to_string(folder.join("portbroker.grafana.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for target in panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten() {
        texts.push(target["expr"].as_str().unwrap().to_owned());
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        texts.push(variable["query"].as_str().unwrap().to_owned());
    }
    let wanted: BTreeSet<&str> = texts.iter().flat_map(|text| named(text)).collect();
    assert!(wanted.len() > 30, "{wanted:?}");

    in_netns(|| {
        let daemon = started(&format!("{WEB}{POOL}"));
        // What is there only when it has happened.
        run(&mut daemon.portbroker(&["exec", "none", "--", "true"]));
        let client = Client::of(&daemon);
        let session = client.open();
        client.pairs(&session, "egress", "tcp", TO, 100).unwrap();
        let name = "portbroker_destination_exhaustion_seconds";
        let seen = shows(&daemon, "an end is foretold", |seen| !seen.all(name, &[]).is_empty());
        let there = seen.names();
        let missing: Vec<_> = wanted.iter().filter(|name| !there.contains(*name)).collect();
        assert!(missing.is_empty(), "{missing:?} are not among {there:?}");
        // And labels that are filtered by have these values.
        assert!(seen.values("portbroker_sockets", "state").contains("failed"));
        assert!(seen.values("portbroker_destination_ports", "state").contains("free"));
    });
}

/// Whether a user, in a group, can connect.
fn connects(path: &Path, uid: u32, gid: u32) -> bool {
    let program = "import os, socket, sys\nos.setgroups([])\nos.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[2]))\n\
                   s = socket.socket(socket.AF_UNIX)\ntry: s.connect(sys.argv[3])\nexcept PermissionError: sys.exit(9)";
    let mut python = Command::new("python3");
    python.args(["-c", program, &gid.to_string(), &uid.to_string()]).arg(path);
    let (status, _, error) = run(&mut python);
    assert!(status == 0 || status == 9, "{error}");
    status == 0
}

#[test]
fn only_root_and_a_group_can_connect_to_the_unix_socket() {
    in_netns(|| {
        const GROUP: u32 = 54_321;
        let daemon = Daemon::start("");
        let path = socket(&daemon);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
        assert!(connects(&path, 0, 0) && !connects(&path, NOBODY, GROUP));
        drop(daemon);
        let daemon = Daemon::start(&format!("[metrics]\nsocket-group = \"{GROUP}\"\n"));
        let path = socket(&daemon);
        assert_eq!(std::fs::metadata(&path).unwrap().gid(), GROUP);
        assert!(connects(&path, NOBODY, GROUP) && !connects(&path, NOBODY, NOBODY));
        drop(daemon);
        let daemon = Daemon::start("[metrics]\nsocket = \"none\"\n");
        assert!(!socket(&daemon).exists());
    });
}

#[test]
fn a_reload_moves_the_sockets_and_only_loopback_is_taken() {
    in_netns(|| {
        let mut daemon = Daemon::start(WEB);
        let reload = |daemon: &Daemon, text: &str| {
            std::fs::write(daemon.config(), format!("{WEB}[metrics]\n{text}\n")).unwrap();
            run(&mut daemon.portbroker(&["reload"]))
        };
        assert!(scrape_tcp(TCP).is_err(), "there is no TCP by default");
        assert_eq!(reload(&daemon, &format!("listen = \"{TCP}\"")).0, 0);
        assert!(scrape_tcp(TCP).unwrap().ends_with("# EOF\n"));
        assert_eq!(Exposition::read(&scrape_tcp(TCP).unwrap()).one("portbroker_faults", &[]), 0.0);

        // What is not of loopback is refused, and changes nothing.
        let (status, _, error) = reload(&daemon, "listen = \"0.0.0.0:9188\"");
        assert_eq!(status, 78, "{error}");
        assert!(error.contains("not of loopback"), "{error}");
        assert!(scrape_tcp(TCP).is_ok());

        // A port that somebody has is told, and costs nothing else.
        #[expect(clippy::disallowed_methods, reason = "somebody else's service")]
        let other = std::net::TcpListener::bind("127.0.0.1:9189").unwrap();
        assert_eq!(reload(&daemon, "listen = \"127.0.0.1:9189\"\nsocket-mode = \"0600\"").0, 0);
        let (status, told, _) = run(&mut daemon.portbroker(&["status"]));
        assert!(status == 1 && told.contains("metrics: cannot listen at 127.0.0.1:9189"), "{told}");
        eventually("the old address is left", || scrape_tcp(TCP).is_err());
        assert_eq!(std::fs::metadata(socket(&daemon)).unwrap().mode() & 0o7777, 0o600);
        shows(&daemon, "the fault is counted", |seen| seen.one("portbroker_faults", &[]) == 1.0);
        drop(other);
        assert_eq!(reload(&daemon, "listen = \"127.0.0.1:9189\"").0, 0);
        assert!(scrape_tcp("127.0.0.1:9189").is_ok());
        assert_eq!(run(&mut daemon.portbroker(&["status"])).0, 0);

        // Somebody removed the socket; then the daemon is killed, and all is there again.
        std::fs::remove_file(socket(&daemon)).unwrap();
        assert_eq!(reload(&daemon, "listen = \"127.0.0.1:9189\"").0, 0);
        scraped(&daemon);
        daemon.restart_after_kill(&format!("{WEB}[metrics]\nlisten = \"127.0.0.1:9189\"\n"));
        scraped(&daemon);
        assert!(scrape_tcp("127.0.0.1:9189").is_ok());

        // What is at the path and is no socket stays.
        let file = daemon.folder().join("precious");
        std::fs::write(&file, "precious").unwrap();
        assert_eq!(reload(&daemon, &format!("socket = \"{}\"", file.display())).0, 0);
        let (status, told, _) = run(&mut daemon.portbroker(&["status"]));
        assert!(status == 1 && told.contains("something else than a socket is there"), "{told}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        assert!(!socket(&daemon).exists(), "the old one is gone");
    });
}

fn descriptors(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

#[test]
fn bad_scrapers_slow_nobody_but_themselves() {
    in_netns(|| {
        let daemon = started(&format!("{WEB}{POOL}"));
        let path = socket(&daemon);
        scraped(&daemon);
        let before = descriptors(&daemon);
        // Those that say nothing, or half of it, or ask and read nothing; more than there is room for.
        let mut bad: Vec<UnixStream> = Vec::new();
        for n in 0..300 {
            let mut stream = connected(&path);
            let said = match n % 3 {
                0 => &b""[..],
                1 => b"GET /metr",
                _ => b"GET /metrics HTTP/1.1\r\n\r\n",
            };
            // Others have ended it already.
            let _ = stream.write_all(said);
            bad.push(stream);
        }
        let seen = scraped(&daemon);
        assert!(seen.one("portbroker_listeners", &[("state", "listening")]) == 1.0);
        assert!(descriptors(&daemon) <= before + 40, "{} after {before}", descriptors(&daemon));
        // Everybody else is served as before.
        assert_eq!(run(&mut daemon.portbroker(&["exec", "web", "--", "true"])).0, 0);
        let client = Client::of(&daemon);
        let session = client.open();
        client.pairs(&session, "egress", "tcp", TO, 10).unwrap();

        // Garbage is told what it is.
        let status =
            |bytes: &[u8]| ask(connected(&path), bytes).unwrap().0.lines().next().unwrap().to_owned();
        assert_eq!(status(b"\x16\x03\x01 what is this\r\n\r\n"), "HTTP/1.1 400 Bad Request");
        assert_eq!(status(b"POST /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
        assert_eq!(status(b"GET /etc/passwd HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
        let long = [b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 9000]].concat();
        let mut stream = connected(&path);
        // It may be answered, and ended, before all of it was said.
        let _ = stream.write_all(&long);
        let mut answer = [0; 12];
        if stream.read_exact(&mut answer).is_ok() {
            assert_eq!(&answer, b"HTTP/1.1 431");
        }
        drop(stream);

        // Whoever hangs is ended by and by, and what was open is closed.
        let cut_off = "portbroker_scrapes_cut_off_total";
        shows(&daemon, "they are counted", |seen| seen.one(cut_off, &[]) >= 200.0);
        for mut stream in bad {
            let _ = stream.read_to_end(&mut Vec::new());
        }
        eventually("all are closed", || descriptors(&daemon) <= before + 8);
        assert_eq!(run(&mut daemon.portbroker(&["status"])).0, 0);
        drop(session);
    });
}

#[test]
fn thousands_of_scrapes_ask_the_broker_once_a_second() {
    in_netns(|| {
        let daemon = Daemon::start(&format!("{WEB}[metrics]\nlisten = \"{TCP}\"\n"));
        let path = socket(&daemon);
        let begun = Instant::now();
        let texts: BTreeSet<String> = std::thread::scope(|scope| {
            let scrapers: Vec<_> = (0..8)
                .map(|n| {
                    let path = &path;
                    let one = move || if n % 2 == 0 { scrape(path) } else { scrape_tcp(TCP).unwrap() };
                    scope.spawn(move || (0..50).map(|_| one()).collect::<Vec<String>>())
                })
                .collect();
            scrapers.into_iter().flat_map(|scraper| scraper.join().unwrap()).collect()
        });
        let most = begun.elapsed().as_secs() + 2;
        // Each new one counts the scrapes before it.
        assert!(texts.len() as u64 <= most, "{} different answers in {most} s", texts.len());
        let seen =
            shows(&daemon, "all are counted", |seen| seen.one("portbroker_scrapes_total", &[]) >= 400.0);
        assert_eq!(seen.one("portbroker_log_lines_lost_total", &[]), 0.0);
    });
}

#[test]
fn so_many_destinations_are_named_as_are_configured() {
    in_netns(|| {
        addresses();
        let of = |metrics: &str| {
            let daemon = Daemon::start(&format!("{POOL}{metrics}"));
            let client = Client::of(&daemon);
            let session = client.open();
            for n in 1..=30 {
                client.pairs(&session, "egress", "tcp", &format!("198.51.100.{n}:443"), n).unwrap();
            }
            let seen =
                shows(&daemon, "leases are counted", |seen| seen.one("portbroker_leases", &[]) == 30.0);
            let named = seen.values("portbroker_destination_ports", "destination").len();
            let busiest = [("destination", "198.51.100.30:443"), ("state", "used")];
            (named, seen.all("portbroker_destination_ports", &busiest))
        };
        assert_eq!(of(""), (20, vec![30.0]));
        assert_eq!(of("[metrics]\ndestinations = 3\n"), (3, vec![30.0]));
        assert_eq!(of("[metrics]\ndestinations = 0\n"), (0, vec![]));
    });
}

#[test]
fn many_listeners_are_not_all_named() {
    in_netns(|| {
        let listeners: String = (0..400)
            .map(|n| format!("[[listener]]\nname = \"l{n}\"\nstream = \"127.0.0.1:{}\"\n", 20_000 + n))
            .collect();
        let daemon = Daemon::start(&listeners);
        let _waiting = TcpStream::connect("127.0.0.1:20399").unwrap();
        let name = "portbroker_listener_queue";
        let seen =
            shows(&daemon, "the busiest is named", |seen| seen.all(name, &[("listener", "l399")]) == [1.0]);
        assert_eq!(seen.values(name, "listener").len(), 256);
        assert_eq!(seen.one("portbroker_listeners", &[("state", "listening")]), 400.0);
    });
}
