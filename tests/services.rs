//! Services of all kinds on a booted system, each with nothing but a section in its unit file.

#![cfg(test)]

use portbroker_lab::{Lab, Preparation, prepare};
use std::path::Path;

fn installed(name: &str) -> Preparation {
    prepare(name).install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
}

/// What is in a unit's descriptor store.
fn stored(lab: &Lab, unit: &str) -> String {
    lab.show(unit, "NFileDescriptorStore")
}

/// Inodes of the sockets that the broker has for a listener.
fn inodes(lab: &Lab, listener: &str) -> String {
    lab.ok(&format!("portbroker --json show listener {listener} | grep -o '\"inode\":[0-9]*'"))
}

/// Kinds of service: a name, its port, and what is in its unit file.
const KINDS: [(&str, u16, &str); 12] = [
    ("plain", 3001, ""),
    ("user", 3002, "User=nobody\n"),
    ("dynamic", 3003, "DynamicUser=yes\n"),
    ("strict", 3004, "DynamicUser=yes\nProtectSystem=strict\nPrivateTmp=yes\nProtectProc=invisible\n"),
    ("network", 3005, "PrivateNetwork=yes\n"),
    ("families", 3006, "RestrictAddressFamilies=AF_INET\n"),
    ("notify", 3007, "NotifyAccess=main\nFileDescriptorStoreMax=3\n"),
    (
        "chroot",
        3008,
        "RootDirectory=/srv/chroot\nBindReadOnlyPaths=/usr /opt\nBindReadOnlyPaths=/usr/bin:/bin\n\
         BindReadOnlyPaths=/usr/lib:/lib /usr/lib64:/lib64\n",
    ),
    ("tmpfs", 3009, "TemporaryFileSystem=/run\n"),
    ("hidden", 3010, "InaccessiblePaths=/run/portbroker\nUser=nobody\n"),
    (
        "filter",
        3011,
        "SystemCallFilter=@system-service\nNoNewPrivileges=yes\nCapabilityBoundingSet=\nPrivateUsers=yes\n",
    ),
    ("nothing", 3012, "TemporaryFileSystem=/\nBindReadOnlyPaths=/usr /opt /lib /lib64 /bin\n"),
];

fn kinds(mut lab: Preparation) -> Preparation {
    for (name, port, service) in KINDS {
        let text = format!(
            "[Service]\n{service}ExecStart=/usr/bin/python3 /opt/serve.py {port}\n\
             [X-PortBroker]\nListenStream=127.0.0.1:{port}\n"
        );
        lab = lab.unit(&format!("{name}.service"), &text);
    }
    lab.file("/srv/chroot/is", "another root")
}

#[test]
fn every_kind_of_service_gets_its_socket_and_keeps_it_over_restarts() {
    let lab = kinds(installed("kinds")).boot();
    for (name, port, _) in KINDS {
        let ask = || lab.ask(&port.to_string());
        lab.step(&format!("{name}: it gets its socket"));
        lab.ok(&format!("systemctl start {name}"));
        assert_eq!(ask(), format!("given {name}"));
        let (store, before) = (stored(&lab, name), inodes(&lab, name));
        assert_eq!(store, "1");

        lab.step(&format!("{name}: restarted, stopped and started, nothing piles up in its store"));
        for _ in 0..3 {
            lab.ok(&format!("systemctl restart {name}"));
            assert_eq!(stored(&lab, name), "1");
        }
        lab.ok(&format!("systemctl stop {name} && systemctl start {name}"));
        assert_eq!(stored(&lab, name), "1");
        assert_eq!(ask(), format!("given {name}"));
        assert_eq!(inodes(&lab, name), before);
        lab.ok(&format!("systemctl stop {name}"));
    }
    lab.ok("portbroker status");
}

