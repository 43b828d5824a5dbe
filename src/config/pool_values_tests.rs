use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Result<String, String> {
    addresses(text).map(|spec| spec.to_string()).map_err(|error| match error.help() {
        Some(help) => format!("{error}; {help}"),
        None => error.to_string(),
    })
}

#[test]
fn addresses_are_single_ones_ranges_prefixes_and_interfaces() {
    for (text, shown) in [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.10 - 192.0.2.13 ", "192.0.2.10-192.0.2.13"),
        ("192.0.2.1-192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1-2001:db8::ff", "2001:db8::1-2001:db8::ff"),
        ("2001:db8:1::/64", "2001:db8:1::/64"),
        ("2001:db8::7/128", "2001:db8::7/128"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("127.0.0.0/8", "127.0.0.0/8"),
        ("::1", "::1"),
        ("dev:eth0", "dev:eth0"),
        ("dev:br-lan.5", "dev:br-lan.5"),
    ] {
        assert_eq!(read(text), Ok(shown.to_owned()));
    }
}

#[test]
fn what_cannot_be_a_source_address_is_refused_with_what_was_meant() {
    let form = "is no source address; write ADDRESS, FIRST-LAST, PREFIX/LENGTH or dev:INTERFACE; host names are not looked up";
    for (text, error) in [
        ("localhost", format!("\"localhost\" {form}")),
        ("", format!("\"\" {form}")),
        ("192.0.2.1-", format!("\"192.0.2.1-\" {form}")),
        ("192.0.2.1:80", format!("\"192.0.2.1:80\" {form}")),
        ("fe80::1%eth0", format!("\"fe80::1%eth0\" {form}")),
        ("192.0.2.1-2001:db8::1", "the range 192.0.2.1-2001:db8::1 begins in one family and ends in the other".into()),
        ("192.0.2.9-192.0.2.1", "the range 192.0.2.9-192.0.2.1 runs backwards: write 192.0.2.1-192.0.2.9".into()),
        (
            "10.0.0.0-10.0.16.0",
            "the range 10.0.0.0-10.0.16.0 has 4097 addresses, and a pool has at most 4096; make it several pools".into(),
        ),
        (
            "2001:db8:1::5/64",
            "2001:db8:1::5/64 is no prefix, since it has bits behind its first 64: write 2001:db8:1::/64; or the address \
             without the length, where it alone is meant"
                .into(),
        ),
        (
            "192.0.2.200/26",
            "192.0.2.200/26 is no prefix, since it has bits behind its first 26: write 192.0.2.192/26; or the address \
             without the length, where it alone is meant"
                .into(),
        ),
        ("192.0.2.0/33", "\"33\" is no length of a prefix of 192.0.2.0: a number from 1 to 32".into()),
        ("0.0.0.0/0", "\"0\" is no length of a prefix of 0.0.0.0: a number from 1 to 32".into()),
        ("192.0.2.0/255.255.255.0", "\"255.255.255.0\" is no length of a prefix of 192.0.2.0: a number from 1 to 32".into()),
        ("2001:db8::/+64", "\"+64\" is no length of a prefix of 2001:db8::: a number from 1 to 128".into()),
        ("224.0.0.1", "no connection comes from 224.0.0.1, a multicast address".into()),
        ("ff02::/16", "no connection comes from ff02::, a multicast address".into()),
        ("0.0.0.0", "no connection comes from 0.0.0.0, the unspecified address".into()),
        ("::/64", "no connection comes from ::, the unspecified address".into()),
        ("255.255.255.254-255.255.255.255", "no connection comes from 255.255.255.255, the broadcast address".into()),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1 is an IPv4 address in the form of an IPv6 one: write 192.0.2.1".into()),
        (
            "fe80::1",
            "no connection comes from fe80::1, a link-local address; name global addresses: what a link-local one means \
             goes by the interface"
                .into(),
        ),
    ] {
        assert_eq!(read(text), Err(error));
    }
    assert!(read("dev:").is_err() && read("dev:a/b").is_err() && read("dev:sixteen-letters-").is_err());
}

#[test]
fn of_a_short_prefix_it_is_known_what_is_not_used() {
    let more = |text: &str| left_out_of_prefix(&addresses(text).unwrap());
    assert_eq!(more("10.0.0.0/22"), None);
    assert_eq!(more("10.0.0.0/21"), Some(2046 - 1024));
    assert_eq!(more("10.0.0.0/8"), Some((1 << 24) - 2 - 1024));
    assert_eq!((more("10.0.0.0/32"), more("10.0.0.0/31"), more("2001:db8::/32")), (None, None, None));
}

#[test]
fn grants_of_pools_may_have_sockets() {
    let accounts = Accounts::default();
    let read =
        |text: &str| grant(text, &accounts).map(|grant| grant.to_string()).map_err(|error| error.to_string());
    assert_eq!(read("unit:a.service+sockets"), Ok("unit:a.service+sockets".into()));
    assert_eq!(read("sockets + user:33"), Ok("user:33+sockets".into()));
    assert_eq!(read("user:33"), Ok("user:33".into()));
    assert_eq!(read("sockets"), Err("\"sockets\" says what, and not to whom".into()));
    assert_eq!(read("user:1+sockets+sockets"), Err("\"sockets\" is given twice in one grant".into()));
    assert_eq!(read("user:1+socket"), Err("\"user:1+socket\" is no grant".into()));
    assert_eq!(read(""), Err("\"\" is no grant".into()));
    assert_eq!(read("everybody"), Err("\"everybody\" is no grant".into()));
}

proptest! {
    #[test]
    fn addresses_read_as_they_are_shown(text in "(dev:)?[0-9a-f:.]{0,12}[-/]?[0-9a-f:.]{0,12}") {
        if let Ok(spec) = addresses(&text) {
            prop_assert_eq!(addresses(&spec.to_string()).unwrap(), spec);
        }
    }

    #[test]
    fn of_any_address_and_length_the_prefix_that_is_meant_is_one(bits in any::<u128>(), length in 0u8..=129, four in any::<bool>()) {
        let address = if four { IpAddr::V4(u32::try_from(bits >> 96).unwrap().into()) } else { IpAddr::V6(bits.into()) };
        match addresses(&format!("{address}/{length}")) {
            Ok(AddressSpec::Prefix(base, _)) => prop_assert_eq!(base, address),
            Ok(other) => prop_assert!(false, "{:?}", other),
            Err(AddressesError::HostBits { base, length, .. }) => {
                let meant = addresses(&format!("{base}/{length}"));
                prop_assert!(!matches!(meant, Err(AddressesError::HostBits { .. })), "{:?}", meant);
            }
            Err(_) => {}
        }
    }

    #[test]
    fn no_range_is_longer_than_a_pool(first in any::<u32>(), more in 0u32..10_000) {
        let (first, last) = (Ipv4Addr::from(first), Ipv4Addr::from(first.saturating_add(more)));
        if let Ok(AddressSpec::Range(..)) = addresses(&format!("{first}-{last}")) {
            prop_assert!((more as usize) < MOST_ADDRESSES);
        }
    }
}
