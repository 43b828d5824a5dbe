//! Tests of the address syntax.

use super::*;
use proptest::prelude::*;

fn shown(texts: &[&str], mode: BindIpv6Only, device: Option<&str>) -> Vec<(String, bool)> {
    let addresses: Vec<_> = texts.iter().map(|t| (SocketKind::Stream, t.parse().unwrap())).collect();
    let device = device.map(|d| DeviceName::try_from(d).unwrap());
    let v6only = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Inet(inet) if inet.v6only);
    let made = endpoints(&addresses, mode, device.as_ref()).unwrap();
    made.iter().map(|(endpoint, _)| (endpoint.to_string(), v6only(endpoint))).collect()
}

fn plain(text: &str) -> Vec<String> {
    shown(&[text], BindIpv6Only::Default, None).into_iter().map(|(text, _)| text).collect()
}

fn refused(text: &str) -> String {
    match text.parse::<Address>() {
        Err(error) => error.to_string(),
        Ok(address) => endpoints(&[(SocketKind::Stream, address)], BindIpv6Only::Default, None)
            .expect_err(text)
            .0
            .to_string(),
    }
}

#[test]
fn addresses_are_written_as_in_socket_units() {
    assert_eq!(plain("3306"), ["tcp [::]:3306"]);
    assert_eq!(plain("1.2.3.4:80"), ["tcp 1.2.3.4:80"]);
    assert_eq!(plain("[::1]:80"), ["tcp [::1]:80"]);
    assert_eq!(plain("[fe80::1]:80%eth0"), ["tcp [fe80::1]:80%eth0"]);
    assert_eq!(plain("[fe80::1]:80%2"), ["tcp [fe80::1%2]:80"]);
    assert_eq!(plain("[fe80::1%2]:80"), ["tcp [fe80::1%2]:80"]);
    assert_eq!(plain("/run//x.sock"), ["unix /run/x.sock"]);
    assert_eq!(plain("@x y"), ["unix @x y"]);
    assert_eq!(plain(" 80 "), ["tcp [::]:80"]);
}

#[test]
fn ranges_name_every_port() {
    assert_eq!(plain("5000-5002"), ["tcp [::]:5000", "tcp [::]:5001", "tcp [::]:5002"]);
    assert_eq!(plain("0.0.0.0:65534-65535"), ["tcp 0.0.0.0:65534", "tcp 0.0.0.0:65535"]);
    assert_eq!(plain("[::1]:1-1"), ["tcp [::1]:1"]);
    assert_eq!("1-65535".parse::<Address>().unwrap().count(), 65535);
}

#[test]
fn a_wildcard_leaves_ipv4_alone_where_the_listener_names_it() {
    let both = ["0.0.0.0:443", "[::]:443"];
    let v6only =
        |texts: &[&str], mode| shown(texts, mode, None).into_iter().map(|(_, v)| v).collect::<Vec<_>>();
    assert_eq!(v6only(&both, BindIpv6Only::Default), [false, true]);
    assert_eq!(v6only(&["443", "127.0.0.1:443"], BindIpv6Only::Default), [true, false]);
    assert_eq!(v6only(&["[::]:443", "0.0.0.0:444"], BindIpv6Only::Default), [false, false]);
    assert_eq!(v6only(&["[::]:443-444", "0.0.0.0:444"], BindIpv6Only::Default), [false, true, false]);
    assert_eq!(v6only(&both, BindIpv6Only::Both), [false, false]);
    assert_eq!(v6only(&["443"], BindIpv6Only::Ipv6Only), [true]);
    assert_eq!(v6only(&["[::1]:443"], BindIpv6Only::Default), [true]);
}

#[test]
fn a_device_belongs_to_every_address() {
    let eth0 = |texts: &[&str]| {
        shown(texts, BindIpv6Only::Default, Some("eth0")).into_iter().map(|(t, _)| t).collect::<Vec<_>>()
    };
    assert_eq!(eth0(&["80", "1.2.3.4:80", "/x"]), ["tcp [::]:80%eth0", "tcp 1.2.3.4:80%eth0", "unix /x"]);
    assert_eq!(eth0(&["[fe80::1]:80"]), ["tcp [fe80::1]:80%eth0"]);
    let two = [(SocketKind::Stream, "[fe80::1]:80%eth1".parse().unwrap())];
    let eth0 = DeviceName::try_from("eth0").unwrap();
    let (error, index) = endpoints(&two, BindIpv6Only::Default, Some(&eth0)).unwrap_err();
    assert_eq!((error, index), (ListenError::TwoDevices("eth1".into(), "eth0".into()), 0));
}

