//! What the keeper makes of messages: of its daemon's as systemd would, of others' nothing.
//!
//! A program of the test's is in the place of the daemon's, as after an upgrade.

use crate::daemon::{Daemon, run};
use crate::netns::{NOBODY, in_netns, spawn};
use crate::served::eventually;
use crate::support::{
    WEB, answers, child_of, inode, install, install_script, kept, kept_by_a_copy, kill_daemon, logged, send,
};
use nix::sys::signal::Signal;
use std::process::Command;

/// What both sides of these tests have.
const HEAD: &str = "#!/usr/bin/env python3
import array, os, socket, sys, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def say(text, *fds):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else []
    notify.sendmsg([text.encode()], rights, 0, os.environ['NOTIFY_SOCKET'])
def store(name, *sockets):
    say(f'FDSTORE=1\\nFDNAME={name}\\nFDPOLL=0', *[s.fileno() for s in sockets])
";

/// Says what it was given, and ends.
const TELLER: &str = "#!/bin/sh
test \"$LISTEN_PID\" = $$ && test -z \"$PORTBROKER_KEEPER_STATE\" && test \"$PORTBROKER_KEEPER\" = $PPID || exit 1
printf 'given %s: %s\\n' \"$LISTEN_FDS\" \"$LISTEN_FDNAMES\" >&2
sleep 1000
";

/// The names that the next daemon is given, in order.
fn given(keeper: &Daemon, program: &std::path::Path) -> Vec<String> {
    install_script(program, TELLER);
    let begun = keeper.log().len();
    eventually("a daemon", || child_of(keeper).is_some());
    send(child_of(keeper).unwrap(), Signal::SIGKILL);
    let mut line = String::new();
    eventually("what it was given", || {
        let log = keeper.log().split_off(begun);
        line = log.lines().find(|line| line.starts_with("given ")).unwrap_or_default().to_owned();
        log.contains(&format!("{line}\n")) && !line.is_empty()
    });
    let (count, names) = line.strip_prefix("given ").unwrap().split_once(": ").unwrap();
    let mut names: Vec<String> = names.split(':').map(str::to_owned).collect();
    assert_eq!(count, names.len().to_string());
    names.sort();
    names
}

/// Runs a program in the daemon's place until it says `done`, and returns the names that the next is given.
fn after(program_text: &str) -> (Vec<String>, String) {
    let (keeper, program) = kept_by_a_copy("");
    install_script(
        &program,
        &format!("{HEAD}{program_text}\nprint('done', file=sys.stderr, flush=True)\ntime.sleep(1000)\n"),
    );
    send(child_of(&keeper).unwrap(), Signal::SIGKILL);
    logged(&keeper, "done");
    let given = given(&keeper, &program);
    (given, keeper.log())
}

#[test]
fn descriptors_are_kept_by_name_and_each_socket_once() {
    in_netns(|| {
        let (names, _) = after(
            "
a, b, c, d = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(4))
store('a', a)
store('a', a)             # the same again
store('other', a)         # and by another name
store('pair', b, c)
say('FDSTORE=1\\nFDPOLL=0', d.fileno())
store('with:colon', socket.socket())
r, w = os.pipe()
say('FDSTORE=1\\nFDNAME=pipe', r, w)
store('gone', socket.socket())
say('FDSTOREREMOVE=1\\nFDNAME=gone')
say('FDSTOREREMOVE=1\\nFDNAME=portbroker')
say('FDSTORE=1\\nFDNAME=nothing')
",
        );
        assert_eq!(names, ["a", "pair", "pair", "pipe", "pipe", "portbroker", "stored"]);
    });
}

#[test]
fn what_was_sent_in_the_moment_of_a_death_is_kept() {
    in_netns(|| {
        let (keeper, program) = kept_by_a_copy("");
        // The keeper is not there to read while it sends; then it dies of itself, and both are seen at once.
        install_script(
            &program,
            &format!(
                "{HEAD}
import signal
if os.environ['LISTEN_FDS'] != '1': time.sleep(1000)
os.kill(os.getppid(), signal.SIGSTOP)
kept = [socket.socket() for _ in range(8)]
for n, s in enumerate(kept): store(f's{{n}}', s)
if os.fork() == 0:
    os.setsid()
    keeper = int(os.environ['PORTBROKER_KEEPER'])
    time.sleep(0.5)
    os.kill(keeper, signal.SIGCONT)
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"
            ),
        );
        send(child_of(&keeper).unwrap(), Signal::SIGKILL);
        eventually("its death", || keeper.log().contains("stored=8"));
        let names = given(&keeper, &program);
        assert_eq!(names.iter().filter(|name| name.starts_with('s')).count(), 8, "{names:?}");
    });
}

