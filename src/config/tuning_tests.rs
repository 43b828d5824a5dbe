//! Tests of the options that have a number or a word as their value.

use super::*;
use crate::model::{InetEndpoint, UnixAddress, UnixEndpoint};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn read(tunable: Tunable, text: &str) -> Option<String> {
    tunable.read(text).ok().map(|value| value.to_string())
}

#[test]
fn every_option_has_names_and_an_example_that_is_a_value() {
    let mut names = BTreeSet::new();
    for tunable in Tunable::all() {
        assert_eq!(tunable.row().0, tunable);
        assert!(names.insert(tunable.toml()) && names.insert(tunable.unit()), "{tunable:?}");
        let example = tunable.example().trim_matches('"');
        assert!(tunable.read(example).is_ok(), "{tunable:?}: {example}");
    }
    assert_eq!(Tunable::all().count(), 20);
}

#[test]
fn values_are_read_as_systemd_reads_them() {
    let cases = [
        (Tunable::KeepAlive, "yes", Some("true")),
        (Tunable::KeepAlive, "maybe", None),
        (Tunable::KeepAliveTime, "10min", Some("600")),
        (Tunable::KeepAliveTime, "1.9s", Some("1")),
        (Tunable::KeepAliveTime, "500ms", None),
        (Tunable::KeepAliveTime, "32768", None),
        (Tunable::KeepAliveProbes, "128", None),
        (Tunable::ReceiveBuffer, "8M", Some("8388608")),
        (Tunable::ReceiveBuffer, "64 K", Some("65536")),
        (Tunable::ReceiveBuffer, "1G", Some("1073741824")),
        (Tunable::ReceiveBuffer, "2G", None),
        (Tunable::ReceiveBuffer, "0", None),
        (Tunable::ReceiveBuffer, "8m", None),
        (Tunable::IpTos, "low-delay", Some("16")),
        (Tunable::IpTos, "0xb8", Some("184")),
        (Tunable::IpTos, "256", None),
        (Tunable::IpTtl, "0", None),
        (Tunable::Mark, "4294967295", Some("4294967295")),
        (Tunable::Mark, "0x10", Some("16")),
        (Tunable::Mark, "010", Some("8")),
        (Tunable::Mark, "-1", None),
        (Tunable::Mark, "+1", None),
        (Tunable::Priority, "0b11", Some("3")),
        (Tunable::Timestamping, "usec", Some("us")),
        (Tunable::Timestamping, "nsec", Some("ns")),
        (Tunable::Timestamping, "no", Some("off")),
        (Tunable::Timestamping, "ms", None),
        (Tunable::TcpCongestion, "bbr", Some("bbr")),
        (Tunable::TcpCongestion, "a b", None),
        (Tunable::TcpCongestion, "sixteen_letters_", None),
    ];
    for (tunable, text, expected) in cases {
        assert_eq!(read(tunable, text).as_deref(), expected, "{tunable:?} {text}");
    }
}

#[test]
fn a_refused_value_says_what_is_taken() {
    let error = Tunable::IpTtl.read("999").unwrap_err().to_string();
    assert_eq!(error, "\"999\" is no value of \"ip-ttl\": it takes a number from 1 to 255");
}

#[test]
fn options_know_their_sockets() {
    let inet =
        |kind| Endpoint::Inet(InetEndpoint::new(kind, "127.0.0.1:1".parse().unwrap(), false, None).unwrap());
    let (tcp, udp) = (inet(SocketKind::Stream), inet(SocketKind::Datagram));
    let address = UnixAddress::parse("/run/x").unwrap();
    let unix = Endpoint::Unix(UnixEndpoint { kind: SocketKind::Stream, address });
    let on = |tunable: Tunable| [&tcp, &udp, &unix].map(|endpoint| tunable.applies(endpoint));
    assert_eq!(on(Tunable::NoDelay), [true, false, false]);
    assert_eq!(on(Tunable::Mark), [true, true, false]);
    assert_eq!(on(Tunable::PassPacketInfo), [false, true, false]);
    assert_eq!(on(Tunable::PassCredentials), [false, false, true]);
    assert_eq!(on(Tunable::ReceiveBuffer), [true, true, true]);
}

proptest! {
    #[test]
    fn a_value_reads_as_it_is_shown(n in any::<u32>(), index in 0usize..20) {
        let tunable = Tunable::all().nth(index).unwrap();
        if let Ok(value) = tunable.read(&n.to_string()) {
            prop_assert_eq!(tunable.read(&value.to_string()), Ok(value));
        }
    }

    #[test]
    fn no_text_is_too_much(text in ".{0,40}", index in 0usize..20) {
        drop(Tunable::all().nth(index).unwrap().read(&text));
    }
}
