//! Tests of the section of a unit.

use super::*;
use crate::config::units::parse;
use crate::config::{Account, Idle};
use std::path::Path;

fn unit(name: &str, text: &str) -> Unit {
    let name = UnitName::try_from(name).unwrap();
    let (settings, faults) =
        parse(Path::new("/u"), Some(&name), format!("[X-PortBroker]\n{text}").as_bytes());
    assert_eq!(faults, []);
    Unit { name, enabled: false, settings }
}

fn section(name: &str, text: &str) -> (UnitSection, Vec<String>) {
    let mut faults = Vec::new();
    let section = read(&unit(name, text), &Accounts::parse("mysql:x:105:110::/:\n", ""), &mut faults);
    (section, faults.iter().map(ToString::to_string).collect())
}

fn well(name: &str, text: &str) -> UnitSection {
    let (section, faults) = section(name, text);
    assert_eq!(faults, [""; 0]);
    section
}

fn shown(section: &UnitSection) -> Vec<(String, Vec<String>)> {
    let endpoints = |d: &Definition| d.config.endpoints.iter().map(ToString::to_string).collect();
    section.listeners.iter().map(|d| (d.name.to_string(), endpoints(d))).collect()
}

fn listener(name: &str, endpoints: &[&str]) -> (String, Vec<String>) {
    (name.to_owned(), endpoints.iter().map(|&text| text.to_owned()).collect())
}

#[test]
fn a_section_names_its_listeners() {
    let mysql = well(
        "mariadb.service",
        "ListenStream=127.0.0.1:3306\nListenStream=/run/mysqld/mysqld.sock\nFileDescriptorName=mysql\n",
    );
    assert_eq!(shown(&mysql), [listener("mysql", &["tcp 127.0.0.1:3306", "unix /run/mysqld/mysqld.sock"])]);
    let grant = &mysql.listeners[0].config.allow;
    assert_eq!(grant.iter().map(ToString::to_string).collect::<Vec<_>>(), ["unit:mariadb.service"]);
    assert!(!mysql.required);
    let several = well(
        "a.service",
        "ListenStream=1\nFileDescriptorName=x\nListenDatagram=2\nListenStream=3\nFileDescriptorName=y\nListenStream=4\n",
    );
    assert_eq!(
        shown(&several),
        [
            listener("x", &["tcp [::]:1"]),
            listener("y", &["udp [::]:2", "tcp [::]:3"]),
            listener("a", &["tcp [::]:4"]),
        ]
    );
}

#[test]
fn keys_of_the_section_hold_for_all_its_listeners() {
    let section = well(
        "a.service",
        "ListenStream=/run/a\nFileDescriptorName=x\nListenStream=[::]:80\nIdle=queue 30s\nBacklog=7\nFreeBind=no\n\
         BindIPv6Only=ipv6-only\nBindToDevice=lo\nSocketMode=0660\nSocketUser=mysql\nDirectoryMode=700\nRequired=yes\n",
    );
    assert!(section.required);
    for listener in &section.listeners {
        let options = &listener.config.options;
        assert_eq!(listener.config.idle, Idle::QueueFor(std::time::Duration::from_secs(30)));
        assert_eq!((options.backlog, options.free_bind), (7, false));
        assert_eq!((options.socket_mode, options.directory_mode), (0o660, 0o700));
        assert_eq!(options.socket_user, Some(Account { name: "mysql".into(), id: Some(105) }));
    }
    assert_eq!(shown(&section)[1].1, ["tcp [::]:80%lo"]);
}

#[test]
fn an_empty_assignment_takes_back_what_was_before_it() {
    let text = "ListenStream=1\nFileDescriptorName=x\nListenDatagram=\nListenStream=2\nBacklog=5\nBacklog=\nRequired=yes\nRequired=\n";
    let reset = well("a.service", text);
    assert_eq!(shown(&reset), [listener("a", &["tcp [::]:2"])]);
    assert_eq!(reset.listeners[0].config.options.backlog, 4096);
    assert!(!reset.required);
    let renamed = well(
        "a.service",
        "ListenStream=1\nFileDescriptorName=x\nFileDescriptorName=\nFileDescriptorName=y\n",
    );
    assert_eq!(shown(&renamed), [listener("y", &["tcp [::]:1"])]);
    assert_eq!(shown(&well("a.service", "ListenStream=1\nListenStream=\n")), []);
}

