//! A booted systemd for tests: PID 1 of a container of its own, over a throw-away overlay of this machine's
//! root, with a network of its own.
//!
//! Files are put in before it boots, so that the boot itself can be tested. It boots no further than
//! `lab.target`, which has basic.target and the sockets (so the system bus), and what a test adds to it. The
//! programs under test are copied in by `systemd/install`.
//!
//! With `LAB_ROOT` it is the tree there in place of this machine's root, as `tests/lab/debian-13` makes one: the same
//! tests, on another systemd.
//!
//! Needs root and Debian's systemd-container. A test that cannot have them fails.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// In a mount name space of its own, so that nothing is left of it: overlay, then the container's init.
/// A cgroup of its own, since all containers of one cgroup would share their units' cgroups.
const BOOT: &str = r#"
set -eu
for cgroups in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
  if [ -e "$cgroups/cgroup.procs" ]; then
    mkdir -p "$cgroups/$NAME"
    echo $$ >"$cgroups/$NAME/cgroup.procs"
  fi
done
mount -t tmpfs -o mode=755 tmpfs "$DIR/volatile"
mkdir "$DIR/volatile/upper" "$DIR/volatile/work"
# Not as a layer of its own: a layer must not lie inside of another.
cp -a "$DIR/files/." "$DIR/volatile/upper/"
mount -t overlay -o "lowerdir=$LAB_ROOT,upperdir=$DIR/volatile/upper,workdir=$DIR/volatile/work" overlay "$DIR/root"
while :; do
  status=0
  systemd-nspawn -q -D "$DIR/root" --boot --register=no --keep-unit --private-network --capability=all \
    --link-journal=no --resolv-conf=off --timezone=off -M "$NAME" systemd.unit=lab.target || status=$?
  # What it was rebooted with from inside; then it boots again, with another network and what it has on disk.
  [ "$status" = 133 ] || exit "$status"
done
"#;

/// A container that is not booted yet.
pub struct Preparation {
    name: String,
    dir: TempDir,
}

/// A booted container; powered off when dropped.
pub struct Lab {
    name: String,
    dir: TempDir,
    nspawn: Child,
    init: String,
}

/// The tree below the overlay.
fn root() -> PathBuf {
    let root = std::env::var_os("LAB_ROOT").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let systemd = root.join("usr/lib/systemd/systemd");
    assert!(
        root.is_absolute() && systemd.exists(),
        "LAB_ROOT is {}, and there is no systemd",
        root.display()
    );
    root
}

/// A program of the tree that would be booted, for what takes no boot. It sees a directory of this machine's as `/mnt`.
pub fn program_of_the_tree(program: &str, directory: &Path) -> Command {
    let mut command = Command::new("unshare");
    let inside = "mount --bind \"$0\" \"$1/mnt\" && exec chroot \"$@\"";
    command.args(["--mount", "--propagation", "private", "sh", "-c", inside]).arg(directory).arg(root());
    command.arg(program);
    command
}

/// A container to be: `name` is its host name.
pub fn prepare(name: &str) -> Preparation {
    // Several runs at one time do not know of each other.
    let name = format!("{name}-{}", std::process::id());
    let dir = tempfile::Builder::new().prefix("portbroker-lab-").tempdir().expect("a directory for the lab");
    for part in ["files", "volatile", "root"] {
        fs::create_dir(dir.path().join(part)).expect("a directory in the lab's");
    }
    let target = "[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n";
    Preparation { name, dir }
        .file("/etc/systemd/system/lab.target", target)
        .file("/opt/serve.py", include_str!("programs/serve.py"))
        .file("/opt/ask.py", include_str!("programs/ask.py"))
        .file("/opt/knock.py", include_str!("programs/knock.py"))
        // They take a second of each boot and have nothing to do with us.
        .mask(&["systemd-update-utmp.service", "e2scrub_reap.service", "systemd-pstore.service"])
}

impl Preparation {
    fn path(&self, path: &str) -> PathBuf {
        let path = self.dir.path().join("files").join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories in the lab");
        path
    }

    /// Puts a file in.
    pub fn file(self, path: &str, text: &str) -> Self {
        fs::write(self.path(path), text).expect("a file in the lab");
        self
    }

    /// Puts an executable file in.
    pub fn program(self, path: &str, text: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let file = self.path(path);
        let lab = self.file(path, text);
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("the mode of a program");
        lab
    }

    /// Puts a copy of a file of the host in, with its mode.
    pub fn copy(self, from: &Path, path: &str) -> Self {
        fs::copy(from, self.path(path)).expect("a copy in the lab");
        self
    }

