//! The manual pages have everything: keys, options, verbs with their flags, and the members of the D-Bus interface. And
//! the completions have every verb.

#![cfg(test)]

use portbroker::config::Limit;
use portbroker::config::socket_keys::{Fate, all, fate, toml_keys, unit_keys};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// That of the configuration.
fn page() -> String {
    text("systemd/man/portbroker.toml.5")
}

fn text(path: &str) -> String {
    fs::read_to_string(project().join(path)).unwrap()
}

/// The keys of the manual of systemd 252.
fn socket_keys() -> Vec<String> {
    let list = fs::read_to_string(project().join("tests/manual/systemd.socket-252")).unwrap();
    list.lines().map(str::to_owned).collect()
}

/// The words that paragraphs begin with: keys, as TOML and as units have them, and options.
fn described(page: &str) -> Vec<String> {
    let page = page.replace("\\-", "-");
    let headed = page.lines().zip(page.lines().skip(1)).filter(|(line, _)| *line == ".TP");
    headed
        .flat_map(|(_, head)| {
            head.split_ascii_whitespace().skip(1).map(|word| word.trim_matches(['"', ',', '=']).to_owned())
        })
        .filter(|word| !word.is_empty())
        .collect()
}

#[test]
fn every_key_of_the_configuration_is_described() {
    let described = described(&page());
    let others = ["ports", "learn", "exclude", "name", "Required", "addresses", "spread", "allow", "quota"];
    let others = others.into_iter().chain(["minimum", "close-orphans", "socket", "listen", "destinations"]);
    let limits = Limit::all().map(Limit::key);
    for key in toml_keys().chain(unit_keys()).chain(others).chain(limits) {
        assert!(described.iter().any(|known| known == key), "{key} is not in the page: {described:?}");
    }
}

#[test]
fn every_key_of_a_socket_unit_has_its_row_with_what_becomes_of_it() {
    let page = page();
    let keys = socket_keys();
    assert_eq!(keys.len(), 60);
    for key in keys.iter().map(String::as_str).chain(all().map(|(key, _)| key)) {
        let row = page.lines().find_map(|line| line.strip_prefix(&format!("{key}=@")));
        let row = row.unwrap_or_else(|| panic!("{key} has no row"));
        let expected = match fate(key) {
            Some(Fate::Taken) => "taken",
            Some(Fate::NotNeeded(_)) => "not needed",
            Some(Fate::Refused { unless_no: true, .. }) => "refused unless no",
            Some(Fate::Refused { unless_no: false, .. }) => "refused",
            None => panic!("{key} is a key of socket units and has no fate"),
        };
        assert_eq!(row.split('@').next(), Some(expected), "{key}");
    }
    // The reasons too.
    let flat = page.replace("\\-", "-");
    for (key, fate) in all() {
        if let Fate::NotNeeded(why) | Fate::Refused { why, .. } = fate {
            assert!(flat.contains(why), "{key}: {why}");
        }
    }
}

#[test]
fn the_list_of_keys_is_systemds_own() {
    let output = Command::new("/lib/systemd/systemd").arg("--dump-configuration-items").output().unwrap();
    let items = String::from_utf8(output.stdout).unwrap();
    let socket: Vec<_> = items
        .lines()
        .skip_while(|line| *line != "[Socket]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split('=').next())
        .collect();
    for key in socket_keys() {
        assert!(socket.contains(&key.as_str()), "{key}");
    }
}

/// The pages that are written by hand.
fn pages() -> Vec<PathBuf> {
    let folder = fs::read_dir(project().join("systemd/man")).unwrap();
    folder.map(|entry| entry.unwrap().path()).collect()
}

fn name_of(page: &Path) -> &str {
    page.file_name().unwrap().to_str().unwrap()
}

/// The pages that the program writes.
fn generated() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let output = portbroker().arg("manual").arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let pages = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    (folder, pages)
}

#[test]
fn every_page_is_well_formed() {
    let (_folder, generated) = generated();
    let written = pages();
    assert_eq!(written.len(), 5, "{written:?}");
    for page in written.iter().chain(&generated) {
        let output = Command::new("groff")
            .args(["-k", "-ww", "-t", "-man", "-Tutf8"])
            .arg(page)
            .output()
            .expect("groff, of the package groff-base");
        assert!(output.status.success(), "{page:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{page:?}");
        let least = if written.contains(page) { 5_000 } else { 500 };
        assert!(output.stdout.len() > least, "{page:?} has {} bytes", output.stdout.len());
    }
}

#[test]
fn every_page_is_installed_and_taken_out() {
    let (install, uninstall) = (text("systemd/install"), text("systemd/uninstall"));
    for page in pages() {
        let name = name_of(&page);
        let section = name.rsplit('.').next().unwrap();
        assert!(install.split([' ', ';', '\n']).any(|word| word == name), "{name} is not installed");
        assert!(uninstall.contains(&format!("/share/man/man{section}/{name}\"")), "{name} is left behind");
    }
    for page in ["man1/portbroker.1\"", "man1/portbroker-\"*.1"] {
        assert!(uninstall.contains(page), "{page}");
    }
}

