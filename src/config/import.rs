//! What replaces a socket unit: a `[X-PortBroker]` section for the service that it activates.
//!
//! Nothing is left out in silence: a key is taken over, named in a comment with why it is not needed, or a fault.
//! What comes out is checked as any other section is before anybody sees it.

use super::allow::Accounts;
use super::fault::Fault;
use super::key::Key;
use super::section;
use super::socket_keys::{Fate, fate};
use super::units::{SECTION, Setting, Unit};
use super::{Origin, definition::boolean};
use crate::model::UnitName;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Keys of systemd.resource-control(5) and systemd.exec(5) that limit whom a socket reaches: leaving one of these
/// out would open the service to others.
const LIMITS: [&str; 10] = [
    "IPAddressAllow",
    "IPAddressDeny",
    "IPIngressFilterPath",
    "IPEgressFilterPath",
    "BPFProgram",
    "RestrictNetworkInterfaces",
    "SocketBindAllow",
    "SocketBindDeny",
    "PrivateNetwork",
    "NetworkNamespacePath",
];

const NOT_READ: &str =
    "it is about the commands and the cgroup of the socket unit, which is not there any more";

/// The service that a socket unit activates.
pub fn service_of(socket: &Unit) -> Result<UnitName, Box<Fault>> {
    let own = format!("{}.service", socket.name.stem());
    let (text, origin) = match socket.value("Socket", "Service") {
        Some(setting) => {
            let text = socket.expand(&setting.value);
            (text.map_err(|error| Fault::error(setting.origin.clone(), error.to_string()))?, &setting.origin)
        }
        None => (own, &Origin::default()),
    };
    UnitName::try_from(text.as_str()).map_err(|error| Fault::error(origin.clone(), error.to_string()).into())
}

/// The drop-in for the service that a socket unit activates, with what to do as comments; or all that keeps the
/// unit from being replaced.
pub fn import(socket: &Unit, service: Option<&Unit>, accounts: &Accounts) -> Result<String, Vec<Fault>> {
    let mut import = Import { socket, settings: Vec::new(), comments: Vec::new(), faults: Vec::new() };
    let name = match service_of(socket) {
        Ok(name) => name,
        Err(fault) => return Err(vec![*fault]),
    };
    import.read();
    if !import.settings.iter().any(|setting| setting.key.starts_with("Listen")) && import.faults.is_empty() {
        let origin = socket.settings.first().map(|setting| setting.origin.clone()).unwrap_or_default();
        let fault = Fault::error(origin, format!("{} listens on nothing", socket.name));
        import.faults.push(fault.help("mind its name"));
    }
    import.activate();
    if import.settings.iter().any(|setting| setting.key.starts_with("Listen")) {
        import.check(&name, accounts);
    }
    if let Some(service) = service {
        import.beside(service);
    }
    if import.faults.is_empty() { Ok(import.text(&name, service)) } else { Err(import.faults) }
}

struct Import<'a> {
    socket: &'a Unit,
    /// Of the section.
    settings: Vec<Setting>,
    comments: Vec<String>,
    faults: Vec<Fault>,
}

