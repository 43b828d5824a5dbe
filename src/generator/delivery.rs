//! The drop-in that brings a unit's sockets into its descriptor store, from where systemd hands them to the
//! main process as socket activation (systemd 252; each line is there because its lack was seen to fail).

use super::tool::Tool;
use super::words;
use crate::config::units::Unit;
use crate::model::{Endpoint, ListenerName, UnixAddress};
use std::path::{Path, PathBuf};

/// What stands at the beginning of each generated file.
pub(super) const HEADER: &str =
    "# Made by portbroker-generator at each boot and daemon-reload; changes here are lost.\n";

/// The socket of the broker, and the directory to be shown of it: the socket itself may be made anew.
const PRIVATE_SOCKET: &str = "/run/portbroker/bus";
const PRIVATE_DIRECTORY: &str = "/run/portbroker";
/// systemd's own, that a unit's processes send READY and descriptors to.
const NOTIFY_SOCKET: &str = "/run/systemd/notify";
/// Where the tool and its libraries are shown to a unit that cannot see those of the host.
const PORTABLE: &str = "/run/portbroker-deposit";

/// What is to be delivered to a unit.
#[derive(Debug, Clone)]
pub struct Delivery<'a> {
    /// The unit with all of its settings.
    pub unit: &'a Unit,
    /// The names of its listeners, and where each is bound.
    pub listeners: Vec<(&'a ListenerName, &'a [Endpoint])>,
    /// How many sockets these have: more than addresses where there are shards.
    pub sockets: usize,
    /// `Required=`
    pub required: bool,
}

impl Delivery<'_> {
    /// The text of the drop-in.
    #[must_use]
    pub fn drop_in(&self, tool: &Tool) -> String {
        let mut lines = vec!["[Unit]".to_owned()];
        // For units without default dependencies; all others come after sysinit.target, before which the
        // broker is ready. No Wants=: who stopped the broker does not want it back with the next service.
        lines.push("After=portbroker.socket portbroker.service".to_owned());
        lines.push("[Service]".to_owned());
        lines.extend(self.notify_access());
        lines.push(self.store());
        lines.extend(self.runtime_directory());
        let sight = Sight::of(self.unit, tool);
        lines.extend(sight.binds(tool));
        lines.push(self.deposit(&sight.command(tool)));
        let mut text = String::from(HEADER);
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// With `main`, ExecStartPre= gets no NOTIFY_SOCKET; with `all`, any worker of the service could fill the
    /// store. A unit's own `exec` or `all` is more than enough.
    fn notify_access(&self) -> Option<String> {
        let own = last_valid(self.unit, "NotifyAccess", |value| {
            ["none", "main", "exec", "all"].contains(&value).then(|| value.to_owned())
        });
        let enough = own.is_some_and(|own| own == "exec" || own == "all");
        (!enough).then(|| "NotifyAccess=exec".to_owned())
    }

    /// A full store drops what comes without telling the sender, so it takes ours besides the unit's own.
    fn store(&self) -> String {
        let own = last_valid(self.unit, "FileDescriptorStoreMax", |value| value.parse::<u32>().ok());
        let all = own.unwrap_or(0).saturating_add(u32::try_from(self.sockets).unwrap_or(u32::MAX));
        format!("FileDescriptorStoreMax={all}")
    }

    /// systemd removes RuntimeDirectory= when the service stops, and with it a socket that the broker holds.
    fn runtime_directory(&self) -> Option<String> {
        let preserve = last_valid(self.unit, "RuntimeDirectoryPreserve", |value| {
            Some(matches!(value, "yes" | "true" | "on" | "1" | "y" | "t"))
        });
        let paths: Vec<PathBuf> = self.listeners.iter().flat_map(|(_, endpoints)| paths(endpoints)).collect();
        let inside = |directory: &RuntimeDirectory| match directory {
            RuntimeDirectory::Known(directory) => paths.iter().any(|path| path.starts_with(directory)),
            // With a specifier that only systemd knows: better keep a directory too many.
            RuntimeDirectory::Unknown => paths.iter().any(|path| path.starts_with("/run")),
        };
        let removed = preserve != Some(true) && runtime_directories(self.unit).iter().any(inside);
        removed.then(|| "RuntimeDirectoryPreserve=yes".to_owned())
    }

    /// The command that does it: `+`, since a unit's RestrictAddressFamilies=, User= and the like would
    /// keep it from asking the broker and from being believed to be the unit's.
    fn deposit(&self, command: &str) -> String {
        let mut line = format!("ExecStartPre=+{command} deposit");
        if self.required {
            line.push_str(" --required");
        }
        line.push_str(" --");
        for (name, _) in &self.listeners {
            line.push(' ');
            line.push_str(&words::quote_argument(name.as_str()));
        }
        line
    }
}

/// What a unit's processes see of the host's files. `+` leaves out ProtectSystem= and the like, but not
/// another root, nor what is mounted over a path (tried on a booted 252).
struct Sight {
    /// Neither the tool nor its libraries are to be seen.
    foreign: bool,
    private_socket: bool,
    notify_socket: bool,
}