#[test]
fn specifiers_are_replaced() {
    let section = well(
        "web@8080.service",
        "ListenStream=127.0.0.1:%i\nListenStream=/run/%p-%i.sock\nListenStream=@%n%%\nFileDescriptorName=%p.%i\n",
    );
    assert_eq!(
        shown(&section),
        [listener("web.8080", &["tcp 127.0.0.1:8080", "unix /run/web-8080.sock", "unix @web@8080.service%"])]
    );
    assert_eq!(shown(&well("web@1.service", "ListenStream=1\n")), [listener("web@1", &["tcp [::]:1"])]);
    let (_, faults) = section_faults("a.service", "ListenStream=%H:80\n");
    assert!(faults[0].contains("the specifier %H is not available here"), "{faults:?}");
}

fn section_faults(name: &str, text: &str) -> (UnitSection, Vec<String>) {
    let (section, faults) = section(name, text);
    assert!(!faults.is_empty());
    (section, faults)
}

#[test]
fn what_is_wrong_in_a_section_is_said_with_its_place() {
    let (section, faults) = section_faults(
        "a.service",
        "FileDescriptorName=early\nListenSteam=1\nlistenstream=2\nListenStream=localhost:80\nBacklog=many\nSocketMode=9\n\
         Activate=often\nRequired=perhaps\nListenStream=80\nAccept=no\nFileDescriptorName=a:b\nIdle=sleep\n",
    );
    assert_eq!(
        faults,
        [
            "/u:2:1: error: FileDescriptorName=\"early\" names nothing: no Listen line without a name is before it; write it below the Listen lines that it names",
            "/u:3:1: error: unknown key \"ListenSteam\" in [X-PortBroker]; did you mean ListenStream=?",
            "/u:4:1: error: unknown key \"listenstream\" in [X-PortBroker]; did you mean ListenStream=?",
            "/u:9:1: error: Required=\"perhaps\" is neither yes nor no",
            "/u:11:1: error: Accept= is not available in [X-PortBroker]: the broker hands listening sockets over and starts no process for each connection; keep the socket unit, or run a service that accepts for itself (for a program made for inetd: socat or systemd-socket-activate --accept --inetd)",
            "/u:12:1: error: a listener's name is printable ASCII without ':', and this one contains ':'",
            "/u:6:1: error: \"many\" is no backlog: a number from 0 to 4294967295",
            "/u:7:1: error: \"9\" is no file mode; write octal digits, as in \"0660\"",
            "/u:8:1: error: \"often\" is neither yes nor no",
            "/u:13:1: error: \"sleep\" is not what a listener can do while it is idle: write queue, refuse, drop, or a time as in \"queue 30s\"",
            "/u:5:1: error: \"localhost:80\" is no address; write PORT, ADDRESS:PORT, [IPV6-ADDRESS]:PORT, /PATH or @NAME; host names are not looked up",
        ]
    );
    assert_eq!(shown(&section), [listener("a", &["tcp [::]:80"])]);
}

#[test]
fn a_wrong_option_is_said_once_for_all_listeners() {
    let (_, faults) =
        section_faults("a.service", "ListenStream=1\nFileDescriptorName=x\nListenStream=2\nBacklog=many\n");
    assert_eq!(faults.len(), 1);
}

#[test]
fn a_unit_whose_name_is_no_listeners_must_give_one() {
    let (section, faults) = section_faults("portbroker-x.service", "ListenStream=1\n");
    assert_eq!(section.listeners, []);
    assert!(faults[0].contains("names that begin with \"portbroker\" are the broker's own"), "{faults:?}");
    assert!(faults[0].ends_with("write FileDescriptorName= below the Listen lines"));
    assert_eq!(shown(&well("portbroker-x.service", "ListenStream=1\nFileDescriptorName=y\n")).len(), 1);
}

