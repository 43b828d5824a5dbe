//! One look at who listens, beside 10,000 sockets of a service.

use crate::measure::{Samples, Table, Target, in_milliseconds, row};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use portbroker::broker::Lookout;
use portbroker::kernel::listening::listening;
use portbroker::learn::{Memory, Moment, Rules};
use portbroker::model::{PortRange, PortSet};
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SOCKETS: u16 = 10_000;
const FIRST: u16 = 10_000;
const RUNS: u32 = 200;
const MILLISECONDS: f64 = 5.0;

/// A cgroup that looks like a service's, with this process in it, so that its sockets are that service's.
struct Service {
    own: PathBuf,
    before: PathBuf,
}

impl Service {
    fn enter() -> Self {
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
        let mount = mounts.into_iter().find(|mount| mount.join("cgroup.procs").exists());
        let mount = mount.expect("a unified cgroup hierarchy");
        let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let service = Self {
            own: mount.join(format!("bench-{}.service", std::process::id())),
            before: mount.join(path),
        };
        std::fs::create_dir(&service.own).unwrap();
        std::fs::write(service.own.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        service
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let back = std::fs::write(self.before.join("cgroup.procs"), std::process::id().to_string());
        back.and_then(|()| std::fs::remove_dir(&self.own)).expect("the cgroup is left as it was");
    }
}

fn listener(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))).unwrap();
    socket.listen(8).unwrap();
    socket
}

pub(crate) fn measure() -> Table {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let _service = Service::enter();
    let _sockets: Vec<Socket> = (0..SOCKETS).map(|n| listener(FIRST + n)).collect();
    let mut lookout = Lookout::new();
    let mut memory = Memory::default();
    let rules = Rules {
        learn: true,
        exclude: PortSet::default(),
        held: PortSet::default(),
        range: Some(PortRange::new(32768, 60999).unwrap()),
    };
    let begin = Instant::now();
    let [mut whole, mut question] = [const { Samples::new() }; 2];
    for n in 0..RUNS {
        let start = Instant::now();
        let seen = lookout.see().unwrap();
        memory.look(&seen, &rules, Moment(u64::from(n)), begin + Duration::from_secs(u64::from(n) * 10));
        whole.push(in_milliseconds(start.elapsed()));
        let ports: usize = seen.values().map(|(_, ports)| ports.len()).sum();
        assert!(ports >= usize::from(SOCKETS), "{ports} ports seen");
        let start = Instant::now();
        assert!(listening().unwrap().len() >= usize::from(SOCKETS));
        question.push(in_milliseconds(start.elapsed()));
    }
    Table {
        title: format!("a look at who listens, with {SOCKETS} sockets, {RUNS} looks"),
        unit: "ms",
        ours: row("the whole look, to what is learned of it", whole),
        target: Target { limit: MILLISECONDS, says: format!("at most {MILLISECONDS} ms") },
        others: vec![row("of it the question to the kernel", question)],
    }
}
