//! A thousand reloads, half of them with faults, under load: no client is refused or forgotten, each failed reload says
//! all that is wrong and changes nothing, and the sockets at the end are those of the beginning.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/egress.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod egress;
#[path = "support/faults.rs"]
mod faults;
#[path = "support/leases.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod leases;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
#[path = "support/observed.rs"]
mod observed;
#[path = "support/served.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod served;

use daemon::Daemon;
use leases::Client;
use netns::in_netns;
use observed::{Observed, Observer};
use portbroker_client::wire::ErrorName;
use served::{Served, Storm};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const RELOADS: usize = 1000;
/// Listeners that are there all the time, each served and besieged.
const WEB: [&str; 4] = ["127.0.0.1:7801", "127.0.0.1:7802", "127.0.0.1:7803", "0.0.0.0:7804"];

/// The `n`-th good configuration: the addresses of the beginning are always there, and everything else changes.
fn configuration(n: usize) -> String {
    let mut text = format!("[protect]\nlearn = {}\nports = [\"{}\"]\n", n.is_multiple_of(5), 7000 + n % 10);
    for (of, address) in WEB.iter().enumerate() {
        // The last one changes its name too, while somebody holds it.
        let name = if of == 3 && n % 2 == 1 { "renamed".to_owned() } else { format!("web{of}") };
        let idle = ["queue", "queue 30s"][n % 2];
        let _ = write!(
            text,
            "[[listener]]\nname = \"{name}\"\nstream = \"{address}\"\nidle = \"{idle}\"\nbacklog = {}\n\
             priority = {}\nkeep-alive = {}\nallow = [\"user:{}\"]\n",
            512 + n % 7,
            n % 5,
            n.is_multiple_of(3),
            1000 + n % 3,
        );
    }
    // One that is shared by two listeners in turn, one that comes and goes, and one whose shards do.
    let _ = write!(text, "[[listener]]\nname = \"spare{}\"\nstream = \"127.0.0.1:7810\"\n", n % 2);
    if n.is_multiple_of(3) {
        let _ = write!(text, "[[listener]]\nname = \"extra\"\nstream = \"127.0.0.1:7900-7919\"\n");
    }
    let shards = 1 + n % 3;
    let _ =
        write!(text, "[[listener]]\nname = \"shards\"\nstream = \"127.0.0.1:7811\"\nreuse-port = {shards}\n");
    let spread = ["least-used", "round-robin"][n % 2];
    let _ = write!(
        text,
        "[[pool]]\nname = \"egress\"\naddresses = [\"192.0.2.1-192.0.2.4\"]\nports = \"10000-10{}99\"\n\
         spread = \"{spread}\"\n",
        n % 5
    );
    if n.is_multiple_of(4) {
        text.push_str("[[pool]]\nname = \"other\"\naddresses = [\"192.0.2.9\"]\nports = \"20000-20099\"\n");
    }
    text
}

/// A daemon with all of its configuration below a root of its own.
fn started() -> Daemon {
    Daemon::start_with("", |command| {
        let root = command.get_args().skip_while(|a| *a != "--root").nth(1).unwrap().to_owned();
        let root = Path::new(&root);
        for folder in ["etc/portbroker/portbroker.conf.d", "etc/systemd/system"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("etc/portbroker/portbroker.toml"), configuration(0)).unwrap();
        *command = Command::new(env!("CARGO_BIN_EXE_portbrokerd"));
        command.arg("--no-bus").arg("--root").arg(root).arg("--socket").arg(root.join("bus"));
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
    })
}

/// Does something again and again until it is stopped, and says how often, and how long the longest took.
struct Again {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u32, Duration)>,
}