/// A method, signal or property.
struct Member {
    interface: &'static str,
    kind: &'static str,
    name: &'static str,
    /// `names as`
    taken: Vec<String>,
    given: Vec<String>,
    announced: bool,
}

impl Member {
    /// As the page has it.
    fn signature(&self) -> String {
        match (self.kind, self.announced) {
            ("property", true) => self.given.join(""),
            ("property", false) => format!("{}, not announced", self.given.join("")),
            _ if self.given.is_empty() => format!("({})", self.taken.join(", ")),
            _ => format!("({}) \\(-> ({})", self.taken.join(", "), self.given.join(", ")),
        }
    }
}

/// All that introspection tells.
fn members() -> Vec<Member> {
    let source = include_str!("../src/bus/introspect.rs").split("#[cfg(test)]").next().unwrap();
    let mut members: Vec<Member> = Vec::new();
    let mut interface = "";
    for element in source.split('<').skip(1) {
        let value = |key: &str| {
            let (_, rest) = element.split_once(&format!(" {key}=\""))?;
            rest.split('"').next()
        };
        let kind = element.split([' ', '/', '>']).next().unwrap();
        match kind {
            "interface" => interface = value("name").unwrap(),
            "method" | "signal" | "property" => members.push(Member {
                interface,
                kind,
                name: value("name").unwrap(),
                taken: Vec::new(),
                given: value("type").filter(|_| kind == "property").map(str::to_owned).into_iter().collect(),
                announced: true,
            }),
            "arg" => {
                let argument = format!("{} {}", value("name").unwrap(), value("type").unwrap());
                let member = members.last_mut().unwrap();
                let list =
                    if value("direction") == Some("out") { &mut member.given } else { &mut member.taken };
                list.push(argument);
            }
            "annotation" if element.contains("EmitsChangedSignal") => {
                members.last_mut().unwrap().announced = false;
            }
            _ => {}
        }
    }
    members
}

#[test]
fn every_member_of_the_interface_is_described_with_its_signature_and_no_other() {
    let page = text("systemd/man/org.portbroker.PortBroker1.5");
    let members = members();
    assert!(members.len() > 60, "{}", members.len());
    for kind in ["method", "signal", "property"] {
        assert!(members.iter().any(|member| member.kind == kind), "{kind}");
    }
    let section = |interface: &str| {
        let ours = interface.starts_with("org.portbroker.");
        let head = if ours { interface.to_uppercase() } else { interface.to_owned() };
        let (head, end) =
            if ours { (format!(".SH {head}\n"), "\n.SH ") } else { (format!(".SS {head}\n"), "\n.S") };
        let (_, after) = page.split_once(&head).unwrap_or_else(|| panic!("{interface} has no section"));
        after.split(end).next().unwrap()
    };
    for member in &members {
        let head = format!(".TP\n.B {}\n{}\n.br\n", member.name, member.signature());
        let told = section(member.interface).split_once(&head);
        let (_, told) = told.unwrap_or_else(|| panic!("{}: no {head}", member.interface));
        assert!(!told.is_empty() && !told.starts_with(".TP") && !told.starts_with(".S"), "{head}");
    }
    let mut interfaces: Vec<_> = members.iter().map(|member| member.interface).collect();
    interfaces.dedup();
    for interface in interfaces {
        let there = members.iter().filter(|member| member.interface == interface).count();
        assert_eq!(section(interface).matches(".TP\n").count(), there, "{interface}");
    }
}

#[test]
fn every_option_and_error_of_the_interface_is_described() {
    let page = text("systemd/man/org.portbroker.PortBroker1.5");
    let wire = text("client/src/wire/mod.rs");
    let constants = wire.lines().filter_map(|line| {
        let line = line.strip_prefix("pub const ")?;
        let named = line.starts_with("OPTION_") || line.starts_with("DETAIL_");
        line.split('"').nth(1).filter(|_| named)
    });
    let errors = wire.lines().filter_map(|line| line.trim().strip_prefix("(Self::")?.split('"').nth(1));
    let (constants, errors): (Vec<_>, Vec<_>) = (constants.collect(), errors.collect());
    assert!(constants.len() >= 8 && errors.len() >= 10, "{constants:?} {errors:?}");
    for name in constants.iter().chain(&errors) {
        assert!(page.contains(&format!("\n.B {name}\n")), "{name}");
    }
}

#[test]
fn every_key_of_the_section_of_units_is_described_and_no_other() {
    let page = text("systemd/man/portbroker.unit.5");
    let (keys, _) = page.split_once(".SH GENERATED").unwrap();
    let described = described(keys);
    let known: Vec<_> = unit_keys().chain(["FileDescriptorName", "Required"]).collect();
    assert!(known.len() > 30, "{known:?}");
    for key in &known {
        assert!(described.iter().any(|word| word == key), "{key}: {described:?}");
    }
    for word in described {
        assert!(known.contains(&word.as_str()), "there is no {word}=");
    }
}

fn portbroker() -> Command {
    Command::new(env!("CARGO_BIN_EXE_portbroker"))
}

