//! `reuse-port`: how many sockets each address of a listener has.
//!
//! The sockets of one address are a group by `SO_REUSEPORT`, its *shards*; the kernel spreads clients over them.
//! `ReusePort=` of systemd is a boolean, and both of its values mean one socket here; a number is our own.

use super::Idle;
use super::definition::{Definition, Source, boolean};
use super::fault::{Fault, quoted};
use super::key::Key;
use super::listen::MAX_ENDPOINTS;
use crate::model::{Endpoint, SocketKind};

/// The most shards of one address. More accept queues than this serve nobody.
const MOST: u16 = 64;

/// The value is no number of shards.
#[derive(Debug, thiserror::Error)]
#[error("{0} is no number of sockets for each address: write one from 1 to {MOST}")]
pub(super) struct ShardsError(String);

/// Reads a value.
pub(super) fn parse(text: &str, source: Source) -> Result<u16, ShardsError> {
    match text.parse() {
        Ok(shards @ 1..=MOST) => Ok(shards),
        _ if source == Source::Unit && boolean(text).is_some() => Ok(1),
        _ => Err(ShardsError(quoted(text))),
    }
}

/// Says which listeners cannot have the shards that they ask for.
pub(super) fn check(definition: &Definition, faults: &mut Vec<Fault>) {
    let shards = definition.config.options.shards;
    if shards == 1 {
        return;
    }
    let (name, place) = (&definition.name, definition.place_of(Key::ReusePort));
    let unix = definition.config.endpoints.iter().find(|e| matches!(e, Endpoint::Unix(_)));
    if let Some(unix) = unix {
        let message = format!("{unix} of {name:?} cannot have {shards} sockets: a unix name has one");
        faults.push(place.error(message).help("put it into a listener of its own, without this"));
    }
    let udp = definition.config.endpoints.iter().find(|e| e.kind() == SocketKind::Datagram);
    if let (Some(udp), Idle::Refuse | Idle::QueueFor(_)) = (udp, definition.config.idle) {
        let message = format!("{udp} of {name:?} drops instead of refusing: it has {shards} sockets");
        faults.push(place.warning(message).help("write idle = \"drop\", or use one socket"));
    }
    if matches!(definition.source, Source::Inherited | Source::InheritedWithOptions) {
        let message =
            format!("{name:?} cannot have {shards} sockets for each address: they came from outside");
        faults.push(place.error(message).help("have the broker bind them: take the socket unit out"));
    }
    if definition.config.sockets() > MAX_ENDPOINTS {
        let message = format!("the listener {name:?} would have more than {MAX_ENDPOINTS} sockets");
        faults.push(place.error(message).help("make it several listeners"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, TomlFile, build};

    fn faults(listener: &str) -> Vec<String> {
        let text = format!("[[listener]]\nname = \"a\"\n{listener}\n");
        let files = vec![TomlFile { path: "/x.toml".into(), text }];
        let checked = build(&Sources { files, inherited: Some(Vec::new()), ..Sources::default() });
        checked.faults.iter().map(|fault| fault.message.clone()).collect()
    }

    #[test]
    fn systemds_booleans_are_one_socket_and_numbers_are_ours() {
        for (text, shards) in [("yes", 1), ("no", 1), ("1", 1), ("0", 1), ("4", 4), ("64", 64)] {
            assert_eq!(parse(text, Source::Unit).unwrap(), shards, "{text}");
        }
        for text in ["65", "-1", "", "many", "99999999"] {
            assert!(parse(text, Source::Unit).is_err(), "{text}");
        }
        assert!(parse("0", Source::Toml).is_err() && parse("yes", Source::Toml).is_err());
        assert_eq!(parse("2", Source::Toml).unwrap(), 2);
    }

    #[test]
    fn only_tcp_and_udp_have_shards_and_not_too_many() {
        assert_eq!(faults("stream = \"80\"\ndatagram = \"53\"\nreuse-port = 64"), [""; 0]);
        assert_eq!(
            faults("stream = [\"80\", \"/run/x\"]\nreuse-port = 2"),
            ["unix /run/x of \"a\" cannot have 2 sockets: a unix name has one"]
        );
        assert_eq!(faults("stream = \"/run/x\"\nreuse-port = 1"), [""; 0]);
        let refusing = faults("datagram = \"127.0.0.1:53\"\nidle = \"refuse\"\nreuse-port = 2");
        assert_eq!(refusing, ["udp 127.0.0.1:53 of \"a\" drops instead of refusing: it has 2 sockets"]);
        let many = faults("stream = \"1000-2000\"\nreuse-port = 64");
        assert!(many.iter().any(|fault| fault.contains("more than")), "{many:?}");
    }
}
