//! A real terminal for tests: tmux's, on a server of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A terminal with a shell command in it. What it shows is kept after the command's end.
pub(crate) struct Tty {
    folder: tempfile::TempDir,
}

impl Tty {
    /// Runs a line of sh(1) on a terminal of this size, with these variables.
    pub(crate) fn start(width: u16, height: u16, variables: &[(&str, &str)], line: &str) -> Self {
        let tty = Self { folder: tempfile::tempdir().unwrap() };
        let mut command = tty.tmux();
        // What is written to a terminal that is then closed is of no use to whoever reads a failure.
        command.args(["new-session", "-d", "-x", &width.to_string(), "-y", &height.to_string()]);
        let mut script = String::from(
            "unset NO_COLOR PAGER SYSTEMD_PAGER LC_ALL LC_CTYPE SUDO_UID\nexport LANG=C.UTF-8\n",
        );
        for (name, value) in variables {
            script.push_str(&format!("export {name}='{value}'\n"));
        }
        script.push_str(&format!("{line}\nexec cat >/dev/null\n"));
        fs::write(tty.path("script"), script).unwrap();
        let status = command.arg("sh").arg(tty.path("script")).status();
        assert!(status.expect("needs tmux").success());
        tty
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.path("tmux")).args(["-u", "-f", "/dev/null"]);
        command.env_remove("TMUX").env("LANG", "C.UTF-8").env("TERM", "xterm").stdin(Stdio::null());
        command
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let output = self.tmux().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is seen.
    pub(crate) fn text(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    /// The same, with the escapes that colours are made of.
    pub(crate) fn coloured(&self) -> String {
        self.ask(&["capture-pane", "-p", "-e"])
    }

    /// One of tmux's formats, such as `alternate_on`.
    pub(crate) fn is(&self, what: &str) -> String {
        self.ask(&["display-message", "-p", &format!("#{{{what}}}")]).trim().to_owned()
    }

    /// Types keys, by tmux's names.
    pub(crate) fn keys(&self, keys: &[&str]) {
        self.ask(&[&["send-keys"], keys].concat());
    }

    pub(crate) fn resize(&self, width: u16, height: u16) {
        self.ask(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// Waits until this is seen.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.wait(text, |seen| seen.contains(text))
    }

    pub(crate) fn wait(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let seen = self.text();
            if is(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what} is not seen:\n{seen}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// The process of this name that the shell started.
    pub(crate) fn pid_of(&self, name: &str) -> i32 {
        let shell = self.is("pane_pid");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let children =
                fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap_or_default();
            let named = |pid: &&str| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
            };
            if let Some(pid) = children.split_whitespace().find(named) {
                return pid.parse().unwrap();
            }
            assert!(Instant::now() < deadline, "no {name} below {shell}:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the terminal:\n{}",
                self.tmux().args(["capture-pane", "-p"]).output().map_or_else(
                    |error| error.to_string(),
                    |output| String::from_utf8_lossy(&output.stdout).into_owned()
                )
            );
        }
        // Ends this server alone, and what runs in it.
        let _ = self.tmux().arg("kill-server").stderr(Stdio::null()).status();
    }
}