#[test]
fn a_barrier_is_closed_when_all_before_it_is_read() {
    in_netns(|| {
        let (_, log) = after(
            "
import select
for n in range(100): store('s%d' % n, socket.socket())
r, w = os.pipe()
say('BARRIER=1', w)
os.close(w)
poll = select.poll(); poll.register(r, select.POLLHUP)
print('barrier', bool(poll.poll(20000)), file=sys.stderr, flush=True)
",
        );
        assert!(log.contains("barrier True"), "{log}");
    });
}

#[test]
fn nobody_but_the_daemon_is_heard() {
    in_netns(|| {
        let keeper = kept(WEB);
        let before = inode(&keeper, "web");
        let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", keeper.pid())).unwrap().count();
        let path = keeper.folder().join("run/portbroker/keeper.notify");
        let quiet = descriptors();

        // Of our own user, with everything that does harm: descriptors, removal, garbage, at full speed.
        let hostile = format!(
            "{HEAD}
name = [n for n in os.environ['BOXES'].split()]
end = time.monotonic() + 3
sockets = [socket.socket() for _ in range(250)]
while time.monotonic() < end:
    store('hostile', *sockets)
    for n in name: say(f'FDSTOREREMOVE=1\\nFDNAME={{n}}')
    say('READY=1'); say('FDSTORE=1\\nFDNAME=x' + 'y' * 5000, 0); notify.sendto(os.urandom(500), os.environ['NOTIFY_SOCKET'])
print('sent')
"
        );
        // The names of what is kept, from the daemon's own environment.
        let environment = std::fs::read(format!("/proc/{}/environ", kill_daemon(&keeper))).unwrap();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let names = environment.split('\0').find_map(|item| item.strip_prefix("LISTEN_FDNAMES=")).unwrap();
        assert!(names.contains("portbroker.box."), "{names}");
        let mut command = Command::new("python3");
        command.args(["-c", &hostile]).env("NOTIFY_SOCKET", &path).env("BOXES", names.replace(':', " "));
        let mut attack = spawn(&mut command);
        for _ in 0..5 {
            kill_daemon(&keeper);
            assert_eq!(inode(&keeper, "web"), before);
        }
        assert!(attack.wait().unwrap().success());
        eventually("nothing of it is kept", || descriptors() == quiet);
        kill_daemon(&keeper);
        assert_eq!(inode(&keeper, "web"), before);
        assert!(keeper.log().contains("the keeper hears nobody but its daemon"));
        assert!(!keeper.log().contains("stored=3"), "{}", keeper.log());

        // And another user cannot even write.
        let program = "import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
try: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect(sys.argv[2])
except PermissionError: print('kept out')";
        let mut command = Command::new("python3");
        command.args(["-c", program, &NOBODY.to_string()]).arg(&path);
        assert_eq!(run(&mut command).1, "kept out\n");
        answers(&keeper);
    });
}

#[test]
fn the_real_daemon_takes_over_what_another_version_stored_one_by_one() {
    in_netns(|| {
        let (keeper, program) = kept_by_a_copy("");
        let configuration = "[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\n";
        install_script(
            &program,
            &format!(
                "{HEAD}
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(('127.0.0.1', 7801)); s.listen()
inode = os.fstat(s.fileno()).st_ino
store(f'portbroker.{{inode}}', s)
print('stored it as', inode, '', file=sys.stderr, flush=True)
time.sleep(1000)
"
            ),
        );
        send(child_of(&keeper).unwrap(), Signal::SIGKILL);
        logged(&keeper, "stored it as");
        std::fs::write(keeper.config(), configuration).unwrap();
        install(&program);
        send(child_of(&keeper).unwrap(), Signal::SIGKILL);
        logged(&keeper, "taken-over");
        let now = inode(&keeper, "web");
        assert!(keeper.log().contains(&format!("stored it as {now} ")), "{}", keeper.log());
        kill_daemon(&keeper);
        assert_eq!(inode(&keeper, "web"), now);
    });
}
