//! A pager for what is longer than the terminal, chosen as systemctl(1) chooses its own.
//!
//! `SYSTEMD_PAGER`, else `PAGER`, else less(1), else more(1); empty or `cat` is none. A pager can start programs and
//! write files: whoever came here by sudo(8) for this one command gets less in its secure mode, and no other.

use nix::sys::signal::{SigSet, Signal};
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

/// As systemctl's: quits at the end of a short text, keeps colours, cuts long lines, leaves the screen as it is.
const LESS: &str = "FRSXMK";

/// The commands to try, one after the other: program and arguments.
fn choices(variable: impl Fn(&str) -> Option<OsString>, secure: bool) -> Vec<Vec<String>> {
    if secure {
        return vec![vec!["less".to_owned()]];
    }
    let usual = || vec![vec!["less".to_owned()], vec!["more".to_owned()]];
    let Some(wanted) = ["SYSTEMD_PAGER", "PAGER"].into_iter().find_map(variable) else { return usual() };
    let words: Vec<String> = wanted.to_string_lossy().split_whitespace().map(str::to_owned).collect();
    match words.first().map(String::as_str) {
        None | Some("cat") => Vec::new(),
        Some(_) => std::iter::once(words).chain(usual()).collect(),
    }
}

/// Whether the rights of this process are others than those of the person at the terminal.
fn is_lent() -> bool {
    nix::unistd::getuid() != nix::unistd::geteuid() || std::env::var_os("SUDO_UID").is_some()
}

/// Shows a document in a pager and waits for its end; whether there was one.
pub(crate) fn show(document: &str) -> bool {
    let variable = |name: &str| std::env::var_os(name);
    choices(variable, is_lent()).iter().any(|choice| show_with(choice, document).is_ok())
}

fn show_with(choice: &[String], document: &str) -> io::Result<()> {
    let (program, arguments) = choice.split_first().ok_or(io::ErrorKind::NotFound)?;
    // The pager is told of an interrupt too, and puts the terminal right before this process ends. std's children
    // begin with no signal blocked.
    let mut interrupt = SigSet::empty();
    interrupt.add(Signal::SIGINT);
    let _ = interrupt.thread_block();
    let options = std::env::var_os("SYSTEMD_LESS").unwrap_or_else(|| LESS.into());
    let mut pager = Command::new(program);
    pager.args(arguments).env("LESS", options).env("LESSSECURE", "1").stdin(Stdio::piped());
    let shown = pager.spawn().map(|mut child| {
        if let Some(mut input) = child.stdin.take() {
            // Who has seen enough quits.
            let _ = input.write_all(document.as_bytes());
        }
        let _ = child.wait();
    });
    let _ = interrupt.thread_unblock();
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(set: &[(&str, &str)], secure: bool) -> Vec<String> {
        let value = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        choices(value, secure).into_iter().map(|words| words.join(" ")).collect()
    }

    #[test]
    fn the_pager_is_chosen_as_systemctl_chooses_it() {
        assert_eq!(chosen(&[], false), ["less", "more"]);
        assert_eq!(chosen(&[("PAGER", "most -s")], false), ["most -s", "less", "more"]);
        assert_eq!(chosen(&[("PAGER", "most"), ("SYSTEMD_PAGER", "less -R")], false)[0], "less -R");
        for none in ["", "cat", " "] {
            assert!(chosen(&[("SYSTEMD_PAGER", none), ("PAGER", "less")], false).is_empty(), "{none:?}");
        }
    }

    #[test]
    fn who_has_lent_rights_gets_no_program_of_its_own_choice() {
        assert_eq!(chosen(&[("PAGER", "/tmp/mine")], true), ["less"]);
    }
}
