//! The keys of a listener: one meaning each, spelled as systemd.socket(5) does in units and in kebab-case in TOML.

use super::tuning::{Form, Tunable};
use crate::model::SocketKind;
use std::fmt;

/// What a key of a listener sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Stream,
    Datagram,
    SeqPacket,
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
    Protocol,
    Symlinks,
    RemoveOnStop,
    Tune(Tunable),
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
    /// A whole number or a string.
    Value,
    /// true or false.
    Flag,
    /// File mode: a string of octal digits, or an octal number.
    Mode,
}

use Key::{
    Activate, Allow, Backlog, BindIpv6Only, BindToDevice, Datagram, DirectoryMode, FreeBind, Idle, Protocol,
    RemoveOnStop, ReusePort, SeqPacket, SocketGroup, SocketMode, SocketUser, Stream, Symlinks, Tune,
};

/// Key, name in TOML, name in a unit (empty: units do not have it), shape in TOML. Those of [`Tunable`] are in
/// its own table.
const KEYS: &[(Key, &str, &str, Shape)] = &[
    (Stream, "stream", "ListenStream", Shape::Texts),
    (Datagram, "datagram", "ListenDatagram", Shape::Texts),
    (SeqPacket, "seqpacket", "ListenSequentialPacket", Shape::Texts),
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
    (Protocol, "protocol", "SocketProtocol", Shape::Text),
    (Symlinks, "symlinks", "Symlinks", Shape::Texts),
    (RemoveOnStop, "remove-on-stop", "RemoveOnStop", Shape::Flag),
    (ReusePort, "reuse-port", "ReusePort", Shape::Number),
];

/// All keys, those of [`Tunable`] at the end.
fn all() -> impl Iterator<Item = (Key, &'static str, &'static str, Shape)> {
    let tunables = Tunable::all().map(|tunable| {
        let shape = match tunable.form() {
            Form::Flag => Shape::Flag,
            Form::Number(..) => Shape::Number,
            Form::Clock | Form::Congestion => Shape::Text,
            Form::Size | Form::Seconds(_) | Form::Service => Shape::Value,
        };
        (Tune(tunable), tunable.toml(), tunable.unit(), shape)
    });
    KEYS.iter().copied().chain(tunables)
}

impl Key {
    /// The key with that name in TOML, and the shape of its value.
    pub(super) fn of_toml(name: &str) -> Option<(Self, Shape)> {
        all().find(|(_, toml, ..)| *toml == name).map(|(key, _, _, shape)| (key, shape))
    }

    /// The key with that name in a unit.
    pub(super) fn of_unit(name: &str) -> Option<Self> {
        all().find(|(_, _, unit, _)| !unit.is_empty() && *unit == name).map(|(key, ..)| key)
    }

    /// Its name in TOML.
    pub(super) fn toml(self) -> &'static str {
        all().find(|(key, ..)| *key == self).map_or("", |(_, toml, ..)| toml)
    }

    /// All names in TOML.
    pub(super) fn toml_names() -> impl Iterator<Item = &'static str> {
        all().map(|(_, toml, ..)| toml)
    }

    /// All names in a unit.
    pub(super) fn unit_names() -> impl Iterator<Item = &'static str> {
        all().map(|(_, _, unit, _)| unit).filter(|unit| !unit.is_empty())
    }

    /// Whether its values are addresses, and of what kind of socket.
    pub(super) fn listens(self) -> Option<SocketKind> {
        match self {
            Stream => Some(SocketKind::Stream),
            Datagram => Some(SocketKind::Datagram),
            SeqPacket => Some(SocketKind::SeqPacket),
            _ => None,
        }
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