    /// Puts a link in.
    pub fn link(self, path: &str, target: &str) -> Self {
        symlink(target, self.path(path)).expect("a link in the lab");
        self
    }

    /// Puts a unit in.
    pub fn unit(self, name: &str, text: &str) -> Self {
        self.file(&format!("/etc/systemd/system/{name}"), text)
    }

    /// Lets a target pull in a unit.
    pub fn enable(self, name: &str, target: &str) -> Self {
        let path = format!("/etc/systemd/system/{target}.wants/{name}");
        self.link(&path, &format!("/etc/systemd/system/{name}"))
    }

    /// Keeps units from being started.
    pub fn mask(self, names: &[&str]) -> Self {
        names.iter().fold(self, |lab, name| lab.link(&format!("/etc/systemd/system/{name}"), "/dev/null"))
    }

    /// Installs the programs beside `program` with the `systemd/install` of the project at `source`, to be
    /// started at boot.
    pub fn install(self, source: &Path, program: &Path) -> Self {
        let output = Command::new(source.join("systemd/install"))
            .env("DESTDIR", self.dir.path().join("files"))
            .env("PREFIX", "/usr")
            .env("BINDIR", program.parent().expect("the directory of the build"))
            .output()
            .expect("systemd/install");
        assert!(output.status.success(), "systemd/install: {}", text(&output));
        let units = "/usr/lib/systemd/system";
        self.link(
            "/etc/systemd/system/sysinit.target.wants/portbroker.service",
            &format!("{units}/portbroker.service"),
        )
        .link(
            "/etc/systemd/system/sockets.target.wants/portbroker.socket",
            &format!("{units}/portbroker.socket"),
        )
    }

    /// Boots it, and returns when all jobs of the boot are done.
    pub fn boot(self) -> Lab {
        let lab = self.start();
        lab.wait_until_booted();
        lab
    }

    /// Starts it, and returns as soon as its PID 1 is there.
    pub fn start(self) -> Lab {
        let console = fs::File::create(self.dir.path().join("console")).expect("a file for the console");
        let mut nspawn = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", BOOT])
            .env("DIR", self.dir.path())
            .env("NAME", &self.name)
            .env("LAB_ROOT", root())
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("the console"))
            .stderr(console)
            .spawn()
            .expect("unshare: this test needs Debian's util-linux and systemd-container");
        let begun = Instant::now();
        let init = loop {
            if let Some(init) = init_below(nspawn.id()) {
                break init;
            }
            let ended = nspawn.try_wait().expect("the state of systemd-nspawn");
            if ended.is_some() || begun.elapsed() > BOOT_TIMEOUT {
                let console = fs::read_to_string(self.dir.path().join("console")).unwrap_or_default();
                panic!("the lab did not start (root? systemd-container installed?): {ended:?}\n{console}");
            }
            sleep(Duration::from_millis(20));
        };
        Lab { name: self.name, dir: self.dir, nspawn, init }
    }
}

impl Lab {
    /// Reboots it in order, and returns when all jobs of the new boot are done.
    pub fn reboot(&mut self) {
        // The shell may be ended before it has its answer.
        let _ = self.sh("systemctl reboot");
        let begun = Instant::now();
        let before = std::mem::take(&mut self.init);
        while self.init.is_empty() {
            let ended = self.nspawn.try_wait().expect("the state of systemd-nspawn");
            assert!(
                ended.is_none() && begun.elapsed() < BOOT_TIMEOUT,
                "the lab did not come back: {ended:?}\n{}",
                fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
            );
            sleep(Duration::from_millis(20));
            self.init = init_below(self.nspawn.id()).filter(|init| *init != before).unwrap_or_default();
        }
        self.wait_until_booted();
    }

    /// Runs a shell command inside, as root.
    pub fn sh(&self, command: &str) -> Output {
        self.command(["sh", "-c", command]).output().expect("nsenter")
    }

