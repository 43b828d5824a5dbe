//! A unit file, and a socket unit: a section of ours or faults; a unit that is imported is one that is read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portbroker::config::import::import;
use portbroker::config::units::{Unit, parse};
use portbroker::config::{Accounts, Sources, build, show};
use portbroker::model::UnitName;
use std::path::Path;

fn unit(name: &str, bytes: &[u8]) -> (Unit, usize) {
    let name = UnitName::try_from(name).unwrap();
    let (settings, faults) = parse(Path::new("/etc/systemd/system/x"), Some(&name), bytes);
    (Unit { name, enabled: true, settings }, faults.len())
}

fuzz_target!(|bytes: &[u8]| {
    let (service, faults) = unit("x@1.service", bytes);
    let (socket, _) = unit("x.socket", bytes);
    let accounts = Accounts::parse("root:x:0:0::/:/bin/sh\n", "root:x:0:\n");
    if faults == 0
        && let Ok(text) = import(&socket, None, &accounts)
    {
        let (_, faults) = unit("x.service", text.as_bytes());
        assert_eq!(faults, 0, "{text}");
    }
    let checked = build(&Sources { units: vec![service, socket], accounts, ..Sources::default() });
    let _ = (show::config_toml(&checked), show::faults_json(&checked), show::summary(&checked));
    for fault in &checked.faults {
        assert!(!fault.to_string().is_empty());
    }
});