#[test]
fn sockets_in_directories_and_of_oneshots_and_templates_are_delivered_too() {
    let lab = installed("more")
        .unit(
            "directory.service",
            "[Service]\nUser=nobody\nRuntimeDirectory=directory\n\
             ExecStart=/usr/bin/python3 /opt/serve.py /run/directory/socket\n\
             [X-PortBroker]\nListenStream=/run/directory/socket\nSocketMode=0660\nSocketUser=nobody\n",
        )
        .unit(
            "once.service",
            "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo \"$LISTEN_FDS $LISTEN_FDNAMES\"'\n\
             [X-PortBroker]\nListenStream=127.0.0.1:3101\nListenDatagram=127.0.0.1:3101\n",
        )
        .unit(
            "web@.service",
            "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py 31%i\n\
             [X-PortBroker]\nListenStream=127.0.0.1:31%i\nFileDescriptorName=web-%i\n",
        )
        .link("/etc/systemd/system/lab.target.wants/web@11.service", "/etc/systemd/system/web@.service")
        .boot();

    lab.step("a socket in RuntimeDirectory= outlives a stop");
    lab.ok("systemctl start directory");
    assert_eq!(lab.ask("/run/directory/socket"), "given directory");
    assert_eq!(lab.ok("stat -c '%a %U' /run/directory/socket"), "660 nobody");
    lab.ok("systemctl stop directory && test -S /run/directory/socket && systemctl start directory");
    assert_eq!(lab.ask("/run/directory/socket"), "given directory");

    lab.step("a oneshot is given stream and datagram");
    lab.ok("systemctl start once && systemctl start once");
    assert_eq!(lab.ok("journalctl -u once -o cat -t sh"), "2 once:once\n2 once:once");

    lab.step("the enabled instance of a template is served");
    assert_eq!(lab.ask("3111"), "given web-11");
}

#[test]
fn a_section_is_known_after_a_daemon_reload_alone() {
    let lab = installed("reload")
        .unit("late.service", "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py 3201\n")
        .unit("other.service", "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py 3202\n[X-PortBroker]\nListenStream=127.0.0.1:3202\n")
        .boot();
    lab.ok("systemctl start other");
    let before = inodes(&lab, "other");

    lab.step("a new section");
    lab.write(
        "/etc/systemd/system/late.service.d/ports.conf",
        "[X-PortBroker]\nListenStream=127.0.0.1:3201\n",
    );
    lab.ok("systemctl daemon-reload");
    lab.wait_for("portbroker show listener late", 5);
    lab.ok("systemctl start late");
    assert_eq!(lab.ask("3201"), "given late");
    assert!(lab.ok("cat /proc/sys/net/ipv4/ip_local_reserved_ports").contains("3201"));

    lab.step("a service that is started in the same moment");
    lab.write("/etc/systemd/system/new.service", "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py 3203\n[X-PortBroker]\nListenStream=127.0.0.1:3203\n");
    lab.ok("systemctl daemon-reload && systemctl start new");
    assert_eq!(lab.ask("3203"), "given new");

    lab.step("a section that is gone");
    lab.ok("rm /etc/systemd/system/late.service.d/ports.conf && systemctl daemon-reload");
    lab.wait_for("portbroker show listener late | grep -q lingering", 5);
    assert_eq!(lab.ask("3201"), "given late");
    lab.ok("systemctl stop late");
    lab.wait_for("! portbroker show listener late", 5);
    lab.ok("systemctl start late");
    assert_eq!(lab.ask("3201"), "bound");

    lab.step("a faulty one leaves all as it is");
    lab.write("/etc/systemd/system/late.service.d/ports.conf", "[X-PortBroker]\nListenStraem=3201\n");
    lab.ok("systemctl daemon-reload");
    lab.wait_for("portbroker status | grep ListenStraem", 5);
    assert_eq!(lab.ask("3202"), "given other");
    assert_eq!(inodes(&lab, "other"), before);
}

