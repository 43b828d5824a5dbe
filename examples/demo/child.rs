//! The processes of the demonstration: this program again, in other roles, and the daemon.

use crate::Result;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub(crate) fn itself(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "demo".into()));
    command.args(arguments);
    command
}

/// A child that is killed when it is not needed any more.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace for this process, with its loopback interface up.
pub(crate) fn enter_namespace() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
    ip(&["link", "set", "lo", "up"])
}

pub(crate) fn ip(arguments: &[&str]) -> Result<()> {
    match Command::new("ip").args(arguments).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(format!("\"ip {}\" failed", arguments.join(" ")).into()),
        Err(error) => Err(format!("cannot run ip (apt-get install iproute2): {error}").into()),
    }
}

/// A setting of this namespace.
pub(crate) fn set(sysctl: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(sysctl);
    std::fs::write(&path, value).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// A directory that goes when this does.
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    pub(crate) fn new() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("portbroker-demo-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("etc/portbroker"))?;
        Ok(Self(directory))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("run/portbroker/bus")
    }

    /// Starts the daemon with a configuration.
    pub(crate) fn start(&self, daemon: &str, configuration: &str) -> Result<Running> {
        std::fs::write(self.0.join("etc/portbroker/portbroker.toml"), configuration)?;
        let mut command = Command::new(daemon);
        command.arg("--no-bus").arg("--root").arg(&self.0).env("RUST_LOG", "error");
        let running = Running(command.spawn()?);
        let socket = self.socket();
        wait_for("portbrokerd", || std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
        Ok(running)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn wait_for(what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !ready() {
        if Instant::now() > deadline {
            return Err(format!("{what} did not come up").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
