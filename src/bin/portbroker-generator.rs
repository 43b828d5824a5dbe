//! `portbroker-generator NORMAL EARLY LATE`: systemd.generator(7).
//!
//! Exits with 0 whatever happened, and says what went wrong where the boot's other messages are.

use portbroker::generator::{Host, SystemdVersion, Tool, generate};
use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::Path;

fn main() {
    let messages = match std::env::args_os().nth(1) {
        Some(output) => generate(Path::new("/"), Path::new(&output), &host()),
        None => {
            vec!["portbroker-generator NORMAL EARLY LATE: systemd runs it at boot and daemon-reload".into()]
        }
    };
    log(&messages);
}

fn host() -> Host {
    let own = fs::read_link("/proc/self/exe").unwrap_or_default();
    // What cannot be read tells nothing, and the defaults serve.
    let maps = |of: &str| fs::read_to_string(format!("/proc/{of}/maps")).unwrap_or_default();
    Host { tool: Tool::beside(&own, &maps("self")), systemd: SystemdVersion::of_maps(&maps("1")) }
}

/// To the kernel's log, which is all there is at boot, unless a person looks on.
fn log(messages: &[String]) {
    if messages.is_empty() {
        return;
    }
    let kernel = || OpenOptions::new().write(true).open("/dev/kmsg").ok();
    let mut kernel = if io::stderr().is_terminal() { None } else { kernel() };
    for message in messages {
        // One record is one write, of at most 1,024 bytes less its head; 4 is KERN_WARNING.
        let text: String = message.chars().filter(|c| !c.is_control()).take(900).collect();
        let record = format!("<4>portbroker-generator[{}]: {text}\n", std::process::id());
        let logged = kernel.as_mut().is_some_and(|log| log.write_all(record.as_bytes()).is_ok());
        if !logged {
            // Nothing is left to be told where this fails too.
            let _ = writeln!(io::stderr(), "portbroker-generator: {text}");
        }
    }
}
