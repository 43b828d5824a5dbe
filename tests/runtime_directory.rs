//! A runtime directory that is full, read-only or gone: the daemon serves on, says so, and writes down what it knows as
//! soon as it can, so that a kill after that loses nothing.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/egress.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod egress;
#[path = "support/leases.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod leases;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
#[path = "support/served.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod served;

use daemon::{Daemon, run};
use egress::{POOL, TO, addresses, service};
use leases::{Client, connected, eventually};
use netns::{NOBODY, in_netns};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use served::{Served, listener};
use std::fs;
use std::path::PathBuf;

// The test may be in a mount namespace of its own, where it is not root to the daemon.
const WEB: &str =
    "[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\nidle = \"refuse\"\nallow = [\"user:0\"]\n";
const API: &str = "[[listener]]\nname = \"api\"\nstream = \"127.0.0.1:7802\"\nallow = [\"user:0\"]\n";

fn runtime(daemon: &Daemon) -> PathBuf {
    daemon.folder().join("run/portbroker")
}

fn status(daemon: &Daemon) -> (i32, String) {
    let (status, text, errors) = run(&mut daemon.portbroker(&["status"]));
    (status, text + &errors)
}

/// A daemon whose runtime directory is a tmpfs of this thread's own, of one MiB.
fn in_a_small_directory(configuration: &str) -> Daemon {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    Daemon::start_with(configuration, |command| {
        let root = command.get_args().skip_while(|argument| *argument != "--root").nth(1).unwrap();
        let directory = std::path::Path::new(root).join("run/portbroker");
        fs::create_dir_all(&directory).unwrap();
        mount(Some("tmpfs"), &directory, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        command.arg("--no-bus");
    })
}

fn remount(daemon: &Daemon, flags: MsFlags) {
    mount(None::<&str>, &runtime(daemon), None::<&str>, MsFlags::MS_REMOUNT | flags, Some("size=1m"))
        .unwrap();
}

fn reload(daemon: &Daemon, configuration: &str) {
    fs::write(daemon.config(), configuration).unwrap();
    kill(Pid::from_raw(daemon.pid().cast_signed()), Signal::SIGHUP).unwrap();
    eventually("the reload", || run(&mut daemon.portbroker(&["show", "listener", "api"])).0 == 0);
}

/// What is not written down is said; what is done meanwhile is known to the next daemon once there is room.
fn goes_on_and_catches_up(daemon: &mut Daemon, spoil: impl Fn(&Daemon), mend: impl Fn(&Daemon), word: &str) {
    let client = Client::of(daemon);
    let session = client.open();
    client.pairs(&session, "egress", "tcp", TO, 3).unwrap();
    spoil(daemon);
    let web = Served::start(daemon, "web");
    reload(daemon, &(WEB.to_owned() + API + POOL));
    let api = Served::start(daemon, "api");
    let (degraded, text) = status(daemon);
    assert!(degraded == 1 && text.contains("cannot write") && text.contains(word), "{degraded} {text}");
    mend(daemon);
    eventually("a daemon that is well", || status(daemon).0 == 0);
    assert!(daemon.log().contains("what the next daemon should know is written down again"));
    let names = |daemon: &Daemon| {
        let entries = fs::read_dir(runtime(daemon)).unwrap().map(|entry| entry.unwrap().file_name());
        entries.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(".new")).count()
    };
    assert_eq!(names(daemon), 0, "a file that nobody needs takes room");
    // The next daemon knows who holds what; it has no store here, and the sockets are the holders' now.
    let holders = fs::read_to_string(runtime(daemon).join("holders.json")).unwrap();
    assert!(holders.contains("\"web\"") && holders.contains("\"api\""), "{holders}");
    let last_good = fs::read_to_string(runtime(daemon).join("last-good.toml")).unwrap();
    assert!(last_good.contains("7802"), "{last_good}");
    api.end();
    web.end();
    eventually("nobody holds them", || {
        ["web", "api"].iter().all(|name| listener(daemon, name)["holder"].is_null())
    });
    let before = client.leases();
    assert_eq!(before.len(), 1);
    daemon.restart_after_kill(&(WEB.to_owned() + API + POOL));
    let client = Client::of(daemon);
    assert_eq!(client.leases(), before);
    drop(session);
    eventually("the end of the session", || client.leases().iter().all(|row| row.7 == "cooling"));
}

