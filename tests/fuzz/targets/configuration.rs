//! A configuration file: whatever its bytes are, there is a valid configuration or a fault that can be shown; and a
//! valid one is the same when it is written as the last good one and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portbroker::config::{Accounts, Checked, Colour, Sources, TomlFile, build, render, show};

const FILE: &str = "/etc/portbroker/portbroker.toml";

fn built(text: &str) -> Checked {
    let accounts = Accounts::parse("root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n", "web:x:33:\n");
    let file = TomlFile { path: FILE.into(), text: text.to_owned() };
    build(&Sources { files: vec![file], accounts, inherited: Some(Vec::new()), ..Sources::default() })
}

fuzz_target!(|text: &str| {
    let checked = built(text);
    for fault in &checked.faults {
        assert!(!render(fault, &|_| Some(text.to_owned()), Colour::Off).is_empty());
        assert!(!fault.to_string().is_empty());
    }
    let _ = (show::config_toml(&checked), show::faults_json(&checked), show::summary(&checked));
    if !checked.is_valid() {
        return;
    }
    let written = show::to_toml(&checked.config);
    let again = built(&written);
    assert!(again.is_valid(), "{written}\n{:?}", again.faults);
    assert_eq!(show::to_toml(&again.config), written);
});
