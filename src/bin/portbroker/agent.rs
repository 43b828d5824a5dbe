//! A password on this terminal: polkit's own agent for it, while a question to the broker is answered.
//!
//! Whoever is root, or may what it asks for, is asked nothing, and no agent is started.

use crate::args::block_on;
use crate::failure::Failure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portbroker_client::{Broker, Error};
use std::io::{IsTerminal as _, Read as _};
use std::process::{Child, Command, Stdio};

/// Whether somebody may be asked for a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskPassword {
    /// Where a terminal is there, or a session with an agent of its own.
    Yes,
    /// `--no-ask-password`
    No,
}

/// Asks the broker for what administers. Where that takes an authentication, it is asked again, and the user for a
/// password, by the agent of the session or by one on this terminal.
pub(crate) fn administer<T, Q>(
    broker: &Broker,
    password: AskPassword,
    question: impl Fn(Broker) -> Q,
) -> Result<T, Failure>
where
    Q: Future<Output = Result<T, Error>>,
{
    match block_on(question(broker.clone())) {
        Err(Failure::Broker(Error::AuthenticationRequired { .. })) if password == AskPassword::Yes => {
            let agent = Agent::start();
            let answer = block_on(question(broker.clone().interactive(true)));
            drop(agent);
            answer
        }
        answer => answer,
    }
}

/// pkttyagent(1), which asks on this terminal on behalf of its parent.
struct Agent(Child);

impl Agent {
    /// Returns when it is there; `None` where it cannot be, and then the agent of the session, if any, is asked.
    fn start() -> Option<Self> {
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return None;
        }
        // It closes what it is given as 1 when it is registered, or ends.
        let mut command = Command::new("pkttyagent");
        command.args(["--fallback", "--notify-fd", "1"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut agent = Self(command.spawn().ok()?);
        if let Some(mut registered) = agent.0.stdout.take() {
            let _ = registered.read_to_end(&mut Vec::new());
        }
        Some(agent)
    }
}

impl Drop for Agent {
    /// By a signal that lets it put the terminal right.
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}
