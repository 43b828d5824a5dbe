//! Too little memory, for real: a memory cgroup of the test's own with a limit, and something in it that wants more.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Takes memory for as long as the victim lives, once it is told to.
const HOG: &str = "
import sys
def lives():
    try: return open(f'/proc/{sys.argv[1]}/stat').read().rsplit(')', 1)[1].split()[0] not in 'ZX'
    except OSError: return False
kept = []
print('ready', flush=True)
sys.stdin.readline()
while lives():
    kept.append(bytearray(b'x' * 65536))
";

/// A cgroup of the memory controller, removed when dropped; in the legacy hierarchy or in the unified one.
pub(crate) struct MemoryCgroup {
    directory: PathBuf,
    legacy: bool,
}

impl MemoryCgroup {
    pub(crate) fn new(name: &str) -> Self {
        let (legacy, unified) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let is_legacy = legacy.join("memory.limit_in_bytes").exists();
        if !is_legacy {
            let controllers = fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
            assert!(
                controllers.split_whitespace().any(|controller| controller == "memory"),
                "no memory controller: this test needs /sys/fs/cgroup/memory, or a unified hierarchy that has it"
            );
            fs::write(unified.join("cgroup.subtree_control"), "+memory").unwrap();
        }
        let name = format!("portbroker-test-{name}-{}", std::process::id());
        let directory = if is_legacy { legacy } else { unified }.join(name);
        fs::create_dir(&directory).unwrap();
        Self { directory, legacy: is_legacy }
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.directory.join(file);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.directory.join(file)).unwrap()
    }

    /// The most that it had, in bytes.
    pub(crate) fn most(&self) -> u64 {
        let file = if self.legacy { "memory.max_usage_in_bytes" } else { "memory.peak" };
        self.read(file).trim().parse().unwrap()
    }

    /// In bytes.
    pub(crate) fn used(&self) -> u64 {
        let file = if self.legacy { "memory.usage_in_bytes" } else { "memory.current" };
        self.read(file).trim().parse().unwrap()
    }

    /// No more than so many bytes from now on.
    pub(crate) fn limit(&self, bytes: u64) {
        let (memory, swap) = if self.legacy {
            ("memory.limit_in_bytes", None)
        } else {
            ("memory.max", Some("memory.swap.max"))
        };
        self.write(memory, &bytes.to_string());
        if let Some(swap) = swap.filter(|swap| self.directory.join(swap).exists()) {
            self.write(swap, "0");
        }
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub(crate) fn kills(&self) -> u64 {
        let text = self.read(if self.legacy { "memory.oom_control" } else { "memory.events" });
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().trim().parse().unwrap()
    }

    pub(crate) fn put(&self, pid: u32) {
        self.write("cgroup.procs", &pid.to_string());
    }

    /// The command in it from its start.
    pub(crate) fn starting(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]).arg(self.directory.join("cgroup.procs"));
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // The last of its processes may be on their way out.
        for _ in 0..100 {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Takes the memory that a process, which is in the cgroup, and those beside it have up to a limit just above it, until
/// the kernel has killed it.
pub(crate) fn squeeze_out(cgroup: &MemoryCgroup, pid: u32) {
    let before = cgroup.kills();
    cgroup.put(pid);
    // Whoever else is in it takes more. (To make that one less likely would need a privilege.)
    fs::write(format!("/proc/{pid}/oom_score_adj"), "1000").unwrap();
    let mut hog: Child = cgroup
        .starting(Command::new("python3").args(["-c", HOG, &pid.to_string()]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    hog.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    cgroup.limit(cgroup.used() + (4 << 20));
    hog.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let begun = Instant::now();
    while lives(pid) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the kernel did not kill {pid}");
        std::thread::sleep(Duration::from_millis(1));
    }
    // At once, or it would take what the next one needs.
    hog.kill().unwrap();
    hog.wait().unwrap();
    assert!(cgroup.kills() > before, "it died of something else");
}