    /// A command inside, to be run by the caller.
    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init, "-a", "--"]).args(words).stdin(Stdio::null());
        command
    }

    /// What a shell command prints, without blanks around it. It must succeed.
    pub fn ok(&self, command: &str) -> String {
        let output = self.sh(command);
        assert!(output.status.success(), "`{command}` failed: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The same for a command that must fail: what it prints.
    pub fn fails(&self, command: &str) -> String {
        let output = self.sh(command);
        assert!(!output.status.success(), "`{command}` succeeded: {}", text(&output));
        text(&output)
    }

    /// Waits until a shell command succeeds.
    pub fn wait_for(&self, command: &str, seconds: u64) {
        let begun = Instant::now();
        loop {
            let output = self.sh(command);
            if output.status.success() {
                return;
            }
            let waited = begun.elapsed();
            assert!(
                waited < Duration::from_secs(seconds),
                "`{command}` did not come true: {}",
                text(&output)
            );
            sleep(Duration::from_millis(50));
        }
    }

    /// Writes a file inside.
    pub fn write(&self, path: &str, text: &str) {
        let mut writer = self
            .command(["sh", "-c", "mkdir -p \"$(dirname \"$0\")\" && cat >\"$0\"", path])
            .stdin(Stdio::piped())
            .spawn()
            .expect("nsenter");
        writer.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("a file in the lab");
        assert!(writer.wait().expect("nsenter").success(), "{path} was not written");
    }

    /// The root directory of the container, seen from outside.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init))
    }

    /// The number by which this process knows one of the lab's.
    pub fn pid_outside(&self, inside: &str) -> u32 {
        let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let is_it = |pid: &String| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            line.and_then(|line| line.split_whitespace().last()) == Some(inside)
                && space(pid) == space(&self.init)
        };
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        let mut pids = all.filter_map(|entry| entry.file_name().into_string().ok());
        let found = pids.find(is_it).and_then(|pid| pid.parse().ok());
        found.unwrap_or_else(|| panic!("no process {inside} in the lab"))
    }

    /// The greeting of a server inside, `/opt/serve.py`, at a port or path.
    pub fn ask(&self, address: &str) -> String {
        self.ok(&format!("python3 /opt/ask.py {address}"))
    }

    /// A property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.ok(&format!("systemctl show -P {property} '{unit}'"))
    }

    /// The version of its systemd.
    pub fn systemd(&self) -> u32 {
        let text = self.ok("systemctl --version");
        let version = text.split_ascii_whitespace().nth(1).and_then(|version| version.parse().ok());
        version.unwrap_or_else(|| panic!("no version of systemd's in {text}"))
    }

    /// Whether its systemd keeps the sockets of a broker that is stopped, for its next start.
    pub fn keeps_the_stopped(&self) -> bool {
        self.systemd() >= 254
    }

    /// Stops the broker for good, so that nothing of it is kept.
    pub fn stop_for_good(&self) {
        if self.keeps_the_stopped() {
            let drop_in = "/etc/systemd/system/portbroker.service.d/zzz-for-good.conf";
            self.write(drop_in, "[Service]\nFileDescriptorStorePreserve=no\n");
            self.ok("systemctl daemon-reload");
        }
        self.ok("systemctl stop portbroker.socket portbroker.service");
    }

    /// Says what is tested now, so that a failure is seen to belong to it.
    pub fn step(&self, name: &str) {
        println!("--- {name}");
    }

    /// Waits until no job of the boot is left.
    pub fn wait_until_booted(&self) {
        let begun = Instant::now();
        loop {
            let output = self.sh("systemctl is-system-running");
            if ["running", "degraded"].contains(&String::from_utf8_lossy(&output.stdout).trim()) {
                return;
            }
            assert!(begun.elapsed() < BOOT_TIMEOUT, "the lab did not finish its boot: {}", self.report());
            sleep(Duration::from_millis(50));
        }
    }

    fn report(&self) -> String {
        let console = fs::read_to_string(self.dir.path().join("console")).unwrap_or_default();
        let state =
            self.sh("systemctl list-jobs; systemctl --failed; journalctl --no-pager -n 200 -o short-precise");
        format!("{console}\n{}", text(&state))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.report());
        }
        // Nothing in it is worth an orderly end: with its PID 1 all of its processes go.
        let _ = Command::new("kill").args(["-KILL", &self.init]).status();
        let _ = self.nspawn.wait();
        for cgroups in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"] {
            let directory = Path::new(cgroups).join(&self.name);
            // The last processes may still be on their way out.
            for _ in 0..100 {
                remove_cgroups(&directory);
                if !directory.exists() {
                    break;
                }
                sleep(Duration::from_millis(20));
            }
        }
    }
}

fn remove_cgroups(directory: &Path) {
    let inner = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroups(&entry.path());
    }
    let _ = fs::remove_dir(directory);
}

/// The descendant of a process that is PID 1 of a name space of its own.
fn init_below(pid: u32) -> Option<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    for child in children.split_whitespace() {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        if inner.split_whitespace().count() > 1 && inner.split_whitespace().last() == Some("1") {
            return Some(child.to_owned());
        }
        if let Some(found) = child.parse().ok().and_then(init_below) {
            return Some(found);
        }
    }
    None
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