#[test]
fn what_is_no_address_is_refused_with_the_reason() {
    assert_eq!(refused(""), "an address must not be empty");
    assert!(refused("vsock:2:1234").contains("vsock"));
    assert_eq!(refused("127.0.0.1"), "\"127.0.0.1\" has no port");
    assert_eq!(refused("[::1]"), "\"[::1]\" has no port");
    assert_eq!(refused("::1"), "\"::1\" is an IPv6 address without brackets");
    assert_eq!(refused("2001:db8::1:80"), "\"2001:db8::1:80\" is an IPv6 address without brackets");
    assert_eq!(refused("localhost:80"), "\"localhost:80\" is no address");
    assert_eq!(refused("*:80"), "\"*:80\" is no address");
    assert_eq!(refused("[::1]80"), "\"[::1]80\" is no address");
    assert_eq!(refused("[1.2.3.4]:80"), "\"[1.2.3.4]:80\" is no address");
    assert_eq!(refused("run/x.sock"), "the path of a unix socket must be absolute");
    assert_eq!(refused("0"), "\"0\" is no port: ports are numbers from 1 to 65535");
    assert_eq!(refused("65536"), "\"65536\" is no port: ports are numbers from 1 to 65535");
    assert_eq!(refused("1.2.3.4:+80"), "\"+80\" is no port: ports are numbers from 1 to 65535");
    assert_eq!(refused("90-80"), "the range 90-80 runs backwards: write 80-90");
    assert_eq!(refused("[::ffff:1.2.3.4]:80"), "::ffff:1.2.3.4 is an IPv4 address written as an IPv6 one");
    assert!(refused("[fe80::1]:80").contains("link-local"));
    assert!(refused("[::1]:80%3").contains("link-local addresses only"));
    assert!(refused("1.2.3.4:80%a:b").contains("is no interface name"));
}

#[test]
fn the_help_shows_what_to_write() {
    let help = |text: &str| text.parse::<Address>().unwrap_err().help().unwrap();
    assert_eq!(help("127.0.0.1"), "write the port too, as in \"127.0.0.1:80\"");
    assert_eq!(help("::1:80"), "write \"[::1]:80\" or \"[::1:80]:PORT\"");
    assert!(help("localhost:80").contains("host names are not looked up"));
}

/// An endpoint with every part that its text shows.
fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let kind = prop_oneof![Just(SocketKind::Stream), Just(SocketKind::Datagram)];
    let device = proptest::option::of("[a-z][a-z0-9.-]{0,14}");
    let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
        .prop_filter("not held", |ip| !matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()));
    let inet =
        (kind.clone(), ip, 1u16.., device).prop_filter_map("needs a device", |(kind, ip, port, device)| {
            let device = device.map(|d| DeviceName::try_from(d.as_str()).unwrap());
            let local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            if local && device.is_none() {
                return None;
            }
            let v6only = !ip.is_unspecified();
            InetEndpoint::new(kind, SocketAddr::new(ip, port), v6only, device).ok().map(Endpoint::Inet)
        });
    let unix = (kind, "[/@][a-z ]{1,20}").prop_filter_map("no address", |(kind, text)| {
        let address = UnixAddress::parse(text.trim()).ok()?;
        Some(Endpoint::Unix(UnixEndpoint { kind, address }))
    });
    prop_oneof![inet, unix]
}

proptest! {
    #[test]
    fn no_text_is_too_much(text in ".{0,60}") {
        drop(text.parse::<Address>());
    }

    #[test]
    fn no_text_that_looks_like_an_address_is_too_much(text in "[0-9a-f:.%/@\\[\\]-]{0,40}") {
        if let Ok(address) = text.parse::<Address>() {
            prop_assert!(address.count() >= 1);
            drop(endpoints(&[(SocketKind::Stream, address)], BindIpv6Only::Default, None));
        }
    }

    #[test]
    fn an_endpoint_reads_as_it_is_shown(endpoint in any_endpoint()) {
        let text = endpoint.to_string();
        let (_, address) = text.split_once(' ').unwrap();
        let again = endpoints(&[(endpoint.kind(), address.parse().unwrap())], BindIpv6Only::Default, None);
        prop_assert_eq!(again.unwrap(), vec![(endpoint, 0)]);
    }
}