#[test]
fn sections_that_do_nothing_are_said() {
    let (_, faults) = section_faults("a.service", "Backlog=5\n");
    assert!(faults[0].contains("warning: the section [X-PortBroker] of a.service has no Listen line"));
    let (_, faults) = section_faults("a.socket", "ListenStream=1\n");
    assert!(faults[0].contains("error: [X-PortBroker] has a meaning in service units only"));
}

#[test]
fn a_section_has_a_limit() {
    let (section, faults) = section_faults("a.service", &"ListenStream=/x\n".repeat(5000));
    assert_eq!(faults.len(), 1);
    assert!(faults[0].starts_with("/u:4098:1: error: the section has more than 4096 Listen lines"));
    assert_eq!(section.listeners[0].config.endpoints.len(), 4096);
    let (section, faults) = section_faults("a.service", "ListenStream=1-4096\nListenStream=5000\n");
    assert!(faults[0].starts_with("/u:3:1: error: the listener \"a\" would have more than 4096 sockets"));
    assert_eq!(section.listeners[0].config.endpoints.len(), 4096);
}

#[test]
fn every_option_of_a_socket_unit_is_taken() {
    let section = well(
        "a.service",
        "ListenStream=[::]:80\nListenSequentialPacket=/run/a\nSocketProtocol=mptcp\nSymlinks=/run/b /run/c\nSymlinks=/run/d\n\
         RemoveOnStop=yes\nKeepAlive=1\nKeepAliveTimeSec=2min 5s\nKeepAliveIntervalSec=7\nKeepAliveProbes=3\nNoDelay=on\n\
         DeferAcceptSec=5\nFastOpen=16\nTCPCongestion=reno\nReceiveBuffer=1M\nSendBuffer=64K\nIPTOS=throughput\nIPTTL=9\n\
         Mark=0x7\nPriority=5\nTransparent=no\nBroadcast=yes\nPassCredentials=yes\nPassSecurity=yes\nPassPacketInfo=yes\n\
         Timestamping=usec\nBacklog=4294967295\n",
    );
    let options = &section.listeners[0].config.options;
    let tuned: Vec<_> =
        options.tuning.iter().map(|(tunable, value)| format!("{}={value}", tunable.unit())).collect();
    assert_eq!(
        tuned.join(" "),
        "KeepAlive=true KeepAliveTimeSec=125 KeepAliveIntervalSec=7 KeepAliveProbes=3 NoDelay=true DeferAcceptSec=5 \
         FastOpen=16 TCPCongestion=reno ReceiveBuffer=1048576 SendBuffer=65536 IPTOS=8 IPTTL=9 Mark=7 Priority=5 \
         Transparent=false Broadcast=true PassCredentials=true PassSecurity=true PassPacketInfo=true \
         Timestamping=us"
    );
    assert_eq!(options.symlinks, ["/run/b", "/run/c", "/run/d"].map(std::path::PathBuf::from));
    assert!(options.remove_on_stop);
    assert_eq!(options.backlog, u32::MAX);
    assert_eq!(shown(&section), [listener("a", &["tcp [::]:80", "unix-seqpacket /run/a"])]);
    let reset = well("a.service", "ListenStream=/run/a\nSymlinks=/run/b\nSymlinks=\nSymlinks=/run/c\n");
    assert_eq!(reset.listeners[0].config.options.symlinks, [std::path::PathBuf::from("/run/c")]);
}

#[test]
fn what_a_socket_unit_has_and_a_section_not_is_refused_with_what_to_do() {
    let (_, faults) =
        section_faults("a.service", "ListenStream=1\nListenFIFO=/run/f\nMaxConnections=5\nSmackLabel=x\n");
    assert_eq!(
        faults,
        [
            "/u:3:1: error: ListenFIFO= is not available in [X-PortBroker]: portbroker holds sockets, and not FIFOs, devices, netlink, message queues or USB endpoints; keep the socket unit for it",
            "/u:4:1: error: MaxConnections= is not needed in [X-PortBroker]: it is for Accept=yes; take it out",
            "/u:5:1: error: SmackLabel= is not available in [X-PortBroker]: labels of Smack and SELinux are set by systemd only; keep the socket unit for it",
        ]
    );
}
