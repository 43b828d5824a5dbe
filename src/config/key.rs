//! The keys of a listener: one meaning each, spelled as systemd.socket(5) does in units and in kebab-case in TOML.

use std::fmt;

/// What a key of a listener sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Stream,
    Datagram,
    Allow,
    Idle,
    Activate,
    Backlog,
    FreeBind,
    BindIpv6Only,
    BindToDevice,
    SocketMode,
    SocketUser,
    SocketGroup,
    DirectoryMode,
    ReusePort,
}

/// What a value of a key looks like in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A string or a list of strings.
    Texts,
    /// A string.
    Text,
    /// A whole number.
    Number,
    /// true or false.
    Flag,
    /// File mode: a string of octal digits, or an octal number.
    Mode,
}

use Key::{
    Activate, Allow, Backlog, BindIpv6Only, BindToDevice, Datagram, DirectoryMode, FreeBind, Idle, ReusePort,
    SocketGroup, SocketMode, SocketUser, Stream,
};

/// Key, name in TOML, name in a unit (empty: units do not have it), shape in TOML.
const KEYS: [(Key, &str, &str, Shape); 14] = [
    (Stream, "stream", "ListenStream", Shape::Texts),
    (Datagram, "datagram", "ListenDatagram", Shape::Texts),
    (Allow, "allow", "", Shape::Texts),
    (Idle, "idle", "Idle", Shape::Text),
    (Activate, "activate", "Activate", Shape::Text),
    (Backlog, "backlog", "Backlog", Shape::Number),
    (FreeBind, "free-bind", "FreeBind", Shape::Flag),
    (BindIpv6Only, "bind-ipv6-only", "BindIPv6Only", Shape::Text),
    (BindToDevice, "bind-to-device", "BindToDevice", Shape::Text),
    (SocketMode, "socket-mode", "SocketMode", Shape::Mode),
    (SocketUser, "socket-user", "SocketUser", Shape::Text),
    (SocketGroup, "socket-group", "SocketGroup", Shape::Text),
    (DirectoryMode, "directory-mode", "DirectoryMode", Shape::Mode),
    (ReusePort, "reuse-port", "ReusePort", Shape::Number),
];

impl Key {
    /// The key with that name in TOML, and the shape of its value.
    pub(super) fn of_toml(name: &str) -> Option<(Self, Shape)> {
        KEYS.iter().find(|(_, toml, ..)| *toml == name).map(|&(key, _, _, shape)| (key, shape))
    }

    /// The key with that name in a unit.
    pub(super) fn of_unit(name: &str) -> Option<Self> {
        KEYS.iter().find(|(_, _, unit, _)| !unit.is_empty() && *unit == name).map(|&(key, ..)| key)
    }

    /// Its name in TOML.
    pub(super) fn toml(self) -> &'static str {
        KEYS.iter().find(|(key, ..)| *key == self).map_or("", |(_, toml, ..)| toml)
    }

    /// All names in TOML.
    pub(super) fn toml_names() -> impl Iterator<Item = &'static str> {
        KEYS.iter().map(|(_, toml, ..)| *toml)
    }

    /// All names in a unit.
    pub(super) fn unit_names() -> impl Iterator<Item = &'static str> {
        KEYS.iter().map(|(_, _, unit, _)| *unit).filter(|unit| !unit.is_empty())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.toml())
    }
}

/// The candidate that was probably meant: the same but for case, `-` and `_`, or at least similar.
pub(super) fn closest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A key of a megabyte is nobody's typing error, and comparing costs its length squared.
    if written.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '_'], "");
    let written = plain(written);
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&written, &plain(candidate)), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_key_is_suggested() {
        assert_eq!(closest("steam", Key::toml_names()), Some("stream"));
        assert_eq!(closest("freebind", Key::toml_names()), Some("free-bind"));
        assert_eq!(closest("BindIPv6only", Key::toml_names()), Some("bind-ipv6-only"));
        assert_eq!(closest("ListenStreams", Key::unit_names()), Some("ListenStream"));
        assert_eq!(closest("bakclog", Key::toml_names()), Some("backlog"));
        assert_eq!(closest("quux", Key::toml_names()), None);
        assert_eq!(closest(&"x".repeat(100), Key::toml_names()), None);
    }
}