#[test]
fn a_full_runtime_directory_is_said_and_caught_up_with() {
    in_netns(|| {
        addresses();
        let mut daemon = in_a_small_directory(&(WEB.to_owned() + POOL));
        let rest = |daemon: &Daemon| runtime(daemon).join("rest");
        goes_on_and_catches_up(
            &mut daemon,
            |daemon| assert!(fs::write(rest(daemon), vec![0; 2 << 20]).is_err(), "it is full"),
            |daemon| fs::remove_file(rest(daemon)).unwrap(),
            "make room",
        );
    });
}

#[test]
fn a_runtime_directory_that_is_read_only_is_said_and_caught_up_with() {
    in_netns(|| {
        addresses();
        let mut daemon = in_a_small_directory(&(WEB.to_owned() + POOL));
        // Nobody may have a file open for writing: the journal is, so it has to be a view of it that is read-only.
        goes_on_and_catches_up(
            &mut daemon,
            |daemon| {
                let directory = runtime(daemon);
                mount(Some(&directory), &directory, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
                remount(daemon, MsFlags::MS_BIND | MsFlags::MS_RDONLY);
            },
            |daemon| nix::mount::umount(&runtime(daemon)).unwrap(),
            "Read-only file system",
        );
    });
}

#[test]
fn a_runtime_directory_that_is_removed_is_made_anew_and_no_source_is_leased_twice() {
    in_netns(|| {
        addresses();
        let configuration = WEB.to_owned() + POOL;
        let mut daemon = Daemon::start(&configuration);
        let client = Client::of(&daemon);
        let service = service();
        let session = client.open();
        let (_, first) = client.pairs(&session, "egress", "tcp", TO, 1).unwrap();
        let _first = connected(first[0], service.local_addr().unwrap()).unwrap();
        fs::remove_dir_all(runtime(&daemon)).unwrap();
        // The lease itself is what finds out.
        let (_, second) = client.pairs(&session, "egress", "tcp", TO, 1).unwrap();
        let _second = connected(second[0], service.local_addr().unwrap()).unwrap();
        assert!(daemon.log().contains("was removed, and is written anew"), "{}", daemon.log());
        let web = Served::start(&daemon, "web");
        client.open();
        eventually("a daemon that is well", || status(&daemon).0 == 0);
        for name in ["holders.json", "last-good.toml", "leases", "sessions", "reserved-ports"] {
            assert!(runtime(&daemon).join(name).exists(), "{name}");
        }
        web.end();
        daemon.restart_after_kill(&configuration);
        let client = Client::of(&daemon);
        let session = client.open();
        // All that there is but the two that are connected.
        let (_, rest) = client.pairs(&session, "egress", "tcp", TO, 398).unwrap();
        assert!(!rest.contains(&first[0]) && !rest.contains(&second[0]));
        assert!(client.pairs(&session, "egress", "tcp", TO, 1).is_err());
    });
}

#[test]
fn a_runtime_directory_that_may_not_be_made_anew_is_waited_for() {
    in_netns(|| {
        addresses();
        let daemon = Daemon::start_as(NOBODY, API);
        let directory = runtime(&daemon);
        let above = directory.parent().unwrap();
        fs::remove_dir_all(&directory).unwrap();
        std::os::unix::fs::chown(above, Some(0), Some(0)).unwrap();
        let served = |daemon: &Daemon| {
            let mut command = daemon.portbroker_as(NOBODY, &["exec", "api", "--", "true"]);
            run(&mut command).0
        };
        assert_eq!(served(&daemon), 0, "what is in memory is served");
        let (degraded, text) = status(&daemon);
        assert!(degraded == 1 && text.contains("systemctl restart portbroker"), "{text}");
        fs::create_dir(&directory).unwrap();
        std::os::unix::fs::chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
        eventually("all is written", || directory.join("holders.json").exists());
        eventually("no word of it", || !status(&daemon).1.contains("cannot write"));
    });
}
