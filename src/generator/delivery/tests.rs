//! Units in, drop-ins out.

use super::*;
use crate::config::units::parse;
use crate::generator::tool::Loader;
use crate::model::{InetEndpoint, SocketKind, UnitName, UnixEndpoint};

fn tool() -> Tool {
    let libraries = vec!["/usr/lib/x86_64-linux-gnu/libc.so.6".into()];
    let path = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2".into();
    Tool { path: "/usr/bin/portbroker".into(), loader: Some(Loader { path, libraries }) }
}

fn unit(service: &str) -> Unit {
    let name = UnitName::try_from("web@1.service").unwrap();
    let text = format!("[Service]\n{service}");
    let (settings, faults) = parse(Path::new("/web@.service"), Some(&name), text.as_bytes());
    assert_eq!(faults, []);
    Unit { name, enabled: true, settings }
}

fn tcp(port: u16) -> Endpoint {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    Endpoint::Inet(InetEndpoint::new(SocketKind::Stream, address, false, None).unwrap())
}

fn unix(path: &str) -> Endpoint {
    Endpoint::Unix(UnixEndpoint { kind: SocketKind::Stream, address: UnixAddress::parse(path).unwrap() })
}

/// The lines of the drop-in for a unit with these settings and endpoints, without header and sections.
fn lines(service: &str, endpoints: &[Endpoint]) -> Vec<String> {
    let unit = unit(service);
    let name = ListenerName::try_from("web").unwrap();
    let listeners = vec![(&name, endpoints)];
    let delivery = Delivery { unit: &unit, listeners, sockets: endpoints.len(), required: false };
    let text = delivery.drop_in(&tool());
    text.lines().filter(|line| !line.starts_with(['#', '['])).map(str::to_owned).collect()
}

/// The values of one key in that drop-in.
fn values(key: &str, service: &str, endpoints: &[Endpoint]) -> Vec<String> {
    let lines = lines(service, endpoints);
    lines.iter().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned).collect()
}

#[test]
fn a_plain_service_gets_no_more_than_it_needs() {
    assert_eq!(
        lines("ExecStart=/bin/web\n", &[tcp(80), tcp(81)]),
        [
            "After=portbroker.socket portbroker.service",
            "NotifyAccess=exec",
            "FileDescriptorStoreMax=2",
            "ExecStartPre=+/usr/bin/portbroker deposit -- web",
        ]
    );
}

#[test]
fn names_are_quoted_for_a_command_line() {
    let unit = unit("");
    let names = ["a b", "--help", "50%$x"].map(|name| ListenerName::try_from(name).unwrap());
    let listeners = names.iter().map(|name| (name, [].as_slice())).collect();
    let text = Delivery { unit: &unit, listeners, sockets: 3, required: true }.drop_in(&tool());
    let last = text.lines().last().unwrap();
    assert_eq!(last, r#"ExecStartPre=+/usr/bin/portbroker deposit --required -- "a b" --help "50%%$$x""#);
}

#[test]
fn a_wider_notify_access_of_the_units_own_is_kept() {
    let access = |own| values("NotifyAccess", own, &[tcp(80)]);
    assert_eq!(access("NotifyAccess=all\n"), [""; 0]);
    assert_eq!(access("NotifyAccess=exec\n"), [""; 0]);
    assert_eq!(access("NotifyAccess=main\n"), ["exec"]);
    assert_eq!(access("NotifyAccess=all\nNotifyAccess=none\n"), ["exec"]);
    assert_eq!(access("NotifyAccess=all\nNotifyAccess=nonsense\n"), [""; 0]);
}

#[test]
fn the_store_has_room_for_the_units_own_descriptors_too() {
    let max = |own| values("FileDescriptorStoreMax", own, &[tcp(80), tcp(81)]);
    assert_eq!(max("FileDescriptorStoreMax=5\n"), ["7"]);
    assert_eq!(max("FileDescriptorStoreMax=5\nFileDescriptorStoreMax=many\n"), ["7"]);
    assert_eq!(max("FileDescriptorStoreMax=4294967295\n"), ["4294967295"]);
}

#[test]
fn a_directory_with_a_brokered_socket_is_kept() {
    let preserve = |own, path| values("RuntimeDirectoryPreserve", own, &[unix(path)]);
    assert_eq!(preserve("RuntimeDirectory=x web\n", "/run/web/socket"), ["yes"]);
    assert_eq!(preserve("RuntimeDirectory=%p:alias\n", "/var/run/web/socket"), ["yes"]);
    assert_eq!(preserve("RuntimeDirectory=%H\n", "/run/web/socket"), ["yes"]);
    assert_eq!(preserve("RuntimeDirectory=web\n", "/run/website/socket"), [""; 0]);
    assert_eq!(preserve("RuntimeDirectory=web\nRuntimeDirectory=\n", "/run/web/socket"), [""; 0]);
    assert_eq!(
        preserve("RuntimeDirectory=web\nRuntimeDirectoryPreserve=restart\n", "/run/web/s"),
        ["yes"],
        "a stop would remove it"
    );
    assert_eq!(preserve("RuntimeDirectory=web\nRuntimeDirectoryPreserve=yes\n", "/run/web/s"), [""; 0]);
    assert_eq!(preserve("RuntimeDirectory=web\n", "@/run/web/socket"), [""; 0]);
}

#[test]
fn a_unit_with_a_root_of_its_own_is_shown_the_tool_and_the_broker() {
    for own in ["RootDirectory=/srv/web\n", "RootImage=/srv/web.img\n", "TemporaryFileSystem=/:ro /tmp\n"] {
        let binds = values("BindReadOnlyPaths", own, &[tcp(80)]);
        let libc = "-/usr/lib/x86_64-linux-gnu/libc.so.6:/run/portbroker-deposit/lib/libc.so.6";
        assert!(binds.contains(&"-/run/portbroker".to_owned()), "{own}");
        assert!(
            binds.contains(&"-/usr/bin/portbroker:/run/portbroker-deposit/portbroker".to_owned()),
            "{own}"
        );
        assert!(binds.contains(&libc.to_owned()), "{own}");
        assert_eq!(
            values("ExecStartPre", own, &[tcp(80)]),
            ["+/run/portbroker-deposit/loader --library-path /run/portbroker-deposit/lib \
              /run/portbroker-deposit/portbroker deposit -- web"]
        );
    }
    for own in ["RootDirectory=/\n", "RootDirectory=/srv\nRootDirectory=\n", "ProtectSystem=strict\n"] {
        assert_eq!(values("BindReadOnlyPaths", own, &[tcp(80)]), [""; 0], "{own}");
    }
}

#[test]
fn what_is_mounted_over_run_is_opened_again() {
    let binds = |own| values("BindReadOnlyPaths", own, &[tcp(80)]);
    let both = ["-/run/portbroker", "-/run/systemd/notify"];
    assert_eq!(binds("TemporaryFileSystem=/run:size=1M\n"), both);
    assert_eq!(binds("BindPaths=-/srv/run:/run:rbind\n"), both);
    assert_eq!(binds("BindPaths=/run /run:/run\n"), [""; 0]);
    assert_eq!(binds("TemporaryFileSystem=/run/other /home\n"), [""; 0]);
    assert_eq!(binds("TemporaryFileSystem=/run\nTemporaryFileSystem=\n"), [""; 0]);
    assert_eq!(
        values("ExecStartPre", "TemporaryFileSystem=/run\n", &[tcp(80)]),
        ["+/usr/bin/portbroker deposit -- web"]
    );
}
