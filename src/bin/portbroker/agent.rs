//! A password on this terminal: polkit's own agent for it, while a question to the broker is answered.
//!
//! Whoever is root, or may what it asks for, is asked nothing, and no agent is started.

use crate::args::{block_on, block_on_silently};
use crate::failure::{Failure, complain};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portbroker::kernel::child::spawn_bound;
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
/// password: by the agent of the session, and where there is none by one on this terminal.
///
/// In that order, as pkexec(1) does it. An agent that registers as a fallback would do for both, but not for a process
/// that is of no session (after su, in a container): polkit never takes a fallback there.
pub(crate) fn administer<T, Q>(
    broker: &Broker,
    password: AskPassword,
    question: impl Fn(Broker) -> Q,
) -> Result<T, Failure>
where
    Q: Future<Output = Result<T, Error>>,
{
    let mut answer = block_on(question(broker.clone()));
    if password == AskPassword::No {
        return answer;
    }
    // Silently, for whoever asks may do it on this terminal.
    let ask = || block_on_silently(question(broker.clone().interactive(true)));
    if takes_authentication(&answer) {
        answer = ask();
    }
    if takes_authentication(&answer)
        && let Some(_agent) = Agent::start()
    {
        answer = ask();
    }
    answer
}

fn takes_authentication<T>(answer: &Result<T, Failure>) -> bool {
    matches!(answer, Err(Failure::Broker(Error::AuthenticationRequired { .. })))
}

/// pkttyagent(1), which asks on this terminal on behalf of its parent.
struct Agent(Child);

impl Agent {
    /// Returns when it is there; `None` where there is no terminal, or it cannot be started.
    fn start() -> Option<Self> {
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return None;
        }
        // It closes what it is given as 1 when it is registered, or ends.
        let mut command = Command::new("pkttyagent");
        command.args(["--notify-fd", "1"]).stdin(Stdio::null()).stdout(Stdio::piped());
        // Or else it would be left at the prompt, with the terminal's echo off, by a signal that ends this process.
        let mut agent = match spawn_bound(&mut command) {
            Ok(agent) => Self(agent),
            Err(error) => {
                complain(&format!(
                    "nobody can be asked for a password here: pkttyagent cannot be started: {error}"
                ));
                return None;
            }
        };
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
