//! How often a daemon wakes up that has nothing to do, joined to a bus on which nothing happens.

use crate::bus::Bus;
use crate::daemon::Daemon;
use crate::measure::{Table, Target, row};
use crate::place::{daemon_at, listener};
use std::process::Command;
use std::time::Duration;

/// How long is waited for the daemon to settle.
const SETTLED: Duration = Duration::from_secs(3);
const COUNTED: Duration = Duration::from_secs(20);
/// More than a minute: whatever is done each minute is seen.
const TRACED: Duration = Duration::from_secs(125);

/// The most wake-ups that there should be in a minute.
const WAKE_UPS: f64 = 3.0;

/// By the kernel's count of the times that its threads went to sleep.
pub(crate) fn measure() -> Table {
    of_idle_daemon(|pid| {
        let before = sleeps(pid);
        std::thread::sleep(COUNTED);
        let slept = sleeps(pid) - before;
        table(format!("by voluntary_ctxt_switches over {} s", COUNTED.as_secs()), slept, COUNTED)
    })
}

/// By the waiting calls that end, as strace sees them, over two minutes.
pub(crate) fn trace() -> Table {
    of_idle_daemon(|pid| {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("trace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-tt", "-e", "trace=epoll_wait,epoll_pwait,epoll_pwait2,poll,ppoll,futex"]);
        strace.args(["-p", &pid.to_string(), "-o"]).arg(&log);
        let mut strace = strace.spawn().expect("needs strace");
        std::thread::sleep(TRACED);
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(strace.id().cast_signed()),
            nix::sys::signal::Signal::SIGINT,
        )
        .unwrap();
        strace.wait().unwrap();
        let trace = std::fs::read_to_string(log).unwrap();
        print!("\nstrace of the idle daemon:\n{trace}");
        let wakes = trace.lines().filter(|line| line.contains("= ") && !line.contains("= ?")).count();
        table(format!("by strace over {} s", TRACED.as_secs()), wakes as f64, TRACED)
    })
}

fn table(how: String, count: f64, time: Duration) -> Table {
    Table {
        title: "wake-ups a minute of an idle daemon with 10 listeners, on a bus".to_owned(),
        unit: "",
        ours: row(how, (count * 60.0 / time.as_secs_f64()).into()),
        target: Target { limit: WAKE_UPS, says: format!("at most {WAKE_UPS} a minute") },
        others: Vec::new(),
    }
}

fn of_idle_daemon(look: impl FnOnce(i32) -> Table) -> Table {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::start(folder.path());
    let tables: String = (0..10).map(|n| listener(&format!("l{n}"), 7800 + n)).collect();
    let daemon = Daemon::start_with(&tables, |command| {
        command.env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
    });
    let pid = daemon_at(&daemon.socket());
    std::thread::sleep(SETTLED);
    look(pid)
}

fn sleeps(pid: i32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let count =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            count.trim().parse::<f64>().unwrap()
        })
        .sum()
}