#[test]
fn sockets_in_the_file_system_need_more_privileges_and_the_broker_starts_anew_to_get_them() {
    let section = "[X-PortBroker]\nListenStream=/srv/deep/down/socket\nSocketUser=daemon\nSocketMode=0600\n";
    let lab = installed("paths")
        .unit("tcp.service", "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py 3501\n[X-PortBroker]\nListenStream=127.0.0.1:3501\n")
        .unit("path.service", "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py /srv/deep/down/socket\n")
        .boot();
    lab.ok("systemctl start tcp");
    let before = inodes(&lab, "tcp");

    lab.step("a section that needs them is known after daemon-reload, too");
    let pid = lab.show("portbroker", "MainPID");
    lab.write("/etc/systemd/system/path.service.d/ports.conf", section);
    lab.ok("systemctl daemon-reload");
    lab.ok("systemctl start path");
    assert_eq!(lab.ask("3501"), "given tcp");
    assert_ne!(lab.show("portbroker", "MainPID"), pid);
    assert_eq!(lab.show("portbroker", "NRestarts"), "1");
    assert_eq!(lab.ask("/srv/deep/down/socket"), "given path");
    assert_eq!(lab.ok("stat -c '%a %U' /srv/deep/down/socket"), "600 daemon");
    assert_eq!(inodes(&lab, "tcp"), before);
    lab.ok("portbroker status");

    lab.step("a socket in /dev is everybody's");
    lab.write(
        "/etc/systemd/system/dev.service",
        "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py /dev/x\n[X-PortBroker]\nListenStream=/dev/x\n",
    );
    lab.ok("systemctl daemon-reload");
    lab.wait_for("test -S /dev/x && systemctl start dev", 10);
    assert_eq!(lab.ask("/dev/x"), "given dev");
}

#[test]
fn a_listener_that_was_renamed_leaves_nothing_of_its_old_name_in_the_unit() {
    let unit = |name: &str, port: u16| {
        format!(
            "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py {port}\n\
             [X-PortBroker]\nListenStream=127.0.0.1:{port}\nFileDescriptorName={name}\n"
        )
    };
    let lab = installed("renamed").unit("x.service", &unit("old", 3701)).boot();
    lab.ok("systemctl start x");
    assert_eq!(lab.ask("3701"), "given old");
    lab.step("another name and another port, over a restart of the unit, which keeps its store");
    lab.write("/etc/systemd/system/x.service", &unit("new", 3702));
    lab.ok("systemctl daemon-reload && systemctl restart x");
    assert_eq!(lab.ask("3702"), "given new");
    assert_eq!(stored(&lab, "x"), "1");
    lab.step("and back, after a crash of the broker");
    lab.ok("systemctl kill -s KILL portbroker");
    lab.write("/etc/systemd/system/x.service", &unit("old", 3701));
    lab.ok("systemctl daemon-reload && systemctl restart x");
    assert_eq!(lab.ask("3701"), "given old");
    assert_eq!(stored(&lab, "x"), "1");
}

#[test]
fn without_a_broker_a_service_binds_for_itself_unless_it_must_not() {
    let section = "[X-PortBroker]\nListenStream=127.0.0.1:3301\n";
    let lab = installed("without")
        .unit("may.service", &format!("[Service]\nExecStart=/usr/bin/python3 /opt/serve.py 3301\n{section}"))
        .unit(
            "must.service",
            "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py 3302\n\
             [X-PortBroker]\nListenStream=127.0.0.1:3302\nRequired=yes\n",
        )
        .boot();
    lab.ok("systemctl stop portbroker.socket portbroker.service");
    if lab.keeps_the_stopped() {
        lab.step("where systemd keeps what a stopped broker had, nobody can bind it, and the journal says what gives it up");
        let clean = "systemctl clean --what=fdstore portbroker.service";
        lab.ok("systemctl start may");
        lab.wait_for("systemctl is-failed may", 10);
        let journal = lab.ok("journalctl -u may -o cat");
        assert!(journal.contains(clean) && journal.contains("Address already in use"), "{journal}");
        lab.ok(clean);
    }

    lab.step("it binds for itself, and says so in the journal");
    lab.ok("systemctl start may");
    assert_eq!(lab.ask("3301"), "bound");
    let journal = lab.ok("journalctl -u may -o cat");
    assert!(journal.contains("binds may for itself"), "{journal}");
    assert_ne!(lab.show("portbroker.service", "ActiveState"), "active");

    lab.step("Required=yes makes it fail");
    lab.fails("systemctl start must");

    lab.step("with a broker again, both get their sockets");
    lab.ok("systemctl stop may && systemctl start portbroker.service && systemctl start may must");
    assert_eq!(lab.ask("3301"), "given may");
    assert_eq!(lab.ask("3302"), "given must");
}

