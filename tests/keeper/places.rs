//! Where a keeper may be: in a container as PID 1, without privileges, below another supervisor, with sockets of a
//! starter's.

use crate::daemon::{Daemon, run};
use crate::netns::{NOBODY, in_netns, spawn};
use crate::served::{Served, eventually};
use crate::support::{
    WEB, answers, child_of, children, inode, is_answered, kept, kill_daemon, lives, send, waiting, write,
};
use nix::sys::signal::Signal;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn as_pid_1_it_reaps_whoever_has_no_other_parent() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("portbroker.toml");
        write(&config, WEB);
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", env!("CARGO_BIN_EXE_portbrokerd")]);
        command.args(["--keeper", "--no-bus", "--config"]).arg(&config).arg("--root").arg(folder.path());
        command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stderr(Stdio::null());
        let mut container = spawn(&mut command);
        let portbroker = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
            run(command.args(arguments).env("PORTBROKER_SOCKET", folder.path().join("run/portbroker/bus")))
        };
        eventually("its answer", || portbroker(&["status"]).0 == 0);
        let keeper = children(container.id())[0];
        let inode = || portbroker(&["--json", "list", "listeners"]).1;
        let before = inode();
        let name = std::fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
        assert!(name.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{name}");

        // Who is root in it is root for it.
        let target = keeper.to_string();
        let inside = |words: &[&str]| {
            let mut command = Command::new("nsenter");
            command.args(["-t", &target, "-p", "-m"]).args(words);
            command.env("PORTBROKER_SOCKET", folder.path().join("run/portbroker/bus"));
            run(&mut command)
        };
        let taken =
            [env!("CARGO_BIN_EXE_portbroker"), "exec", "web", "--", "sh", "-c", "echo $LISTEN_FDNAMES"];
        assert_eq!(inside(&taken), (0, "web\n".to_owned(), String::new()));

        // Their parent ends before them, inside.
        let orphans = "for n in 1 2 3 4 5; do sleep 0.2 & done; exit 0";
        assert_eq!(inside(&["sh", "-c", orphans]).0, 0);
        eventually("nobody but the daemon is left", || children(keeper).len() == 1);

        let daemon = children(keeper)[0];
        send(daemon, Signal::SIGKILL);
        eventually("the next daemon", || children(keeper).first().is_some_and(|next| *next != daemon));
        assert_eq!(inode(), before);
        // As a container is stopped. A PID 1 hears only what it listens to.
        send(keeper, Signal::SIGTERM);
        assert!(container.wait().unwrap().success());
    });
}

/// One of the user nobody, by a copy of the program with which something is done before; in `user` of its folder.
pub(crate) fn unprivileged(configuration: &str, prepare: impl FnOnce(&std::path::Path)) -> Daemon {
    Daemon::start_with(configuration, |command| {
        let folder = PathBuf::from(command.get_args().skip_while(|a| *a != "--root").nth(1).unwrap());
        let (runtime, program) = (folder.join("user"), folder.join("portbrokerd"));
        std::fs::create_dir(&runtime).unwrap();
        crate::support::install(&program);
        prepare(&program);
        for path in [&folder, &runtime] {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        // In $XDG_RUNTIME_DIR, as without --root; the tests look for the socket where they told.
        *command = Command::new(program);
        command.args(["--keeper", "--no-bus", "--config"]).arg(folder.join("portbroker.toml"));
        command.arg("--socket").arg(folder.join("bus")).uid(NOBODY).gid(NOBODY);
        command.env("XDG_RUNTIME_DIR", &runtime).env("HOME", &folder);
        for variable in ["NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "XDG_STATE_HOME"] {
            command.env_remove(variable);
        }
    })
}

#[test]
fn without_privileges_it_keeps_what_it_can() {
    in_netns(|| {
        let keeper = unprivileged(WEB, |_| {});
        assert!(keeper.folder().join("user/portbroker/keeper.notify").exists());
        let before = inode(&keeper, "web");
        let client = waiting();
        for _ in 0..3 {
            kill_daemon(&keeper);
            assert_eq!(inode(&keeper, "web"), before);
        }
        let service = Served::start(&keeper, "web");
        is_answered(client);
        service.end();
    });
}

#[test]
fn a_program_that_may_have_low_ports_by_its_file_is_kept_too_and_ends_with_its_keeper() {
    in_netns(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "1024\n").unwrap();
        let keeper = unprivileged("[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:443\"\n", |program| {
            let status = Command::new("setcap").arg("cap_net_bind_service=ep").arg(program).status();
            assert!(status.expect("needs setcap").success());
        });
        let before = inode(&keeper, "web");
        let client = TcpStream::connect("127.0.0.1:443").unwrap();
        let daemon = kill_daemon(&keeper);
        assert_eq!(inode(&keeper, "web"), before);
        drop(client);
        send(keeper.pid(), Signal::SIGKILL);
        eventually("the end of the daemon", || !lives(daemon));
    });
}