/// The help of a program.
fn help(mut program: Command, path: &[String]) -> String {
    let output = program.args(path).arg("--help").output().unwrap();
    assert!(output.status.success(), "{path:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The lines of a part of a help: those below its head that begin with a space.
fn part<'a>(help: &'a str, head: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = help.lines().skip_while(move |line| *line != head).skip(1);
    lines.take_while(|line| line.is_empty() || line.starts_with(' '))
}

/// `--json`, `-h` and all others.
fn options(help: &str) -> Vec<String> {
    let heads = part(help, "Options:").map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = heads.flat_map(|head| head.split_ascii_whitespace().take_while(|word| word.starts_with('-')));
    words.map(|word| word.trim_end_matches(',').to_owned()).collect()
}

/// The paths of all verbs below one, with it: `list`, `learned`.
fn verbs(path: &[String]) -> Vec<Vec<String>> {
    let help = help(portbroker(), path);
    let names = part(&help, "Commands:").take_while(|line| !line.is_empty()).filter_map(|line| {
        let line = line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?;
        line.split(' ').next().filter(|name| *name != "help")
    });
    let below = names.flat_map(|name| verbs(&[path, &[name.to_owned()]].concat()));
    std::iter::once(path.to_vec()).chain(below).collect()
}

#[test]
fn every_option_of_the_daemon_is_described() {
    let page = text("systemd/man/portbrokerd.8");
    let described = described(&page);
    let options = options(&help(Command::new(env!("CARGO_BIN_EXE_portbrokerd")), &[]));
    assert!(options.len() >= 9, "{options:?}");
    for option in &options {
        assert!(described.contains(option), "{option}: {described:?}");
    }
    for word in described.iter().filter(|word| word.starts_with('-')) {
        assert!(options.contains(word), "there is no {word}");
    }
}

#[test]
fn every_verb_has_a_page_with_every_flag() {
    let (folder, pages) = generated();
    let verbs = verbs(&[]);
    assert!(verbs.len() > 20, "{verbs:?}");
    for path in &verbs {
        let name = [&["portbroker".to_owned()], path.as_slice()].concat().join("-");
        let page = fs::read_to_string(folder.path().join(format!("{name}.1"))).expect(&name);
        let page = page.replace("\\-", "-");
        let options = options(&help(portbroker(), path));
        assert!(options.contains(&"--help".to_owned()), "{name}: {options:?}");
        let heads: Vec<_> =
            page.lines().zip(page.lines().skip(1)).filter(|(line, _)| *line == ".TP").collect();
        for option in options {
            let written = format!("\\fB{option}\\fR");
            assert!(
                heads.iter().any(|(_, head)| head.contains(&written)),
                "{name}: {option} is not in {page}"
            );
        }
    }
    assert_eq!(pages.len(), verbs.len(), "no page of a verb that is hidden: {pages:?}");
}

#[test]
fn every_verb_is_completed_in_each_shell() {
    let folder = tempfile::tempdir().unwrap();
    let verbs: Vec<_> = verbs(&[]).into_iter().filter_map(|path| path.last().cloned()).collect();
    for (shell, before, after) in [("bash", "", ""), ("zsh", "'", ":"), ("fish", "-a \"", "\"")] {
        let output = portbroker().args(["completions", shell]).output().unwrap();
        assert!(output.status.success(), "{shell}: {output:?}");
        let script = String::from_utf8(output.stdout).unwrap();
        for verb in &verbs {
            // In bash they are words of a list.
            let word = script.split([' ', '"']).any(|word| word == verb);
            let there =
                if shell == "bash" { word } else { script.contains(&format!("{before}{verb}{after}")) };
            assert!(there, "{shell}: {verb}");
        }
        let file = folder.path().join(shell);
        fs::write(&file, script).unwrap();
        // bash is everywhere that this is tested; of the others only where they are.
        match Command::new(shell).arg("-n").arg(&file).output() {
            Ok(output) => assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}"),
            Err(error) => assert!(shell != "bash", "{error}"),
        }
    }
    let asked = "source \"$0\"; COMP_WORDS=(portbroker \"$@\"); COMP_CWORD=$#; \
                 _portbroker portbroker \"${!#}\" \"\"; echo \"${COMPREPLY[@]}\"";
    for (words, expected) in
        [(&["forg"][..], "forget"), (&["list", "lear"], "learned"), (&["who", "--ev"], "--evict")]
    {
        let output = Command::new("bash")
            .args(["-c", asked])
            .arg(folder.path().join("bash"))
            .args(words)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{words:?}: {output:?}");
    }
}

#[test]
fn every_limit_is_described_with_its_default_and_its_range() {
    let page = page().replace("\\-", "-");
    for limit in Limit::all() {
        let (_, after) =
            page.split_once(&format!(".B {}\n", limit.key())).unwrap_or_else(|| panic!("{limit:?}"));
        let text = after.split(".TP").next().unwrap().replace('\n', " ");
        let (least, most) = limit.range();
        for value in [least, most, limit.default_value()] {
            assert!(text.contains(&limit.written(value)), "{} {}: {text}", limit.key(), limit.written(value));
        }
    }
}
