//! Tests of what replaces a socket unit.

use super::*;
use crate::config::units::parse;
use proptest::prelude::*;
use std::path::Path;

fn unit(name: &str, folder: &str, text: &str) -> Unit {
    let name = UnitName::try_from(name).unwrap();
    let (settings, _) = parse(&Path::new(folder).join(name.as_str()), Some(&name), text.as_bytes());
    Unit { name, enabled: false, settings }
}

fn imported(socket: &Unit, service: Option<&Unit>) -> Result<String, Vec<String>> {
    let result = import(socket, service, &Accounts::default());
    result.map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// The section without its comments.
fn section_of(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#') && *line != "Activate=yes").collect()
}

#[test]
fn a_socket_unit_becomes_a_section_of_its_service() {
    let socket = unit(
        "web.socket",
        "/lib/systemd/system",
        "[Unit]\nDescription=x\nConditionPathExists=!/etc/no\n[Socket]\nListenStream=80\nFileDescriptorName=http\nListenStream=%t/%p/100%%.sock\n\
         Backlog=5\nBacklog=7\nSymlinks=/run/a\nSymlinks=/run/b\nListenSequentialPacket=@x\nAccept=no\nTimeoutSec=5\nUser=nobody\n\
         Service=httpd.service\nMark=\nIPTOS=low-delay\nReusePort=yes\nFlushPending=no\n[Install]\nWantedBy=sockets.target\n",
    );
    let service = unit("httpd.service", "/lib/systemd/system", "[Unit]\nRequires=a.target web.socket\n");
    let text = imported(&socket, Some(&service)).unwrap();
    assert_eq!(
        section_of(&text),
        [
            "[X-PortBroker]",
            "ListenStream=80",
            "ListenStream=/run/web/100%%.sock",
            "ListenSequentialPacket=@x",
            "FileDescriptorName=http",
            "Backlog=7",
            "Symlinks=/run/a",
            "Symlinks=/run/b",
            "IPTOS=low-delay"
        ]
    );
    for line in [
        "# In place of web.socket, which activated httpd.service. As root:",
        "#   mkdir -p /etc/systemd/system/httpd.service.d",
        "#   portbroker import web.socket > /etc/systemd/system/httpd.service.d/web-socket.conf",
        "#   systemctl mask --now web.socket",
        "#   systemctl daemon-reload && systemctl restart httpd.service && portbroker status",
        "# httpd.service requires web.socket (/lib/systemd/system/httpd.service:2:1), and would not start without it: take that line out with",
        "# ConditionPathExists=!/etc/no is not taken over: write it in [Unit] of the service, where that needs it.",
        "# ReusePort=yes is not needed: SO_REUSEPORT is always on, for the broker's own user; ReusePort=N makes N sockets of each, one for each worker.",
        "# Accept=no is not needed: the broker hands listening sockets over and starts no process for each connection.",
        "# TimeoutSec=5 is not needed: it is for commands of the socket unit.",
        "# Service=httpd.service is not needed: the section is in the service itself.",
        "# User=nobody is not needed: it is about the commands and the cgroup of the socket unit, which is not there any more.",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn sockets_without_a_name_are_called_after_their_unit_and_those_in_etc_cannot_be_masked() {
    let socket = unit("a.socket", "/etc/systemd/system", "[Socket]\nListenStream=/run/a\n");
    let text = imported(&socket, None).unwrap();
    assert_eq!(section_of(&text), ["[X-PortBroker]", "ListenStream=/run/a", "FileDescriptorName=a.socket"]);
    assert!(text.contains("#   systemctl disable --now a.socket && mv /etc/systemd/system/a.socket "));
    assert!(!text.contains("systemctl mask"));
}

#[test]
fn all_that_cannot_be_taken_over_is_said_at_once() {
    let socket = unit(
        "a.socket",
        "/u",
        "[Socket]\nListenStream=vsock:2:3\nListenFIFO=/run/f\nAccept=yes\nIPAddressDeny=any\nExecStartPre=/bin/x\n\
         ListenStream=/run/%H\nIPTTL=999\nPrivateNetwork=no\n",
    );
    let faults = imported(&socket, None).unwrap_err();
    let lines: Vec<_> = faults.iter().map(|fault| fault.split(": error: ").next().unwrap()).collect();
    assert_eq!(
        lines,
        [
            "/u/a.socket:3:1",
            "/u/a.socket:4:1",
            "/u/a.socket:5:1",
            "/u/a.socket:6:1",
            "/u/a.socket:7:1",
            "/u/a.socket:8:1",
            "/u/a.socket:2:1"
        ],
        "{faults:#?}"
    );
    assert!(faults[1].contains("Accept= cannot be taken over: the broker hands listening sockets over"));
    assert!(faults[2].contains("limit it in the firewall"));
}

#[test]
fn two_socket_units_of_one_service_do_not_get_the_options_of_each_other() {
    let admin = "[Socket]\nListenStream=/run/admin\nSocketMode=0600\nService=v.service\n";
    let admin = unit("v-admin.socket", "/u", admin);
    let service = |folder: &str, section: &str| {
        unit("v.service", folder, &format!("[Service]\nUser=v\n[X-PortBroker]\n{section}"))
    };
    let beside = |section: &str| imported(&admin, Some(&service("/u", section)));
    let faults = beside("ListenStream=/run/v\nSocketMode=0666\nKeepAlive=yes\nActivate=yes\n").unwrap_err();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(
        faults[0].contains("v-admin.socket has no KeepAlive=, and v.service has a section already, with")
    );
    assert!(faults[1].contains("has SocketMode=0600") && faults[1].contains("with SocketMode=0666"));
    assert_eq!(beside("ListenStream=/run/v\n").unwrap_err().len(), 1);
    // The same values, none at all, and what an earlier import has left.
    assert!(beside("ListenStream=/run/v\nFileDescriptorName=v\nMark=1\nMark=\nSocketMode=0600\n").is_ok());
    assert!(beside("SocketMode=0666\n").is_ok());
    let mut again = service("/u", "ListenStream=/run/admin\nSocketMode=0644\n");
    let file = Path::new("/etc/systemd/system/v.service.d/v-admin-socket.conf");
    again.settings.iter_mut().for_each(|setting| setting.origin.file = file.into());
    assert!(imported(&admin, Some(&again)).is_ok());
}

#[test]
fn what_was_taken_back_is_not_there() {
    let socket = unit(
        "a.socket",
        "/u",
        "[Socket]\nListenStream=1\nListenFIFO=/run/f\nListenDatagram=\nListenStream=2\nMark=1\nMark=\n",
    );
    let text = imported(&socket, None).unwrap();
    assert_eq!(section_of(&text), ["[X-PortBroker]", "ListenStream=2", "FileDescriptorName=a.socket"]);
    let nothing = unit("a.socket", "/u", "[Socket]\nBacklog=1\n");
    assert!(imported(&nothing, None).unwrap_err()[0].contains("a.socket listens on nothing"));
    let odd = unit("a.socket", "/u", "[Socket]\nListenStream=1\nService=no unit\n");
    assert_eq!(imported(&odd, None).unwrap_err().len(), 1);
}

proptest! {
    #[test]
    fn what_comes_out_has_no_faults(
        lines in proptest::collection::vec(
            "(ListenStream|ListenDatagram|ListenSequentialPacket|Backlog|Mark|Symlinks|FileDescriptorName|Accept|ReusePort)=(80|/run/[a-z%]{1,3}|@[a-z]|no|yes|)",
            0..8,
        )
    ) {
        let socket = unit("a.socket", "/u", &format!("[Socket]\n{}\n", lines.join("\n")));
        if let Ok(text) = import(&socket, None, &Accounts::default()) {
            let service = unit("a.service", "/u", &text);
            let mut faults = Vec::new();
            section::read(&service, &Accounts::default(), &mut faults);
            prop_assert!(faults.iter().all(|fault| !fault.is_error()), "{text}\n{faults:?}");
        }
    }
}