impl Sight {
    fn of(unit: &Unit, tool: &Tool) -> Self {
        let root = ["RootDirectory", "RootImage"].iter().any(|key| has_other_root(unit, key));
        let covers = covers(unit);
        let covered =
            |path: &Path| covers.iter().any(|cover| path.starts_with(cover) && cover.as_path() != path);
        let libraries = tool.loader.iter().flat_map(|loader| loader.libraries.iter().chain([&loader.path]));
        Self {
            foreign: root || covered(&tool.path) || libraries.into_iter().any(|path| covered(path)),
            private_socket: !root && !covered(Path::new(PRIVATE_SOCKET)),
            // systemd shows it by itself under another root, unless something is mounted over that.
            notify_socket: !covered(Path::new(NOTIFY_SOCKET)),
        }
    }

    /// What has to be shown. Only where needed, since a mount name space keeps what the unit mounts from
    /// the host. `-`: without a broker there is no directory, and the unit starts all the same.
    fn binds(&self, tool: &Tool) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.private_socket {
            lines.push(format!("BindReadOnlyPaths=-{PRIVATE_DIRECTORY}"));
        }
        if !self.notify_socket {
            lines.push(format!("BindReadOnlyPaths=-{NOTIFY_SOCKET}"));
        }
        if self.foreign {
            let mut show = |path: &Path, name: &str| {
                let path = words::quote(&format!("-{}:{PORTABLE}/{name}", path.display()));
                lines.push(format!("BindReadOnlyPaths={path}"));
            };
            show(&tool.path, "portbroker");
            if let Some(loader) = &tool.loader {
                show(&loader.path, "loader");
                for library in &loader.libraries {
                    let name = library.file_name().unwrap_or_default().to_string_lossy();
                    show(library, &format!("lib/{name}"));
                }
            }
        }
        lines
    }

    /// How the tool is started.
    fn command(&self, tool: &Tool) -> String {
        if !self.foreign {
            return words::quote_argument(&tool.path.to_string_lossy());
        }
        let portable = format!("{PORTABLE}/portbroker");
        if tool.loader.is_none() {
            return portable;
        }
        // The loader by hand: the other root may have none, or one of another C library.
        format!("{PORTABLE}/loader --library-path {PORTABLE}/lib {portable}")
    }
}

/// The last value of a key that systemd understands: it warns of others and goes on with the one before.
fn last_valid<T>(unit: &Unit, key: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
    let settings = unit.settings.iter().rev().filter(|s| s.section == "Service" && s.key == key);
    settings.map(|setting| setting.value.as_str()).find_map(read)
}

fn has_other_root(unit: &Unit, key: &str) -> bool {
    unit.value("Service", key).is_some_and(|setting| words::plain(&setting.value) != Path::new("/"))
}

/// Paths that something else is mounted on.
fn covers(unit: &Unit) -> Vec<PathBuf> {
    let mut covers = Vec::new();
    for setting in unit.values("Service", "TemporaryFileSystem") {
        for word in words::split(&setting.value) {
            covers.push(words::plain(word.split(':').next().unwrap_or_default()));
        }
    }
    for key in ["BindPaths", "BindReadOnlyPaths"] {
        for setting in unit.values("Service", key) {
            for word in words::split(&setting.value) {
                let mut parts = word.split(':');
                let source = words::plain(parts.next().unwrap_or_default().trim_start_matches('-'));
                let target = parts.next().filter(|part| !part.is_empty()).map(words::plain);
                // A path over itself hides nothing.
                covers.extend(target.filter(|target| *target != source));
            }
        }
    }
    covers
}

enum RuntimeDirectory {
    Known(PathBuf),
    Unknown,
}

fn runtime_directories(unit: &Unit) -> Vec<RuntimeDirectory> {
    let values = unit.values("Service", "RuntimeDirectory").into_iter();
    let words = values.flat_map(|setting| words::split(&setting.value));
    let directory = |word: String| match unit.expand(word.split(':').next().unwrap_or_default()) {
        Ok(name) => RuntimeDirectory::Known(words::plain(&format!("/run/{name}"))),
        Err(_) => RuntimeDirectory::Unknown,
    };
    words.map(directory).collect()
}

/// The paths in the file system among some endpoints, each below /run that was written below /var/run.
pub(super) fn paths(endpoints: &[Endpoint]) -> impl Iterator<Item = PathBuf> {
    let path = |endpoint: &Endpoint| match endpoint {
        Endpoint::Unix(unix) => match &unix.address {
            UnixAddress::Path(path) => Some(path.clone()),
            UnixAddress::Abstract(_) => None,
        },
        Endpoint::Inet(_) => None,
    };
    endpoints.iter().filter_map(path).map(|path| match path.strip_prefix("/var/run") {
        Ok(below) => Path::new("/run").join(below),
        Err(_) => path,
    })
}

#[cfg(test)]
mod tests;
