//! A message bus of the test's own: the real dbus-daemon, that lets everybody do everything.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A bus; killed when dropped.
pub(crate) struct Bus {
    daemon: Child,
    pub(crate) address: String,
}

impl Bus {
    /// Starts one with its files in this folder.
    pub(crate) fn start(folder: &Path) -> Self {
        let (config, socket) = (folder.join("bus.conf"), folder.join("system_bus"));
        let policy =
            r#"<allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>"#;
        std::fs::write(
            &config,
            format!("<busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context=\"default\">{policy}</policy></busconfig>", socket.display()),
        )
        .unwrap();
        let mut command = Command::new("dbus-daemon");
        command.args(["--nofork", "--print-address", "--config-file"]).arg(config);
        let mut daemon = command.stdout(Stdio::piped()).spawn().expect("needs dbus-daemon");
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { daemon, address: address.trim().to_owned() }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