#[test]
fn another_supervisor_hears_of_the_daemons_state_and_of_no_descriptor() {
    in_netns(|| {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let heard = || {
            let mut text = [0; 4096];
            let length = socket.recv(&mut text).unwrap();
            String::from_utf8(text[..length].to_vec()).unwrap().trim().to_owned()
        };
        let mut keeper = Daemon::start_with(WEB, |command| {
            command.args(["--no-bus", "--keeper"]).env("NOTIFY_SOCKET", &path);
        });
        assert_eq!(heard(), "READY=1");
        kill_daemon(&keeper);
        assert_eq!(heard(), "READY=1", "of the next daemon");
        crate::support::end_daemon(&keeper, Signal::SIGTERM);
        assert_eq!(heard(), "READY=1", "it is the daemon that stopped, and not the keeper");
        keeper.terminate();
        assert_eq!(heard(), "STOPPING=1");
    });
}

/// Binds a socket, and becomes a keeper that is given it.
const STARTER: &str = "
import os, socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(('127.0.0.1', 7802)); s.listen()
os.dup2(os.dup2(s.fileno(), 50), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='given')
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn what_a_starter_gave_is_given_to_every_daemon() {
    in_netns(|| {
        let configuration = format!("{WEB}[[listener]]\nname = \"given\"\n");
        let keeper = Daemon::start_with(&configuration, |command| {
            let program = command.get_program().to_owned();
            let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
            *command = Command::new("python3");
            command.args(["-c", STARTER]).arg(program).args(arguments).args(["--no-bus", "--keeper"]);
            command.env_remove("NOTIFY_SOCKET");
        });
        let before = (inode(&keeper, "given"), inode(&keeper, "web"));
        for _ in 0..3 {
            kill_daemon(&keeper);
            assert_eq!((inode(&keeper, "given"), inode(&keeper, "web")), before);
        }
        TcpStream::connect("127.0.0.1:7802").unwrap();
        answers(&keeper);
    });
}

#[test]
fn the_keeper_itself_is_small_and_idle() {
    in_netns(|| {
        let table = |n| format!("[[listener]]\nname = \"p{n}\"\nstream = \"127.0.0.1:{n}\"\n");
        let keeper = kept(&(20_000..21_000).map(table).collect::<String>());
        let kilobytes = |key: &str| {
            let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", keeper.pid())).unwrap();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", keeper.pid())).unwrap().count();
        let before = descriptors();
        assert!(before < 20, "a thousand sockets are two descriptors: {before}");
        for _ in 0..5 {
            kill_daemon(&keeper);
        }
        assert_eq!(descriptors(), before);
        let own = kilobytes("Anonymous:");
        println!("the keeper of 1,000 listeners has {own} kB of memory of its own, and {before} descriptors");
        assert!(own < 4096, "{own} kB");
        let threads = std::fs::read_dir(format!("/proc/{}/task", keeper.pid())).unwrap().count();
        assert_eq!(threads, 1);

        // It waits for events and for nothing else.
        let switches = || {
            let text = std::fs::read_to_string(format!("/proc/{}/status", keeper.pid())).unwrap();
            let line =
                text.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        // What there was to do after READY is done.
        std::thread::sleep(Duration::from_secs(1));
        let begun = switches();
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(switches(), begun);
        assert!(lives(child_of(&keeper).unwrap()));
    });
}