impl Import<'_> {
    fn read(&mut self) {
        for setting in self.socket.settings.iter().filter(|setting| setting.section == "Unit") {
            self.dependency(setting);
        }
        let settings = self.socket.settings.iter().filter(|setting| setting.section == "Socket");
        for setting in settings {
            self.setting(setting);
        }
        if self.settings.iter().any(|setting| setting.key.starts_with("Listen")) {
            self.name();
        }
    }

    /// What the socket unit waits for or depends on, its service may not.
    fn dependency(&mut self, setting: &Setting) {
        let Setting { key, value, .. } = setting;
        let told = ["Description", "Documentation", "DefaultDependencies", "Before"];
        if !value.is_empty() && !told.contains(&key.as_str()) {
            let value: String = value.chars().take(80).collect();
            self.comments.push(format!(
                "{key}={value} is not taken over: write it in [Unit] of the service, where that needs it."
            ));
        }
    }

    fn setting(&mut self, setting: &Setting) {
        let key = setting.key.as_str();
        if setting.value.is_empty() {
            // Any of the Listen lines resets all of them.
            let listens = |key: &str| key.starts_with("Listen");
            self.settings.retain(|known| known.key != key && !(listens(key) && listens(&known.key)));
            self.faults.retain(|fault| !(listens(key) && fault.message.starts_with("Listen")));
            return;
        }
        let no = boolean(&setting.value) == Some(false);
        match fate(key) {
            Some(Fate::Taken) => self.take(setting),
            Some(Fate::NotNeeded(why)) => self.leave_out(setting, why),
            Some(Fate::Refused { why, unless_no: true, .. }) if no => self.leave_out(setting, why),
            Some(Fate::Refused { why, instead, .. }) => {
                let fault =
                    Fault::error(setting.origin.clone(), format!("{key}= cannot be taken over: {why}"));
                self.faults.push(fault.help(instead));
            }
            None if LIMITS.contains(&key) && !no => {
                let message = format!(
                    "{key}= cannot be taken over: it limits the sockets that systemd makes, and these are the broker's"
                );
                let fault = Fault::error(setting.origin.clone(), message);
                self.faults.push(fault.help(
                    "limit it in the firewall or in the service's own configuration, and take it out here",
                ));
            }
            None => self.leave_out(setting, NOT_READ),
        }
    }

    fn take(&mut self, setting: &Setting) {
        let value = match self.socket.expand(&setting.value) {
            // What was a % of the socket unit stays one in the service's.
            Ok(value) => value.replace('%', "%%"),
            Err(error) => {
                let message = format!("{}: {error}", setting.key);
                return self.faults.push(Fault::error(setting.origin.clone(), message));
            }
        };
        let key = Key::of_unit(&setting.key);
        let is_list = matches!(key, Some(key) if key.listens().is_some() || key == Key::Symlinks);
        if !is_list {
            self.settings.retain(|known| known.key != setting.key);
        }
        self.settings.push(Setting { section: SECTION.to_owned(), value, ..setting.clone() });
    }

    fn leave_out(&mut self, setting: &Setting, why: &str) {
        let value: String = setting.value.chars().take(80).collect();
        self.comments.push(format!("{}={value} is not needed: {why}.", setting.key));
    }

    /// FileDescriptorName= names the lines before it, so it comes last. A socket unit's own name is what its
    /// sockets are called where it says nothing.
    fn name(&mut self) {
        let own = self.settings.iter().position(|setting| setting.key == "FileDescriptorName");
        let setting = match own {
            Some(index) => self.settings.remove(index),
            None => Setting {
                section: SECTION.to_owned(),
                key: "FileDescriptorName".to_owned(),
                value: self.socket.name.as_str().replace('%', "%%"),
                origin: self.settings.first().map(|setting| setting.origin.clone()).unwrap_or_default(),
            },
        };
        self.settings.sort_by_key(|setting| !setting.key.starts_with("Listen"));
        let after = self.settings.iter().filter(|setting| setting.key.starts_with("Listen")).count();
        self.settings.insert(after.min(self.settings.len()), setting);
    }

    /// A socket unit starts its service on the first connection.
    fn activate(&mut self) {
        self.settings.push(Setting {
            section: SECTION.to_owned(),
            key: "Activate".to_owned(),
            value: "yes".to_owned(),
            origin: Origin::default(),
        });
    }

    /// What the section would be told by `portbroker check`.
    fn check(&mut self, service: &UnitName, accounts: &Accounts) {
        let unit = Unit { name: service.clone(), enabled: false, settings: self.settings.clone() };
        let mut faults = Vec::new();
        section::read(&unit, accounts, &mut faults);
        self.faults.extend(faults.into_iter().filter(Fault::is_error));
    }

    /// All keys hold for a section as a whole: where the service has one already, of another socket unit perhaps, a
    /// value of ours must not become that of its sockets, nor one of its ours. A socket for root alone would be open
    /// to all.
    fn beside(&mut self, service: &Unit) {
        let (_, own) = self.destination(&service.name);
        let theirs: Vec<&Setting> = service
            .settings
            .iter()
            .filter(|setting| setting.section == SECTION && *setting.origin.file != *own)
            .collect();
        let Some(listen) = theirs.iter().rfind(|setting| setting.key.starts_with("Listen")) else { return };
        let ours = shared_values(self.settings.iter());
        let theirs_shared = shared_values(theirs.iter().copied());
        let keys: BTreeSet<&str> = ours.keys().chain(theirs_shared.keys()).copied().collect();
        for key in keys.into_iter().filter(|key| ours.get(key) != theirs_shared.get(key)) {
            let shown = |values: Option<&Vec<&str>>| match values {
                Some(values) => format!("{key}={}", values.join(" ")),
                None => format!("no {key}="),
            };
            let message = format!(
                "{} has {}, and {} has a section already, with {}: a section has one value for all of its sockets",
                self.socket.name,
                shown(ours.get(key)),
                service.name,
                shown(theirs_shared.get(key)),
            );
            let fault = Fault::error(listen.origin.clone(), message);
            self.faults.push(fault.help("make the two the same, or keep this socket unit"));
        }
    }

    /// The folder of the service's drop-ins, and the file that is to be written.
    fn destination(&self, service: &UnitName) -> (String, PathBuf) {
        let folder = format!("/etc/systemd/system/{service}.d");
        let file = format!("{folder}/{}-socket.conf", self.socket.name.stem().replace('/', "-"));
        (folder, file.into())
    }

    fn text(&self, name: &UnitName, service: Option<&Unit>) -> String {
        let socket = &self.socket.name;
        let (folder, file) = self.destination(name);
        let file = file.display();
        let mut text = format!("# In place of {socket}, which activated {name}. As root:\n");
        // Writing into a String cannot fail.
        if service.is_none() {
            let _ = writeln!(text, "# There is no {name}, or it is masked.");
        }
        let _ = writeln!(text, "#   mkdir -p {folder}\n#   portbroker import {socket} > {file}");
        if let Some(origin) = service.and_then(|service| needs(service, socket)) {
            let _ = writeln!(
                text,
                "# {name} requires {socket} ({origin}), and would not start without it: take that line out with\n\
                 #   systemctl edit --full {name}"
            );
        }
        if self.is_administrators() {
            // A file in /etc cannot be masked.
            let _ = writeln!(
                text,
                "#   systemctl disable --now {socket} && mv /etc/systemd/system/{socket} /etc/systemd/system/{socket}.replaced"
            );
        } else {
            let _ = writeln!(text, "#   systemctl mask --now {socket}");
        }
        let _ =
            writeln!(text, "#   systemctl daemon-reload && systemctl restart {name} && portbroker status");
        for comment in &self.comments {
            // A value may have been continued on the next line, which must not become one of the section's.
            let _ = writeln!(text, "# {}", comment.replace(char::is_control, " "));
        }
        let _ = writeln!(text, "[{SECTION}]");
        for setting in &self.settings {
            let _ = writeln!(text, "{}={}", setting.key, setting.value);
        }
        text
    }

    fn is_administrators(&self) -> bool {
        let own = std::path::Path::new("/etc/systemd/system").join(self.socket.name.as_str());
        self.socket.settings.iter().any(|setting| *setting.origin.file == *own)
    }
}

/// The values that hold for a section as a whole, by key; Activate= is in all that come from here.
fn shared_values<'a>(settings: impl Iterator<Item = &'a Setting>) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let own = |key: &str| key.starts_with("Listen") || ["FileDescriptorName", "Activate"].contains(&key);
    for Setting { key, value, .. } in settings.filter(|setting| !own(&setting.key)) {
        let known = values.entry(key).or_default();
        if value.is_empty() || Key::of_unit(key) != Some(Key::Symlinks) {
            known.clear();
        }
        known.extend(Some(value.as_str()).filter(|value| !value.is_empty()));
    }
    values.retain(|_, values| !values.is_empty());
    values
}

/// Where a service says that it does not start without the socket unit.
fn needs(service: &Unit, socket: &UnitName) -> Option<Origin> {
    let keys = ["Requires", "Requisite", "BindsTo"];
    let settings = keys.iter().flat_map(|key| service.values("Unit", key));
    settings
        .into_iter()
        .find(|setting| {
            let names = |word: &str| service.expand(word).is_ok_and(|word| word == socket.as_str());
            setting.value.split_ascii_whitespace().any(names)
        })
        .map(|setting| setting.origin.clone())
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