#[test]
fn a_broker_that_was_stopped_does_not_bind_beside_what_a_running_service_holds() {
    let lab = installed("beside")
        .unit(
            "held.service",
            "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py 3351\n\
             [X-PortBroker]\nListenStream=127.0.0.1:3351\n",
        )
        .boot();
    lab.ok("systemctl start held");
    lab.stop_for_good();
    lab.ok("systemctl start portbroker.service");

    lab.step("every connection is the service's");
    for _ in 0..20 {
        assert_eq!(lab.ask("3351"), "given held");
    }
    let said = lab.fails("portbroker status");
    assert!(said.contains("from an earlier broker"), "{said}");

    lab.step("its restart puts it right");
    lab.ok("systemctl restart held");
    for _ in 0..20 {
        assert_eq!(lab.ask("3351"), "given held");
    }
    lab.ok("portbroker status");
    assert_eq!(stored(&lab, "held"), "1");
}

#[test]
fn sockets_come_in_the_order_of_the_section_and_under_their_names() {
    let show = "import os, socket\nnames = os.environ['LISTEN_FDNAMES'].split(':')\n\
                for n, name in enumerate(names): print(name, socket.socket(fileno=3 + n).getsockname()[1])\n";
    let mut section = String::new();
    for port in 3361..=3366 {
        section.push_str(&format!("ListenStream=127.0.0.1:{port}\n"));
    }
    let lab = installed("order")
        .file("/opt/show.py", show)
        .unit(
            "order.service",
            &format!(
                "[Service]\nType=oneshot\nExecStart=/usr/bin/python3 /opt/show.py\n\
                 [X-PortBroker]\n{section}FileDescriptorName=z\n\
                 ListenStream=127.0.0.1:3360\nFileDescriptorName=a \\x \"b\" $HOME %%n \\\\\n\
                 ListenStream=127.0.0.1:3359\n"
            ),
        )
        .boot();
    for _ in 0..2 {
        lab.ok("systemctl restart order");
    }
    let once = "z 3361\nz 3362\nz 3363\nz 3364\nz 3365\nz 3366\na \\x \"b\" $HOME %n \\\\ 3360\norder 3359";
    assert_eq!(lab.ok("journalctl -u order -o cat -t python3"), format!("{once}\n{once}"));
}

#[test]
fn check_warns_of_forking_services_and_refuses_a_socket_unit_on_the_same_address() {
    let lab = installed("check")
        .unit(
            "fork.service",
            "[Service]\nType=forking\nExecStart=/bin/true\n[X-PortBroker]\nListenStream=3401\n",
        )
        .boot();
    let output = lab.sh("portbroker check");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("Type=forking"), "{output:?}");

    lab.write(
        "/etc/systemd/system/fork.socket",
        "[Socket]\nListenStream=3401\n[Install]\nWantedBy=sockets.target\n",
    );
    lab.ok("systemctl daemon-reload && systemctl enable fork.socket");
    let output = lab.sh("portbroker check");
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("fork.socket"), "{output:?}");
}

#[test]
fn lighttpd_is_served_through_a_section() {
    let lab = installed("lighttpd")
        .file("/etc/lighttpd/conf-enabled/50-given.conf", "server.systemd-socket-activation = \"enable\"\n")
        .file(
            "/etc/systemd/system/lighttpd.service.d/ports.conf",
            "[X-PortBroker]\nListenStream=0.0.0.0:80\nListenStream=[::]:80\nBindIPv6Only=ipv6-only\n",
        )
        .file("/var/www/html/index.html", "well served\n")
        .boot();
    let page = "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1/\", timeout=10).read().decode())'";
    lab.ok("systemctl start lighttpd");
    for _ in 0..3 {
        assert_eq!(lab.ok(page), "well served");
        lab.ok("systemctl restart lighttpd");
    }
    let inode = inodes(&lab, "lighttpd")
        .lines()
        .next()
        .map(|line| line.replace("\"inode\":", ""))
        .unwrap_or_default();
    let open = lab.ok("ls -l /proc/$(systemctl show -P MainPID lighttpd)/fd");
    assert!(open.contains(&format!("socket:[{inode}]")), "lighttpd has not socket {inode}:\n{open}");
}