impl Again {
    fn start(mut act: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut times, mut longest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                act();
                (times, longest) = (times + 1, longest.max(begun.elapsed()));
                // The processors are for the clients, who do not pause, and for the daemon.
                std::thread::sleep(Duration::from_millis(5));
            }
            (times, longest)
        });
        Self { stop, thread }
    }

    fn stop(self) -> (u32, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Leases a block, and gives it back.
fn leasing(daemon: &Daemon) -> Again {
    let client = Client::of(daemon);
    let session = client.open();
    Again::start(move || {
        let (lease, blocks) = client.blocks(&session, "egress", egress::TO, 20, None).unwrap();
        assert_eq!(blocks.iter().map(|(_, first, last)| last - first + 1).sum::<u16>(), 20);
        client.release(lease).unwrap();
    })
}

/// Takes the sockets of a listener that has one name or the other.
fn acquiring(daemon: &Daemon) -> Again {
    let client = Client::of(daemon);
    Again::start(move || {
        let mut taken = 0;
        for name in ["spare0", "spare1"] {
            match client.ask(async |manager| manager.acquire_listeners(&[name], HashMap::new()).await) {
                Ok(sockets) => taken += sockets.len(),
                Err(refused) => assert_eq!(refused.name, Some(ErrorName::NoSuchListener), "{}", refused.text),
            }
        }
        // Renamed between the two questions: not had, or had twice.
        assert!(taken <= 2);
    })
}

/// Every failed reload says all that is wrong, and nothing is otherwise than before.
fn failed(client: &Client, observer: &Observer, daemon: &Daemon, n: usize, before: &Observed) {
    let put = faults::put(daemon.folder(), n);
    let refused = client.ask(async |manager| manager.reload().await).unwrap_err();
    assert_eq!(refused.name, Some(ErrorName::InvalidConfiguration), "{}", refused.text);
    for reason in &put.reasons {
        assert!(refused.text.contains(reason), "{reason:?} is not said:\n{}", refused.text);
    }
    let condition = observer.faults(client);
    for reason in &put.reasons {
        assert!(
            condition.iter().any(|fault| fault.contains(reason)),
            "{reason:?} is not shown: {condition:?}"
        );
    }
    observer.observe(client).assert_is(before, &put.reasons);
    put.take_away();
}

#[test]
fn a_thousand_reloads_under_load_lose_nobody_and_half_of_them_change_nothing() {
    in_netns(|| {
        egress::addresses();
        let daemon = started();
        let (client, observer) = (Client::of(&daemon), Observer::of(&daemon));
        let first = observer.inodes(&client);
        let services: Vec<Served> = (0..4).map(|of| Served::start(&daemon, &format!("web{of}"))).collect();
        let storms: Vec<Storm> =
            WEB.iter().map(|address| Storm::start(&address.replace("0.0.0.0", "127.0.0.1"), 1)).collect();
        let (leasing, acquiring) = (leasing(&daemon), acquiring(&daemon));
        let asking = {
            let client = Client::of(&daemon);
            Again::start(move || drop(client.ask(async |manager| manager.state().await).unwrap()))
        };

        let begun = Instant::now();
        let mut longest = Duration::ZERO;
        for n in 1..=RELOADS / 2 {
            let file = daemon.folder().join("etc/portbroker/portbroker.toml");
            let new = file.with_extension("new");
            fs::write(&new, configuration(n)).unwrap();
            fs::rename(&new, &file).unwrap();
            let asked = Instant::now();
            client.ask(async |manager| manager.reload().await).unwrap();
            longest = longest.max(asked.elapsed());
            assert_eq!(observer.faults(&client), [""; 0]);
            let now = observer.inodes(&client);
            for (endpoint, inode) in first.iter().filter(|(endpoint, _)| !endpoint.contains(":79")) {
                assert_eq!(now.get(endpoint), Some(inode), "{endpoint} after reload {n}");
            }
            assert_eq!(
                now.contains_key("tcp 127.0.0.1:7919"),
                n.is_multiple_of(3),
                "what was taken is there"
            );
            let before = observer.observe(&client);
            failed(&client, &observer, &daemon, n, &before);
            if n.is_multiple_of(100) {
                println!("{} reloads after {:.0?}", 2 * n, begun.elapsed());
            }
        }
        let took = begun.elapsed();

        let served: u32 = storms.into_iter().map(Storm::stop).sum();
        let (leases, _) = leasing.stop();
        let (acquired, _) = acquiring.stop();
        let (asked, waited) = asking.stop();
        fs::write(daemon.folder().join("etc/portbroker/portbroker.toml"), configuration(0)).unwrap();
        client.ask(async |manager| manager.reload().await).unwrap();
        let mut last = observer.inodes(&client);
        last.retain(|endpoint, _| !endpoint.contains(":79"));
        assert!(
            last.iter().all(|(endpoint, inode)| first.get(endpoint) == Some(inode)),
            "{first:?} {last:?}"
        );
        println!(
            "{RELOADS} reloads in {took:.1?}, half of them with faults: {served} clients served, 0 refused, 0 \
             unanswered; {leases} leases and {acquired} hand-overs meanwhile; the longest reload took {longest:.1?}, \
             and of {asked} questions meanwhile the longest {waited:.1?}"
        );
        assert!(served > 2000 && leases > 100 && acquired > 100, "no load");
        services.into_iter().for_each(Served::end);
    });
}
