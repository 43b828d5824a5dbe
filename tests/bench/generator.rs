//! The generator over the units of this machine.

use crate::measure::{Samples, Table, Target, milliseconds, row};
use std::process::Command;

const RUNS: usize = 30;
const WARM_UP: usize = 3;

/// The most that a run should take.
const MILLISECONDS: f64 = 20.0;

pub(crate) fn measure() -> Table {
    let [mut ours, mut bare] = [const { Samples::new() }; 2];
    for n in 0..WARM_UP + RUNS {
        let folder = tempfile::tempdir().unwrap();
        let mut generator = Command::new(env!("CARGO_BIN_EXE_portbroker-generator"));
        generator.args(["normal", "early", "late"].map(|name| folder.path().join(name)));
        for (samples, mut command) in [(&mut ours, generator), (&mut bare, Command::new("true"))] {
            let (took, status) = milliseconds(|| command.status().unwrap());
            assert!(status.success(), "{command:?}");
            if n >= WARM_UP {
                samples.push(took);
            }
        }
    }
    Table {
        title: format!("the generator over this machine's {} unit files, {RUNS} runs each", units()),
        unit: "ms",
        ours: row("portbroker-generator NORMAL EARLY LATE", ours),
        target: Target { limit: MILLISECONDS, says: format!("at most {MILLISECONDS} ms") },
        others: vec![row("true", bare)],
    }
}

/// Files, of units and of drop-ins, in the folders that systemd reads.
fn units() -> usize {
    let folders =
        ["/etc", "/run", "/usr/local/lib", "/usr/lib"].map(|folder| format!("{folder}/systemd/system"));
    let found = Command::new("find").args(folders).args(["-type", "f"]).output().expect("needs find");
    found.stdout.iter().filter(|byte| **byte == b'\n').count()
}
