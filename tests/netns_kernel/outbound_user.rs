//! Who uses a source after the lease of it ended.

use crate::netns::{Holder, in_netns, spawn, undisturbed};
use crate::outbound_support::{D1, S1, S2, connect, leased, pair, tcp, tuple, until};
use crate::support::{SERVICE, address};
use portbroker::kernel::tuple_user::{TupleUser, unit_of_cgroup, users_of};
use portbroker::model::{Protocol, UnitName};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[test]
fn the_process_that_has_the_connection_is_told_and_nobody_where_there_is_none() {
    in_netns(|| {
        let listener = TcpListener::bind(D1).unwrap();
        assert_eq!(users_of(&tcp(S1, D1)).unwrap(), []);
        let (client, accepted) = pair(S1, &listener);
        let process =
            |users: Vec<TupleUser>| users.into_iter().map(|user| user.process.unwrap().1).collect::<Vec<_>>();
        assert_eq!(process(users_of(&tcp(S1, D1)).unwrap()), [std::process::id()]);
        let child = Holder::new(&client, SERVICE, "pass");
        undisturbed(|| drop(client));
        let is_child =
            |users: &[TupleUser]| users[0].process.as_ref().is_some_and(|found| found.1 == child.pid());
        until("the child has it", || is_child(&users_of(&tcp(S1, D1)).unwrap()));
        let users = users_of(&tcp(S1, D1)).unwrap();
        assert_eq!((users.len(), users[0].uid), (1, 0), "who made it");
        assert_eq!(users[0].process.as_ref().unwrap().1, child.pid());
        assert!(users[0].to_string().starts_with(&format!("python3 (pid {}, ", child.pid())), "{}", users[0]);
        drop(child);
        until("nobody has it", || users_of(&tcp(S1, D1)).unwrap().is_empty());
        drop(accepted);
    });
}

#[test]
fn who_bound_the_source_and_went_nowhere_is_told_and_who_went_elsewhere_is_not() {
    in_netns(|| {
        let _listeners = ["127.0.0.9:8082", D1].map(|to| TcpListener::bind(to).unwrap());
        let bound = leased(S1).unwrap();
        assert_eq!(users_of(&tcp(S1, D1)).unwrap().len(), 1);
        connect(&bound, "127.0.0.9:8082").unwrap();
        assert_eq!(users_of(&tcp(S1, D1)).unwrap(), []);
        assert_eq!(users_of(&tuple(Protocol::Tcp, address(S1), None)).unwrap().len(), 1, "any destination");
        let udp = UdpSocket::bind(S2).unwrap();
        udp.connect("127.0.0.9:9").unwrap();
        let other = tuple(Protocol::Udp, address(S2), Some(address(D1)));
        assert_eq!(users_of(&other).unwrap().len(), 1, "UDP sources are for one");
    });
}

/// A unit's cgroup in each hierarchy that there is; removed at the end.
struct Unit(Vec<PathBuf>);

impl Unit {
    fn new(name: &str) -> Self {
        let slice = format!("portbroker-user-{}.slice", std::process::id());
        let mounts =
            ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup"].map(PathBuf::from);
        let made = mounts.into_iter().filter(|mount| mount.join("cgroup.procs").exists()).map(|mount| {
            let directory = mount.join(&slice).join(name);
            fs::create_dir_all(&directory).expect("takes root, and a cgroup hierarchy that can be written");
            directory
        });
        Self(made.collect())
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        for directory in &self.0 {
            let _ = fs::remove_dir(directory);
            let _ = fs::remove_dir(directory.parent().unwrap());
        }
    }
}

#[test]
fn the_unit_of_the_socket_is_told() {
    in_netns(|| {
        let unit = Unit::new("crawler.service");
        let _listener = TcpListener::bind(D1).unwrap();
        let program = format!(
            "import os, socket, sys\nsys.stdin.readline()\nos.setuid({SERVICE})\n\
             s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', 46000))\n\
             s.connect(('127.0.0.9', 8081)); print('ready', flush=True); sys.stdin.readline()"
        );
        let mut command = Command::new("python3");
        let mut child = spawn(command.args(["-c", &program]).stdin(Stdio::piped()).stdout(Stdio::piped()));
        for directory in &unit.0 {
            fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let users = users_of(&tcp(S1, D1)).unwrap();
        let expected = TupleUser {
            uid: SERVICE,
            unit: Some(UnitName::try_from("crawler.service").unwrap()),
            process: Some(("python3".into(), child.id())),
        };
        let text = format!("python3 (pid {}, crawler.service, uid {SERVICE})", child.id());
        assert_eq!(users[0].to_string(), text);
        assert_eq!(users, [expected], "and nobody else");
        let told = |directory: &PathBuf| unit_of_cgroup(fs::metadata(directory).unwrap().ino());
        assert!(unit.0.iter().any(|directory| told(directory) == users[0].unit), "by its cgroup alone");
        drop(child.stdin.take());
        child.wait().unwrap();
    });
}
